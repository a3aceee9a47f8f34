"""A teacher's scores and answers in training: the formula, and that weights learn from them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from small_run import COUNT, Requests, network_of, recipe_of, trainer_of  # noqa: E402

from embervlm.data.sample import from_photo_request, from_scenario  # noqa: E402
from embervlm.data.scenarios import load, load_own  # noqa: E402
from embervlm.data.teacher_answers import AnswerFile, TeacherAnswer  # noqa: E402
from embervlm.fleet import Fleet  # noqa: E402
from embervlm.models.modeling import load_network, save_network  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import decisions  # noqa: E402
from embervlm.training import run as runs  # noqa: E402
from embervlm.training.public_data import EmberForm, Examples, sources_of  # noqa: E402
from embervlm.training.recipe import Recipe  # noqa: E402
from embervlm.training.run import run  # noqa: E402
from embervlm.training.stage_data import Decisions, Written  # noqa: E402
from embervlm.training.stages import (  # noqa: E402
    STAGES,
    Batch,
    StageModule,
    select_counts,
    select_sums,
)
from embervlm.training.teacher_prompts import (  # noqa: E402
    REASONING,
    RobotScores,
    write_robot_scores,
)
from embervlm.training.teacher_scores import (  # noqa: E402
    log_marginals,
    read_scores,
    score_batch,
    score_count,
    score_sum,
    scores_for,
)

OUTCOMES = Fleet.default().outcomes
NONE = (0.0,) * 5 + (1.0,)
DIVE = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(subsets_S: list[float], primary_O: list[float], scores: Sequence[float]) -> float:
    """Return the loss of one request, from the 32 sets themselves."""
    weights = np.exp(subsets_S) / np.exp(subsets_S).sum()
    inside = [0.0] * 6
    for size in range(6):
        for robots in combinations(range(5), size):
            p = weights[sum(1 << r for r in robots)]
            for r in robots or (5,):
                inside[r] += p
    apart = sum(
        t * np.log(t / m) + (1 - t) * np.log((1 - t) / (1 - m))
        for t, m in zip(scores, inside, strict=True)
    )
    first = np.exp(primary_O) / np.exp(primary_O).sum()
    share = np.array(scores) / sum(scores)
    return float(apart + 0.3 * (share * np.log(share / first)).sum())


def test_the_loss_is_the_formula() -> None:
    scores = [(0.9, 0.1, 0.3, 0.5, 0.2, 0.05), (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    logits = {"subsets": drawn(2, 32), "primary": drawn(2, 6, seed=1)}
    batch = {"scores": torch.tensor(scores), "has_scores": torch.ones(2)}
    expected = sum(
        by_hand(logits["subsets"][i].tolist(), logits["primary"][i].tolist(), scores[i])
        for i in range(2)
    )
    assert score_sum(logits, batch).item() == pytest.approx(expected, rel=1e-5)
    batch["has_scores"][1] = 0
    assert score_count(batch) == 1
    alone = by_hand(logits["subsets"][0].tolist(), logits["primary"][0].tolist(), scores[0])
    assert score_sum(logits, batch).item() == pytest.approx(alone, rel=1e-5)


def test_marginals_are_shares_and_their_rests() -> None:
    inside, outside = log_marginals(drawn(4, 32) * 20)
    torch.testing.assert_close(inside.exp() + outside.exp(), torch.ones(4, 6))


@pytest.mark.parametrize("scores", [(1.0, 0.0, 1.0, 0.0, 0.0, 0.0), NONE, (0.3, 0.2, 0.9, 0, 1, 0)])
def test_the_network_can_come_to_think_as_the_teacher_does(scores: tuple[float, ...]) -> None:
    logits = {
        "subsets": drawn(1, 32).requires_grad_(),
        "primary": drawn(1, 6, seed=1).requires_grad_(),
    }
    batch = {"scores": torch.tensor([scores]), "has_scores": torch.ones(1)}
    optimizer = torch.optim.Adam(logits.values(), lr=0.3)
    for _ in range(400):
        loss = score_sum(logits, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if scores[5] in (0.0, 1.0) and set(scores) <= {0.0, 1.0}:
        best = sum(1 << r for r in range(5) if scores[r])
        assert logits["subsets"].argmax().item() == best
        assert loss.item() < 0.05
    found = log_marginals(logits["subsets"])[0].exp()[0]
    torch.testing.assert_close(found, torch.tensor([scores])[0].float(), atol=0.05, rtol=0)


def test_a_batch_without_scores_gives_zero() -> None:
    logits = {"subsets": drawn(2, 32), "primary": drawn(2, 6)}
    assert score_sum(logits, {}) == 0
    assert score_count({}) == 0
    empty = {"scores": torch.zeros(2, 6), "has_scores": torch.zeros(2)}
    assert score_sum(logits, empty) == 0


def answers_file(path: Path, answers: dict[str, str], ask: str = "robots") -> Path:
    with AnswerFile(path) as file:
        for number, (name, text) in enumerate(answers.items()):
            name = name.partition("@")[0]
            file.add(TeacherAnswer(f"{number}", ask, name, "local:t", None, None, text))
    return path


def said(scores: Sequence[float]) -> str:
    named = dict(zip(OUTCOMES, scores, strict=True))
    return write_robot_scores(RobotScores(named, "none", dict.fromkeys(REASONING, "so")))


def test_scores_are_read_averaged_and_what_cannot_be_parsed_is_none(tmp_path: Path) -> None:
    one, other = (1.0, 0.0, 0.0, 0.5, 0.0, 0.0), (0.0, 0.0, 0.0, 0.5, 1.0, 0.0)
    path = answers_file(
        tmp_path / "robots.jsonl", {"a@1": said(one), "a@2": said(other), "b": "the drone"}
    )
    assert read_scores(path) == {"a": (0.5, 0.0, 0.0, 0.5, 0.5, 0.0)}
    bad = answers_file(tmp_path / "none.jsonl", {"b": "the drone"})
    with pytest.raises(ValueError, match="holds no scores of robots"):
        read_scores(bad)
    wrong = answers_file(tmp_path / "answers.jsonl", {"b": said(one)}, ask="answers")
    with pytest.raises(ValueError, match="holds no scores of robots"):
        read_scores(wrong)


def test_scores_belong_to_the_words_and_to_the_photos_place() -> None:
    row, asked = load("scenarios", "train")[0], load("photo_requests", "train")[0]
    scores = {row["id"]: NONE, f"{asked['id']} paved": (1.0, *NONE[1:])}
    request = from_scenario(row)
    shown = {place: from_photo_request(asked, place, None) for place in ("paved", "rough")}
    assert scores_for(request, scores) == NONE
    assert scores_for(shown["paved"], scores) == (1.0, *NONE[1:])
    assert scores_for(shown["rough"], scores) is None
    assert scores_for(replace(shown["paved"], task=None), scores) is None, "a photo alone"
    batch = score_batch([request, shown["rough"], shown["paved"]], scores)
    assert batch["has_scores"].tolist() == [1, 0, 1]
    assert batch["scores"].shape == (3, 6)


class Scored(Requests):
    """A small run's requests, every second one done under water if the teacher had his way."""

    def __init__(self, config: Any, tokenizer: Tokenizer, count: int = COUNT) -> None:
        super().__init__(config, tokenizer, count)
        self.scores = {one.item.sample.id: DIVE for one in self._all[::2]}

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the tensors with the scores."""
        return super().batch(items, rng) | score_batch(
            [one.item.sample for one in items], self.scores
        )


def test_scores_change_what_select_learns(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = network_of(tokenizer).config
    found = {}
    for name, data in (
        ("plain", Requests(config, tokenizer)),
        ("scored", Scored(config, tokenizer)),
    ):
        recipe = recipe_of(
            tmp_path / name, stage="select", epochs=6.0, batch_size=8, learning_rate=3e-3,
            head_learning_rate=6e-3,
        )  # fmt: skip
        trainer = trainer_of(recipe, tokenizer, data=data)
        trainer.train()
        network = trainer.module.network.eval()
        batch = data.batch(data._all, random.Random(1))
        with torch.no_grad():
            logits = decisions.forward(network, batch)
        found[name] = (
            log_marginals(logits["subsets"])[0].exp()[::2, 1].mean().item(),
            [line.get("loss_scores") for line in trainer.state.log_history[:-1]],
        )
    assert found["scored"][0] > 2 * found["plain"][0], "the teacher's robot is learnt"
    assert found["plain"][1] == [None] * len(found["plain"][1])
    logged = [loss for loss in found["scored"][1] if loss is not None]
    assert np.mean(logged[-3:]) < 0.7 * np.mean(logged[:3])


def test_scores_have_their_own_count_beside_the_labels(tokenizer: Tokenizer) -> None:
    network = network_of(tokenizer)
    data = Scored(network.config, tokenizer, 6)
    batch = data.batch(data.items(0), random.Random(1))
    counts = select_counts(batch)
    assert (counts["scores"], counts["subsets"]) == (3, 6)
    with torch.no_grad():
        sums = select_sums(network.eval(), batch, None)
        plain = {k: v for k, v in batch.items() if "scores" not in k}
        without = select_sums(network, plain, None)
    assert sums["scores"] > 0 == without["scores"]
    assert all(torch.equal(sums[name], without[name]) for name in sums if name != "scores")


@pytest.fixture
def start(tokenizer: Tokenizer, tokenizer_file: Path, tmp_path: Path) -> list[str]:
    """Return the flags of a short run from a tiny network."""
    save_network(network_of(tokenizer), tmp_path / "start.safetensors")
    return [
        "--model", str(tmp_path / "start.safetensors"), "--tokenizer", str(tokenizer_file),
        "--report-to", "none", "--warmup-steps", "0", "--threads", "1", "--mixed-precision",
        "none", "--log-steps", "1", "--dropout", "0",
    ]  # fmt: skip


def test_a_recipe_names_the_scores(
    start: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(decisions, "load_own", lambda *words: load_own(*words)[:6])
    monkeypatch.setattr(runs, "Settings", partial(decisions.Settings, photos_alone=0))
    path = answers_file(
        tmp_path / "robots.jsonl", {row["id"]: said(NONE) for row in load("scenarios", "train")[:6]}
    )
    words = ["--stage", "select", "--batch-size", "8", "--max-steps", "3", *start]
    with_them = run([*words, "--teacher-scores", str(path), "--output-dir", str(tmp_path / "with")])
    assert "'loss_scores'" in capsys.readouterr().out
    without = run([*words, "--output-dir", str(tmp_path / "without")])
    assert "'loss_scores'" not in capsys.readouterr().out
    one, other = (load_network(found).heads.primary.weight for found in (with_them, without))
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="cannot be read .*'embervlm distill' wrote"):
        run([*words, "--teacher-scores", str(tmp_path / "no"), "--output-dir", str(tmp_path / "x")])
    with pytest.raises(ValueError, match="teacher_scores are for the stage select"):
        Recipe(stage="reason", teacher_scores=str(path))


def test_validation_is_never_scored(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "load_own", lambda *words: load_own(*words)[:3])
    config = network_of(tokenizer).config
    held = Decisions(config, tokenizer, None, decisions.Settings(), "validation")
    assert "scores" not in held.batch(held.items(0)[:2], random.Random(1))


def test_instruct_learns_from_the_answers(
    start: list[str], tokenizer: Tokenizer, photo: Path, tmp_path: Path
) -> None:
    words = ("on the road", "in the river", "over the roof", "none at all")
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        for i, answer in enumerate(words):
            image = str(photo) if i % 2 else None
            file.add(
                TeacherAnswer(f"{i}", "answers", f"{i}", "local:t", f"what {i}", image, answer)
            )
    entry = {"set": "teacher_answers", "answers": str(tmp_path / "answers.jsonl")}
    found = run(
        ["--stage", "instruct", "--data", json.dumps([entry]), "--examples", "8", "--batch-size",
         "8", "--epochs", "25", "--learning-rate", "3e-3", "--head-learning-rate", "6e-3",
         "--save-steps", "1000", "--output-dir", str(tmp_path / "out"), *start]
    )  # fmt: skip
    form = EmberForm(network_of(tokenizer).config, tokenizer, captions=False)
    data = Examples(form, sources_of([entry]), seed=1, count=4)
    stage, losses = STAGES["instruct"], []
    for path in (tmp_path / "start.safetensors", found):
        network = load_network(path).eval()
        batch = data.batch(data.items(0), random.Random(1))
        with torch.no_grad():
            losses.append(
                float(StageModule(network, stage)(batch)[0] / stage.counts(batch)["answer"])
            )
    assert losses[1] < 0.5 * losses[0]
