"""GRPO in the trainer: it raises what it is paid for, and keeps the trainer's promises."""

from __future__ import annotations

import ast
import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from small_run import data_of, network_of, recipe_of, trainer_of  # noqa: E402

from embervlm.fleet import Fleet  # noqa: E402
from embervlm.models.modeling import save_network  # noqa: E402
from embervlm.prompts import TASK  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import sampling  # noqa: E402
from embervlm.training.grpo_trainer import Blocks, GrpoTrainer  # noqa: E402
from embervlm.training.recipe import Recipe  # noqa: E402
from embervlm.training.rewards import REWARDS  # noqa: E402
from embervlm.training.run import run  # noqa: E402
from embervlm.training.stages import Phase  # noqa: E402

PROGRAM = Path(__file__).with_name("small_run.py")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a random decoder, which does not end by itself, write but six tokens."""
    monkeypatch.setattr(sampling, "MAX_OWN", 6)


def grpo(folder: Path, tokenizer: Tokenizer, count: int = 8, **more: Any) -> Any:
    handed = {"phase": more.pop("phase")} if "phase" in more else {}
    given = {"stage": "grpo", "group": 4, "rewards": "set", "head_learning_rate": 0.02, **more}
    recipe = recipe_of(folder, **{"save_steps": 1000, "eval_steps": 1000, **given})
    config = network_of(tokenizer, recipe.preset).config
    data = data_of("grpo", config, tokenizer, count)
    return trainer_of(recipe, tokenizer, data=data, validation=data, **handed)


def lines(trainer: GrpoTrainer, name: str) -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]


def test_it_raises_the_reward(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the words, as few as can be: it is about the set.
    monkeypatch.setattr(sampling, "MAX_OWN", 1)
    monkeypatch.setattr(
        sampling, "reasoning_prefix", lambda robots, tokenizer: [tokenizer.specials[TASK]]
    )
    # A random reader, unlike a trained one, does not tell requests apart: let it learn to.
    phase = Phase(("text.", "heads.subset_features."), ("heads.",))
    trainer = grpo(
        tmp_path, tokenizer, phase=phase, batch_size=8, epochs=32.0, group=12, kl=0.0,
        learning_rate=5e-3, head_learning_rate=8e-3, eval_steps=64,
    )  # fmt: skip
    trainer.train()
    rewards = lines(trainer, "reward_set")
    assert rewards[0] < 0.2
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.1
    held = lines(trainer, "eval_sampled_reward_set")
    assert held[-1] > held[0] + 0.1
    # The first step of a block is at the very network that drew; the second one is not.
    clipped = lines(trainer, "loss_clipped_set")
    assert clipped[::2] == [0] * 32
    assert clipped[1] > 0


def test_the_reference_stays_and_only_the_answer_moves(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "embervlm.training.grpo_trainer.rewards_of",
        lambda *words, decided, text, **more: dict.fromkeys(REWARDS, len(text) % 5 / 5),
    )
    trainer = grpo(
        tmp_path, tokenizer, max_steps=4, rewards="set,format", learning_rate=1e-3, kl=0.5
    )
    before = copy.deepcopy(trainer.module.network.state_dict())
    trainer.train()
    for name in ("loss_kl_set", "loss_kl_words"):
        assert lines(trainer, name)[0] == pytest.approx(0, abs=1e-5)
        assert lines(trainer, name)[-1] > 0
    for name, value in trainer.reference.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the reference stays"
    for name, value in trainer.module.network.state_dict().items():
        moves = name.startswith(("decoder.", "heads.subset_features."))
        assert torch.equal(value, before[name]) != moves or "positions" in name, name


@pytest.mark.parametrize("baseline", ["group", "value"])
def test_the_policy_of_bitmar_is_trained_too(
    baseline: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MAX_OWN", 1)
    trainer = grpo(
        tmp_path, tokenizer, preset="bitmar", baseline=baseline, batch_size=8, epochs=12.0,
        group=8, kl=0.01, learning_rate=5e-3, head_learning_rate=3e-2, eval_steps=24,
    )  # fmt: skip
    before = copy.deepcopy(trainer.module.network.state_dict())
    trainer.train()
    held = lines(trainer, "eval_sampled_reward_first")
    assert held[-1] > held[0] + 0.15
    assert lines(trainer, "loss_kl_primary")[0] == pytest.approx(0, abs=1e-5)
    assert (len(lines(trainer, "loss_value")) > 0) == (baseline == "value")
    if baseline == "value":
        assert lines(trainer, "loss_value")[-1] < lines(trainer, "loss_value")[0]
    moves = ("decoder.", "heads.subset_features.", "heads.primary.", "reasoning.")
    moves += ("heads.value.",) if baseline == "value" else ()
    changed = {
        name
        for name, value in trainer.module.network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    # The memory is read and not written, by draws and by looks at validation too.
    assert all(name.startswith(moves) for name in changed), changed
    assert {name for part in moves for name in changed if name.startswith(part)} == changed
    assert all(any(name.startswith(part) for name in changed) for part in moves)
    rows = (tmp_path / "validation-0.jsonl").read_text("utf-8").splitlines()
    assert json.loads(rows[0])["likeliest"]["first"] in Fleet.default().outcomes


def test_without_a_value_there_is_no_such_baseline(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="baseline is value, but this network has no value head"):
        grpo(tmp_path, tokenizer, baseline="value")
    with pytest.raises(ValueError, match="baseline is 'mean'; there are group, value"):
        Recipe.from_dict({"stage": "grpo", "baseline": "mean"})


def test_words_are_rewarded_too(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rewards_of(request: str, *, suited: Any, decided: Any, text: str) -> dict[str, float]:
        own = text.partition("<|task|>")[2]
        return {
            "set": 0.0,
            "faithfulness": 0.0,
            "brevity": 0.0,
            "format": min(1, own.count("e") / 6),
        }

    monkeypatch.setattr("embervlm.training.grpo_trainer.rewards_of", rewards_of)
    trainer = grpo(
        tmp_path, tokenizer, batch_size=8, epochs=10.0, group=8, rewards="format",
        learning_rate=5e-3, head_learning_rate=0.0,
    )  # fmt: skip
    trainer.train()
    rewards = lines(trainer, "reward_format")
    assert rewards[0] < 0.6
    assert rewards[-1] > rewards[0] + 0.2
    assert lines(trainer, "loss_kl_words")[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("more", [{}, {"preset": "bitmar", "baseline": "value"}])
def test_a_run_goes_on_to_the_same_weights(
    more: dict[str, str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"epochs": 2.0, "save_steps": 2, "keep": 9, "learning_rate": 1e-3}
    settings |= more
    whole = grpo(tmp_path / "whole", tokenizer, **settings)
    whole.train()
    assert whole.state.global_step == 8
    for step in (2, 6):  # within the first epoch and the second
        begun = tmp_path / f"from-{step}" / f"checkpoint-{step}"
        shutil.copytree(tmp_path / "whole" / begun.name, begun)
        again = grpo(begun.parent, tokenizer, **settings)
        again.train(resume_from_checkpoint=str(begun))
        for name, value in whole.module.network.state_dict().items():
            assert torch.equal(value, again.module.network.state_dict()[name]), name


def test_two_processes_are_one(tokenizer_file: Path, tmp_path: Path) -> None:
    told = []
    for processes, times in ((1, 2), (2, 1)):
        folder = tmp_path / f"{processes}"
        start = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
        words = [
            str(PROGRAM), str(folder), str(tokenizer_file), f"gradient_accumulation={times}",
            "stage=grpo", "group=2", "max_steps=2", "batch_size=2",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *(start if processes > 1 else []), *words],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        line = next(x for x in done.stdout.splitlines() if x.startswith("[") and "." in x)
        told.append([float(x) for x in ast.literal_eval(line)])
    assert len(told[0]) == 2
    assert told[0] == pytest.approx(told[1], abs=1e-5)


def test_the_batches_of_a_block_come_again(tokenizer: Tokenizer) -> None:
    data = data_of("grpo", network_of(tokenizer).config, tokenizer, 10)
    found = list(Blocks(data, 2, 1, step=2, times=3))
    assert len(found) == 12 == len(Blocks(data, 2, 1, step=2, times=3))
    assert found[:6] == found[:2] * 3
    assert found[6:] == found[6:8] * 3
    assert len({place for batch in found for place in batch}) == 8
    with pytest.raises(ValueError, match="has 5 batches a process, fewer than a step's 6"):
        Blocks(data, 2, 1, step=6, times=1)


def test_the_least_sure_of_a_pool_are_answered(tokenizer: Tokenizer, tmp_path: Path) -> None:
    trainer = grpo(tmp_path, tokenizer, batch_size=2, pool=4)
    (asked,) = list(trainer.get_train_dataloader())[:1]
    assert len(asked) == 8
    kept = trainer._least_sure(asked)
    assert len(kept) == 2
    with torch.no_grad():
        found = sampling.read(trainer.module.network, trainer._requests([one for _, one in asked]))
    agree = found.sets_BC.exp().square().sum(-1).tolist()
    least = sorted(range(8), key=lambda i: agree[i])[:2]
    assert [place for place, _ in kept] == [asked[i][0] for i in sorted(least)]


def test_a_stage_from_the_command_line(
    tokenizer: Tokenizer, tokenizer_file: Path, tmp_path: Path
) -> None:
    save_network(network_of(tokenizer), tmp_path / "start.safetensors")
    found = run(
        ["--stage", "grpo", "--model", str(tmp_path / "start.safetensors"), "--tokenizer",
         str(tokenizer_file), "--examples", "8", "--batch-size", "4", "--group", "2",
         "--report-to", "none", "--threads", "1", "--output-dir", str(tmp_path / "out")]
    )  # fmt: skip
    assert found.is_file()
    for step in (0, 4):
        rows = [
            json.loads(line)
            for line in (found.parent / f"validation-{step}.jsonl").read_text().splitlines()
        ]
        assert len(rows) == 8
        assert set(rows[0]["likeliest"]["rewards"]) == {"set", "format", "faithfulness", "brevity"}
        assert rows[0]["sampled"]["text"].startswith("<|robots|>")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"save_steps": 3}, "save_steps is 3; it must be a multiple of iterations, 2"),
        ({"group": 1}, "group is 1; it must be 2 or more"),
        ({"temperature": 0}, "temperature is 0.0; it must be above 0"),
    ],
)
def test_a_recipe_that_cannot_be_gets_a_sentence(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Recipe.from_dict({"stage": "grpo", **settings})
