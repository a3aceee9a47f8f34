"""What the folders of a training say of its course: logs and sessions of one stage or of several.

    stages = read_run(Path("build/tiny"))
    stages[0].name, last_figures(stages[0].log)          # 'align', {}

A stage is a folder that holds `metrics.jsonl`, the trainer's log, and `sessions.json`, an entry for
each time that it was started (`training/callbacks.py` writes both). They are read in the order in
which they were started first. One that ended before its first checkpoint has no log yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a log calls it -> what a picture calls it; shares between 0 and 1.
PROGRESS = {
    "eval_exact": "exact sets, requests",
    "eval_photo_exact": "exact sets, photo requests",
    "eval_top1": "first robot in the set",
    "eval_macro_f1": "macro F1",
    "eval_environment": "place",
}
SLOTS = {"memory/active_share": "slots in use", "memory/slot_similarity": "likeness of two slots"}
WRITES = {"memory/usage_mean": "writes to a slot, mean", "memory/usage_max": "writes, most"}


@dataclass(frozen=True)
class Stage:
    """One stage: its name, the lines of its log, and its sessions."""

    name: str
    log: Sequence[Mapping[str, Any]]
    sessions: Sequence[Mapping[str, Any]]


def read_run(folder: Path) -> list[Stage]:
    """Return the stages in a folder, or in the folders within it.

    Raises:
        ValueError: there are none, or a file of theirs cannot be read.
    """
    stages = []
    for path in sorted(folder.rglob("sessions.json")):
        name = path.parent.relative_to(folder).as_posix()
        log = path.with_name("metrics.jsonl")
        try:
            sessions = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a run's sessions ({error}).") from error
        if not _are_sessions(sessions):
            raise ValueError(f"{path} holds no sessions of a run; give a whole run's folder.")
        lines = read_log(log) if log.is_file() else []
        stages.append(Stage(folder.name if name == "." else name, lines, sessions))
    if not stages:
        raise ValueError(
            f"{folder} holds no sessions.json; give the --output-dir of 'embervlm train', or the "
            "folder that its stages lie in."
        )
    return sorted(stages, key=lambda stage: stage.sessions[0]["started"])


def _are_sessions(found: Any) -> bool:
    return (
        isinstance(found, list)
        and bool(found)
        and all(isinstance(one, dict) and "started" in one for one in found)
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a trainer's log.

    Raises:
        ValueError: it cannot be read, or is no log.
    """
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a run's log ({error}).") from error
    if not all(isinstance(line, dict) and "step" in line for line in lines):
        raise ValueError(f"{path} is not a run's log; give the metrics.jsonl of a run's folder.")
    return lines


def last_figures(log: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the last value of each of `PROGRESS` that a log holds."""
    return {
        words: next(line[name] for line in reversed(log) if name in line)
        for name, words in PROGRESS.items()
        if any(name in line for line in log)
    }


def energy_of(stages: Sequence[Stage]) -> list[tuple[str, float, float | None]]:
    """Return (stage, hours, kWh) of each session; None where its energy is not known."""
    return [
        (stage.name, session["seconds"] / 3600, session["energy_kwh"])
        for stage in stages
        for session in stage.sessions
    ]


def memory_curves(
    log: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return what `pictures.draw_curves` draws of the memory's slots, nothing of none."""
    panels = {}
    for title, names in (("slots", SLOTS), ("writes", WRITES)):
        lines = {
            words: [(line["step"], line[name]) for line in log if name in line]
            for name, words in names.items()
        }
        if kept := {words: points for words, points in lines.items() if points}:
            panels[title] = kept
    return panels
