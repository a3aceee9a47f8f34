"""The swaps change the number and nothing else, and the check sees what it should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend

from embervlm.backends.base import Array, Proposal
from embervlm.evaluation.counterfactual import swap_rows, swaps_of, with_number
from embervlm.fleet import Fleet
from embervlm.quantities import find_quantities
from embervlm.scenario import QUANTITIES
from embervlm.selector import Selector

FLEET = Fleet.default()
ROW: dict[str, Any] = {
    "id": "1",
    "task": "Fly the 3 kg parcel over the road, wind 30 km/h.",
    "suited": ["Drone"],
    "limits": {"load_kg": 3, "wind_kmh": 30},
    "kind": "choice",
}


@pytest.mark.parametrize(
    ("task", "value", "expected"),
    [
        ("take 8 kg up", 12.0, "take 12 kg up"),
        ("take half a tonne up", 12.5, "take 12.5 kg up"),
        ("gusting 85 now", 60.0, "gusting 60 km/h now"),
        ("drive 900 m", 1400.0, "drive 1400 m"),
        ("watch it for two hours", 0.5, "watch it for 30 minutes"),
    ],
)
def test_puts_the_number_in_its_place(task: str, value: float, expected: str) -> None:
    (mention,) = find_quantities(task)
    changed = with_number(task, mention, value)
    assert changed == expected
    assert find_quantities(changed)[0].value == pytest.approx(value)


def test_swaps_each_number_of_the_suited_robots() -> None:
    tasks = {(swap.robot, swap.task) for swap in swaps_of(ROW, FLEET)}
    assert tasks == {
        ("Drone", "Fly the 7 kg parcel over the road, wind 30 km/h."),
        ("Drone", "Fly the 3 kg parcel over the road, wind 70 km/h."),
        (None, "Fly the 2.79 kg parcel over the road, wind 30 km/h."),
        (None, "Fly the 3 kg parcel over the road, wind 27.9 km/h."),
    }


def test_leaves_teams_and_unlabelled_numbers_alone() -> None:
    assert list(swaps_of({**ROW, "kind": "team"}, FLEET)) == []
    assert list(swaps_of({**ROW, "limits": {}}, FLEET)) == []


def reader(*, reads_load: bool) -> Selector:
    """Return a selector that wants the drone, and reads loads or no number at all."""

    def say(proposal: Proposal, task: str | None, pixels: Array | None) -> Proposal:
        subsets, roles = np.zeros(32, np.float32), proposal.roles.copy()
        subsets[1], subsets[8] = 6, 3
        if reads_load:
            loads = [i for i, m in enumerate(proposal.mentions) if m.kind == "mass_kg"]
            roles[loads, QUANTITIES.index("load_kg")] = 5
        return replace(proposal, subsets=subsets, roles=roles)

    return Selector(FakeBackend(say))


def test_sees_which_model_reads_the_number() -> None:
    row = {**ROW, "limits": {"load_kg": 3}}
    for reads in (True, False):
        rows = swap_rows(reader(reads_load=reads), [row])
        assert rows["over a limit: the robot leaves"]["share"].value == float(reads)
        assert rows["within: the set stays"]["share"].value == 1.0
