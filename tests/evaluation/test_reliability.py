"""Calibration and refusal against scikit-learn, SciPy, brute force and closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embervlm.evaluation.reliability import (
    area_under_risk,
    brier_rows,
    conformal_sets,
    conformal_threshold,
    coverage_at_risk,
    maximum_calibration_error,
    risk_coverage,
)
from embervlm.evaluation.run import run


def draws(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences and answers that are right as often as they say, squared."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.05, 0.99, n)
    return confidence, (rng.uniform(size=n) < confidence**2).astype(np.float64)


def test_largest_calibration_error_equals_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    confidence, right = draws(600)
    shares, means = calibration.calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    expected = np.abs(shares - means).max()
    assert maximum_calibration_error(confidence, right) == pytest.approx(expected)


def test_brier_score_equals_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    chance = rng.dirichlet(np.full(32, 0.1), 300)
    true = rng.integers(0, 32, 300)
    expected = metrics.brier_score_loss(true, chance, labels=list(range(32)), scale_by_half=False)
    assert brier_rows(chance, true).mean() == pytest.approx(expected)
    sure_and_wrong = brier_rows(np.array([[1.0, 0.0]]), np.array([1]))
    assert sure_and_wrong.tolist() == [2.0]


def test_risk_and_coverage_equal_brute_force() -> None:
    confidence, right = draws(150)
    order = sorted(range(150), key=lambda i: -confidence[i])
    coverage, risk = risk_coverage(confidence, right)
    for k in (1, 2, 75, 150):
        assert coverage[k - 1] == k / 150
        assert risk[k - 1] == pytest.approx(1 - right[order[:k]].mean())
    assert area_under_risk(confidence, right) == pytest.approx(
        np.mean([1 - right[order[:k]].mean() for k in range(1, 151)])
    )


def test_order_of_equally_sure_answers_plays_no_part() -> None:
    confidence, right = draws(120)
    confidence = confidence.round(1)
    mixed = np.random.default_rng(2).permutation(120)
    one = risk_coverage(confidence, right)[1]
    other = risk_coverage(confidence[mixed], right[mixed])[1]
    assert one == pytest.approx(other)
    same = np.full(120, 0.5)
    assert area_under_risk(same, right) == pytest.approx(1 - right.mean())


def test_best_order_has_the_least_area() -> None:
    confidence, right = draws(100)
    wrong = int(100 - right.sum())
    best = sum(max(0, k - (100 - wrong)) / k for k in range(1, 101)) / 100
    assert area_under_risk(right + confidence / 1e6, right) == pytest.approx(best)
    assert best <= area_under_risk(confidence, right)


@pytest.mark.parametrize("risk", [0.0, 0.05, 0.3, 1.0])
def test_coverage_at_risk_equals_trying_every_threshold(risk: float) -> None:
    confidence, right = draws(200)
    confidence = confidence.round(2)
    shares = [0.0]
    for threshold in np.unique(confidence):
        kept = confidence >= threshold
        if 1 - right[kept].mean() <= risk:
            shares.append(kept.mean())
    assert coverage_at_risk(confidence, right, risk) == pytest.approx(max(shares))


def test_conformal_threshold_is_numpys_higher_quantile() -> None:
    score = np.random.default_rng(3).uniform(size=99)
    for level in (0.5, 0.9, 0.95):
        rank = np.ceil(100 * level - 1e-9) / 99
        expected = np.quantile(score, rank, method="inverted_cdf")
        assert conformal_threshold(score, level) == pytest.approx(expected)
    assert conformal_threshold(score[:5], 0.95) == np.inf


def test_conformal_coverage_follows_the_beta_distribution_of_theory() -> None:
    """Vovk (2012): given K scores of validation, coverage is Beta(rank, K + 1 - rank)."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(4)
    K, level = 79, 0.9
    # Uniform scores: the coverage given the threshold q is q itself.
    coverages = [conformal_threshold(rng.uniform(size=K), level) for _ in range(2000)]
    rank = int(np.ceil((K + 1) * level))
    assert stats.kstest(coverages, stats.beta(rank, K + 1 - rank).cdf).pvalue > 0.01


def test_more_sets_are_named_where_the_network_is_unsure() -> None:
    chance = np.array([[0.9, 0.06, 0.04], [0.4, 0.35, 0.25]])
    assert conformal_sets(chance, 0.7).tolist() == [[True, False, False], [True, True, False]]
    assert conformal_sets(chance, np.inf).all()


def test_report_holds_calibration_and_what_its_pictures_need(
    small_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    for split in ("test", "validation"):
        file = tmp_path / f"{split}.json"
        assert run(split, tiny_model, "reference", None, file, False, ["calibration"]) == 0
        report = json.loads(file.read_text("utf-8"))
        row = report["tables"]["calibration"]["embervlm"]
        assert row["largest_calibration_error"]["value"] >= row["calibration_error"]["value"]
        assert 0 <= row["coverage_at_5_percent"]["value"] <= 1
        sets = report["tables"]["sets that cover the true one"]["asked for 90%"]
        assert sets["coverage"]["n"] == 16
        assert set(report["tables"]["answers at a threshold from validation"]) == {
            "at most 1% wrong",
            "at most 5% wrong",
            "at most 10% wrong",
        }
        points = report["points"]
        assert sum(map(sum, points["first robot"])) == 16
        assert sum(one["n"] for one in points["bins"]) == 16
        assert points["risk and coverage"][-1][0] == 1.0
