"""The queue in front of the engines: bounded, fair between clients, one thread for each engine.

    pool = WorkerPool([engine_a, engine_b], queue=64)
    future = pool.submit("control-room", lambda engine: engine.propose("look", None))
    future.cancel()          # what still waits is dropped, and its place is free
    pool.close()

Clients take turns (round robin; Nagle, RFC 970, 1985), however many requests each has waiting.
Where the queue is full, the newest request of the client with most of them gives way to one of a
client with fewer (longest queue drop; McKenney, "Stochastic fairness queueing", 1990): one client
cannot shut out the others.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_SMOOTHING = 0.1
_MOST_RETRY_S = 60


class QueueFullError(Exception):
    """The queue has no place; try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"The queue is full; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """The pool takes nothing more."""


class _Job(Generic[T]):
    __slots__ = ("client", "future", "work")

    def __init__(self, client: str, work: Callable[[T], Any]) -> None:
        self.client = client
        self.work = work
        self.future: Future[Any] = Future()


class WorkerPool(Generic[T]):
    """Threads that work through the queue, each with a resource of its own.

    A resource is only ever used by its thread. What a job raises is its future's; the thread lives.
    """

    def __init__(self, resources: Sequence[T], *, queue: int) -> None:
        self._queue = queue
        self._clients: OrderedDict[str, deque[_Job[T]]] = OrderedDict()
        self._waiting = 0
        self._busy = 0
        self._mean_s = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, args=(resource,), name=f"worker-{i}", daemon=True)
            for i, resource in enumerate(resources)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._waiting

    @property
    def busy(self) -> int:
        """How many threads work."""
        return self._busy

    @property
    def workers(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def submit(self, client: str, work: Callable[[T], Any]) -> Future[Any]:
        """Let a client's job wait for its turn, and return what it will give.

        Raises:
            QueueFullError: there is no place for this client's job.
            ClosedError: the pool is closed.
        """
        job = _Job(client, work)
        dropped = None
        with self._changed:
            if self._closed:
                raise ClosedError("The server is stopping.")
            if self._waiting >= self._queue:
                dropped = self._give_way(client)
                if dropped is None:
                    raise QueueFullError(self._retry_after_s())
            self._clients.setdefault(client, deque()).append(job)
            self._waiting += 1
            retry_after_s = self._retry_after_s()
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else 0)
        if dropped is not None and dropped.future.set_running_or_notify_cancel():
            dropped.future.set_exception(QueueFullError(retry_after_s))
        return job.future

    def close(self) -> None:
        """Finish what was accepted, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _give_way(self, client: str) -> _Job[T] | None:
        longest = max(self._clients, key=lambda name: len(self._clients[name]))
        if len(self._clients[longest]) <= len(self._clients.get(client, ())) + 1:
            return None
        job = self._clients[longest].pop()
        self._waiting -= 1
        return job

    def _retry_after_s(self) -> int:
        wait_s = self._mean_s * (self._waiting + 1) / len(self._threads)
        return min(max(1, math.ceil(wait_s)), _MOST_RETRY_S)

    def _forget(self, job: _Job[T]) -> None:
        with self._changed:
            jobs = self._clients.get(job.client)
            if jobs is not None and job in jobs:
                jobs.remove(job)
                self._waiting -= 1
                if not jobs:
                    del self._clients[job.client]

    def _next(self) -> _Job[T] | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            client, jobs = self._clients.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._clients[client] = jobs
            self._waiting -= 1
            self._busy += 1
            return job

    def _run(self, resource: T) -> None:
        while (job := self._next()) is not None:
            took_s = self._do(job, resource)
            with self._changed:
                self._busy -= 1
                if took_s is not None:
                    share = _SMOOTHING if self._mean_s else 1.0
                    self._mean_s += share * (took_s - self._mean_s)
            del job

    def _do(self, job: _Job[T], resource: T) -> float | None:
        if not job.future.set_running_or_notify_cancel():
            return None
        began = time.perf_counter()
        try:
            result = job.work(resource)
        # Whatever a job raises belongs to the one who waits for it; the thread must live.
        except BaseException as error:  # noqa: BLE001
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
        return time.perf_counter() - began
