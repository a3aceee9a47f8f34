"""What the selector and the command line ask of a store of lessons, whatever keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embervlm.memory.entries import MemoryEntry

OPERATOR = "operator"


@dataclass(frozen=True)
class Quotas:
    """How much one author may leave at one site, so that nobody can drown the others.

    `active` counts entries in force, `daily` those of the last 24 hours, `site` the entries in
    force of all authors.
    """

    active: int = 2000
    daily: int = 100
    site: int = 100_000


@dataclass(frozen=True)
class Imported:
    """What an import did: entries added, entries that were there, entries left out because a newer
    one answers the same request, and how many of those that were there are out of force."""

    added: int
    known: int
    older: int
    retired: int


class StoreFaultError(ValueError):
    """The store is damaged, was changed from outside, or cannot be used now; says so in a
    sentence."""


class LessonMemory(Protocol):
    """The entries of one site. What changes them is kept as an event with its author.

    All but `search`, `usable` and `fault` raise StoreFaultError where the store cannot be used, and
    ValueError for an entry that is not there.
    """

    @property
    def fault(self) -> str:
        """Why the store is not used, in a sentence; empty if it is sound or not there yet."""

    def add(
        self, entry: MemoryEntry, direction: NDArray[np.float32], *, author: str = OPERATOR
    ) -> MemoryEntry:
        """Keep an entry and return it with its number. It supersedes the one for the same request,
        unless it is quarantined."""

    def search(
        self,
        direction: NDArray[np.float32],
        environment: str,
        *,
        at_least: float,
        k: int,
        request: str = "",
    ) -> list[tuple[MemoryEntry, float]]:
        """Return up to `k` entries that may be used here, with cosines of at least `at_least`, the
        closest first. The entry for this very `request` (see `lessons.request_key`) always counts,
        with cosine 1. A store with a fault finds nothing."""

    def usable(self) -> int:
        """Return how many entries may be used: in force and not quarantined; 0 with a fault."""

    def get(self, entry_id: int) -> MemoryEntry:
        """Return an entry of this site, in force or not."""

    def status(self, entry_id: int) -> str:
        """Return "in force", "quarantined", or "retired"."""

    def entries(self, *, words: str = "", retired: bool = False) -> list[MemoryEntry]:
        """Return the entries in force in order, with `retired` also the others; with `words`, those
        whose content or request has them all."""

    def direction(self, entry_id: int) -> NDArray[np.float32]:
        """Return the unit vector that an entry is found by."""

    def supersede(self, entry_id: int, by: int, *, author: str = OPERATOR) -> None:
        """Take an entry out of force in favour of another."""

    def forget(
        self, entry_id: int, *, author: str = OPERATOR, erase: bool = False
    ) -> tuple[int, ...]:
        """Take an entry out of force; with `erase` its words and vector are destroyed too, which
        no rollback undoes, and an erased one may be erased again. Entries that were out of force
        because of it alone are in force again, unless a newer one answers the same request; return
        these."""

    def rollback(self, to: datetime, *, author: str = OPERATOR) -> tuple[int, int]:
        """Bring back what was in force at a time; return how many entries came back and how many
        went. Later states stay in the log, so a rollback can be rolled back."""

    def export(self) -> Iterator[dict[str, Any]]:
        """Yield the entries in force as plain JSON values that `import_rows` reads."""

    def import_rows(self, rows: Iterable[Any], *, author: str = OPERATOR) -> Imported:
        """Add exported entries, all or none; what was imported before is not added again."""

    def stats(self) -> dict[str, Any]:
        """Return counts, size, and the newest digest of the log."""

    def close(self) -> None:
        """Let go of files; the next use opens them again."""


def check_name(name: str, what: str) -> str:
    """Return the name of a site or an author as it is kept.

    Raises:
        ValueError: it is empty, long, or has characters that cannot be printed.
    """
    name = name.strip()
    if not 1 <= len(name) <= 60 or not name.isprintable():
        raise ValueError(f"The {what} {name[:60]!r} must have 1 to 60 printable characters.")
    return name
