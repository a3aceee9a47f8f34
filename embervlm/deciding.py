"""From what the network says of sets of robots to the set that is sent, and the order in it.

    allowed = allowed_of(fleet.names, fleet, certain, team=False)
    could = able_robots(proposal, abilities, allowed)
    sets = distribution(
        proposal, abilities, calibration=calibration, allowed=allowed, able=could, team=False
    )
    max(sets, key=sets.get)      # frozenset({"Drone"}); the empty set is No Robot

The network gives a chance to each set of the default robots. What becomes of it where a fleet has
others, or where one of them breaks a limit, is said here by rules; they keep nothing between calls.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from embervlm import planning
from embervlm.abilities import Abilities
from embervlm.backends.base import Array, Proposal, StepScores
from embervlm.fleet import NO_ROBOT, Fleet, Robot
from embervlm.planning.costs import Step, lasts_not
from embervlm.reading import SIZES, Calibration, softmax
from embervlm.scenario import Needs
from embervlm.splitting import Job, team_logits

# Where rules leave one set alone its chance is 1; the answer is no surer for that.
_SUREST = 5.0


def allowed_of(names: Sequence[str], fleet: Fleet, certain: Needs, *, team: bool) -> list[str]:
    """Return those that may be sent: of a team who is at hand, alone who also keeps every limit
    that is certain, and lasts for it on what its battery holds. No Robot always may, one that is
    not in the fleet never."""
    return [name for name in names if _allows(name, fleet, certain, team)]


def _allows(name: str, fleet: Fleet, certain: Needs, team: bool) -> bool:
    if name == NO_ROBOT:
        return True
    if name not in fleet:  # a lesson of another fleet
        return False
    return not _stops(fleet[name], fleet, certain, team)


def _stops(robot: Robot, fleet: Fleet, certain: Needs, team: bool) -> list[str]:
    """Return why a robot may not be sent."""
    if team:
        return planning.unavailable(robot)
    broken = planning.broken_limits(robot, certain)
    if broken or robot.battery == 1:
        return broken
    # How long a job takes that does not say so counts only of a battery that is not full.
    return lasts_not(robot, Step("", certain), fleet.objective)


def able_robots(
    proposal: Proposal, abilities: Abilities, allowed: Collection[str]
) -> dict[str, float]:
    """Return the chance of each robot unlike all default ones to be able to do the job; none
    of those that break a limit or are not at hand."""
    unlike = [name for name, is_alike in abilities.is_alike.items() if not is_alike]
    if not unlike:
        return {}
    chances, may_go = abilities.chances(proposal), frozenset(allowed)
    return {name: chances[name] for name in unlike if name in may_go}


def distribution(
    proposal: Proposal,
    abilities: Abilities,
    *,
    calibration: Calibration,
    allowed: Sequence[str],
    able: Mapping[str, float],
    team: bool,
    job: Job | None = None,
) -> dict[frozenset[str], float]:
    """Return P(set) over sets of this fleet's robots; the empty set is No Robot.

    The network speaks of the default robots, and one that is alike stands for one of them
    (`abilities`). One that breaks a limit leaves the sets it is in, and their chance goes to
    what remains of them. A team has two robots or more, and each robot stands for the one that
    it is most like. Of single jobs, every other robot is in all sets or in none: it is able by
    the needs, as they were read, or it is not.

    Args:
        proposal: what the network says.
        abilities: the fleet's.
        calibration: the numbers fitted for this network.
        allowed: the robots that may be sent, `allowed_of`, in the fleet's order.
        able: what `able_robots` returned; of a team empty.
        team: whether the robots go together.
        job: a team's steps, None where the network cannot split.
    """
    in_all = frozenset(name for name, p in able.items() if p > 0.5)
    sureness = min((max(p, 1 - p) for p in able.values()), default=1.0)
    slot_of = {
        name: abilities.slot_of[name] for name in allowed if team or abilities.is_alike[name]
    }
    logits = proposal.subsets.copy()
    if proposal.scene is None:
        logits[0] += calibration.no_robot_shift
    temperature = calibration.temperature
    if job is not None:
        logits = team_logits(logits, job.liked, calibration.team_weight)
        temperature = calibration.team_temperature
    if team:
        logits[SIZES < 2] = -np.inf
    chance = softmax(logits / temperature)
    sets: dict[frozenset[str], float] = {}
    for number, p in enumerate(chance):
        names = in_all.union(name for name, slot in slot_of.items() if number >> slot & 1)
        sets[names] = sets.get(names, 0.0) + sureness * float(p)
    return sets


def odds_of_team(proposal: Proposal, job: Job, calibration: Calibration) -> float:
    """Return how much likelier a request is to be a team's than one robot's, above 0: by what the
    whole request says, and by how surely a second step was written."""
    odds = calibration.team_scale * proposal.team + calibration.team_second * job.more
    return math.exp(odds + calibration.team_shift)


def with_required(
    sets: Mapping[frozenset[str], float],
    require: Collection[str],
    *,
    fleet: Fleet,
    certain: Needs,
    team: bool,
) -> dict[frozenset[str], float]:
    """Return the sets with the required robots added to each.

    Raises:
        ValueError: one of these robots cannot be sent; says why.
    """
    for name in require:
        if not _allows(name, fleet, certain, team):
            robot = fleet[name]
            why = planning.unavailable(robot) or _stops(robot, fleet, certain, team)
            raise ValueError(f"The {name} is required, but cannot be sent: it {' and '.join(why)}.")
    found: dict[frozenset[str], float] = {}
    for names, p in sets.items():
        with_them = names.union(require)
        found[with_them] = found.get(with_them, 0.0) + p
    return found


def ordered(
    chosen: frozenset[str],
    chance: Mapping[str, float],
    *,
    proposal: Proposal,
    abilities: Abilities,
    nearness: Callable[[Sequence[str]], Mapping[str, float]],
) -> list[str]:
    """Return the robots of a set, whom to send first in front; `[NO_ROBOT]` for the empty set.

    First come those that stand for a default robot, as the network orders them, then the others,
    the nearest first.

    Args:
        chosen: the set.
        chance: of each robot to be in the set that is sent.
        proposal: what the network says.
        abilities: the fleet's.
        nearness: of robots, how near their descriptions are to the request, below 1; asked only
            where several robots stand for no default one.
    """
    if not chosen:
        return [NO_ROBOT]
    first = softmax(proposal.primary)
    # From the fleet's order, so that equals stay in it: a set has another order in every run.
    in_order = [name for name in abilities.names if name in chosen]
    unlike = [name for name in in_order if not abilities.is_alike[name]]
    near = nearness(unlike) if len(unlike) > 1 else {}

    def rank(name: str) -> tuple[float, float]:
        if abilities.is_alike[name]:
            return 1 + float(first[abilities.slot_of[name]]), chance[name]
        return near.get(name, 0.0), chance[name]

    return sorted(in_order, key=rank, reverse=True)


def preferences(step: StepScores, liked_R: Array, abilities: Abilities) -> dict[str, float]:
    """Return the logarithm of each robot's chance to suit a step: of one that is alike the
    network's own, of others that they can do it."""
    able = {} if all(abilities.is_alike.values()) else abilities.chances(step)
    return {
        name: float(liked_R[slot] if abilities.is_alike[name] else np.log(able[name] + 1e-9))
        for name, slot in abilities.slot_of.items()
    }


def policy(proposal: Proposal, fleet: Fleet, abilities: Abilities) -> dict[str, float]:
    """Return whom the network would send first, a distribution over this fleet's outcomes.

    Robots that stand for one default robot share its chance; where nobody stands for one, its
    chance goes to the others in proportion.
    """
    first = softmax(proposal.primary)
    slots = [abilities.slot_of[name] for name in fleet.names]
    sharing = Counter(slots)
    shares = [float(first[slot]) / sharing[slot] for slot in slots] + [float(first[-1])]
    whole = sum(shares)
    return {name: share / whole for name, share in zip(fleet.outcomes, shares, strict=True)}


def signs_of(
    sets: Mapping[frozenset[str], float],
    chosen: frozenset[str],
    proposal: Proposal,
    abilities: Abilities,
) -> tuple[float, ...]:
    """Return what tells how likely the chosen set is to be right, in the order of
    `reading.SIGNS`."""
    # A robot of the same sort in its place, or beside it, makes no other answer.
    same = _stand_ins(chosen, abilities)
    others = [p for names, p in sets.items() if _stand_ins(names, abilities) != same]
    alike = math.fsum(p for names, p in sets.items() if _stand_ins(names, abilities) == same)
    second = max(others, default=0.0)
    chance_A = 1 / (1 + np.exp(-proposal.actions.astype(np.float64)))
    undecided = float(np.minimum(chance_A, 1 - chance_A).max())
    odds = min(max(_log_odds(alike), -_SUREST), _SUREST)
    own = odds
    # Of robots unlike all default ones the network itself has said nothing.
    if all(abilities.is_alike.get(name, False) for name in chosen):
        number = sum(1 << slot for slot in {abilities.slot_of[name] for name in chosen})
        own = _log_odds(float(softmax(proposal.subsets)[number]))
    return (odds, own, _log_odds(second), float(len(chosen) > 1), undecided)


def _stand_ins(names: Iterable[str], abilities: Abilities) -> frozenset[object]:
    """Return robots by the default one that each stands for; those that stand for none as they
    are."""
    return frozenset(
        abilities.slot_of[name] if abilities.is_alike.get(name) else name for name in names
    )


def confidence(signs: Sequence[float], calibration: Calibration, *, has_photo: bool) -> float:
    """Return how likely the best set is to be right, from what `signs_of` returned."""
    weights, shift = calibration.weights_of_signs(has_photo)
    odds = math.fsum(w * x for w, x in zip(weights, signs, strict=True))
    return 1 / (1 + math.exp(-(odds + shift)))


def _log_odds(chance: float) -> float:
    p = min(max(chance, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))
