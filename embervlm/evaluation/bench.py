"""How long a decision takes and how much memory, for each backend and number of threads.

`embervlm bench` ends here. Every row is measured in processes of its own, taken in turn round after
round, so that a busy moment of the machine falls on all of them:

    load_ms      from the start of the program's own work to a model that is ready
    first_ms     the first answer after that, photo file and four lines of reasons included
    vision_ms    what a photo adds to reading a request
    prefill_ms   reading a request without a photo
    token_ms     one token of the decoder, the grammar's part included
    request_ms   a warm answer, photo file and reasons included: the median; p95_ms: the slow end
    worded_ms    the same with the reasons in the decoder's own words (`decide --own-words`)
    peak_rss_mb  VmHWM of the whole process (Linux; MiB), null elsewhere
    decide_ms    `embervlm decide PHOTO REQUEST` in a process of its own, from its start to its end
    decide_rss_mb  VmHWM of that process
    joules       energy of the processor per warm answer, where the system tells (RAPL), else null
    file_bytes   bytes of the model on disk

Beside the rows stands, for the engine, what reading alone takes: the bytes that are read for a
token (decoder, token embeddings) over the rate at which one thread reads a buffer of that size,
which may lie in a cache; and, as `memory_floor_ms`, over the rate of a buffer that lies in none. It
is left out where the gguf package is missing.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from embervlm.checkpoint import SHIPPED
from embervlm.engine import kernel_sets, library_path

REQUESTS = (
    "Carry the 12 kg pump up the open stairs to the roof plant room.",
    "Which insulators on pylon 14 are cracked? Light airs.",
    "Our sensor came off its mooring somewhere here. Find it and cut the line.",
    "Tow 400 kg of feed across the yard, 300 m, then somebody has to open the silo hatch.",
    "Draft the minutes of Monday's meeting.",
)
REPEATS = 4
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# The processes import the embervlm that is running, whatever folder they start in.
_PACKAGE = str(Path(__file__).parents[2])
# More than any cache holds.
_NO_CACHE_BYTES = 1 << 28
_ENERGY = Path("/sys/class/powercap")
# `embervlm decide`, as its script calls it; the process then says what it used at most.
_DECIDE = """
import atexit, sys
from embervlm.cli import app
def tell():
    with open("/proc/self/status") as status:
        sys.stderr.writelines(line for line in status if line.startswith("VmHWM"))
atexit.register(tell)
app(sys.argv[1:])
"""

Result = dict[str, Any]


def run(
    backends: Sequence[tuple[str, Path | None]],
    threads: Sequence[int],
    photo: Path,
    rounds: int,
    report_progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Return the report: "machine" and "results", a row for each backend and number of threads.

    Args:
        backends: names of `backends.BACKENDS`, each with its model (None: the one that ships).
        threads: how many threads, each a row of its own.
        photo: a photo for the requests that have one.
        rounds: how many processes for each row.
        report_progress: gets a line before each process, and one if there is no floor.

    Raises:
        ValueError: a process failed; the sentence is its own.
    """
    runs: dict[tuple[str, Path | None, int], list[Result]] = {}
    for i in range(rounds):
        for name, model in backends:
            for count in threads:
                report_progress(f"round {i + 1} of {rounds}: {name}, {count} threads")
                found = _in_process(name, model, count, photo)
                found |= _decide(name, model, photo)
                runs.setdefault((name, model, count), []).append(found)
    kernels = kernel_sets()[0] if library_path() else "none"
    machine = (
        f"{processor_name()}, {os.cpu_count()} cores, engine kernels {kernels}, "
        f"Python {platform.python_version()}"
    )
    rows = [
        {
            "backend": name,
            "model": model.name if model else SHIPPED.name,
            "threads": count,
            **summary(found),
        }
        for (name, model, count), found in runs.items()
    ]
    report = {"machine": machine, "rounds": rounds, "results": rows}
    for name, model in backends:
        if name == "native":
            try:
                report["floor"] = floor(model)
            except ModuleNotFoundError as error:
                report_progress(f"no floor: it needs {error.name}, pip install 'embervlm[export]'")
    return report


def processor_name() -> str:
    """Return what the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def floor(model: Path | None) -> Result:
    """Return what reading alone takes for one token of the engine's decoder.

    Raises:
        ModuleNotFoundError: the gguf package is not installed.
    """
    from gguf import GGUFReader

    from embervlm.engine import bandwidth

    # The table of positions gives one row a token; keys and values of the request are made once.
    token_bytes = sum(
        int(tensor.n_bytes)
        for tensor in GGUFReader(model or SHIPPED).tensors
        if tensor.name.startswith(("decoder.", "text.embed."))
        and not any(part in tensor.name for part in ("positions", "cross_kv"))
    )
    rate, memory_rate = bandwidth(token_bytes), bandwidth(_NO_CACHE_BYTES)
    return {
        "token_bytes": token_bytes,
        "gigabytes_per_s": round(rate / 1e9, 1),
        "token_floor_ms": round(1000 * token_bytes / rate, 4),
        "memory_gigabytes_per_s": round(memory_rate / 1e9, 1),
        "memory_floor_ms": round(1000 * token_bytes / memory_rate, 4),
    }


def summary(runs: Sequence[Result]) -> Result:
    """Return the medians over the processes of one row, and the 95th percentile of a request."""

    def median(key: str, digits: int = 2) -> float | None:
        values = [run[key] for run in runs if run[key] is not None]
        return round(statistics.median(values), digits) if values else None

    times = sorted(ms for run in runs for ms in run["request_ms"])
    return {
        "load_ms": median("load_ms", 1),
        "first_ms": median("first_ms", 1),
        "vision_ms": median("vision_ms"),
        "prefill_ms": median("prefill_ms"),
        "token_ms": median("token_ms"),
        "request_ms": round(statistics.median(times), 2),
        "worded_ms": median("worded_ms"),
        "p95_ms": round(times[int(0.95 * (len(times) - 1))], 2),
        "peak_rss_mb": median("peak_rss_mb", 1),
        "decide_ms": median("decide_ms", 0),
        "decide_rss_mb": median("decide_rss_mb", 1),
        "joules": median("joules", 4),
        "file_bytes": runs[0]["file_bytes"],
    }


def measure(name: str, model: Path | None, threads: int, photo: Path) -> Result:
    """Return what this process measures of one backend."""
    begun = time.perf_counter()
    from embervlm.backends import load_backend
    from embervlm.imaging import load_image, preprocess
    from embervlm.prompts import encode_marked
    from embervlm.scenario import Scenario
    from embervlm.selector import Selector

    backend = load_backend(name, model, threads=threads)
    selector = Selector(backend)
    loaded = time.perf_counter()
    selector.decide(Scenario(task=REQUESTS[0], image=photo))
    first = time.perf_counter()
    pixels = preprocess(load_image(photo), backend.image_size)
    backend.propose(REQUESTS[0], None)
    alone = [_ms(partial(backend.propose, task, None)) for task in REQUESTS * REPEATS]
    seen = [_ms(partial(backend.propose, task, pixels)) for task in REQUESTS * REPEATS]
    energy = _energy()
    scenarios = [Scenario(task=task, image=photo) for task in REQUESTS * REPEATS]
    request = [_ms(partial(selector.decide, scenario)) for scenario in scenarios]
    after = _energy()
    wording = Selector(backend, own_words=True)
    worded = [_ms(partial(wording.decide, scenario)) for scenario in scenarios[: len(REQUESTS)]]
    proposal = backend.propose(REQUESTS[0], pixels)
    written = backend.write(proposal, ("Drone",))
    steps = len(encode_marked(written, backend.tokenizer))
    writing = min(_ms(partial(backend.write, proposal, ("Drone",))) for _ in range(3))
    place = model or SHIPPED
    files = [place] if place.is_file() else [path for path in place.iterdir() if path.is_file()]
    return {
        "load_ms": 1000 * (loaded - begun),
        "first_ms": 1000 * (first - loaded),
        "vision_ms": statistics.median(seen) - statistics.median(alone),
        "prefill_ms": statistics.median(alone),
        "token_ms": writing / max(1, steps),
        "request_ms": request,
        "worded_ms": statistics.median(worded),
        "peak_rss_mb": peak_memory(),
        "joules": None if energy is None or after is None else (after - energy) / len(request),
        "file_bytes": sum(path.stat().st_size for path in files),
    }


def peak_memory() -> float | None:
    """Return the most memory this process has used, in MiB; None where the system does not say."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text("ascii"))
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None


def _ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def _energy() -> float | None:
    """Return the joules that the processors have used since some moment; None: not told."""
    try:
        counters = [path / "energy_uj" for path in _ENERGY.glob("intel-rapl:?")]
        return sum(int(path.read_text()) for path in counters) / 1e6 if counters else None
    except OSError:
        return None


def _decide(name: str, model: Path | None, photo: Path) -> Result:
    """Return what one `embervlm decide` takes, from the start of its process."""
    command = [sys.executable, "-P", "-c", _DECIDE, "decide", str(photo), REQUESTS[2]]
    command += ["--backend", name, *(["--model", str(model)] if model else [])]
    variables = _variables()
    begun = time.perf_counter()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    took = 1000 * (time.perf_counter() - begun)
    if done.returncode:
        raise ValueError(f"{name}: embervlm decide failed: {done.stderr.strip()}")
    told = re.search(r"VmHWM:\s+(\d+)", done.stderr)
    return {"decide_ms": took, "decide_rss_mb": int(told[1]) / 1024 if told else None}


def _variables() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (_PACKAGE, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def _in_process(name: str, model: Path | None, threads: int, photo: Path) -> Result:
    command = [sys.executable, "-P", "-m", __name__]
    command += [name, str(model or ""), str(threads), str(photo)]
    variables = _variables() | {variable: str(threads) for variable in _THREAD_VARIABLES}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ValueError(f"{name}: {lines[-1] if lines else 'the process failed'}")
    found: Result = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    given = sys.argv[1:]
    chosen_model = Path(given[1]) if given[1] else None
    json.dump(measure(given[0], chosen_model, int(given[2]), Path(given[3])), sys.stdout)
