"""What was acknowledged is kept: processes killed while they learn, threads and processes at once.

EMBERVLM_TEST_KILLS=100 and EMBERVLM_TEST_WRITERS=8+3 (threads + processes) ask for more.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from keeping import correction, vector

from embervlm.memory.home import is_address
from embervlm.memory.locking import locked
from embervlm.memory.store import IN_MEMORY, LessonStore

KILLS = os.environ.get("EMBERVLM_TEST_KILLS")
THREADS, PROCESSES = map(int, os.environ.get("EMBERVLM_TEST_WRITERS", "4+2").split("+"))
EACH = 12


def start(place: str, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("keeping.py")), place, name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [*command, str(count)], stdout=subprocess.PIPE, text=True, env=environment
    )


def tasks(place: str) -> list[str]:
    with LessonStore(place) as store:
        assert store.fault == ""
        return [entry.metadata["task"] for entry in store.entries()]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_no_acknowledged_entry_is_lost_when_the_process_is_killed(place: str) -> None:
    draw, kills = random.Random(0), int(KILLS or (5 if is_address(place) else 20))
    acknowledged: list[str] = []
    for number in range(kills):
        process = start(place, f"run{number}", 1_000_000)
        assert process.stdout is not None
        # Killed a little after some acknowledgement, anywhere in the work on the next ones.
        for _ in range(draw.randrange(1, 4)):
            acknowledged.append(process.stdout.readline().strip())
        if draw.random() < 0.5:
            threading.Event().wait(draw.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")
        acknowledged += [line for line in rest[:-1] if line]
        process.wait()
    kept = tasks(place)
    assert len(acknowledged) >= kills
    assert set(acknowledged) <= set(kept)
    assert len(kept) == len(set(kept))


def test_no_update_is_lost_among_threads_and_processes(place: str) -> None:
    shared = LessonStore(place, quotas=None)
    faults: list[Exception] = []

    def work(name: str, store: LessonStore) -> None:
        try:
            for number in range(EACH):
                store.add(correction(f"{name}-{number}"), vector(number))
                store.search(vector(number), "rough", at_least=0.9, k=3)
        except Exception as error:  # noqa: BLE001
            faults.append(error)

    # Half of the threads share a store, the others have their own.
    stores = [shared if i % 2 else LessonStore(place, quotas=None) for i in range(THREADS)]
    threads = [
        threading.Thread(target=work, args=(f"thread{i}", store)) for i, store in enumerate(stores)
    ]
    processes = [start(place, f"process{i}", EACH) for i in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert faults == []
    names = [f"thread{i}" for i in range(THREADS)] + [f"process{i}" for i in range(PROCESSES)]
    expected = {f"{name}-{number}" for name in names for number in range(EACH)}
    kept = tasks(place)
    assert set(kept) == expected
    assert len(kept) == len(expected)
    assert {e.metadata["task"] for e in shared.entries()} == expected


def test_an_entry_of_another_process_is_found_at_once(place: str) -> None:
    store = LessonStore(place)
    store.add(correction("mine"), vector(77))
    process = start(place, "other", 1)
    process.communicate()
    found = store.search(vector(0), "rough", at_least=0.99, k=1)
    assert [entry.metadata["task"] for entry, _ in found] == ["other-0"]


def test_who_waits_to_write_keeps_nobody_from_reading(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LessonStore(path)
    store.add(correction("one"), vector(1))
    waits, release = threading.Event(), threading.Event()

    def pause(_: float) -> None:
        waits.set()
        release.wait(20)

    monkeypatch.setattr(time, "sleep", pause)
    writer = threading.Thread(target=store.add, args=(correction("two"), vector(2)))
    with locked(path.with_name(path.name + ".lock"), 1.0):  # as another process holds it
        writer.start()
        assert waits.wait(20)
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.append(store.usable()))
        reader.start()
        reader.join(20)
        assert found == [1]
    release.set()
    writer.join()
    assert store.usable() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("is_written", [False, True])
def test_a_process_forked_while_another_thread_uses_the_store_uses_it_too(
    place: str, is_written: bool
) -> None:
    store, private = LessonStore(place), LessonStore(IN_MEMORY)
    for one in (store, private):
        one.add(correction("one"), vector(1))
    is_busy, may_end = threading.Event(), threading.Event()

    def work() -> None:
        log = store._log
        with log.writing() if is_written else log.reading(), private._log.reading():
            is_busy.set()
            may_end.wait(20)

    worker = threading.Thread(target=work)
    worker.start()
    assert is_busy.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        is_known = store.usable() == private.usable() == 1
        if not is_written:
            store.add(correction("two"), vector(2))
        os._exit(0 if is_known else 1)
    _, status = os.waitpid(child, 0)
    may_end.set()
    worker.join()
    assert status == 0
    assert store.usable() == 2 - is_written
