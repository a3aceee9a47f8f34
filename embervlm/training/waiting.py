"""Fit how much each sign and n-gram of `embervlm.waiting` counts, on the written plans of the
training split.

    python -m embervlm.training.waiting --out embervlm/weights/waiting.npz

It prints what they are worth: F1 over pairs of steps on five folds of the training split and on
validation, beside the simplest rule, that each step waits for the one in front of it. Logistic
regression with an L2 penalty, whose strength was chosen on the folds.

Axes: N pairs of steps, F signs, R rows of the table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from embervlm.data.sample import outcome_index
from embervlm.data.scenarios import load
from embervlm.prompts import one_line
from embervlm.splitting import pieces_of
from embervlm.training.told import as_told, piece_scores
from embervlm.waiting import ROWS, Stand, Weights, features, ngrams, rarities

PENALTY = 0.05
# The penalty falls this much less on the signs, which are few.
SIGN_SCALE = 2.0
FOLDS = 5
CHANCES = (0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Pairs:
    """All pairs of steps of some plans: signs and n-grams side by side (N, F + R), whether the
    later waits (N,), and the plan they are of (N,)."""

    inputs_NI: sparse.csr_matrix
    waits_N: NDArray[np.bool_]
    plan_N: NDArray[np.int64]

    def side_by_side(self) -> NDArray[np.bool_]:
        """Return which pairs stand one right behind the other, (N,)."""
        return np.asarray(self.inputs_NI[:, 0].toarray()[:, 0] > 0)


def stand_of(
    row: Mapping[str, Any], rarity: Mapping[str, float]
) -> tuple[Stand, list[dict[str, Any]]]:
    """Return where a written plan's steps stand, and its steps in the order of telling: each in the
    pieces that have its rarer words."""
    task = one_line(row["task"])
    score_KP = piece_scores(task, [step["subtask"] for step in row["plan"]], rarity)
    order = as_told([int(row.argmax()) if row.any() else None for row in score_KP])
    new = {old: k for k, old in enumerate(order)}
    steps = [{**row["plan"][k], "after": {new[j] for j in row["plan"][k]["after"]}} for k in order]
    score_KP = score_KP[order]
    owner_P = np.where(score_KP.max(0) > 0, score_KP.argmax(0), -1)
    stand = Stand(
        [task[a:b] for a, b in pieces_of(task)],
        [int(score_P.argmax()) for score_P in score_KP],
        [frozenset(np.flatnonzero(owner_P == k).tolist()) for k in range(len(steps))],
        [frozenset(step["actions"]) for step in steps],
        [outcome_index(step["robot"]) for step in steps],
    )
    return stand, steps


def pairs_of(rows: Sequence[Mapping[str, Any]], rarity: Mapping[str, float]) -> Pairs:
    """Return all pairs of steps of written plans; their rarer words tell where a step stands."""
    signs, found, waits, number = [], [], [], []
    for i, row in enumerate(rows):
        stand, steps = stand_of(row, rarity)
        for later, step in enumerate(steps):
            for earlier in (j for j in range(len(steps)) if j != later):
                signs.append(features(stand, later, earlier))
                found.append(ngrams(stand, later, earlier))
                waits.append(earlier in step["after"])
                number.append(i)
    starts = np.cumsum([0, *map(len, found)])
    rows_NR = sparse.csr_matrix(
        (np.ones(starts[-1]), np.concatenate(found), starts), shape=(len(found), ROWS)
    )
    signs_NF = sparse.csr_matrix(SIGN_SCALE * np.array(signs))
    return Pairs(sparse.hstack([signs_NF, rows_NR]).tocsr(), np.array(waits), np.array(number))


def fit(
    inputs_NI: sparse.csr_matrix, waits_N: NDArray[np.bool_], penalty: float = PENALTY
) -> NDArray[np.float64]:
    """Return the weights, (F + R,); the last sign is the bias."""
    model = LogisticRegression(
        C=penalty, fit_intercept=False, solver="liblinear", max_iter=1000, random_state=0
    )
    weights_I: NDArray[np.float64] = model.fit(inputs_NI, waits_N).coef_[0]
    return weights_I


def fold_odds(pairs: Pairs, penalty: float = PENALTY) -> NDArray[np.float64]:
    """Return the log-odds of each pair, (N,), by weights fitted on the other folds."""
    odds_N = np.zeros(len(pairs.waits_N))
    for fold in range(FOLDS):
        inside = pairs.plan_N % FOLDS == fold
        weights_I = fit(pairs.inputs_NI[~inside], pairs.waits_N[~inside], penalty)
        odds_N[inside] = pairs.inputs_NI[inside] @ weights_I
    return odds_N


def f1(said_N: NDArray[np.bool_], true_N: NDArray[np.bool_]) -> float:
    """Return the harmonic mean of precision and recall."""
    return float(2 * (said_N & true_N).sum() / max(1, said_N.sum() + true_N.sum()))


def _by_chance(odds_N: NDArray[np.float64], true_N: NDArray[np.bool_]) -> dict[str, float]:
    """Return F1 for each chance from which on a step waits."""
    return {str(c): round(f1(odds_N > math.log(c / (1 - c)), true_N), 3) for c in CHANCES}


def main() -> None:
    """Fit, write the weights and print their worth."""
    parser = argparse.ArgumentParser(description="Fit what says that a step waits for another.")
    parser.add_argument("--out", type=Path, help="the file to write; none: only print")
    out: Path | None = parser.parse_args().out
    rarity = rarities([row["task"] for row in load("plans", "train")])
    train, held_out = (pairs_of(load("plans", split), rarity) for split in ("train", "validation"))
    weights_I = fit(train.inputs_NI, train.waits_N)
    if out is not None:
        signs_F = weights_I[:-ROWS] * SIGN_SCALE
        Weights(signs_F.astype(np.float32), weights_I[-ROWS:].astype(np.float32)).save(out)
    report = {
        "pairs": len(train.waits_N),
        "folds": _by_chance(fold_odds(train), train.waits_N),
        "validation": _by_chance(held_out.inputs_NI @ weights_I, held_out.waits_N),
        "each waits for the one before": {
            "folds": round(f1(train.side_by_side(), train.waits_N), 3),
            "validation": round(f1(held_out.side_by_side(), held_out.waits_N), 3),
        },
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
