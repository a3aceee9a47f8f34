"""Time and memory of a decision: the NumPy backend against the PyTorch one, interleaved in one run.

    python benchmarks/latency.py --photo embervlm/demo/seabed.jpg --json benchmarks/latency.json

Each backend runs in processes of its own, taken in turn; a process loads, answers once, then
answers the requests below, with the photo and without. `peak_rss_mb` is VmHWM of the process
(Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

REQUESTS = (
    "Carry the 12 kg pump up the open stairs to the roof plant room.",
    "Which insulators on pylon 14 are cracked? Light airs.",
    "Our sensor came off its mooring somewhere here. Find it and cut the line.",
    "Tow 400 kg of feed across the yard, 300 m, then somebody has to open the silo hatch.",
    "Draft the minutes of Monday's meeting.",
)
BACKENDS = ("reference", "pytorch")


class Run(TypedDict):
    """What one process measured."""

    load_ms: float
    first_ms: float
    request_ms: list[float]
    peak_rss_mb: float


def measure(backend: str, photo: str) -> Run:
    """Return load time, first answer, all warm answers (ms) and peak memory (MB) of this
    process."""
    begun = time.perf_counter()
    from embervlm.backends import load_backend
    from embervlm.scenario import Scenario
    from embervlm.selector import Selector

    selector = Selector(load_backend(backend))
    loaded = time.perf_counter()
    selector.decide(Scenario(task=REQUESTS[0], image=photo))
    first = time.perf_counter()
    times = []
    for _ in range(3):
        for task in REQUESTS:
            for image in (photo, None):
                at = time.perf_counter()
                selector.decide(Scenario(task=task, image=image))
                times.append(1000 * (time.perf_counter() - at))
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text("ascii"))
    assert peak is not None
    return {
        "load_ms": 1000 * (loaded - begun),
        "first_ms": 1000 * (first - loaded),
        "request_ms": times,
        "peak_rss_mb": int(peak[1]) / 1024,
    }


def main() -> None:
    """Run the processes in turn and print a table, or write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photo", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        json.dump(measure(options.one, options.photo), sys.stdout)
        return
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    runs: dict[str, list[Run]] = {name: [] for name in BACKENDS}
    for _ in range(options.rounds):
        for name in BACKENDS:
            command = [sys.executable, __file__, "--photo", options.photo, "--one", name]
            done = subprocess.run(
                command, env={**os.environ, **threads}, capture_output=True, text=True, check=True
            )
            runs[name].append(json.loads(done.stdout))
    results = []
    for name, found in runs.items():
        times = sorted(ms for run in found for ms in run["request_ms"])
        results.append(
            {
                "backend": name,
                "threads": options.threads,
                "load_ms": round(statistics.median(run["load_ms"] for run in found), 1),
                "first_ms": round(statistics.median(run["first_ms"] for run in found), 1),
                "peak_rss_mb": round(statistics.median(run["peak_rss_mb"] for run in found), 1),
                "request_ms": round(statistics.median(times), 1),
                "p95_ms": round(times[int(0.95 * (len(times) - 1))], 1),
            }
        )
    report = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "results": results}
    text = json.dumps(report, indent=2) + "\n"
    sys.stdout.write(text)
    if options.json:
        options.json.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
