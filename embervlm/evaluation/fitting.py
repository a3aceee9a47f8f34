"""Single numbers fitted on what a network said: a temperature, how sure an answer is, thresholds.

`evaluation/calibration.py` says which of them a model file keeps.

Axes: N requests, S sets or signs, D numbers of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MAX_ERROR_ANSWERED = 0.10
MAX_SHARE_CONFUSED = 0.01

Floats = NDArray[np.float64]


def fit_temperature(logits_NS: Floats, true_N: NDArray[np.int64]) -> float:
    """Return the temperature T that minimises the mean of -log softmax(logits / T)[true set].

    The loss is convex in 1 / T, so a golden-section search over 0.1 <= 1 / T <= 10 finds it (Guo et
    al. 2017).
    """
    return 1 / lowest(lambda inverse: mean_loss(logits_NS * inverse, true_N), 0.1, 10.0, 1e-7)


def mean_loss(logits_NS: Floats, true_N: NDArray[np.int64]) -> float:
    """Return the mean of -log softmax(logits)[true set]."""
    scaled = logits_NS - logits_NS.max(1, keepdims=True)
    of_true = scaled[np.arange(len(true_N)), true_N]
    return float((np.log(np.exp(scaled).sum(1)) - of_true).mean())


def lowest(loss: Callable[[float], float], low: float, high: float, width: float) -> float:
    """Return where a function with one valley is lowest, to `width`, by golden-section search."""
    golden = (math.sqrt(5) - 1) / 2
    while high - low > width:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def fit_confidence(signs_NS: Floats, right_N: Floats) -> tuple[Floats, float]:
    """Return (weights, shift) of P(right) = 1 / (1 + exp(-(signs @ weights + shift))).

    Maximum likelihood by Newton's method; the targets are Platt's (1999), (N+ + 1) / (N+ + 2) and 1
    / (N- + 2), so that the optimum is finite where the two kinds can be told apart without fault.
    """
    good = float(right_N.sum())
    bad = len(right_N) - good
    target_N = np.where(right_N > 0, (good + 1) / (good + 2), 1 / (bad + 2))
    inputs_NI = np.column_stack([signs_NS, np.ones(len(signs_NS))])

    def loss(weights: Floats) -> float:
        z = inputs_NI @ weights
        return float((np.logaddexp(0.0, z) - target_N * z).sum() + 1e-6 * weights @ weights)

    weights = np.zeros(inputs_NI.shape[1])
    weights[-1] = math.log((good + 1) / (bad + 1))
    for _ in range(100):
        p = 1 / (1 + np.exp(-(inputs_NI @ weights)))
        slope = inputs_NI.T @ (p - target_N) + 2e-6 * weights
        curvature = (inputs_NI * (p * (1 - p))[:, None]).T @ inputs_NI
        curvature += 2e-6 * np.eye(len(weights))
        step, size = np.linalg.solve(curvature, slope), 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return weights[:-1], float(weights[-1])


def answer_from(
    confidence_N: Floats, right_N: Floats, max_error: float = MAX_ERROR_ANSWERED
) -> float:
    """Return the lowest confidence from which on at most `max_error` of the answers are wrong.

    Rounded down to six decimals. If no confidence will do it is 1.0: a person decides everything.
    """
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N, wrong_N = confidence_N[order], np.cumsum(1 - right_N[order])
    last_of_equals = np.append(sorted_N[1:] < sorted_N[:-1], True)
    enough = last_of_equals & (wrong_N <= max_error * np.arange(1, len(order) + 1) + 1e-9)
    if not enough.any():
        return 1.0
    return math.floor(float(sorted_N[np.flatnonzero(enough)[-1]]) * 1e6) / 1e6


def same_request(
    embeddings_ND: NDArray[np.float32],
    answers_N: NDArray[np.int64],
    share: float = MAX_SHARE_CONFUSED,
) -> float:
    """Return a cosine that at most `share` of the pairs with different answers reach; six decimals.

    1.0 if there are no such pairs.
    """
    unit_ND = embeddings_ND / np.maximum(np.linalg.norm(embeddings_ND, axis=1, keepdims=True), 1e-9)
    first, second = np.triu_indices(len(unit_ND), 1)
    differ = answers_N[first] != answers_N[second]
    if not differ.any():
        return 1.0
    cosines = np.sort((unit_ND @ unit_ND.T)[first[differ], second[differ]].astype(np.float64))[::-1]
    highest_left_out = float(cosines[min(int(share * len(cosines)), len(cosines) - 1)])
    return math.floor(highest_left_out * 1e6 + 1) / 1e6
