"""One form for what other people publish: a picture, what is asked of it, and the right answers.

Every set is read by one function (`public.SETS` lists them), which yields an `Example` at a time:

    report = Report("coco_captions")
    for example in coco_captions("captions_train2017.json", "train2017", report=report):
        ...
    print(report.summary())    # coco_captions: 591,753 examples; left out: 3 missing image (...)

A publisher's file is data from a stranger, and seldom whole. What cannot be used is counted, with
its reason, in the `Report`; nothing is dropped in silence. A file that is not what it should be, or
a set of which nothing can be used, is the user's mistake: a `ValueError` that says what to do.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

# So many examples of each reason are kept to be shown.
_SHOWN = 3
# A part of a set may by chance hold only broken records; so many are no chance.
_ENOUGH_TO_JUDGE = 100
# Above every pixel and every count that a publisher may mean.
_LARGEST_NUMBER = 1e12
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


class Turn(NamedTuple):
    """One exchange. `question` is None where the answer only describes the picture: a caption."""

    question: str | None
    answer: str


@dataclass(frozen=True)
class Example:
    """A picture and what is said of it.

    `id` is the publisher's, unique within `source`. `image` is a file, the bytes of a file, or None
    where the publisher has words only. `answers` are those of all annotators to the only question,
    for scoring as VQA does; None where there is one. `box_xywh` is the region that the answer
    speaks of, in pixels of the image: left, top, width, height. `split` is train, validation, test
    or the publisher's own word, None where the publisher gives none. `logits` are those of the
    teacher whose answer the only turn is (`training/top_logits.py`), None without.
    """

    id: str
    source: str
    image: Path | bytes | None
    turns: tuple[Turn, ...]
    answers: tuple[str, ...] | None = None
    box_xywh: tuple[float, float, float, float] | None = None
    split: str | None = None
    logits: Mapping[str, Any] | None = None


class UnusableError(ValueError):
    """A record that cannot become an example; `reason` is one of few, `detail` names the record."""

    def __init__(self, reason: str, detail: object) -> None:
        self.reason = reason
        # It may be shown on a terminal that cannot write what the publisher's file has.
        self.detail = str(detail)[:200].encode("utf-8", "backslashreplace").decode()
        super().__init__(f"{reason}: {self.detail}")


@dataclass
class Report:
    """What became of the records of one set: how many examples, and what was left out and why."""

    source: str
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, fault: UnusableError) -> None:
        """Count a record that cannot be used, and remember the first few of its kind."""
        self.left_out[fault.reason] += 1
        if len(shown := self.shown.setdefault(fault.reason, [])) < _SHOWN:
            shown.append(fault.detail)

    def summary(self) -> str:
        """Return the counts in one line, with the first few records of each reason.

        >>> report = Report("gqa", kept=7)
        >>> report.leave_out(UnusableError("missing image", "2354786.jpg"))
        >>> report.summary()
        'gqa: 7 examples; left out: 1 missing image (2354786.jpg)'
        """
        parts = []
        for reason, count in self.left_out.most_common():
            more = ["..."] if count > _SHOWN else []
            parts.append(f"{count:,} {reason} ({', '.join(self.shown[reason] + more)})")
        return f"{self.source}: {self.kept:,} examples; left out: {', '.join(parts) or 'none'}"


@dataclass(frozen=True)
class Part:
    """Every `count`-th record from `index` on: what one of `count` workers reads of a set.

    The parts of one count are disjoint, and together they are the set.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"Part {self.index} of {self.count} does not exist; the first is 0 of at least 1."
            )

    def of(self, records: Iterable[T]) -> Iterator[T]:
        """Yield the records of this part, in their order."""
        return islice(records, self.index, None, self.count)


WHOLE = Part()


def examples_of(
    records: Iterable[T],
    make: Callable[[T], Example],
    *,
    report: Report,
    part: Part = WHOLE,
) -> Iterator[Example]:
    """Yield what `make` makes of each record of the part; count those that it finds unusable.

    Raises:
        ValueError: there are no records, or none of them can be used.
    """
    kept = left_out = 0
    for record in part.of(records):
        try:
            example = make(record)
        except UnusableError as fault:
            left_out += 1
            report.leave_out(fault)
            continue
        kept += 1
        report.kept += 1
        yield example
    if kept == 0 and (part == WHOLE or left_out >= _ENOUGH_TO_JUDGE):
        if left_out == 0:
            raise ValueError(f"{report.source} holds no records; check the file and the split.")
        raise ValueError(
            f"None of the records of {report.source} can be used; check that its files belong "
            f"together. {report.summary()}"
        )


class ImageFolder:
    """A folder with the images of a set, in which names from a publisher's file are looked up.

    A name never leads out of the folder. Symbolic links in it are the user's own and are followed.

    Raises:
        ValueError: the folder is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"{path} is not a folder; give the one that holds the images.")

    def find(self, *names: str) -> Path:
        """Return the first of the names that is a file.

        Raises:
            UnusableError: none is, or a name leads out of the folder.
        """
        for name in names:
            if not is_inside(name):
                raise UnusableError("image outside the folder", name)
            # isfile is False, where Path.is_file raises, for a name that no file can have; and
            # joining paths would take longer than looking.
            if os.path.isfile(f"{self.path}/{name}"):
                return self.path / name
        raise UnusableError("missing image", names[0])

    def find_coco(self, image_id: int, name: str | None = None) -> Path:
        """Return the image of COCO with this number, in the layout of 2014 or of 2017.

        The same image is `train2014/COCO_train2014_000000000009.jpg` and, since the splits were
        made anew, `train2017/000000000009.jpg`; the folder may hold either, or be above them.
        `name` is what the publisher calls it, and is tried first.

        Raises:
            UnusableError: as `find`.
        """
        digits = f"{image_id:012d}.jpg"
        old = [f"COCO_{years}_{digits}" for years in ("train2014", "val2014", "test2015")]
        new = ("train2017", "val2017", "test2017")
        nested = [f"{file.split('_')[1]}/{file}" for file in old]
        nested += [f"{years}/{digits}" for years in new]
        return self.find(*([name] if name else []), digits, *old, *nested)


def is_inside(name: str) -> bool:
    """Return whether a relative name with / or \\ stays below the folder that it counts from."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] != "" and ".." not in parts and ":" not in parts[0]


def value(record: Any, key: str | int, kind: type[T]) -> T:
    """Return `record[key]`, which must be of this kind.

    Raises:
        UnusableError: the record has no such key, or something else there.
    """
    try:
        found = record[key]
    except (KeyError, IndexError, TypeError):
        raise UnusableError(f"no {key}", record) from None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise UnusableError(f"{key} is no {kind.__name__}", record)
    return found


def number(record: Any, key: str | int) -> float:
    """Return a number of the record, which JSON may write without a point.

    Raises:
        UnusableError: there is none, or it is infinite or not a number.
    """
    found = value(record, key, object)
    if isinstance(found, int | float) and abs(found) < _LARGEST_NUMBER:
        return float(found)
    raise UnusableError(f"{key} is no number", record)


def text(record: Any, key: str | int, *, lines: bool = False) -> str:
    """Return a text of the record without white space at its ends.

    What is white within becomes single blanks, unless `lines` mean something.

    Raises:
        UnusableError: there is none, it is empty, or no tokenizer could take it.
    """
    words = value(record, key, str).strip()
    words = words if lines else " ".join(words.split())
    if not words:
        raise UnusableError(f"empty {key}", record)
    # JSON can write half of a surrogate pair, which UTF-8 cannot.
    if _HALF_A_PAIR.search(words):
        raise UnusableError(f"broken character in {key}", record)
    return words


def texts(record: Any, key: str | int) -> tuple[str, ...]:
    """Return a list of texts of the record.

    Raises:
        UnusableError: there is none, or something else is in it.
    """
    found: list[Any] = value(record, key, list)
    return tuple(text(found, i) for i in range(len(found)))


def by_number(rows: Iterable[Any], key: str) -> dict[int, dict[str, Any]]:
    """Return the records by a whole number of theirs; what is no such record is not in it."""
    return {
        row[key]: row for row in rows if isinstance(row, dict) and isinstance(row.get(key), int)
    }


def each(records: Iterable[Any], key: str) -> Iterator[tuple[Any, Any]]:
    """Yield every record with each item of its list under `key`; with None where there is none."""
    for record in records:
        found = record.get(key) if isinstance(record, dict) else None
        items = found if isinstance(found, list) and found else [None]
        yield from ((record, item) for item in items)


def of_split(
    records: Iterable[T], split: str | None, told: Callable[[T], str | None]
) -> Iterator[T]:
    """Yield the records of a split, or all; one that tells none goes on, so that it is counted."""
    return (record for record in records if split is None or told(record) in (split, None))


def told_split(record: Any) -> str | None:
    """Return our name for the split that stands in a record, or None."""
    named = record.get("split") if isinstance(record, dict) else None
    return split_named(named) if isinstance(named, str) else None


def read_json(path: str | Path, kind: type[T], expected: str) -> T:
    """Return the content of a file that holds one JSON list or dict.

    Raises:
        ValueError: the file cannot be read, is not JSON, or not of the kind; `expected` says in the
            message what the file should be.
    """
    try:
        found = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give {expected}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); give {expected}.") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected {expected}.")
    return found


def read_section(path: str | Path, key: str, expected: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the list under `key` of a JSON file, and the whole file.

    Raises:
        ValueError: see `read_json`; or there is no such list.
    """
    whole: dict[str, Any] = read_json(path, dict, expected)
    found = whole.get(key)
    if not isinstance(found, list):
        raise ValueError(f"{path} has no list {key!r}; expected {expected}.")
    return found, whole


_SPLITS = {"val": "validation", "dev": "validation"}


def split_named(word: str) -> str:
    """Return our name for a split: the publisher's own word, but validation for val and dev."""
    return _SPLITS.get(word, word)


def split_in_name(path: str | Path) -> str | None:
    """Return the split that a file's name tells of, or None.

    >>> split_in_name("v2_mscoco_val2014_annotations.json"), split_in_name("dataset.json")
    ('validation', None)
    """
    words = Path(path).stem.replace("-", "_").split("_")
    for word in ("train", "val", "testdev", "test"):
        if any(part.rstrip("0123456789") == word for part in words):
            return split_named(word)
    return None
