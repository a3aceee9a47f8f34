"""How good a list of answers is, with an interval on every figure.

    figures = measure(answers, truths)
    figures["exact_set"]           # Figure(value=0.81, low=0.78, high=0.84, n=641)

Every figure but the calibration error is a ratio of sums over rows, so one matrix of resampling
weights gives all intervals. Intervals are percentile bootstrap (Efron and Tibshirani 1993, chapter
13), 95 %; whole clusters are drawn: the two sides of a contrast pair stay together, and so do the
photos that one request met. The classes of the fleet are compared as sets of names;
`embervlm.scoring` says what "right" is.

Axes: N rows, C clusters, B resamples, K sums, O outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.scenario import Decision
from embervlm.scoring import exact, jaccard

RESAMPLES = 1000
CALIBRATION_BINS = 15
_LEVEL = (2.5, 97.5)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What a model said; None is what it does not say at all.

    `confidence` is the chance that the set is right, `ask` that it would rather have a person
    decide, `probabilities` the chance of each outcome.
    """

    robots: tuple[str, ...]
    primary: str
    environment: str | None = None
    confidence: float | None = None
    probabilities: Mapping[str, float] | None = None
    ask: bool | None = None

    @classmethod
    def of(cls, decision: Decision) -> Answer:
        """Take the answer out of a decision."""
        return cls(
            decision.robots,
            decision.primary,
            decision.environment,
            decision.confidence,
            decision.probabilities,
            decision.ask,
        )


@dataclass(frozen=True)
class Truth:
    """A request and its right answer.

    `id` names the request: rows with the same id (one request, several photos) are one cluster.
    `pair` names a contrast pair: two requests that differ in one deciding fact. `environment` None
    is not scored. `is_team`: the robots go together, each with a part of the job.
    """

    id: str
    task: str
    robots: tuple[str, ...]
    primary: str
    environment: str | None = None
    pair: str | None = None
    is_team: bool = False


@dataclass(frozen=True)
class Figure:
    """A value, its 95 % interval, and on how many rows it stands; NaN where it is undefined."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain JSON values, rounded; what is undefined is None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {
            **{key: None if np.isnan(x) else round(float(x), 4) for key, x in numbers.items()},
            "n": self.n,
        }


# A row of a table: figures by name; and a table: rows by name.
Row = dict[str, Figure]
Rows = dict[str, Row]


def truth_of(row: Mapping[str, Any]) -> Truth:
    """Turn a row of `scenarios.jsonl` or `plans.jsonl` into a truth."""
    robots = tuple(row["suited"])
    return Truth(
        row["id"],
        row["task"],
        robots,
        row.get("primary", robots[0]),
        row["environment"],
        row.get("pair"),
        row.get("kind") == "team" or len(row.get("plan", ())) > 1,
    )


def measure(
    answers: Sequence[Answer],
    truths: Sequence[Truth],
    *,
    outcomes: Sequence[str] = Fleet.default().outcomes,
    resamples: int = RESAMPLES,
    seed: int = 1,
) -> dict[str, Figure]:
    """Return every figure by name; those whose input is missing are left out.

    `exact_set` is the share of rows whose set is the true one; `jaccard` the mean overlap; `top1`
    the share whose first robot is in the true set, `primary` whose first robot is the true first
    one. For an outcome o, counted over the rows whose set holds it: precision = TP / (TP + FP),
    recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN), undefined (and left out of `macro_f1`)
    where the denominator is 0. `calibration_error` is `expected_calibration_error`. `pairs` is the
    share of contrast pairs with both sides exactly right. `answered` is the share that the model
    would not hand to a person, `error_answered` the share of wrong sets among them.

    Raises:
        ValueError: the lists are empty or differ in length.
    """
    if not answers or len(answers) != len(truths):
        raise ValueError(f"There are {len(answers)} answers to {len(truths)} truths.")
    ratios, counts = _ratios(answers, truths, outcomes)
    weights_BN = resampling_weights([t.pair or t.id for t in truths], resamples, seed)
    names = list(ratios)
    tops_NK = np.column_stack([ratios[name][0] for name in names])
    bottoms_NK = np.column_stack([ratios[name][1] for name in names])
    values_K = _divide(tops_NK.sum(0), bottoms_NK.sum(0))
    samples_BK = _divide(weights_BN @ tops_NK, weights_BN @ bottoms_NK)
    figures = {
        name: figure(values_K[k], samples_BK[:, k], counts.get(name, len(truths)))
        for k, name in enumerate(names)
    }
    f1 = [names.index(f"f1 {outcome}") for outcome in outcomes]
    figures["macro_f1"] = figure(
        _mean_defined(values_K[None, f1])[0], _mean_defined(samples_BK[:, f1]), len(truths)
    )
    confidences = [answer.confidence for answer in answers]
    if all(confidence is not None for confidence in confidences):
        confidence_N = np.array(confidences, dtype=np.float64)
        right_N = ratios["exact_set"][0]
        error = expected_calibration_error(confidence_N, right_N)
        samples = np.array([_resampled_error(confidence_N, right_N, row) for row in weights_BN])
        figures["calibration_error"] = figure(error, samples, len(truths))
    return figures


def share(
    right: Sequence[bool],
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 1,
) -> Figure:
    """Return the share of True, NaN of nothing; rows of one cluster are drawn together."""
    if not right:
        return Figure(float("nan"), float("nan"), float("nan"), 0)
    weights_BN = resampling_weights(clusters, resamples, seed)
    right_N = np.array(right, dtype=np.float64)
    samples = _divide(weights_BN @ right_N, weights_BN.sum(1))
    return figure(right_N.mean(), samples, len(right))


def expected_calibration_error(
    confidence_N: Floats, right_N: Floats, bins: int = CALIBRATION_BINS
) -> float:
    """Return the expected calibration error over bins of equal mass.

    Rows are sorted by confidence and cut into `bins` runs whose sizes differ by at most one:
    ECE = sum_b (n_b / N) |mean confidence in b - share right in b| (Naeini et al. 2015; equal mass:
    Nguyen and O'Connor 2015). It is 0 at best, and biased upwards where bins are small.
    """
    order, edges = _equal_mass(confidence_N, bins)
    sums = np.add.reduceat((confidence_N - right_N)[order], edges)
    return float(np.abs(sums).sum() / len(order))


@dataclass(frozen=True)
class CalibrationBin:
    """One bin of `expected_calibration_error`: its rows' mean confidence, and the share right."""

    confidence: float
    right: float
    n: int


def calibration_bins(
    confidence_N: Floats, right_N: Floats, bins: int = CALIBRATION_BINS
) -> list[CalibrationBin]:
    """Return the bins over which `expected_calibration_error` goes, the least sure first."""
    order, edges = _equal_mass(confidence_N, bins)
    counts = np.diff(np.append(edges, len(order)))
    means = np.add.reduceat(confidence_N[order], edges) / counts
    shares = np.add.reduceat(right_N[order], edges) / counts
    return [
        CalibrationBin(float(mean), float(right), int(n))
        for mean, right, n in zip(means, shares, counts, strict=True)
    ]


def first_robot_confusion(
    answers: Sequence[Answer], truths: Sequence[Truth], outcomes: Sequence[str]
) -> NDArray[np.int64]:
    """Return (O, O): how often the true first robot (row) was answered as another (column)."""
    counts_OO = np.zeros((len(outcomes), len(outcomes)), dtype=np.int64)
    for answer, truth in zip(answers, truths, strict=True):
        counts_OO[outcomes.index(truth.primary), outcomes.index(answer.primary)] += 1
    return counts_OO


def presence_confusion(
    answers: Sequence[Answer], truths: Sequence[Truth], outcomes: Sequence[str]
) -> NDArray[np.int64]:
    """Return (O, 2, 2): how often each outcome is in the true set (row: no, yes) and in the
    answered one (column: no, yes)."""
    counts_O22 = np.zeros((len(outcomes), 2, 2), dtype=np.int64)
    for answer, truth in zip(answers, truths, strict=True):
        for o, outcome in enumerate(outcomes):
            counts_O22[o, int(outcome in truth.robots), int(outcome in answer.robots)] += 1
    return counts_O22


def resampling_weights(clusters: Sequence[str], resamples: int, seed: int) -> Floats:
    """Return (B, N): how often each row is drawn when whole clusters are drawn with replacement."""
    _, cluster_N = np.unique(np.array(clusters), return_inverse=True)
    C = int(cluster_N.max()) + 1
    drawn_BC = np.random.default_rng(seed).multinomial(C, np.full(C, 1 / C), size=resamples)
    return drawn_BC[:, cluster_N].astype(np.float64)


def _ratios(
    answers: Sequence[Answer], truths: Sequence[Truth], outcomes: Sequence[str]
) -> tuple[dict[str, tuple[Floats, Floats]], dict[str, int]]:
    """Return each name's numerators and denominators by row; and the n of those not over all."""
    both = list(zip(answers, truths, strict=True))
    ones = np.ones(len(truths))

    def each(values: Sequence[float | bool]) -> Floats:
        return np.array(values, dtype=np.float64)

    right = each([exact(a.robots, t.robots) for a, t in both])
    ratios = {
        "exact_set": (right, ones),
        "jaccard": (each([jaccard(a.robots, t.robots) for a, t in both]), ones),
        "top1": (each([a.primary in t.robots for a, t in both]), ones),
        "primary": (each([a.primary == t.primary for a, t in both]), ones),
    }
    counts: dict[str, int] = {}
    placed = each([a.environment is not None and t.environment is not None for a, t in both])
    if placed.any():
        same = each([a.environment == t.environment for a, t in both])
        ratios["environment"] = (same * placed, placed)
        counts["environment"] = int(placed.sum())
    for outcome in outcomes:
        said = each([outcome in a.robots for a, _ in both])
        true = each([outcome in t.robots for _, t in both])
        hit = said * true
        ratios[f"precision {outcome}"] = (hit, said)
        ratios[f"recall {outcome}"] = (hit, true)
        ratios[f"f1 {outcome}"] = (2 * hit, said + true)
        counts[f"precision {outcome}"] = int(said.sum())
        counts[f"recall {outcome}"] = counts[f"f1 {outcome}"] = int(true.sum())
    if NO_ROBOT in outcomes:
        for figure in ("precision", "recall"):
            ratios[f"no_robot_{figure}"] = ratios[f"{figure} {NO_ROBOT}"]
            counts[f"no_robot_{figure}"] = counts[f"{figure} {NO_ROBOT}"]
    pairs: dict[str, list[int]] = {}
    for i, truth in enumerate(truths):
        if truth.pair is not None:
            pairs.setdefault(truth.pair, []).append(i)
    whole = [rows for rows in pairs.values() if len(rows) > 1]
    if whole:
        # A pair is one cluster, so its figure may stand on the first of its rows.
        first, both_right = np.zeros(len(truths)), np.zeros(len(truths))
        for rows in whole:
            first[rows[0]] = 1.0
            both_right[rows[0]] = right[rows].min()
        ratios["pairs"] = (both_right, first)
        counts["pairs"] = len(whole)
    if all(a.ask is not None for a in answers):
        kept = each([not a.ask for a in answers])
        ratios["answered"] = (kept, ones)
        ratios["error_answered"] = (kept * (1 - right), kept)
        counts["error_answered"] = int(kept.sum())
    return ratios, counts


def _equal_mass(confidence_N: Floats, bins: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows in order of confidence, and where each bin begins among them."""
    order = np.argsort(confidence_N, kind="stable")
    edges = np.linspace(0, len(order), min(bins, len(order)) + 1).round().astype(np.int64)
    return order, edges[:-1]


def _resampled_error(confidence_N: Floats, right_N: Floats, weights_N: Floats) -> float:
    drawn = np.repeat(np.arange(len(weights_N)), weights_N.astype(int))
    return expected_calibration_error(confidence_N[drawn], right_N[drawn])


def _divide(top: Floats, bottom: Floats) -> Floats:
    quotient: Floats = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return quotient


def _mean_defined(values_BO: Floats) -> Floats:
    defined = ~np.isnan(values_BO)
    return _divide(np.where(defined, values_BO, 0.0).sum(1), defined.sum(1).astype(np.float64))


def figure(value: float, samples: Floats, n: int) -> Figure:
    """Return a value with the interval that its resampled values give."""
    defined = samples[~np.isnan(samples)]
    low, high = np.percentile(defined, _LEVEL) if len(defined) else (np.nan, np.nan)
    return Figure(float(value), float(low), float(high), n)
