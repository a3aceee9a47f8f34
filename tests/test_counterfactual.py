"""The model that ships follows the numbers in a request; skipped where no weights ship yet."""

from __future__ import annotations

import pytest

from embervlm.backends import load_backend
from embervlm.checkpoint import SHIPPED
from embervlm.data.scenarios import load
from embervlm.evaluation.counterfactual import swap_rows
from embervlm.scenario import Scenario
from embervlm.selector import Selector

pytestmark = pytest.mark.skipif(not SHIPPED.is_file(), reason="no weights ship with this tree")

# Floors, not the measured shares: those stand in the report of `embervlm eval`.
LEAVES, STAYS = 0.90, 0.85
ROWS = 150


@pytest.fixture(scope="module")
def selector() -> Selector:
    return Selector(load_backend("native"))


def test_decisions_follow_swapped_numbers(selector: Selector) -> None:
    rows = swap_rows(selector, load("scenarios", "validation")[:ROWS])
    assert rows["over a limit: the robot leaves"]["share"].value >= LEAVES
    assert rows["within: the set stays"]["share"].value >= STAYS


@pytest.mark.parametrize(
    ("within", "beyond", "robot"),
    [
        (
            "Fly the 3 kg medicine box over the ravine, no wind.",
            "Fly the 9 kg medicine box over the ravine, no wind.",
            "Drone",
        ),
        (
            "Carry the 12 kg pump up the open stairs to the roof plant room.",
            "Carry the 18 kg pump up the open stairs to the roof plant room.",
            "Robot with Legs",
        ),
        (
            "Tow the 400 kg pallet across the level warehouse floor.",
            "Tow the 700 kg pallet across the level warehouse floor.",
            "Robot with Wheels",
        ),
        (
            "Inspect the cracks on the chimney top, wind 15 km/h.",
            "Inspect the cracks on the chimney top, wind 75 km/h.",
            "Drone",
        ),
    ],
)
def test_a_limit_decides(selector: Selector, within: str, beyond: str, robot: str) -> None:
    assert robot in selector.decide(Scenario(task=within), reasoning=False).robots
    assert robot not in selector.decide(Scenario(task=beyond), reasoning=False).robots
