"""Does GRPO raise the reward, and the share of exact sets, on requests that were held out?

    python benchmarks/grpo.py --out build/grpo --json benchmarks/grpo.json [-- --kl 0.1 ...]

The stage begins with the model that ships, once for each seed, and looks at the whole validation
split before and after; flags behind `--` go before `recipes/ember/grpo.yaml`. What is there already
under `--out` is not run again.

    before, after   mean of the likeliest answer, and of one sampled with the same numbers each time
    difference      after - before: by seed with a 95 % interval over requests (paired bootstrap,
                    the two sides of a contrast pair drawn together); of all seeds with an interval
                    over requests of their mean, and one over seeds (Student's t)
    training        of the requests that were answered: how many groups had different sets, or any
                    spread of rewards, without which a group teaches nothing; the last divergences
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from embervlm.evaluation.cases import text_truths
from embervlm.evaluation.metrics import resampling_weights
from embervlm.training.rewards import REWARDS, names_of, total

ROOT = Path(__file__).parents[1]
KINDS = ("likeliest", "sampled")
TRAINING = ("groups_with_other_sets", "groups_with_spread", "groups_with_spread_of_words")
LAST = ("loss_kl_set", "loss_kl_words")


def run_stage(seed: int, folder: Path, flags: list[str]) -> None:
    """Train one seed, unless its network is there."""
    if (folder / "network.safetensors").is_file():
        return
    words = [
        "--recipe", str(ROOT / "recipes/ember/grpo.yaml"),
        "--model", str(ROOT / "embervlm/weights/ember-nano.gguf"),
        "--seed", str(seed), "--output-dir", str(folder), "--report-to", "none", *flags,
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "embervlm.training.run", *words], check=True)


def looks(folder: Path) -> list[list[dict[str, Any]]]:
    """Return the answers to validation before and after, each in the order of their ids."""
    paths = sorted(folder.glob("validation-*.jsonl"), key=lambda path: int(path.stem[11:]))
    found = []
    for path in (paths[0], paths[-1]):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        found.append(sorted(rows, key=lambda row: row["id"]))
    return found


def measures(
    rows: list[dict[str, Any]], kind: str, names: tuple[str, ...]
) -> dict[str, NDArray[np.float64]]:
    """Return every figure of every request (N,)."""
    said = [row[kind] for row in rows]
    return {
        "exact": np.array([float(one["exact"]) for one in said]),
        "reward": np.array([total(one["rewards"], names) for one in said]),
        **{f"reward_{x}": np.array([one["rewards"][x] for one in said]) for x in REWARDS},
    }


def interval(change_N: NDArray[np.float64], weights_BN: NDArray[np.float64]) -> list[float]:
    """Return the 95 % interval of the mean over requests."""
    means_B = weights_BN @ change_N / weights_BN.sum(1)
    return [round(float(x), 4) for x in np.percentile(means_B, (2.5, 97.5))]


def training(folder: Path) -> dict[str, float]:
    """Return what the log says of the groups, and the last divergences."""
    state = max(folder.glob("checkpoint-*/trainer_state.json"), key=lambda p: p.stat().st_mtime)
    lines = json.loads(state.read_text("utf-8"))["log_history"]
    means = {name: np.mean([x[name] for x in lines if name in x]) for name in TRAINING}
    last = {name: [x[name] for x in lines if name in x][-1] for name in LAST}
    return {name: round(float(value), 4) for name, value in {**means, **last}.items()}


def report(folders: dict[int, Path], names: tuple[str, ...]) -> dict[str, Any]:
    """Return all figures of the runs."""
    answers = {seed: looks(folder) for seed, folder in folders.items()}
    ids = [row["id"] for row in next(iter(answers.values()))[0]]
    pair_of = {truth.id: truth.pair or truth.id for truth in text_truths("validation")}
    weights_BN = resampling_weights([pair_of[name] for name in ids], 2000, 1)
    found: dict[str, Any] = {"requests": len(ids), "training": {}}
    for seed, folder in folders.items():
        found["training"][str(seed)] = training(folder)
    for kind in KINDS:
        figures = {
            seed: [measures(rows, kind, names) for rows in both] for seed, both in answers.items()
        }
        found[kind] = {}
        for name in ("exact", "reward", *(f"reward_{x}" for x in REWARDS)):
            change_SN = np.stack([after[name] - before[name] for before, after in figures.values()])
            means_S = change_SN.mean(1)
            row: dict[str, Any] = {
                when: round(float(np.mean([both[i][name].mean() for both in figures.values()])), 4)
                for i, when in enumerate(("before", "after"))
            }
            row["difference"] = round(float(means_S.mean()), 4)
            row["over_requests"] = interval(change_SN.mean(0), weights_BN)
            if len(means_S) > 1:
                half = stats.t.ppf(0.975, len(means_S) - 1) * stats.sem(means_S)
                row["over_seeds"] = [round(float(means_S.mean() + x), 4) for x in (-half, half)]
            row["by_seed"] = {
                str(seed): {
                    "difference": round(float(change_N.mean()), 4),
                    "over_requests": interval(change_N, weights_BN),
                }
                for seed, change_N in zip(figures, change_SN, strict=True)
            }
            found[kind][name] = row
    return found


def main() -> None:
    """Run the seeds, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("flags", nargs="*", help="behind --: of embervlm train")
    options = parser.parse_args()
    folders = {seed: options.out / f"seed-{seed}" for seed in options.seeds}
    for seed, folder in folders.items():
        run_stage(seed, folder, options.flags)
    recipe = json.loads((folders[options.seeds[0]] / "recipe.json").read_text("utf-8"))
    told = {
        "split": "validation",
        "flags": options.flags,
        **report(folders, names_of(recipe["rewards"])),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
