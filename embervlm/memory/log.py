"""The log of a store, read on, checked and written, whatever database keeps it.

Every read begins with what others wrote since the last one, each event held against its digest.
Damage and changes from outside become a StoreFaultError, and stay one until another file lies
there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from weakref import WeakSet

from embervlm.memory import chain, sql
from embervlm.memory.chain import Event
from embervlm.memory.database import Connection, DamageError, Database
from embervlm.memory.protocol import StoreFaultError, check_name
from embervlm.memory.rows import Row, to_microseconds
from embervlm.memory.state import SiteState

# Columns of an event, without its digest.
_EVENT_COLUMNS = 8

_OPEN: WeakSet[Log] = WeakSet()
# Connections of the process that this one was forked from.
_LEFT: list[object] = []


class Log:
    """The log and the entries of one database, as one site sees them.

    `reading` and `writing` give the connection with `state` up to date; only one thread is in
    either at a time, and only one process, of all servers, in `writing`.
    """

    def __init__(self, database: Database, site: str, now: Callable[[], datetime]) -> None:
        self.database = database
        self.site = site
        self._now = now
        self._guard = threading.RLock()
        self._damage = ""
        self._identity = database.identity()
        self._reset()
        _OPEN.add(self)

    def _reset(self) -> None:
        self.state = SiteState(self.site)
        self.seq, self.digest = 0, chain.GENESIS

    def leave(self) -> object:
        """Be of use in a forked process: whoever held the guard is not in it. Return the connection
        of the other process, to be kept as it is: a database's must not even be closed here."""
        self._guard = threading.RLock()
        left = self.database.leave()
        if left is not None:
            self._reset()
        return left

    @contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """Give the connection, None if there is no store yet.

        Raises:
            StoreFaultError: the database cannot be used.
        """
        with self._guard, self._faults():
            db = self.database.open(create=False)
            if db is not None:
                self._refresh(db)
            yield db

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give the connection in a transaction, which ends with the block: all of it, or none.

        Raises:
            StoreFaultError: the database cannot be used.
        """
        with self._faults(), self.database.only_writer(self._guard), self._faults():
            db = self.database.open(create=True)
            assert db is not None
            self._identity = self.database.identity()
            self.database.begin(db)
            before = -1
            try:
                self._refresh(db)
                before = self.seq
                yield db
                self.database.commit(db)
            except BaseException:
                if self.seq != before:
                    # What was noted in memory did not happen; the next use reads the log again.
                    self._reset()
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def append(
        self,
        db: Connection,
        kind: str,
        author: str,
        entry: int | None,
        *,
        target: int | None = None,
        row: Row | None = None,
    ) -> None:
        """Write an event behind the others, and take it into the state."""
        at_us = to_microseconds(self._now())
        if self.state.events:
            # A clock that is put back must not turn the order round.
            at_us = max(at_us, self.state.events[-1].at_us)
        event = Event(
            seq=self.seq + 1,
            kind=kind,
            entry=entry,
            target=target,
            site=self.site,
            at_us=at_us,
            author=check_name(author, "author"),
            content=row.digest if row is not None else b"",
        )
        digest = event.digest(self.digest)
        values = (
            event.seq, kind, entry, target, self.site, at_us, event.author, event.content, digest,
        )  # fmt: skip
        db.execute(self.database.insert_event, values)
        self.seq, self.digest = event.seq, digest
        self.state.note(event, row)

    def sweep(self) -> None:
        """Write the database anew, so that nothing keeps what was erased."""
        with self._faults(), self.database.only_writer(self._guard), self._faults():
            db = self.database.open(create=True)
            assert db is not None
            self.database.sweep(db)

    def close(self) -> None:
        """Let go of the connection; what is in memory only ends here."""
        with self._guard:
            self.database.close()
            self._reset()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what the database and the system say into a StoreFaultError; damage is not
        forgotten as long as the same file lies there."""
        with self._guard:
            identity = self.database.identity()
            if identity != self._identity:
                self.close()
                self._damage, self._identity = "", identity
            if self._damage:
                raise StoreFaultError(self._damage)
        name = self.database.name
        try:
            with self.database.faults():
                yield
        except StoreFaultError:
            self.close()
            raise
        except DamageError as error:
            self.close()
            self._damage = (
                f"The lessons in {name} are not used: {error}; {self.database.remedy}, then import "
                "your last export."
            )
            raise StoreFaultError(self._damage) from error
        except OSError as error:
            self.close()
            reason = error.strerror or type(error).__name__
            raise StoreFaultError(f"{name} cannot be used now ({reason}).") from error

    def _refresh(self, db: Connection) -> None:
        (newest,) = db.execute(sql.LAST_EVENT).fetchone()
        if newest == self.seq != 0:
            return
        own_transaction = not db.in_transaction
        if own_transaction:
            db.execute(self.database.begin_reading)
        try:
            if newest < self.seq:
                raise DamageError("events were taken out from outside")
            self._read_on(db)
        except BaseException:
            self._reset()
            raise
        finally:
            if own_transaction and db.in_transaction:
                db.execute("ROLLBACK")

    def _read_on(self, db: Connection) -> None:
        """Read the events behind the last known one, check them, and take them into the state.

        Raises:
            DamageError: something does not fit.
        """
        is_opening, adds, have = self.seq == 0, 0, -1
        blank: set[int] = set()
        erased: set[int] = set()
        while have != self.seq:
            have = self.seq
            for values in db.execute(sql.EVENTS_AFTER, (have,)):
                event, row = self._checked(values)
                if event.kind == "add":
                    adds += 1
                    if row is not None and row.body == "":
                        blank.add(row.id)
                elif event.kind == "erase" and event.entry is not None:
                    erased.add(event.entry)
                self.state.note(event, row)
                self.seq, self.digest = event.seq, values[_EVENT_COLUMNS]
        if blank - erased:
            raise DamageError(f"lesson {min(blank - erased)} was changed from outside")
        if is_opening:
            (given,) = db.execute(self.database.last_event_given).fetchone() or (0,)
            if given != self.seq or db.execute(sql.COUNT_ENTRIES).fetchone()[0] != adds:
                raise DamageError("lessons were taken out or put in from outside")

    def _checked(self, values: Sequence[Any]) -> tuple[Event, Row | None]:
        """Return an event, an `add` with its entry's row, from the columns of `EVENTS_AFTER`.

        Raises:
            DamageError: a digest does not fit.
        """
        event, row = Event(*values[:_EVENT_COLUMNS]), None
        try:
            digest = event.digest(self.digest)
        except TypeError:  # a text where bytes stood
            digest = b""
        if event.seq != self.seq + 1 or digest != values[_EVENT_COLUMNS]:
            raise DamageError(f"event {event.seq} of its log was changed from outside")
        if event.kind == "add":
            stated = values[_EVENT_COLUMNS + 1 :]
            row = Row(*stated) if stated[0] is not None else None
            is_blank = row is not None and row.body == ""
            if not is_blank and (
                row is None or row.site != event.site or row.digest != event.content
            ):
                raise DamageError(f"lesson {event.entry} was changed from outside")
        return event, row


def _leave_all() -> None:
    _LEFT.extend([log.leave() for log in _OPEN])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
