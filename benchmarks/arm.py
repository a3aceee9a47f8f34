"""Hold the engine's decisions on ARM, emulated, against those on this machine.

    python benchmarks/arm.py --model MODEL.gguf [--photos DIR] --json benchmarks/arm.json

The engine is built by Debian's cross compilers (gcc-aarch64-linux-gnu, gcc-arm-linux-gnueabihf,
gcc-arm-linux-gnueabi) and runs under qemu-user: Pi Zero 2 W and newer 64-bit boards as cortex-a53
and with the dot product, 32-bit systems as cortex-a7 (ARMv7), Pi Zero W as arm1176 (ARMv6). Fifty
validation requests, half of them with a photo.

Times under emulation say nothing of a board, so none are taken: `count_instructions.c` counts the
engine's instructions instead, to open the model (its SHA-256 included) and for each request;
tokens, pixels and decision are Python's and not in it. `peak_rss_kb` holds the emulator's own
memory too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.base import MAX_TASK_TOKENS, Proposal
from embervlm.backends.decoding import subset_features
from embervlm.backends.native import NativeBackend
from embervlm.evaluation.cases import photo_cases, text_cases
from embervlm.imaging import load_image, preprocess
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities, read_task
from embervlm.scenario import Scenario
from embervlm.selector import Selector

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "embervlm" / "engine"
FLAGS = (
    "-std=c11",
    "-O3",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-pthread",
    "-static",
    f"-I{ENGINE}",
)
# Requests of each kind whose instructions are counted, besides the first.
COUNTED = 4
# name -> compiler with its options, what runs the program
TARGETS = {
    "this machine": (["cc"], []),
    "aarch64, cortex-a53": (
        ["aarch64-linux-gnu-gcc", "-mcpu=cortex-a53"],
        ["qemu-aarch64", "-cpu", "cortex-a53"],
    ),
    "aarch64 with dot product": (
        ["aarch64-linux-gnu-gcc", "-mcpu=cortex-a53"],
        ["qemu-aarch64", "-cpu", "max"],
    ),
    "ARMv7, cortex-a7": (
        ["arm-linux-gnueabihf-gcc", "-march=armv7-a", "-mfpu=neon-vfpv4", "-marm"],
        ["qemu-arm", "-cpu", "cortex-a7"],
    ),
    "ARMv6, arm1176 (Pi Zero W)": (
        ["arm-linux-gnueabi-gcc", "-march=armv6", "-mfpu=vfp", "-mfloat-abi=softfp", "-marm"],
        ["qemu-arm", "-cpu", "arm1176"],
    ),
}
SIZES = {
    "subset_features": 16,
    "primary": 6,
    "environment": 10,
    "actions": 9,
    "flags": 15,
    "team": 1,
}
SEED = 1


def scenarios(count: int, photos: Path | None) -> list[Scenario]:
    """Return validation requests, half of them with their photo where `photos` holds the set."""
    rng = random.Random(SEED)
    words = [case.scenario for case in text_cases("validation")]
    if photos is None:
        return rng.sample(words, count)
    seen = [case.scenario for case in photo_cases("validation", photos)]
    return rng.sample(words, count - count // 2) + rng.sample(seen, count // 2)


def write_requests(backend: NativeBackend, asked: list[Scenario], path: Path) -> None:
    """Write what `tests/engine/replay.c` reads."""
    side = backend.image_size
    with path.open("wb") as file:
        file.write(struct.pack("2i", len(asked), 3 * side * side))
        for scenario in asked:
            tokens = read_task(scenario.task, backend.tokenizer, MAX_TASK_TOKENS).tokens
            rows = hash_ngrams(mark_quantities(scenario.task or ""), backend.ngram_rows)
            photo = scenario.image is not None
            rows = [] if photo else rows
            file.write(struct.pack("3i", len(tokens), len(rows), photo))
            file.write(np.array([*tokens, *rows], np.int32).tobytes())
            if scenario.image is not None:
                file.write(preprocess(load_image(scenario.image), side).astype("f4").tobytes())


def read_decisions(
    backend: NativeBackend, asked: list[Scenario], path: Path
) -> tuple[list[tuple[str, ...]], NDArray[np.float32]]:
    """Return the robots decided from what `replay` wrote, and all its numbers."""
    numbers = np.fromfile(path, np.float32).reshape(len(asked), -1)
    selector, decided = Selector(backend), []
    for scenario, row in zip(asked, numbers, strict=True):
        parts, at = {}, 0
        for name, size in {**SIZES, "scene": 10, "ngrams": 42}.items():
            parts[name] = row[at : at + size]
            at += size
        # What each number is for is not in the replay: it comes from this machine.
        here = backend.propose(scenario.task, pixels_of(scenario, backend.image_size))
        said: Proposal = replace(
            here,
            subsets=subset_features() @ parts["subset_features"] + parts["ngrams"][:32],
            primary=parts["primary"],
            environment=parts["environment"] + parts["ngrams"][32:],
            actions=parts["actions"],
            flags=parts["flags"],
            team=float(parts["team"][0]),
        )
        decided.append(selector.answer(said, scenario, reasoning=False).robots)
    return decided, numbers


def pixels_of(scenario: Scenario, side: int) -> NDArray[np.float32] | None:
    """Return a scenario's photo as the network takes it, or None."""
    return None if scenario.image is None else preprocess(load_image(scenario.image), side)


def count_instructions(
    run: list[str], backend: NativeBackend, model: Path, asked: list[Scenario], folder: Path
) -> dict[str, int | None]:
    """Return the instructions to open the model and a request's, without and with a photo.

    `run` is the emulator and the program. A request's are (those of N + 1 requests, less those of
    the first alone) / N, so that what only the first does is not in them.
    """
    plugin, out, requests = folder / "count.so", folder / "count", folder / "counted"
    source = str(Path(__file__).with_name("count_instructions.c"))
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", str(plugin)], check=True)
    emulator, *rest = run

    def count(some: list[Scenario]) -> int:
        write_requests(backend, some, requests)
        words = [str(model), str(requests), os.devnull]
        command = [emulator, "-plugin", f"{plugin},out={out}", *rest, *words]
        subprocess.run(command, check=True, capture_output=True)
        return int(out.read_text())

    found: dict[str, int | None] = {"instructions_open": count([])}
    for kind, with_photo in (("words", False), ("photo_and_words", True)):
        some = [s for s in asked if s.task and (s.image is not None) == with_photo][: COUNTED + 1]
        each = (count(some) - count(some[:1])) // (len(some) - 1) if len(some) > 1 else None
        found[f"instructions_per_request_{kind}"] = each
    return found


def main() -> None:
    """Build, run, compare; exit 1 where a decision differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--photos", type=Path, help="folder of the photo set")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    backend = NativeBackend.load(options.model)
    asked = scenarios(options.count, options.photos)
    results: list[dict[str, str | int | float | None]] = []
    with tempfile.TemporaryDirectory() as folder:
        requests = Path(folder) / "in"
        write_requests(backend, asked, requests)
        known: tuple[list[tuple[str, ...]], NDArray[np.float32]] | None = None
        for name, (compiler, emulator) in TARGETS.items():
            program, out = Path(folder) / "replay", Path(folder) / "out"
            sources = [*map(str, sorted(ENGINE.glob("*.c"))), str(ROOT / "tests/engine/replay.c")]
            subprocess.run([*compiler, *FLAGS, *sources, "-o", str(program), "-lm"], check=True)
            said = subprocess.run(
                [*emulator, str(program), str(options.model), str(requests), str(out)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()
            found = read_decisions(backend, asked, out)
            known = known or found
            same = sum(a == b for a, b in zip(found[0], known[0], strict=True))
            results.append(
                {
                    "target": name,
                    "kernels": said[0],
                    "requests": len(asked),
                    "same_decisions": same,
                    "largest_difference": round(float(np.abs(found[1] - known[1]).max()), 6),
                    "peak_rss_kb": int(said[1]),
                    "program_bytes": program.stat().st_size,
                }
            )
            if emulator:
                run = [*emulator, str(program)]
                results[-1] |= count_instructions(run, backend, options.model, asked, Path(folder))
            sys.stdout.write(json.dumps(results[-1]) + "\n")
    if options.json:
        report = {"model": options.model.name, "seed": SEED, "counted": COUNTED, "results": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    raise SystemExit(any(row["same_decisions"] != row["requests"] for row in results))


if __name__ == "__main__":
    main()
