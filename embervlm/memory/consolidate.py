"""The nightly tidying: merge what says the same, retire what was contradicted, propose rows.

    consolidate(memory, same_request=0.97, fleet=fleet)
    write_proposals(proposals(memory.entries(), fleet), Path("proposed/scenarios.jsonl"))

Retiring is an event like any other: a rollback undoes it. The rows have the form of
`data/scenarios.jsonl`, so that `embervlm train --stage select --scenarios proposed` reads them,
alone or behind rows of one's own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.fleet import ACTIONS, ENVIRONMENTS, NO_ROBOT, Fleet
from embervlm.json_lines import json_lines
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.lessons import (
    limits_of,
    needed_cosine,
    robots_of,
    shares_words,
    tells_the_same,
)
from embervlm.memory.protocol import LessonMemory
from embervlm.memory.told import told_in
from embervlm.scenario import FLAGS, QUANTITIES

# Cosine from which two entries with the same robots say the same. Higher than what makes an entry
# apply: a merged entry must not lose requests that only it was near to.
DUPLICATE = 0.995
_LOOKED_AT = 256
# One proposed row in so many is for validation.
_VALIDATION_EVERY = 7
_PROPOSED_ID = re.compile(r"lesson-\d+")


@dataclass(frozen=True)
class Consolidated:
    """Which entries were retired, each with the newer one that stays."""

    merged: tuple[tuple[int, int], ...]
    contradicted: tuple[tuple[int, int], ...]


def consolidate(
    memory: LessonMemory, *, same_request: float, fleet: Fleet, author: str = "consolidate"
) -> Consolidated:
    """Retire every entry that a newer one repeats or contradicts at the same kind of place.

    Repeats: the same robots, cosine of at least DUPLICATE. Contradicts: other robots, a cosine from
    which on both would apply (`lessons.needed_cosine`). Either shares words with its request
    and tells the same (`lessons.tells_the_same`).
    Entries of a photo without words are left alone, and those with a misread, which holds for one
    request.
    """
    merged: list[tuple[int, int]] = []
    contradicted: list[tuple[int, int]] = []
    gone: set[int] = set()
    both_apply = needed_cosine(same_request, memory.usable())
    for newer in reversed([entry for entry in memory.entries() if _is_compared(entry)]):
        if newer.id in gone:
            continue
        found = memory.search(
            memory.direction(newer.id),
            newer.metadata["environment"],
            at_least=min(both_apply, DUPLICATE),
            k=_LOOKED_AT,
        )
        told = told_in(newer.metadata["task"], fleet)
        for older, cosine in found:
            if older.id >= newer.id or not _is_compared(older):
                continue
            if not shares_words(older, newer.metadata["task"]):
                continue
            if not tells_the_same(older, told, limits_of(newer), fleet):
                continue
            agree = set(robots_of(older)) == set(robots_of(newer))
            if cosine < (DUPLICATE if agree else both_apply):
                continue
            memory.supersede(older.id, newer.id, author=author)
            gone.add(older.id)
            (merged if agree else contradicted).append((older.id, newer.id))
    return Consolidated(tuple(merged), tuple(contradicted))


def proposals(entries: Iterable[MemoryEntry], fleet: Fleet) -> list[dict[str, Any]]:
    """Return entries as training rows; a person should read them before a model learns from them.

    What was misread in a request stands in no row. Left out: what is quarantined, has no words or
    robots, names a robot that the fleet lacks, or whose request names a robot of its own answer.
    """
    rows = []
    for entry in entries:
        robots, task = robots_of(entry), entry.metadata.get("task")
        known = set(robots) <= set(fleet.outcomes)
        if not (robots and known and isinstance(task, str)) or entry.metadata.get("quarantine"):
            continue
        if _names_a_robot(task, robots, fleet):
            continue
        needs = entry.metadata.get("needs") or {}
        misread = entry.metadata.get("misread") or []
        read = {k: v for k, v in needs.get("limits", {}).items() if k not in misread}
        limits = {**read, **entry.metadata.get("missed", {})}
        place = "none" if "environment" in misread else entry.metadata.get("environment")
        actions = [action for action in needs.get("actions", []) if action in ACTIONS]
        rows.append(
            {
                "id": f"lesson-{entry.id}",
                "task": task,
                "suited": list(robots),
                "primary": robots[0],
                "environment": place if place in ENVIRONMENTS else "none",
                "actions": actions or ["none"],
                "limits": {k: v for k, v in limits.items() if k in {*QUANTITIES, *FLAGS}},
                "kind": "team" if entry.metadata.get("team") else "choice",
                "split": "train" if entry.id % _VALIDATION_EVERY else "validation",
            }
        )
    return rows


def check_proposed(path: Path) -> None:
    """Refuse a place to which no proposals can be written.

    Raises:
        ValueError: it is a folder, or a file that holds other rows.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file.")
    if path.exists():
        for _, line in json_lines(path, "replace"):
            try:
                name = json.loads(line)["id"]
            except (ValueError, KeyError, TypeError):
                name = None
            if not isinstance(name, str) or not _PROPOSED_ID.fullmatch(name):
                raise ValueError(f"{path} holds other rows than proposals; give another file.")


def write_proposals(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as JSON Lines, in place of what an earlier night proposed.

    Raises:
        ValueError: see `check_proposed`.
    """
    check_proposed(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _is_compared(entry: MemoryEntry) -> bool:
    about = entry.metadata
    is_alone = about.get("quarantine") or about.get("misread")
    return bool(robots_of(entry) and about.get("task") and not is_alone)


def _names_a_robot(task: str, robots: Sequence[str], fleet: Fleet) -> bool:
    words = {word for name in robots if name != NO_ROBOT for word in (name, *fleet[name].aliases)}
    return any(re.search(rf"\b{re.escape(word)}\b", task, re.IGNORECASE) for word in words)
