"""PostgreSQL under a store: restarts, locks, silence, damage, secrets, and several at once."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from keeping import Clock, correction, fill, ids, vector
from postgres_server import Server
from refusing import assert_is_refused
from typer.testing import CliRunner

from embervlm import cli
from embervlm.memory.protocol import Quotas, StoreFaultError
from embervlm.memory.store import LessonStore

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed (the extra postgres)")

from embervlm.memory import postgres as module  # noqa: E402

Do = Callable[[str], None]


@pytest.fixture
def do(postgres: Server) -> Do:
    """Carry out a statement from outside."""

    def execute(statement: str) -> None:
        with psycopg.connect(postgres.address(), autocommit=True) as db:
            db.execute("SET search_path = embervlm_lessons")
            db.execute(statement)

    return execute


def found(store: LessonStore, number: int) -> list[int]:
    return [e.id for e, _ in store.search(vector(number), "rough", at_least=0.9, k=3)]


def test_looking_makes_nothing_and_the_first_entry_makes_the_tables(address: str) -> None:
    store = LessonStore(address)
    assert store.entries() == []
    assert store.fault == ""
    assert store.stats()["size_bytes"] == 0
    with psycopg.connect(address) as db:
        assert db.execute("SELECT to_regnamespace('embervlm_lessons')").fetchone() == (None,)
    store.add(correction("look"), vector(1))
    stats = store.stats()
    assert stats["path"] == address
    assert stats["size_bytes"] > 0
    with psycopg.connect(address) as db:
        assert db.execute("SELECT version, seq FROM embervlm_lessons.head").fetchall() == [
            (module.SCHEMA_VERSION, 1)
        ]
        columns = db.execute(
            "SELECT table_name, string_agg(column_name, ' ' ORDER BY ordinal_position) FROM "
            "information_schema.columns WHERE table_schema = 'embervlm_lessons' GROUP BY 1"
        ).fetchall()
    assert dict(columns) == {
        "entries": "id key site author at_us environment request quarantined body vector",
        "events": "seq kind entry target site at_us author content digest",
        "head": "is_head version seq",
        "words": "entry lexemes",
    }


def test_an_export_of_one_database_imports_into_the_other(address: str, path: Path) -> None:
    here, there = LessonStore(path, now=Clock()), LessonStore(address, now=Clock())
    here.add(correction("reach the château's roof", photo="ab"), vector(1), author="Ada")
    here.add(correction("look under \0 the \ud800 bridge".replace("\ud800", "?")), vector(2))
    rows = list(here.export())
    assert there.import_rows(rows).added == 2
    assert json.dumps(list(there.export())) == json.dumps(rows)
    back = LessonStore(path.with_name("back.sqlite"), now=Clock())
    assert back.import_rows(there.export()).added == 2
    assert json.dumps(list(back.export())) == json.dumps(rows)


def test_what_another_server_writes_is_found_at_the_next_read(address: str) -> None:
    one, other = LessonStore(address), LessonStore(address)
    one.add(correction("one"), vector(1))
    assert found(other, 1) == [1]
    other.add(correction("two"), vector(2))
    assert found(one, 2) == [2]
    other.forget(1)
    assert ids(one) == [2]


def test_a_quota_holds_however_many_write_at_once(address: str) -> None:
    refused, faults = [], []

    def work(name: int) -> None:
        store = LessonStore(address, quotas=Quotas(active=20))
        try:
            for number in range(5):
                store.add(correction(f"{name}-{number}"), vector(number), author="Mallory")
        except StoreFaultError as error:
            faults.append(error)
        except ValueError as error:
            refused.append(error)

    # The tables are not there yet either: eight servers start at once.
    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    store = LessonStore(address)
    assert ids(store) == list(range(1, 21))
    assert refused


def test_a_restart_between_two_decisions_goes_unnoticed(address: str, postgres: Server) -> None:
    store = LessonStore(address)
    store.add(correction("one"), vector(1))
    postgres.control("restart", "-m", "fast")
    assert found(store, 1) == [1]
    assert store.missed == (0, "")
    postgres.control("restart", "-m", "immediate")
    assert store.add(correction("two"), vector(2)).id == 2
    assert ids(LessonStore(address)) == [1, 2]


def test_a_restart_in_the_middle_of_writing_loses_nothing_acknowledged(
    address: str, postgres: Server
) -> None:
    acknowledged: list[str] = []
    is_over, ended_well = threading.Event(), []

    def work(name: str) -> None:
        store, number = LessonStore(address, quotas=None), 0
        while not (is_over.is_set() and ended_well.count(name)):
            number += 1
            try:
                store.add(correction(f"{name}-{number}"), vector(number))
            except StoreFaultError:
                continue
            acknowledged.append(f"{name}-{number}")
            if is_over.is_set():
                ended_well.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for mode in ("fast", "immediate"):
        before = len(acknowledged)
        until = time.monotonic() + 60
        while len(acknowledged) < before + 4:
            assert time.monotonic() < until, "nobody writes any more"
            time.sleep(0.01)
        postgres.control("restart", "-m", mode)
    is_over.set()
    for thread in threads:
        thread.join(60)
    assert sorted(ended_well) == ["one", "two"], "both go on behind the restart"
    kept = {entry.metadata["task"] for entry in LessonStore(address).entries()}
    assert set(acknowledged) <= kept


def test_while_the_server_is_down_deciding_goes_on(
    address: str, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(address)
    store = LessonStore(address)
    before = found(store, 0)
    assert before
    postgres.control("stop", "-m", "fast")
    try:
        assert found(store, 0) == []
        assert "cannot be used now" in store.missed[1]
        assert_is_refused(address, "cannot be used now")
    finally:
        postgres.start()
    monkeypatch.setattr(store._log.database, "_next_try_s", 0.0)
    assert found(store, 0) == before
    assert store.fault == ""


def test_a_server_that_cannot_be_reached_is_not_waited_for_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = []

    def connect(**_: object) -> None:
        tries.append(time.monotonic())
        time.sleep(0.1)
        raise psycopg.OperationalError("connection timeout expired")

    monkeypatch.setattr(psycopg, "connect", connect)
    store = LessonStore("postgresql://ember@192.0.2.1/fleet")
    for _ in range(20):
        assert store.search(vector(1), "rough", at_least=0, k=1) == []
    assert len(tries) == 1
    assert store.missed[0] == 20
    with pytest.raises(StoreFaultError, match="connection timeout expired"):
        store.add(correction("one"), vector(1))
    assert len(tries) == 2, "somebody who teaches has it tried"


def test_a_server_that_stands_still_is_cut_off(
    address: str, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LessonStore(address)
    store.add(correction("one"), vector(1))
    own = store._log.database.open(create=False).execute("SELECT pg_backend_pid()").fetchone()[0]
    monkeypatch.setattr(module, "_SILENT_S", 0.3)
    os.kill(own, signal.SIGSTOP)
    begun_s = time.monotonic()
    try:
        assert found(store, 1) == []
    finally:
        os.kill(own, signal.SIGCONT)
    assert time.monotonic() - begun_s < 5
    assert "no answer in 0.3 s" in store.missed[1]
    monkeypatch.setattr(module, "_SILENT_S", 10.0)
    assert found(store, 1) == [1]


def test_whoever_holds_the_lock_for_long_is_named_as_the_reason(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SETTINGS", module._SETTINGS.replace("30s", "200ms"))
    store = LessonStore(address)
    store.add(correction("one"), vector(1))
    with psycopg.connect(address) as holder:
        holder.execute("SELECT * FROM embervlm_lessons.head FOR UPDATE")
        with pytest.raises(StoreFaultError, match="has been held by another server"):
            store.add(correction("two"), vector(2))
        assert found(store, 1) == [1], "reading waits for nobody"
    assert store.add(correction("two"), vector(2)).id == 2


def test_a_connection_lost_while_writing_keeps_all_or_nothing(address: str, do: Do) -> None:
    store = LessonStore(address)
    store.add(correction("one"), vector(1))
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'embervlm'"
    )
    with pytest.raises(StoreFaultError, match="it may be kept or not; look"), store._log.writing():
        do(kill)
    with (
        pytest.raises(StoreFaultError, match="cannot be used now .*terminat"),
        store._log.writing() as db,
    ):
        store._insert(db, correction("two"), vector(2), "Ada", 0, "key", by="Ada")
        do(kill)
        db.execute("SELECT 1")
    assert ids(store) == [1]
    assert store.fault == ""


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("UPDATE entries SET body = replace(body, 'Legs', 'Wheels') WHERE id = 2", "lesson 2"),
        ("UPDATE entries SET quarantined = 1 WHERE id = 1", "lesson 1"),
        ("UPDATE entries SET site = 'other' WHERE id = 1", "lesson 1"),
        ("UPDATE entries SET body = '', vector = '' WHERE id = 1", "lesson 1"),
        (
            "INSERT INTO entries SELECT 9, 'k', site, author, at_us, environment, request, "
            "quarantined, body, vector FROM entries WHERE id = 1",
            "put in",
        ),
        ("UPDATE events SET kind = 'forget' WHERE seq = 1", "event 1"),
        ("UPDATE events SET author = 'Bob' WHERE seq = 2", "event 2"),
        ("DELETE FROM events WHERE seq = 2", "event 3"),
        ("DELETE FROM events WHERE seq = 7", "lesson 3"),
        ("DELETE FROM events WHERE seq > 5", "lesson 3"),
        ("DELETE FROM events", "put in"),
        ("UPDATE head SET seq = 4", "put in"),
        ("DELETE FROM head", "head of its log was taken out"),
        ("DROP TABLE events", "events"),
        ("DROP TABLE head", "something else"),
        ("UPDATE head SET version = 99", "newer embervlm (schema 99)"),
    ],
)
def test_a_change_from_outside_is_noticed(address: str, do: Do, statement: str, part: str) -> None:
    fill(address)
    do(statement)
    assert_is_refused(address, part)


def test_a_change_is_noticed_while_the_store_is_open(address: str, do: Do) -> None:
    fill(address)
    store = LessonStore(address)
    assert ids(store) == [1, 4, 5]
    do(
        "INSERT INTO events SELECT 8, 'forget', 1, NULL, site, at_us, author, content, digest "
        "FROM events WHERE seq = 1"
    )
    assert found(store, 0) == []
    assert "event 8 of its log was changed" in store.fault
    cut = LessonStore(address)
    do("DELETE FROM events WHERE seq = 8")
    assert ids(cut) == [1, 4, 5]
    do("DELETE FROM events WHERE seq = 7")
    assert "events were taken out" in cut.fault


def test_an_erased_entry_leaves_no_byte_in_the_tables(
    address: str, do: Do, postgres: Server
) -> None:
    store = LessonStore(address)
    store.add(correction("ask for Zaphod Beeblebrox"), vector(2))
    assert [e.id for e in store.entries(words="zaph")] == [1]
    store.forget(1, erase=True)
    do("CHECKPOINT")
    files = [file for file in (postgres.folder / "data/base").rglob("*") if file.is_file()]
    content = b"".join(file.read_bytes() for file in files)
    assert b"embervlm_lessons" in content, "the right files are read"
    for word in (b"Zaphod", b"zaphod", b"beeblebrox"):
        assert word not in content
    assert store.entries(words="zaph", retired=True) == []


def test_a_user_with_fewer_rights_reads_and_is_told_why_it_cannot_write(
    address: str, do: Do, postgres: Server
) -> None:
    fill(address)
    do("DROP ROLE IF EXISTS reader")
    do("CREATE ROLE reader LOGIN")
    store = LessonStore(postgres.address("reader"))
    assert "does not let this user into its schema" in store.fault
    do("GRANT USAGE ON SCHEMA embervlm_lessons TO reader")
    do("GRANT SELECT ON ALL TABLES IN SCHEMA embervlm_lessons TO reader")
    assert ids(store) == [1, 4, 5]
    with pytest.raises(StoreFaultError, match="cannot be used now .*permission denied"):
        store.forget(1)
    assert ids(store) == [1, 4, 5]
    do("DROP OWNED BY reader")


@pytest.mark.parametrize("secret", ["s3cr3t", "s3%40cr3t"])
def test_no_message_tells_the_password(postgres: Server, address: str, do: Do, secret: str) -> None:
    do("DROP ROLE IF EXISTS guarded")
    do("CREATE ROLE guarded LOGIN PASSWORD 'other'")
    store = LessonStore(f"postgresql://guarded:{secret}@/postgres?host={postgres.folder}")
    assert "password authentication failed" in store.fault
    with pytest.raises(StoreFaultError) as caught:
        store.stats()
    for told in (store.fault, str(caught.value), store._log.database.name):
        assert "cr3t" not in told
    assert "guarded:***@" in store.fault
    named = postgres.address("guarded") + f"&password={secret}"
    assert "cr3t" not in LessonStore(named).fault


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql:/ember:s3cr3t@host/db",
        "postgresql://ember:s3/cr3t@host/db",
        "postgresql://ember:s3@cr3t@host/db",
        "postgresql://ember:s3%zzcr3t@host/db",
        "postgresql://ember@host/db?passwrd=s3cr3t",
        "postgresql://ember:s3cr3t@host:port/db",
        "postgres:s3cr3t",
    ],
)
def test_a_wrong_address_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no address of a database; expected such as") as caught:
        LessonStore(wrong)
    assert "cr3t" not in str(caught.value)
    with pytest.raises(ValueError, match="is no address"):
        LessonStore(Path("postgresql://ember@host/db"))


def test_without_psycopg_a_sentence_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "embervlm.memory.postgres")
    with pytest.raises(ValueError, match=r"pip install 'embervlm\[postgres\]'"):
        LessonStore("postgresql://ember@host/db")


def test_the_commands_take_an_address(tiny_model: Path, address: str, postgres: Server) -> None:
    def run(*words: object, model: bool = True) -> tuple[int, str, str]:
        more = ["--model", str(tiny_model)] if model else []
        done = CliRunner().invoke(cli.app, [str(w) for w in words] + ["--memory", address, *more])
        return done.exit_code, done.stdout, done.stderr

    task = "look under the bridge"
    plain = json.loads(run("decide", task, "--json")[1])["robots"]
    for name in ("Drone", "Robot with Legs", "Humanoid", "Robot with Wheels"):
        if plain != [name]:
            code, out, _ = run("memory", "add", "--task", task, "--robots", name)
            if code == 0:
                break
    assert f"Send the {name}" in out
    decided = json.loads(run("decide", task, "--json")[1])
    assert decided["robots"] == [name]
    assert decided["lessons"]
    assert task in run("memory", "list", "bridge", "--json", model=False)[1]
    postgres.control("stop", "-m", "fast")
    try:
        code, out, err = run("decide", task, "--json")
        assert (code, json.loads(out)["robots"]) == (0, plain)
        assert "cannot be used now" in err
        assert err.endswith("It was decided without lessons.\n")
        assert err.count("\n") == 1
        assert run("memory", "list", model=False)[0] == 2
    finally:
        postgres.start()
