"""Is what the reasoning says true? The robots clause by clause, with the fleet; the rest by rule.

The third line of a reasoning is written by rules (`planning.reasons_for`,
`planning.reasons_against`). This module does not trust them: it reads the line back as text and
holds every clause against the fleet's own numbers and against the needs that the decision states. A
clause that it does not know is a fault. `checks_of` holds a whole account against its decision.

    >>> fleet, needs = Fleet.default(), Needs(("carry",), quantities={"load_kg": 8.0})
    >>> [claim.fault for claim in check_line("Robots: Drone: carries up to 9 kg, asked 8 kg", fleet,
    needs)] ['Drone: payload_kg is 5 in the fleet, not 9']
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from embervlm.fleet import ACTIONS, CONDITIONS, LEFT_OUT, NO_ROBOT, Fleet, Robot
from embervlm.prompts import parse_thinking
from embervlm.quantities import states
from embervlm.scenario import Decision, Needs

ROBOTS_LINE = "Robots: "

_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"


@dataclass(frozen=True)
class Claim:
    """One clause: of which robot, for or against it, and what is false about it (None: nothing)."""

    robot: str
    is_against: bool
    clause: str
    fault: str | None


@dataclass(frozen=True)
class _Bound:
    """A clause that states a limit of the robot and what the job asks.

    `factor` turns the quantity's unit into the clause's; `is_upper` says that the job breaks the
    limit by asking for more, else by offering less.
    """

    pattern: re.Pattern[str]
    limit: str
    quantity: str
    is_upper: bool = True
    factor: float = 1.0


def _bound(
    text: str, limit: str, quantity: str, is_upper: bool = True, factor: float = 1.0
) -> _Bound:
    pattern = re.compile(re.escape(text).replace("N", _NUMBER))
    return _Bound(pattern, limit, quantity, is_upper, factor)


_BOUNDS = (
    _bound("carries up to N kg, asked N kg", "payload_kg", "load_kg"),
    _bound("goes up to N m, asked N m", "max_distance_m", "distance_m"),
    _bound("climbs steps up to N cm, asked N cm", "max_step_cm", "step_cm"),
    _bound("works in wind up to N km/h, asked N km/h", "max_wind_kmh", "wind_kmh"),
    _bound("dives to N m, asked N m", "max_depth_m", "depth_m"),
    _bound("runs for N min, asked N min", "endurance_min", "hours", factor=60.0),
    _bound("needs N m of width, there are N m", "min_width_m", "width_m", is_upper=False),
    _bound("needs N m of water, there are N m", "min_depth_m", "depth_m", is_upper=False),
)

# What the robot cannot do -> the ability that it then lacks; the job must ask for it.
_LACKS = {
    "cannot take stairs": "stairs",
    "cannot cross rubble": "rubble",
    "cannot cross mud": "mud",
    "cannot cross snow": "snow",
    "cannot cross loose sand": "sand",
    "cannot work in dense smoke": "smoke",
    "cannot work in a storm": "storm",
    "cannot work at height": "height",
    "cannot work under water": "dive",
}
# Under water it stops nobody who dives.
_GROUND = ("rubble", "mud", "snow", "sand")
_PLACE_ASKS = {"height": "airborne", "dive": "underwater"}

_JUDGEMENT = "suits the request as a whole"
_SUITS_LESS = re.compile(r"breaks no stated limit, but suits less well \((\d+)%\)")
# Of a robot that a person named: that it was, and what stands against it none the less.
_REQUIRED = "is required"
_THOUGH = "though it "
_NOBODY = "no robot of the fleet can do the core of this"
# What a lesson says, for those that it sends and against the others.
_TAUGHT = {
    False: re.compile(r"as lesson (\d+) says"),
    True: re.compile(r"breaks no stated limit, but lesson (\d+) says otherwise"),
}
_NOT_READY = re.compile(r"is not ready \((\w+)\)")
_LEFT_OUT = "is left out by the operator"
_EMPTY = "has an empty battery"
_TOO_LONG = re.compile(
    rf"runs for {_NUMBER} min(?: on (\d+)% of its battery)?, the step takes {_NUMBER} min"
)
_ON_BATTERY = re.compile(rf"runs for {_NUMBER} min on (\d+)% of its battery, asked {_NUMBER} min")


def check_line(
    line: str,
    fleet: Fleet,
    needs: Needs,
    *,
    lessons: Collection[int] | None = None,
    probabilities: Mapping[str, float] | None = None,
    steps: Sequence[Needs] = (),
) -> list[Claim]:
    """Return every clause of the line on the robots, each with what is false about it.

    `lessons` and `probabilities` are the decision's, for the clauses that cite them; None skips
    that comparison. What is said against a robot may be true of the whole job, or of one of its
    `steps`.
    """
    if not line.startswith(ROBOTS_LINE):
        return [Claim("", False, line, f"the line does not begin with {ROBOTS_LINE!r}")]
    asked = (needs, *steps)
    claims = []
    for name, against, clauses in _parts(line.removeprefix(ROBOTS_LINE), fleet):
        for clause in clauses:
            fault = _fault_of(name, against, clause, fleet, asked, lessons, probabilities)
            claims.append(Claim(name, against, clause, fault and f"{name}: {fault}"))
    return claims


def needs_of_steps(decision: Decision) -> list[Needs]:
    """Return what each step of a decision's plan asks for."""
    return [step.needs for step in decision.plan if step.needs is not None]


# What `checks_of` looks at, in order.
CHECKS = ("parses", "robots", "facts", "numbers", "environment", "confidence")


def checks_of(text: str, decision: Decision, fleet: Fleet) -> dict[str, bool]:
    """Return what is right about an account in tags (`prompts.write_thinking`) of a decision.

    parses       its tags are whole (`prompts.parse_thinking`); if not, nothing else is right
    robots       it selects the decided robots in order; its sentence names each of them, no other
    facts        every clause on a robot is known and true (`check_line`)
    numbers      no quantity of its other lines is missing from the request
    environment  its line on the place begins with the decided one
    confidence   it states the decision's, to four decimals
    """
    told = parse_thinking(text)
    if told is None:
        return dict.fromkeys(CHECKS, False)
    request = decision.scenario.task if decision.scenario else None
    others = " ; ".join((told.task, told.environment, told.selection))
    claims = check_line(
        ROBOTS_LINE + told.evaluation,
        fleet,
        decision.needs,
        lessons=decision.lessons,
        probabilities=decision.probabilities,
        steps=needs_of_steps(decision),
    )
    place = decision.environment.replace("_", " ")
    return {
        "parses": True,
        "robots": told.robots == decision.robots
        and names_in(told.selection, fleet).keys() == set(decision.robots),
        "facts": all(claim.fault is None for claim in claims),
        "numbers": states(request or "", others),
        "environment": re.match(rf"{re.escape(place)}(?!\w)", told.environment, re.I) is not None,
        "confidence": told.confidence == round(decision.confidence, 4),
    }


def names_in(text: str, fleet: Fleet) -> Counter[str]:
    """Return how often each outcome's name stands in a text, as whole words, capitals or not; of a
    name within a longer one only the longer counts.

    >>> names_in("Send the Drone, not the drones.", Fleet.default())
    Counter({'Drone': 1})
    """
    of = {name.lower(): name for name in fleet.outcomes}
    longest_first = sorted(of, key=len, reverse=True)
    names = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)"
    return Counter(of[found] for found in re.findall(names, text.lower()))


def named_robots(line: str, fleet: Fleet) -> tuple[set[str], set[str]]:
    """Return the robots that the line speaks for, and those that it speaks against."""
    parts = _parts(line.removeprefix(ROBOTS_LINE), fleet)
    return (
        {name for name, against, _ in parts if not against},
        {name for name, against, _ in parts if against},
    )


def clauses_of(line: str, fleet: Fleet) -> list[tuple[str, bool, str]]:
    """Return the line's clauses: of which robot, whether against it, and the words."""
    parts = _parts(line.removeprefix(ROBOTS_LINE), fleet)
    return [(name, against, clause) for name, against, clauses in parts for clause in clauses]


def broken_by(robot: Robot, needs: Needs) -> list[str]:
    """Return the stated limits and abilities that the job breaks; written apart from `planning`."""
    broken = []
    for bound in _BOUNDS:
        limit, asked = robot.limits.get(bound.limit), needs.quantities.get(bound.quantity)
        if limit is not None and asked is not None and _breaks(bound, limit, asked):
            broken.append(bound.limit)
    return broken + [ability for ability in _LACKS.values() if _lacks(robot, needs, ability)]


# So far beyond what is asked lies a limit that was made to be broken, or to be kept.
_BEYOND = 1.25


def with_fact_undone(robot: Robot, claim: Claim) -> Robot | None:
    """Return the robot of whom a claim is no longer true, all else as it was.

    None: the clause cites no fact that the fleet states of the robot (a judgement, its battery, its
    being at hand).
    """
    clause, limits = claim.clause, dict(robot.limits)
    for bound in _BOUNDS:
        if match := bound.pattern.fullmatch(clause):
            asked = float(match[2])
            breaks = not claim.is_against
            limits[bound.limit] = asked / _BEYOND if bound.is_upper == breaks else asked * _BEYOND
            return replace(robot, limits=limits)
    if claim.is_against:
        words = [_LACKS[clause]] if clause in _LACKS else _words_of(clause, "cannot ", " or ")
        return replace(robot, capabilities=robot.capabilities | set(words)) if words else None
    words = _words_of(clause, "can ", " and ") or _words_of(clause, "copes with ", " and ")
    return replace(robot, capabilities=robot.capabilities - set(words)) if words else None


def _words_of(clause: str, opening: str, between: str) -> list[str]:
    """Return the abilities that a clause names behind its opening words; none of other clauses."""
    if not clause.startswith(opening):
        return []
    words = clause.removeprefix(opening).split(between)
    return words if all(word in ACTIONS + CONDITIONS for word in words) else []


def _parts(text: str, fleet: Fleet) -> list[tuple[str, bool, list[str]]]:
    """Split into (robot, is against, clauses); a part without a robot goes on with the last one."""
    names = "|".join(re.escape(name) for name in sorted(fleet.outcomes, key=len, reverse=True))
    opening = re.compile(rf"(not )?({names}): (.*)", re.DOTALL)
    parts: list[tuple[str, bool, list[str]]] = []
    for piece in text.split("; "):
        if match := opening.fullmatch(piece):
            against = match[1] is not None
            clauses = [match[3]] if against else _clauses_for(match[3])
            parts.append((match[2], against, clauses))
        elif parts and parts[-1][1]:
            parts[-1][2].append(piece)
        else:
            parts.append(("", False, [piece]))
    return parts


def _clauses_for(text: str) -> list[str]:
    """Split at ", ", but leave a limit and what is asked of it, or is there, together."""
    return re.split(r", (?!asked |there are )", text)


def _fault_of(
    name: str,
    is_against: bool,
    clause: str,
    fleet: Fleet,
    asked: Sequence[Needs],
    lessons: Collection[int] | None,
    probabilities: Mapping[str, float] | None,
) -> str | None:
    """Return what is false about a clause; `asked` is what the job needs, and then its steps."""
    taught = _TAUGHT[is_against].fullmatch(clause)
    if taught and (name in fleet or (name == NO_ROBOT and not is_against)):
        broken = [broken_by(fleet[name], needs) for needs in asked] if is_against else [[]]
        return _fault_of_lesson(int(taught[1]), lessons, min(broken, key=len))
    if name == NO_ROBOT:
        return None if clause == _NOBODY and not is_against else "unknown clause"
    if name not in fleet:
        return "not a robot of the fleet"
    if is_against:
        chance = None if probabilities is None else probabilities.get(name, 0.0)
        faults = [_fault_against(clause, fleet[name], needs, chance) for needs in asked]
    elif clause.startswith(_THOUGH):
        what = clause.removeprefix(_THOUGH)
        faults = [_fault_against(what, fleet[name], needs, None) for needs in asked]
    else:
        return _fault_for(clause, fleet[name], asked[0])
    return None if None in faults else faults[0]


def _fault_for(clause: str, robot: Robot, needs: Needs) -> str | None:
    if clause in (_JUDGEMENT, _REQUIRED):
        return None
    if clause == "can dive":
        return _fault_of_abilities(["dive"], robot, lambda ability: _asks(needs, ability))
    if clause.startswith("can "):
        words = clause.removeprefix("can ").split(" and ")
        return _fault_of_abilities(words, robot, lambda word: word in needs.actions)
    if clause.startswith("copes with "):
        words = clause.removeprefix("copes with ").split(" and ")
        return _fault_of_abilities(words, robot, lambda word: _asks(needs, word))
    return _fault_of_bound(clause, robot, needs, must_break=False)


def _fault_against(clause: str, robot: Robot, needs: Needs, chance: float | None) -> str | None:
    if clause == "has none at hand":
        return None if robot.count == 0 else f"there are {robot.count}"
    if clause == _LEFT_OUT:
        return None if robot.status == LEFT_OUT else f"its status is {robot.status}"
    if clause == _EMPTY:
        return None if robot.battery == 0 else f"its battery holds {robot.battery:.0%}"
    if match := _ON_BATTERY.fullmatch(clause):
        return _fault_of_battery(robot, needs, *map(float, match.groups()))
    if match := _TOO_LONG.fullmatch(clause):
        return _fault_of_endurance(robot, float(match[1]), match[2], float(match[3]))
    if match := _NOT_READY.fullmatch(clause):
        return None if robot.status == match[1] != "ready" else f"its status is {robot.status}"
    if match := _SUITS_LESS.fullmatch(clause):
        if broken := broken_by(robot, needs):
            return f"it breaks {', '.join(broken)}"
        if chance is not None and abs(100 * chance - int(match[1])) > 0.51:
            return f"its chance is {chance:.0%}, not {match[1]}%"
        return None
    if clause in _LACKS:
        lacking = _lacks(robot, needs, _LACKS[clause])
        return None if lacking else f"it has {_LACKS[clause]!r}, or the job does not ask for it"
    if clause.startswith("cannot "):
        words = clause.removeprefix("cannot ").split(" or ")
        wrong = [w for w in words if w not in ACTIONS or robot.can(w) or w not in needs.actions]
        return f"{', '.join(wrong)} is within it, or not asked" if wrong else None
    return _fault_of_bound(clause, robot, needs, must_break=True)


def _fault_of_abilities(
    words: Sequence[str], robot: Robot, asked: Callable[[str], bool]
) -> str | None:
    wrong = [word for word in words if not robot.can(word)]
    if wrong:
        return f"the fleet does not state {', '.join(wrong)}"
    unasked = [word for word in words if not asked(word)]
    return f"the job does not ask for {', '.join(unasked)}" if unasked else None


def _fault_of_bound(clause: str, robot: Robot, needs: Needs, *, must_break: bool) -> str | None:
    for bound in _BOUNDS:
        if match := bound.pattern.fullmatch(clause):
            stated, there = float(match[1]), float(match[2])
            limit, asked = robot.limits.get(bound.limit), needs.quantities.get(bound.quantity)
            if limit is None or not _same(stated, limit):
                number = "not stated" if limit is None else f"{limit:g}"
                return f"{bound.limit} is {number} in the fleet, not {stated:g}"
            if asked is None or not _told(there, asked * bound.factor):
                return f"the job does not ask for {there:g}"
            said = there / bound.factor
            if not _breaks(bound, limit, asked) == _breaks(bound, limit, said) == must_break:
                return f"{there:g} {'keeps' if must_break else 'breaks'} the limit of {stated:g}"
            return None
    return "unknown clause"


def _fault_of_battery(
    robot: Robot, needs: Needs, stated: float, percent: float, asked: float
) -> str | None:
    full, hours = robot.limits.get("endurance_min"), needs.quantities.get("hours")
    if full is None or hours is None or abs(100 * robot.battery - percent) > 0.51:
        return f"its battery holds {robot.battery:.0%}, or nothing is asked of it"
    if not (_same(stated, full * robot.battery) and _same(asked, 60 * hours) and asked > stated):
        return f"it runs for {full * robot.battery:g} min, asked {60 * hours:g} min"
    return None


def _fault_of_endurance(
    robot: Robot, stated: float, percent: str | None, taken: float
) -> str | None:
    """Hold how long a robot runs against the fleet; how long a step takes is the plan's to say."""
    if not _same(stated, robot.endurance_min) or taken < stated:
        return f"it runs for {robot.endurance_min:g} min, the step takes {taken:g}"
    if abs(100 * robot.battery - float(percent or 100)) > 0.51:
        return f"its battery holds {robot.battery:.0%}"
    return None


def _fault_of_lesson(
    number: int, lessons: Collection[int] | None, broken: Sequence[str]
) -> str | None:
    if lessons is not None and number not in lessons:
        return f"the decision follows no lesson {number}"
    return f"it breaks {', '.join(broken)}" if broken else None


def _breaks(bound: _Bound, limit: float, asked: float) -> bool:
    return asked * bound.factor > limit if bound.is_upper else asked * bound.factor < limit


def _asks(needs: Needs, ability: str) -> bool:
    return ability in needs.flags or needs.environment == _PLACE_ASKS.get(ability, "")


def _lacks(robot: Robot, needs: Needs, ability: str) -> bool:
    if ability in _GROUND and needs.environment == "underwater" and robot.can("dive"):
        return False
    return not robot.can(ability) and _asks(needs, ability)


def _told(stated: float, true: float) -> bool:
    """Compare what the job asks, which may be told with four significant digits."""
    return _same(stated, true) or stated == float(f"{true:.4g}")


def _same(stated: float, true: float) -> bool:
    """Compare a number as written with six significant digits."""
    return abs(stated - true) <= 1e-5 * max(abs(true), 1e-9)
