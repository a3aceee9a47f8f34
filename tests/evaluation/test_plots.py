"""Pictures hold what the report holds, in both kinds of file, and mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fakes import FakeBackend

pytest.importorskip("matplotlib")

from embervlm.evaluation.comparison_pictures import pareto_front
from embervlm.evaluation.plots import PICTURES, draw_report, plot
from embervlm.evaluation.run import evaluate
from embervlm.evaluation.run_history import energy_of, last_figures, read_run
from embervlm.selector import Selector

# Measured once: the tests change what they get, not what is kept.
MEASURED: list[str] = []


@pytest.fixture
def report(small_data: Path) -> dict[str, Any]:
    if not MEASURED:
        selector = Selector(FakeBackend(lambda proposal, task, pixels: proposal))
        parts = ["requests", "calibration", "robustness", "reasoning", "fairness"]
        found = evaluate(selector, "validation", parts=parts)
        found["tables"]["efficiency"] = {name: costs(i) for i, name in enumerate(("q8_0", "q4_0"))}
        MEASURED.append(json.dumps(found))
    return json.loads(MEASURED[0])  # type: ignore[no-any-return]


def costs(i: int) -> dict[str, Any]:
    figures = {"megabytes": 9.0, "request_ms": 5.0, "memory_mb": 50.0, "million_parameters": 20.0}
    row: dict[str, Any] = {
        name: {"value": value + i, "low": None, "high": None, "n": 5}
        for name, value in figures.items()
    }
    return row | {"exact_set": {"value": 0.8 + i / 50, "low": 0.7, "high": 0.9, "n": 16}}


def log(path: Path) -> Path:
    seen = {"loss_roles": 0.1, "eval_exact": 0.5, "memory/active_share": 0.5}
    lines = [{"step": i, "loss": 1 / i, **seen} for i in (1, 2, 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_every_picture_is_drawn_as_png_and_svg(report: dict[str, Any], tmp_path: Path) -> None:
    file, out = tmp_path / "report.json", tmp_path / "pictures"
    file.write_text(json.dumps(report), "utf-8")
    stages, other = tmp_path / "run", tmp_path / "other.json"
    for i, (name, kwh) in enumerate((("select", 0.1), ("align", None))):
        (stages / name).mkdir(parents=True)
        log(stages / name / "metrics.jsonl")
        session = {"started": f"{9 - i}", "seconds": 60.0, "energy_kwh": kwh, "energy_found": "x"}
        (stages / name / "sessions.json").write_text(json.dumps([session]), "utf-8")
    other.write_text(json.dumps(report | {"about": {**report["about"], "name": "other"}}), "utf-8")
    drawn = plot(file, out, log(tmp_path / "metrics.jsonl"), stages, [other])
    assert [path.stem for path in drawn] == list(PICTURES)
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_same_report_gives_the_same_bytes(report: dict[str, Any], tmp_path: Path) -> None:
    only = report | {"points": {}}
    for name in ("a", "b"):
        draw_report(only, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_report_without_calibration_gives_the_other_pictures(
    report: dict[str, Any], tmp_path: Path
) -> None:
    del report["points"], report["tables"]["efficiency"]
    drawn = draw_report(report, tmp_path)
    assert [path.stem for path in drawn] == [
        "per-robot", "radar", "by-kind", "damage", "fairness", "reasoning", "cited-facts",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a report"),
        ("{", "cannot be read as a report"),
        ('{"about": {"split": "test"}, "tables": {}}', "holds nothing that is drawn"),
        ('{"about": {}, "tables": {}}', r"report.json is not whole \(KeyError\('split'\)\)"),
        (
            '{"about": {"split": "test"}, "tables": {"requests and plans": {"embervlm": {}}}}',
            r"report.json is not whole",
        ),
    ],
)
def test_what_is_no_report_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        plot(file, tmp_path / "out")


def test_what_is_no_log_is_named(report: dict[str, Any], tmp_path: Path) -> None:
    file, metrics = tmp_path / "report.json", tmp_path / "metrics.jsonl"
    file.write_text(json.dumps(report), "utf-8")
    metrics.write_text('{"loss": 1}\n', "utf-8")
    with pytest.raises(ValueError, match="is not a run's log"):
        plot(file, tmp_path / "out", metrics)


def test_stages_stand_in_the_order_in_which_they_ran(tmp_path: Path) -> None:
    for name, started in (("b", "2026-01-02"), ("a", "2026-01-03")):
        (tmp_path / name).mkdir()
        log(tmp_path / name / "metrics.jsonl")
        session = {"started": started, "seconds": 7200.0, "energy_kwh": 0.5}
        (tmp_path / name / "sessions.json").write_text(json.dumps([session]), "utf-8")
    stages = read_run(tmp_path)
    assert [stage.name for stage in stages] == ["b", "a"]
    assert energy_of(stages) == [("b", 2.0, 0.5), ("a", 2.0, 0.5)]
    assert last_figures(stages[0].log) == {"exact sets, requests": 0.5}
    with pytest.raises(ValueError, match="holds no sessions.json; give the --output-dir"):
        read_run(tmp_path / "a" / "nothing")
    for text in ("[]", "{}", "[1]"):
        (tmp_path / "a" / "sessions.json").write_text(text, "utf-8")
        with pytest.raises(ValueError, match=r"sessions.json holds no sessions of a run"):
            read_run(tmp_path)


def test_nothing_on_the_front_is_beaten() -> None:
    drawn = np.random.default_rng(0)
    costs, values = drawn.integers(0, 6, (2, 30)).astype(float).tolist()
    front = pareto_front(costs, values)
    for i in range(30):
        beaten = any(
            costs[k] <= costs[i]
            and values[k] >= values[i]
            and (costs[k], values[k]) != (costs[i], values[i])
            for k in range(30)
        )
        assert (i in front) != beaten
