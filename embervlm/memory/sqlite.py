"""Lessons in an SQLite file: opened, locked, brought up to date.

A change of the schema is a new number at the end of `MIGRATIONS`; what stands there never changes.
`words` is a full-text index of content and request, without a copy of them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from embervlm.memory import sql
from embervlm.memory.database import Connection, DamageError
from embervlm.memory.locking import locked
from embervlm.memory.protocol import StoreFaultError
from embervlm.memory.rows import Row

IN_MEMORY = ":memory:"
_TIMEOUT_S = 30.0
# So long readers of other processes are waited for behind an erasure.
_CHECKPOINT_S = 2.0
_NOTHING = nullcontext()

# The bytes "EmbL": marks a file as ours for `file` and for us.
APPLICATION_ID = 0x456D624C

# A row has some 1,400 bytes; of 4,096 a third would stay empty.
PAGE_BYTES = 16_384

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE entries (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL,
            site TEXT NOT NULL,
            author TEXT NOT NULL,
            at_us INTEGER NOT NULL,
            environment TEXT NOT NULL,
            request TEXT NOT NULL,
            quarantined INTEGER NOT NULL,
            body TEXT NOT NULL,
            vector BLOB NOT NULL,
            UNIQUE (site, key)
        )""",
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            entry INTEGER REFERENCES entries (id),
            target INTEGER,
            site TEXT NOT NULL,
            at_us INTEGER NOT NULL,
            author TEXT NOT NULL,
            content BLOB NOT NULL,
            digest BLOB NOT NULL
        )""",
        f"PRAGMA application_id = {APPLICATION_ID}",
    ),
    (
        "CREATE VIRTUAL TABLE words USING fts5 ("
        "text, content = '', detail = none, tokenize = 'unicode61 remove_diacritics 2')",
        "INSERT INTO words (rowid, text) SELECT id, json_extract(body, '$.content') || ' ' || "
        "ifnull(json_extract(body, '$.metadata.task'), '') FROM entries",
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)

SCHEMA = "SELECT name, sql FROM sqlite_schema WHERE sql NOT NULL ORDER BY name"
_TABLES = "SELECT count(*) FROM sqlite_schema"
_INSERT_WORDS = "INSERT INTO words (rowid, text) VALUES (?, ?)"
_DELETE_WORDS = "INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)"
_FIND_WORDS = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid"
_SWEEP = (
    "INSERT INTO words (words) VALUES ('optimize')",
    "VACUUM",
)


class SqliteDatabase:
    """An SQLite file, made by the first who writes; see `database.Database`."""

    remedy = "move the file away"
    begin_reading = "BEGIN"
    insert_event = sql.INSERT_EVENT
    last_event_given = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        self._private = self.name == IN_MEMORY
        self._connection: sqlite3.Connection | None = None

    def identity(self) -> tuple[int, ...]:
        """Return the file's device and inode; empty without a file."""
        if self._private:
            return ()
        try:
            found = self.path.stat()
        except (OSError, ValueError):
            return ()
        return found.st_dev, found.st_ino

    def open(self, *, create: bool) -> sqlite3.Connection | None:
        """Return the connection; None if there is no file and none shall be made."""
        if self._connection is not None:
            return self._connection
        if not self._private and not self.path.exists():
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

    @contextmanager
    def only_writer(self, guard: AbstractContextManager[Any]) -> Iterator[None]:
        """Hold the lock file beside the database, and `guard`; `locking` says why."""
        if not self._private:
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with self._lock(guard):
            yield

    def begin(self, db: Connection) -> None:
        """Begin a transaction that writes."""
        db.execute("BEGIN IMMEDIATE")

    def commit(self, db: Connection) -> None:
        """End it."""
        db.execute("COMMIT")

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn what SQLite says into a StoreFaultError, or a DamageError."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreFaultError(f"{self.name} cannot be used now ({error}).") from error
        except sqlite3.Error as error:
            raise DamageError(str(error)) from error

    def add_words(self, db: Connection, row: Row) -> None:
        """Let an entry be found by its words."""
        db.execute(_INSERT_WORDS, (row.id, row.words))

    def remove_words(self, db: Connection, row: Row) -> None:
        """Let it be found no more."""
        db.execute(_DELETE_WORDS, (row.id, row.words))

    def find_words(self, db: Connection, terms: Sequence[str]) -> Iterable[int]:
        """Return the entries that have a word beginning with each of these."""
        asked = " ".join(f'"{term}"*' for term in terms)
        return (entry_id for (entry_id,) in db.execute(_FIND_WORDS, (asked,)))

    def sweep(self, db: Connection) -> None:
        """Write the file anew, so that no page keeps what was erased.

        Raises:
            StoreFaultError: another process reads, and keeps the journal as it was.
        """
        for statement in _SWEEP:
            db.execute(statement)
        db.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_S * 1000:.0f}")
        (is_busy, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        db.execute(f"PRAGMA busy_timeout = {_TIMEOUT_S * 1000:.0f}")
        if is_busy:
            raise StoreFaultError(
                f"{self.name} is being read by another process, so its journal still holds what "
                "was erased; end that and erase it again."
            )

    def size_bytes(self, db: Connection) -> int:
        """Return the file's size; 0 in memory."""
        return 0 if self._private else self.path.stat().st_size

    def close(self) -> None:
        """Let go of the file; what is in memory only ends here."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def leave(self) -> sqlite3.Connection | None:
        """Return the connection, unclosed; what is in memory only stays."""
        if self._private:
            return None
        left, self._connection = self._connection, None
        return left

    def _lock(self, guard: AbstractContextManager[Any] = _NOTHING) -> AbstractContextManager[Any]:
        if self._private:
            return guard
        return locked(self.path.with_name(self.path.name + ".lock"), _TIMEOUT_S, guard)

    def _connect(self) -> sqlite3.Connection:
        def connect(where: str) -> sqlite3.Connection:
            return sqlite3.connect(
                where, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True
            )

        if self._private:
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
            journal = self.path.with_name(self.path.name + "-wal")
            if journal.exists() and journal.stat().st_size:
                raise StoreFaultError(
                    f"{self.name} has lessons that only its -wal file holds, and its folder cannot "
                    "be written; open it once where it can be."
                ) from None
            db = connect(f"{where}?immutable=1")
        return db

    def _prepare(self, db: sqlite3.Connection, *, create: bool) -> bool:
        """Check whose file this is and bring its schema up to date; False if it is still empty.

        Raises:
            StoreFaultError: it is not ours, or newer than we are.
        """
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        ours = db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if not ours and (version or db.execute(_TABLES).fetchone()[0]):
            raise StoreFaultError(f"{self.path} is a database of something else; give another.")
        if version > SCHEMA_VERSION:
            raise StoreFaultError(
                f"{self.path} was written by a newer embervlm (schema {version}); upgrade this one."
            )
        if version == 0 and not create:
            return False
        if version < SCHEMA_VERSION:
            with nullcontext() if create else self._lock():
                if version == 0 and not self._private:
                    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                    db.execute("PRAGMA journal_mode = WAL")
                migrate(db)
        return True


def migrate(db: sqlite3.Connection, up_to: int = SCHEMA_VERSION) -> None:
    """Bring the schema up to a version, all steps or none."""
    db.execute("BEGIN IMMEDIATE")
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        for number in range(version, up_to):
            for statement in MIGRATIONS[number]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number + 1}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
