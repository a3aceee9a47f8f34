"""Whether the model knows when it is right: calibration, refusing to answer, sets that cover.

    part = reliability_part(selector, answered, are_validation=True)
    part.tables["calibration"]["embervlm"]["coverage_at_5_percent"]   # Figure(value=0.71, ...)
    part.points["bins"], part.points["risk and coverage"]              # what the pictures are of

Three questions. *Does a confidence mean what it says?* ECE (`metrics`), MCE and the Brier score
say so. *Is the model surer where it is right?* The risk-coverage curve: the surest answers are
kept, the others go to a person (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017). *Which sets
could it be?* Split conformal prediction names several of the 32 sets so that the true one is among
them with a stated chance (Vovk et al. 2005; Sadinle et al. 2019 for the score; Angelopoulos and
Bates 2023 for the formulas).

Whatever is fitted here is fitted on validation. Where validation itself is asked for, it is cut in
two halves and each is measured with what the other gave; contrast pairs stay whole.

Axes: N rows, S sets of robots (32), K rows of the validation split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.base import Proposal
from embervlm.data.sample import robots_of, subset_of
from embervlm.evaluation.cases import SEED, Answered, decide, seeded_number, text_cases, watched
from embervlm.evaluation.fitting import answer_from
from embervlm.evaluation.metrics import (
    CALIBRATION_BINS,
    RESAMPLES,
    Answer,
    Figure,
    Floats,
    Rows,
    calibration_bins,
    expected_calibration_error,
    figure,
    first_robot_confusion,
    presence_confusion,
    resampling_weights,
    share,
)
from embervlm.fleet import Fleet
from embervlm.reading import Calibration
from embervlm.scoring import exact
from embervlm.selector import Selector

RISKS = (0.01, 0.05, 0.10)
LEVELS = (0.90, 0.95)
CURVE_POINTS = 200
OUTCOMES = Fleet.default().outcomes


@dataclass(frozen=True)
class Part:
    """Tables for the report, and the points of its pictures, as plain JSON values."""

    tables: dict[str, Rows]
    points: dict[str, Any]


def reliability_part(
    selector: Selector,
    answered: Sequence[Answered],
    *,
    are_validation: bool,
    has_validation: bool = True,
) -> Part:
    """Measure answers to requests and plans; validation's, which these may be, give what is
    fitted. Without them there are no tables of what is fitted."""
    fitted = answered
    if has_validation and not are_validation:
        cases = text_cases("validation")
        fitted = [
            Answered(case, *decide(selector, case.scenario))
            for case in watched(cases, "read the validation split")
        ]
    halves = _halves(answered) if are_validation else [(fitted, answered)]
    confidence_N, right_N = confidences_of(answered)
    tables: dict[str, Rows] = {
        "calibration": {"embervlm": calibration_figures(answered, selector.calibration)},
    }
    if has_validation:
        tables["answers at a threshold from validation"] = threshold_rows(halves)
        tables["sets that cover the true one"] = conformal_rows(halves, selector.calibration)
    answers = [Answer.of(one.decision) for one in answered]
    truths = [one.case.truth for one in answered]
    coverage_N, risk_N = risk_coverage(confidence_N, right_N)
    keep = np.unique(np.linspace(0, len(risk_N) - 1, CURVE_POINTS).round().astype(int))
    points = {
        "outcomes": list(OUTCOMES),
        "first robot": first_robot_confusion(answers, truths, OUTCOMES).tolist(),
        "in the set": presence_confusion(answers, truths, OUTCOMES).tolist(),
        "bins": [
            {"confidence": round(b.confidence, 4), "right": round(b.right, 4), "n": b.n}
            for b in calibration_bins(confidence_N, right_N)
        ],
        "risk and coverage": [
            [round(float(coverage_N[i]), 4), round(float(risk_N[i]), 4)] for i in keep
        ],
        "area under risk and coverage": round(area_under_risk(confidence_N, right_N), 4),
        "area if ranked at best": round(area_under_risk(right_N, right_N), 4),
    }
    return Part(tables, points)


def calibration_figures(
    answered: Sequence[Answered], calibration: Calibration, seed: int = SEED
) -> dict[str, Figure]:
    """Return the figures of how far a confidence can be trusted, with intervals."""
    confidence_N, right_N = confidences_of(answered)
    chance_NS = chances_of([one.proposal for one in answered], calibration)
    true_N = true_sets(answered)
    clusters = [one.case.truth.pair or one.case.truth.id for one in answered]
    weights_BN = resampling_weights(clusters, RESAMPLES, seed)
    drawn = [np.repeat(np.arange(len(row)), row.astype(int)) for row in weights_BN]

    def bootstrapped(of: Callable[[Floats, Floats], float]) -> Figure:
        samples = np.array([of(confidence_N[rows], right_N[rows]) for rows in drawn])
        return figure(of(confidence_N, right_N), samples, len(right_N))

    def mean(values_N: Floats) -> Figure:
        samples = weights_BN @ values_N / weights_BN.sum(1)
        return figure(values_N.mean(), samples, len(values_N))

    return {
        "calibration_error": bootstrapped(expected_calibration_error),
        "largest_calibration_error": bootstrapped(maximum_calibration_error),
        "brier_confidence": mean((confidence_N - right_N) ** 2),
        "brier_sets": mean(brier_rows(chance_NS, true_N)),
        "area_under_risk": bootstrapped(area_under_risk),
        **{
            f"coverage_at_{risk * 100:.0f}_percent": bootstrapped(
                partial(coverage_at_risk, risk=risk)
            )
            for risk in RISKS
        },
    }


def maximum_calibration_error(
    confidence_N: Floats, right_N: Floats, bins: int = CALIBRATION_BINS
) -> float:
    """Return the largest gap of a bin: MCE = max_b |mean confidence in b - share right in b|.

    The bins are those of `expected_calibration_error`, of equal mass (Naeini et al. 2015). It is
    at least the ECE, and of small bins large by chance.
    """
    found = calibration_bins(confidence_N, right_N, bins)
    return max(abs(one.confidence - one.right) for one in found)


def brier_rows(chance_NS: Floats, true_N: NDArray[np.int64]) -> Floats:
    """Return each row's Brier score: sum over the outcomes of (chance - 1 if true else 0)^2.

    Brier (1950), in his own form for several outcomes: 0 at best, 2 at worst.
    """
    happened_NS = np.zeros_like(chance_NS)
    happened_NS[np.arange(len(true_N)), true_N] = 1.0
    score_N: Floats = ((chance_NS - happened_NS) ** 2).sum(1)
    return score_N


def risk_coverage(confidence_N: Floats, right_N: Floats) -> tuple[Floats, Floats]:
    """Return (coverage, risk) of keeping the k surest answers, for k = 1 to N.

    coverage_k = k / N; risk_k = wrong among the k surest / k (El-Yaniv and Wiener 2010). Of equally
    sure answers no order is better than another, so that each of them brings the mean of their
    errors: the curve does not hang on the order of the rows.
    """
    order = np.argsort(-confidence_N, kind="stable")
    wrong_N = 1 - right_N[order]
    _, group_N, size_G = np.unique(-confidence_N[order], return_inverse=True, return_counts=True)
    mean_G = np.bincount(group_N, weights=wrong_N) / size_G
    kept_N = np.arange(1, len(order) + 1)
    risk_N: Floats = np.cumsum(mean_G[group_N]) / kept_N
    return kept_N / len(order), risk_N


def area_under_risk(confidence_N: Floats, right_N: Floats) -> float:
    """Return the mean risk over all coverages: AURC = (1 / N) sum_k risk_k (Geifman et al. 2019).

    Lower is better. With no order at all it is the share of wrong answers; with all right answers
    in front of the wrong ones it is `area_under_risk(right_N, right_N)`.
    """
    return float(risk_coverage(confidence_N, right_N)[1].mean())


def coverage_at_risk(confidence_N: Floats, right_N: Floats, risk: float) -> float:
    """Return the largest share of answers that a threshold keeps with at most `risk` of them wrong.

    max over thresholds t of |{c >= t}| / N with error({c >= t}) <= risk (Geifman and El-Yaniv
    2017); 0 where no threshold will do. The threshold is chosen with the answers known, so this is
    what the order of the confidences allows; `threshold_rows` says what is kept without knowing.
    """
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N, wrong_N = confidence_N[order], np.cumsum(1 - right_N[order])
    kept_N = np.arange(1, len(order) + 1)
    last_of_equals_N = np.append(sorted_N[1:] < sorted_N[:-1], True)
    good_N = last_of_equals_N & (wrong_N <= risk * kept_N + 1e-9)
    return float(kept_N[good_N].max() / len(order)) if good_N.any() else 0.0


def conformal_threshold(score_K: Floats, level: float) -> float:
    """Return q, the ceil((K + 1) level)-th smallest score; infinity where there are too few.

    The score of a row is 1 - chance of its true set. A new row, exchangeable with the K, scores at
    most q with a chance of `level` to `level` + 1 / (K + 1) (Angelopoulos and Bates 2023, 1.1).
    """
    rank = math.ceil((len(score_K) + 1) * level - 1e-9)
    return float(np.sort(score_K)[rank - 1]) if rank <= len(score_K) else math.inf


def conformal_sets(chance_NS: Floats, threshold: float) -> NDArray[np.bool_]:
    """Return (N, S): which sets belong to each row's answer, those with 1 - chance <= threshold."""
    return 1 - chance_NS <= threshold + 1e-12


def conformal_rows(
    halves: Sequence[tuple[Sequence[Answered], Sequence[Answered]]],
    calibration: Calibration,
    seed: int = SEED,
) -> Rows:
    """Return coverage and size of the conformal answers, fitted on the first of each two lists and
    measured on the second, at each of `LEVELS`.

    `coverage` is the share of rows whose true set is among those named, `covers R` the same over
    the rows whose true set holds R, which split conformal prediction does not promise.
    """
    measured = [one for _, rows in halves for one in rows]
    clusters = [one.case.truth.pair or one.case.truth.id for one in measured]
    weights_BN = resampling_weights(clusters, RESAMPLES, seed)
    found: Rows = {}
    for level in LEVELS:
        named_NS = np.concatenate(
            [
                conformal_sets(
                    chances_of([one.proposal for one in rows], calibration),
                    conformal_threshold(_scores(fitted, calibration), level),
                )
                for fitted, rows in halves
            ]
        )
        true_N = true_sets(measured)
        covered_N = named_NS[np.arange(len(true_N)), true_N]
        size_N = named_NS.sum(1).astype(np.float64)
        sizes = weights_BN @ size_N / weights_BN.sum(1)
        row = {
            "coverage": share(covered_N.tolist(), clusters, seed=seed),
            "sets_named": figure(size_N.mean(), sizes, len(size_N)),
        }
        for outcome in OUTCOMES:
            held = [i for i, subset in enumerate(true_N) if outcome in robots_of(int(subset))]
            row[f"covers {outcome}"] = share(
                [bool(covered_N[i]) for i in held], [clusters[i] for i in held], seed=seed
            )
        found[f"asked for {level:.0%}"] = row
    return found


def threshold_rows(
    halves: Sequence[tuple[Sequence[Answered], Sequence[Answered]]], seed: int = SEED
) -> Rows:
    """Return what is answered, and how much of that is wrong, above the confidence from which on at
    most each of `RISKS` was wrong in the first of each two lists, measured on the second."""
    found: Rows = {}
    for risk in RISKS:
        kept, wrong, clusters = [], [], []
        for fitted, rows in halves:
            threshold = answer_from(*confidences_of(fitted), risk)
            for one in rows:
                kept.append(one.decision.confidence >= threshold)
                wrong.append(not exact(one.decision.robots, one.case.truth.robots))
                clusters.append(one.case.truth.pair or one.case.truth.id)
        answered = [i for i, is_kept in enumerate(kept) if is_kept]
        found[f"at most {risk:.0%} wrong"] = {
            "answered": share(kept, clusters, seed=seed),
            "error_answered": share(
                [wrong[i] for i in answered], [clusters[i] for i in answered], seed=seed
            ),
        }
    return found


def chances_of(proposals: Sequence[Proposal], calibration: Calibration) -> Floats:
    """Return (N, S): the network's chance of each set of robots, calibrated, before any rule."""
    logits_NS = np.stack([proposal.subsets for proposal in proposals]).astype(np.float64)
    alone_N = np.array([proposal.scene is None for proposal in proposals])
    logits_NS[alone_N, 0] += calibration.no_robot_shift
    scaled_NS = logits_NS / calibration.temperature
    shares_NS = np.exp(scaled_NS - scaled_NS.max(1, keepdims=True))
    chance_NS: Floats = shares_NS / shares_NS.sum(1, keepdims=True)
    return chance_NS


def confidences_of(answered: Sequence[Answered]) -> tuple[Floats, Floats]:
    """Return (N,) the confidence of each decision, and (N,) 1.0 where its set is right."""
    confidence_N = np.array([one.decision.confidence for one in answered], dtype=np.float64)
    right = [exact(one.decision.robots, one.case.truth.robots) for one in answered]
    return confidence_N, np.array(right, dtype=np.float64)


def true_sets(answered: Sequence[Answered]) -> NDArray[np.int64]:
    """Return (N,) the number of each row's true set."""
    return np.array([subset_of(one.case.truth.robots) for one in answered], dtype=np.int64)


def _scores(answered: Sequence[Answered], calibration: Calibration) -> Floats:
    chance_NS = chances_of([one.proposal for one in answered], calibration)
    score_N: Floats = 1 - chance_NS[np.arange(len(answered)), true_sets(answered)]
    return score_N


def _halves(
    answered: Sequence[Answered],
) -> list[tuple[list[Answered], list[Answered]]]:
    """Return both ways round the two halves of the rows, drawn by a hash of pair or request."""
    halves: tuple[list[Answered], list[Answered]] = ([], [])
    for one in answered:
        truth = one.case.truth
        halves[seeded_number(f"{SEED} half {truth.pair or truth.id}") % 2].append(one)
    return [(halves[0], halves[1]), (halves[1], halves[0])]
