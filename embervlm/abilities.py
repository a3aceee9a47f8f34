"""Which robots of any fleet can do what the network reads in a request: names play no part.

    abilities = Abilities(fleet)
    abilities.chances(proposal)      # {"Kestrel 7": 0.93, "Otter 31": 0.02}, before hard limits

The network was taught with the default robots, and its opinion of whom a dispatcher would send is
one of them. A robot that is much like a default one stands for it. Of any other, the needs speak:
its chance is that it lacks nothing of what is asked,

    chance = P(some action) * prod_{actions it lacks} (1 - P(action))
             * prod_{conditions it lacks} (1 - P(condition))
             * P(a place that it is declared for, or none)

Axes: N robots, A actions, F flags, E environments.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.base import Array, Proposal, StepScores
from embervlm.fleet import ACTIONS, ENVIRONMENTS, Fleet, Robot
from embervlm.planning.limits import FLAG_ABILITIES
from embervlm.scenario import FLAGS

_DEFAULT_FLEET = Fleet.default()
# Robots of which this share of what either can do is common stand for one another.
ALIKE = 0.8


class Abilities:
    """What each robot of a fleet states, as matrices; made once for a fleet.

    Attributes:
        slot_of: by name, which default robot the network's opinion is taken from.
        is_alike: by name, whether the two are so much alike that it stands for it in sets.
    """

    def __init__(self, fleet: Fleet) -> None:
        found = [_closest(robot) for robot in fleet]
        self.names = fleet.names
        self.slot_of = {robot.name: slot for robot, (slot, _) in zip(fleet, found, strict=True)}
        self.is_alike = {
            robot.name: likeness >= ALIKE for robot, (_, likeness) in zip(fleet, found, strict=True)
        }
        self._lacks_NA = _table(fleet, lambda robot: [not robot.can(a) for a in ACTIONS])
        self._lacks_NF = _table(
            fleet, lambda robot: [f in FLAG_ABILITIES and not robot.can(f) for f in FLAGS]
        )
        self._works_NE = _table(
            fleet,
            lambda robot: [
                place == "none" or not robot.environments or place in robot.environments
                for place in ENVIRONMENTS
            ],
        )

    def chances(self, asked: Proposal | StepScores) -> dict[str, float]:
        """Return for each robot how likely it can do all of a request or of a step, 0 to 1."""
        actions_A, flags_F = _sigmoid(asked.actions), _sigmoid(asked.flags)
        places_E = np.exp(asked.environment - asked.environment.max())
        places_E /= places_E.sum()
        chance_N = actions_A.max() * (1 - self._lacks_NA * actions_A).prod(1)
        chance_N = chance_N * (1 - self._lacks_NF * flags_F).prod(1) * (self._works_NE @ places_E)
        return dict(zip(self.names, chance_N.tolist(), strict=True))


def _closest(robot: Robot) -> tuple[int, float]:
    """Return which default robot this one is most like, and how much, 0 to 1."""
    names = _DEFAULT_FLEET.names
    abilities = robot.capabilities | robot.environments

    def likeness(other: Robot) -> float:
        theirs = other.capabilities | other.environments
        return len(abilities & theirs) / max(1, len(abilities | theirs))

    closest = max(_DEFAULT_FLEET, key=likeness)
    return names.index(closest.name), likeness(closest)


def _table(fleet: Fleet, row: Callable[[Robot], list[bool]]) -> NDArray[np.float32]:
    return np.array([row(robot) for robot in fleet], np.float32).reshape(len(fleet), -1)


def _sigmoid(logits: Array) -> Array:
    # Without an overflow on either side.
    chances: Array = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * logits))
    return chances
