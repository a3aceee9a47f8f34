"""Numbers are drawn anew over their range, and their roles stay."""

import random

import pytest

pytest.importorskip("torch")

from embervlm.data.sample import from_scenario
from embervlm.data.scenarios import load
from embervlm.quantities import find_quantities
from embervlm.training.redrawing import RANGES, mentions_of, redrawn


def test_redrawn_numbers_keep_kinds_and_roles_and_cover_the_range() -> None:
    rng = random.Random(0)
    samples = [from_scenario(row) for row in load("scenarios", "train")[:600]]
    lengths, kept = [], 0
    for sample in samples:
        told = mentions_of(sample)
        if not told or (drawn := redrawn(sample, rng)) is None:
            continue
        task, roles = drawn
        found = find_quantities(task)
        assert [m.kind for m in found] == [m.kind for m, _ in told]
        assert roles == [role for _, role in told]
        for mention in found:
            low, high = RANGES[mention.kind]
            assert 0.9 * low <= mention.value <= 1.1 * high
        lengths += [m.value for m in found if m.kind == "length_m"]
        kept += 1
    assert kept > 100
    assert min(lengths) < 1
    assert max(lengths) > 300
