"""Two reports are compared as SciPy would, and never where they are of other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embervlm.evaluation.run import run
from embervlm.evaluation.significance import change, mcnemar, read_rightness


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 5), (5, 1), (7, 7), (40, 22), (0, 9)])
def test_mcnemar_is_a_sign_test(b: int, c: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(min(b, c), b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected)


def test_change_counts_what_one_alone_has_right() -> None:
    before, now = "1100110010", "1110100011"
    row = change(before, now, [str(i) for i in range(10)])
    assert row["before"].value == 0.5
    assert row["exact_set"].value == 0.6
    assert row["change"].value == pytest.approx(0.1)
    assert (row["only_now"].n, row["only_before"].n) == (2, 1)
    assert row["p_mcnemar"].value == 1.0


def test_paired_interval_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    drawn = np.random.default_rng(5)
    before_N, now_N = drawn.random((2, 300)) < np.array([[0.7], [0.8]])
    marks = ["".join("1" if x else "0" for x in row) for row in (before_N, now_N)]
    ours = change(marks[0], marks[1], [str(i) for i in range(300)])["change"]
    theirs = stats.bootstrap(
        (now_N.astype(float), before_N.astype(float)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True, vectorized=True, method="percentile", n_resamples=5000, rng=drawn,
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)


def test_report_against_itself_has_not_changed(
    small_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    parts = ["requests"]
    run("validation", tiny_model, "reference", None, first, False, parts)
    run("validation", tiny_model, "reference", None, second, False, parts, against=first)
    report: dict[str, Any] = json.loads(second.read_text("utf-8"))
    row = report["tables"]["change against the earlier report"]["requests and plans"]
    assert row["change"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 16}
    assert row["p_mcnemar"]["value"] == 1.0
    other = json.loads(first.read_text("utf-8"))
    mark = other["right"]["requests and plans"]

    def unlike() -> str | None:
        first.write_text(json.dumps(other), "utf-8")
        run("validation", tiny_model, "reference", None, second, False, parts, against=first)
        why: dict[str, str] = json.loads(second.read_text("utf-8"))["not measured"]
        return why.get("change of requests and plans")

    data = small_data.with_name("data") / "scenarios.jsonl"
    whole = data.read_text("utf-8")
    for before, after in (("at the roof, val", "at roofs, val"), ('["Drone"]', '["Humanoid"]')):
        data.write_text(whole.replace(before, after), "utf-8")
        assert unlike() == "the earlier report has other cases", "the same ids, another request"
    del mark["cases"]
    assert unlike() is None, "an older report has a digest of ids alone"
    mark["rows"] = "0" * 16
    assert unlike() == "the earlier report has other cases"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a report"),
        ('{"tables": {}}', "does not say which answers were right"),
        ('{"right": {"requests": {}}}', "does not say which answers were right"),
        ('{"right": {}, "about": []}', "is of the split None, this is validation"),
        ('{"right": {}, "about": {"split": "test"}}', "is of the split test, this is validation"),
    ],
)
def test_reports_that_cannot_be_compared_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "old.json"
    file.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        read_rightness(file, "validation")
