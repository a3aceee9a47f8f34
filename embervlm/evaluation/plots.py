"""Every picture of a report or of a run, from the files that they leave behind.

    embervlm plot report.json --out pictures [--metrics run/metrics.jsonl]

writes PNG and SVG: `first-robot`, `per-robot`, `in-the-set`, `by-kind`, `reliability`,
`risk-coverage`, `damage`, and `curves` of the run. A report that lacks what a picture shows,
because that part was not asked for, gives the others. Matplotlib is imported when something is
drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.evaluation.metrics import CalibrationBin

CURVES = "curves"
# The file of each picture, without its ending, and what it shows; in the order of a report.
PICTURES = {
    "per-robot": "Precision, recall and F1 of each robot, with 95 % intervals",
    "first-robot": "Which robot was answered first, against which is truly first",
    "in-the-set": "How often each robot is wanted, and how often it is sent",
    "by-kind": "Exactly right sets by kind of request, with 95 % intervals",
    "reliability": "How sure the model is, against how often it is right",
    "risk-coverage": "How wrong the answers are that are kept, against how many are kept",
    "damage": "How often typos and damage to the photo change a decision, with 95 % intervals",
    CURVES: "Losses and exact sets over the steps of training",
}
_REQUESTS, _KINDS, _MODEL = "requests and plans", "embervlm by kind of request", "embervlm"
_DAMAGE = ("requests with typos", "photos that are damaged")


def plot(result: Path, out: Path, metrics: Path | None = None) -> list[Path]:
    """Draw what `result`, a report, and `metrics`, a run's log, hold; return the PNG files.

    Raises:
        ValueError: a file is missing or not what it should be, or there is nothing to draw.
    """
    report = _read_report(result)
    history = _read_log(metrics) if metrics is not None else []
    drawn = draw_report(report, out, history)
    if not drawn:
        raise ValueError(
            f"{result} holds nothing that is drawn; make it with "
            "'embervlm eval --only requests --only calibration --json FILE'."
        )
    return drawn


def draw_report(
    report: Mapping[str, Any], out: Path, history: Sequence[Mapping[str, Any]] = ()
) -> list[Path]:
    """Draw what a report and a run's log hold into `out`; return the PNG files, the SVG beside.

    Raises:
        ValueError: Matplotlib is not installed.
    """
    check_matplotlib()
    from embervlm.evaluation import pictures

    out.mkdir(parents=True, exist_ok=True)
    split = report["about"]["split"]
    of = {name: out / name for name in PICTURES}
    row = report["tables"].get(_REQUESTS, {}).get(_MODEL)
    if row is not None:
        outcomes = [name.removeprefix("f1 ") for name in row if name.startswith("f1 ")]
        figures = {
            name: {
                label: row[f"{key} {name}"]
                for label, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))
            }
            for name in outcomes
        }
        title = f"Each robot in the set: {split}, {row['exact_set']['n']:,} requests"
        pictures.draw_per_robot(figures, of["per-robot"], title)
    kinds = {name: one["exact_set"] for name, one in report["tables"].get(_KINDS, {}).items()}
    if kinds:
        bars = {"all requests": row["exact_set"], **kinds} if row else kinds
        title = f"By kind of request: {split}"
        pictures.draw_bars(bars, of["by-kind"], title, "exactly right sets")
    flips = {
        name: one["flipped"]
        for table in _DAMAGE
        for name, one in report["tables"].get(table, {}).items()
    }
    if flips:
        title = f"What changes decisions: {split}"
        pictures.draw_bars(flips, of["damage"], title, "decisions with another set")
    points = report.get("points", {})
    if points:
        outcomes, first = points["outcomes"], np.array(points["first robot"])
        pictures.draw_confusion(first, outcomes, of["first-robot"], f"First robot: {split}")
        held = np.array(points["in the set"])
        pictures.draw_presence(held, outcomes, of["in-the-set"], f"Robots in the set: {split}")
        error = report["tables"]["calibration"][_MODEL]["calibration_error"]["value"]
        bins = [CalibrationBin(**one) for one in points["bins"]]
        title = f"How sure, how often right: {split}"
        pictures.draw_reliability(bins, error, of["reliability"], title)
        pictures.draw_risk_coverage(
            points["risk and coverage"],
            points["area under risk and coverage"],
            points["area if ranked at best"],
            of["risk-coverage"],
            f"What may be kept: {split}",
        )
    draw_log(history, of[CURVES], "Training")
    return [path for name in PICTURES if (path := out / f"{name}.png").is_file()]


def check_matplotlib() -> None:
    """Raise a ValueError that says what to install, unless Matplotlib is there."""
    if find_spec("matplotlib") is None:
        raise ValueError("Pictures need Matplotlib: pip install 'embervlm[train]'.")


def draw_log(history: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw what a trainer's log holds: the losses, each part, and the exact sets; nothing where it
    holds no losses."""
    from embervlm.evaluation.pictures import draw_curves

    def points(name: str) -> list[tuple[int, float]]:
        return [(line["step"], line[name]) for line in history if name in line]

    names = [key for line in history for key in line if key == "loss" or key.startswith("loss_")]
    panels = {
        name.replace("_", " "): {"training": points(name), "validation": points(f"eval_{name}")}
        for name in dict.fromkeys(names)
    }
    panels["exact set"] = {"requests": points("eval_exact"), "photos": points("eval_photo_exact")}
    kept = {
        panel: {label: found for label, found in lines.items() if found}
        for panel, lines in panels.items()
    }
    kept = {panel: lines for panel, lines in kept.items() if lines}
    if kept:
        draw_curves(kept, path, f"{title}: losses and exact sets, with the last of each")


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a report ({error}).") from error
    if not isinstance(report, dict) or not {"about", "tables"} <= set(report):
        raise ValueError(
            f"{path} is not a report; make one with 'embervlm eval --json FILE' and give its path."
        )
    return report


def _read_log(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a run's log ({error}).") from error
    if not all(isinstance(line, dict) and "step" in line for line in lines):
        raise ValueError(f"{path} is not a run's log; give the metrics.jsonl of a run's folder.")
    return lines
