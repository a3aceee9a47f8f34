"""`CarbonTracker`, the name under which EmberVLM documents the carbon of a training.

    from embervlm import CarbonTracker
    tracker = CarbonTracker("out")
    tracker.start()
    ...
    kg = tracker.stop()                  # None where nothing could be measured; out/emissions.json

It is thin: `energy.open_meter` does the work, with CodeCarbon where it is installed, else with the
processors' own counters, which know joules and no carbon. What is not known is None and the file
says why. A power and a carbon intensity that nobody measured are not put in its place.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from embervlm.training.energy import RAPL, Meter, open_meter

FILE = "emissions.json"


class CarbonTracker:
    """Counts energy and carbon from `start` to `stop`; also a context manager."""

    def __init__(
        self, output_dir: str | Path = ".", *, country: str = "", rapl: Path = RAPL
    ) -> None:
        """Take where the file goes; `country` is a three-letter code, for the carbon intensity."""
        self.output_dir = Path(output_dir)
        self._country, self._rapl = country, rapl
        self._meter: Meter | None = None
        self.summary: dict[str, Any] = {}

    def start(self) -> None:
        """Begin to count.

        Raises:
            ValueError: it counts already, or CodeCarbon has no figure for the country.
        """
        if self._meter is not None:
            raise ValueError("This tracker counts already; stop it first.")
        has_codecarbon = find_spec("codecarbon") is not None
        self._meter = open_meter(
            uses_codecarbon=has_codecarbon, country=self._country, rapl=self._rapl
        )

    def stop(self) -> float | None:
        """Stop, write `emissions.json`, and return kilograms of CO2e, None where not known.

        Raises:
            ValueError: it was not started.
        """
        if self._meter is None:
            raise ValueError("This tracker was not started; call start() first.")
        meter, self._meter = self._meter, None
        meter.stop()
        co2e_g = meter.co2e_g()
        kg = None if co2e_g is None else co2e_g / 1000
        self.summary = {"energy_kwh": meter.energy_kwh(), "co2e_kg": kg, "found": meter.found}
        self.output_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.summary, indent=2) + "\n"
        (self.output_dir / FILE).write_text(text, "utf-8")
        return kg

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
