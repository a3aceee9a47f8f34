"""Plans are paired by meaning and scored as the formulas say."""

import math
import random
from fractions import Fraction
from itertools import permutations

import pytest

from embervlm.evaluation.plans import _best_pairing, matched, score_plan, summary
from embervlm.fleet import Fleet
from embervlm.scenario import Needs, Subtask

TRUTH = [
    {"subtask": "Map the flood", "robot": "Drone", "after": [], "actions": ["map"], "limits": {}},
    {
        "subtask": "Carry 6 kg through the mud",
        "robot": "Robot with Legs",
        "after": [0],
        "actions": ["carry"],
        "limits": {"load_kg": 6, "mud": True},
    },
    {
        "subtask": "Open the gate",
        "robot": "Humanoid",
        "after": [1],
        "actions": ["handle"],
        "limits": {},
    },
]


def step(words: str, robot: str | None, after: tuple[int, ...], *actions: str) -> Subtask:
    return Subtask(words, robot, after, Needs(actions))


RIGHT = [
    step("the flood mapped", "Drone", (), "map"),
    step("6 kg carried", "Robot with Legs", (0,), "carry"),
    step("somebody opens the gate", "Humanoid", (1,), "handle"),
]


def figures(plan: list[Subtask]) -> dict[str, float]:
    return summary([score_plan(plan, TRUTH, Fleet.default())])


def test_the_true_plan_in_other_words_has_all_the_marks() -> None:
    found = figures(RIGHT)
    assert (found["assignment"], found["precedence_f1"], found["order"]) == (1, 1, 1)
    assert (found["broken_true"], found["broken_own"], found["steps_right"]) == (0, 0, 1)


def test_steps_are_paired_by_meaning_wherever_they_stand() -> None:
    turned = [
        step("opens the gate", "Humanoid", (2,), "handle"),
        step("the flood mapped", "Drone", (), "map"),
        step("6 kg carried", "Robot with Legs", (1,), "carry"),
    ]
    assert matched(turned, TRUTH) == {0: 1, 1: 2, 2: 0}
    found = figures(turned)
    assert (found["assignment"], found["precedence_f1"]) == (1, 1)
    # Places 1, 2, 0: sum of squared gaps 6 of n = 3.
    assert found["order"] == pytest.approx(1 - 6 * 6 / (3 * 8))


def test_the_best_pairing_is_that_of_trying_all_and_takes_long_plans() -> None:
    drawn = random.Random(0)
    for _ in range(200):
        rows = drawn.randint(1, 4)
        columns = drawn.randint(rows, 6)
        like = [
            [Fraction(drawn.randint(0, 3), drawn.randint(1, 4)) for _ in range(columns)]
            for _ in range(rows)
        ]
        all_of_them = permutations(range(columns), rows)  # of equal ones `max` takes the first
        first = max(all_of_them, key=lambda p: sum(like[i][j] for i, j in enumerate(p)))
        assert _best_pairing(like) == list(first)
    told = [step(f"task{i}", "Drone", ()) for i in range(6)]
    truth = [{"subtask": f"task{i}", "actions": [], "limits": {}} for i in range(30)]
    assert matched(told, truth) == {i: i for i in range(6)}


def test_a_missing_step_costs_assignment_and_precedence() -> None:
    found = figures(RIGHT[:2])
    assert found["assignment"] == pytest.approx(2 / 3)
    # Of three true pairs (near and far) one is said, and it is right: F1 = 2 / (1 + 3).
    assert found["precedence_f1"] == pytest.approx(2 / 4)
    assert found["steps_right"] == 0


def test_a_robot_that_breaks_a_true_limit_is_counted() -> None:
    heavy = [{**TRUTH[1], "limits": {"load_kg": 60}, "after": []}]
    score = score_plan(
        [step("60 kg carried", "Robot with Legs", (), "carry")], heavy, Fleet.default()
    )
    assert (score.broken_true, score.broken_own) == (1, 0)


def test_nothing_said_is_nothing_right() -> None:
    found = figures([])
    assert (found["assignment"], found["precedence_f1"]) == (0, 0)
    assert math.isnan(found["order"])


def test_a_split_with_plans_has_their_figures(reference: object) -> None:
    from embervlm.evaluation.run import _plan_figures
    from embervlm.selector import Selector

    row = {
        "id": "p-1", "task": "map the flood, then open the gate", "suited": ["Drone", "Humanoid"],
        "environment": "rough", "plan": [TRUTH[0], {**TRUTH[2], "after": [0]}],
    }  # fmt: skip
    figures = _plan_figures(Selector(reference), [row, {**row, "id": "p-2"}])
    assert figures["exact_set"].n == figures["assignment"].n == 2
    assert 0 <= figures["precedence_f1"].value <= 1
    assert figures["broken_own"].value == 0
