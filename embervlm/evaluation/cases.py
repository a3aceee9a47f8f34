"""What is asked of a model in an evaluation: scenarios with their right answers.

Text cases are the requests and plans of a split as they stand. In photo cases each photo request of
the split meets one photo for each of its environments that has photos of that split; which one, a
hash of the seed, the request and the environment says.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from embervlm.backends.base import Proposal
from embervlm.data.photos import Photo, load_photos
from embervlm.data.scenarios import DATA_DIR, load, load_own
from embervlm.evaluation.metrics import Truth, truth_of
from embervlm.scenario import Decision, Scenario
from embervlm.selector import Selector

T = TypeVar("T")


SEED = 1


@dataclass(frozen=True)
class Case:
    """A scenario and its right answer."""

    scenario: Scenario
    truth: Truth


@dataclass(frozen=True)
class Answered:
    """A case, what the network said of it, and what was decided, without the reasoning."""

    case: Case
    proposal: Proposal
    decision: Decision


def decide(selector: Selector, scenario: Scenario) -> tuple[Proposal, Decision]:
    """Return what the network says and what is decided, without the reasoning."""
    proposal = selector.propose(scenario)
    return proposal, selector.answer(proposal, scenario, reasoning=False)


def watched(items: Sequence[T], label: str) -> Iterable[T]:
    """Yield the items with a progress bar on standard error."""
    return track(items, label, console=Console(stderr=True))


def text_truths(split: str, folder: str = "") -> list[Truth]:
    """Return the requests, then the plans of a split: the repository's, or those of a folder of
    somebody's own (`load_own`)."""
    names = ("scenarios", "plans")
    return [truth_of(row) for name in names for row in load_own(name, split, folder)]


def text_cases(split: str, folder: str = "") -> list[Case]:
    """Return the requests and plans of a split as cases; see `text_truths`."""
    return [Case(Scenario(task=truth.task), truth) for truth in text_truths(split, folder)]


def photo_cases(split: str, photos_dir: Path, seed: int = SEED) -> list[Case]:
    """Return the photo requests of a split with photos of that split, read from `photos_dir`."""
    by_environment: dict[str, list[str]] = defaultdict(list)
    for photo in placed_photos(split):
        assert photo.environment is not None
        by_environment[photo.environment].append(photo.file)
    cases = []
    for row in load("photo_requests", split):
        for place, robots in row["by_environment"].items():
            files = sorted(by_environment[place])
            if files:
                file = files[seeded_number(f"{seed} {row['id']} {place}") % len(files)]
                truth = Truth(row["id"], row["task"], tuple(robots), robots[0], place)
                cases.append(Case(Scenario(row["task"], photos_dir / file), truth))
    return cases


def placed_photos(split: str) -> list[Photo]:
    """Return the photos of a split whose environment is known."""
    photos = load_photos(DATA_DIR / "photos.jsonl")
    return [photo for photo in photos if photo.split == split and photo.environment is not None]


def seeded_number(text: str) -> int:
    """Return a number that depends on the text alone, 0 to 2^32 - 1."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
