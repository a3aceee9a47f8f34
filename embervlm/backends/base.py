"""What every way of running the network offers to the selector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embervlm.fleet import ACTIONS, ENVIRONMENTS, Fleet
from embervlm.prompts import Encoder
from embervlm.quantities import Mention
from embervlm.scenario import FLAGS, QUANTITIES

Array = NDArray[np.float32]

# A longer request keeps its two ends and its quantities (`prompts.shortened`).
MAX_TASK_TOKENS = 128


@dataclass(frozen=True)
class Proposal:
    """What the network says of one request; every array holds logits, float32.

    `subsets` (32,): the set, bit r of the index for robot r of the default fleet. `primary` (6,),
    the last one No Robot. `environment` (10,). `scene` (10,): the place in the photo alone, None
    without a photo. `actions` (9,), `flags` (15,), `team` a number, `roles` (M, 8) for the M
    `mentions`; `unread` are the quantities for which a long request had no room. `embedding`
    (384,): the request as a vector, for lessons. `states` is the backend's own, for `write`,
    `middle` for `split`: what a part with layers of its own reads instead of the last states, None
    where it has none. `value`, of a network that reasons in steps: how likely the set is right.
    """

    subsets: Array
    primary: Array
    environment: Array
    scene: Array | None
    actions: Array
    flags: Array
    team: float
    roles: Array
    mentions: tuple[Mention, ...]
    embedding: Array
    states: Any
    middle: Any = None
    value: float | None = None
    unread: tuple[Mention, ...] = ()


@dataclass(frozen=True)
class StepScores:
    """What the network says of one step of a job; arrays hold logits, float32, but for `pointer`.

    `robots` (6,), the last one for none of the five; `actions` (9,), `flags` (15,), `environment`
    (10,). `after` (K,): whether it waits for each of the K steps; of itself it says nothing.
    `pointer` (T,): shares of the request's tokens that the step stands in, summing to 1. `more`:
    that there is such a step.
    """

    more: float
    robots: Array
    actions: Array
    flags: Array
    environment: Array
    after: Array
    pointer: Array


def labels() -> dict[str, list[str]]:
    """Return what each output of the network stands for, in order.

    A model that was trained for other names must not be run with these.
    """
    return {
        "robots": list(Fleet.default().names),
        "environments": list(ENVIRONMENTS),
        "actions": list(ACTIONS),
        "flags": list(FLAGS),
        "roles": [*QUANTITIES, "other"],
    }


class Backend(Protocol):
    """Runs a trained model: `propose` reads a request, `write` puts a decision into words.

    Several threads may use one; a proposal holds all that `split` and `write` need of it.
    """

    @property
    def image_size(self) -> int:
        """The side of the square photo that `propose` expects, in pixels."""

    @property
    def tokenizer(self) -> Encoder:
        """What turns words into the network's tokens."""

    @property
    def calibration(self) -> dict[str, float]:
        """The numbers fitted on validation data; see `reading.Calibration`."""

    def propose(self, task: str | None, pixels_CHW: Array | None) -> Proposal:
        """Read words, a photo (3, size, size) in -1..1 from `imaging.preprocess`, or both."""

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """Return what is said of each step of a job, 1 to 6, in the order in which they are told;
        none where the model has no part that splits."""

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return the marked reasoning for a decision; it always parses
        (`prompts.parse_reasoning`)."""
