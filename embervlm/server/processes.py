"""Engines in processes of their own: `embervlm serve --workers N` with N of 2 or more.

    with engine_processes(EngineOptions("native", None, "/data/lessons.sqlite"), selector, 2) as e:
        serve(create_app(selector, settings, workers=e), host, port)

Threads of one interpreter wait for each other whenever they are not in the C engine; processes do
not. As with `replicas`, what goes out is a request and the fleet of now, what comes back an answer,
and learning is done here, where nothing is done twice; the processes see a lesson as soon as it is
in the store. Deciding changes nothing, so a request whose process died is given to a new one.

A process is started afresh (`engine_process`) and not forked: a new one is wanted just when there
are threads. It has few imports and maps the model file.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import embervlm
from embervlm.fleet import Fleet
from embervlm.memory.entries import MemoryEntry
from embervlm.occlusion import Occlusion
from embervlm.scenario import Decision, Feedback, Scenario
from embervlm.selector import Selector
from embervlm.server.answers import Form
from embervlm.server.asked import NO_TERMS, Terms
from embervlm.server.engine_process import EngineOptions, receive, send
from embervlm.server.jobs import ClosedError
from embervlm.server.logs import log
from embervlm.server.workers import Fault, LocalWorker, Refused

# A request that is there whenever a process dies may be what kills it.
_TRIES = 3
# An answer takes some milliseconds, a second where 26 decisions make one; a start half a second.
_ANSWER_S = 60
_END_S = 5.0
_BUFFER_BYTES = 1 << 20


class EngineLostError(Exception):
    """The process died, or stands still, as often as it was started for one request."""


class EngineFaultError(Exception):
    """Something went wrong in an engine process; the log has it."""


class ProcessWorker:
    """Gives jobs to a process, which it starts and starts again; learns in this one.

    `own` learns, and is shared by all workers, so `own_lock` is held meanwhile.
    """

    def __init__(self, options: EngineOptions, own: LocalWorker, own_lock: threading.Lock) -> None:
        self._options = options
        self._own, self._own_lock = own, own_lock
        self._is_closed = self._is_ready = False
        self._fleet: Fleet | None = None
        self._start()

    @property
    def pid(self) -> int:
        """The process of now."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until the process has loaded its model.

        Raises:
            OSError: it is gone, or says nothing.
            EOFError: it is gone.
            EngineFaultError: the model cannot be loaded.
        """
        if not self._is_ready:
            found = receive(self._line)
            if isinstance(found, Fault):
                raise self._fault(found)
            self._is_ready = True

    def answer(
        self,
        selector: Selector,
        task: str | None,
        image: str | bytes | None,
        *,
        top_k: int | None,
        reasoning: bool,
        form: Form,
        terms: Terms = NO_TERMS,
    ) -> bytes:
        """Let the process decide and write the answer.

        Raises:
            RefusalError: the request is wrong.
            EngineFaultError: it went wrong there.
            EngineLostError: the process died each time that it was asked.
        """
        values = {
            "task": task,
            "image": image,
            "top_k": top_k,
            "reasoning": reasoning,
            "form": form,
            "terms": terms,
        }
        found: bytes = self._ask(selector.fleet, "answer", values)
        return found

    def decide(
        self,
        selector: Selector,
        scenario: Scenario,
        *,
        top_k: int | None,
        reasoning: bool,
        terms: Terms = NO_TERMS,
    ) -> Decision:
        """Let the process decide; raises as `answer` does."""
        values = {"scenario": scenario, "top_k": top_k, "reasoning": reasoning, "terms": terms}
        found: Decision = self._ask(selector.fleet, "decide", values)
        return replace(found, scenario=scenario)

    def occlude(self, selector: Selector, scenario: Scenario) -> Occlusion:
        """Let the process measure it; raises as `answer` does."""
        found: Occlusion = self._ask(selector.fleet, "occlude", {"scenario": scenario})
        return found

    def learn(
        self,
        selector: Selector,
        scenario: Scenario,
        feedback: Feedback,
        *,
        terms: Terms = NO_TERMS,
    ) -> MemoryEntry:
        """Keep a correction; it is written once, here."""
        with self._own_lock:
            return self._own.learn(selector, scenario, feedback, terms=terms)

    def close(self) -> None:
        """End the process; it finishes the job that it has."""
        self._is_closed = True
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._line.close()

    def _ask(self, fleet: Fleet, what: str, values: dict[str, Any]) -> Any:
        for attempt in range(1, _TRIES + 1):
            try:
                self.wait_until_ready()
                told = None if fleet is self._fleet else fleet
                send(self._line, (what, told, values))
                self._fleet = fleet
                found = receive(self._line)
            except (OSError, EOFError) as error:
                if self._is_closed:
                    raise ClosedError("The server is stopping.") from error
                self._restart(attempt, error)
                continue
            if isinstance(found, Refused):
                raise found.error()
            if isinstance(found, Fault):
                raise self._fault(found)
            return found
        log("engine_given_up", level=40, tries=_TRIES)
        raise EngineLostError(f"No engine process outlived the request in {_TRIES} tries.")

    def _fault(self, found: Fault) -> EngineFaultError:
        log("engine_fault", level=40, kind=found.kind, at=list(found.at))
        return EngineFaultError(found.kind)

    def _start(self) -> None:
        self._line, theirs = socket.socketpair()
        # A process that stands still is as good as gone.
        self._line.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _ANSWER_S, 0)
        )
        for end in (self._line, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        package = str(Path(embervlm.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "embervlm.server.engine_process",
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=(theirs.fileno(),),
            )
        self._is_ready, self._fleet = False, None
        with suppress(OSError):  # it is gone already: whoever waits for it will see
            send(self._line, self._options)

    def _restart(self, attempt: int, error: Exception) -> None:
        self._process.kill()
        code = self._process.wait()
        self._line.close()
        log("engine_lost", level=30, attempt=attempt, code=code, why=type(error).__name__)
        self._start()


@contextmanager
def engine_processes(
    options: EngineOptions, selector: Selector, count: int
) -> Iterator[list[ProcessWorker]]:
    """Start engine processes, and end them with the block.

    Args:
        options: what each loads; its lessons are the selector's.
        selector: its engine learns; see `ProcessWorker.learn`.
        count: how many.

    Raises:
        ValueError: they cannot be started.
    """
    if os.name == "nt":
        raise ValueError("Engine processes take Linux or macOS: leave --workers out.")
    own, lock = LocalWorker(selector.backend), threading.Lock()
    workers: list[ProcessWorker] = []
    try:
        try:
            for _ in range(count):
                workers.append(ProcessWorker(options, own, lock))
            for worker in workers:
                worker.wait_until_ready()
        except (OSError, EOFError, EngineFaultError) as error:
            raise ValueError(
                f"The engine processes cannot be started ({type(error).__name__}); "
                "leave --workers out, or give them more memory."
            ) from error
        yield workers
    finally:
        for worker in workers:
            worker.close()
