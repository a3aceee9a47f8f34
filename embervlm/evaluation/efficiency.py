"""What a decision costs in each shipped format, beside how often it is right.

    embervlm eval --split validation --only efficiency --watts 6 --co2e-g-per-kwh 380

Formats are written anew into a temporary folder: the model as it ships, then all matrices in 8 and
in 4 bits. Of each: bytes, time and memory of processes of their own (`bench`), exact sets over the
requests of the split, and, of the network, parameters and operations (`flops`).

Energy is what the processors count (RAPL) where they let it be read. Elsewhere it is not known,
unless the draw in watts is stated; then it is watts times the time of a decision, and the report
says so. Grams of CO2e need the carbon intensity of the power, which nobody here can know.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.backends import load_backend
from embervlm.backends.base import MAX_TASK_TOKENS
from embervlm.checkpoint import SHIPPED, load_checkpoint
from embervlm.evaluation.bench import REQUESTS, run
from embervlm.evaluation.cases import SEED, decide, text_cases, watched
from embervlm.evaluation.flops import decision_flops
from embervlm.evaluation.metrics import Answer, Figure, Row, Rows, measure
from embervlm.models.configuration import EmberConfig, config_of
from embervlm.prompts import read_task
from embervlm.selector import Selector

# bits -> the name of the format that `export quantize` writes
FORMATS = {"8": "q8_0", "4": "q4_0"}
_JOULES_OF_KWH = 3.6e6
_SURE = float("nan")


@dataclass(frozen=True)
class Efficiency:
    """How the formats are made and measured.

    `quantize` writes a model (None: the one that ships) to a path in so many bits. `watts` is the
    stated draw while deciding, `co2e_g_per_kwh` the stated carbon intensity; None: not stated.
    """

    quantize: Callable[[Path | None, Path, str], object]
    photo: Path
    watts: float | None = None
    co2e_g_per_kwh: float | None = None
    backend: str = "native"
    threads: int = 1
    rounds: int = 1

    def __post_init__(self) -> None:
        """Refuse a draw or an intensity that none can be.

        Raises:
            ValueError: it is below 0.
        """
        for name, value in (("--watts", self.watts), ("--co2e-g-per-kwh", self.co2e_g_per_kwh)):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value:g}; give a number of 0 or more.")

    def rows(self, model: Path | None, split: str) -> tuple[Rows, dict[str, str]]:
        """Return a row for each format, and what could not be measured, with the reason."""
        size = network_size(model)
        with tempfile.TemporaryDirectory() as folder:
            files: dict[str, Path] = {"as it is": model or SHIPPED}
            for bits, name in FORMATS.items():
                files[name] = Path(folder) / f"{name}.gguf"
                self.quantize(model, files[name], bits)
            timed = run(
                [(self.backend, file) for file in files.values()],
                [self.threads],
                self.photo,
                self.rounds,
            )["results"]
            found = {
                name: size | self._costs(row) | self._exact(file, split)
                for (name, file), row in zip(files.items(), timed, strict=True)
            }
        missing = {}
        if all("kilojoules_per_1000" not in row for row in found.values()):
            missing["energy of a decision"] = (
                "the processors' counters in /sys/class/powercap cannot be read here, and no "
                "--watts was stated"
            )
        if all("co2e_g_per_1000" not in row for row in found.values()):
            missing["CO2e of a decision"] = "no energy is known, or no --co2e-g-per-kwh was stated"
        return found, missing

    def _costs(self, row: Mapping[str, Any]) -> Row:
        n = len(REQUESTS)
        costs = {
            "megabytes": row["file_bytes"] / 1e6,
            "request_ms": row["request_ms"],
            "p95_ms": row["p95_ms"],
            "memory_mb": row["peak_rss_mb"],
            "kilojoules_per_1000": self.joules(row["request_ms"], row["joules"]),
        }
        joules = costs["kilojoules_per_1000"]
        if joules is not None and self.co2e_g_per_kwh is not None:
            costs["co2e_g_per_1000"] = 1000 * joules / _JOULES_OF_KWH * self.co2e_g_per_kwh
        return {name: _known(value, n) for name, value in costs.items() if value is not None}

    def joules(self, request_ms: float, counted: float | None) -> float | None:
        """Return the joules of a decision: counted, or of the stated draw, or None.

        Joules of one decision are kilojoules of 1,000.
        """
        if counted is not None:
            return counted
        return None if self.watts is None else self.watts * request_ms / 1000

    def _exact(self, file: Path, split: str) -> Row:
        selector = Selector(load_backend(self.backend, file))
        cases = text_cases(split)
        answers = [
            Answer.of(decide(selector, case.scenario)[1])
            for case in watched(cases, f"decide with {file.name}")
        ]
        figures = measure(answers, [case.truth for case in cases], seed=SEED)
        return {"exact_set": figures["exact_set"]}


def network_size(model: Path | None) -> Row:
    """Return a network's parameters, and the operations of a decision with a photo, in millions.

    The operations are the mean over the requests of `bench`, of as many tokens as they have.
    """
    checkpoint = load_checkpoint(model)
    config = config_of(checkpoint.config)
    assert isinstance(config, EmberConfig)
    readings = [read_task(task, checkpoint.tokenizer, MAX_TASK_TOKENS) for task in REQUESTS]
    counts = [
        sum(decision_flops(config, len(one.tokens), len(one.marks)).values()) for one in readings
    ]
    parameters = parameters_of(checkpoint.weights)
    return {
        "million_parameters": _known(parameters / 1e6, 1),
        "million_flops": _known(sum(counts) / len(counts) / 1e6, len(counts)),
    }


def parameters_of(weights: Mapping[str, Any]) -> int:
    """Return how many numbers the file's arrays hold."""
    return sum(int(array.size) for array in weights.values())


def _known(value: float, n: int) -> Figure:
    return Figure(float(value), _SURE, _SURE, n)
