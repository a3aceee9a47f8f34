"""An entry as it stands in the file, and as a line of an export; both ways, with checks."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embervlm.memory import chain
from embervlm.memory.entries import MemoryEntry, printable
from embervlm.memory.matrix import unit
from embervlm.memory.protocol import check_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_US = 1_000_000
_LATEST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
# Metadata that stands in columns of its own, not in the body.
_IN_COLUMNS = ("key", "author", "site", "time", "environment")
_MAX_WIDTH = 65_536


class Row(NamedTuple):
    """An entry in the order of its columns; `sql` says what they hold."""

    id: int
    key: str
    site: str
    author: str
    at_us: int
    environment: str
    request: str
    quarantined: int
    body: str
    vector: bytes

    @classmethod
    def of(
        cls,
        entry: MemoryEntry,
        direction_D: NDArray[np.float32],
        *,
        number: int,
        key: str,
        site: str,
        author: str,
        at_us: int,
        request: str,
        supersedes: int | None,
    ) -> Row:
        """Return an entry's row; a quarantined one supersedes nothing.

        Raises:
            ValueError: the vector is no row of finite numbers.
        """
        if direction_D.ndim != 1 or not np.isfinite(direction_D).all():
            raise ValueError("The vector of an entry must be one row of finite numbers.")
        about = {
            name: value
            for name, value in entry.metadata.items()
            if name not in (*_IN_COLUMNS, "supersedes")
        }
        quarantined = bool(about.get("quarantine"))
        if supersedes is not None and not quarantined:
            about["supersedes"] = supersedes
        stated = replace(entry, content=printable(entry.content), metadata=about).to_dict()
        del stated["id"]
        body = json.dumps(stated, ensure_ascii=False, separators=(",", ":"))
        return cls(
            id=number,
            key=key,
            site=site,
            author=author,
            at_us=at_us,
            environment=printable(str(entry.metadata.get("environment", "none"))),
            request=request,
            quarantined=int(quarantined),
            body=body.encode("utf-8", "replace").decode("utf-8"),
            vector=unit(direction_D.astype(np.float32)).astype("<f2").tobytes(),
        )

    @property
    def digest(self) -> bytes:
        """The SHA-256 that the log keeps of this row."""
        return chain.content_digest(self[:-1], self.vector)

    @property
    def words(self) -> str:
        """What full-text search finds it by."""
        entry = self.entry()
        return f"{entry.content} {entry.metadata.get('task') or ''}"

    def entry(self) -> MemoryEntry:
        """Return the entry.

        Raises:
            ValueError: it was erased.
        """
        if not self.body:
            raise ValueError(f"Lesson {self.id} was erased.")
        stated = json.loads(self.body)
        stated["metadata"].update(
            environment=self.environment,
            key=self.key,
            author=self.author,
            site=self.site,
            time=from_microseconds(self.at_us).isoformat(timespec="seconds"),
        )
        return MemoryEntry(**stated, id=self.id)


def exported(row: Row) -> dict[str, Any]:
    """Return a row as plain JSON values."""
    return {**row.entry().to_dict(), "vector": base64.b64encode(row.vector).decode()}


def imported(row: Any, number: int) -> tuple[MemoryEntry, NDArray[np.float32]]:
    """Return the entry and the vector of an exported row; `number` names it in errors.

    Numbers of other entries are left out: those of another store mean nothing here.

    Raises:
        ValueError: the row has another form.
    """
    try:
        if not isinstance(row, Mapping) or not isinstance(row.get("vector"), str):
            raise ValueError("expected an object with an entry and its `vector`.")
        entry = MemoryEntry.from_dict({k: v for k, v in row.items() if k != "vector"})
        about = entry.metadata
        for name in ("key", "author", "time"):
            if not isinstance(about.get(name), str):
                raise ValueError(f"metadata lacks `{name}`.")
        for name in ("key", "author"):
            check_name(about[name], name)
        for name in ("task", "photo"):
            if not isinstance(about.get(name), str | None):
                raise ValueError(f"`{name}` must be a text or null.")
        for name in ("robots", "misread"):
            if not _is_texts(about.get(name, [])):
                raise ValueError(f"`{name}` must be a list of texts.")
        needs = about.get("needs", {})
        is_whole = isinstance(needs, Mapping) and _is_texts(needs.get("actions", []))
        if not is_whole or not _is_limits(needs.get("limits", {})):
            raise ValueError("`needs` must be an object with `actions` and `limits`.")
        if not _is_limits(about.get("missed", {})):
            raise ValueError("`missed` must be an object of numbers and true.")
        time = datetime.fromisoformat(about["time"]).astimezone(UTC)
        vector_D = np.frombuffer(base64.b64decode(row["vector"], validate=True), "<f2")
        if not 1 <= len(vector_D) <= _MAX_WIDTH or not np.isfinite(vector_D).all():
            raise ValueError("the vector must be a row of finite numbers.")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"Row {number} is no exported lesson: {error}") from error
    moved = replace(entry, related_to=(), metadata={**about, "time": time.isoformat()}, id=0)
    return moved, vector_D.astype(np.float32)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_limits(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(x, int | float) for x in value.values())


def to_microseconds(when: datetime) -> int:
    """Return a time as microseconds since 1970; without a zone, this machine's is meant."""
    return (when.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def later_than(at_us: int, now_us: int) -> int:
    """Return now, or where a wrong clock told a later time, the second behind that: an import keeps
    the newest of two entries for a request, and an export tells whole seconds."""
    return now_us if now_us > at_us else min(at_us + _SECOND_US, _LATEST_US)


def from_microseconds(at_us: int) -> datetime:
    """Return microseconds since 1970 as a time in UTC."""
    return _EPOCH + timedelta(microseconds=at_us)
