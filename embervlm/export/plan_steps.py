"""Add to a model file the part that splits a job into steps; all else stays as it is, to the bit.

    python -m embervlm.export.plan_steps --model MODEL.gguf --plan build/plan/plan.safetensors
    --out MODEL-with-plan.gguf

The part was trained by `training/plan_steps.py` on the states of this very model. Of several, which
went on from one another, the mean is taken (Wortsman et al. 2022). An earlier one in the file is
replaced. Its matrices are stored as the file's type says; see `export.gguf.stored`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from embervlm.checkpoint import SHIPPED, checked_bytes, load_checkpoint
from embervlm.export.gguf import LARGEST_FILE
from embervlm.export.parts import replace_part

PART = "plan."


def add_plan(model: Path, plan: Path | Sequence[Path], out: Path) -> None:
    """Write `model` with the part in `plan`, or the mean of several, to `out`; it may be `model`.

    Raises:
        ValueError: the model is damaged, a file holds no such part, or two are of different sizes.
    """
    checked_bytes(model)
    paths = [plan] if isinstance(plan, Path) else list(plan)
    config = load_checkpoint(model).config
    found = [_read(path, config) for path in paths]
    (sizes, first), *others = found
    for path, (other_sizes, part) in zip(paths[1:], others, strict=True):
        if other_sizes != sizes or part.keys() != first.keys():
            raise ValueError(
                f"{path} has sizes {other_sizes} and {len(part)} tensors, {paths[0]} has {sizes} "
                f"and {len(first)}; give parts that went on from one another."
            )
    mean = {name: np.stack([part[name] for _, part in found]).mean(0) for name in first}
    # A part from before there were such layers has none.
    replace_part(model, out, mean, config={"plan_readers": 0, **sizes}, drop=PART)


def _read(plan: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(plan, "np") as file:
            sizes = json.loads((file.metadata() or {})["config"])
            part = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            _ = part["plan.table.weight"], part["plan.narrow.weight"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{plan} holds no part that splits a job ({error}); train one with "
            "python -m embervlm.training.plan_steps."
        ) from error
    _check(part, config, plan)
    return sizes, part


def _check(part: Mapping[str, Any], config: Mapping[str, Any], plan: Path) -> None:
    tokens, width = len(part["plan.table.weight"]), part["plan.narrow.weight"].shape[1]
    if (tokens, width) != (config["vocabulary_size"], config["text_width"]):
        raise ValueError(
            f"{plan} was trained for a model with {tokens} tokens and a width of {width}, this one "
            f"has {config['vocabulary_size']} and {config['text_width']}; train one on this model."
        )


def main() -> None:
    """Read the flags, add the part, and refuse a file that is too large to ship."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--plan", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    add_plan(options.model, options.plan, options.out)
    size = options.out.stat().st_size
    if size > LARGEST_FILE:
        raise SystemExit(f"{options.out} has {size:,} bytes; a shipped file has at most 16 MB.")


if __name__ == "__main__":
    main()
