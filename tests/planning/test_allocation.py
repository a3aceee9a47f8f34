"""The plan that comes out is the best there is, and holds nothing that cannot be done."""

import math
from collections.abc import Mapping, Sequence

from embervlm.fleet import Fleet, Robot
from embervlm.planning import Step, broken_limits, missing_actions

FLEET = Fleet.default()


def drive(
    robot: Robot, start: tuple[float, float] | None, end: tuple[float, float] | None
) -> float:
    if start is None or end is None or robot.speed_kmh is None:
        return 0.0
    return math.hypot(start[0] - end[0], start[1] - end[1]) / 1000 / robot.speed_kmh * 60


def best_of_all(
    fleet: Fleet, steps: Sequence[Step], wishes: Sequence[Mapping[str, float]]
) -> tuple[int, float]:
    """Try every unit for every step in every order, with nothing of the solver's; return how many
    steps the best plan leaves out, and what it costs."""
    weights = fleet.objective
    unstated = max(robot.energy_w or 0.0 for robot in fleet)
    units = [robot for robot in fleet for _ in range(robot.count)]
    work = [
        {
            u: robot.setup_min + (weights.step_min if step.minutes is None else step.minutes)
            for u, robot in enumerate(units)
            if not broken_limits(robot, step.needs)
            and not missing_actions(robot, step.needs)
            and not (
                robot.location is not None
                and step.place is not None
                and math.dist(robot.location, step.place)
                > robot.limits.get("max_distance_m", math.inf)
            )
        }
        for step in steps
    ]
    best = (len(steps), 0.0)

    def cost_of(step: int, robot: Robot, minutes: float) -> float:
        watts = unstated if robot.energy_w is None else robot.energy_w
        wish = min(7.0, -wishes[step].get(robot.name, -7.0))
        return weights.energy * watts * minutes / 60 + weights.preference * wish

    def go(ends: dict[int, float], state: tuple[tuple, ...], late: float, spent: float) -> None:
        nonlocal best
        key = (len(steps) - len(ends), weights.time * late + spent)
        best = min(best, key)
        for i, step in enumerate(steps):
            if i in ends or any(j not in ends for j in step.after):
                continue
            tried = set()
            for u, minutes in work[i].items():
                robot = units[u]
                free, where, ran = state[u]
                if (robot.name, state[u]) in tried:
                    continue
                tried.add((robot.name, state[u]))
                took = minutes + drive(robot, where, step.place)
                endurance = robot.limits.get("endurance_min", math.inf) * robot.battery
                if ran + took > endurance + 1e-9:
                    continue
                ready = max((ends[j] for j in step.after), default=0.0)
                end = max(free + took - minutes, ready) + minutes
                moved = (end, step.place or where, ran + took)
                go(
                    {**ends, i: end},
                    (*state[:u], moved, *state[u + 1 :]),
                    max(late, end),
                    spent + cost_of(i, robot, took),
                )

    start = tuple((robot.free_in_min, robot.location, 0.0) for robot in units)
    go({}, start, 0.0, 0.0)
    return best
