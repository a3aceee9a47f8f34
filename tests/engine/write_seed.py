"""Write a small, random model file for `fuzz`: every kind of layer, two bottlenecks of the photo
side.

python tests/engine/write_seed.py OUT.gguf            of `ember-nano`
python tests/engine/write_seed.py OUT.gguf bitmar     with all that `bitmar` adds
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bpe import TEXT, learn_bpe

from embervlm.export.gguf import checkpoint_of, write_gguf
from embervlm.models.configuration import BitMarConfig, EmberConfig
from embervlm.models.modeling import EmberNetwork

SIZES = {
    "text_layers": 1, "text_width": 32, "text_heads": 2, "text_hidden": 64, "text_positions": 16,
    "decoder_layers": 1, "decoder_width": 32, "decoder_heads": 2, "decoder_hidden": 64,
    "decoder_positions": 8, "image_size": 32, "image_width": 24, "ngram_rows": 32,
}  # fmt: skip
NANO_SIZES = {
    "recall_width": 32, "recall_rows": 8, "plan_width": 32, "plan_layers": 1, "plan_readers": 1,
}  # fmt: skip
BITMAR_SIZES = {
    "embed_width": 32, "fusion_layers": 1, "fusion_width": 32, "fusion_heads": 2, "image_grid": 2,
    "image_tokens": 5, "memory_slots": 2, "memory_width": 32, "reasoning_width": 32,
}  # fmt: skip


def main(out: Path, family: str = "ember-nano") -> None:
    """Write the file."""
    torch.manual_seed(0)
    tokenizer = learn_bpe(TEXT, 20)
    config = (
        BitMarConfig(vocabulary_size=len(tokenizer), **SIZES, **BITMAR_SIZES)
        if family == "bitmar"
        else EmberConfig(vocabulary_size=len(tokenizer), **SIZES, **NANO_SIZES)
    )
    checkpoint = checkpoint_of(EmberNetwork(config), tokenizer, {})
    small = {
        name: tensor
        for name, tensor in checkpoint.weights.items()
        if not name.startswith("vision.blocks.")
        or name.startswith(("vision.blocks.0.", "vision.blocks.1."))
    }
    write_gguf(replace(checkpoint, weights=small), out, "q4_0", smallest=256)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
