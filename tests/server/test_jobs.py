"""The queue: bounded, fair, and without memory of what was dropped."""

import threading
from concurrent.futures import Future

import pytest

from embervlm.server.jobs import ClosedError, QueueFullError, WorkerPool


@pytest.fixture
def done() -> list[str]:
    return []


def held(queue: int, workers: int = 1) -> tuple[WorkerPool[int], threading.Event]:
    """Return a pool whose workers are busy until the event."""
    pool, go = WorkerPool(list(range(workers)), queue=queue), threading.Event()
    began = threading.Barrier(workers + 1)

    def wait(_: int) -> None:
        began.wait(10)
        go.wait(10)

    for _ in range(workers):
        pool.submit("first", wait)
    began.wait(10)
    return pool, go


def submit(pool: WorkerPool[int], client: str, done: list[str]) -> Future[None]:
    return pool.submit(client, lambda _: done.append(client))


def test_clients_take_turns(done: list[str]) -> None:
    pool, go = held(10)
    for client in "aaaabbc":
        submit(pool, client, done)
    go.set()
    pool.close()
    assert "".join(done) == "abcabaa"


def test_refuses_what_finds_no_place_and_says_when_to_come_again() -> None:
    pool, go = held(2)
    for _ in range(2):
        pool.submit("a", lambda _: None)
    with pytest.raises(QueueFullError) as full:
        pool.submit("a", lambda _: None)
    assert full.value.retry_after_s >= 1
    go.set()
    pool.close()


def test_the_greediest_client_gives_way_to_one_with_fewer(done: list[str]) -> None:
    pool, go = held(3)
    greedy = [submit(pool, "a", done) for _ in range(3)]
    submit(pool, "b", done)
    with pytest.raises(QueueFullError):
        greedy[2].result(1)
    assert pool.waiting == 3
    with pytest.raises(QueueFullError):  # they have two and one: nobody is shut out any more
        submit(pool, "b", done)
    go.set()
    pool.close()
    assert "".join(done) == "aba"


def test_what_is_cancelled_leaves_its_place(done: list[str]) -> None:
    pool, go = held(1)
    first = submit(pool, "a", done)
    assert first.cancel()
    assert pool.waiting == 0
    submit(pool, "b", done)
    go.set()
    pool.close()
    assert done == ["b"]


def test_a_fault_is_its_own_jobs_alone() -> None:
    pool: WorkerPool[int] = WorkerPool([0], queue=5)

    def fail(_: int) -> None:
        raise SystemExit("this job ends nothing but itself")

    with pytest.raises(SystemExit):
        pool.submit("a", fail).result(5)
    assert pool.submit("a", lambda n: n + 1).result(5) == 1
    pool.close()


def test_each_resource_has_one_user_at_a_time() -> None:
    resources = [threading.Lock() for _ in range(3)]
    pool = WorkerPool(resources, queue=200)

    def use(lock: threading.Lock) -> bool:
        if not lock.acquire(blocking=False):
            return False
        lock.release()
        return True

    assert all(future.result(5) for future in [pool.submit(str(i), use) for i in range(200)])
    pool.close()


def test_closing_finishes_what_was_accepted_and_takes_nothing_more(done: list[str]) -> None:
    pool, go = held(5, workers=2)
    futures = [submit(pool, client, done) for client in "abc"]
    go.set()
    pool.close()
    assert all(future.done() for future in futures)
    with pytest.raises(ClosedError):
        submit(pool, "a", done)
