"""The set head: one distribution over all sets of robots, No Robot among them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from embervlm.backends.decoding import subset_features  # noqa: E402
from embervlm.models.heads import SUBSETS_SR, DecisionHeads  # noqa: E402


def test_subsets_are_all_different_and_number_0_is_empty() -> None:
    assert len({tuple(row) for row in SUBSETS_SR.tolist()}) == 32
    assert SUBSETS_SR[0].sum() == 0


def test_a_score_is_the_sum_over_robots_and_pairs() -> None:
    torch.manual_seed(0)
    heads = DecisionHeads(8)
    pooled = torch.randn(1, 8)
    parts = heads.subset_features(pooled)[0]
    single, pair = parts[:5], parts[5:15]
    pairs = [(r, s) for r in range(5) for s in range(r + 1, 5)]
    expected = single[0] + single[3] + pair[pairs.index((0, 3))]
    assert torch.allclose(heads(pooled)["subsets"][0, 0b01001], expected, atol=1e-5)
    assert torch.allclose(heads(pooled)["subsets"][0, 0], parts[15], atol=1e-5)


def test_numpy_and_pytorch_know_the_same_features() -> None:
    heads = DecisionHeads(8)
    assert np.array_equal(subset_features(), heads.features_SF.numpy())
