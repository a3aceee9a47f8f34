"""Engines on other cores and machines, with Ray Serve: `embervlm serve --ray`.

    with replicas(ReplicaOptions("native", None, None, "postgresql://..."), 1, 8) as workers:
        serve(create_app(selector, settings, workers=workers), host, port)

The server that clients talk to stays the one process it was: connections with deadlines, the gate,
the fair queue, the routes, and everything that writes. Serve's own HTTP proxy is not started; it
has none of these, and answers 500 where a replica dies. What goes to the replicas is a scenario and
the fleet of now, what comes back a decision. Deciding changes nothing, so a request whose replica
was lost is given to another. Learning is done here, where nothing is done twice.

Serve keeps between `least` and `most` replicas: more where over some seconds each has more than one
request, fewer after minutes with less. It checks each one's health, and replaces those that died.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from embervlm.bulk import cluster
from embervlm.fleet import Fleet
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.home import is_address
from embervlm.occlusion import Occlusion
from embervlm.scenario import Decision, Feedback, Scenario
from embervlm.selector import Selector
from embervlm.server.asked import NO_TERMS, Terms
from embervlm.server.errors import RefusalError
from embervlm.server.logs import log
from embervlm.server.workers import Fault, LocalWorker, Refused, Worker, safely
from embervlm.terminal import load_selector, open_memory

T = TypeVar("T")

# One that is decided, and one that is on its way meanwhile.
_ONGOING = 2
# A request that is there whenever a replica dies may be what kills it.
_TRIES = 4
# A replica may also be lost without a word: its machine is gone, or it stands still. To ask another
# meanwhile costs no more than the time of an engine.
_ANSWER_S = 15.0
_HEALTH_S, _HEALTH_PERIOD_S = 30.0, 10.0
_DRAIN_S = 30.0
_AUTOSCALING = {
    "target_ongoing_requests": 1.0,
    "look_back_period_s": 15.0,
    "upscale_delay_s": 5.0,
    "downscale_delay_s": 300.0,
}


@dataclass(frozen=True)
class ReplicaOptions:
    """What a replica loads, as plain values; `lessons` is their place, files are whole paths."""

    backend: str = "native"
    model: Path | None = None
    fleet: Path | None = None
    lessons: str | None = None
    site: str = "default"

    def load(self) -> Selector:
        """Return the selector of one replica.

        Raises:
            ValueError: the model or the fleet is missing or wrong.
        """
        store = open_memory(self.lessons, self.site) if self.lessons else None
        return load_selector(self.backend, self.model, self.fleet, memory=store)


def check_replicas(least: int, most: int, lessons: str | Path) -> None:
    """Refuse numbers that make no sense, and lessons that replicas could not share.

    Raises:
        ValueError: see the message.
    """
    if not 1 <= least <= most:
        raise ValueError(
            f"--min-replicas is {least} and --max-replicas {most}; give 1 or more, and not fewer "
            "at most than at least."
        )
    if most > 1 and not is_address(lessons):
        raise ValueError(
            "Replicas on several machines cannot share lessons in a file: give --memory "
            "postgresql://user@host/database, or --max-replicas 1."
        )


class ReplicaFaultError(Exception):
    """Something went wrong in a replica; the log has it."""


class ReplicaLostError(Exception):
    """The replica died, cannot be reached, or stands still."""


class Replica:
    """One engine; Ray Serve makes an actor of it."""

    def __init__(self, options: ReplicaOptions) -> None:
        self._selector = options.load()
        self._selector.open_memory()
        self._worker = LocalWorker(self._selector.backend)
        self._one_at_a_time = threading.Lock()

    def decide(
        self, fleet: Fleet, scenario: Scenario, top_k: int | None, reasoning: bool, terms: Terms
    ) -> Decision | Refused | Fault:
        """Decide for a fleet; see `LocalWorker.decide`."""
        return self._safely(
            lambda: self._worker.decide(
                self._at(fleet), scenario, top_k=top_k, reasoning=reasoning, terms=terms
            )
        )

    def occlude(self, fleet: Fleet, scenario: Scenario) -> Occlusion | Refused | Fault:
        """Measure which parts of a photo counted."""
        return self._safely(lambda: self._worker.occlude(self._at(fleet), scenario))

    def check_health(self) -> None:
        """Let the engine read a request; Serve replaces a replica that raises or hangs."""
        with self._one_at_a_time:
            self._selector.propose(Scenario(task="look"))

    def _at(self, fleet: Fleet) -> Selector:
        # Kept as long as the fleet stays the same: it holds what was read of the robots.
        if fleet != self._selector.fleet:
            self._selector = self._selector.with_fleet(fleet)
        return self._selector

    def _safely(self, work: Callable[[], T]) -> T | Refused | Fault:
        # A fault is told by its kind alone: Ray would write its words into files of its own.
        with self._one_at_a_time:
            return safely(work)


class RemoteWorker(Worker):
    """Gives jobs to whichever replica has least to do; learns with an engine of this process."""

    def __init__(self, handle: Any, own: LocalWorker, own_lock: threading.Lock) -> None:
        self._handle = handle
        self._own, self._own_lock = own, own_lock

    def decide(
        self,
        selector: Selector,
        scenario: Scenario,
        *,
        top_k: int | None,
        reasoning: bool,
        terms: Terms = NO_TERMS,
    ) -> Decision:
        """Let a replica decide.

        Raises:
            RefusalError: the request is wrong, or no replica answers.
        """
        found = self._ask("decide", selector.fleet, scenario, top_k, reasoning, terms)
        assert isinstance(found, Decision)
        return found

    def occlude(self, selector: Selector, scenario: Scenario) -> Occlusion:
        """Let a replica measure it; raises as `decide` does."""
        found = self._ask("occlude", selector.fleet, scenario)
        assert isinstance(found, Occlusion)
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

    def _ask(self, method: str, *values: Any) -> Any:
        for attempt in range(1, _TRIES + 1):
            try:
                found = _answer_of(getattr(self._handle, method), values)
            except ReplicaLostError as lost:
                log("replica_lost", level=30, attempt=attempt, why=str(lost))
                continue
            if isinstance(found, Refused):
                raise found.error()
            if isinstance(found, Fault):
                log("replica_fault", level=40, kind=found.kind, at=list(found.at))
                raise ReplicaFaultError(found.kind)
            return found
        raise _unanswered(f"No engine answered in {_TRIES} tries; ask again later.")


def _answer_of(method: Any, values: Sequence[Any]) -> Any:
    """Return what a replica answers.

    Raises:
        ReplicaLostError: it was lost, or says nothing, so that another may be asked.
        RefusalError: there is none, and none can be started.
    """
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

    response = method.remote(*values)
    try:
        return response.result(timeout_s=_ANSWER_S)
    except (RayActorError, ReplicaUnavailableError) as error:
        raise ReplicaLostError(type(error).__name__) from error
    except TimeoutError as error:
        response.cancel()
        raise ReplicaLostError(f"no answer in {_ANSWER_S:g} s") from error
    except DeploymentUnavailableError as error:
        raise _unanswered("No engine can be started; the cluster's log says why.") from error


def _unanswered(sentence: str) -> RefusalError:
    return RefusalError(503, "no_engine", sentence, headers={"Retry-After": "5"})


@contextmanager
def replicas(
    options: ReplicaOptions, selector: Selector, least: int, most: int, *, name: str = "embervlm"
) -> Iterator[list[RemoteWorker]]:
    """Start replicas on the cluster, and return as many workers as keep all of them busy.

    Args:
        options: what each replica loads.
        selector: its engine learns; see `RemoteWorker.learn`.
        least: how many replicas there are always.
        most: how many there may be.
        name: what Serve calls them; who starts some by the same name replaces them.

    Raises:
        ValueError: the cluster has too few cores, or the replicas cannot be started.
    """
    import ray
    from ray import serve
    from ray.serve.schema import LoggingConfig

    with cluster():
        resources: dict[str, float] = ray.cluster_resources()
        cores = int(resources.get("CPU", 0))
        if cores < least:
            raise ValueError(f"--min-replicas is {least}, but the cluster has {cores} cores.")
        actor: dict[str, Any] = {"num_cpus": 1}
        if options.lessons and not is_address(options.lessons):
            # Lessons in a file are on this machine alone.
            here: str = ray.util.get_node_ip_address()
            actor["resources"] = {f"node:{here}": 0.001}
        deployment = serve.deployment(
            name="engine",
            autoscaling_config={**_AUTOSCALING, "min_replicas": least, "max_replicas": most},
            max_ongoing_requests=_ONGOING,
            health_check_period_s=_HEALTH_PERIOD_S,
            health_check_timeout_s=_HEALTH_S,
            graceful_shutdown_timeout_s=_DRAIN_S,
            ray_actor_options=actor,
            logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
        )(Replica)
        serve.start(proxy_location="Disabled")
        try:
            handle = serve.run(deployment.bind(options), name=name, route_prefix=None)
        except RuntimeError as error:
            raise ValueError(f"The replicas cannot be started ({_first_line(error)}).") from error
        _log_as_we_do()
        own, lock = LocalWorker(selector.backend), threading.Lock()
        try:
            yield [RemoteWorker(handle, own, lock) for _ in range(_ONGOING * most)]
        finally:
            serve.delete(name)


def app_name(port: int) -> str:
    """Return what Serve calls the replicas of the server at a port of this machine."""
    return f"embervlm-{socket.gethostname()}-{port}"


def _log_as_we_do() -> None:
    """Let the warnings of Ray's Python part go where all others go; see `logs.log_to_stderr`."""
    for name in ("ray", "ray.serve"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
