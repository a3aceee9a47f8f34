"""What a site's log says is in force, held in memory: who wrote it, for which request, its vector.

It is built from events alone, in their order, and never asks the file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embervlm.memory import chain
from embervlm.memory.chain import Event
from embervlm.memory.matrix import Matrix
from embervlm.memory.protocol import Quotas
from embervlm.memory.rows import Row

_DAY_US = 86_400_000_000


class Head(NamedTuple):
    """What is kept in memory of every entry, in force or not."""

    author: str
    at_us: int
    request: str
    quarantined: bool
    imported: bool


class SiteState:
    """The entries of one site after the events that it was told of."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.events: list[Event] = []
        self.heads: dict[int, Head] = {}
        self.in_force: set[int] = set()
        self._by_request: dict[str, int] = {}
        self._matrices: dict[int, Matrix] = {}
        self._usable, self._stale = 0, True

    def note(self, event: Event, row: Row | None) -> None:
        """Take in the next event, an `add` with its row; other sites' are passed over."""
        if event.site != self.site:
            return
        self.events.append(event)
        self._stale = True
        if row is not None:
            self._note_row(row, imported=event.target is not None)
        if event.kind == "rollback":
            self.in_force = chain.in_force(self.events)
            usable = sorted(i for i in self.in_force if not self.heads[i].quarantined)
            self._by_request = {self.heads[i].request: i for i in usable}
        else:
            chain.apply(event, self.in_force)
            if event.kind == "restore" and event.entry is not None:
                head = self.heads[event.entry]
                if not head.quarantined:
                    self._by_request[head.request] = event.entry

    def _note_row(self, row: Row, *, imported: bool) -> None:
        head = Head(row.author, row.at_us, row.request, bool(row.quarantined), imported)
        self.heads[row.id] = head
        if not row.body:
            return  # erased: the event that says so follows
        vector_D = np.frombuffer(row.vector, "<f2")
        if len(vector_D) not in self._matrices:
            self._matrices[len(vector_D)] = Matrix(len(vector_D))
        self._matrices[len(vector_D)].append(row.id, row.environment, vector_D)
        if not head.quarantined:
            self._by_request[head.request] = row.id

    def entry_for(self, request: str) -> int | None:
        """Return the entry that may be used for this very request, or None."""
        found = self._by_request.get(request) if request else None
        return found if found in self.in_force else None

    def nearest(
        self, direction_D: NDArray[np.float32], environment: str, at_least: float, k: int
    ) -> list[tuple[int, float]]:
        """Return up to `k` entries that may be used, with their cosines, the closest first."""
        matrix = self._matrices.get(len(direction_D))
        if matrix is None:
            return []
        self._catch_up()
        return matrix.nearest(direction_D, environment, at_least, k)

    def usable(self) -> int:
        """Return how many entries are in force and not quarantined."""
        self._catch_up()
        return self._usable

    def _catch_up(self) -> None:
        if not self._stale:
            return
        used = {i for i in self.in_force if not self.heads[i].quarantined}
        for matrix in self._matrices.values():
            matrix.use(used)
        self._usable, self._stale = len(used), False

    def check_quotas(self, quotas: Quotas, author: str, at_us: int) -> None:
        """Fail if the author, or the site, has as much as it may have; of a day only what was added
        here counts, not what an import brought.

        Raises:
            ValueError: which quota is used up, and what can be done.
        """
        authors = [self.heads[entry_id].author for entry_id in self.in_force]
        for count, most, who in (
            (len(authors), quotas.site, f"The site {self.site!r}"),
            (authors.count(author), quotas.active, f"{author!r}"),
        ):
            if count >= most:
                raise ValueError(
                    f"{who} has {count:,} lessons in force, the most; forget some first."
                )
        since_us = at_us - _DAY_US
        lately = sum(
            head.author == author and not head.imported and since_us < head.at_us <= at_us
            for head in self.heads.values()
        )
        if lately >= quotas.daily:
            raise ValueError(
                f"{author!r} has added {lately:,} lessons in 24 hours, the most; wait, or let "
                "somebody else confirm them."
            )
