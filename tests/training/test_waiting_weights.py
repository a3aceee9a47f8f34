"""The shipped weights are those of the training split, and they beat the simplest rule."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from embervlm.data.scenarios import load
from embervlm.training.waiting import SIGN_SCALE, f1, fit, pairs_of
from embervlm.waiting import FEATURES, ROWS, WAITS_FROM, rarities, shipped


def test_the_weights_are_what_the_training_split_gives() -> None:
    rows = load("plans", "train")
    pairs = pairs_of(rows, rarities([row["task"] for row in rows]))
    assert pairs.inputs_NI.shape == (len(pairs.waits_N), len(FEATURES) + ROWS)
    weights_I = fit(pairs.inputs_NI, pairs.waits_N)
    assert weights_I[:-ROWS] * SIGN_SCALE == pytest.approx(shipped().signs_F, abs=0.02)
    assert weights_I[-ROWS:] == pytest.approx(shipped().rows_N, abs=0.01)


def test_they_say_more_than_that_each_waits_for_the_one_before() -> None:
    rarity = rarities([row["task"] for row in load("plans", "train")])
    pairs = pairs_of(load("plans", "validation"), rarity)
    weights_I = np.concatenate([shipped().signs_F / SIGN_SCALE, shipped().rows_N])
    odds_N = pairs.inputs_NI @ weights_I - np.log(WAITS_FROM / (1 - WAITS_FROM))
    assert f1(odds_N > 0, pairs.waits_N) > f1(pairs.side_by_side(), pairs.waits_N)
