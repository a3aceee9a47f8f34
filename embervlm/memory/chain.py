"""The log of what happened to entries: what it says is in force, and digests that reveal changes.

Every event holds the SHA-256 of the event before it and of its own fields, an `add` also that of
its entry (RFC 6962 argues for such logs; ours is a plain chain). Whoever changes a row by hand
breaks every digest behind it. This is no signature: who knows the form can write a whole new chain.
Note the newest digest (`embervlm memory stats`) somewhere else to notice that too.

Nothing is ever taken out: `forget`, `supersede`, `restore` and `rollback` are events themselves, so
that a rollback can be rolled back.

    >>> log = [Event(1, "add", 1), Event(2, "add", 2), Event(3, "forget", 1)]
    >>> sorted(in_force(log))
    [2]
    >>> sorted(in_force([*log, Event(4, "rollback", None, target=2)]))
    [1, 2]
    >>> sorted(in_force([*log, Event(4, "restore", 1, target=3)]))
    [1, 2]
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KINDS = ("add", "supersede", "forget", "erase", "restore", "rollback")
GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at one site.

    `entry` is the entry concerned, None for a rollback. `target` is the newer entry for
    `supersede`, and for a `restore`, which undoes that; for `rollback` the number of the last event
    that still counts; 0 for an `add` that an import brought. `content` is the SHA-256 of the entry
    that an `add` brought, else empty.
    """

    seq: int
    kind: str
    entry: int | None
    target: int | None = None
    site: str = ""
    at_us: int = 0
    author: str = ""
    content: bytes = b""

    def digest(self, previous: bytes) -> bytes:
        """Return the SHA-256 of the event before this one and of this one's fields."""
        stated = [
            self.seq, self.kind, self.entry, self.target, self.site, self.at_us, self.author,
        ]  # fmt: skip
        return hashlib.sha256(previous + self.content + json.dumps(stated).encode()).digest()


def content_digest(columns: Sequence[str | int], vector: bytes) -> bytes:
    """Return the SHA-256 of an entry: its columns but the vector, then the vector."""
    return hashlib.sha256(json.dumps(columns).encode() + b"\n" + vector).digest()


def in_force(events: Sequence[Event]) -> set[int]:
    """Return the entries in force after the events of one site, given in their order.

    A rollback takes the state back to its target, past other rollbacks too; an erased entry stays
    away for good.
    """
    found: set[int] = set()
    for event in _standing(events):
        apply(event, found)
    return found - _erased(events)


def superseded_by(events: Sequence[Event], entry: int) -> list[int]:
    """Return the entries that are out of force because of this one alone, in their order.

    An erased entry between the two is passed over: what it had replaced is found behind it.

    >>> log = [Event(1, "add", 1), Event(2, "add", 2), Event(3, "supersede", 1, target=2)]
    >>> superseded_by(log, 2)
    [1]
    """
    last = {
        event.entry: (event.kind, event.target)
        for event in _standing(events)
        if event.entry is not None and event.kind != "erase"
    }
    erased, newer = _erased(events), [entry]
    found: set[int] = set()
    while newer:
        by = ("supersede", newer.pop())
        older = {i for i, kind_and_target in last.items() if kind_and_target == by}
        newer += older & erased
        found |= older - erased
    return sorted(found)


def apply(event: Event, found: set[int]) -> None:
    """Change the set of entries in force by an event that is no rollback."""
    if event.entry is not None:
        (found.add if event.kind in ("add", "restore") else found.discard)(event.entry)


def _standing(events: Sequence[Event]) -> Iterator[Event]:
    """Yield the events that still count after the rollbacks among them, in their order."""
    numbers = [event.seq for event in events]
    end, parts = len(events), []
    at = end - 1
    while at >= 0:
        target = events[at].target
        if events[at].kind == "rollback" and target is not None:
            parts.append(events[at + 1 : end])
            end = bisect_right(numbers, target, hi=at)
            at = end
        at -= 1
    parts.append(events[:end])
    for part in reversed(parts):
        yield from part


def _erased(events: Sequence[Event]) -> set[int]:
    return {event.entry for event in events if event.kind == "erase" and event.entry is not None}
