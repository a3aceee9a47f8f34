"""Numbers are drawn anew over their range, their roles stay, and the head learns from it."""

import random

import pytest

torch = pytest.importorskip("torch")

from embervlm.data.sample import from_scenario  # noqa: E402
from embervlm.data.scenarios import load  # noqa: E402
from embervlm.quantities import find_quantities  # noqa: E402
from embervlm.training.roles import RANGES, fit, mentions_of, redrawn  # noqa: E402


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


def test_the_head_learns_what_can_be_told() -> None:
    torch.manual_seed(0)
    roles = torch.randint(8, (6000,))
    states = torch.randn(6000, 16) + 6 * torch.nn.functional.one_hot(roles, 16)
    head = torch.nn.Linear(16, 8)
    fit(head, states, roles)
    assert (head(states).argmax(-1) == roles).float().mean() > 0.9
