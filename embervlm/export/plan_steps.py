"""Add to a model file the part that splits a job into steps; all else stays as it is, to the bit.

    python -m embervlm.export.plan_steps --model MODEL.gguf --plan build/plan/plan.safetensors
    --out MODEL-with-plan.gguf

The part was trained by `training/plan_steps.py` on the states of this very model. An earlier one in
the file is replaced. Its matrices are stored as the file's type says; see `export.gguf.stored`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from embervlm.checkpoint import SHIPPED, checked_bytes, load_checkpoint
from embervlm.export.gguf import LARGEST_FILE
from embervlm.export.parts import replace_part

PART = "plan."


def add_plan(model: Path, plan: Path, out: Path) -> None:
    """Write `model` with the part in `plan` to `out`, which may be the same file.

    Raises:
        ValueError: the model is damaged, or `plan` does not hold such a part.
    """
    checked_bytes(model)
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
    _check(part, load_checkpoint(model).config, plan)
    # A part from before there were such layers has none.
    replace_part(model, out, part, config={"plan_readers": 0, **sizes}, drop=PART)


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
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    add_plan(options.model, options.plan, options.out)
    size = options.out.stat().st_size
    if size > LARGEST_FILE:
        raise SystemExit(f"{options.out} has {size:,} bytes; a shipped file has at most 16 MB.")


if __name__ == "__main__":
    main()
