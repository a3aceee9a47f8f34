"""Fit how much each sign of `embervlm.waiting` counts, on the written plans of the training split.

    python -m embervlm.training.waiting          # prints the weights, and what they are worth

Logistic regression with an L2 penalty; F1 over pairs of steps on five folds of the training split
and on validation, beside the simplest rule, that each step waits for the one in front of it.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from embervlm.data.sample import outcome_index
from embervlm.data.scenarios import load
from embervlm.prompts import one_line
from embervlm.splitting import pieces_of
from embervlm.waiting import FEATURES, Stand, features, stems

PENALTY = 0.3
FOLDS = 5
CHANCES = (0.3, 0.4, 0.5)


def stand_of(row: Mapping[str, Any], seen: Counter[str]) -> Stand:
    """Return where a written plan's steps stand: in the pieces that have their rarer words."""
    task, steps = one_line(row["task"]), row["plan"]
    pieces = [task[a:b] for a, b in pieces_of(task)]
    found = [set(stems(piece)) for piece in pieces]
    score_KP = np.array(
        [
            [
                sum(math.log(900 / seen[w]) for w in set(stems(s["subtask"])) & f if seen[w])
                for f in found
            ]
            for s in steps
        ]
    )
    owner_P = np.where(score_KP.max(0) > 0, score_KP.argmax(0), -1)
    return Stand(
        pieces,
        [int(score_P.argmax()) for score_P in score_KP],
        [frozenset(np.flatnonzero(owner_P == k).tolist()) for k in range(len(steps))],
        [frozenset(step["actions"]) for step in steps],
        [outcome_index(step["robot"]) for step in steps],
    )


def pairs_of(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return the signs (N, F) of all pairs of steps, whether the later waits, and their row."""
    seen = Counter(word for row in rows for word in set(stems(row["task"])))
    signs, waits, number = [], [], []
    for i, row in enumerate(rows):
        stand = stand_of(row, seen)
        for later, step in enumerate(row["plan"]):
            for earlier in range(later):
                signs.append(features(stand, later, earlier))
                waits.append(earlier in step["after"])
                number.append(i)
    return np.array(signs), np.array(waits), np.array(number)


def fit(signs_NF: NDArray[np.float64], waits_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weights (F,); the last sign is the bias."""
    model = LogisticRegression(C=PENALTY, fit_intercept=False, max_iter=1000)
    weights: NDArray[np.float64] = model.fit(signs_NF, waits_N).coef_[0]
    return weights


def f1(said_N: NDArray[np.bool_], true_N: NDArray[np.bool_]) -> float:
    """Return the harmonic mean of precision and recall."""
    return float(2 * (said_N & true_N).sum() / max(1, said_N.sum() + true_N.sum()))


def _by_chance(odds_N: NDArray[np.float64], true_N: NDArray[np.bool_]) -> dict[str, float]:
    """Return F1 for each chance from which on a step waits."""
    return {str(c): round(f1(odds_N > math.log(c / (1 - c)), true_N), 3) for c in CHANCES}


def main() -> None:
    """Fit, and print the weights and their worth."""
    signs_NF, waits_N, number_N = pairs_of(load("plans", "train"))
    held_out_NF, true_N, _ = pairs_of(load("plans", "validation"))
    weights = fit(signs_NF, waits_N)
    crossed_N = np.zeros(len(waits_N))
    for fold in range(FOLDS):
        inside = number_N % FOLDS == fold
        crossed_N[inside] = signs_NF[inside] @ fit(signs_NF[~inside], waits_N[~inside])
    report = {
        "weights": dict(zip(FEATURES, np.round(weights, 2).tolist(), strict=True)),
        "pairs": len(waits_N),
        "folds": _by_chance(crossed_N, waits_N),
        "validation": _by_chance(held_out_NF @ weights, true_N),
        "each waits for the one before": {
            "folds": round(f1(signs_NF[:, 0] > 0, waits_N), 3),
            "validation": round(f1(held_out_NF[:, 0] > 0, true_N), 3),
        },
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
