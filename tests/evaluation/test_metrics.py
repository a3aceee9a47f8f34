"""The figures against brute force and closed forms."""

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from embervlm.evaluation.metrics import (
    Answer,
    Truth,
    expected_calibration_error,
    measure,
    resampling_weights,
)
from embervlm.fleet import Fleet

FLEET = Fleet.default()
SETS = [
    ("No Robot",),
    *(s for k in (1, 2, 3) for s in combinations(FLEET.names, k)),
]


def random_rows(n: int, seed: int = 3) -> tuple[list[Answer], list[Truth]]:
    """Return answers that are right about half of the time."""
    rng = random.Random(seed)
    answers, truths = [], []
    for i in range(n):
        robots = rng.choice(SETS)
        said = robots if rng.random() < 0.5 else rng.choice(SETS)
        place = rng.choice(["paved", "rough"])
        answers.append(
            Answer(
                said,
                said[0],
                rng.choice(["paved", "rough"]),
                rng.random(),
                None,
                rng.random() < 0.3,
            )
        )
        truths.append(
            Truth(str(i), "", robots, robots[-1], place, f"p{i // 2}" if i < 40 else None)
        )
    return answers, truths


def test_equals_brute_force_counts() -> None:
    answers, truths = random_rows(200)
    figures = measure(answers, truths, resamples=10)
    right = [set(a.robots) == set(t.robots) for a, t in zip(answers, truths, strict=True)]
    assert figures["exact_set"].value == pytest.approx(sum(right) / 200)
    overlap = [
        len(set(a.robots) & set(t.robots)) / len(set(a.robots) | set(t.robots))
        for a, t in zip(answers, truths, strict=True)
    ]
    assert figures["jaccard"].value == pytest.approx(sum(overlap) / 200)
    f1s = []
    for outcome in FLEET.outcomes:
        hits = sum(
            outcome in a.robots and outcome in t.robots
            for a, t in zip(answers, truths, strict=True)
        )
        said = sum(outcome in a.robots for a in answers)
        true = sum(outcome in t.robots for t in truths)
        precision, recall = hits / said, hits / true
        assert figures[f"precision {outcome}"].value == pytest.approx(precision)
        assert figures[f"recall {outcome}"].value == pytest.approx(recall)
        f1s.append(2 * precision * recall / (precision + recall))
        assert figures[f"f1 {outcome}"].value == pytest.approx(f1s[-1])
    assert figures["macro_f1"].value == pytest.approx(sum(f1s) / 6)
    assert figures["no_robot_recall"] == figures["recall No Robot"]
    kept = [r for r, a in zip(right, answers, strict=True) if not a.ask]
    assert figures["answered"].value == pytest.approx(len(kept) / 200)
    assert figures["error_answered"].value == pytest.approx(1 - sum(kept) / len(kept))
    both = [right[i] and right[i + 1] for i in range(0, 40, 2)]
    assert figures["pairs"].value == pytest.approx(sum(both) / 20)
    assert figures["pairs"].n == 20


def brute_calibration_error(
    confidence: Sequence[float], right: Sequence[float], bins: int
) -> float:
    rows = sorted(zip(confidence, right, strict=True), key=lambda row: row[0])
    error = 0.0
    for b in range(bins):
        part = rows[round(b * len(rows) / bins) : round((b + 1) * len(rows) / bins)]
        mean = sum(c for c, _ in part) / len(part)
        error += len(part) / len(rows) * abs(mean - sum(r for _, r in part) / len(part))
    return error


def test_calibration_error_equals_its_definition() -> None:
    rng = np.random.default_rng(5)
    confidence = rng.random(317)
    right = (rng.random(317) < confidence**2).astype(float)
    found = expected_calibration_error(confidence, right)
    assert found == pytest.approx(brute_calibration_error(list(confidence), list(right), 15))


def test_calibration_error_is_zero_when_confidence_is_the_truth() -> None:
    right = np.array([0.0, 1.0] * 20)
    assert expected_calibration_error(right, right) == 0.0


def test_interval_matches_the_binomial_one() -> None:
    truths = [Truth(str(i), "", ("Drone",), "Drone") for i in range(400)]
    answers = [Answer(("Drone",) if i % 4 else ("Humanoid",), "Drone") for i in range(400)]
    figure = measure(answers, truths)["exact_set"]
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert figure.value == 0.75
    assert figure.low == pytest.approx(0.75 - half, abs=0.008)
    assert figure.high == pytest.approx(0.75 + half, abs=0.008)


def test_rows_of_one_cluster_are_drawn_together() -> None:
    weights = resampling_weights(["a", "b", "a", "c"], 50, seed=1)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()


def test_the_same_seed_gives_the_same_interval() -> None:
    answers, truths = random_rows(60)
    assert measure(answers, truths, seed=7) == measure(answers, truths, seed=7)


def test_undefined_figures_are_left_out_of_the_mean() -> None:
    truth, answer = Truth("1", "", ("Drone",), "Drone"), Answer(("Drone",), "Drone")
    figures = measure([answer], [truth], resamples=5)
    assert np.isnan(figures["f1 Humanoid"].value)
    assert figures["f1 Humanoid"].to_dict()["value"] is None
    assert figures["macro_f1"].value == 1.0
    assert "environment" not in figures
    assert "calibration_error" not in figures


def test_says_how_many_answers_are_missing() -> None:
    with pytest.raises(ValueError, match="0 answers to 1 truths"):
        measure([], [Truth("1", "", ("Drone",), "Drone")])
