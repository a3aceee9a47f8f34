"""Gaps between groups are what SciPy's permutations say, and a small group decides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeBackend

from embervlm.data.photos import load_sources
from embervlm.evaluation.cases import Answered, Case, decide
from embervlm.evaluation.fairness import SMALLEST, fairness_rows, place_of, shuffled_gaps
from embervlm.evaluation.metrics import Truth
from embervlm.scenario import Scenario
from embervlm.selector import Selector


def answered(rows: list[tuple[str, bool]]) -> list[Answered]:
    """Return cases of these places, right or wrong as said."""
    selector = Selector(FakeBackend(lambda proposal, task, pixels: proposal))
    proposal, decision = decide(selector, Scenario(task="go"))
    found = []
    for i, (place, is_right) in enumerate(rows):
        robots = decision.robots if is_right else ("Humanoid", "Drone")
        truth = Truth(str(i), "go", robots, robots[0], place)
        found.append(Answered(Case(Scenario(task="go"), truth), proposal, replace(decision)))
    return found


def test_worst_and_best_of_groups_that_are_large_enough() -> None:
    rows = [("rough", i < 10) for i in range(40)] + [("paved", i < 30) for i in range(40)]
    rows += [("underwater", True)] * (SMALLEST - 1)
    found = fairness_rows(answered(rows), place_of)
    assert list(found) == ["rough", "paved", "underwater", "worst: rough, best: paved"]
    gap = found["worst: rough, best: paved"]
    assert gap["gap"].value == pytest.approx(0.5)
    assert gap["gap"].low < 0.5 < gap["gap"].high
    assert 0 < gap["gap_by_chance"].value < 0.15
    assert gap["p_gap"].value == pytest.approx(1 / 1001)


def test_shuffles_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    right_N = np.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0], dtype=np.float64)
    member_NG = np.repeat(np.eye(2), 6, axis=0)

    def gap(one: np.ndarray, other: np.ndarray) -> float:
        return abs(float(one.mean() - other.mean()))

    theirs = stats.permutation_test(
        (right_N[:6], right_N[6:]), gap, alternative="greater", n_resamples=np.inf
    )
    ours_B = shuffled_gaps(right_N, member_NG, seed=3, shuffles=20000)
    p = float((ours_B >= gap(right_N[:6], right_N[6:]) - 1e-12).mean())
    assert p == pytest.approx(theirs.pvalue, abs=0.015)


def test_one_group_has_no_gap() -> None:
    assert list(fairness_rows(answered([("rough", True)] * 20), place_of)) == ["rough"]


def test_folder_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="manifest.jsonl cannot be read"):
        load_sources(tmp_path)
