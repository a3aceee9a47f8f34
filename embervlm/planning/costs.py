"""What a step takes of a robot: minutes, energy, risk; and why a robot cannot do it.

A step that a robot does takes

    way      metres from where it stands to the step's place, at its speed (0 where one is unknown)
    setup    the robot's `setup_min`
    distance the metres that the request states, at its speed
    work     the step's own minutes, else the objective's `step_min`

Hours that the request states are those of distance and work together, as of a patrol.

Risk is how near the robot is to its limits, 0 to 1: the largest share of a limit that the step asks
for, and 1 in a place that the robot is not declared for.

    >>> from embervlm.fleet import Fleet
    >>> risk(Fleet.default()["Drone"], Needs(("carry",), quantities={"load_kg": 4}))
    0.8
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import dist

from embervlm.fleet import Objective, Place, Robot
from embervlm.planning.limits import (
    UPPER_LIMITS,
    Demand,
    broken_limits,
    missing_actions,
    runs_for,
)
from embervlm.quantities import number_told
from embervlm.scenario import Needs

# A robot that the model gives no chance, or less than 1 in 1,000, counts as one of 1 in 1,000.
_LEAST_PREFERENCE = -7.0
# A robot whose chance at a step of a job is below this does not do it, whoever else is left.
LEAST_CHANCE = 0.03
# The last minute of a battery is not lost to rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Step:
    """One step of a request, before anybody is chosen for it.

    `after` holds the indices of the steps that must be finished first. `robot` is who must do it,
    or has done it (None: whoever suits). `minutes` is how long the work itself takes (None: not
    stated). `place` is where, in the metres of the fleet file's `location`. `barred` are robots
    that failed at it, `unsuited` those whose chance at it is below `LEAST_CHANCE`. `start_min` is
    when one that is done was begun (None: before those of which it is known).
    """

    subtask: str
    needs: Needs
    after: tuple[int, ...] = ()
    done: bool = False
    robot: str | None = None
    minutes: float | None = None
    place: Place | None = None
    barred: tuple[str, ...] = ()
    unsuited: tuple[str, ...] = ()
    start_min: float | None = None


def way_min(robot: Robot, start: Place | None, end: Place | None) -> float:
    """Return the minutes of the way between two places; 0 where a place or speed is not known."""
    if start is None or end is None or robot.speed_kmh is None:
        return 0.0
    return dist(start, end) * 0.06 / robot.speed_kmh


def minutes_there(robot: Robot, step: Step, objective: Objective) -> float:
    """Return the minutes of a step for a robot that is at its place already."""
    hours = step.needs.quantities.get("hours")
    distance_m = step.needs.quantities.get("distance_m", 0.0)
    drive = distance_m * 0.06 / robot.speed_kmh if robot.speed_kmh else 0.0
    if step.minutes is None and hours is not None:
        # Rounded: 40 minutes, stated in hours of four decimals, are not more than 40.
        return robot.setup_min + max(round(60 * hours, 1), drive)
    work = objective.step_min if step.minutes is None else step.minutes
    return robot.setup_min + work + drive


def watt_hours(robot: Robot, minutes: float, unstated_w: float = 0.0) -> float:
    """Return what a robot draws; one whose `energy_w` is not stated draws `unstated_w`."""
    return (unstated_w if robot.energy_w is None else robot.energy_w) * minutes / 60


def risk(robot: Robot, needs: Needs) -> float:
    """Return how near a robot that keeps its limits comes to them, 0 to 1."""
    limits, asked = robot.limits, needs.quantities
    if robot.environments and needs.environment not in ("none", *robot.environments):
        return 1.0
    shares = [0.0]
    for limit, quantity, _, _ in UPPER_LIMITS:
        if quantity in asked and limits.get(limit):
            shares.append(asked[quantity] / limits[limit])
    if "hours" in asked:
        shares.append(60 * asked["hours"] / robot.endurance_min if robot.endurance_min else 1.0)
    for limit, quantity in (("min_width_m", "width_m"), ("min_depth_m", "depth_m")):
        if asked.get(quantity):
            shares.append(limits.get(limit, 0.0) / asked[quantity])
    return min(1.0, max(shares))


def penalty(preferences: Mapping[str, float] | None, name: str) -> float:
    """Return what the model holds against a robot: 0 for a chance of 1, at most 7."""
    if preferences is None:
        return 0.0
    return -max(_LEAST_PREFERENCE, min(0.0, preferences.get(name, _LEAST_PREFERENCE)))


def obstacles(robot: Robot, step: Step, objective: Objective) -> list[str]:
    """Return why a robot cannot do a step, with the numbers; an empty list means that it can."""
    clauses = broken_limits(robot, step.needs)
    if missing := missing_actions(robot, step.needs):
        clauses.append(f"cannot {' or '.join(missing)}")
    if robot.name in step.barred:
        clauses.append("has failed at it")
    if robot.name in step.unsuited and not clauses:
        clauses.append(f"suits it with a chance below {LEAST_CHANCE:.0%}")
    return clauses or lasts_not(robot, step, objective)


def minutes_if_able(robot: Robot, step: Step, demand: Demand, objective: Objective) -> float | None:
    """Return `minutes_there` of a robot that can do the step, None of one with `obstacles`."""
    if step.robot not in (None, robot.name) or robot.name in (*step.barred, *step.unsuited):
        return None
    if not demand.met_by(robot):
        return None
    return None if lasts_not(robot, step, objective) else minutes_there(robot, step, objective)


def lasts_not(robot: Robot, step: Step, objective: Objective) -> list[str]:
    """Return why a robot does not get to a step's place, or does not last there."""
    farthest_m = robot.limits.get("max_distance_m")
    base = robot.base or robot.location
    if farthest_m is not None and base is not None and step.place is not None:
        there_m = dist(base, step.place)
        if there_m > farthest_m:
            return [f"goes up to {number_told(farthest_m)} m, the place is {there_m:.0f} m away"]
    minutes = minutes_there(robot, step, objective) + way_min(robot, robot.location, step.place)
    if minutes > robot.endurance_min + ROUNDING:
        return [f"{runs_for(robot)}, the step takes {minutes:.1f} min"]
    return []
