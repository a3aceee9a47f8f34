"""GRPO of bitmar against its group and against its value head: which of the two brings more?

    python benchmarks/bitmar_baselines.py --model build/kept/bitmar/reason.safetensors
    --tokenizer build/nano/tokenizer.json --out build/bitmar-baselines
    --json benchmarks/bitmar_baselines.json

Both begin with the same network and take as many steps by `recipes/bitmar/grpo.yaml`, with the same
seeds; all of validation is answered before and after, words alone. What is there already under
`--out` is not run again.

    before            without GRPO: the same for all
    group, value      mean over the seeds, each seed, and after - before with a 95 % interval over
                      seeds (Student's t) and one over requests (paired bootstrap of the seeds'
                      mean, the two sides of a contrast pair drawn together)
    value_over_group  value - group of the same seed, the same intervals
    training          of the requests that were answered: see `grpo.py`

of the likeliest answer and of one sampled with the same numbers each time: `exact` set, `reward`
with the recipe's weights, each reward, and whether the `first` robot is a right one.

Axes: S seeds, N requests.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bitmar import brings, train
from grpo import KINDS, interval, looks, measures, training
from numpy.typing import NDArray

from embervlm.evaluation.cases import text_truths
from embervlm.evaluation.metrics import resampling_weights
from embervlm.training.recipe import BASELINES, Recipe
from embervlm.training.rewards import names_of

ROOT = Path(__file__).parents[1]
RECIPE = "recipes/bitmar/grpo.yaml"


def figures(
    folders: list[Path], when: int, kind: str, names: tuple[str, ...]
) -> dict[str, NDArray[np.float64]]:
    """Return every figure (S, N) of the answers before (0) or after (1) some runs."""
    found = []
    for folder in folders:
        rows = looks(folder)[when]
        first_N = np.array([row[kind]["rewards"]["first"] for row in rows])
        found.append({**measures(rows, kind, names), "first": first_N})
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def compared(
    ours_SN: NDArray[np.float64], theirs_SN: NDArray[np.float64], weights_BN: NDArray[np.float64]
) -> dict[str, Any]:
    """Return what ours has more than theirs, with both intervals."""
    found = brings(ours_SN.mean(1).tolist(), theirs_SN.mean(1).tolist())
    return {**found, "over_requests": interval((ours_SN - theirs_SN).mean(0), weights_BN)}


def report(folders: dict[str, list[Path]], names: tuple[str, ...]) -> dict[str, Any]:
    """Return all figures of the runs, by the baseline and in the order of the seeds."""
    ids = [row["id"] for row in looks(folders[BASELINES[0]][0])[0]]
    pair_of = {truth.id: truth.pair or truth.id for truth in text_truths("validation")}
    weights_BN = resampling_weights([pair_of[name] for name in ids], 2000, 1)
    told: dict[str, Any] = {
        "requests": len(ids),
        "training": {name: [training(folder) for folder in runs] for name, runs in folders.items()},
    }
    for kind in KINDS:
        before = figures(folders["group"], 0, kind, names)
        after = {name: figures(runs, 1, kind, names) for name, runs in folders.items()}
        told[kind] = {}
        for name, before_SN in before.items():
            row: dict[str, Any] = {"before": round(float(before_SN.mean()), 4)}
            for baseline in folders:
                after_SN = after[baseline][name]
                row[baseline] = {
                    "after": round(float(after_SN.mean()), 4),
                    "by_seed": [round(float(x), 4) for x in after_SN.mean(1)],
                    "brings": compared(after_SN, before_SN, weights_BN),
                }
            row["value_over_group"] = compared(
                after["value"][name], after["group"][name], weights_BN
            )
            told[kind][name] = row
    return told


def main() -> None:
    """Run what is missing, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a bitmar that gives reasons")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for seed in options.seeds:
        for baseline in BASELINES:
            folder = options.out / f"{baseline}-{seed}"
            if not (folder / "network.safetensors").is_file():
                train(
                    RECIPE, options.model, seed, folder, options, "--baseline", baseline,
                    "--max-steps", str(options.steps), "--eval-steps", str(options.steps),
                )  # fmt: skip
    folders = {
        baseline: [options.out / f"{baseline}-{seed}" for seed in options.seeds]
        for baseline in BASELINES
    }
    told = {
        "split": "validation",
        "seeds": options.seeds,
        "steps": options.steps,
        **report(folders, names_of(Recipe.from_yaml(ROOT / RECIPE).rewards)),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
