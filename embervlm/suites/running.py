"""Ask a model a suite's questions and score the answers.

    embervlm suite mmbench MMBench_DEV_EN.tsv --model openai:http://localhost:8000/v1#qwen2.5-vl
    embervlm suite mmvet mm-vet.tsv --model embervlm:run/network.safetensors --judge openai:URL#name

MM-Vet is scored by a judge, a model of its own that sees question, true answer and answer and
gives 0 to 1. The words in which ours is asked are our own and so is the choice of judge: figures
compare models under one judge, not with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embervlm.endpoint import NoAnswerError
from embervlm.evaluation.cases import watched
from embervlm.reasoner.loop import one_photo
from embervlm.suites.asking import AnswerFile, Question, Said, ask_all, counts, open_outside
from embervlm.suites.export import QUESTION
from embervlm.suites.loaders import Item, load_items, suite_of
from embervlm.suites.own import OURS, open_own
from embervlm.suites.scoring import score, words_of_item
from embervlm.training.teacher_prompts import Prompt
from embervlm.training.teachers import TeacherSettings

_SYSTEM = "You answer questions about pictures."
_JUDGE = (
    "You mark answers. You get a question, the true answer and a given answer. Say how much of the "
    "true answer the given one has: a number from 0.0 (nothing) to 1.0 (all of it). In the true "
    "answer <AND> joins parts that all must be there, <OR> parts of which one suffices. Answer "
    "with the number alone."
)


def run_suite(
    name: str,
    path: Path,
    model: str,
    answers: Path,
    *,
    judge: str | None = None,
    limit: int | None = None,
    workers: int = 1,
    settings: TeacherSettings | None = None,
) -> dict[str, Any]:
    """Return a suite's report: its figures with chance levels, and what was asked and left out.

    Raises:
        ValueError: an unknown suite, a wrong file, a missing judge, or a model out of reach.
    """
    suite = suite_of(name)
    if (suite.rule == "judge") != (judge is not None):
        raise ValueError(
            f"{suite.title} is scored by a judge; give --judge openai:URL#name."
            if judge is None
            else f"{suite.title} needs no judge; leave out --judge."
        )
    loaded = load_items(name, path, limit=limit)
    items = loaded.items
    with AnswerFile(answers) as kept:
        if model.startswith(OURS):
            said = _ask_own(model, items)
        else:
            questions = [
                Question(Prompt(_SYSTEM, words_of_item(suite, item)), one_photo(item.photos))
                for item in items
            ]
            said = ask_all(open_outside(model, settings), questions, kept, workers=workers)
        asked = counts(said)
        texts = [one.text for one in said]
        if judge is not None:
            texts = _judged(judge, items, texts, kept, workers, settings)
    return {
        "suite": suite.title,
        "file": path.name,
        "model": model,
        "judge": judge,
        "rule": suite.rule,
        "source": suite.source,
        "items": len(items),
        "left out": dict(loaded.left_out),
        "asked": asked,
        "figures": score(suite, items, texts),
    }


def _ask_own(name: str, items: Sequence[Item]) -> list[Said]:
    """Return the answers of our own model, given each question alone; of our own tables the
    request."""
    model, said = open_own(name), []
    for item in watched(items, "ask"):
        _, is_ours, request = item.question.partition(QUESTION)
        question = request if is_ours else item.question
        photo = one_photo(item.photos)
        try:
            said.append(Said(model.answer(question, photo, item.options, request=False)))
        except NoAnswerError as error:
            said.append(Said(None, str(error)))
    return said


def _judged(
    judge: str,
    items: Sequence[Item],
    texts: Sequence[str | None],
    kept: AnswerFile,
    workers: int,
    settings: TeacherSettings | None,
) -> list[str | None]:
    """Return what the judge says of each answer; None stays None."""
    given = [i for i, text in enumerate(texts) if text is not None]
    questions = [
        Question(
            Prompt(
                _JUDGE,
                f"Question: {items[i].question}\nTrue answer: {items[i].answers[0]}\n"
                f"Given answer: {texts[i]}",
            )
        )
        for i in given
    ]
    said = ask_all(open_outside(judge, settings), questions, kept, workers=workers)
    found: list[str | None] = [None] * len(items)
    for i, one in zip(given, said, strict=True):
        found[i] = one.text
    return found
