"""The rows of a suite's file as items to ask: question, options, pictures, and what is right.

    loaded = load_items("mmbench", Path("MMBench_DEV_EN.tsv"), limit=100)
    loaded.items[0].options

A row that cannot be asked (no answer published, a picture that is missing or damaged) is left out
and counted under its reason, as `embervlm.reasoner` does.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embervlm.imaging import load_image
from embervlm.reasoner.data_sets import SETS
from embervlm.reasoner.problems import LETTERS, BrokenRecordError, Case
from embervlm.reasoner.records import Record, Row, photo_of, read_records, words_of
from embervlm.suites.formats import SUITES, Suite

# A shorter text in the column `image` is the index of the row that has the picture.
_SHORTEST_BASE64 = 64
_MOST_CELL_BYTES = 1 << 28
_PUBLISHERS = {"mmmu": "image_1", "mathvista": "pid"}


@dataclass(frozen=True)
class Item:
    """One question of a suite.

    `answers` are the accepted ones, of options the letter. `kind` is the part of the suite that it
    belongs to, `figure` and `question_group` what must be right together ("" for nothing).
    `decimals` is to how many digits numbers are compared.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    photos: tuple[bytes, ...] = field(default=(), repr=False)
    kind: str = ""
    figure: str = ""
    question_group: str = ""
    decimals: int | None = None
    # The question has the options' words in it already.
    has_options_in_words: bool = False


@dataclass
class LoadedItems:
    """The items of a file, and how many rows became none, by reason."""

    items: list[Item] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def load_items(name: str, path: Path, *, limit: int | None = None) -> LoadedItems:
    """Load the first `limit` items of a suite's file or folder; None is all.

    Raises:
        ValueError: an unknown suite, no such file, or none of its rows can be asked.
    """
    suite = suite_of(name)
    loaded = LoadedItems()
    rows = _tsv(path) if path.suffix == ".tsv" else read_records(path)
    first: Row | None = None
    for row, folder, row_name in rows:
        if limit is not None and len(loaded.items) >= limit:
            break
        if first is None and row is not None:
            first = row
            if name in _PUBLISHERS and _PUBLISHERS[name] in row and path.suffix != ".tsv":
                return _publishers(name, path, limit)
        try:
            if row is None:
                raise BrokenRecordError("that are no record")
            loaded.items.append(_item(suite, row, folder, row_name))
        except BrokenRecordError as error:
            loaded.left_out[str(error)] += 1
    if not loaded.items:
        reasons = ", ".join(f"{count:,} {why}" for why, count in loaded.left_out.items())
        raise ValueError(
            f"{path} has no question of {suite.title} that can be asked"
            f"{f'; left out: {reasons}' if reasons else ''}; docs/suites.md names the layouts."
        )
    return loaded


def suite_of(name: str) -> Suite:
    """Return a suite by its name.

    Raises:
        ValueError: there is none.
    """
    if name not in SUITES:
        raise ValueError(f"There is no suite {name!r}; there are {', '.join(SUITES)}.")
    return SUITES[name]


def _publishers(name: str, path: Path, limit: int | None) -> LoadedItems:
    """Load what the reasoner's loaders read."""
    found = SETS[name](path, limit=limit)
    return LoadedItems([_of_case(case) for case in found.cases], Counter(found.left_out))


def _of_case(case: Case) -> Item:
    problem, gold = case.problem, case.gold
    return Item(
        problem.id, problem.question, gold.answers, problem.options, problem.photos,
        decimals=gold.decimals,
    )  # fmt: skip


def _item(suite: Suite, row: Row, folder: Path, name: str) -> Item:
    question = words_of(row, "question")
    hint = row.get("hint")
    if isinstance(hint, str) and hint.strip():
        question = f"{hint.strip()}\n{question}"
    options = _options(suite, row) if suite.options or suite.rule == "letter" else ()
    in_words = suite.rule == "letter" and not options
    if in_words:  # as MMStar has it, whose question names the four options
        options = _MMSTAR_OPTIONS
    answers = _answers(suite, row, options)
    photos = _photos(row, folder)
    kind = next((str(row[one]) for one in suite.kind if _given(row.get(one))), "")
    figure, group = "", ""
    if suite.rule == "mme":
        figure = hashlib.sha256(b"".join(photos)).hexdigest()[:16]
    if suite.rule == "hallusion":
        figure, group = _hallusion_groups(row)
    return Item(
        str(row.get("index", row.get("question_id", row.get("questionId", name)))), question,
        answers, options, photos, kind, figure, group, has_options_in_words=in_words,
    )  # fmt: skip


_MMSTAR_OPTIONS = ("A", "B", "C", "D")


def _options(suite: Suite, row: Row) -> tuple[str, ...]:
    """Return the options of a row, in either layout."""
    lettered = tuple(str(row[one]).strip() for one in LETTERS if _given(row.get(one)))
    if lettered:
        return lettered
    if len(suite.options) == 1:
        return tuple(map(str, listed(row.get(suite.options[0]))))
    return tuple(str(row[one]).strip() for one in suite.options if _given(row.get(one)))


def _answers(suite: Suite, row: Row, options: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is right: a letter, yes or no, or the accepted texts."""
    value = row.get(suite.answer) if _given(row.get(suite.answer)) else row.get("answer")
    if not _given(value):
        raise BrokenRecordError("without a published answer")
    if suite.rule in ("mme", "hallusion"):
        word = {"1": "yes", "0": "no"}.get(str(value), str(value).strip().lower().rstrip("."))
        if word not in ("yes", "no"):
            raise BrokenRecordError("whose answer is neither yes nor no")
        return (word,)
    if options:
        words = str(value).strip()
        if suite.says == "place" and words.isdecimal() and int(words) < len(options):
            words = LETTERS[int(words)]
        elif suite.says == "words" and words in options:
            words = LETTERS[options.index(words)]
        if words.upper() not in LETTERS[: len(options)] or not words:
            raise BrokenRecordError("whose answer is not one of the options")
        return (words.upper(),)
    several = suite.rule in ("vqa", "anls", "contains") or isinstance(value, list)
    answers = tuple(str(one) for one in listed(value)) if several else (str(value).strip(),)
    if not answers:
        raise BrokenRecordError("without a published answer")
    return answers


def listed(value: Any) -> list[Any]:
    """Return a list, also one that stands in a text; any other value is a list of itself."""
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("["):
            return [text] if text else []
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return [text]
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _photos(row: Row, folder: Path) -> tuple[bytes, ...]:
    """Return the pictures of a row: `image` in base64, as bytes, or as a path; or `image_path`."""
    value = row["image"] if _given(row.get("image")) else row.get("image_path")
    found = []
    for one in listed(value) if not isinstance(value, dict) else [value]:
        data = _decoded(one) if isinstance(one, str) and len(one) > _SHORTEST_BASE64 else None
        photo = data or photo_of(one, folder)
        if photo is not None:
            found.append(photo)
    return tuple(found)


def _decoded(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    try:
        load_image(data)
    except ValueError as error:
        raise BrokenRecordError("whose image cannot be read") from error
    return data


def _hallusion_groups(row: Row) -> tuple[str, str]:
    """Return which figure and which question a row of HallusionBench is about."""
    if "set_id" in row:
        of = f"{row.get('category')} {row.get('subcategory')} {row['set_id']}"
        return f"{of} {row.get('figure_id')}", f"{of} {row.get('question_id')}"
    parts = str(row.get("index")).split("_")
    if len(parts) < 6:
        raise BrokenRecordError("whose index names no figure")
    of = f"{row.get('l2-category')} {parts[3]}"
    return f"{of} {parts[4]}", f"{of} {parts[5]}"


def _given(value: Any) -> bool:
    return value is not None and str(value).strip() not in ("", "nan")


def _tsv(path: Path) -> Iterator[Record]:
    """Yield the rows of VLMEvalKit's table; a picture is said once, later rows name its row.

    Raises:
        ValueError: there is no such file, or it is no such table.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there; give the suite's file or folder.")
    csv.field_size_limit(_MOST_CELL_BYTES)
    pictures: dict[str, str] = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        table = csv.DictReader(file, delimiter="\t")
        if not {"index", "question"} <= set(table.fieldnames or ()):
            raise ValueError(
                f"{path} is not VLMEvalKit's table: it needs the columns index and question."
            )
        for number, row in enumerate(table, start=1):
            picture = row.get("image") or ""
            if len(picture) > _SHORTEST_BASE64:
                pictures[row["index"]] = picture
            elif picture in pictures:
                row["image"] = pictures[picture]
            yield dict(row), path.parent, f"{path.stem}-{number}"
