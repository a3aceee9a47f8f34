"""The statements that SQLite and PostgreSQL both understand, with `?` for each value.

An entry's row is written once; whether it is in force follows from `events` (see `chain`).

    entries   what was learnt: `body` is JSON, `vector` 16-bit floats of the request's direction
    events    what happened to entries, in order, each with the digest of all before it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embervlm.memory.database import Connection
from embervlm.memory.rows import Row

EVENTS_AT_ONCE = 2000
_ENTRIES_AT_ONCE = 500

LAST_EVENT = "SELECT coalesce(max(seq), 0) FROM events"
COUNT_ENTRIES = "SELECT count(*) FROM entries"
LAST_ENTRY = "SELECT coalesce(max(id), 0) FROM entries"

EVENTS_AFTER = f"""
SELECT seq, kind, entry, target, events.site, events.at_us, events.author, content, digest,
       id, key, entries.site, entries.author, entries.at_us, environment, request, quarantined,
       body, vector
FROM events LEFT JOIN entries ON kind = 'add' AND id = entry
WHERE seq > ? ORDER BY seq LIMIT {EVENTS_AT_ONCE}
"""
INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
KEYS = "SELECT key, id FROM entries WHERE site = ?"
ERASE_ENTRY = "UPDATE entries SET body = '', vector = ? WHERE id = ? AND site = ?"


def read_entries(db: Connection, site: str, ids: Sequence[int]) -> Iterator[Row]:
    """Yield the rows of a site's entries in the order of `ids`; those that are gone are left
    out."""
    for start in range(0, len(ids), _ENTRIES_AT_ONCE):
        asked = ids[start : start + _ENTRIES_AT_ONCE]
        marks = ", ".join("?" * len(asked))
        statement = f"SELECT * FROM entries WHERE site = ? AND id IN ({marks})"
        found = {row[0]: Row(*row) for row in db.execute(statement, (site, *asked))}
        yield from (found[entry_id] for entry_id in asked if entry_id in found)
