"""Is this model better than the last release, or was it luck? Two reports over the same requests.

    embervlm eval --split validation --against last/report.json --json now.json

Each report holds, for each of its lists of cases, a "1" for an exactly right set and a "0" for a
wrong one, in the order of the list, and a digest of the cases, so that only like is held against
like. Two tests of paired answers:

- the change of the share right with a paired bootstrap interval: whole clusters are drawn, and with
  a row come both its answers (Efron and Tibshirani 1993, chapter 13);
- exact McNemar (McNemar 1947): of the b + c rows that one alone has right, b and c come from a fair
  coin if both are as good: p = min(1, 2 sum_{k <= min(b, c)} C(b + c, k) / 2^(b + c)).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.evaluation.cases import SEED, Answered
from embervlm.evaluation.metrics import RESAMPLES, Figure, Row, Rows, figure, resampling_weights
from embervlm.scoring import exact

_NONE = float("nan")


def rightness(answered: Sequence[Answered]) -> dict[str, str]:
    """Return "rows", a digest of the cases' ids and places in order, "cases", one of their words
    and true robots too, and "right", their string."""
    truths = [one.case.truth for one in answered]
    names = "\n".join(f"{truth.id} {truth.environment}" for truth in truths)
    cases = json.dumps([[t.id, t.environment, t.task, sorted(t.robots)] for t in truths])
    right = (exact(one.decision.robots, one.case.truth.robots) for one in answered)
    return {
        "rows": hashlib.sha256(names.encode()).hexdigest()[:16],
        "cases": hashlib.sha256(cases.encode()).hexdigest()[:16],
        "right": "".join("1" if is_right else "0" for is_right in right),
    }


def read_rightness(path: Path, split: str) -> dict[str, dict[str, str]]:
    """Return what a report says of each of its lists of cases.

    Raises:
        ValueError: it cannot be read, is of another split, or holds no such strings.
    """
    try:
        report: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a report ({error}).") from error
    if not isinstance(report, dict) or not _says_right(report.get("right")):
        raise ValueError(
            f"{path} does not say which answers were right; make it anew with 'embervlm eval'."
        )
    about = report.get("about")
    its_split = about.get("split") if isinstance(about, dict) else None
    if its_split != split:
        raise ValueError(
            f"{path} is of the split {its_split}, this is {split}; compare reports of one split."
        )
    found: dict[str, dict[str, str]] = report["right"]
    return found


def _says_right(right: Any) -> bool:
    return isinstance(right, dict) and all(
        isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("rows", "right"))
        for one in right.values()
    )


def change_rows(
    lists: Mapping[str, Sequence[Answered]], before: Mapping[str, Mapping[str, str]]
) -> tuple[Rows, dict[str, str]]:
    """Return a row for each list that both have, and why the others are not compared."""
    rows: Rows = {}
    missing: dict[str, str] = {}
    for name, answered in lists.items():
        now = rightness(answered)
        # An older report has no digest of words and robots.
        digest = "cases" if "cases" in before.get(name, {}) else "rows"
        if name not in before:
            missing[f"change of {name}"] = "the earlier report has no such list"
        elif before[name][digest] != now[digest]:
            missing[f"change of {name}"] = "the earlier report has other cases"
        else:
            clusters = [one.case.truth.pair or one.case.truth.id for one in answered]
            rows[name] = change(before[name]["right"], now["right"], clusters)
    return rows, missing


def change(before: str, now: str, clusters: Sequence[str], seed: int = SEED) -> Row:
    """Return the figures of two strings of the same rows.

    `before` and `exact_set` are the shares right, `change` the second less the first; `only_now`
    and `only_before` how many rows one alone has right, `p_mcnemar` how likely so uneven a split of
    them is if both are as good.
    """
    before_N = np.array([mark == "1" for mark in before], dtype=np.float64)
    now_N = np.array([mark == "1" for mark in now], dtype=np.float64)
    weights_BN = resampling_weights(clusters, RESAMPLES, seed)
    n = len(now)

    def mean(values_N: Any) -> Figure:
        return figure(values_N.mean(), weights_BN @ values_N / weights_BN.sum(1), n)

    gained, lost = int((now_N > before_N).sum()), int((now_N < before_N).sum())
    return {
        "before": mean(before_N),
        "exact_set": mean(now_N),
        "change": mean(now_N - before_N),
        "only_now": Figure(gained / n, _NONE, _NONE, gained),
        "only_before": Figure(lost / n, _NONE, _NONE, lost),
        "p_mcnemar": Figure(mcnemar(gained, lost), _NONE, _NONE, gained + lost),
    }


def mcnemar(b: int, c: int) -> float:
    """Return the two-sided p of exact McNemar, 1 where no row differs.

    >>> mcnemar(1, 5)
    0.21875
    """
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))
    p: float = min(1.0, 2 * tail / 2**n)
    return p
