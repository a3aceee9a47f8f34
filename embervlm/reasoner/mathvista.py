"""MathVista (Lu et al. 2024): mathematics in pictures, from the publisher's tables or JSON.

    data/testmini-*.parquet     huggingface.co/datasets/AI4Math/MathVista; `decoded_image` has the
                                picture's bytes
    data/testmini.json          github.com/lupantech/MathVista; maps `pid` to a record, `image` is
                                a path such as images/1.jpg

The columns read are pid, question, image, decoded_image, choices, unit, precision, answer,
question_type (multi_choice, free_form) and answer_type (text, integer, float, list); `query`, the
publisher's own prompt, is not. The gold of a choice is the option's words. The split `test` has no
published answers, and all its records are left out under that reason.
"""

from __future__ import annotations

from pathlib import Path

from embervlm.reasoner.problems import LETTERS, BrokenRecordError, Case, Gold, Loaded, Problem
from embervlm.reasoner.records import Row, load_cases, photo_of, words_of

_ASKS_FOR = {
    "integer": "Answer with a whole number.",
    "list": "Answer with a list in brackets, such as [1, 2].",
}


def load_mathvista(path: Path, *, limit: int | None = None) -> Loaded:
    """Load MathVista's layout.

    Raises:
        ValueError: see `records.load_cases`.
    """
    needed = ("pid", "question", "image", "choices", "answer", "question_type", "answer_type")
    return load_cases(path, "MathVista's layout", needed, _case, limit=limit)


def _case(row: Row, folder: Path, name: str) -> Case:
    question, answer = words_of(row, "question"), row["answer"]
    if not isinstance(answer, str) or not answer.strip():
        raise BrokenRecordError("without a published answer")
    picture = row.get("decoded_image") or row["image"]
    photo = photo_of(picture, folder)
    if photo is None:
        raise BrokenRecordError("whose image is missing")
    unit = row.get("unit")
    if isinstance(unit, str) and unit:
        question += f" (Unit: {unit})"
    options: tuple[str, ...] = ()
    decimals = None
    if row["question_type"] == "multi_choice":
        choices = row["choices"]
        if not isinstance(choices, list) or choices.count(answer) != 1:
            raise BrokenRecordError("whose answer is not one of the choices")
        options, answer = tuple(map(str, choices)), LETTERS[choices.index(answer)]
    elif row["answer_type"] == "float":
        precision = row.get("precision")
        if not isinstance(precision, int | float) or not 0 <= precision <= 9:
            raise BrokenRecordError("without their precision")
        decimals = int(precision)
        question += f" Answer with {decimals} digits behind the point."
    else:
        question += f" {_ASKS_FOR.get(row['answer_type'], '')}".rstrip()
    problem = Problem(f"mathvista-{row['pid']}", question, options, (photo,))
    return Case(problem, Gold((answer.strip(),), decimals=decimals))
