"""A teacher's kept logits in `instruct`: they teach what the teacher itself would."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import prefix_run  # noqa: E402
import small_run  # noqa: E402
from gpt2 import write_gpt2_tokenizer  # noqa: E402

from embervlm.data.teacher_answers import AnswerFile, TeacherAnswer  # noqa: E402
from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer  # noqa: E402
from embervlm.models.modeling import load_network, save_network  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import prefix_stages, stages  # noqa: E402
from embervlm.training.prefix_data import PrefixForm  # noqa: E402
from embervlm.training.public_data import (  # noqa: E402
    EmberForm,
    Examples,
    Form,
    keeps_logits,
    sources_of,
)
from embervlm.training.run import run  # noqa: E402
from embervlm.training.top_logits import as_written, keep_top  # noqa: E402

WORDS = {"what is there": "a road and a river", "and behind it": "the roof of a house"}


def kept(write: Callable[[int], torch.Tensor], tokens: Sequence[int], k: int) -> dict[str, Any]:
    """Return the logits before each token of an answer; `write(i)` gives those before token i."""
    rows = torch.stack([write(i) for i in range(len(tokens))])
    return keep_top(rows, torch.tensor(tokens), k).to_dict()


def answered(file: Path, logits: Sequence[dict[str, Any] | None]) -> dict[str, str]:
    """Write the answers with their logits; return the entry of a recipe."""
    with AnswerFile(file) as answers:
        for i, ((question, answer), top) in enumerate(zip(WORDS.items(), logits, strict=True)):
            answers.add(
                TeacherAnswer(
                    f"{i}", "answers", f"{i}", "local:t", question, None, answer, False, top
                )
            )
    return {"set": "teacher_answers", "answers": str(file)}


def check(form: Form, family: Any, student: Any, teacher: Any, logits_of: Any, file: Path) -> None:
    """Of all tokens kept, the loss is that of the teacher itself, and so is its gradient."""
    size, answers = len(form.tokenizer), []  # type: ignore[attr-defined]
    for question, answer in WORDS.items():
        item = form.item(question, answer, has_picture=False)
        batch = form.batch([item], [None], random.Random(0))
        rows = logits_of(teacher, batch)
        learnt = item.tokens[item.given :]
        answers.append(kept(lambda i, rows=rows: rows[i], learnt, size))
    entry = answered(file, answers)
    asked = Examples(form, sources_of([entry]), seed=1, count=2, logits=True)
    batch = asked.batch(asked.items(0), random.Random(1))
    found = family.instruct_sums(student, batch, None)["teacher"]
    plain = Examples(form, sources_of([entry]), seed=1, count=2)
    expected = family.instruct_sums(
        student, plain.batch(plain.items(0), random.Random(1)), teacher
    )["teacher"]
    assert expected > 1
    # Kept in halves.
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0)
    learnt_count = stages.instruct_counts(batch)
    assert learnt_count["teacher"] == learnt_count["answer"]


def test_ember_learns_from_kept_logits_as_from_the_teacher(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    student, teacher = (small_run.network_of(tokenizer).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))

    @torch.no_grad()
    def logits_of(network: Any, batch: Any) -> torch.Tensor:
        encoded = stages.encode(network, batch)
        return stages._written(network, encoded, batch, batch["written"])[0]

    form = EmberForm(student.config, tokenizer, captions=False)
    check(form, stages, student, teacher, logits_of, tmp_path / "answers.jsonl")


def test_ember_37m_learns_from_kept_logits_as_from_the_teacher(
    tmp_path: Path,
) -> None:
    write_gpt2_tokenizer(tmp_path)
    gpt2_tokenizer = Gpt2Tokenizer.from_file(tmp_path / "tokenizer.json")
    student, teacher = (prefix_run.network_of(gpt2_tokenizer).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))

    @torch.no_grad()
    def logits_of(network: Any, batch: Any) -> torch.Tensor:
        states_BTD = prefix_stages._states(network, batch, None)
        return prefix_stages._written(network, batch, states_BTD)[0]

    form = PrefixForm(student.config, gpt2_tokenizer, captions=False)
    check(form, prefix_stages, student, teacher, logits_of, tmp_path / "answers.jsonl")


def test_a_recipe_reads_them_and_leaves_out_another_vocabulary_s(
    tokenizer: Tokenizer, tokenizer_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = small_run.network_of(tokenizer)
    save_network(network, tmp_path / "start.safetensors")
    form = EmberForm(network.config, tokenizer, captions=False)
    first, second = WORDS.items()
    wanted = tokenizer.encode(" zebra")[0]  # what the teacher would say, and never does
    rows = torch.zeros(len(tokenizer)).index_fill(0, torch.tensor([wanted]), 9.0)
    tokens = form.item(*first, has_picture=False).tokens[1:]
    strange = [(token + 7) % 200 for token in form.item(*second, has_picture=False).tokens[1:]]
    entry = answered(
        tmp_path / "answers.jsonl",
        [kept(lambda i: rows, tokens, 4), kept(lambda i: rows, strange, 4)],
    )
    run(
        ["--stage", "instruct", "--data", json.dumps([entry]), "--examples", "4", "--batch-size",
         "4", "--epochs", "8", "--learning-rate", "3e-3", "--head-learning-rate", "6e-3",
         "--save-steps", "1000", "--output-dir", str(tmp_path / "out"), "--model",
         str(tmp_path / "start.safetensors"), "--tokenizer", str(tokenizer_file), "--report-to",
         "none", "--warmup-steps", "0", "--threads", "1", "--mixed-precision", "none"]
    )  # fmt: skip
    told = capsys.readouterr()
    assert "unusable logits" in told.out + told.err
    data = Examples(form, sources_of([entry]), seed=1, count=1, logits=True)
    batch = data.batch(data.items(0), random.Random(1))
    losses = [
        stages.instruct_sums(load_network(path).eval(), batch, None)["teacher"].item()
        for path in (tmp_path / "start.safetensors", tmp_path / "out" / "network.safetensors")
    ]
    assert losses[1] < 0.8 * losses[0]


def test_a_shortened_answer_has_no_logits_at_its_end(tokenizer: Tokenizer) -> None:
    """What the teacher would go on with is not what ends the student's shorter answer."""
    tokens = tokenizer.encode(" a road and a river")
    end = tokenizer.specials["<|end|>"]
    specials = set(tokenizer.specials.values())
    found = kept(lambda i: torch.zeros(len(tokenizer)), [*tokens, end], 3)

    def rows(the_end: int, most: int) -> tuple[int, int]:
        words, top = as_written(
            found, "a road and a river", tokenizer.decode, specials, the_end, most
        )
        return len(words), len(top.tokens_NK)

    assert rows(end, 99) == (len(tokens), len(tokens) + 1)
    assert rows(end, 3) == (3, 3)
    assert rows(end + 1, 99) == (len(tokens), len(tokens))


def test_they_count_in_instruct_without_a_teacher_alone() -> None:
    answers, captions = [{"set": "teacher_answers"}], [{"set": "coco_captions"}]
    assert keeps_logits(answers, "instruct", "")
    assert not keeps_logits(answers, "instruct", "network.safetensors")
    assert not keeps_logits(answers, "align", "")
    assert not keeps_logits(captions, "instruct", "")
