"""The search for a plan: list scheduling, then better neighbours, then branch and bound.

A plan is a sequence of steps, each with a kind of robot; `Schedule` places them one behind the
other. Small problems are searched to the end (`_Tree`), which proves the best; larger ones stop at
`_MOST_MOVES` and keep the best that was found, beside the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from embervlm.planning import graph
from embervlm.planning.bound import Prices, least_cost, other_ways
from embervlm.planning.costs import way_min
from embervlm.planning.problem import Placement, Problem, Schedule, Unit

# Up to so many steps the tree is searched to its end, whatever it takes.
_SMALL = 6
# Then so many of its moves are looked at; beyond so many steps they prove nothing.
_MOST_MOVES = 10_000
_MOST_STEPS_IN_TREE = 12
_UNITS_TO_TRY = 40
_KINDS_TO_TRY = 8
_MOST_NEIGHBOURS = 2_000
_EQUAL = 1e-9


def solve(problem: Problem) -> tuple[Schedule, float, bool]:
    """Return a schedule, a cost that none can be below, and whether no schedule is better."""
    prices = least_cost(problem)
    promising = [
        [kind for kind in row if kind in able]
        for row, able in zip(
            prices.cost_SR.argsort(1, kind="stable").tolist(), map(set, problem.able), strict=True
        )
    ]
    best = _first(problem, prices, promising)
    if _is_proven(best, prices):
        return best, best.cost, True
    best = _improved(problem, best, promising)
    if _is_proven(best, prices):
        return best, best.cost, True
    if len(problem.after) <= _MOST_STEPS_IN_TREE:
        tree = _Tree(problem, best, float("inf") if len(problem.after) <= _SMALL else _MOST_MOVES)
        left_out, bound = tree.lowest(0.0)
        if tree.search():
            return tree.best, tree.best.cost, True
        best = tree.best
        if not left_out:
            prices = replace(prices, bound=max(prices.bound, bound))
    return best, min(prices.bound, best.cost), False


def _is_proven(schedule: Schedule, prices: Prices) -> bool:
    left_out, cost = schedule.key
    return left_out == 0 and cost <= prices.bound + _EQUAL * max(1.0, abs(cost))


def _order(problem: Problem) -> list[int]:
    """Return the steps, those with the longest chain behind them first, none before its
    forerunners."""
    shortest = [
        min(row[r] for r in able) for row, able in zip(problem.minutes, problem.able, strict=True)
    ]
    chain = list(shortest)
    for i in reversed(graph.order(problem.after)):
        for j in problem.after[i]:
            chain[j] = max(chain[j], shortest[j] + chain[i])
    ready: list[int] = []
    left = set(range(len(chain)))
    while left:
        free = [i for i in left if not any(j in left for j in problem.after[i])]
        ready.append(max(free, key=lambda i: (chain[i], -i)))
        left.remove(ready[-1])
    return ready


def _first(problem: Problem, prices: Prices, promising: list[list[int]]) -> Schedule:
    """Place step behind step where it costs least, a minute of delay at several prices."""
    order = _order(problem)
    dear_SR = np.full_like(prices.minute_SR, problem.time_weight)
    found = []
    for minute_SR in (prices.minute_SR, dear_SR, (prices.minute_SR + dear_SR) / 2):
        minute = minute_SR.tolist()
        schedule = Schedule(problem)
        for step in order:
            if any(j not in schedule.end for j in problem.after[step]):
                continue
            ready = max((schedule.end[j] for j in problem.after[step]), default=0.0)

            def price(
                p: Placement, ready: float = ready, minute: list[list[float]] = minute
            ) -> float:
                delay = minute[p.step][p.kind] * (p.end - ready)
                return problem.fixed[p.step][p.kind] + problem.way_cost_R[p.kind] * p.way + delay

            trials: list[Placement] = []
            for kind in promising[step]:
                trials += schedule.trials(step, kind)
                if len(trials) >= _UNITS_TO_TRY:
                    break
            if trials:
                schedule.place(min(trials, key=price))
        found.append(schedule)
        if _is_proven(schedule, prices):
            break
    return min(found, key=lambda schedule: schedule.key)


def _improved(problem: Problem, best: Schedule, promising: list[list[int]]) -> Schedule:
    """Give single steps to other robots and swap neighbours as long as that costs less."""
    order = [p.step for p in best.placed]
    order += [i for i in _order(problem) if i not in best.end]
    kinds = {p.step: p.kind for p in best.placed}
    budget, better = _MOST_NEIGHBOURS, True
    while better and budget > 0:
        better = False
        for i in range(len(order)):
            step = order[i]
            for kind in promising[step][:_KINDS_TO_TRY]:
                if kind == kinds.get(step):
                    continue
                budget -= 1
                tried = _decoded(problem, order, {**kinds, step: kind}, promising)
                if _is_better(tried, best):
                    best, better = tried, True
                    kinds = {p.step: p.kind for p in best.placed}
            if i and order[i - 1] not in problem.after[step]:
                budget -= 1
                swapped = [*order[: i - 1], step, order[i - 1], *order[i + 1 :]]
                tried = _decoded(problem, swapped, kinds, promising)
                if _is_better(tried, best):
                    best, better, order = tried, True, swapped
                    kinds = {p.step: p.kind for p in best.placed}
            if budget <= 0:
                break
    return best


def _is_better(one: Schedule, other: Schedule) -> bool:
    left_out, cost = one.key
    return (left_out, cost + _EQUAL * max(1.0, abs(cost))) < other.key


def _decoded(
    problem: Problem, order: Sequence[int], kinds: dict[int, int], promising: list[list[int]]
) -> Schedule:
    """Place the steps in this order, each on the unit of its kind that ends first.

    A step whose kind has no battery left goes to the next promising kind that has.
    """
    schedule = Schedule(problem)
    for step in order:
        if any(j not in schedule.end for j in problem.after[step]):
            continue
        kind = kinds.get(step)
        trials = [] if kind is None else schedule.trials(step, kind)
        if not trials:
            for other in promising[step]:
                if trials := schedule.trials(step, other):
                    break
        if trials:
            schedule.place(min(trials, key=lambda p: (p.end, p.way)))
    return schedule


class _Tree:
    """Branch and bound over sequences in the order of their beginnings.

    Every plan whose steps begin as early as they can is one such sequence, cut off where the rest
    is left out. Of steps that begin together and could change places, only the order by number is
    followed. A branch ends when even its lowest cost is no better than the best plan so far.
    """

    def __init__(self, problem: Problem, best: Schedule, most_moves: float) -> None:
        self.problem = problem
        self.best = best
        self.most_moves = most_moves
        self.moves = 0
        self.order = graph.order(problem.after)
        self.nearest = other_ways(problem)
        able, fixed = problem.able, problem.fixed
        self.least_fixed = [min(fixed[i][r] for r in able[i]) for i in range(len(problem.after))]
        self.schedule = Schedule(problem)

    def search(self) -> bool:
        """Search to the end; False when `most_moves` were not enough."""
        self._visit()
        return self.moves <= self.most_moves

    def _visit(self) -> None:
        schedule, problem = self.schedule, self.problem
        if _is_better(schedule, self.best):
            self.best = schedule.copy()
        end, last = schedule.end, schedule.placed[-1] if schedule.placed else None
        moves = []
        for step in self.order:
            if step in end or any(j not in end for j in problem.after[step]):
                continue
            for kind in problem.able[step]:
                for trial in schedule.trials(step, kind):
                    if last is not None and (
                        trial.begin < last.begin
                        or (trial.begin == last.begin < last.end and step < last.step)
                    ):
                        continue
                    schedule.place(trial)
                    lowest = self.lowest(trial.begin)
                    self.moves += 1
                    schedule.undo()
                    moves.append((lowest, trial))
        moves.sort(key=lambda move: move[0])
        for lowest, trial in moves:
            left_out, cost = self.best.key
            if lowest >= (left_out, cost - _EQUAL * max(1.0, abs(cost))):
                return
            if self.moves > self.most_moves:
                return
            schedule.place(trial)
            self._visit()
            schedule.undo()

    def lowest(self, begun: float) -> tuple[int, float]:
        """Return what the best completion of the schedule cannot be below: left out, cost.

        No further step begins before `begun`, or before a unit that is free can be there (no way
        round is shorter than the direct one). All work that is left fits into the units' time from
        `begun` on; with the ways (each from where a unit is, or from the nearest other step), into
        all of their time, for a way may be gone before.
        """
        schedule, problem = self.schedule, self.problem
        end = dict(schedule.end)
        left_out, fixed, makespan = 0, schedule.fixed, schedule.makespan
        work = with_ways = 0.0
        for step in self.order:
            if step in schedule.end:
                continue
            before = problem.after[step]
            if any(j not in end for j in before):
                left_out += 1
                continue
            ready = max([begun, *(end[j] for j in before)])
            soonest = least = shortest = float("inf")
            for kind in problem.able[step]:
                robot, minutes = problem.robots[kind], problem.minutes[step][kind]
                units = schedule.units[kind]
                if len(units) < robot.count:
                    units = [*units, Unit(robot.free_in_min, problem.starts_R[kind])]
                for unit in units:
                    way = way_min(robot, unit.place, problem.places[step])
                    took = minutes + min(way, self.nearest[step][kind])
                    if unit.used_min + took <= robot.endurance_min + _EQUAL:
                        least, shortest = min(least, took), min(shortest, minutes)
                        soonest = min(soonest, max(ready, unit.free_min + way) + minutes)
            if soonest == float("inf"):
                left_out += 1
                continue
            end[step] = soonest
            makespan = max(makespan, soonest)
            fixed += self.least_fixed[step]
            work += shortest
            with_ways += least
        if with_ways:
            makespan = max(
                makespan,
                self._all_busy_until(begun, work),
                self._all_busy_until(0.0, with_ways),
            )
        return left_out, problem.time_weight * makespan + fixed

    def _all_busy_until(self, begun: float, work: float) -> float:
        """Return when this work would be done if all units shared it without a gap."""
        free = []
        most = len(self.problem.after)
        for robot, units in zip(self.problem.robots, self.schedule.units, strict=True):
            free += [max(begun, unit.free_min) for unit in units]
            free += [max(begun, robot.free_in_min)] * (min(robot.count, most) - len(units))
        free.sort()
        done = 0.0
        for number, (now, following) in enumerate(pairwise([*free, float("inf")]), start=1):
            if done + number * (following - now) >= work:
                return now + (work - done) / number
            done += number * (following - now)
        raise AssertionError("work always ends")
