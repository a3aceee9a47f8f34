"""How much energy a run took, and how that was found; what cannot be found is None, never a guess.

    meter = open_meter(uses_codecarbon=True, country="DEU")
    ...
    meter.energy_kwh(), meter.co2e_g(), meter.found       # how, in words that go into the summary

Two ways. CodeCarbon (Courty et al., offline: its table of countries, no request leaves the machine)
reads counters where there are some, and elsewhere estimates from load and nominal power; `found`
says which. Without it, Linux shows the processors' own counters (RAPL, `/sys/class/powercap`), as a
rule to root alone: those are measured, but say nothing of memory, graphics cards or carbon.
"""

from __future__ import annotations

import importlib.metadata
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

RAPL = Path("/sys/class/powercap")
_KWH_OF_UJ = 1 / 3.6e12
_CPU_MODES = {
    "intel_rapl": "the processor by its own counters (RAPL)",
    "cpu_load": "the processor estimated from its load and nominal power",
    "constant": "the processor estimated as half its nominal power all the time",
}


class Meter(Protocol):
    """What counts energy from when it is made."""

    @property
    def found(self) -> str:
        """Say how the figures were found, or why there are none."""

    def read(self) -> None:
        """Look at the counters; once in a while, since they overflow."""

    def energy_kwh(self) -> float | None:
        """Return the energy until now, None where it is not known."""

    def co2e_g(self) -> float | None:
        """Return what its generation gave off, in grams of CO2 and what warms like it, or None."""

    def stop(self) -> None:
        """Stop counting; the figures stay."""


def open_meter(*, uses_codecarbon: bool, country: str = "", rapl: Path = RAPL) -> Meter:
    """Return CodeCarbon's meter where it was asked for, else RAPL's where it can be read."""
    if uses_codecarbon:
        return CodeCarbonMeter(country)
    return RaplMeter(rapl)


class RaplMeter:
    """The processors' counters, each a file that counts microjoules up to a highest value."""

    def __init__(self, folder: Path = RAPL) -> None:
        self._kwh = 0.0
        self._last: dict[Path, int] = {}
        # intel-rapl:0 is a whole package; intel-rapl:0:0 is a part of it.
        packages = [path for path in folder.glob("*-rapl:*") if path.name.count(":") == 1]
        self._missing = "" if packages else f"{folder} shows no RAPL counters"
        try:
            self._last = {path: _number(path / "energy_uj") for path in sorted(packages)}
            self._highest = {path: _number(path / "max_energy_range_uj") for path in self._last}
        except (OSError, ValueError) as error:
            self._last = {}
            self._missing = f"the RAPL counters in {folder} cannot be read ({error})"

    @property
    def found(self) -> str:
        """Say how the figures were found, or why there are none."""
        if not self._last:
            return f"not measured: {self._missing}, and report_to does not name codecarbon"
        return (
            f"RAPL counters of {len(self._last)} processor packages, all that ran on them "
            "included; no memory, no graphics card; CO2e not known without codecarbon"
        )

    def read(self) -> None:
        """Add what the counters rose by, over their highest value where they began anew."""
        for path, before in self._last.items():
            now = _number(path / "energy_uj")
            rise = now - before if now >= before else now + self._highest[path] - before
            self._kwh += rise * _KWH_OF_UJ
            self._last[path] = now

    def energy_kwh(self) -> float | None:
        """Return the energy until now, None where no counter can be read."""
        self.read()
        return self._kwh if self._last else None

    def co2e_g(self) -> float | None:
        """Return None: the counters know nothing of where the power comes from."""
        return None

    def stop(self) -> None:
        """Read the counters a last time."""
        self.read()


class CodeCarbonMeter:
    """CodeCarbon's offline tracker of the whole machine, which writes no file of its own."""

    def __init__(self, country: str = "") -> None:
        """Start it; `country` is a three-letter ISO code, without it the world's mean is taken.

        Raises:
            ValueError: codecarbon has no figure for the country.
        """
        from codecarbon import OfflineEmissionsTracker

        check_country(country)
        self._country, self._latest = country, _Latest()
        self._tracker: Any = OfflineEmissionsTracker(
            save_to_file=False,
            tracking_mode="machine",
            log_level="critical",
            allow_multiple_runs=True,
            output_handlers=[self._latest],
            **({"country_iso_code": country} if country else {}),
        )
        self._tracker.start()
        self._stopped = False

    @property
    def found(self) -> str:
        """Say what CodeCarbon measured, what it estimated, and whose carbon intensity it took."""
        parts = []
        for hardware in getattr(self._tracker, "_hardware", []):
            kind = type(hardware).__name__
            if kind == "CPU":
                mode = getattr(hardware, "_mode", "unknown")
                parts.append(_CPU_MODES.get(mode, f"the processor by way of {mode}"))
            elif kind == "RAM":
                parts.append("memory estimated from its size")
            elif kind == "GPU":
                parts.append("graphics cards by their own counters")
        place = f"carbon intensity of {self._country}" if self._country else (
            "carbon intensity of the world's mean (country is not given)"
        )  # fmt: skip
        version = importlib.metadata.version("codecarbon")
        return f"codecarbon {version}, the whole machine: {', '.join([*parts, place])}"

    def read(self) -> None:
        """Do nothing: the tracker reads by itself."""

    def energy_kwh(self) -> float | None:
        """Return the energy until now."""
        return self._figure("energy_consumed")

    def co2e_g(self) -> float | None:
        """Return the emissions until now."""
        kg = self._figure("emissions")
        return None if kg is None else 1000 * kg

    def stop(self) -> None:
        """Stop the tracker."""
        self._tracker.stop()
        self._stopped = True

    def _figure(self, name: str) -> float | None:
        if not self._stopped:
            self._tracker.flush()
        total = self._latest.total
        return None if total is None else float(getattr(total, name))


class _Latest:
    """Takes what CodeCarbon puts out, in place of a file (its `BaseOutput`)."""

    total: Any = None

    def out(self, total: Any, delta: Any) -> None:
        """Keep the figures since the start."""
        self.total = total

    live_out = out

    def task_out(self, data: Any, experiment_name: str) -> None:
        """Do nothing: there are no tasks."""

    def exit(self) -> None:
        """Do nothing: there is nothing to close."""


def check_country(country: str) -> None:
    """Check that CodeCarbon, which must be installed, has a figure for a country.

    Raises:
        ValueError: it has none.
    """
    if not country:
        return
    spec = find_spec("codecarbon")
    assert spec is not None
    assert spec.origin is not None
    table = Path(spec.origin).parent / "data/private_infra/global_energy_mix.json"
    if country not in json.loads(table.read_text("utf-8")):
        raise ValueError(
            f"country is {country!r}, for which codecarbon has no carbon intensity; give the "
            "three-letter code of ISO 3166, such as DEU."
        )


def _number(path: Path) -> int:
    return int(path.read_text("ascii"))
