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

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open

from embervlm.checkpoint import SHIPPED, checked_bytes, write_with_digest
from embervlm.export.gguf import LARGEST_FILE, TYPES, stored

_CONFIG, _TYPE, _DIGEST = "embervlm.config", "embervlm.type", "embervlm.sha256"
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
    reader = gguf.GGUFReader(model)
    unfinished = out.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, "embervlm")
    kind = Type.F32
    for field in reader.fields.values():
        if not field.name.startswith("embervlm."):
            continue
        content = field.contents()
        if field.name == _CONFIG:
            config = json.loads(content)
            _check(part, config, plan)
            content = json.dumps({**config, **sizes})
        if field.name == _TYPE:
            kind = TYPES[content]
        writer.add_key_value(field.name, content, field.types[0])
    for tensor in reader.tensors:
        if not tensor.name.startswith(PART):
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    kind = Type.Q4_0 if kind == Type.TQ2_0 else kind
    for name, value in sorted(part.items()):
        for stored_name, (content, stored_kind) in stored(name, value, kind).items():
            writer.add_tensor(stored_name, content, raw_dtype=stored_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = bytearray(unfinished.read_bytes())
    unfinished.unlink()
    write_with_digest(out, whole)


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
