"""Carbon is what a meter says, or not known; nothing is put in its place."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from embervlm import CarbonTracker


def test_file_says_what_was_measured_or_why_not(tmp_path: Path) -> None:
    tracker = CarbonTracker(tmp_path / "out", rapl=tmp_path / "no-counters")
    with pytest.raises(ValueError, match="was not started"):
        tracker.stop()
    tracker.start()
    with pytest.raises(ValueError, match="counts already"):
        tracker.start()
    kg = tracker.stop()
    written = json.loads((tmp_path / "out" / "emissions.json").read_text("utf-8"))
    assert written == tracker.summary
    assert written["co2e_kg"] == kg
    if find_spec("codecarbon") is None:
        assert kg is None
        assert written["energy_kwh"] is None
        assert "shows no RAPL counters" in written["found"]


def test_a_block_is_counted(tmp_path: Path) -> None:
    with CarbonTracker(tmp_path, rapl=tmp_path / "none") as tracker:
        pass
    assert (tmp_path / "emissions.json").is_file()
    assert set(tracker.summary) == {"energy_kwh", "co2e_kg", "found"}
