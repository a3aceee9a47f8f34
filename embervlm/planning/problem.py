"""An allocation as numbers: steps, units and what each step costs each kind of robot.

Axes: S steps that are still to be done, R kinds of robots. A kind has `count` units that are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embervlm.fleet import Fleet, Place, Robot
from embervlm.planning.costs import (
    Step,
    minutes_there,
    obstacles,
    penalty,
    risk,
    watt_hours,
    way_min,
)


@dataclass(frozen=True)
class Problem:
    """The steps that somebody can do, and what they cost.

    `after[i]` are indices of S. `minutes_SR` is without the way, infinite where the robot cannot do
    the step. `fixed_SR` is the cost without the way and without the makespan.
    `way_cost_R` is the cost of a minute on the way, `time_weight` of one of the makespan.
    """

    robots: tuple[Robot, ...]
    after: tuple[tuple[int, ...], ...]
    places: tuple[Place | None, ...]
    minutes_SR: NDArray[np.float64]
    fixed_SR: NDArray[np.float64]
    way_cost_R: tuple[float, ...]
    starts_R: tuple[Place | None, ...]
    time_weight: float

    @property
    def unit_kinds(self) -> list[int]:
        """The kind of each unit; a kind never needs more units than there are steps."""
        most = len(self.after)
        return [r for r, robot in enumerate(self.robots) for _ in range(min(robot.count, most))]

    def way(self, kind: int, start: Place | None, step: int) -> float:
        """Return the minutes from a place to that of a step."""
        return way_min(self.robots[kind], start, self.places[step])


@dataclass
class Unit:
    """One robot while a schedule is built: where it is, when it is free, how long it ran."""

    kind: int
    free_min: float
    place: Place | None
    used_min: float = 0.0


@dataclass
class Schedule:
    """Steps placed one behind the other, each as early as its unit and its forerunners allow."""

    problem: Problem
    units: list[Unit] = field(default_factory=list)
    unit_of: dict[int, int] = field(default_factory=dict)
    start: dict[int, float] = field(default_factory=dict)
    end: dict[int, float] = field(default_factory=dict)
    makespan: float = 0.0
    fixed: float = 0.0

    def __post_init__(self) -> None:
        robots, starts = self.problem.robots, self.problem.starts_R
        self.units = [
            Unit(kind, robots[kind].free_in_min, starts[kind]) for kind in self.problem.unit_kinds
        ]

    @property
    def cost(self) -> float:
        """The objective of what is placed so far."""
        return self.problem.time_weight * self.makespan + self.fixed

    def trial(self, step: int, index: int) -> tuple[float, float, float] | None:
        """Return start, end and way of a step on a unit; None if it cannot do it."""
        unit, problem = self.units[index], self.problem
        minutes = float(problem.minutes_SR[step, unit.kind])
        way = problem.way(unit.kind, unit.place, step)
        # The last minute of a battery is not lost to rounding.
        if unit.used_min + minutes + way > problem.robots[unit.kind].endurance_min + 1e-9:
            return None
        begin = max([unit.free_min, *(self.end[j] for j in problem.after[step])])
        return begin, begin + minutes + way, way

    def place(self, step: int, index: int, begin: float, end: float, way: float) -> None:
        """Give a step to a unit, as `trial` said."""
        unit, problem = self.units[index], self.problem
        unit.used_min += end - begin
        unit.free_min = end
        unit.place = problem.places[step] or unit.place
        self.unit_of[step] = index
        self.start[step], self.end[step] = begin, end
        self.makespan = max(self.makespan, end)
        self.fixed += float(problem.fixed_SR[step, unit.kind]) + problem.way_cost_R[unit.kind] * way


def build(
    fleet: Fleet,
    steps: Sequence[Step],
    kept: Sequence[int],
    preferences: Sequence[Mapping[str, float]] | None,
) -> Problem:
    """Put the `kept` steps into numbers; the links to other steps fall away."""
    objective = fleet.objective
    unstated_w = max((robot.energy_w or 0.0 for robot in fleet), default=0.0)
    number = {step: i for i, step in enumerate(kept)}
    shape = (len(kept), len(fleet))
    minutes_SR, fixed_SR = np.full(shape, np.inf), np.full(shape, np.inf)
    for i, index in enumerate(kept):
        step = steps[index]
        wishes = None if preferences is None else preferences[index]
        for r, robot in enumerate(fleet):
            if not may_do(robot, step) or obstacles(robot, step, objective):
                continue
            minutes = minutes_there(robot, step, objective)
            minutes_SR[i, r] = minutes
            fixed_SR[i, r] = (
                objective.energy * watt_hours(robot, minutes, unstated_w)
                + objective.safety * risk(robot, step.needs)
                + objective.preference * penalty(wishes, robot.name)
            )
    used = np.flatnonzero(np.isfinite(minutes_SR).any(0))
    robots = tuple(fleet.robots[r] for r in used)
    return Problem(
        robots=robots,
        after=tuple(tuple(number[j] for j in steps[i].after if j in number) for i in kept),
        places=tuple(steps[i].place for i in kept),
        minutes_SR=minutes_SR[:, used],
        fixed_SR=fixed_SR[:, used],
        way_cost_R=tuple(objective.energy * watt_hours(r, 1.0, unstated_w) for r in robots),
        starts_R=tuple(_where(robot, steps) for robot in robots),
        time_weight=objective.time,
    )


def may_do(robot: Robot, step: Step) -> bool:
    """Say whether a step is open to a robot: it states the actions, and nobody else is set."""
    return step.robot in (None, robot.name) and all(map(robot.can, step.needs.actions))


def _where(robot: Robot, steps: Sequence[Step]) -> Place | None:
    """Return where a robot stands: where it last finished a step, else where the fleet says."""
    done = [s.place for s in steps if s.done and s.robot == robot.name and s.place is not None]
    return done[-1] if done and robot.count == 1 else robot.location
