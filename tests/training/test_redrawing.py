"""Numbers are drawn anew over their range, and their roles stay."""

import random

import pytest

pytest.importorskip("torch")

from embervlm.data.sample import from_scenario
from embervlm.data.scenarios import load
from embervlm.prompts import bucket_mark
from embervlm.quantities import find_quantities
from embervlm.training.redrawing import RANGES, mentions_of, redrawn, times, varied


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


def test_varied_numbers_keep_their_marks_and_roles() -> None:
    rng, seen, moved = random.Random(0), 0, 0
    for row in load("scenarios", "train")[:400]:
        sample = from_scenario(row)
        told = mentions_of(sample)
        if (drawn := varied(sample, rng)) is None:
            continue
        task, roles = drawn
        found = find_quantities(task)
        assert [bucket_mark(m) for m in found] == [bucket_mark(m) for m, _ in told]
        assert roles == [role for _, role in told]
        seen += 1
        moved += task != sample.task
        for before, after in zip(told, found, strict=True):
            assert after.value == pytest.approx(before[0].value, rel=0.25)
    assert seen > 100
    assert moved > 0.7 * seen


def test_samples_come_as_often_as_the_share_says() -> None:
    samples = [from_scenario(row) for row in load("scenarios", "train")[:10]]
    found = times(2.5, samples, random.Random(0))
    assert len(found) == 25
    assert all(found.count(sample) in (2, 3) for sample in samples)
    assert times(0, samples, random.Random(0)) == []
