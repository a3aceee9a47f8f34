"""Put a steady eye into a model file; all else stays as it is, to the bit.

    python -m embervlm.export.steady --model MODEL.gguf --eye build/steady/eye.safetensors
    --out MODEL-steady.gguf

The eye was trained by `training/steady.py` to see damaged photos as this very model sees clean
ones. Calibrate behind it (`evaluation.calibration`): how sure it is of photos may have moved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.numpy import load_file

from embervlm.checkpoint import SHIPPED, load_checkpoint
from embervlm.export.parts import replace_part

PART = "vision."


def put_eye(model: Path, eye: Path, out: Path) -> None:
    """Write `model` with the eye in `eye` to `out`, which may be the same file.

    Raises:
        ValueError: the model is damaged, or `eye` holds no eye of its shapes.
    """
    own = load_checkpoint(model).weights
    shapes = {name: w.shape for name, w in own.items() if name.startswith(PART)}
    try:
        part = {name: w for name, w in load_file(eye).items() if name.startswith(PART)}
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{eye} holds no eye ({error}); train one with python -m embervlm.training.steady."
        ) from error
    if {name: w.shape for name, w in part.items()} != shapes:
        raise ValueError(f"{eye} was trained for another model; train one on {model}.")
    replace_part(model, out, part, config={}, drop=PART)


def main() -> None:
    """Read the flags, and put it in."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--eye", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    put_eye(options.model, options.eye, options.out)


if __name__ == "__main__":
    main()
