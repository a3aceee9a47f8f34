"""Who does the jobs of the queue: an engine in this process, or one in another (`processes`), or on
another machine (`replicas`).

    worker = LocalWorker(load_backend("native"))
    worker.decide(selector, Scenario(task="look at the roof"), top_k=None, reasoning=True)

The selector comes with each job, since its fleet may have been replaced meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

from embervlm.backends.base import Backend
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.protocol import StoreFaultError
from embervlm.occlusion import Occlusion, cover_parts
from embervlm.scenario import Decision, Feedback, Scenario
from embervlm.selector import Selector
from embervlm.server.answers import Form, written
from embervlm.server.asked import NO_TERMS, Terms, scenario_of
from embervlm.server.errors import RefusalError, from_mistake
from embervlm.server.logs import frames_of

T = TypeVar("T")


class Worker(Protocol):
    """Does one job at a time; all raise RefusalError where the request is wrong."""

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
        """Decide what came, a text being the photo in base64; return the answer as JSON.

        It is written here, from what `decide` returns; an engine elsewhere may write it there.
        """
        with users_mistakes():
            scenario = scenario_of(task, image)
        found = self.decide(selector, scenario, top_k=top_k, reasoning=reasoning, terms=terms)
        return written(found, form)

    def decide(
        self,
        selector: Selector,
        scenario: Scenario,
        *,
        top_k: int | None,
        reasoning: bool,
        terms: Terms = NO_TERMS,
    ) -> Decision:
        """Decide for the selector's fleet, with its lessons."""

    def occlude(self, selector: Selector, scenario: Scenario) -> Occlusion:
        """Measure which parts of the photo counted; see `embervlm.occlusion`."""

    def learn(
        self,
        selector: Selector,
        scenario: Scenario,
        feedback: Feedback,
        *,
        terms: Terms = NO_TERMS,
    ) -> MemoryEntry:
        """Keep a correction of the decision on a scenario."""


class LocalWorker(Worker):
    """An engine in this process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def decide(
        self,
        selector: Selector,
        scenario: Scenario,
        *,
        top_k: int | None,
        reasoning: bool,
        terms: Terms = NO_TERMS,
    ) -> Decision:
        """Decide; a ValueError after the network has spoken is a fault of ours, unless a robot is
        required: whether that can be sent shows only then."""
        own = selector.with_backend(self._backend)
        with users_mistakes():
            own = own.at(terms.state, terms.exclude)
            require = dict.fromkeys(own.fleet.find(name).name for name in terms.require)
            if top_k is not None and top_k < len(require):
                raise ValueError(f"top_k is {top_k}; ask for {len(require)} robots or more.")
            proposal = own.propose(scenario)
        with users_mistakes() if require else nullcontext():
            return own.answer(proposal, scenario, top_k=top_k, reasoning=reasoning, require=require)

    def occlude(self, selector: Selector, scenario: Scenario) -> Occlusion:
        """Measure it with this engine."""
        with users_mistakes():
            return cover_parts(selector.with_backend(self._backend), scenario)

    def learn(
        self,
        selector: Selector,
        scenario: Scenario,
        feedback: Feedback,
        *,
        terms: Terms = NO_TERMS,
    ) -> MemoryEntry:
        """Decide again, then keep the correction."""
        own = selector.with_backend(self._backend)
        with users_mistakes():
            decision = own.decide(
                scenario,
                reasoning=False,
                state=terms.state,
                exclude=terms.exclude,
                require=terms.require,
            )
            return own.learn(decision, feedback)


@dataclass(frozen=True)
class Refused:
    """A RefusalError on its way from another process."""

    status: int
    code: str
    message: str
    param: str | None

    def error(self) -> RefusalError:
        """Return what it was."""
        return RefusalError(self.status, self.code, self.message, param=self.param)


@dataclass(frozen=True)
class Fault:
    """An exception of ours in another process: its kind and where, not what it says, which may
    quote a request."""

    kind: str
    at: tuple[str, ...]


def safely(work: Callable[[], T]) -> T | Refused | Fault:
    """Return what a job gives, or why it gives nothing, in a form that can be sent elsewhere."""
    try:
        return work()
    except RefusalError as refusal:
        return Refused(refusal.status, refusal.code, refusal.message, refusal.param)
    # Whatever it is has to reach the server, and by its kind alone: its words may quote a request.
    except Exception as error:  # noqa: BLE001
        return Fault(type(error).__name__, tuple(frames_of(error.__traceback__)))


@contextmanager
def users_mistakes() -> Iterator[None]:
    """Turn the sentences of a ValueError into a refusal; elsewhere one is a fault of ours."""
    try:
        yield
    except StoreFaultError:
        raise
    except ValueError as error:
        raise from_mistake(error) from error
