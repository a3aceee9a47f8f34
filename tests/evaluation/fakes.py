"""A backend that says what it is told to, for tests of everything above the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from embervlm.backends.base import Array, Proposal, StepScores
from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.prompts import Reasoning, write_reasoning
from embervlm.quantities import find_quantities
from embervlm.scenario import FLAGS, QUANTITIES


def blank_proposal(task: str | None) -> Proposal:
    """Return a proposal that leans nowhere and reads every number as "none of these"."""
    mentions = tuple(find_quantities(task or ""))
    roles = np.zeros((len(mentions), len(QUANTITIES) + 1), np.float32)
    roles[:, -1] = 1
    return Proposal(
        subsets=np.zeros(32, np.float32),
        primary=np.zeros(6, np.float32),
        environment=(np.array(ENVIRONMENTS) == "none").astype(np.float32),
        scene=None,
        actions=np.full(len(ACTIONS), -9, np.float32),
        flags=np.full(len(FLAGS), -9, np.float32),
        team=-9.0,
        roles=roles,
        mentions=mentions,
        embedding=np.ones(4, np.float32),
        states=None,
    )


class FakeBackend:
    """Proposes what `say` makes of the blank proposal, the words and the pixels."""

    image_size = 8

    def __init__(
        self,
        say: Callable[[Proposal, str | None, Array | None], Proposal],
        calibration: dict[str, float] | None = None,
    ) -> None:
        self._say = say
        self.calibration = calibration or {}

    def propose(self, task: str | None, pixels_CHW: Array | None) -> Proposal:
        """Read words, a photo, or both."""
        proposal = blank_proposal(task)
        if pixels_CHW is not None:
            proposal = replace(proposal, scene=np.zeros(len(ENVIRONMENTS), np.float32))
        return self._say(proposal, task, pixels_CHW)

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """Split nothing."""
        return ()

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return a fixed reasoning that names the robots."""
        return write_reasoning(
            Reasoning(tuple(robots), "do it", "somewhere", f"Send the {' and the '.join(robots)}.")
        )
