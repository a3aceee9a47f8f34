"""Fine-tune the reader for four-bit weights, so that the small file decides as the large one does.

Each matrix of the reader, and the token embeddings, are seen through the rounding of GGUF's Q4_0
(blocks of 32, one scale, 16 levels); the gradient passes as if there were none ("straight through",
Bengio et al. 2013). At the end the weights are the rounded ones.

    python -m embervlm.training.quantisation --shared DIR --vision DIR --tokenizer T.json
    --model NETWORK.safetensors --out DIR

Axes: O outputs, I inputs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from embervlm.models.configuration import EmberConfig
from embervlm.models.modeling import EmberNetwork
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import Mixture, Photos, Settings, train

BLOCK = 32


def round_q4_0(weight_OI: Tensor) -> Tensor:
    """Return the values that Q4_0 stores for a matrix whose rows are whole blocks.

    As in ggml: the value of the largest size becomes level 0 of 0 to 15, level 8 is zero, and the
    scale is kept in half precision.
    """
    blocks = weight_OI.reshape(-1, BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    level = (blocks * inverse + 8.5).floor().clamp(0, 15)
    return ((level - 8) * scale.half().to(scale)).reshape(weight_OI.shape)


class _Rounded(nn.Module):
    def forward(self, weight_OI: Tensor) -> Tensor:
        return weight_OI + (round_q4_0(weight_OI) - weight_OI).detach()


def round_reader(network: EmberNetwork) -> None:
    """Let the reader's matrices be seen rounded from now on."""
    for module in network.text.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module is not network.text.positions:
            assert module.weight.shape[1] % BLOCK == 0, "Q4_0 rows are whole blocks of 32"
            parametrize.register_parametrization(module, "weight", _Rounded())


def keep_rounded(network: EmberNetwork) -> None:
    """Make the rounded values the weights themselves."""
    for module in network.text.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def main() -> None:
    """Read the flags, fine-tune one more epoch, write the network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vision", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    photos = Photos.load(options.vision, options.shared)
    network = EmberNetwork(EmberConfig(vocabulary_size=len(tokenizer)))
    network.load_state_dict(load_file(options.model))
    round_reader(network)
    settings = Settings(epochs=options.epochs, rate=options.rate, head_rate=options.rate, seed=9)
    train(network, Mixture(settings, tokenizer, photos), settings, options.out, photos)
    keep_rounded(network)
    save_file(network.state_dict(), options.out / "network.safetensors")


if __name__ == "__main__":
    main()
