"""Lessons kept for good: in an SQLite file or in PostgreSQL, where a log says what is in force.

    store = LessonStore("lessons.sqlite", site="harbour")
    store = LessonStore("postgresql://ember@db.example/fleet", site="harbour")  # many servers, one
    entry = store.add(MemoryEntry("correction", "Send the Robot with Legs."), vector)
    store.forget(entry.id)
    store.rollback(an_hour_ago)

An acknowledged entry survives the end of the process and of the power; there is one writer at a
time (`sqlite`, `postgres`). When it is opened, and whenever another process or server has written,
the log is read and every digest checked (`log`, `chain`); from it follow the entries in force
(`state`), whose vectors lie in memory (`matrix`). A store that fails a check finds nothing and
takes nothing. A file or a schema that is not there yet is an empty store; the first entry makes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.memory import chain, sql
from embervlm.memory.database import Connection, DamageError, Database
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.home import is_address
from embervlm.memory.lessons import request_of
from embervlm.memory.log import Log
from embervlm.memory.matrix import unit
from embervlm.memory.protocol import OPERATOR, Imported, Quotas, StoreFaultError, check_name
from embervlm.memory.rows import (
    Row,
    exported,
    from_microseconds,
    imported,
    later_than,
    to_microseconds,
)
from embervlm.memory.sqlite import IN_MEMORY, SqliteDatabase

__all__ = ["IN_MEMORY", "LessonStore"]
_USUAL_QUOTAS = Quotas()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LessonStore:
    """The entries of one site in a database; see `protocol.LessonMemory`.

    Args:
        place: an SQLite file, or the address of a PostgreSQL database as a text, or IN_MEMORY for a
            store that ends with the process.
        site: whose entries; what other sites keep in the same place is never seen.
        quotas: None lets an author add without end.
        now: tells the time; tests set it.

    Raises:
        ValueError: the address or the site's name is wrong, or psycopg is missing.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        site: str = "default",
        quotas: Quotas | None = _USUAL_QUOTAS,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.site = check_name(site, "site")
        self.quotas = quotas
        self._now = now
        self._log = Log(_database(place), self.site, now)
        self._missed = (0, "")

    def __enter__(self) -> LessonStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fault(self) -> str:
        """Why the store is not used; empty if it is sound or not there yet."""
        try:
            with self._log.reading():
                return ""
        except StoreFaultError as error:
            return str(error)

    @property
    def missed(self) -> tuple[int, str]:
        """How many searches found nothing because of a fault so far, and what the last one was."""
        return self._missed

    def add(
        self, entry: MemoryEntry, direction: NDArray[np.float32], *, author: str = OPERATOR
    ) -> MemoryEntry:
        """Keep an entry; see the protocol.

        Raises:
            ValueError: a quota is used up, or the vector is not finite.
            StoreFaultError: the store cannot be used.
        """
        author = check_name(author, "author")
        with self._log.writing() as db:
            at_us = to_microseconds(self._now())
            if self.quotas is not None:
                self._log.state.check_quotas(self.quotas, author, at_us)
            older = self._log.state.entry_for(request_of(entry))
            if older is not None and not entry.metadata.get("quarantine"):
                at_us = later_than(self._log.state.heads[older].at_us, at_us)
            key = os.urandom(8).hex()
            row = self._insert(db, entry, direction, author, at_us, key, by=author)
        return row.entry()

    def search(
        self,
        direction: NDArray[np.float32],
        environment: str,
        *,
        at_least: float,
        k: int,
        request: str = "",
    ) -> list[tuple[MemoryEntry, float]]:
        """Return the closest entries; see the protocol."""
        try:
            with self._log.reading() as db:
                if db is None:
                    return []
                state = self._log.state
                near = state.nearest(unit(direction), environment, at_least, k)
                same = state.entry_for(request)
                if same is not None:
                    near = [(same, 1.0), *((i, cosine) for i, cosine in near if i != same)]
                rows = list(sql.read_entries(db, self.site, [entry_id for entry_id, _ in near]))
        except StoreFaultError as fault:
            self._missed = (self._missed[0] + 1, str(fault))
            return []
        cosines = dict(near)
        return [
            (row.entry(), cosines[row.id])
            for row in rows
            if row.body and row.environment == environment
        ][:k]

    def usable(self) -> int:
        """Return how many entries may be used; 0 with a fault."""
        try:
            with self._log.reading():
                return self._log.state.usable()
        except StoreFaultError:
            return 0

    def get(self, entry_id: int) -> MemoryEntry:
        """Return an entry of this site, in force or not."""
        with self._log.reading() as db:
            return self._known(db, entry_id).entry()

    def status(self, entry_id: int) -> str:
        """Return "in force", "quarantined" or "retired"."""
        with self._log.reading() as db:
            self._known(db, entry_id)
            if entry_id not in self._log.state.in_force:
                return "retired"
            return "quarantined" if self._log.state.heads[entry_id].quarantined else "in force"

    def entries(self, *, words: str = "", retired: bool = False) -> list[MemoryEntry]:
        """Return the entries in order; see the protocol."""
        with self._log.reading() as db:
            return [row.entry() for row in self._rows(db, words, retired)]

    def direction(self, entry_id: int) -> NDArray[np.float32]:
        """Return the unit vector that an entry is found by."""
        with self._log.reading() as db:
            vector_D = np.frombuffer(self._known(db, entry_id).vector, "<f2")
        return unit(vector_D.astype(np.float32))

    def supersede(self, entry_id: int, by: int, *, author: str = OPERATOR) -> None:
        """Take an entry out of force in favour of another; both must be in force."""
        with self._log.writing() as db:
            for one in (entry_id, by):
                self._check_in_force(db, one)
            self._log.append(db, "supersede", author, entry_id, target=by)

    def forget(
        self, entry_id: int, *, author: str = OPERATOR, erase: bool = False
    ) -> tuple[int, ...]:
        """Take an entry out of force, and bring back what it superseded; see the protocol.

        Raises:
            ValueError: it is not in force, and is not to be erased.
            StoreFaultError: the store cannot be used, or another process keeps what was erased from
                being overwritten; then erase it again.
        """
        with self._log.writing() as db:
            state = self._log.state
            row, was_in_force = self._known(db, entry_id), entry_id in state.in_force
            if erase and not row.body:
                pass  # erased before, perhaps while another process read
            elif erase:
                self._log.database.remove_words(db, row)
                db.execute(sql.ERASE_ENTRY, (b"", entry_id, self.site))
                self._log.append(db, "erase", author, entry_id)
            else:
                self._check_in_force(db, entry_id)
                self._log.append(db, "forget", author, entry_id)
            replaced = chain.superseded_by(state.events, entry_id) if was_in_force else []
            restored = []
            for older in reversed(replaced):
                head = state.heads[older]
                # What a newer one answers stays away.
                if head.quarantined or state.entry_for(head.request) is None:
                    self._log.append(db, "restore", author, older, target=entry_id)
                    restored.append(older)
        if erase:
            self._log.sweep()
        return tuple(sorted(restored))

    def rollback(self, to: datetime, *, author: str = OPERATOR) -> tuple[int, int]:
        """Bring back what was in force at a time; see the protocol.

        Raises:
            ValueError: nothing has happened since.
        """
        to_us = to_microseconds(to)
        with self._log.writing() as db:
            state = self._log.state
            if not state.events or state.events[-1].at_us <= to_us:
                told = f"{from_microseconds(to_us):%Y-%m-%d %H:%M:%S}"
                raise ValueError(f"Nothing has changed since {told} UTC.")
            before = set(state.in_force)
            target = max((event.seq for event in state.events if event.at_us <= to_us), default=0)
            self._log.append(db, "rollback", author, None, target=target)
            after = state.in_force
        return len(after - before), len(before - after)

    def export(self) -> Iterator[dict[str, Any]]:
        """Yield the entries in force with their vectors, as plain JSON values."""
        with self._log.reading() as db:
            rows = self._rows(db, "", retired=False)
        return (exported(row) for row in rows)

    def import_rows(self, rows: Iterable[Any], *, author: str = OPERATOR) -> Imported:
        """Add exported entries, all or none; see the protocol. Quotas do not hold: whoever imports
        a file answers for it.

        Raises:
            ValueError: a row has another form; nothing was imported.
        """
        author = check_name(author, "author")
        given = [imported(row, number) for number, row in enumerate(rows, start=1)]
        given.sort(key=lambda one: datetime.fromisoformat(one[0].metadata["time"]))
        added = known = older = retired = 0
        with self._log.writing() as db:
            keys = dict(db.execute(sql.KEYS, (self.site,)))
            for entry, vector_D in given:
                about = entry.metadata
                at_us = to_microseconds(datetime.fromisoformat(about["time"]))
                same = self._log.state.entry_for(request_of(entry))
                if about["key"] in keys:
                    known += 1
                    retired += keys[about["key"]] not in self._log.state.in_force
                elif same is not None and self._log.state.heads[same].at_us > at_us:
                    older += 1
                else:
                    wrote = about["author"]
                    key = about["key"]
                    row = self._insert(
                        db, entry, vector_D, wrote, at_us, key, by=author, imported=True
                    )
                    keys[row.key] = row.id
                    added += 1
        return Imported(added, known, older, retired)

    def stats(self) -> dict[str, Any]:
        """Return counts, size, and the newest digest of the log."""
        with self._log.reading() as db:
            state = self._log.state
            heads = [state.heads[entry_id] for entry_id in state.in_force]
            database = self._log.database
            return {
                "path": database.name,
                "site": self.site,
                "in_force": len(heads),
                "quarantined": sum(head.quarantined for head in heads),
                "retired": len(state.heads) - len(heads),
                "authors": len({head.author for head in heads}),
                "events": len(state.events),
                "size_bytes": database.size_bytes(db) if db is not None else 0,
                "newest_digest": self._log.digest.hex() if self._log.seq else "",
            }

    def close(self) -> None:
        """Let go of the database; what is in memory only ends here."""
        self._log.close()

    def _insert(
        self,
        db: Connection,
        entry: MemoryEntry,
        direction_D: NDArray[np.float32],
        author: str,
        at_us: int,
        key: str,
        *,
        by: str,
        imported: bool = False,
    ) -> Row:
        request = request_of(entry)
        older = self._log.state.entry_for(request)
        row = Row.of(
            entry,
            direction_D,
            number=db.execute(sql.LAST_ENTRY).fetchone()[0] + 1,
            key=key,
            site=self.site,
            author=author,
            at_us=at_us,
            request=request,
            supersedes=older,
        )
        db.execute(sql.INSERT_ENTRY, row)
        self._log.database.add_words(db, row)
        self._log.append(db, "add", by, row.id, target=0 if imported else None, row=row)
        if older is not None and not row.quarantined:
            self._log.append(db, "supersede", by, older, target=row.id)
        return row

    def _rows(self, db: Connection | None, words: str, retired: bool) -> list[Row]:
        if db is None:
            return []
        chosen = set(self._log.state.heads if retired else self._log.state.in_force)
        if terms := "".join(char if char.isalnum() else " " for char in words).split():
            chosen &= set(self._log.database.find_words(db, terms))
        rows = sql.read_entries(db, self.site, sorted(chosen))
        return [row for row in rows if row.body]

    def _known(self, db: Connection | None, entry_id: int) -> Row:
        if db is None or entry_id not in self._log.state.heads:
            raise ValueError(f"There is no lesson {entry_id} at the site {self.site!r}.")
        row = next(sql.read_entries(db, self.site, [entry_id]), None)
        if row is None:
            raise DamageError(f"lesson {entry_id} was taken out from outside")
        return row

    def _check_in_force(self, db: Connection, entry_id: int) -> None:
        self._known(db, entry_id)
        if entry_id not in self._log.state.in_force:
            raise ValueError(f"Lesson {entry_id} is not in force; nothing was changed.")


def _database(place: str | Path) -> Database:
    """Return the database at a place; it is not opened yet.

    Raises:
        ValueError: the address is wrong, or what it takes is not installed.
    """
    if not is_address(place):
        return SqliteDatabase(place)
    try:
        from embervlm.memory.postgres import PostgresDatabase
    except ImportError as error:
        raise ValueError(
            f"Lessons in PostgreSQL need psycopg ({error}): pip install 'embervlm[postgres]'."
        ) from error
    return PostgresDatabase(str(place))
