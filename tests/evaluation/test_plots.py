"""Pictures hold what the report holds, in both kinds of file, and mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fakes import FakeBackend

pytest.importorskip("matplotlib")

from embervlm.evaluation.plots import PICTURES, draw_report, plot
from embervlm.evaluation.run import evaluate
from embervlm.selector import Selector


@pytest.fixture
def report(small_data: Path, tmp_path: Path) -> dict[str, Any]:
    selector = Selector(FakeBackend(lambda proposal, task, pixels: proposal))
    found = evaluate(selector, "validation", parts=["requests", "calibration", "robustness"])
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def log(path: Path) -> Path:
    lines = [{"step": i, "loss": 1 / i, "loss_roles": 0.1, "eval_exact": 0.5} for i in (1, 2, 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_every_picture_is_drawn_as_png_and_svg(report: dict[str, Any], tmp_path: Path) -> None:
    file, out = tmp_path / "report.json", tmp_path / "pictures"
    file.write_text(json.dumps(report), "utf-8")
    drawn = plot(file, out, log(tmp_path / "metrics.jsonl"))
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
    del report["points"]
    drawn = draw_report(report, tmp_path)
    assert [path.stem for path in drawn] == ["per-robot", "by-kind", "damage"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a report"),
        ("{", "cannot be read as a report"),
        ('{"about": {"split": "test"}, "tables": {}}', "holds nothing that is drawn"),
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
