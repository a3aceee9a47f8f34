"""Energy is what counters say, or not known."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from embervlm.training.energy import CodeCarbonMeter, RaplMeter, check_country, open_meter


def package(folder: Path, number: int, microjoules: int, highest: int) -> Path:
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "energy_uj").write_text(f"{microjoules}\n", "ascii")
    (path / "max_energy_range_uj").write_text(f"{highest}\n", "ascii")
    return path


def test_counts_packages_over_their_highest_value(tmp_path: Path) -> None:
    first = package(tmp_path, 0, 3_000_000, 10_000_000)
    package(tmp_path, 1, 0, 10_000_000)
    # A part of package 0, which must not count twice.
    package(tmp_path, 0, 3_000_000, 10_000_000).with_name("intel-rapl:0:0").mkdir()
    meter = open_meter(uses_codecarbon=False, rapl=tmp_path)
    (first / "energy_uj").write_text("9000000", "ascii")
    meter.read()
    (first / "energy_uj").write_text("1000000", "ascii")
    meter.stop()
    assert meter.energy_kwh() == pytest.approx((6 + 2) / 3.6e6)
    assert meter.co2e_g() is None
    assert meter.found.startswith("RAPL counters of 2 processor packages")


def test_without_a_counter_nothing_is_known(tmp_path: Path) -> None:
    meter = RaplMeter(tmp_path / "none")
    meter.read()
    assert meter.energy_kwh() is None
    assert meter.found.startswith("not measured: ")
    assert "shows no RAPL counters" in meter.found
    (package(tmp_path, 0, 0, 1) / "energy_uj").write_text("?", "ascii")
    broken = RaplMeter(tmp_path)
    assert broken.energy_kwh() is None
    assert "cannot be read" in broken.found


@pytest.mark.skipif(find_spec("codecarbon") is None, reason="codecarbon is not installed")
def test_codecarbon_counts_without_a_network() -> None:
    meter = CodeCarbonMeter("DEU")
    first = meter.energy_kwh()
    sum(i * i for i in range(2_000_000))
    meter.stop()
    assert first is not None
    assert meter.energy_kwh() > first
    assert meter.co2e_g() > 0
    assert "carbon intensity of DEU" in meter.found
    with pytest.raises(ValueError, match="country is 'XXX', for which codecarbon has no"):
        check_country("XXX")
