"""The report can be read in three forms, holds the same figures in each, and asks nobody."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from embervlm.evaluation.report import COLUMNS, as_markdown, as_page
from embervlm.evaluation.run import run


class Reader(HTMLParser):
    """Collects what a page would fetch, its cells, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells.append(data.strip())


def figure(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": 0.1, "high": 0.9, "n": 7}


REPORT = {
    "about": {"split": "validation", "command": "embervlm eval <x>", "machine": {"cores": 2}},
    "tables": {"a | b": {"<b>row|</b>": {"exact_set": figure(0.5), "flipped": figure(None)}}},
    "not measured": {"baselines": "not <asked> for"},
}


def test_words_of_a_report_cannot_become_markup() -> None:
    page, text = as_page(REPORT), as_markdown(REPORT)
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert "<b>row" not in page and "<x>" not in page and "<asked>" not in page
    assert {"0.500", "0.10 to 0.90", "-", "7"} <= set(reader.cells)
    assert "not <asked> for" in " ".join(reader.cells)
    assert "| <b>row\\|</b> | 0.500 (0.10 to 0.90) | - | 7 |" in text
    assert "- machine, cores: `2`" in text and "- baselines: not <asked> for" in text


def test_one_command_writes_a_page_that_needs_nothing_else(
    small_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out, parts = tmp_path / "out", ["requests", "calibration"]
    for _ in range(2):
        assert run("validation", tiny_model, "reference", None, None, False, parts, out) == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    page = (out / "report.html").read_text("utf-8")
    text = (out / "report.md").read_text("utf-8")
    reader = Reader()
    reader.feed(page)
    assert len(reader.fetched) == 7
    for address in reader.fetched:
        kind, data = address.split(";base64,")
        assert kind == "data:image/svg+xml"
        svg = base64.b64decode(data).decode()
        assert not re.search(r'(href|src)="(?!#|data:)', svg)
    assert "url(" not in page and "@import" not in page
    value = report["tables"]["calibration"]["embervlm"]["area_under_risk"]["value"]
    assert f"{value:.3f}" in page and f"{value:.3f}" in text
    assert COLUMNS["area_under_risk"] in reader.cells
    linked = re.findall(r"\]\((.+?)\)", text)
    assert len(linked) == 7 and all((out / name).is_file() for name in linked)
    assert not list(out.glob("*.unfinished"))


def test_folder_that_is_a_file_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", "utf-8")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        run("validation", None, "native", None, None, False, ["requests"], tmp_path / "out")


@pytest.mark.parametrize("place", ["", "notes.txt/report.json", "notes.txt/more/report.json"])
def test_a_report_without_a_place_is_named_before_anything_is_measured(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "notes.txt").write_text("", "utf-8")
    with pytest.raises(ValueError, match="cannot be written: give a file"):
        run("validation", None, "native", None, tmp_path / place, False, ["requests"])
