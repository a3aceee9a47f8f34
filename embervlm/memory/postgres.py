"""Lessons in PostgreSQL, so that several servers decide with the same ones.

    LessonStore("postgresql://ember@db.example/fleet?sslmode=verify-full", site="harbour")

All tables lie in the schema `embervlm_lessons`, made by the first who writes; the database itself
is never made. `head` has one row: the version of the tables and the last event's number. Who writes
locks it first, so writers of all servers come one after the other and nobody builds on an old log.
A connection that was lost between two transactions is opened again without a word; a server that
cannot be reached, or stands still, ends in a sentence.

The password is best kept out of the address: libpq takes it from PGPASSWORD or ~/.pgpass.
"""

from __future__ import annotations

import re
import socket
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from embervlm.memory import sql
from embervlm.memory.database import Connection, DamageError
from embervlm.memory.protocol import StoreFaultError
from embervlm.memory.rows import Row

SCHEMA = "embervlm_lessons"
# Also the advisory lock under which the tables are made.
APPLICATION_ID = 0x456D624C

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE head (
            is_head boolean PRIMARY KEY DEFAULT true CHECK (is_head),
            version integer NOT NULL,
            seq bigint NOT NULL
        )""",
        "INSERT INTO head (version, seq) VALUES (0, 0)",
        """CREATE TABLE entries (
            id bigint PRIMARY KEY,
            key text NOT NULL,
            site text NOT NULL,
            author text NOT NULL,
            at_us bigint NOT NULL,
            environment text NOT NULL,
            request text NOT NULL,
            quarantined integer NOT NULL,
            body text NOT NULL,
            vector bytea NOT NULL,
            UNIQUE (site, key)
        )""",
        """CREATE TABLE events (
            seq bigint PRIMARY KEY,
            kind text NOT NULL,
            entry bigint REFERENCES entries (id),
            target bigint,
            site text NOT NULL,
            at_us bigint NOT NULL,
            author text NOT NULL,
            content bytea NOT NULL,
            digest bytea NOT NULL
        )""",
        "CREATE TABLE words (entry bigint PRIMARY KEY REFERENCES entries (id), lexemes tsvector)",
        "CREATE INDEX words_lexemes ON words USING gin (lexemes)",
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)

# What an address may leave out. tcp_user_timeout is in milliseconds, the others in seconds.
_DEFAULTS = {
    "application_name": "embervlm",
    "connect_timeout": "5",
    "keepalives_idle": "30",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
_LOCK_S = 30
# A client whose host is gone must not keep the lock.
_SETTINGS = f"""
SET client_encoding = 'UTF8';
SET search_path = {SCHEMA};
SET lock_timeout = '{_LOCK_S}s';
SET statement_timeout = '{_LOCK_S + 10}s';
SET idle_in_transaction_session_timeout = '{_LOCK_S}s';
SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'
"""
# The longest that a server may be silent: while a decision waits, and while others write or it
# tidies.
_SILENT_S = 10.0
_SILENT_WRITING_S = _LOCK_S + 15.0
_SILENT_SWEEPING_S = 600.0
# A server that cannot be reached is tried again after so many times what the last try took: a
# decision must not wait for it each time.
_PAUSE_SHARE = 9.0

_TERM_CHARACTERS = 100
_TABLES = "SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = ?"
# From the table, not to_regnamespace(): that may answer from before a lock that was waited for.
_HAS_SCHEMA = "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = ?"
_IS_CLOSED = f"{_HAS_SCHEMA} AND NOT has_schema_privilege(oid, 'USAGE')"
_HAS_HEAD = "SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = ? AND tablename = 'head'"
_VERSION = "SELECT version FROM head"
_SIZE = "SELECT " + " + ".join(
    f"pg_total_relation_size('{name}')" for name in ("head", "entries", "events", "words")
)
_DAMAGE = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.DataCorrupted,
    errors.IndexCorrupted,
    errors.IntegrityError,
)
_HOST = r"(?:[\w.\-%]*|\[[\da-fA-F:.]*\])(?::\d*)?"
_ADDRESS = re.compile(
    r"postgres(?:ql)?://(?:[^:@/?#\s]*(?::(?P<password>[^:@/?#\s]*))?@)?"
    rf"{_HOST}(?:,{_HOST})*(?:/[^:@/?#\s]*)?(?:\?[^#\s]*)?"
)
_SECRETS = ("password", "sslpassword")


class PostgresDatabase:
    """The schema `embervlm_lessons` of a database; see `database.Database`.

    Raises:
        ValueError: the address has another form.
    """

    remedy = f"rename its schema {SCHEMA}"
    begin_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    insert_event = (
        f"WITH event AS ({sql.INSERT_EVENT} RETURNING seq) "
        "UPDATE head SET seq = event.seq FROM event"
    )
    last_event_given = "SELECT seq FROM head"

    def __init__(self, address: str) -> None:
        self.name, self._stated = _parts(address)
        self._connection: _Connection | None = None
        self._is_ready = False
        self._next_try_s, self._fault = 0.0, ""

    def identity(self) -> tuple[int, ...]:
        """Return nothing: an address stays where it is."""
        return ()

    def open(self, *, create: bool) -> Connection | None:
        """Return the connection; None if there are no tables and none shall be made.

        Raises:
            StoreFaultError: the schema is not ours, or newer than we are.
        """
        if self._connection is None:
            # Somebody who writes waits; a decision does not.
            if not create and time.monotonic() < self._next_try_s:
                raise StoreFaultError(self._fault)
            self._connection = _Connection(self._connect)
        if not self._is_ready:
            self._is_ready = self._prepare(self._connection, create=create)
        return self._connection if self._is_ready else None

    @contextmanager
    def only_writer(self, guard: AbstractContextManager[Any]) -> Iterator[None]:
        """Hold `guard`: the transaction keeps others out."""
        with guard:
            yield

    def begin(self, db: Connection) -> None:
        """Begin a transaction that writes, and lock the head of the log.

        READ COMMITTED: what is read behind the lock is what the writer before has written.
        """
        db.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        try:
            if db.execute("SELECT seq FROM head FOR UPDATE").fetchone() is None:
                raise DamageError("the head of its log was taken out from outside")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def commit(self, db: Connection) -> None:
        """End it.

        Raises:
            StoreFaultError: the connection was lost, so nobody knows whether it ended well.
        """
        try:
            db.execute("COMMIT")
        except psycopg.OperationalError as error:
            raise StoreFaultError(
                f"{self.name} was lost while it wrote ({self._reason(error)}): it may be kept or "
                "not; look with 'embervlm memory list' before you do it again."
            ) from error

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn what the server and libpq say into a StoreFaultError, or a DamageError."""
        try:
            yield
        except _DAMAGE as error:
            raise DamageError(self._reason(error)) from error
        except errors.LockNotAvailable as error:
            raise StoreFaultError(
                f"{self.name} has been held by another server for {_LOCK_S} s; try again."
            ) from error
        except psycopg.Error as error:
            self._fault = f"{self.name} cannot be used now ({self._reason(error)})."
            raise StoreFaultError(self._fault) from error

    def add_words(self, db: Connection, row: Row) -> None:
        """Let an entry be found by its words."""
        values = (row.id, _terms(row.words))
        db.execute("INSERT INTO words VALUES (?, array_to_tsvector(?::text[]))", values)

    def remove_words(self, db: Connection, row: Row) -> None:
        """Let it be found no more."""
        db.execute("DELETE FROM words WHERE entry = ?", (row.id,))

    def find_words(self, db: Connection, terms: Sequence[str]) -> Iterable[int]:
        """Return the entries that have a word beginning with each of these."""
        # Terms have letters and digits alone: nothing in them ends the quotes.
        asked = " & ".join(f"'{term}':*" for term in _terms(" ".join(terms)))
        found = db.execute("SELECT entry FROM words WHERE lexemes @@ ?::tsquery", (asked,))
        return (entry_id for (entry_id,) in found)

    def sweep(self, db: Connection) -> None:
        """Write the tables anew. The server's write-ahead log and backups keep what was erased
        until it recycles them."""
        assert isinstance(db, _Connection)
        db.execute("SET statement_timeout = 0")
        for table in ("entries", "words"):
            db.execute(f"VACUUM FULL {table}", silent_s=_SILENT_SWEEPING_S)
        db.execute(f"SET statement_timeout = '{_LOCK_S + 10}s'")

    def size_bytes(self, db: Connection) -> int:
        """Return how much room the tables and their indices take."""
        return int(db.execute(_SIZE).fetchone()[0])

    def close(self) -> None:
        """Let go of the connection; the next use opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._is_ready = None, False

    def leave(self) -> object:
        """Return the connection, unclosed."""
        left, self._connection, self._is_ready = self._connection, None, False
        return left

    def _connect(self) -> psycopg.Connection[Any]:
        begun_s = time.monotonic()
        try:
            found = psycopg.connect(
                **{**_DEFAULTS, **self._stated}, autocommit=True, prepare_threshold=None
            )
            with _cut_off(found, _SILENT_S):
                found.execute(_SETTINGS)
        except psycopg.Error:
            took_s = time.monotonic() - begun_s
            self._next_try_s = time.monotonic() + _PAUSE_SHARE * took_s
            raise
        return found

    def _prepare(self, db: Connection, *, create: bool) -> bool:
        """Check whose schema this is and bring it up to date; False if it is still empty.

        Raises:
            StoreFaultError: it is not ours, or newer than we are.
        """
        if db.execute(_IS_CLOSED, (SCHEMA,)).fetchone()[0]:
            raise StoreFaultError(
                f"{self.name} does not let this user into its schema {SCHEMA}; grant it USAGE."
            )
        version = _version(db)
        if version is None:
            raise StoreFaultError(
                f"The schema {SCHEMA} of {self.name} is of something else; give another database."
            )
        if version > SCHEMA_VERSION:
            raise StoreFaultError(
                f"{self.name} was written by a newer embervlm (schema {version}); upgrade this one."
            )
        if version == 0 and not create:
            return False
        if version < SCHEMA_VERSION:
            encoding = db.execute("SELECT current_setting('server_encoding')").fetchone()[0]
            if encoding != "UTF8":
                raise StoreFaultError(
                    f"{self.name} keeps texts as {encoding}; make one with ENCODING 'UTF8'."
                )
            migrate(db)
        return True

    def _reason(self, error: psycopg.Error) -> str:
        """Return the first line of a message, in which no secret may stand."""
        told = error.diag.message_primary or str(error).strip() or type(error).__name__
        words = " ".join(told.splitlines()[0].split())[:300]
        for name in _SECRETS:
            if secret := str(self._stated.get(name) or ""):
                words = words.replace(secret, "***")
        return words.rstrip(".")


class _Connection:
    """A connection that is opened again if it was lost outside a transaction."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._connect = connect
        self._now = connect()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and not ended; none has on a lost connection."""
        state = self._now.info.transaction_status
        return state not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    def execute(
        self, statement: str, values: Sequence[Any] = (), /, *, silent_s: float | None = None
    ) -> psycopg.Cursor[Any]:
        """Carry out a statement.

        Raises:
            psycopg.Error: it failed; for a lost connection, the second time.
        """
        text = statement.replace("?", "%s").encode()
        is_free = not self.in_transaction
        silent_s = silent_s or (_SILENT_S if is_free else _SILENT_WRITING_S)
        try:
            with _cut_off(self._now, silent_s):
                return self._now.execute(text, values)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not (is_free and self._now.closed) or isinstance(error, _StandsStillError):
                raise
        self._now = self._connect()
        with _cut_off(self._now, silent_s):
            return self._now.execute(text, values)

    def close(self) -> None:
        """End the session; never fails."""
        self._now.close()


class _StandsStillError(psycopg.OperationalError):
    """The server took the connection and then said nothing."""


@contextmanager
def _cut_off(connection: psycopg.Connection[Any], silent_s: float) -> Iterator[None]:
    """Cut a connection if the block takes longer; libpq itself would wait for ever.

    Raises:
        _StandsStillError: it took longer.
    """
    if connection.closed:
        yield
        return
    is_cut = threading.Event()
    # A handle of its own: the number of the connection's may be given away once it is closed.
    with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as own:

        def cut() -> None:
            is_cut.set()
            with suppress(OSError):  # the other side was quicker
                own.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(silent_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except psycopg.Error as error:
            if not is_cut.is_set():
                raise
            raise _StandsStillError(f"no answer in {silent_s:g} s") from error
        finally:
            timer.cancel()


def migrate(db: Connection) -> None:
    """Bring the tables up to date, all steps or none; of several servers one does it."""
    db.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
    try:
        db.execute("SELECT pg_advisory_xact_lock(?)", (APPLICATION_ID,))
        if not db.execute(_HAS_SCHEMA, (SCHEMA,)).fetchone()[0]:
            db.execute(f"CREATE SCHEMA {SCHEMA}")
        for number in range(_version(db) or 0, SCHEMA_VERSION):
            for statement in MIGRATIONS[number]:
                db.execute(statement)
            db.execute("UPDATE head SET version = ?", (number + 1,))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: Connection) -> int | None:
    """Return the version of the tables, 0 if there are none, None if they are not ours.

    Raises:
        DamageError: they do not say.
    """
    if not db.execute(_TABLES, (SCHEMA,)).fetchone()[0]:
        return 0
    if not db.execute(_HAS_HEAD, (SCHEMA,)).fetchone()[0]:
        return None
    found = db.execute(_VERSION).fetchone()
    if found is None:
        raise DamageError("the head of its log was taken out from outside")
    version: int = found[0]
    return version


def _parts(address: str) -> tuple[str, dict[str, Any]]:
    """Return an address as it may be shown, and what libpq makes of it.

    Raises:
        ValueError: it has another form; no part of it is repeated, since one may be a password.
    """
    wrong = ValueError(
        "The place of the lessons is no address of a database; expected such as "
        "postgresql://user@host/database, with special characters as %40."
    )
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise wrong
    try:
        stated = conninfo_to_dict(address)
    except psycopg.Error:
        raise wrong from None
    shown = address
    if found["password"]:
        start, end = found.span("password")
        shown = f"{address[:start]}***{address[end:]}"
    for name in _SECRETS:
        shown = re.sub(rf"([?&]{name}=)[^&]*", r"\1***", shown)
    return shown, dict(stated)


def _terms(text: str) -> list[str]:
    """Return the words of a text as SQLite's index sees them: small letters, no accents."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words = "".join(c if c.isalnum() else " " for c in bare.lower()).split()
    return [word[:_TERM_CHARACTERS] for word in words]
