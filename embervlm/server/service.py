"""What the routes share: the queue, the engines, the fleet of now, the lessons, the figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio.to_thread

from embervlm.backends.base import Backend
from embervlm.fleet import Fleet
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.protocol import LessonMemory, StoreFaultError
from embervlm.occlusion import Occlusion
from embervlm.scenario import Decision, Feedback, Scenario
from embervlm.selector import Selector
from embervlm.server.answers import Form
from embervlm.server.asked import NO_TERMS, Terms
from embervlm.server.errors import RefusalError
from embervlm.server.jobs import ClosedError, QueueFullError, WorkerPool
from embervlm.server.logs import log
from embervlm.server.metrics import Metrics
from embervlm.server.settings import ServerSettings
from embervlm.server.workers import Worker, users_mistakes

T = TypeVar("T")

# Threads for lessons, which are one database with one writer.
_MEMORY_THREADS = 4


@dataclass(frozen=True)
class Timing:
    """Seconds that a request waited for a worker, and that the worker took."""

    waited_s: float
    worked_s: float

    def header(self) -> str:
        """Return the value of a Server-Timing header, which browsers show."""
        return f"queue;dur={self.waited_s * 1e3:.2f}, decide;dur={self.worked_s * 1e3:.2f}"


class Service:
    """Decides and learns for the routes; every call is one job of one worker.

    The fleet may be replaced while it runs: a job sees the one that was there when the job began.

    Raises:
        ValueError: the state of the settings does not fit the fleet.
    """

    def __init__(
        self, selector: Selector, workers: Sequence[Worker], settings: ServerSettings
    ) -> None:
        self.settings = settings
        self.is_draining = False
        self.in_flight = 0
        selector.open_memory()  # one for all workers, not one for each
        selector.at(settings.state)  # what does not fit is told before the first request
        self._selector = selector
        self.pool: WorkerPool[Worker] = WorkerPool(workers, queue=settings.queue)
        self.metrics = Metrics(lambda: self.pool.waiting, lambda: self.pool.busy)
        self._memory_threads: anyio.CapacityLimiter | None = None

    @property
    def fleet(self) -> Fleet:
        """The robots at hand."""
        return self._selector.fleet

    def replace_fleet(self, fleet: Fleet, *, check: bool = False) -> None:
        """Decide for these robots from now on; with `check`, only say whether that could be.

        Raises:
            ValueError: the state that the server was started with does not fit them.
        """
        other = self._selector.with_fleet(fleet)
        try:
            other.at(self.settings.state)
        except ValueError as error:
            raise ValueError(f"The state of --state does not fit this fleet: {error}") from error
        if not check:
            self._selector = other

    @property
    def backend(self) -> Backend:
        """An engine of this process; only its constants may be read here."""
        return self._selector.backend

    async def answer(
        self,
        client: str,
        task: str | None,
        image: str | bytes | None,
        *,
        top_k: int | None,
        reasoning: bool,
        form: Form,
        terms: Terms = NO_TERMS,
    ) -> tuple[bytes, Timing]:
        """Decide what came, a text being the photo in base64; return the answer as JSON.

        Raises:
            RefusalError: the request is wrong, or there is no place in the queue.
        """

        now = self._now(terms)

        def work(worker: Worker, selector: Selector) -> bytes:
            return worker.answer(
                selector, task, image, top_k=top_k, reasoning=reasoning, form=form, terms=now
            )

        return await self._run(client, work)

    async def decide(
        self,
        client: str,
        ask: Callable[[], Scenario],
        *,
        top_k: int | None = None,
        reasoning: bool = True,
    ) -> tuple[Decision, Timing]:
        """Decide what `ask` returns; decoding the photo is the worker's too.

        Raises:
            RefusalError: the request is wrong, or there is no place in the queue.
        """

        def work(worker: Worker, selector: Selector) -> Decision:
            with users_mistakes():
                scenario = ask()
            return worker.decide(
                selector, scenario, top_k=top_k, reasoning=reasoning, terms=self._now(NO_TERMS)
            )

        return await self._run(client, work)

    async def occlude(self, client: str, ask: Callable[[], Scenario]) -> tuple[Occlusion, Timing]:
        """Measure which parts of the photo counted; see `embervlm.occlusion`.

        Raises:
            RefusalError: the request is wrong, or there is no place in the queue.
        """

        def work(worker: Worker, selector: Selector) -> Occlusion:
            with users_mistakes():
                scenario = ask()
            return worker.occlude(selector, scenario)

        return await self._run(client, work)

    async def learn(
        self,
        client: str,
        ask: Callable[[], Scenario],
        feedback: Feedback,
        *,
        terms: Terms = NO_TERMS,
    ) -> MemoryEntry:
        """Keep a correction of the decision on a request, made as it was then.

        Raises:
            RefusalError: the correction is wrong, or cannot be kept now.
        """

        def work(worker: Worker, selector: Selector) -> MemoryEntry:
            with users_mistakes():
                scenario = ask()
            return worker.learn(selector, scenario, feedback, terms=self._now(terms))

        entry, _ = await self._run(client, work)
        return entry

    async def with_lessons(self, work: Callable[[LessonMemory], T]) -> T:
        """Do something with the lessons, off the event loop.

        Raises:
            RefusalError: there is no such lesson, or the lessons cannot be used now.
        """
        if self._memory_threads is None:
            self._memory_threads = anyio.CapacityLimiter(_MEMORY_THREADS)

        def safely() -> T:
            try:
                with users_mistakes():
                    return work(self._selector.open_memory())
            except StoreFaultError as fault:
                raise self._lessons_unusable(fault) from fault

        return await anyio.to_thread.run_sync(safely, limiter=self._memory_threads)

    def close(self) -> None:
        """Finish what was accepted, and let go of the lessons."""
        self.pool.close()
        self._selector.open_memory().close()

    def _now(self, terms: Terms) -> Terms:
        """Return the terms with the server's state where the request brings none."""
        return terms if terms.state is not None else replace(terms, state=self.settings.state)

    async def _run(self, client: str, work: Callable[[Worker, Selector], T]) -> tuple[T, Timing]:
        submitted = time.perf_counter()

        def job(worker: Worker) -> tuple[T, Timing]:
            began = time.perf_counter()
            done = work(worker, self._selector)
            return done, Timing(began - submitted, time.perf_counter() - began)

        try:
            done, timing = await asyncio.wrap_future(self.pool.submit(client, job))
        except QueueFullError as full:
            self.metrics.refused.inc()
            raise RefusalError(
                429, "queue_full", str(full), headers={"Retry-After": str(full.retry_after_s)}
            ) from full
        except ClosedError as closed:
            raise stopping() from closed
        except StoreFaultError as fault:
            raise self._lessons_unusable(fault) from fault
        self.metrics.engine_s.observe(timing.worked_s)
        return done, timing

    def _lessons_unusable(self, fault: StoreFaultError) -> RefusalError:
        log("lessons_unusable", level=40, why=str(fault))
        return RefusalError(
            503, "lessons_unusable", "The lessons cannot be used now; the server's log says why."
        )


def stopping() -> RefusalError:
    """Return the refusal of a server that is about to stop."""
    return RefusalError(
        503, "stopping", "The server is stopping; ask again.", headers={"Retry-After": "5"}
    )
