"""Every picture of a report or of a run, from the files that they leave behind.

    embervlm plot report.json --out pictures [--metrics run/metrics.jsonl] [--run run]
        [--beside other/report.json]

writes those of `PICTURES` as PNG and SVG. A report that lacks what a picture shows, because that
part was not asked for, gives the others. `--run` is the folder of a run or of several stages, of
which `run_history` reads the logs and sessions. Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.evaluation.metrics import CalibrationBin
from embervlm.evaluation.run_history import (
    Stage,
    energy_of,
    last_figures,
    memory_curves,
    read_log,
    read_run,
)

CURVES = "curves"
# The file of each picture, without its ending, and what it shows; in the order of a report.
PICTURES = {
    "per-robot": "Precision, recall and F1 of each robot, with 95 % intervals",
    "radar": "Precision, recall and F1 of each robot as a radar",
    "first-robot": "Which robot was answered first, against which is truly first",
    "in-the-set": "How often each robot is wanted, and how often it is sent",
    "by-kind": "Exactly right sets by kind of request, with 95 % intervals",
    "reliability": "How sure the model is, against how often it is right",
    "risk-coverage": "How wrong the answers are that are kept, against how many are kept",
    "damage": "How often typos and damage to the photo change a decision, with 95 % intervals",
    "fairness": "Exactly right sets by place and by source, the worst first, with 95 % intervals",
    "reasoning": "What is right of each step of the reasoning, with 95 % intervals",
    "cited-facts": "How often an answer follows a cited fact that is made false",
    "pareto": "Exactly right sets of each format against its size, time and memory",
    "parameters": "Exactly right sets of several models against their parameters",
    CURVES: "Losses and exact sets over the steps of training",
    "progression": "The last figures of each stage of training",
    "stages": "Losses of all stages of training",
    "energy": "The energy of training over its sessions",
    "memory-use": "The slots of the episodic memory in use over the steps of training",
}
_REQUESTS, _KINDS, _MODEL = "requests and plans", "embervlm by kind of request", "embervlm"
_FAIR = {
    "exact sets by place": "requests, ",
    "photo requests by place": "photos, ",
    "photo requests by source of the photo": "photos of ",
}
_DAMAGE = ("requests with typos", "photos that are damaged")


def plot(
    result: Path,
    out: Path,
    metrics: Path | None = None,
    run: Path | None = None,
    beside: Sequence[Path] = (),
) -> list[Path]:
    """Draw what `result`, a report, `metrics`, a run's log, and `run`, its folder, hold, and
    `beside`, the reports of other models; return the PNG files.

    Raises:
        ValueError: a file is missing or not what it should be, or there is nothing to draw.
    """
    report = _read_report(result)
    history = read_log(metrics) if metrics is not None else []
    stages = read_run(run) if run is not None else []
    with _as_whole(result):
        drawn = draw_report(report, out, history)
    with _as_whole(run):
        drawn += draw_run(stages, out)
    with _as_whole(*beside):
        drawn += draw_beside([report, *map(_read_report, beside)], out)
    if not drawn:
        raise ValueError(
            f"{result} holds nothing that is drawn; make it with "
            "'embervlm eval --only requests --only calibration --json FILE'."
        )
    return sorted(drawn, key=lambda path: list(PICTURES).index(path.stem))


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
    split, tables = report["about"]["split"], report["tables"]
    of = {name: out / name for name in PICTURES}
    drawn: list[str] = []

    def bars(name: str, shown: Mapping[str, Any], title: str, what: str) -> None:
        if shown:
            pictures.draw_bars(shown, of[name], f"{title}: {split}", what)
            drawn.append(name)

    row = tables.get(_REQUESTS, {}).get(_MODEL)
    if row is not None:
        drawn += _draw_robots(row, of, split)
    kinds = {name: one["exact_set"] for name, one in tables.get(_KINDS, {}).items()}
    if kinds and row:
        kinds = {"all requests": row["exact_set"], **kinds}
    bars("by-kind", kinds, "By kind of request", "exactly right sets")
    flips = {
        name: one["flipped"] for table in _DAMAGE for name, one in tables.get(table, {}).items()
    }
    bars("damage", flips, "What changes decisions", "decisions with another set")
    groups = {
        f"{before}{name}": one["exact_set"]
        for table, before in _FAIR.items()
        for name, one in tables.get(table, {}).items()
        if "exact_set" in one
    }
    bars("fairness", groups, "By place and by source of the photo", "exactly right sets")
    steps, cited = (
        {name: one["share"] for name, one in tables.get(table, {}).items() if "share" in one}
        for table in ("reasoning, step by step", "facts that the reasoning cites")
    )
    bars("reasoning", steps, "Each step of the reasoning", "accounts of which it holds")
    bars("cited-facts", cited, "A fact is made false", "changes that are followed")
    if formats := tables.get("efficiency"):
        from embervlm.evaluation.comparison_pictures import draw_pareto

        draw_pareto(formats, of["pareto"], f"What each format costs: {split}")
        drawn.append("pareto")
    if points := report.get("points", {}):
        error = tables["calibration"][_MODEL]["calibration_error"]["value"]
        drawn += _draw_points(points, error, of, split)
    if draw_log(history, of[CURVES], "Training"):
        drawn.append(CURVES)
    if curves := memory_curves(history):
        pictures.draw_curves(curves, of["memory-use"], "The episodic memory, with the last of each")
        drawn.append("memory-use")
    return [out / f"{name}.png" for name in PICTURES if name in drawn]


def draw_run(stages: Sequence[Stage], out: Path) -> list[Path]:
    """Draw the course of a training over its stages; return the PNG files, none of no stages."""
    if not stages:
        return []
    from embervlm.evaluation.comparison_pictures import draw_energy, draw_progression
    from embervlm.evaluation.pictures import draw_curves

    names = []
    figures = {stage.name: last_figures(stage.log) for stage in stages}
    if any(figures.values()):
        title = "Figures over the stages of training"
        draw_progression(figures, out / "progression", title, "share of validation")
        names.append("progression")
    sessions = energy_of(stages)
    if any(kwh is not None for _, _, kwh in sessions):
        found = "; ".join(
            dict.fromkeys(one["energy_found"] for stage in stages for one in stage.sessions)
        )
        draw_energy(sessions, out / "energy", "Energy of training", found)
        names.append("energy")
    losses = {
        stage.name: {"training": curve}
        for stage in stages
        if (curve := [(line["step"], line["loss"]) for line in stage.log if "loss" in line])
    }
    if losses:
        draw_curves(losses, out / "stages", "Losses of all stages, with the last of each")
        names.append("stages")
    return [out / f"{name}.png" for name in names]


def draw_beside(reports: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """Draw exact sets against parameters of reports with an efficiency part, two or more."""
    points = {}
    for report in reports:
        for row in list(report["tables"].get("efficiency", {}).values())[:1]:
            name = report["about"].get("name", report["about"]["model"][:8])
            points[name] = (row["million_parameters"]["value"], row["exact_set"])
    if len(points) < 2:
        return []
    from embervlm.evaluation.comparison_pictures import draw_points

    title = f"What parameters buy: {reports[0]['about']['split']}"
    draw_points(points, out / "parameters", title, "parameters, millions")
    return [out / "parameters.png"]


def _draw_robots(row: Mapping[str, Any], of: Mapping[str, Path], split: str) -> list[str]:
    from embervlm.evaluation.comparison_pictures import draw_radar
    from embervlm.evaluation.pictures import draw_per_robot

    outcomes = [name.removeprefix("f1 ") for name in row if name.startswith("f1 ")]
    figures = {
        name: {
            label: row[f"{key} {name}"]
            for label, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))
        }
        for name in outcomes
    }
    title = f"Each robot in the set: {split}, {row['exact_set']['n']:,} requests"
    draw_per_robot(figures, of["per-robot"], title)
    values = {
        robot: {label: one["value"] for label, one in labels.items()}
        for robot, labels in figures.items()
    }
    draw_radar(values, of["radar"], title)
    return ["per-robot", "radar"]


def _draw_points(
    points: Mapping[str, Any], error: float, of: Mapping[str, Path], split: str
) -> list[str]:
    from embervlm.evaluation import pictures

    outcomes, first = points["outcomes"], np.array(points["first robot"])
    pictures.draw_confusion(first, outcomes, of["first-robot"], f"First robot: {split}")
    held = np.array(points["in the set"])
    pictures.draw_presence(held, outcomes, of["in-the-set"], f"Robots in the set: {split}")
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
    return ["first-robot", "in-the-set", "reliability", "risk-coverage"]


def check_matplotlib() -> None:
    """Raise a ValueError that says what to install, unless Matplotlib is there."""
    if find_spec("matplotlib") is None:
        raise ValueError("Pictures need Matplotlib: pip install 'embervlm[train]'.")


def draw_log(history: Sequence[Mapping[str, Any]], path: Path, title: str) -> bool:
    """Draw what a trainer's log holds: the losses, each part, and the exact sets; say whether it
    holds any."""
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
    return bool(kept)


@contextmanager
def _as_whole(*paths: Path | None) -> Iterator[None]:
    """Say in a sentence that a file that is drawn lacks something."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        names = ", ".join(map(str, paths))
        raise ValueError(f"{names} is not whole ({error!r}); make it anew.") from error


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
