"""A store that was damaged or changed from outside finds nothing, takes nothing, and says so."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from keeping import correction, fill, ids, vector
from refusing import assert_is_refused

from embervlm.memory.protocol import StoreFaultError
from embervlm.memory.store import LessonStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a store with five entries, one of them erased, one superseded."""
    path = tmp_path / "lessons.sqlite"
    fill(path)
    return path


def assert_file_is_refused(path: Path, part: str) -> None:
    content = path.read_bytes()
    assert_is_refused(path, part)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("UPDATE entries SET body = replace(body, 'Legs', 'Wheels') WHERE id = 2", "lesson 2"),
        ("UPDATE entries SET environment = 'paved' WHERE id = 4", "lesson 4"),
        ("UPDATE entries SET author = 'Bob' WHERE id = 4", "lesson 4"),
        ("UPDATE entries SET quarantined = 1 WHERE id = 1", "lesson 1"),
        ("UPDATE entries SET site = 'other' WHERE id = 1", "lesson 1"),
        ("UPDATE entries SET vector = zeroblob(32) WHERE id = 1", "lesson 1"),
        ("UPDATE entries SET body = '', vector = x'' WHERE id = 1", "lesson 1"),
        ("DELETE FROM entries WHERE id = 1", "lesson 1"),
        ("UPDATE entries SET id = 9 WHERE id = 5", "lesson 5"),
        (
            "INSERT INTO entries SELECT 9, 'k', site, author, at_us, environment, request, "
            "quarantined, body, vector FROM entries WHERE id = 1",
            "put in",
        ),
        ("UPDATE events SET kind = 'forget' WHERE seq = 1", "event 1"),
        ("UPDATE events SET kind = 'nothing' WHERE seq = 6", "event 6"),
        ("UPDATE events SET entry = 4 WHERE seq = 6", "event 6"),
        ("UPDATE events SET digest = zeroblob(32) WHERE seq = 3", "event 3"),
        ("UPDATE events SET author = 'Bob', at_us = 0 WHERE seq = 2", "event 2"),
        ("DELETE FROM events WHERE seq = 2", "event 3"),
        ("DELETE FROM events WHERE seq = 1", "event 2"),
        ("DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)", "lesson 3"),
        ("DELETE FROM events WHERE seq > 5", "lesson 3"),
        ("DELETE FROM events", "put in"),
        ("DELETE FROM sqlite_sequence", "put in"),
        ("UPDATE events SET seq = seq + 1 WHERE seq = 7", "event 8"),
        ("UPDATE events SET at_us = 'soon' WHERE seq = 2", "event 2"),
        ("UPDATE events SET content = 'text' WHERE seq = 2", "event 2"),
        ("DROP TABLE entries", "entries"),
        ("PRAGMA user_version = 99", "newer embervlm (schema 99)"),
        ("PRAGMA application_id = 1", "something else"),
    ],
)
def test_a_change_from_outside_is_noticed(path: Path, statement: str, part: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()
    assert_file_is_refused(path, part)


def test_a_forged_event_is_noticed_while_the_store_is_open(path: Path) -> None:
    store = LessonStore(path)
    assert ids(store) == [1, 4, 5]
    db = sqlite3.connect(path)
    db.execute(
        "INSERT INTO events SELECT NULL, 'forget', 1, NULL, site, at_us, author, content, digest "
        "FROM events WHERE seq = 1"
    )
    db.commit()
    assert store.search(vector(0), "rough", at_least=-1, k=3) == []
    assert "event 8 of its log was changed" in store.fault


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zero(content: bytes) -> bytes:
    return bytes(len(content))


def zero_the_middle(content: bytes) -> bytes:
    a, b = len(content) // 3, 2 * len(content) // 3
    return content[:a] + bytes(b - a) + content[b:]


def turn_to_text(content: bytes) -> bytes:
    return b"These are not the lessons you are looking for.\n" * 99


@pytest.mark.parametrize("damage", [cut, zero, zero_the_middle, turn_to_text])
def test_a_damaged_file_is_refused(path: Path, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(path.read_bytes()))
    assert_file_is_refused(path, "")


def test_single_flipped_bytes_never_crash_and_never_change_what_is_found(path: Path) -> None:
    content = path.read_bytes()
    sound = LessonStore(path)
    before = [sound.search(vector(n), "rough", at_least=-1, k=3) for n in range(4)]
    sound.close()
    refused = 0
    for at in range(7, len(content), len(content) // 97):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        store = LessonStore(path)
        fault = store.fault
        after = [store.search(vector(n), "rough", at_least=-1, k=3) for n in range(4)]
        store.close()
        assert after == ([[]] * 4 if fault else before)
        refused += bool(fault)
    assert refused > 0


def test_a_file_that_was_moved_away_is_not_written_to(path: Path) -> None:
    store, moved = LessonStore(path), path.with_name("elsewhere.sqlite")
    assert ids(store) == [1, 4, 5]
    path.rename(moved)
    assert ids(store) == []
    assert store.add(correction("new"), vector(9)).id == 1
    assert ids(store) == ids(LessonStore(path)) == [1]
    assert ids(LessonStore(moved)) == [1, 4, 5]
    # Another file in its place is read from its own beginning.
    moved.replace(path)
    assert ids(store) == [1, 4, 5]


def test_damage_is_forgotten_when_the_file_was_moved_away(path: Path) -> None:
    rows = list(LessonStore(path).export())
    path.write_bytes(zero_the_middle(path.read_bytes()))
    store = LessonStore(path)
    assert "move the file away" in store.fault
    path.rename(path.with_name("damaged.sqlite"))
    assert store.fault == ""
    LessonStore(path).import_rows(rows)
    assert len(ids(store)) == 3
    assert store.add(correction("new"), vector(9)).id == 4


def test_an_empty_file_is_an_empty_store(tmp_path: Path) -> None:
    # What is left when a process ends between making the file and writing to it.
    path = tmp_path / "lessons.sqlite"
    path.touch()
    store = LessonStore(path)
    assert store.fault == ""
    assert store.entries() == []
    assert store.add(correction("one"), vector(1)).id == 1


def test_a_folder_or_another_database_is_refused(tmp_path: Path) -> None:
    assert "cannot be used now" in LessonStore(tmp_path).fault
    other = tmp_path / "other.sqlite"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE photos (name)")
    db.close()
    assert_file_is_refused(other, "database of something else")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_lessons_that_only_the_journal_holds_do_not_vanish_without_a_word(
    path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copied"
    folder.mkdir()
    with LessonStore(path) as store:
        store.add(correction("one more"), vector(9))
        for name in (path.name, f"{path.name}-wal"):
            shutil.copy(path.with_name(name), folder)
    folder.chmod(0o500)
    try:
        assert "lessons that only its -wal file holds" in LessonStore(folder / path.name).fault
    finally:
        folder.chmod(0o700)
    assert len(ids(LessonStore(folder / path.name))) == 4


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_still_read(path: Path) -> None:
    path.parent.chmod(0o500)
    path.chmod(0o400)
    try:
        store = LessonStore(path)
        assert ids(store) == [1, 4, 5]
        with pytest.raises(StoreFaultError, match="cannot be used now"):
            store.forget(1)
    finally:
        path.parent.chmod(0o700)
