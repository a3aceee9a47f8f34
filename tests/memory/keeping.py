"""Entries, vectors and a clock for tests of the store, and a process that learns until killed."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from opinion import DRONE, LEGS, Opinion, one

from embervlm.memory.entries import MemoryEntry
from embervlm.memory.protocol import StoreFaultError
from embervlm.memory.store import LessonStore
from embervlm.scenario import Feedback, Scenario
from embervlm.selector import Selector


class Clock:
    """Tells a time that moves by a second with each look."""

    def __init__(self) -> None:
        self.time = datetime(2026, 5, 3, 10, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


def correction(task: str, *robots: str, place: str = "rough", **metadata: object) -> MemoryEntry:
    about = {"task": task, "environment": place, "robots": list(robots) or ["Drone"], **metadata}
    return MemoryEntry("correction", f"Send the {(robots or ('Drone',))[0]}.", metadata=about)


def vector(seed: int, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=width).astype(np.float32)


def ids(store: LessonStore) -> list[int]:
    return [entry.id for entry in store.entries()]


def fill(place: str | Path) -> None:
    """Keep five entries, one of them erased, one superseded."""
    with LessonStore(place) as store:
        for number in range(4):
            store.add(correction(f"request {number}", LEGS), vector(number))
        store.add(correction("request 1", LEGS), vector(1))
        store.forget(3, erase=True)


def assert_is_refused(place: str | Path, part: str) -> None:
    """Check that a store with a fault finds nothing, takes nothing, and lets deciding go on."""
    store = LessonStore(place)
    assert part in store.fault
    assert store.fault.count(str(place)) == 1
    assert store.search(vector(0), "rough", at_least=-1, k=3) == []
    assert store.missed == (1, store.fault)
    for act in (
        lambda: store.add(correction("new"), vector(9)),
        lambda: store.forget(1),
        store.entries,
        store.stats,
        store.export,
    ):
        with pytest.raises(StoreFaultError):
            act()
    # Deciding goes on without lessons; learning is refused.
    selector = Selector(Opinion(one(DRONE)), memory=LessonStore(place))
    decision = selector.decide(Scenario("look under the bridge"))
    assert decision.robots == (DRONE,)
    assert decision.memory == ()
    with pytest.raises(ValueError, match="not used|cannot be used|something else|newer"):
        selector.learn(decision, Feedback([LEGS]))


def keep(place: str, name: str, count: int) -> None:
    """Add entries and say of each when it is acknowledged."""
    store = LessonStore(place, quotas=None)
    for number in range(count):
        task = f"{name}-{number}"
        store.add(correction(task), vector(number), author=name)
        sys.stdout.write(task + "\n")
        sys.stdout.flush()
    store.close()


if __name__ == "__main__":
    keep(sys.argv[1], sys.argv[2], int(sys.argv[3]))
