"""MMLU (Hendrycks et al. 2021), and MMMU (Yue et al. 2024), its like with images.

MMLU as tables (huggingface.co/datasets/cais/mmlu) has the columns question, choices and answer, the
number of the right choice from 0; as the authors' CSV six cells without a heading: question, four
options, the letter.

MMMU (huggingface.co/datasets/MMMU/MMMU) has id, question, options, answer, question_type
(multiple-choice, open) and image_1 to image_7; question and options speak of <image 1>. `options`
is a text that holds a list, as is the answer of an open question that has several. The answers of
its split `test` are "?", so that all of them are left out. `explanation` is never read.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from embervlm.reasoner.problems import LETTERS, BrokenRecordError, Case, Gold, Loaded, Problem
from embervlm.reasoner.records import Row, load_cases, photo_of, read_records, words_of

IMAGES = 7
_MARK = re.compile(r"<image (\d)>")
_CSV_COLUMNS = ("0", "1", "2", "3", "4", "5")


def load_mmlu(path: Path, *, limit: int | None = None) -> Loaded:
    """Load MMLU's layout, tables or CSV.

    Raises:
        ValueError: see `records.load_cases`.
    """
    first = next(read_records(path), (None,))[0]
    if first is not None and "0" in first:
        return load_cases(path, "MMLU's CSV", _CSV_COLUMNS, _csv_case, limit=limit)
    needed = ("question", "choices", "answer")
    return load_cases(path, "MMLU's layout", needed, _mmlu_case, limit=limit)


def load_mmmu(path: Path, *, limit: int | None = None) -> Loaded:
    """Load MMMU's layout.

    Raises:
        ValueError: see `records.load_cases`.
    """
    needed = ("id", "question", "options", "answer", "question_type", "image_1")
    return load_cases(path, "MMMU's layout", needed, _mmmu_case, limit=limit)


def _csv_case(row: Row, folder: Path, name: str) -> Case:
    letter = row["5"].strip().upper()
    if len(row) != len(_CSV_COLUMNS) or letter not in "ABCD" or not letter:
        raise BrokenRecordError("without a letter behind four options")
    options = tuple(row[str(i)].strip() for i in range(1, 5))
    return Case(Problem(name, words_of(row, "0"), options), Gold((letter,)))


def _mmlu_case(row: Row, folder: Path, name: str) -> Case:
    choices, answer = row["choices"], row["answer"]
    if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
        raise BrokenRecordError("without choices")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise BrokenRecordError("whose answer is not one of the choices")
    problem = Problem(name, words_of(row, "question"), tuple(choices))
    return Case(problem, Gold((LETTERS[answer],)))


def _mmmu_case(row: Row, folder: Path, name: str) -> Case:
    question = words_of(row, "question")
    answers = _listed(row["answer"])
    if not answers or answers == ["?"]:
        raise BrokenRecordError("without a published answer")
    options = _listed(row["options"]) if row["question_type"] == "multiple-choice" else []
    if row["question_type"] == "multiple-choice":
        answers = [answers[0].strip().upper()]
        if len(options) < 2 or answers[0] not in LETTERS[: len(options)]:
            raise BrokenRecordError("whose answer is not one of the options")
    found: dict[int, bytes] = {}
    for number in range(1, IMAGES + 1):
        photo = photo_of(row.get(f"image_{number}"), folder)
        if photo is not None:
            found[number] = photo
    spoken_of = {int(digit) for digit in _MARK.findall(" ".join([question, *options]))}
    if not spoken_of <= set(found):
        raise BrokenRecordError("whose image is missing")
    problem = Problem(str(row["id"]), question, tuple(options), tuple(found.values()))
    return Case(problem, Gold(tuple(answers)))


def _listed(value: Any) -> list[str]:
    """Return a list as MMMU writes it, in a text; a text that is none is a list of itself."""
    if isinstance(value, str):
        if not value.strip().startswith("["):
            return [value.strip()] if value.strip() else []
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise BrokenRecordError("whose list cannot be read") from error
    if not isinstance(value, list):
        raise BrokenRecordError("whose list cannot be read")
    return [str(one) for one in value]
