"""An allocation as numbers: steps, kinds of robots, what each costs, and a schedule that grows.

Axes: S steps that are still to be done, R kinds of robots that can do one of them. The `count`
units of a kind are alike until they have done something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embervlm.fleet import Fleet, Place, Robot
from embervlm.planning import graph
from embervlm.planning.costs import (
    ROUNDING,
    Step,
    minutes_if_able,
    penalty,
    risk,
    watt_hours,
    way_min,
)
from embervlm.planning.limits import Demand


@dataclass(frozen=True)
class Problem:
    """The steps that somebody can do, and what they cost.

    `after[i]` are indices of S. `minutes_SR` is without the way, infinite where the robot cannot do
    the step; `fixed_SR` is the cost without the way and without the makespan. `way_cost_R` is the
    cost of a minute on the way, `time_weight` of one of the makespan. A robot whose power is not
    stated draws `unstated_w`, the most that one of `robots` states.
    """

    robots: tuple[Robot, ...]
    after: tuple[tuple[int, ...], ...]
    places: tuple[Place | None, ...]
    minutes_SR: NDArray[np.float64]
    fixed_SR: NDArray[np.float64]
    way_cost_R: tuple[float, ...]
    starts_R: tuple[Place | None, ...]
    time_weight: float
    unstated_w: float

    @cached_property
    def minutes(self) -> list[list[float]]:
        """`minutes_SR` as lists, which single look-ups are quicker in."""
        rows: list[list[float]] = self.minutes_SR.tolist()
        return rows

    @cached_property
    def fixed(self) -> list[list[float]]:
        """`fixed_SR` as lists."""
        rows: list[list[float]] = self.fixed_SR.tolist()
        return rows

    @cached_property
    def able(self) -> list[list[int]]:
        """The kinds that can do each step."""
        return [np.flatnonzero(np.isfinite(row_R)).tolist() for row_R in self.minutes_SR]

    def way(self, kind: int, start: Place | None, step: int) -> float:
        """Return the minutes from a place to that of a step."""
        return way_min(self.robots[kind], start, self.places[step])


class Placement(NamedTuple):
    """A step on the unit `number` (from 0) of a kind.

    It sets off `way` minutes before `begin`, so that it is there when the step can begin.
    """

    step: int
    kind: int
    number: int
    begin: float
    end: float
    way: float


@dataclass
class Unit:
    """One robot while a schedule is built: when it is free, where it is then, how long it ran."""

    free_min: float
    place: Place | None
    used_min: float = 0.0


@dataclass
class Schedule:
    """Steps placed one behind the other, each as early as its unit and its forerunners allow."""

    problem: Problem
    units: list[list[Unit]] = field(init=False)
    placed: list[Placement] = field(default_factory=list)
    end: dict[int, float] = field(default_factory=dict)
    makespan: float = 0.0
    fixed: float = 0.0
    _before: list[tuple[float, float, float, Place | None, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.units = [[] for _ in self.problem.robots]

    @property
    def cost(self) -> float:
        """The objective of what is placed so far."""
        return self.problem.time_weight * self.makespan + self.fixed

    @property
    def key(self) -> tuple[int, float]:
        """What is compared: first how many steps are left out, then the cost."""
        return len(self.problem.after) - len(self.placed), self.cost

    def trials(self, step: int, kind: int) -> list[Placement]:
        """Return how each unit of a kind could do a step next, one of the unused ones included.

        The steps before it must be placed. Units whose battery does not last are left out.
        """
        problem = self.problem
        robot, minutes = problem.robots[kind], problem.minutes[step][kind]
        ready, end = 0.0, self.end
        for j in problem.after[step]:
            ready = max(ready, end[j])
        units = self.units[kind]
        if len(units) < robot.count:
            units = [*units, Unit(robot.free_in_min, problem.starts_R[kind])]
        found = []
        for number, unit in enumerate(units):
            way = way_min(robot, unit.place, problem.places[step])
            if unit.used_min + minutes + way <= robot.endurance_min + ROUNDING:
                begin = max(ready, unit.free_min + way)
                found.append(Placement(step, kind, number, begin, begin + minutes, way))
        return found

    def place(self, placement: Placement) -> None:
        """Give a step to a unit, as `trials` said."""
        step, kind, number, begin, end, way = placement
        problem, units = self.problem, self.units[kind]
        if number == len(units):
            units.append(Unit(problem.robots[kind].free_in_min, problem.starts_R[kind]))
        unit = units[number]
        self._before.append(
            (self.makespan, self.fixed, unit.free_min, unit.place, unit.used_min),
        )
        unit.used_min += end - begin + way
        unit.free_min = end
        unit.place = problem.places[step] or unit.place
        self.placed.append(placement)
        self.end[step] = end
        self.makespan = max(self.makespan, end)
        self.fixed += problem.fixed[step][kind] + problem.way_cost_R[kind] * way

    def undo(self) -> None:
        """Take the last step back."""
        step, kind, number, *_ = self.placed.pop()
        del self.end[step]
        unit = self.units[kind][number]
        self.makespan, self.fixed, unit.free_min, unit.place, unit.used_min = self._before.pop()
        if not any((p.kind, p.number) == (kind, number) for p in self.placed):
            self.units[kind].pop()

    def copy(self) -> Schedule:
        """Return the same steps on the same units."""
        other = Schedule(self.problem)
        for placement in self.placed:
            other.place(placement)
        return other


def build(
    fleet: Fleet, steps: Sequence[Step], preferences: Sequence[Mapping[str, float]] | None
) -> tuple[list[int], Problem]:
    """Return which of the steps are to be done and can be, and the problem that these pose.

    A step that waits for one that nobody can do cannot be done either. Links to steps that are done
    fall away.
    """
    objective = fleet.objective
    kept: list[int] = []
    rows: dict[int, dict[int, float]] = {}
    for i in graph.order([step.after for step in steps]):
        step = steps[i]
        if step.done or any(not steps[j].done and j not in rows for j in step.after):
            continue
        demand = Demand.of(step.needs)
        row = {}
        for r, robot in enumerate(fleet):
            minutes = minutes_if_able(robot, step, demand, objective)
            if minutes is not None:
                row[r] = minutes
        if row:
            rows[i] = row
            kept.append(i)
    kept.sort()
    number = {step: i for i, step in enumerate(kept)}
    used = sorted({r for row in rows.values() for r in row})
    robots = tuple(fleet.robots[r] for r in used)
    unstated_w = max((robot.energy_w or 0.0 for robot in robots), default=0.0)
    column = {r: k for k, r in enumerate(used)}
    costs_2SR = np.full((2, len(kept), len(used)), np.inf)
    for i, row in rows.items():
        needs, wishes = steps[i].needs, None if preferences is None else preferences[i]
        fixed = [
            objective.energy * watt_hours(fleet.robots[r], minutes, unstated_w)
            + objective.safety * risk(fleet.robots[r], needs)
            + objective.preference * penalty(wishes, fleet.robots[r].name)
            for r, minutes in row.items()
        ]
        costs_2SR[:, number[i], [column[r] for r in row]] = [list(row.values()), fixed]
    return kept, Problem(
        robots=robots,
        after=tuple(tuple(number[j] for j in steps[i].after if j in number) for i in kept),
        places=tuple(steps[i].place for i in kept),
        minutes_SR=costs_2SR[0],
        fixed_SR=costs_2SR[1],
        way_cost_R=tuple(objective.energy * watt_hours(r, 1.0, unstated_w) for r in robots),
        starts_R=tuple(robot.location for robot in robots),
        time_weight=objective.time,
        unstated_w=unstated_w,
    )
