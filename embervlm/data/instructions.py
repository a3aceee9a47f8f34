"""Conversations: LLaVA-Instruct-150K, Incidents1M's labels put as one, and lines to be repeated."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embervlm.data.example import (
    WHOLE,
    Example,
    ImageFolder,
    Part,
    Report,
    Turn,
    UnusableError,
    examples_of,
    read_json,
    split_in_name,
    text,
    value,
)

_IMAGE_MARK = "<image>"
_ASKERS = ("human", "user")
_ANSWERERS = ("gpt", "assistant")


def llava_instruct(
    conversations: str | Path, images: str | Path, *, report: Report, part: Part = WHOLE
) -> Iterator[Example]:
    """Yield one example a conversation of `llava_instruct_150k.json` (Liu et al. 2023).

    The mark `<image>` is taken out of the words, since the picture always comes first. A record
    without an image, as in the mixture of LLaVA 1.5, has words only.

    Raises:
        ValueError: see `example.py`.
    """
    rows: list[Any] = read_json(conversations, list, "LLaVA's llava_instruct_150k.json, a list")
    folder = ImageFolder(images)

    def make(row: Any) -> Example:
        said = value(row, "conversations", list)
        turns = tuple(_turn(said, i) for i in range(0, len(said), 2))
        if not turns:
            raise UnusableError("empty conversation", row)
        # The mixture of LLaVA 1.5 has numbers among its ids.
        name = str(row.get("id", ""))
        image = _llava_image(folder, value(row, "image", str)) if "image" in row else None
        return Example(name, report.source, image, turns, split="train")

    return examples_of(rows, make, report=report, part=part)


def _turn(said: list[Any], i: int) -> Turn:
    if i + 1 == len(said):
        raise UnusableError("conversation without a last answer", said)
    if (
        value(said[i], "from", str) not in _ASKERS
        or value(said[i + 1], "from", str) not in _ANSWERERS
    ):
        raise UnusableError("speakers out of turn", said)
    question = text(said[i], "value", lines=True).replace(_IMAGE_MARK, "").strip()
    if not question:
        raise UnusableError("empty value", said)
    return Turn(question, text(said[i + 1], "value", lines=True))


def _llava_image(folder: ImageFolder, name: str) -> Path:
    """Return an image by the publisher's name; one of COCO's may have that of the other layout."""
    digits = Path(name).stem.rpartition("_")[2]
    if len(digits) == 12 and digits.isdecimal():
        return folder.find_coco(int(digits), name)
    return folder.find(name)


def incidents(
    annotations: str | Path, images: str | Path, *, report: Report, part: Part = WHOLE
) -> Iterator[Example]:
    """Yield one example an image of Incidents1M, its labels put as questions (Weber et al. 2020).

    The file is `eccv_train.json` or `multi_label_train.json` (or val), a dict by image:
    `{"incidents": {"flooded": 1}, "places": {"street": 1}, "url": ...}`, where 1 is present, 0
    absent, and what is not named is not known. Without any incident it is an ordinary place, as the
    publisher's `dataset.py` has it.

    Raises:
        ValueError: see `example.py`.
    """
    rows: dict[str, Any] = read_json(
        annotations, dict, "Incidents1M's eccv_*.json or multi_label_*.json, a dict by image"
    )
    folder, split = ImageFolder(images), split_in_name(annotations)

    def make(item: tuple[str, Any]) -> Example:
        name, row = item
        happened, absent = _labels(row, "incidents")
        places, not_there = _labels(row, "places")
        turns = []
        if happened or (places and not row["incidents"]):
            turns.append(Turn(INCIDENT_QUESTION, ", ".join(happened) or NO_INCIDENT))
        if places:
            turns.append(Turn(PLACE_QUESTION, ", ".join(places)))
        turns += [Turn(f"Does it show {label}?", "no") for label in (*absent, *not_there)]
        if not turns:
            raise UnusableError("no labels", name)
        return Example(name, report.source, folder.find(name), tuple(turns), split=split)

    return examples_of(rows.items(), make, report=report, part=part)


INCIDENT_QUESTION = "What incident does the picture show?"
PLACE_QUESTION = "What kind of place does it show?"
NO_INCIDENT = "none"


def _labels(row: Any, key: str) -> tuple[list[str], list[str]]:
    """Return the labels that are present and those that are absent."""
    found: tuple[list[str], list[str]] = [], []
    for label, state in value(row, key, dict).items():
        if state not in (0, 1):
            raise UnusableError("label neither 0 nor 1", row)
        found[1 - int(state)].append(str(label))
    return found


def lines(texts: str | Path, *, report: Report, part: Part = WHOLE) -> Iterator[Example]:
    """Yield one example a line of a text file, `.txt` or `.txt.xz`: it is read, then repeated.

    A decoder learns the language so, and to look back at what was read. Lines shorter than
    `LINE_LENGTHS` say, or longer, are counted and left out.

    Raises:
        ValueError: the file cannot be read as text, or see `example.py`.
    """

    path = Path(texts)
    if not path.is_file():
        raise ValueError(f"{path} is not there; give a text file, .txt or .txt.xz.")

    def make(numbered: tuple[int, str]) -> Example:
        number, line = numbered
        said = " ".join(line.split())
        if not LINE_LENGTHS[0] <= len(said) <= LINE_LENGTHS[1]:
            raise UnusableError("line too short or too long", f"line {number}")
        return Example(f"{path.name}-{number}", report.source, None, (Turn(said, said),))

    return examples_of(enumerate(_read_lines(path), start=1), make, report=report, part=part)


LINE_LENGTHS = (20, 160)


def _read_lines(path: Path) -> Iterator[str]:
    opened = lzma.open if path.suffix == ".xz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be read as text ({error}); check the path.") from error
