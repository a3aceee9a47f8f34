"""How good plans are: who does what, after what, in which order.

A plan's steps are held against the true ones by what they mean, not by their place: the words that
both say and the actions that both need, in the pairing that is best in sum (`matched`). Who does a
step plays no part in the pairing. Then

    assignment   share of the true steps whose partner has the true robot; a true step without a
                 partner counts as wrong
    precedence   F1 of the pairs "a must be finished before b" (near and far), true steps in place
                 of their partners; a pair of a step without a partner is wrong
    order        Spearman's rank correlation (Spearman 1904) of where the true steps and their
                 partners stand, in an order in which they can be done; of two pairs or more
    violations   steps given to a robot that breaks a limit which the true step states, or which the
                 plan's own step states
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from embervlm.evaluation.metrics import RESAMPLES, Row, figure, resampling_weights
from embervlm.fleet import Fleet
from embervlm.planning import broken_limits, graph
from embervlm.scenario import Needs, Subtask
from embervlm.stems import stems

_PLAIN = frozenset("a an the of to in on at for and or with from by is it its that this".split())


@dataclass(frozen=True)
class PlanScores:
    """What one plan is worth, as sums: right of true steps; common, said and true pairs; the rank
    correlation, None where there are fewer than two pairs of steps; violations of said steps."""

    right: int
    true_steps: int
    said_steps: int
    common_pairs: int
    said_pairs: int
    true_pairs: int
    order: float | None
    broken_true: int
    broken_own: int


def score_plan(
    plan: Sequence[Subtask], truth: Sequence[Mapping[str, Any]], fleet: Fleet
) -> PlanScores:
    """Hold a plan against the `plan` of a row of `plans.jsonl`."""
    partner = matched(plan, truth)
    said = graph.ancestors([step.after for step in plan])
    true = graph.ancestors([step["after"] for step in truth])
    said_pairs = {(a, b) for b, before in enumerate(said) for a in before}
    true_pairs = {(a, b) for b, before in enumerate(true) for a in before}
    mapped = {(partner.get(a), partner.get(b)) for a, b in true_pairs}
    pairs = [(i, partner[i]) for i in sorted(partner)]
    limits = [(plan[j].robot, Needs.from_record(truth[i], "none")) for i, j in pairs]
    own = [(step.robot, step.needs) for step in plan if step.needs is not None]
    return PlanScores(
        right=sum(plan[j].robot == truth[i]["robot"] for i, j in pairs),
        true_steps=len(truth),
        said_steps=len(plan),
        common_pairs=len(mapped & said_pairs),
        said_pairs=len(said_pairs),
        true_pairs=len(true_pairs),
        order=_spearman([j for _, j in pairs]) if len(pairs) > 1 else None,
        broken_true=sum(_breaks(fleet, robot, needs) for robot, needs in limits),
        broken_own=sum(_breaks(fleet, robot, needs) for robot, needs in own),
    )


def _breaks(fleet: Fleet, robot: str | None, needs: Needs) -> bool:
    return robot is not None and bool(broken_limits(fleet[robot], needs))


def summary(scores: Sequence[PlanScores]) -> dict[str, float]:
    """Return the figures of many plans: sums over all of them, the mean of the orders."""
    total = {
        name: sum(getattr(score, name) for score in scores)
        for name in PlanScores.__dataclass_fields__
        if name != "order"
    }
    orders = [score.order for score in scores if score.order is not None]
    return {
        "assignment": total["right"] / max(1, total["true_steps"]),
        "precedence_f1": 2
        * total["common_pairs"]
        / max(1, total["said_pairs"] + total["true_pairs"]),
        "order": float(np.mean(orders)) if orders else float("nan"),
        "steps_right": sum(s.true_steps == s.said_steps for s in scores) / max(1, len(scores)),
        "broken_true": float(total["broken_true"]),
        "broken_own": float(total["broken_own"]),
    }


def plan_row(scores: Sequence[PlanScores], *, seed: int = 1) -> Row:
    """Return the figures of `summary` with 95 % intervals; whole plans are drawn again."""
    weights_BN = resampling_weights([str(i) for i in range(len(scores))], RESAMPLES, seed)
    drawn: dict[str, list[float]] = {}
    for weights_N in weights_BN:
        again = [score for score, n in zip(scores, weights_N, strict=True) for _ in range(int(n))]
        for name, value in summary(again).items():
            drawn.setdefault(name, []).append(value)
    return {
        name: figure(value, np.array(drawn[name]), len(scores))
        for name, value in summary(scores).items()
    }


def matched(plan: Sequence[Subtask], truth: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return for true steps the steps of the plan that mean the same, each of them once.

    The likeness of two steps is the share of the true one's words that the other says, plus that of
    its actions that the other needs, plus that of its numbers that the other states, each from 0 to
    1; the pairing with the largest sum is taken (of equal ones that which keeps the order). Steps
    that have nothing in common are no partners.
    """
    like = [[_likeness(step, true) for step in plan] for true in truth]
    if len(truth) <= len(plan):
        pairs = list(enumerate(_best_pairing(like)))
    else:
        turned = list(map(list, zip(*like, strict=True)))
        pairs = [(i, j) for j, i in enumerate(_best_pairing(turned))]
    return {i: j for i, j in sorted(pairs) if like[i][j] > 0}


def _best_pairing(like: Sequence[Sequence[Fraction]]) -> list[int]:
    """Return for each row another column, with the largest sum, of equal ones the first in the
    order of permutations; there are as many columns as rows, or more.

    Column after column, the best is kept for each set of rows that have theirs: a set's order among
    equals does not depend on what the others get (Bellman 1962; Held and Karp 1962).
    """
    if not like:
        return []
    best: dict[int, tuple[Fraction, tuple[int, ...]]] = {0: (Fraction(0), (0,) * len(like))}
    for column in range(len(like[0])):
        for taken, (total, places) in list(best.items()):
            for row, likenesses in enumerate(like):
                if not taken >> row & 1:
                    # Negative, so that of equal sums the earlier column is the larger.
                    there = (*places[:row], -column, *places[row + 1 :])
                    found, now = (total + likenesses[column], there), taken | 1 << row
                    best[now] = max(best.get(now, found), found)
    return [-place for place in best[(1 << len(like)) - 1][1]]


def _likeness(step: Subtask, true: Mapping[str, Any]) -> Fraction:
    said, wanted = set(stems(step.subtask, _PLAIN)), set(stems(true["subtask"], _PLAIN))
    needs = step.needs or Needs()
    actions = set(true["actions"])
    numbers = {x for x in true["limits"].values() if x is not True}
    found = Fraction(len(said & wanted), max(1, len(wanted)))
    found += Fraction(len(actions & set(needs.actions)), max(1, len(actions)))
    if numbers:
        found += Fraction(len(numbers & set(needs.quantities.values())), len(numbers))
    return found


def _spearman(places: Sequence[int]) -> float:
    """Return the rank correlation of different places with 0, 1, 2, ..."""
    ranks = np.argsort(np.argsort(places))
    n = len(places)
    gaps = ((ranks - np.arange(n)) ** 2).sum()
    return float(1 - 6 * gaps / (n * (n * n - 1)))
