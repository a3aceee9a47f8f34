"""The store does what a plain model of it does, keeps it, and keeps sites apart."""

import json
import random
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from keeping import Clock, correction, ids, vector

from embervlm.memory import sqlite
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.protocol import Quotas, StoreFaultError
from embervlm.memory.sqlite import IN_MEMORY, PAGE_BYTES, SCHEMA, SCHEMA_VERSION, migrate
from embervlm.memory.store import LessonStore


def found(store: LessonStore, direction: np.ndarray, at_least: float = 0.9) -> list[int]:
    return [e.id for e, _ in store.search(direction, "rough", at_least=at_least, k=3)]


def test_looking_makes_no_file_and_the_first_entry_does(path: Path) -> None:
    store = LessonStore(path)
    assert store.entries() == []
    assert store.fault == ""
    assert found(store, vector(1)) == []
    assert store.stats()["in_force"] == 0
    assert not path.parent.exists()
    store.add(correction("look"), vector(1))
    store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, path.name + ".lock"]
    assert path.stat().st_mode & 0o077 == 0


def test_what_was_added_is_there_after_reopening(place: str) -> None:
    with LessonStore(place, now=Clock()) as store:
        kept = store.add(
            correction("look under the bridge", "Robot with Legs", needs={"actions": ["look"]}),
            vector(1),
            author="Ada",
        )
        before = store.search(vector(1) + 0.01, "rough", at_least=0.5, k=3)
    assert kept.id == 1
    assert kept.metadata["time"] == "2026-05-03T10:00:01+00:00"
    assert kept.metadata["author"] == "Ada"
    assert kept.metadata["site"] == "default"
    with LessonStore(place) as store:
        assert store.get(1) == kept
        assert store.search(vector(1) + 0.01, "rough", at_least=0.5, k=3) == before
        assert store.status(1) == "in force"


def test_search_equals_a_plain_product(path: Path) -> None:
    store = LessonStore(path, quotas=None)
    vectors = [vector(seed) for seed in range(150)]
    for number, one in enumerate(vectors):
        place = ("rough", "paved")[number % 2]
        store.add(correction(f"request {number}", place=place), one)
    rows = np.stack([one / np.linalg.norm(one) for one in vectors])
    asked = vector(999)
    cosines = rows @ (asked / np.linalg.norm(asked))
    expected = sorted(range(0, 150, 2), key=lambda i: -cosines[i])[:5]
    got = store.search(asked, "rough", at_least=-1, k=5)
    assert [entry.id - 1 for entry, _ in got] == expected
    assert [cosine for _, cosine in got] == pytest.approx(cosines[expected], abs=2e-3)
    assert store.search(asked, "rough", at_least=2, k=5) == []
    assert store.search(asked, "underwater", at_least=-1, k=5) == []
    assert store.search(vector(1, width=7), "rough", at_least=-1, k=5) == []


def test_the_same_request_supersedes_and_a_quarantined_one_does_not(place: str) -> None:
    store = LessonStore(place)
    store.add(correction("Look  under the bridge"), vector(1))
    newer = store.add(correction("look under the BRIDGE", "Humanoid"), vector(1))
    assert newer.metadata["supersedes"] == 1
    assert ids(store) == [2]
    assert store.status(1) == "retired"
    store.add(correction("look under the bridge", quarantine="It cannot."), vector(1))
    assert ids(store) == [2, 3]
    assert store.status(3) == "quarantined"
    assert found(store, vector(1)) == [2]
    other = store.add(correction("look under the bridge", photo="ab"), vector(1))
    assert "supersedes" not in other.metadata


def test_forget_and_rollback_restore_what_was_found(place: str) -> None:
    clock = Clock()
    store = LessonStore(place, now=clock)
    store.add(correction("one"), vector(1))
    asked = vector(1) + vector(2)
    before, then = store.search(asked, "rough", at_least=0.1, k=3), clock.time
    store.add(correction("one", "Humanoid"), vector(1))
    store.add(correction("two"), vector(2))
    store.forget(3)
    later = clock.time
    assert ids(store) == [2]
    assert store.rollback(then) == (1, 1)
    assert store.search(asked, "rough", at_least=0.1, k=3) == before
    assert store.rollback(later) == (1, 1)
    assert ids(store) == [2]
    assert store.rollback(then - timedelta(days=1)) == (0, 1)
    assert ids(store) == []
    store.add(correction("one"), vector(1))
    assert ids(store) == [4]
    with pytest.raises(ValueError, match="Nothing has changed since 2027"):
        store.rollback(datetime(2027, 1, 1))
    again = LessonStore(place)
    assert ids(again) == [4]
    assert [e.id for e in again.entries(retired=True)] == [1, 2, 3, 4]


def test_what_a_forgotten_entry_had_replaced_comes_back(place: str) -> None:
    store = LessonStore(place)
    for robot in ("Humanoid", "Drone", "Robot with Legs"):
        store.add(correction("one", robot), vector(1))
    assert store.forget(3) == (2,)
    assert found(store, vector(1)) == ids(store) == [2]
    again = LessonStore(place)
    assert ids(again) == [2]
    assert again.forget(2, erase=True) == (1,)
    assert store.forget(1) == ()
    assert ids(store) == ids(again) == []
    # A newer word on the same request stands, and what was forgotten itself stays away.
    store.add(correction("two"), vector(2))
    store.add(correction("three"), vector(3))
    store.supersede(4, by=5)
    store.add(correction("two", "Humanoid"), vector(2))
    assert store.forget(5) == ()
    assert ids(store) == [6]


def test_an_erased_entry_breaks_no_way_back(place: str) -> None:
    store = LessonStore(place)
    for robot in ("Humanoid", "Drone", "Robot with Legs", "Robot with Wheels"):
        store.add(correction("one", robot), vector(1))
    for number in (3, 2):
        assert store.forget(number, erase=True) == ()
    assert store.forget(4) == (1,)
    assert ids(store) == ids(LessonStore(place)) == [1]


def test_faults_are_sentences(place: str) -> None:
    store = LessonStore(place)
    with pytest.raises(ValueError, match="There is no lesson 7 at the site 'default'"):
        store.get(7)
    store.add(correction("one"), vector(1))
    store.forget(1)
    for fault in (
        lambda: store.forget(1),
        lambda: store.supersede(1, 1),
        lambda: store.add(correction("two"), np.full(4, np.nan, np.float32)),
        lambda: store.add(correction("two"), vector(1), author="\x1b"),
        lambda: store.add(correction("two"), vector(1), author="x" * 61),
        lambda: LessonStore(place, site=""),
    ):
        with pytest.raises(ValueError):
            fault()
    assert ids(store) == []


def test_an_erased_entry_leaves_no_byte_and_never_comes_back(path: Path) -> None:
    clock = Clock()
    store = LessonStore(path, now=clock)
    store.add(correction("one"), vector(1))
    store.add(correction("ask for Zaphod Beeblebrox"), vector(2))
    then = clock.time
    store.forget(2, erase=True)
    assert ids(store) == [1]
    with pytest.raises(ValueError, match="Lesson 2 was erased"):
        store.get(2)
    with pytest.raises(ValueError, match="Lesson 2 is not in force"):
        store.forget(2)
    events = store.stats()["events"]
    assert store.forget(2, erase=True) == ()
    assert store.stats()["events"] == events
    store.rollback(then - timedelta(seconds=1))
    store.rollback(then)
    assert ids(store) == [1]
    store.close()
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for word in (b"Zaphod", b"zaphod", b"beeblebrox"):
        assert word not in content
    again = LessonStore(path)
    assert again.fault == ""
    assert ids(again) == [1]
    assert again.entries(words="Zaphod", retired=True) == []


def test_an_erasure_is_told_to_be_unfinished_while_another_process_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_CHECKPOINT_S", 0.01)
    store = LessonStore(path)
    store.add(correction("ask for Zaphod Beeblebrox"), vector(1))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entries").fetchone()

    def remains() -> bool:
        return b"Zaphod" in b"".join(file.read_bytes() for file in path.parent.iterdir())

    with pytest.raises(StoreFaultError, match="being read by another process, so its journal"):
        store.forget(1, erase=True)
    assert remains()
    reader.close()
    assert store.forget(1, erase=True) == ()
    assert not remains()


def test_words_are_found_in_content_and_request_and_are_no_query_language(place: str) -> None:
    store = LessonStore(place)
    store.add(correction("reach the château's roof"), vector(1))
    store.add(correction("look under the bridge", "Humanoid"), vector(2))
    assert [e.id for e in store.entries(words="chateau roo")] == [1]
    assert [e.id for e in store.entries(words="send")] == [1, 2]
    assert [e.id for e in store.entries(words="HUMANOID bridge")] == [2]
    for hostile in ('"', "a OR b", "NEAR(", "text:x", "'; DROP TABLE entries; --", "*"):
        store.entries(words=hostile)
    assert [e.id for e in store.entries(words="*")] == [1, 2]


def test_one_site_never_sees_another(place: str) -> None:
    here, there = LessonStore(place, site="here"), LessonStore(place, site="there")
    here.add(correction("one"), vector(1))
    there.add(correction("one", "Humanoid"), vector(1))
    assert ids(here) == [1]
    assert ids(there) == [2]
    assert found(there, vector(1)) == [2]
    assert [e.id for e in there.entries(words="one", retired=True)] == [2]
    for read in (there.get, there.status, there.direction, there.forget):
        with pytest.raises(ValueError, match="no lesson 1 at the site 'there'"):
            read(1)
    assert there.rollback(datetime(2020, 1, 1)) == (0, 1)
    assert ids(here) == [1]
    assert here.stats()["events"] == 1


def test_a_hostile_author_meets_a_quota_and_moves_nobody_else(path: Path) -> None:
    clock = Clock()
    store = LessonStore(path, now=clock, quotas=Quotas(active=150, daily=100))
    good = store.add(correction("the one true request", "Humanoid"), vector(10_000), author="Ada")
    refused = 0
    for number in range(500):
        try:
            store.add(correction(f"request {number}"), vector(number), author="Mallory")
        except ValueError as error:
            assert "'Mallory' has added 100 lessons in 24 hours" in str(error)
            refused += 1
    assert refused == 400
    assert found(store, vector(10_000)) == [good.id]
    assert LessonStore(path, site="other").entries() == []
    clock.time += timedelta(days=1, seconds=1)
    with pytest.raises(ValueError, match="'Mallory' has 150 lessons in force"):
        for number in range(500, 600):
            store.add(correction(f"request {number}"), vector(number), author="Mallory")
    store.add(correction("another"), vector(10_001), author="Ada")
    # A clock that is put back does not open the gate of what is in force.
    clock.time -= timedelta(days=30)
    with pytest.raises(ValueError, match="'Mallory' has"):
        store.add(correction("yet another"), vector(3), author="Mallory")


def test_a_day_s_quota_counts_what_was_added_here_by_now(place: str) -> None:
    clock = Clock()
    with LessonStore(IN_MEMORY, now=clock) as other:
        for number in range(3):
            other.add(correction(f"there {number}"), vector(number), author="Ada")
        rows = list(other.export())
    LessonStore(place, now=clock, quotas=Quotas(daily=2)).import_rows(rows, author="Ada")
    clock.time += timedelta(days=400)  # a clock that went wrong, and is put right below
    again = LessonStore(place, now=clock, quotas=Quotas(daily=2))
    for number in range(2):
        again.add(correction(f"later {number}"), vector(number), author="Ada")
    clock.time -= timedelta(days=400)
    for number in range(2):
        again.add(correction(f"here {number}"), vector(number), author="Ada")
    with pytest.raises(ValueError, match="'Ada' has added 2 lessons in 24 hours"):
        again.add(correction("one more"), vector(9), author="Ada")


def test_times_in_the_log_never_go_back(place: str) -> None:
    clock = Clock()
    store = LessonStore(place, now=clock)
    store.add(correction("one"), vector(1))
    then = clock.time
    clock.time -= timedelta(days=400)
    store.add(correction("two"), vector(2))
    store.rollback(then - timedelta(seconds=1))
    assert ids(store) == []


def test_an_import_twice_is_once(place: str, tmp_path: Path) -> None:
    store = LessonStore(place, now=Clock(), quotas=Quotas(daily=3))
    for number in range(3):
        store.add(correction(f"request {number}"), vector(number), author="Ada")
    store.add(correction("request 1", "Humanoid"), vector(1), author="Bob")
    rows = [json.loads(json.dumps(row)) for row in store.export()]
    assert [row["id"] for row in rows] == [1, 3, 4]
    other = LessonStore(tmp_path / "other.sqlite", site="elsewhere", quotas=Quotas(daily=1))
    for expected in ((3, 0, 0), (0, 3, 0)):
        done = other.import_rows(rows, author="admin")
        assert (done.added, done.known, done.older) == expected
    assert [e.content for e in other.entries()] == [row["content"] for row in rows]
    assert {e.metadata["site"] for e in other.entries()} == {"elsewhere"}
    for seed, number in ((0, 1), (2, 2), (1, 3)):
        assert found(other, vector(seed)) == [number]
        assert np.array_equal(other.direction(number), store.direction(rows[number - 1]["id"]))
    again = [json.loads(json.dumps(row)) for row in other.export()]
    for one, row in zip(again, rows, strict=True):
        del one["id"], row["id"], one["metadata"]["site"], row["metadata"]["site"]
        row["metadata"].pop("supersedes", None)
        assert one == row
    # What was forgotten stays forgotten, and an old backup does not overrule a newer word.
    other.forget(1)
    newer = other.add(correction("request 2", "Humanoid"), vector(2))
    again_done = other.import_rows(rows)
    assert (again_done.known, again_done.retired) == (3, 2)
    for row in rows:
        row["metadata"]["key"] += "x"
    assert other.import_rows(rows).older == 1
    assert newer.id in ids(other)


def test_a_correction_is_newer_than_what_it_replaces_whatever_the_clock_was() -> None:
    store = LessonStore(IN_MEMORY, now=Clock())
    store.add(correction("one", "Drone"), vector(1))
    first = [json.loads(json.dumps(row)) for row in store.export()]
    first[0]["metadata"] |= {"time": "2030-01-01T00:00:00+00:00", "key": "another"}
    store.import_rows(first)
    newest = store.add(correction("one", "Humanoid"), vector(1))
    assert newest.metadata["time"] == "2030-01-01T00:00:01+00:00"
    other = LessonStore(IN_MEMORY, now=Clock())
    other.import_rows(first)
    assert other.import_rows(store.export()).added == 1
    assert [e.content for e in other.entries()] == ["Send the Humanoid."]
    # Behind the last moment that there is comes no other.
    first[0]["metadata"] |= {"time": "9999-12-31T23:59:59.999999+00:00", "key": "a third"}
    other.import_rows(first)
    assert other.add(correction("one"), vector(1)).metadata["supersedes"] == 3


@pytest.mark.parametrize(
    "change",
    [
        {"vector": "?"},
        {"vector": ""},
        {"vector": 7},
        {"vector": "AHwAfA=="},
        {"content": ""},
        {"more": 1},
        {"metadata": {}},
        {"metadata": {"key": "k", "author": "a", "time": "yesterday"}},
        {"metadata": {"key": "k", "author": "a", "time": "2026-05-03", "task": 7}},
        {"metadata": {"key": "k", "author": "\x1b", "time": "2026-05-03"}},
        *(
            {"metadata": {"key": "k", "author": "a", "time": "2026-05-03", **about}}
            for about in (
                {"missed": [1]},
                {"missed": {"smoke": "yes"}},
                {"misread": "snow"},
                {"robots": [7]},
                {"needs": 5},
                {"needs": {"limits": [1]}},
                {"needs": {"actions": "look"}},
            )
        ),
    ],
)
def test_a_bad_row_imports_nothing(place: str, change: dict) -> None:
    store = LessonStore(place)
    store.add(correction("one"), vector(1))
    (row,) = store.export()
    good = {**row, "metadata": {**row["metadata"], "key": "other", "task": "two"}}
    with pytest.raises(ValueError, match="Row 2 is no exported lesson"):
        store.import_rows([good, {**row, **change}])
    assert ids(store) == [1]


def test_the_schema_is_the_one_that_was_agreed() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db)
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert db.execute("PRAGMA application_id").fetchone() == (0x456D624C,)
    columns = {
        name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")]
        for name in ("entries", "events", "words")
    }
    assert columns == {
        "entries": "id key site author at_us environment request quarantined body vector".split(),
        "events": "seq kind entry target site at_us author content digest".split(),
        "words": ["text"],
    }


def test_a_file_of_version_1_is_brought_up_to_date(path: Path) -> None:
    store = LessonStore(path)
    store.add(correction("look under the bridge"), vector(1))
    store.close()
    # Version 1 had no full-text index.
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DROP TABLE words")
    db.execute("PRAGMA user_version = 1")
    db.close()
    for look in (
        lambda store: found(store, vector(1)),
        lambda store: [e.id for e in store.entries(words="bridge")],
    ):
        assert look(LessonStore(path)) == [1]
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_version_1_stays_as_it_was() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db, up_to=1)
    names = {name for name, _ in db.execute(SCHEMA)}
    assert names == {"entries", "events"} | ({"sqlite_sequence"} & names)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)


def test_an_entry_takes_at_most_two_kilobytes(path: Path) -> None:
    store = LessonStore(path, quotas=None)
    task = "Third floor east, lift dead since the quake. The 18 kg oxygen concentrator has to go up"
    needs = {
        "actions": ["carry", "handle"],
        "environment": "indoor_cluttered",
        "limits": {"load_kg": 18.0, "stairs": True, "doors": True},
    }
    source = {"robots": ["Robot with Wheels"], "confidence": 0.8123, "lessons": []}
    rows = []
    for number in range(300):
        entry = MemoryEntry(
            "correction",
            "Send the Humanoid, not the Robot with Wheels, which cannot take stairs: the lift is "
            f"dead, number {number}.",
            metadata={
                "task": f"{task} to ward {number}, and someone must pull the fire doors open.",
                "photo": "0123456789abcdef",
                "environment": "indoor_cluttered",
                "needs": needs,
                "robots": ["Humanoid"],
                "source_decision": source,
            },
        )
        rows.append((entry, vector(number, 384)))
    sizes = []
    for part in (rows[:150], rows[150:]):
        with store._log.writing() as db:  # one transaction: 150 commits would only take time
            for entry, direction in part:
                key = f"{len(sizes)}-{entry.content[-8:]}"
                store._insert(db, entry, direction, "Ada", 0, key, by="Ada")
        store.close()
        sizes.append(path.stat().st_size)
    # Nine tables and indices have a page each from the start.
    assert (sizes[1] - sizes[0]) / 150 <= 2000
    assert sizes[0] <= 150 * 2000 + 9 * PAGE_BYTES


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_operations_equals_a_plain_model(
    seed: int, request: pytest.FixtureRequest
) -> None:
    # The first file is a database: what these operations mean is the log's, which both share.
    place = str(request.getfixturevalue("path" if seed else "address"))
    draw, clock = random.Random(seed), Clock()
    store = LessonStore(place, now=clock, quotas=None)
    log: list[tuple[datetime, frozenset[int]]] = [(clock.time, frozenset())]
    # Which entry superseded which, behind each entry of the log.
    retired_by: list[dict[int, int]] = [{}]
    requests: dict[int, str] = {}
    quarantined: set[int] = set()

    def now_in_force() -> frozenset[int]:
        return log[-1][1]

    for _ in range(60):
        act = draw.choice("add add add add same bad forget supersede rollback reopen other".split())
        active = sorted(now_in_force())
        after, retired = None, {}
        if act in ("add", "same", "bad"):
            task = f"request {draw.randrange(8)}" if act == "same" else f"new {clock.time}"
            number = len(requests) + 1
            bad = {"quarantine": "No."} if act == "bad" else {}
            kept = store.add(correction(task, **bad), vector(number))
            assert kept.id == number
            same = {i for i in active if requests[i] == task and i not in quarantined}
            requests[number] = task
            quarantined |= {number} if bad else set()
            after = now_in_force() - (set() if bad else same) | {number}
            retired = {} if bad else dict.fromkeys(same, number)
        elif act == "forget" and active:
            gone = draw.choice(active)
            back = {i for i, by in retired_by[-1].items() if by == gone}
            after = now_in_force() - {gone}
            answered = {requests[i] for i in after - quarantined}
            back = {i for i in back if i in quarantined or requests[i] not in answered}
            assert store.forget(gone) == tuple(sorted(back))
            after |= back
        elif act == "supersede" and len(active) > 1:
            gone, by = draw.sample(active, 2)
            store.supersede(gone, by)
            after = now_in_force() - {gone}
            retired = {gone: by}
        elif act == "rollback" and len(log) > 1:
            then = draw.randrange(len(log) - 1)
            store.rollback(log[then][0])
            after, retired = log[then][1], retired_by[then]
        elif act == "reopen":
            store.close()
            store = LessonStore(place, now=clock, quotas=None)
        elif act == "other":
            LessonStore(place, site="other").entries()
        if after is not None:
            log.append((clock.time, frozenset(after)))
            known = {} if act == "rollback" else retired_by[-1]
            retired_by.append({i: n for i, n in {**known, **retired}.items() if i not in after})
        assert ids(store) == sorted(now_in_force())
        usable = sorted(now_in_force() - quarantined)
        got = store.search(vector(1), "rough", at_least=-1, k=999)
        assert sorted(entry.id for entry, _ in got) == usable


def test_a_store_in_memory_is_its_own(tmp_path: Path) -> None:
    one, other = LessonStore(IN_MEMORY), LessonStore(IN_MEMORY)
    one.add(correction("one"), vector(1))
    assert ids(one) == [1]
    assert ids(other) == []
