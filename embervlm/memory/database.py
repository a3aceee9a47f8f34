"""What the log asks of a database; `sqlite` and `postgres` are the two that there are.

A statement of `sql` is given to either, with `?` for each value. What the two say differently
stands in their own modules: how a transaction begins, who may write, full-text search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from embervlm.memory.rows import Row


class DamageError(Exception):
    """The database does not hold what its log says."""


class Result(Protocol):
    """The rows that a statement found."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """An open connection; outside a transaction each statement is one of its own."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and not ended."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Result:
        """Carry out a statement."""


class Database(Protocol):
    """A place for the tables `entries` and `events` and an index of words."""

    name: str
    """How sentences call it; no password stands in it."""

    remedy: str
    """What to do with a damaged one, in an imperative clause."""

    begin_reading: str
    """The statement that begins a transaction which sees one state of all tables."""

    insert_event: str
    """The statement that writes an event behind the others."""

    last_event_given: str
    """The statement that finds the number of the last event that was ever written."""

    def identity(self) -> tuple[int, ...]:
        """Return what tells this database from another one that was put in its place; empty where
        none lies there, or nothing tells."""

    def open(self, *, create: bool) -> Connection | None:
        """Return the connection, its tables up to date; None if there are none and none shall be
        made.

        Raises:
            StoreFaultError: it is not ours, or newer than we are.
        """

    def only_writer(self, guard: AbstractContextManager[Any]) -> AbstractContextManager[None]:
        """Hold `guard`, and keep other writers out where a transaction alone does not; while these
        are waited for, `guard` is let go."""

    def begin(self, db: Connection) -> None:
        """Begin a transaction that writes; other writers wait until it ends."""

    def commit(self, db: Connection) -> None:
        """End it; what was written is safe from now on."""

    def faults(self) -> AbstractContextManager[None]:
        """Turn what the driver says into a StoreFaultError, or a DamageError."""

    def add_words(self, db: Connection, row: Row) -> None:
        """Let an entry be found by its words."""

    def remove_words(self, db: Connection, row: Row) -> None:
        """Let it be found no more."""

    def find_words(self, db: Connection, terms: Sequence[str]) -> Iterable[int]:
        """Return the entries, of any site, that have a word beginning with each of these."""

    def sweep(self, db: Connection) -> None:
        """Write the tables anew, so that none keeps what was erased."""

    def size_bytes(self, db: Connection) -> int:
        """Return how much room it takes."""

    def close(self) -> None:
        """Let go of the connection; the next use opens another."""

    def leave(self) -> object:
        """Return the connection, which is another process's, unclosed; the next use opens another.
        None where there is no other, and this one stays."""
