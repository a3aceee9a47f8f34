"""What each part of bitmar brings: the same short training with one of them left out.

    python benchmarks/bitmar.py --model build/nano/average/network.safetensors
    --vision build/nano/vision --tokenizer build/nano/tokenizer.json --out build/bitmar-grid
    --json benchmarks/bitmar.json

Every variant begins from the same ember-nano (`training/bitmar_start.py`), learns the decision for
the same few steps with the same teacher, and answers the validation split, requests and photo
requests, by the network alone. `grpo` goes on from `all`, paid for the set. What is there already
under `--out` is not run again.

    value        mean over the seeds, with all of them
    brings       all - the variant (grpo: with - without), the mean over seeds of the paired
                 differences, with a 95 % interval over seeds (Student's t)
    is_shown     whether the interval leaves out zero
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
ALL = "all"
# What is left out -> the flags of bitmar_start.
VARIANTS = {
    ALL: [],
    "fusion": ["--fusion", "prefix"],
    "front": ["--fusion", "fiber"],  # the photo's two tokens in front of the words
    "memory": ["--memory", "off"],
    "ternary": ["--linear", "full"],
}
GRPO = "grpo"
FIGURES = {
    "requests": ("exact_set", "top1", "macro_f1", "environment", "recall No Robot"),
    "photo": ("exact_set", "top1"),
}


def run(*words: str) -> None:
    """Run a module of the package."""
    subprocess.run([sys.executable, "-m", *words], check=True, cwd=ROOT)


def train_variant(name: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Begin and train one variant with one seed, unless its network is there."""
    if (folder / "network.safetensors").is_file():
        return
    begin = folder / "start" / "network.safetensors"
    run(
        "embervlm.training.bitmar_start", "--model", str(options.model), "--out", str(begin),
        "--seed", str(seed), *VARIANTS[name],
    )  # fmt: skip
    train(
        "recipes/bitmar/robot.yaml", begin, seed, folder, options,
        "--teacher", str(options.model), "--vision", str(options.vision),
        "--max-steps", str(options.steps), "--eval-steps", str(options.steps),
    )  # fmt: skip


def train(
    recipe: str, model: Path, seed: int, folder: Path, options: argparse.Namespace, *flags: str
) -> None:
    """Train a recipe's stage."""
    run(
        "embervlm.training.run", "--recipe", recipe, "--model", str(model), "--seed", str(seed),
        "--output-dir", str(folder), "--tokenizer", str(options.tokenizer),
        "--shared", str(options.shared), "--threads", str(options.threads), "--report-to", "none",
        *flags,
    )  # fmt: skip


def figures(folder: Path) -> dict[str, float]:
    """Return what the last evaluation of a run found."""
    (path,) = folder.glob("evaluations/*/metrics.json")
    found = json.loads(path.read_text("utf-8"))
    return {
        f"{group} {name}": found[group][name]["value"]
        for group, names in FIGURES.items()
        for name in names
    }


def grpo_figures(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the exact sets before and after, of the likeliest answers to validation."""
    paths = sorted(folder.glob("validation-*.jsonl"), key=lambda path: int(path.stem[11:]))
    before, after = (
        float(np.mean([json.loads(line)["likeliest"]["exact"] for line in path.open()]))
        for path in (paths[0], paths[-1])
    )
    return {"requests exact_set": before}, {"requests exact_set": after}


def brings(with_S: list[float], without_S: list[float]) -> dict[str, Any]:
    """Return the mean of the paired differences, and its interval over seeds."""
    apart_S = np.array(with_S) - np.array(without_S)
    mean = float(apart_S.mean())
    if len(apart_S) < 2:
        return {"mean": round(mean, 4), "over_seeds": None, "is_shown": None}
    half = float(stats.t.ppf(0.975, len(apart_S) - 1) * stats.sem(apart_S))
    low, high = mean - half, mean + half
    return {
        "mean": round(mean, 4),
        "over_seeds": [round(low, 4), round(high, 4)],
        "is_shown": low > 0 or high < 0,
    }


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the table of all runs."""
    found = {
        name: [figures(options.out / f"{name}-{seed}") for seed in options.seeds]
        for name in VARIANTS
    }
    table: dict[str, Any] = {
        ALL: {name: _mean([row[name] for row in found[ALL]]) for name in found[ALL][0]}
    }
    for part in VARIANTS:
        if part != ALL:
            table[part] = {
                name: {
                    "without": _mean([row[name] for row in found[part]]),
                    "brings": brings(
                        [row[name] for row in found[ALL]], [row[name] for row in found[part]]
                    ),
                }
                for name in found[ALL][0]
            }
    if options.grpo_steps:
        pairs = [grpo_figures(options.out / f"{GRPO}-{seed}") for seed in options.seeds]
        name = "requests exact_set"
        without, with_it = ([pair[i][name] for pair in pairs] for i in (0, 1))
        table[GRPO] = {name: {"without": _mean(without), "brings": brings(with_it, without)}}
    return table


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)


def main() -> None:
    """Run what is missing, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a trained ember-nano in floats")
    parser.add_argument("--vision", type=Path, required=True, help="its vision run, with a grid")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--grpo-steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for seed in options.seeds:
        for name in VARIANTS:
            train_variant(name, seed, options.out / f"{name}-{seed}", options)
        folder = options.out / f"{GRPO}-{seed}"
        if options.grpo_steps and not (folder / "network.safetensors").is_file():
            train(
                "recipes/bitmar/grpo.yaml", options.out / f"{ALL}-{seed}" / "network.safetensors",
                seed, folder, options, "--rewards", "set", "--max-steps", str(options.grpo_steps),
            )  # fmt: skip
    told = {
        "split": "validation",
        "seeds": options.seeds,
        "steps": options.steps,
        "grpo_steps": options.grpo_steps,
        "table": report(options),
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
