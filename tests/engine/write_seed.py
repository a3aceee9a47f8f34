"""Write a small, random model file for `fuzz`: every kind of layer, two bottlenecks of the photo
side.

python tests/engine/write_seed.py OUT.gguf
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bpe import TEXT, learn_bpe

from embervlm.checkpoint import Checkpoint
from embervlm.export.gguf import write_gguf
from embervlm.models.configuration import EmberConfig
from embervlm.models.modeling import EmberNetwork


def main(out: Path) -> None:
    """Write the file."""
    torch.manual_seed(0)
    tokenizer = learn_bpe(TEXT, 20)
    config = EmberConfig(
        vocabulary_size=len(tokenizer), text_layers=1, text_width=32, text_heads=2, text_hidden=64,
        text_positions=16, decoder_layers=1, decoder_width=32, decoder_heads=2, decoder_hidden=64,
        decoder_positions=8, image_size=32, image_width=24, ngram_rows=32,
    )  # fmt: skip
    weights = {name: t.numpy() for name, t in EmberNetwork(config).state_dict().items()}
    small = {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith("vision.blocks.")
        or name.startswith(("vision.blocks.0.", "vision.blocks.1."))
    }
    checkpoint = Checkpoint(config.to_dict(), {}, tokenizer, small)
    write_gguf(checkpoint, out, "q4_0", smallest=256)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
