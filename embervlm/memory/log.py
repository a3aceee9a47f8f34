"""The SQLite file under a store: opened, locked, brought up to date, read, checked and written.

Every read begins with what others wrote since the last one, each event held against its digest.
Damage and changes from outside become a StoreFaultError, and stay one.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

from embervlm.memory import chain, sql
from embervlm.memory.chain import Event
from embervlm.memory.locking import locked
from embervlm.memory.protocol import StoreFaultError, check_name
from embervlm.memory.rows import Row, to_microseconds
from embervlm.memory.state import SiteState

IN_MEMORY = ":memory:"
_TIMEOUT_S = 30.0
# Columns of an event, without its digest.
_EVENT_COLUMNS = 8


class DamageError(Exception):
    """The file does not hold what its log says."""


class SqliteLog:
    """The log and the entries of one file, as one site sees them.

    `reading` and `writing` give the connection with `state` up to date; only one thread is in
    either at a time, and only one process in `writing`.
    """

    def __init__(self, path: str | Path, site: str, now: Callable[[], datetime]) -> None:
        self.path = Path(path)
        self.site = site
        self.private = str(path) == IN_MEMORY
        self._now = now
        self._guard = threading.RLock()
        self._damage = ""
        self._connection: sqlite3.Connection | None = None
        self._reset()

    def _reset(self) -> None:
        self.state = SiteState(self.site)
        self.seq, self.digest = 0, chain.GENESIS

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give the connection, None if the file is not there.

        Raises:
            StoreFaultError: the file cannot be used.
        """
        with self._guard, self._faults():
            db = self._open(create=False)
            if db is not None:
                self._refresh(db)
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection in a transaction, which ends with the block: all of it, or none.

        Raises:
            StoreFaultError: the file cannot be used.
        """
        with self._guard, self._faults():
            if not self.private:
                self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                db = self._open(create=True)
                assert db is not None
                db.execute("BEGIN IMMEDIATE")
                try:
                    self._refresh(db)
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    # What was noted in memory did not happen; the next use reads the log again.
                    self._reset()
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise

    def append(
        self,
        db: sqlite3.Connection,
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
        values = (kind, entry, target, self.site, at_us, event.author, event.content, digest)
        if db.execute(sql.INSERT_EVENT, values).lastrowid != event.seq:
            raise DamageError("events were taken out from outside")
        self.seq, self.digest = event.seq, digest
        self.state.note(event, row)

    def sweep(self) -> None:
        """Write the file anew, so that no page keeps what was erased."""
        with self._guard, self._faults(), self._lock():
            db = self._open(create=True)
            assert db is not None
            for statement in sql.SWEEP:
                db.execute(statement)

    def close(self) -> None:
        """Let go of the file; what is in memory only ends here."""
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._reset()

    def _lock(self) -> AbstractContextManager[None]:
        if self.private:
            return nullcontext()
        return locked(self.path.with_name(self.path.name + ".lock"), _TIMEOUT_S)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what SQLite and the system say into a StoreFaultError; damage is not forgotten."""
        if self._damage:
            raise StoreFaultError(self._damage)
        try:
            yield
        except sqlite3.OperationalError as error:
            self.close()
            raise StoreFaultError(f"{self.path} cannot be used now ({error}).") from error
        except (sqlite3.Error, DamageError) as error:
            self.close()
            self._damage = (
                f"The lessons in {self.path} are not used: {error}; move the file away, then "
                "import your last export."
            )
            raise StoreFaultError(self._damage) from error
        except OSError as error:
            self.close()
            reason = error.strerror or type(error).__name__
            raise StoreFaultError(f"{self.path} cannot be used now ({reason}).") from error

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        """Return the connection; None if there is no store and none shall be made."""
        if self._connection is not None:
            return self._connection
        if not self.private and not self.path.exists():
            if not create:
                return None
            # Made here, so that only its owner can read what operators wrote.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        db = self._connect()
        try:
            is_ready = self._prepare(db, create=create)
        except BaseException:
            db.close()
            raise
        if not is_ready:
            db.close()
            return None
        self._connection = db
        return db

    def _connect(self) -> sqlite3.Connection:
        def connect(where: str) -> sqlite3.Connection:
            return sqlite3.connect(
                where, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True
            )

        if self.private:
            return connect("file::memory:")
        where = self.path.absolute().as_uri()
        db = connect(f"{where}?mode=rw")
        try:
            db.execute("PRAGMA schema_version")
        except sqlite3.OperationalError:
            # In a folder that cannot be written, WAL can be read only as a file that never changes.
            db.close()
            if os.access(self.path.absolute().parent, os.W_OK):
                raise
            db = connect(f"{where}?immutable=1")
        return db

    def _prepare(self, db: sqlite3.Connection, *, create: bool) -> bool:
        """Check whose file this is and bring its schema up to date; False if it is still empty.

        Raises:
            StoreFaultError: it is not ours, or newer than we are.
        """
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        ours = db.execute("PRAGMA application_id").fetchone()[0] == sql.APPLICATION_ID
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if not ours and (version or db.execute(sql.TABLES).fetchone()[0]):
            raise StoreFaultError(f"{self.path} is a database of something else; give another.")
        if version > sql.SCHEMA_VERSION:
            raise StoreFaultError(
                f"{self.path} was written by a newer embervlm (schema {version}); upgrade this one."
            )
        if version == 0 and not create:
            return False
        if version < sql.SCHEMA_VERSION:
            with nullcontext() if create else self._lock():
                if version == 0 and not self.private:
                    db.execute(f"PRAGMA page_size = {sql.PAGE_BYTES}")
                    db.execute("PRAGMA journal_mode = WAL")
                migrate(db)
        return True

    def _refresh(self, db: sqlite3.Connection) -> None:
        (newest,) = db.execute(sql.LAST_EVENT).fetchone()
        if newest == self.seq != 0:
            return
        own_transaction = not db.in_transaction
        if own_transaction:
            db.execute("BEGIN")
        try:
            self._read_on(db)
        except BaseException:
            self._reset()
            raise
        finally:
            if own_transaction:
                db.execute("ROLLBACK")

    def _read_on(self, db: sqlite3.Connection) -> None:
        """Read the events behind the last known one, check them, and take them into the state.

        Raises:
            DamageError: something does not fit.
        """
        is_opening, adds = self.seq == 0, 0
        blank: set[int] = set()
        erased: set[int] = set()
        for values in db.execute(sql.EVENTS_AFTER, (self.seq,)):
            event, row = Event(*values[:_EVENT_COLUMNS]), None
            try:
                digest = event.digest(self.digest)
            except TypeError:  # a text where bytes stood
                digest = b""
            if event.seq != self.seq + 1 or digest != values[_EVENT_COLUMNS]:
                raise DamageError(f"event {event.seq} of its log was changed from outside")
            if event.kind == "add":
                adds += 1
                stated = values[_EVENT_COLUMNS + 1 :]
                row = Row(*stated) if stated[0] is not None else None
                if row is not None and row.body == "":
                    blank.add(row.id)
                elif row is None or row.site != event.site or row.digest != event.content:
                    raise DamageError(f"lesson {event.entry} was changed from outside")
            elif event.kind == "erase" and event.entry is not None:
                erased.add(event.entry)
            self.state.note(event, row)
            self.seq, self.digest = event.seq, digest
        if blank - erased:
            raise DamageError(f"lesson {min(blank - erased)} was changed from outside")
        if is_opening:
            (given,) = db.execute(sql.LAST_EVENT_GIVEN).fetchone() or (0,)
            if given != self.seq or db.execute(sql.COUNT_ENTRIES).fetchone()[0] != adds:
                raise DamageError("lessons were taken out or put in from outside")


def migrate(db: sqlite3.Connection, up_to: int = sql.SCHEMA_VERSION) -> None:
    """Bring the schema up to a version, all steps or none."""
    db.execute("BEGIN IMMEDIATE")
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        for number in range(version, up_to):
            for statement in sql.MIGRATIONS[number]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number + 1}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
