"""Entries, vectors and a clock for tests of the store, and a process that learns until killed."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from embervlm.memory.entries import MemoryEntry
from embervlm.memory.store import LessonStore


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
            store.add(correction(f"request {number}", "Robot with Legs"), vector(number))
        store.add(correction("request 1", "Robot with Legs"), vector(1))
        store.forget(3, erase=True)


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
