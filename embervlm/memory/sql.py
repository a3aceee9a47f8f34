"""Every statement that the store gives to SQLite, and the numbered changes of its schema.

A change of the schema is a new number at the end of `MIGRATIONS`; what stands there never changes.
An entry's row is written once; whether it is in force follows from `events` (see `chain`).

    entries   what was learnt: `body` is JSON, `vector` 16-bit floats of the request's direction
    events    what happened to entries, in order, each with the digest of all before it
    words     full-text index of content and request, without a copy of them
"""

from __future__ import annotations

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
TABLES = "SELECT count(*) FROM sqlite_schema"

LAST_EVENT = "SELECT ifnull(max(seq), 0) FROM events"
LAST_EVENT_GIVEN = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
COUNT_ENTRIES = "SELECT count(*) FROM entries"
LAST_ENTRY = "SELECT ifnull(max(id), 0) FROM entries"

EVENTS_AFTER = """
SELECT seq, kind, entry, target, events.site, events.at_us, events.author, content, digest,
       id, key, entries.site, entries.author, entries.at_us, environment, request, quarantined,
       body, vector
FROM events LEFT JOIN entries ON kind = 'add' AND id = entry
WHERE seq > ? ORDER BY seq
"""
INSERT_EVENT = "INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
ENTRY = "SELECT * FROM entries WHERE id = ? AND site = ?"
KEYS = "SELECT key FROM entries WHERE site = ?"
ERASE_ENTRY = "UPDATE entries SET body = '', vector = x'' WHERE id = ? AND site = ?"

INSERT_WORDS = "INSERT INTO words (rowid, text) VALUES (?, ?)"
DELETE_WORDS = "INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)"
SWEEP = (
    "INSERT INTO words (words) VALUES ('optimize')",
    "VACUUM",
    "PRAGMA wal_checkpoint(TRUNCATE)",
)
FIND_WORDS = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid"
