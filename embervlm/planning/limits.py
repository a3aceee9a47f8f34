"""The rules on top of the network: who can do the job at all, and why not the others.

The network proposes what the job needs and whom it would send; this module holds every robot
against those needs with the fleet's own numbers. A robot that breaks a stated limit is out,
whatever the network says.

    >>> from embervlm.fleet import Fleet
    >>> from embervlm.scenario import Needs
    >>> broken_limits(Fleet.default()["Drone"], Needs(("carry",), quantities={"load_kg": 8}))
    ['carries up to 5 kg, asked 8 kg']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embervlm.fleet import LEFT_OUT, Fleet, Robot
from embervlm.quantities import number_told
from embervlm.scenario import Needs

# Flags that take an ability; the others (people, flat, night, narrow, doors, ice, fire) only
# inform.
FLAG_ABILITIES = {
    "height": "cannot work at height",
    "stairs": "cannot take stairs",
    "rubble": "cannot cross rubble",
    "mud": "cannot cross mud",
    "snow": "cannot cross snow",
    "sand": "cannot cross loose sand",
    "smoke": "cannot work in dense smoke",
    "storm": "cannot work in a storm",
}

# What speaks for a robot of which nothing stated does.
AS_A_WHOLE = "suits the request as a whole"

# Ground that stops who goes on it; under water nobody who dives does.
GROUND = frozenset({"rubble", "mud", "snow", "sand"})

# limit of the robot, quantity of the job, and how the comparison reads
UPPER_LIMITS = (
    ("payload_kg", "load_kg", "carries up to", "kg"),
    ("max_distance_m", "distance_m", "goes up to", "m"),
    ("max_step_cm", "step_cm", "climbs steps up to", "cm"),
    ("max_wind_kmh", "wind_kmh", "works in wind up to", "km/h"),
    ("max_depth_m", "depth_m", "dives to", "m"),
)


def broken_limits(robot: Robot, needs: Needs) -> list[str]:
    """Return every stated limit that the robot would break, as short clauses with their numbers.

    An empty list means that nothing stated rules it out. Needs of a team job concern single steps;
    hold the robots against each step then, not against the whole.
    """
    limits, asked = robot.limits, needs.quantities
    broken = unavailable(robot)
    for limit, quantity, what, unit in UPPER_LIMITS:
        if limit in limits and asked.get(quantity, 0.0) > limits[limit]:
            told = _told(asked[quantity], limits[limit])
            broken.append(f"{what} {number_told(limits[limit])} {unit}, asked {told} {unit}")
    # Rounded: 40 minutes, stated in hours of four decimals, are not more than 40.
    minutes = round(60 * asked.get("hours", 0.0), 1)
    if minutes > robot.endurance_min:
        broken.append(f"{runs_for(robot)}, asked {number_told(minutes)} min")
    if "width_m" in asked and asked["width_m"] < limits.get("min_width_m", 0.0):
        told = _told(asked["width_m"], limits["min_width_m"])
        broken.append(f"needs {number_told(limits['min_width_m'])} m of width, there are {told} m")
    if robot.can("dive"):
        depth = asked.get("depth_m")
        if depth is not None and depth < limits.get("min_depth_m", 0.0):
            told = _told(depth, limits["min_depth_m"])
            broken.append(
                f"needs {number_told(limits['min_depth_m'])} m of water, there are {told} m"
            )
    elif needs.environment == "underwater":
        broken.append("cannot work under water")
    if needs.environment == "airborne" and not robot.can("height"):
        broken.append("cannot work at height")
    for flag, clause in FLAG_ABILITIES.items():
        if flag in needs.flags and not copes(robot, flag, needs) and clause not in broken:
            broken.append(clause)
    return broken


def copes(robot: Robot, flag: str, needs: Needs) -> bool:
    """Say whether the robot copes with a condition; ground under water stops nobody who dives."""
    swims = needs.environment == "underwater" and flag in GROUND and robot.can("dive")
    return swims or robot.can(flag)


def _told(asked: float, limit: float) -> str:
    """Return what the request asks in four digits: 50 miles an hour are "80.47" km/h. With more
    where it is above 10,000, or where four would hide on which side of the limit it lies."""
    for digits in (4, 6) if asked < 10_000 else (6,):
        told = float(f"{asked:.{digits}g}")
        if (told > limit, told < limit) == (asked > limit, asked < limit):
            return f"{told:.15g}"
    return f"{asked:.15g}"


def unavailable(robot: Robot) -> list[str]:
    """Return why the robot cannot be sent at all, whatever the job; an empty list means that it
    can."""
    if robot.status == LEFT_OUT:
        return ["is left out by the operator"]
    if robot.count == 0:
        return ["has none at hand"]
    if robot.battery == 0:
        return ["has an empty battery"]
    return [] if robot.status == "ready" else [f"is not ready ({robot.status})"]


@dataclass(frozen=True)
class Demand:
    """Needs in the form in which thousands of robots are held against them: yes or no.

    `met_by` says the same as `broken_limits` and `missing_actions` do at more length.
    """

    abilities: frozenset[str]
    most: tuple[tuple[str, float], ...]
    minutes: float
    width_m: float | None
    depth_m: float | None

    @classmethod
    def of(cls, needs: Needs) -> Demand:
        """Take together what needs ask of a robot."""
        asked = needs.quantities
        flags = needs.flags & FLAG_ABILITIES.keys()
        abilities = {*needs.actions, *flags}
        if needs.environment == "underwater":
            abilities = {*abilities - GROUND, "dive"}
        if needs.environment == "airborne":
            abilities.add("height")
        return cls(
            abilities=frozenset(abilities),
            most=tuple((limit, asked[key]) for limit, key, _, _ in UPPER_LIMITS if key in asked),
            minutes=round(60 * asked.get("hours", 0.0), 1),
            width_m=asked.get("width_m"),
            depth_m=asked.get("depth_m"),
        )

    def met_by(self, robot: Robot) -> bool:
        """Say whether a robot is there and keeps to every stated limit."""
        if not self.abilities <= robot.capabilities or unavailable(robot):
            return False
        limits = robot.limits
        for limit, asked in self.most:
            if limit in limits and asked > limits[limit]:
                return False
        if self.minutes and self.minutes > robot.endurance_min:
            return False
        if self.width_m is not None and self.width_m < limits.get("min_width_m", 0.0):
            return False
        return not (
            self.depth_m is not None
            and robot.can("dive")
            and self.depth_m < limits.get("min_depth_m", 0.0)
        )


def runs_for(robot: Robot) -> str:
    """Return the clause on how long a robot with a stated endurance runs, its battery included."""
    clause = f"runs for {number_told(robot.endurance_min)} min"
    return clause if robot.battery == 1 else f"{clause} on {robot.battery:.0%} of its battery"


def missing_actions(robot: Robot, needs: Needs) -> list[str]:
    """Return the needed actions that the robot does not state among its capabilities."""
    return [action for action in needs.actions if not robot.can(action)]


def feasible(fleet: Fleet, needs: Needs) -> dict[str, list[str]]:
    """Hold every robot against the needs; map each name to the limits it would break."""
    return {robot.name: broken_limits(robot, needs) for robot in fleet}


def reasons_for(robot: Robot, needs: Needs) -> list[str]:
    """Return true facts of the fleet file that speak for the robot, those that the needs ask
    about."""
    can = [action for action in needs.actions if robot.can(action)]
    facts = [f"can {' and '.join(can)}"] if can else []
    if needs.environment == "underwater" and robot.can("dive"):
        facts.append("can dive")
    able = [flag for flag in FLAG_ABILITIES if flag in needs.flags and robot.can(flag)]
    if needs.environment == "airborne" and robot.can("height") and "height" not in able:
        able.append("height")
    if able:
        facts.append(f"copes with {' and '.join(able)}")
    limits, asked = robot.limits, needs.quantities
    for limit, quantity, what, unit in UPPER_LIMITS:
        if limit in limits and quantity in asked and asked[quantity] <= limits[limit]:
            told = _told(asked[quantity], limits[limit])
            facts.append(f"{what} {number_told(limits[limit])} {unit}, asked {told} {unit}")
    return facts or [AS_A_WHOLE]


def reasons_against(
    fleet: Fleet,
    needs: Needs,
    chosen: Sequence[str],
    probabilities: Mapping[str, float],
) -> dict[str, str]:
    """Say for each robot that is not chosen which limit it breaks, or else how it compares."""
    reasons = {}
    for robot in fleet:
        if robot.name in chosen:
            continue
        clauses = broken_limits(robot, needs)
        actions = missing_actions(robot, needs)
        if actions:
            clauses.append(f"cannot {' or '.join(actions)}")
        reasons[robot.name] = "; ".join(clauses) or suits_less(probabilities.get(robot.name, 0.0))
    return reasons


def suits_less(chance: float) -> str:
    """Return the clause on a robot against which nothing is stated."""
    return f"breaks no stated limit, but suits less well ({chance:.0%})"
