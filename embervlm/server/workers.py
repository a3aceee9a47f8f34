"""Who does the jobs of the queue: an engine in this process, or (`replicas`) one somewhere else.

    worker = LocalWorker(load_backend("native"))
    worker.decide(selector, Scenario(task="look at the roof"), top_k=None, reasoning=True)

The selector comes with each job, since its fleet may have been replaced meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from embervlm.backends.base import Backend
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.protocol import StoreFaultError
from embervlm.occlusion import Occlusion, cover_parts
from embervlm.scenario import Decision, Feedback, Scenario
from embervlm.selector import Selector
from embervlm.server.errors import from_mistake


class Worker(Protocol):
    """Does one job at a time; all raise RefusalError where the request is wrong."""

    def decide(
        self, selector: Selector, scenario: Scenario, *, top_k: int | None, reasoning: bool
    ) -> Decision:
        """Decide for the selector's fleet, with its lessons."""

    def occlude(self, selector: Selector, scenario: Scenario) -> Occlusion:
        """Measure which parts of the photo counted; see `embervlm.occlusion`."""

    def learn(self, selector: Selector, scenario: Scenario, feedback: Feedback) -> MemoryEntry:
        """Keep a correction of the decision on a scenario."""


class LocalWorker:
    """An engine in this process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def decide(
        self, selector: Selector, scenario: Scenario, *, top_k: int | None, reasoning: bool
    ) -> Decision:
        """Decide; a ValueError after the network has spoken is a fault of ours."""
        own = selector.with_backend(self._backend)
        with users_mistakes():
            proposal = own.propose(scenario)
        return own.answer(proposal, scenario, top_k=top_k, reasoning=reasoning)

    def occlude(self, selector: Selector, scenario: Scenario) -> Occlusion:
        """Measure it with this engine."""
        with users_mistakes():
            return cover_parts(selector.with_backend(self._backend), scenario)

    def learn(self, selector: Selector, scenario: Scenario, feedback: Feedback) -> MemoryEntry:
        """Decide again, then keep the correction."""
        own = selector.with_backend(self._backend)
        with users_mistakes():
            return own.learn(own.decide(scenario, reasoning=False), feedback)


@contextmanager
def users_mistakes() -> Iterator[None]:
    """Turn the sentences of a ValueError into a refusal; elsewhere one is a fault of ours."""
    try:
        yield
    except StoreFaultError:
        raise
    except ValueError as error:
        raise from_mistake(error) from error
