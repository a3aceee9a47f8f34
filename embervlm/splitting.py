"""From what the network says of a job's steps to the steps that planning takes.

    steps = steps_of(task, spans, scores, mentions, certain=0.9)
    steps[1]        # Step("Take the 6 kg radio through the mud", Needs(("carry",), ...), (0,))
    in_working_order(steps, scores)

The network points at the words that each step stands in, in the order in which they are told. Rules
cut the request where a step may end, give each step the pieces that it points at most, and each
number to the step that points at it most; a load to one that carries, wind to every step. Of two
steps the one waits for the other of which that is likelier, unless a circle would come out; a step
waits for no step that another one of its own already waits for.

Axes: K and J steps, P pieces, T tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations, product

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.base import Array, Proposal, StepScores
from embervlm.fleet import ACTIONS, ENVIRONMENTS, Fleet
from embervlm.planning import broken_limits, graph
from embervlm.planning.costs import Step, obstacles
from embervlm.quantities import Mention
from embervlm.scenario import FLAGS, Needs

# A piece ends at a mark that is not inside a number, and in front of a word that begins another.
_END_OF_PIECE = re.compile(
    r"(?<=[.!?;:])\s+|(?<=,)\s+|\s+[–—-]+\s+|\s+(?=(?:and then|then|while|before|after that|"
    r"afterwards|meanwhile|once|when|and)\b)",
    re.IGNORECASE,
)
# What joins a step to the one before it, and says nothing of the step itself.
_JOINT = re.compile(
    r"^(?:(?:and|then|also|next|first(?:ly)?|second(?:ly)?|third(?:ly)?|finally|lastly|meanwhile|"
    r"afterwards|after that|in the meantime|at the same time|please|\d[.)]|[-*•])[\s,:]+)+",
    re.IGNORECASE,
)
# A step also has the pieces that it points at this much as at its best one.
_SHARE_OF_BEST = 0.35
_TRIED = 4
# A step waits for another from this chance on: of eight from 0.14 to 0.40 the best on validation
# and 350 plans that were not learnt, with weights of half an epoch less.
_WAITS_FROM = 0.27
_LONGEST = 120
# Which robots each of the network's 32 sets holds.
_HELD_SR = np.array([[n >> r & 1 for r in range(5)] for n in range(32)], np.float32)
_LEAST_SHARE = 1e-4
_DEFAULT_FLEET = Fleet.default()
_CAN_RA = np.array([[robot.can(action) for action in ACTIONS] for robot in _DEFAULT_FLEET], float)
# What a step counts though the number would rule out all whom the network has in mind.
_MISREAD = 0.05
# Robots whose chances at a step come to no more than this are nearly nobody.
_NEARLY_NOBODY = 0.05
_OF_ALL_STEPS = ("wind_kmh",)
# The share of a step's pointer in a piece from which on it may concern what the piece says.
_POINTS_WELL = 0.1


def steps_of(
    task: str,
    spans: Sequence[tuple[int, int]],
    scores: Sequence[StepScores],
    mentions: Sequence[tuple[Mention, dict[str, float]]],
    certain: float,
) -> list[Step]:
    """Return the steps of a job, as they are told, each with what is certain of its needs.

    Args:
        task: the request in one line, `prompts.one_line`.
        spans: the characters of each token, `prompts.token_spans`.
        scores: what the network says of each step.
        mentions: each number of the request, and what it states, `reading.stated_quantities`.
        certain: how likely an action, a flag or a place must be to count, 0 to 1.
    """
    pieces = pieces_of(task)
    share_KP = _pointed(pieces, spans, scores)
    owner_P = share_KP.argmax(0)
    own = _own_pieces(share_KP)
    sure = float(np.log(certain / (1 - certain)))
    told: list[dict[str, list[float]]] = [{} for _ in scores]
    for mention, stated in mentions:
        piece = next((p for p, (_, end) in enumerate(pieces) if mention.start < end), 0)
        for key, value in stated.items():
            for k in _steps_with(key, value, share_KP[:, piece], scores):
                told[k].setdefault(key, []).append(value)
    quantities = [
        {key: _hardest(key, values, step) for key, values in of_step.items()}
        for of_step, step in zip(told, scores, strict=True)
    ]
    after = graph.reduced(without_circles(_waiting(scores)))
    return [
        Step(
            _words(task, pieces, share_KP[k], own[k], owner_P == k),
            Needs(
                _actions(step, sure),
                _place(step.environment, certain),
                quantities[k],
                frozenset(flag for flag, x in zip(FLAGS, step.flags, strict=True) if x > sure),
            ),
            tuple(after[k]),
        )
        for k, step in enumerate(scores)
    ]


def pieces_of(task: str) -> list[tuple[int, int]]:
    """Return the characters (begin, end) of a request's pieces, none of them empty.

    >>> [slice(*p) for p in pieces_of("Look at the roof, then carry 1,000 kg.")]
    [slice(0, 18, None), slice(18, 38, None)]
    """
    cuts = [0, *(match.end() for match in _END_OF_PIECE.finditer(task)), len(task)]
    return [(a, b) for a, b in pairwise(cuts) if task[a:b].strip()]


def _pointed(
    pieces: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    scores: Sequence[StepScores],
) -> Array:
    """Return how much of each step's pointer lies in each piece, (K, P)."""
    middle_T = np.array([(a + b) / 2 for a, b in spans])
    piece_T = np.searchsorted([end for _, end in pieces], middle_T, side="right")
    share_KP = np.zeros((len(scores), len(pieces)), np.float32)
    for k, step in enumerate(scores):
        np.add.at(share_KP[k], np.minimum(piece_T, len(pieces) - 1), step.pointer)
    return share_KP


def _steps_with(key: str, value: float, share_K: Array, scores: Sequence[StepScores]) -> list[int]:
    """Return the steps that a number concerns: of wind all, of others the one that points at it
    most, less so where it would rule out whom the network has in mind for the step; of a load one
    that carries, or else one that handles and points well at it."""
    if key in _OF_ALL_STEPS:
        return list(range(len(scores)))
    candidates = list(range(len(scores)))
    if key == "load_kg":
        carry, handle = (
            [k for k, s in enumerate(scores) if s.actions[ACTIONS.index(action)] > 0]
            for action in ("carry", "handle")
        )
        candidates = carry or [k for k in handle if share_K[k] > _POINTS_WELL]
    keeps_R = _keeping(key, value)

    def fit(k: int) -> float:
        return float(share_K[k] * (np.exp(log_shares(scores[k].robots)) @ keeps_R + _MISREAD))

    return sorted(candidates, key=fit)[-1:]


def _keeping(key: str, value: float) -> Array:
    """Return which of the default robots keep to a number, (5,), 1 or 0."""
    asked = Needs(quantities={key: value})
    return np.array([not broken_limits(robot, asked) for robot in _DEFAULT_FLEET], np.float32)


def _hardest(key: str, values: Sequence[float], step: StepScores) -> float:
    """Return which of several numbers for one quantity counts: the hardest to keep to. But one that
    leaves nearly nobody of whom the network has in mind for the step does not, as long as another
    leaves somebody: "the 2 t are the crane's, you take 200 kg"."""
    in_order = sorted(values, reverse=key != "width_m")
    in_mind_R = np.exp(log_shares(step.robots))
    left = (value for value in in_order if in_mind_R @ _keeping(key, value) > _NEARLY_NOBODY)
    return next(left, in_order[0])


def _own_pieces(share_KP: Array) -> tuple[int, ...]:
    """Return each step's best piece, no piece for two steps as long as there are enough of them.

    A piece is good for a step that points much at it, and more than other steps do; of the
    `_TRIED` best ones of each step the combination with the largest sum of logarithms is taken.
    """
    whole_P = share_KP.sum(0) + 1e-9
    worth_KP = np.log(share_KP + 1e-6) + np.log(share_KP / whole_P + 1e-6)
    best = [np.argsort(-worth_P, kind="stable")[:_TRIED].tolist() for worth_P in worth_KP]
    combinations = [pick for pick in product(*best) if len(set(pick)) == len(pick)]
    return max(
        combinations or [tuple(tried[0] for tried in best)],
        key=lambda pick: sum(worth_KP[k, p] for k, p in enumerate(pick)),
    )


def _waiting(scores: Sequence[StepScores]) -> NDArray[np.float64]:
    """Return how far, in log-odds, (K, J), step k is from waiting for step j."""
    logits_KJ = np.stack([step.after for step in scores]).astype(np.float64)
    np.fill_diagonal(logits_KJ, -np.inf)
    return logits_KJ - math.log(_WAITS_FROM / (1 - _WAITS_FROM))


def without_circles(logits_KJ: NDArray[np.float64]) -> list[list[int]]:
    """Return for each step those that it waits for: all whose number is above 0, but those with
    which likelier ones would make a circle.

    >>> without_circles(np.array([[-9.0, 1.0], [2.0, -9.0]]))
    [[], [0]]
    """
    after: list[list[int]] = [[] for _ in logits_KJ]
    likeliest_first = sorted(
        zip(*np.nonzero(logits_KJ > 0), strict=True), key=lambda kj: -logits_KJ[kj]
    )
    for k, j in likeliest_first:
        if k not in graph.ancestors(after)[j]:
            after[k].append(int(j))
    return after


def in_working_order(
    steps: Sequence[Step], scores: Sequence[StepScores]
) -> tuple[tuple[Step, ...], tuple[StepScores, ...]]:
    """Return the steps, and what was said of each, in an order in which they can be done, else as
    they are told."""
    order = graph.order([step.after for step in steps])
    new = {old: k for k, old in enumerate(order)}
    links = {k: tuple(sorted(new[j] for j in steps[k].after)) for k in order}
    return tuple(replace(steps[k], after=links[k]) for k in order), tuple(scores[k] for k in order)


def _actions(step: StepScores, sure: float) -> tuple[str, ...]:
    """Return the actions that are certain, or else the likeliest one, less likely where it would
    rule out whom the network has in mind for the step."""
    found = tuple(name for name, x in zip(ACTIONS, step.actions, strict=True) if x > sure)
    if found:
        return found
    chance_A = 1 / (1 + np.exp(-step.actions.astype(np.float64)))
    in_mind_A = np.exp(log_shares(step.robots)) @ _CAN_RA + _MISREAD
    return (ACTIONS[int((chance_A * in_mind_A).argmax())],)


def _place(logits: Array, certain: float) -> str:
    likeliest = int(logits.argmax())
    is_certain = _log_softmax(logits)[likeliest] > np.log(certain)
    return ENVIRONMENTS[likeliest] if is_certain else "none"


def _words(
    task: str,
    pieces: Sequence[tuple[int, int]],
    share_P: Array,
    best: int,
    own_P: NDArray[np.bool_],
) -> str:
    """Return the words that a step stands in: its best piece, and its others beside that one."""
    enough = own_P & (share_P >= _SHARE_OF_BEST * share_P[best])
    first = last = best
    while first > 0 and enough[first - 1]:
        first -= 1
    while last + 1 < len(pieces) and enough[last + 1]:
        last += 1
    words = task[pieces[first][0] : pieces[last][1]].strip()
    if len(words) > _LONGEST:
        words = task[slice(*pieces[best])].strip()
    words = (_JOINT.sub("", words).strip(" ,;:-–—") or words).removesuffix(".")
    if len(words) > _LONGEST:
        words = words[:_LONGEST].rsplit(" ", 1)[0] + " ..."
    return words[:1].upper() + words[1:]


@dataclass(frozen=True)
class Job:
    """A job in steps, in an order in which they can be done. `liked` has for each step the
    logarithm of each default robot's chance to be the one for it, (5,); `more` is the logit that
    there is a second step."""

    steps: tuple[Step, ...]
    scores: tuple[StepScores, ...]
    liked: tuple[Array, ...]
    more: float


def liked_robots(step: StepScores, alone: Proposal, weight: float) -> Array:
    """Return whom a step suits, (5,): by the whole request, and by its own words read alone, times
    `weight`. Of what is said of sets, a robot has its share of each that it is in."""
    chance_S = np.exp(_log_softmax(alone.subsets))
    share_R = (chance_S / np.maximum(_HELD_SR.sum(1), 1)) @ _HELD_SR
    return _log_softmax(log_shares(step.robots) + weight * np.log(share_R + _LEAST_SHARE))


def team_logits(subsets_S: Array, liked: Sequence[Array], weight: float) -> Array:
    """Return logits over the 32 sets of default robots: what the whole request says of the team,
    times `weight`, plus the logarithm of the chance that the steps, each drawn by itself, need just
    these robots."""
    chance_S = np.zeros(len(subsets_S), np.float32)
    chance_S[0] = 1.0
    for liked_R in liked:
        grown_S = np.zeros_like(chance_S)
        for r, share in enumerate(np.exp(liked_R)):
            np.add.at(grown_S, np.arange(len(chance_S)) | 1 << r, share * chance_S)
        chance_S = grown_S
    logits: Array = weight * _log_softmax(subsets_S) + np.log(chance_S + np.float32(1e-6))
    return logits


def log_shares(robots_O: Array) -> Array:
    """Return the logarithm of each default robot's chance to be the one for a step, (5,)."""
    return _log_softmax(robots_O[:-1])


def _log_softmax(logits: Array) -> Array:
    below: Array = logits - logits.max()
    shares: Array = below - np.log(np.exp(below).sum())
    return shares


def one_step_each(
    fleet: Fleet, steps: Sequence[Step], preferences: Sequence[Mapping[str, float]]
) -> list[Step]:
    """Return the steps, one of them kept for each robot: those with which least of the preferences
    is lost. They stay as they are where the robots cannot all have one that they can do."""
    if not 1 < len(fleet) <= len(steps):
        return list(steps)
    lost = [
        [
            max(liked.values()) - liked[robot.name]
            if not obstacles(robot, step, fleet.objective)
            else np.inf
            for step, liked in zip(steps, preferences, strict=True)
        ]
        for robot in fleet
    ]
    places = permutations(range(len(steps)), len(fleet))
    best = min(places, key=lambda place: sum(row[k] for row, k in zip(lost, place, strict=True)))
    if not np.isfinite(sum(row[k] for row, k in zip(lost, best, strict=True))):
        return list(steps)
    kept = dict(zip(best, fleet.names, strict=True))
    return [replace(step, robot=kept.get(k)) for k, step in enumerate(steps)]
