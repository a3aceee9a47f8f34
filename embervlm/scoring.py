"""One definition of "right", used by metrics, rewards and lessons alike.

>>> exact({"Drone"}, {"Drone"}), round(jaccard({"Drone"}, {"Drone", "Humanoid"}), 2)
(True, 0.5)
>>> set_reward({"Drone", "Humanoid"}, {"Drone"}), set_reward({"Drone"}, {"Drone"})
(0.25, 1.0)
"""

from __future__ import annotations

from collections.abc import Collection


def exact(answer: Collection[str], truth: Collection[str]) -> bool:
    """Say whether two sets of robots are the same."""
    return set(answer) == set(truth)


def jaccard(answer: Collection[str], truth: Collection[str]) -> float:
    """Return the share of robots in both among those in either, 0 to 1; two empty sets are
    equal."""
    either = set(answer) | set(truth)
    return len(set(answer) & set(truth)) / len(either) if either else 1.0


def set_reward(answer: Collection[str], truth: Collection[str]) -> float:
    """Return how well a set answers, 0 to 1: half for the overlap, half for being the same.

    Naming every robot earns little, and no robot where some are due earns nothing.
    """
    return (jaccard(answer, truth) + exact(answer, truth)) / 2
