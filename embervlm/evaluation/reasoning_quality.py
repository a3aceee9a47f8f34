"""How many steps an account has, whether it speaks of its own request, whether it holds together.

An account is the four lines of `Decision.reasoning`. Three figures, each with a definition that can
be worked out by hand:

- *steps*: its statements. The lines on task, place and decision are one each, the line on the
  robots one for each clause (`faithfulness.check_line`).
- *relevance*: its line on the task is read as if it were a request. R = (less
  near + ties / 2) / (N - 1): the share of the other N - 1 requests of the split to which it is less
  near than to its own, by the cosine of the reader's states. It is the area under the ROC curve
  of that line (Mann and Whitney 1947), 0.5 by chance. After the alignment scores of ROSCOE
  (Golovneva et al. 2023), but of ranks, since cosines of one model cannot be held against those of
  another.
- *coherence*: no line speaks against another: nobody is spoken for and against, those spoken for
  are those whom the decision names, every action that a robot is praised for stands in the line on
  the task, and nothing is said twice. 1 if all of it holds, else 0.

The last part is faithfulness (Atanasova et al. 2023, "Faithfulness Tests for Natural Language
Explanations", counterfactual edits): each fact that the account cites of a robot is made false in
the fleet, nothing else, and the same request is decided again. If the account said why, then a
robot leaves the set without the fact that spoke for it, and the account ceases to speak against one
in that way. Jobs for a team are left out there: a clause may concern one step of several.

Axes: N requests, D width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from embervlm.evaluation.cases import SEED, Answered, watched
from embervlm.evaluation.metrics import (
    RESAMPLES,
    Figure,
    Floats,
    Rows,
    figure,
    resampling_weights,
    share,
)
from embervlm.faithfulness import (
    Claim,
    check_line,
    clauses_of,
    named_robots,
    names_in,
    needs_of_steps,
    with_fact_undone,
)
from embervlm.fleet import ACTIONS, Fleet, Robot
from embervlm.reading import read_needs
from embervlm.scenario import Decision
from embervlm.scoring import exact
from embervlm.selector import Selector

_PRAISED = re.compile(r"can (.+)")


def quality_rows(selector: Selector, answered: Sequence[Answered]) -> tuple[Rows, Rows]:
    """Return the table of each step's quality, and that of cited facts that were made false."""
    told = [
        selector.answer(one.proposal, one.case.scenario)
        for one in watched(answered, "read the reasoning")
    ]
    ids = [one.case.truth.pair or one.case.truth.id for one in answered]
    weights_BN = resampling_weights(ids, RESAMPLES, SEED)
    fleet = selector.fleet

    def mean(values: Sequence[float] | Floats) -> Figure:
        values_N = np.array(values, dtype=np.float64)
        return figure(values_N.mean(), weights_BN @ values_N / weights_BN.sum(1), len(values_N))

    asked_ND = np.stack([one.proposal.embedding for one in answered]).astype(np.float64)
    lines_ND = np.stack(
        [
            selector.backend.propose(one.reasoning[0].removeprefix("Task: "), None).embedding
            for one in watched(told, "read the lines on the task")
        ]
    ).astype(np.float64)
    faults = [[claim.fault is None for claim in _claims(one, fleet)] for one in told]
    both = list(zip(told, answered, strict=True))
    placed = [
        (one.environment == case.case.truth.environment, name)
        for (one, case), name in zip(both, ids, strict=True)
        if case.case.truth.environment is not None
    ]
    rows: Rows = {
        "task: speaks of its own request": {"share": mean(relevance(lines_ND, asked_ND))},
        "place: is the true one": {
            "share": share([yes for yes, _ in placed], [n for _, n in placed])
        },
        "robots: all facts are true": {"share": share([all(row) for row in faults], ids)},
        "decision: is exactly right": {
            "share": share([exact(one.robots, case.case.truth.robots) for one, case in both], ids)
        },
        "no line speaks against another": {
            "share": share([is_coherent(one.reasoning, fleet) for one in told], ids)
        },
        "statements of an account": {"count": mean([float(3 + len(row)) for row in faults])},
    }
    return rows, cited_fact_rows(selector, answered, told)


def relevance(lines_ND: Floats, asked_ND: Floats) -> Floats:
    """Return (N,) how well each line tells its own request from the others; see the file's head."""

    def unit(x_ND: Floats) -> Floats:
        length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
        scaled_ND: Floats = x_ND / np.maximum(length_N1, 1e-12)
        return scaled_ND

    near_NN = unit(lines_ND) @ unit(asked_ND).T
    own_N1 = np.diag(near_NN)[:, None]
    others = max(1, len(near_NN) - 1)
    is_tie_NN = np.abs(near_NN - own_N1) <= 1e-12
    ties_N = is_tie_NN.sum(1) - 1
    nearer_N = ((near_NN < own_N1) & ~is_tie_NN).sum(1)
    found_N: Floats = (nearer_N + ties_N / 2) / others
    return found_N


def is_coherent(lines: Sequence[str], fleet: Fleet) -> bool:
    """Say whether no line of an account speaks against another; see the file's head."""
    task, _, robots, decision = lines
    spoken_for, against = named_robots(robots, fleet)
    clauses = clauses_of(robots, fleet)
    praised = {
        word
        for _, against, clause in clauses
        if not against and (match := _PRAISED.fullmatch(clause))
        for word in match[1].split(" and ")
        if word in ACTIONS
    }
    asked = set(re.findall(r"\w+", task.lower()))
    return (
        not spoken_for & against
        and spoken_for == names_in(decision, fleet).keys()
        and praised <= asked
        and len(set(clauses)) == len(clauses)
    )


def cited_fact_rows(
    selector: Selector, answered: Sequence[Answered], told: Sequence[Decision]
) -> Rows:
    """Return how often the answer follows a cited fact that is made false, and an uncited one."""
    limit, ability, silent, likelier, stays = (_Kept() for _ in range(5))
    for one, decision in watched(list(zip(answered, told, strict=True)), "change cited facts"):
        scenario, name = one.case.scenario, one.case.truth.id
        if read_needs(one.proposal, selector.calibration, scenario.task)[2]:
            continue

        def decided(changed: Robot, one: Answered = one) -> Decision:
            robots = tuple(changed if r.name == changed.name else r for r in selector.fleet)
            other = selector.with_fleet(replace(selector.fleet, robots=robots))
            return other.answer(one.proposal, one.case.scenario)

        for claim in _claims(decision, selector.fleet):
            if claim.robot not in selector.fleet:
                continue
            robot = selector.fleet[claim.robot]
            changed = with_fact_undone(robot, claim)
            if changed is None:
                continue
            after = decided(changed)
            if claim.is_against:
                clauses = [(c.robot, c.clause) for c in _claims(after, selector.fleet)]
                silent.add((claim.robot, claim.clause) not in clauses, name)
                chance = after.probabilities[claim.robot] - decision.probabilities[claim.robot]
                likelier.add(chance > 1e-9, name)
            else:
                kind = limit if changed.capabilities == robot.capabilities else ability
                kind.add(claim.robot not in after.robots, name)
        for name_sent in decision.robots[:1]:
            spare = _uncited_ability(selector.fleet, name_sent, decision)
            if spare is not None:
                stays.add(set(decided(spare).robots) == set(decision.robots), name)
    return {
        "limit cited for a robot, made false: it leaves": {"share": limit.share()},
        "ability cited for a robot, made false: it leaves": {"share": ability.share()},
        "cited against a robot, made false: no longer said": {"share": silent.share()},
        "cited against a robot, made false: it gets likelier": {"share": likelier.share()},
        "not cited, made false: the set stays": {"share": stays.share()},
    }


class _Kept:
    """What was found of one kind of change, and of which request."""

    def __init__(self) -> None:
        self._found: list[bool] = []
        self._of: list[str] = []

    def add(self, is_so: bool, name: str) -> None:
        self._found.append(bool(is_so))
        self._of.append(name)

    def share(self) -> Figure:
        return share(self._found, self._of)


def _claims(decision: Decision, fleet: Fleet) -> list[Claim]:
    return check_line(
        decision.reasoning[2],
        fleet,
        decision.needs,
        probabilities=decision.probabilities,
        steps=needs_of_steps(decision),
    )


def _uncited_ability(fleet: Fleet, name: str, decision: Decision) -> Robot | None:
    """Return a robot that is sent, without one action that nobody asked for; None: it has none."""
    if name not in fleet:
        return None
    robot = fleet[name]
    spare = [a for a in ACTIONS if robot.can(a) and a not in decision.needs.actions]
    return replace(robot, capabilities=robot.capabilities - {spare[0]}) if spare else None
