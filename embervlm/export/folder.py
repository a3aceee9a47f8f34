"""Turn a trained network into a model folder (`embervlm.checkpoint`).

    python -m embervlm.export.folder --network N.safetensors --tokenizer T.json --out
    embervlm/weights

The calibration is neutral until `evaluation.calibration` fits it on the exported, quantised model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.numpy import load_file

from embervlm.checkpoint import PARTS, save_checkpoint
from embervlm.models.configuration import EmberConfig
from embervlm.tokenizer import Tokenizer

LARGEST_FILE = 16 * 2**20


def main() -> None:
    """Read the flags, write the folder, and refuse a part that is too large to ship."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = EmberConfig(vocabulary_size=len(Tokenizer.from_file(options.tokenizer)))
    weights = {
        name: tensor.astype("float32") for name, tensor in load_file(options.network).items()
    }
    save_checkpoint(
        options.out,
        weights,
        config=config.to_dict(),
        calibration={},
        tokenizer_file=options.tokenizer,
    )
    for part in PARTS:
        size = (options.out / part).stat().st_size
        if size > LARGEST_FILE:
            raise SystemExit(f"{part} has {size:,} bytes; a shipped file has at most 16 MiB.")


if __name__ == "__main__":
    main()
