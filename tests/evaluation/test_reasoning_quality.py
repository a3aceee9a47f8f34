"""Steps, relevance and coherence are what their definitions say; cited facts move the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeBackend

from embervlm.backends.base import Array, Proposal
from embervlm.evaluation.cases import Answered, Case, decide
from embervlm.evaluation.metrics import Truth
from embervlm.evaluation.reasoning_quality import is_coherent, quality_rows, relevance
from embervlm.faithfulness import Claim, check_line, with_fact_undone
from embervlm.fleet import ACTIONS, Fleet
from embervlm.scenario import QUANTITIES, Needs, Scenario
from embervlm.selector import Selector

FLEET = Fleet.default()
LINES = (
    "Task: Carry; load 8 kg",
    "Environment: Paved",
    "Robots: Robot with Wheels: can carry, carries up to 500 kg, asked 8 kg; "
    "not Drone: carries up to 5 kg, asked 8 kg",
    "Decision: Send the Robot with Wheels.",
)


def carrier() -> Selector:
    """Return a selector that reads every number as a load and would send drone and wheels."""

    def say(proposal: Proposal, task: str | None, pixels: Array | None) -> Proposal:
        subsets, actions = np.zeros(32, np.float32), np.full(len(ACTIONS), -9, np.float32)
        names = FLEET.names
        subsets[1 << names.index("Drone") | 1 << names.index("Robot with Wheels")] = 8
        actions[ACTIONS.index("carry")] = 9
        roles = np.zeros((len(proposal.mentions), len(QUANTITIES) + 1), np.float32)
        roles[:, QUANTITIES.index("load_kg")] = 9
        words = np.array([len(task or ""), 1, 2, 3], np.float32)
        return replace(proposal, subsets=subsets, actions=actions, roles=roles, embedding=words)

    return Selector(FakeBackend(say))


def test_relevance_is_the_area_under_the_curve() -> None:
    stats = pytest.importorskip("scipy.stats")
    drawn = np.random.default_rng(2)
    lines_ND, asked_ND = drawn.normal(size=(2, 12, 3))
    asked_ND[4] = asked_ND[3]
    ours_N = relevance(lines_ND, asked_ND)
    near_NN = (lines_ND / np.linalg.norm(lines_ND, axis=1, keepdims=True)) @ (
        asked_ND / np.linalg.norm(asked_ND, axis=1, keepdims=True)
    ).T
    for i in range(12):
        others = np.delete(near_NN[i], i).round(9)
        u = stats.mannwhitneyu([near_NN[i, i].round(9)], others).statistic
        assert ours_N[i] == pytest.approx(u / 11)
    assert (relevance(np.ones((5, 3)), np.ones((5, 3))) == 0.5).all()


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (0, "Task: Look; load 8 kg"),
        (2, "Robots: Robot with Wheels: can carry; not Robot with Wheels: cannot look"),
        (2, "Robots: Robot with Wheels: can carry; not Drone: cannot take stairs; cannot take "
            "stairs; cannot take stairs"),
        (3, "Decision: Send the Drone."),
    ],
)  # fmt: skip
def test_lines_that_speak_against_each_other_are_not_coherent(number: int, line: str) -> None:
    assert is_coherent(LINES, FLEET)
    changed = list(LINES)
    changed[number] = line
    assert not is_coherent(changed, FLEET)


@pytest.mark.parametrize(
    ("clause", "is_against", "needs"),
    [
        ("carries up to 5 kg, asked 3 kg", False, Needs(("carry",), quantities={"load_kg": 3.0})),
        ("carries up to 5 kg, asked 8 kg", True, Needs(("carry",), quantities={"load_kg": 8.0})),
        ("can look", False, Needs(("look",))),
        ("cannot work under water", True, Needs(("look",), environment="underwater")),
        ("cannot handle", True, Needs(("handle",))),
    ],
)
def test_undone_fact_is_no_longer_true(clause: str, is_against: bool, needs: Needs) -> None:
    line = f"Robots: {'not ' if is_against else ''}Drone: {clause}"
    (claim,) = check_line(line, FLEET, needs)
    assert claim.fault is None
    changed = with_fact_undone(FLEET["Drone"], claim)
    assert changed is not None
    fleet = Fleet(tuple(changed if one.name == "Drone" else one for one in FLEET))
    (after,) = check_line(line, fleet, needs)
    assert after.fault is not None


def test_judgement_cites_no_fact() -> None:
    claim = Claim("Drone", False, "suits the request as a whole", None)
    assert with_fact_undone(FLEET["Drone"], claim) is None


def test_answer_follows_the_facts_that_it_cites() -> None:
    selector = carrier()
    tasks = ["carry 3 kg", "carry the 4 kg box over there", "carry 60 kg"]
    rows = []
    for i, task in enumerate(tasks):
        proposal, decision = decide(selector, Scenario(task=task))
        truth = Truth(str(i), task, decision.robots, decision.primary, decision.environment)
        rows.append(Answered(Case(Scenario(task=task), truth), proposal, decision))
    quality, cited = quality_rows(selector, rows)
    assert quality["decision: is exactly right"]["share"].value == 1.0
    assert quality["robots: all facts are true"]["share"].value == 1.0
    assert quality["no line speaks against another"]["share"].value == 1.0
    assert quality["statements of an account"]["count"].value > 4
    left = cited["limit cited for a robot, made false: it leaves"]["share"]
    assert (left.value, left.n) == (1.0, 5)
    assert cited["ability cited for a robot, made false: it leaves"]["share"].n == 5
    assert cited["cited against a robot, made false: no longer said"]["share"].value == 1.0
