"""The shipped weights are those of the training split, and they beat the simplest rule."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from embervlm.data.scenarios import load
from embervlm.training.waiting import f1, fit, pairs_of
from embervlm.waiting import FEATURES, WAITS_FROM, WEIGHTS


def test_the_weights_are_what_the_training_split_gives() -> None:
    signs_NF, waits_N, _ = pairs_of(load("plans", "train"))
    assert signs_NF.shape[1] == len(FEATURES) == len(WEIGHTS)
    assert fit(signs_NF, waits_N) == pytest.approx(WEIGHTS, abs=0.02)


def test_they_say_more_than_that_each_waits_for_the_one_before() -> None:
    signs_NF, waits_N, _ = pairs_of(load("plans", "validation"))
    odds_N = signs_NF @ np.array(WEIGHTS) - np.log(WAITS_FROM / (1 - WAITS_FROM))
    assert f1(odds_N > 0, waits_N) > f1(signs_NF[:, 0] > 0, waits_N)
