"""Requests and the robots to send, as questions and answers: EmberVLM's two files, and our own.

A request is the question. Robots are separated as in the rest of the project, `Drone; Robot with
Legs`, and a plan has a line for each step, with the same number for steps that may go on at once:

    1. Drone: Map the flooded streets from above
    1. Robot with Wheels: Haul 300 kg of sandbags along the bypass
    2. Robot with Legs: Carry the 6 kg radio through the mud

EmberVLM's instruction, which is the same for all rows and names every robot, is left out, and so is
`original_single_robot_output`. Of a task that stands there twice the first label counts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from embervlm.data import scenarios as ours
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
    text,
    value,
)
from embervlm.data.photos import TABLE, Photo, load_photos
from embervlm.fleet import Fleet

_TASK_MARK = "Task:"
_OUTCOMES = frozenset(Fleet.default().outcomes)


def single_robot(rows: str | Path, *, report: Report, part: Part = WHOLE) -> Iterator[Example]:
    """Yield one example a different task of EmberVLM's `single_robot_selection.json`.

    Raises:
        ValueError: see `example.py`.
    """

    def make(item: tuple[str, Any]) -> Example:
        name, row = item
        task, robots = task_and_robots(row)
        return Example(name, report.source, None, (Turn(task, "; ".join(robots)),))

    return examples_of(read_single(rows), make, report=report, part=part)


def read_single(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and row of each different task of `single_robot_selection.json`.

    Raises:
        ValueError: the file is missing or not a list.
    """
    expected = "EmberVLM's single_robot_selection.json, a list"
    return _different_tasks(read_json(path, list, expected), "em")


def task_and_robots(row: Any) -> tuple[str, tuple[str, ...]]:
    """Return the task of a row of that file, and its robots in their order.

    Raises:
        UnusableError: something is missing, or a robot is not of the default fleet.
    """
    task = text(row, "input").removeprefix(_TASK_MARK).strip()
    robots = tuple(name.strip() for name in text(row, "output").split(","))
    return task, tuple(_known(name, row) for name in robots)


def multi_robot(rows: str | Path, *, report: Report, part: Part = WHOLE) -> Iterator[Example]:
    """Yield one example a different task of EmberVLM's `multi_robot_selection_dataset.json`.

    Raises:
        ValueError: see `example.py`.
    """
    found: list[Any] = read_json(
        rows, list, "EmberVLM's multi_robot_selection_dataset.json, a list"
    )

    def make(item: tuple[str, Any]) -> Example:
        name, row = item
        task = text(row, "input").removeprefix(_TASK_MARK).strip()
        steps = [
            (
                value(step, "execution_order", int),
                _known(text(step, "assigned_robot"), row),
                text(step, "subtask"),
            )
            for step in value(row, "subtasks", list)
        ]
        if not steps:
            raise UnusableError("no subtasks", row)
        return Example(name, report.source, None, (Turn(task, _lines(steps)),))

    return examples_of(_different_tasks(found, "em-plan"), make, report=report, part=part)


def scenarios(
    directory: str | Path | None = None,
    photos: str | Path | None = None,
    *,
    report: Report,
    part: Part = WHOLE,
    split: str = "train",
) -> Iterator[Example]:
    """Yield our own requests and plans, and with `photos` the requests that a photo settles.

    Args:
        directory: the folder of the scenario files; None for the repository's `data/`.
        photos: the folder of the photos of `data/photos.jsonl`. Each request is asked once for each
            environment, of one photo of it, chosen by a hash, from the same split.
        report: counts what is left out.
        part: what of it to read.
        split: train, validation or test: what is not named is not learnt from by mistake.

    Raises:
        ValueError: see `scenarios.load`, `photos.load_photos` and `example.py`.
    """
    home = Path(directory) if directory else ours.DATA_DIR
    rows = [
        *((_from_request, row) for row in ours.load("scenarios", split, home)),
        *((_from_plan, row) for row in ours.load("plans", split, home)),
    ]

    def make(item: tuple[Callable[..., Example], Any]) -> Example:
        form, row = item
        return form(row, report.source)

    if photos is not None:
        shown = partial(_from_photo_request, ImageFolder(photos), _by_place(home / TABLE.name))
        rows += [
            (partial(shown, place), row)
            for row in ours.load("photo_requests", split, home)
            for place in row["by_environment"]
        ]
    return examples_of(rows, make, report=report, part=part)


def _from_request(row: Any, source: str) -> Example:
    turns = (Turn(row["task"], "; ".join(row["suited"])),)
    return Example(row["id"], source, None, turns, split=row["split"])


def _from_plan(row: Any, source: str) -> Example:
    levels = _levels(row["plan"])
    steps = [
        (level, step["robot"], step["subtask"])
        for level, step in zip(levels, row["plan"], strict=True)
    ]
    return Example(row["id"], source, None, (Turn(row["task"], _lines(steps)),), split=row["split"])


def _from_photo_request(
    folder: ImageFolder, photos: _ByPlace, place: str, row: Any, source: str
) -> Example:
    fitting = photos.get((place, row["split"]))
    if not fitting:
        raise UnusableError(f"no photo of {place} in {row['split']}", row["id"])
    chosen = fitting[zlib.crc32(f"{row['id']} {place}".encode()) % len(fitting)]
    turns = (Turn(row["task"], "; ".join(row["by_environment"][place])),)
    image = folder.find(chosen.file)
    return Example(f"{row['id']} {place}", source, image, turns, split=row["split"])


_ByPlace = dict[tuple[str | None, str], list[Photo]]


def _by_place(table: Path) -> _ByPlace:
    """Return the photos by environment and split."""
    found: _ByPlace = {}
    for photo in load_photos(table):
        found.setdefault((photo.environment, photo.split), []).append(photo)
    return found


def _levels(plan: Sequence[Any]) -> list[int]:
    """Return when each step of a plan may begin: 1 at once, else one later than all it waits for.

    >>> _levels([{"after": []}, {"after": [0, 2]}, {"after": [0]}])
    [1, 3, 2]
    """
    levels = [1] * len(plan)
    # No chain is longer than the plan; `scenarios.check` sees to it that there is no cycle.
    for _ in plan:
        levels = [1 + max((levels[j] for j in step["after"]), default=0) for step in plan]
    return levels


def _lines(steps: Iterable[tuple[int, str, str]]) -> str:
    return "\n".join(
        f"{order}. {robot}: {what}" for order, robot, what in sorted(steps, key=_order)
    )


def _order(step: tuple[int, str, str]) -> int:
    return step[0]


def _known(name: str, row: Any) -> str:
    if name not in _OUTCOMES:
        raise UnusableError("unknown robot", f"{name!r} in {row!r}")
    return name


def _different_tasks(rows: Iterable[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for row in rows:
        task = str(row.get("input")).strip() if isinstance(row, dict) else None
        if task is None or task not in seen:
            seen.add(str(task))
            yield f"{prefix}-{len(seen):03d}", row
