"""A cost that no plan can be below, and prices that lead the search to good plans.

Every plan takes at least as long as each chain of steps that wait for one another, and as the work
of each kind of robot divided by its number. Put weights that sum to the objective's `time` on these
chains and kinds: then

    cost >= sum over steps i of min over robots r of
            fixed_ir + begun_i * there_ir + chain_i * minutes_ir + load_r / count_r * busy_ir

for any such weights, where `chain_i` is the weight of the chains through step i, `begun_i` of those
that begin with it, and `load_r` that of kind r. `there` is when the robot can be at the place,
`busy` includes the shortest way that may lead to it. This is Lagrangian relaxation (M. L. Fisher,
The Lagrangian relaxation method for solving integer programming problems, 1981). The weights are
moved, round by round, towards the chain or kind that is longest in the plan which costs least by
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import dist

import numpy as np
from numpy.typing import NDArray

from embervlm.planning import graph
from embervlm.planning.costs import way_min
from embervlm.planning.problem import Problem

_ROUNDS = 120
_EQUAL = 1e-9


@dataclass(frozen=True)
class Prices:
    """The best bound that was found, and what a minute and a step cost each kind there."""

    bound: float
    minute_SR: NDArray[np.float64]
    cost_SR: NDArray[np.float64]


def least_cost(problem: Problem) -> Prices:
    """Return a lower bound of the cost of every plan that does all steps, and its prices."""
    steps, kinds = problem.minutes_SR.shape
    if steps == 0:
        return Prices(0.0, np.zeros((0, kinds)), np.zeros((0, kinds)))
    can_SR = np.isfinite(problem.minutes_SR)
    first_SR = _first_ways(problem)
    # The shortest way begins where the robot stands, or at a step that may come before.
    way_SR = np.where(can_SR, np.minimum(first_SR, other_ways(problem)), 0.0)
    minutes_SR = np.where(can_SR, problem.minutes_SR, 0.0)
    fixed_SR = problem.fixed_SR + way_SR * np.array(problem.way_cost_R)
    counts_R = np.array([robot.count for robot in problem.robots], float)
    busy_SR = (minutes_SR + way_SR) / counts_R
    # No way round is shorter than the direct one.
    free_R = np.array([robot.free_in_min for robot in problem.robots])
    there_SR = np.where(can_SR, first_SR + free_R, 0.0)
    every_S = np.arange(steps)
    chain_S, begun_S, load_R = np.zeros(steps), np.zeros(steps), np.zeros(kinds)
    best, least_found = Prices(-np.inf, np.zeros((steps, kinds)), fixed_SR), np.inf
    for round_number in range(_ROUNDS):
        cost_SR = fixed_SR + chain_S[:, None] * minutes_SR + load_R * busy_SR
        cost_SR += begun_S[:, None] * there_SR
        choice_S = cost_SR.argmin(1)
        bound = float(cost_SR[every_S, choice_S].sum())
        # Before the first move no weight is given to any chain: a bound too, without time.
        if bound > best.bound:
            best = Prices(bound, chain_S[:, None] + load_R / counts_R, cost_SR)
        path, longest = graph.critical_path(
            problem.after,
            minutes_SR[every_S, choice_S].tolist(),
            there_SR[every_S, choice_S].tolist(),
        )
        work_R = np.bincount(choice_S, busy_SR[every_S, choice_S], kinds)
        span = max(longest, float(work_R.max()))
        found = float(fixed_SR[every_S, choice_S].sum()) + problem.time_weight * span
        least_found = min(least_found, found)
        if least_found <= best.bound + _EQUAL * abs(best.bound):
            break
        share = 2.0 / (round_number + 2.0)
        chain_S, begun_S, load_R = ((1 - share) * old for old in (chain_S, begun_S, load_R))
        # The chains alone first: where there are many kinds, each is the busiest in its turn.
        if span > longest and round_number >= _ROUNDS // 2:
            load_R[work_R.argmax()] += share * problem.time_weight
        else:
            chain_S[path] += share * problem.time_weight
            begun_S[path[0]] += share * problem.time_weight
    return best


def other_ways(problem: Problem) -> list[list[float]]:
    """Return, by step and kind, the minutes from the nearest step that may come before it.

    Infinite where there is none with a place, 0 where the step has no place itself.
    """
    later: list[set[int]] = [set() for _ in problem.after]
    for i, before in enumerate(graph.ancestors(problem.after)):
        for j in before:
            later[j].add(i)
    places = problem.places
    ways = []
    for i, place in enumerate(places):
        others = [p for j, p in enumerate(places) if j != i and j not in later[i]]
        there = [p for p in others if p is not None]
        nearest = min(there, key=lambda p: dist(p, place) if place else 0.0, default=None)
        if place is None:
            ways.append([0.0] * len(problem.robots))
        elif nearest is None:
            ways.append([float("inf")] * len(problem.robots))
        else:
            ways.append([way_min(robot, nearest, place) for robot in problem.robots])
    return ways


def _first_ways(problem: Problem) -> NDArray[np.float64]:
    """Return the minutes from where each kind stands to each step."""
    if not any(problem.places):
        return np.zeros(problem.minutes_SR.shape)
    return np.array(
        [
            [problem.way(r, start, i) for r, start in enumerate(problem.starts_R)]
            for i in range(len(problem.after))
        ]
    )
