"""Linear layers of 1.58 bits a weight: -1, 0 or 1 times one scale for every 256 of them.

BitNet b1.58 (Ma et al. 2024, "The Era of 1-bit LLMs"): weights are rounded to ternary by their mean
size, activations to eight bits, and gradients pass as if nothing had been rounded ("straight
through", Bengio et al. 2013). Two things differ, so that what is trained is what the engine runs:
the scale belongs to a block of 256 weights, row behind row, as GGUF's TQ2_0 stores it at 2.06 bits
a weight; and activations have one scale for each 32, as the engine's kernels do.

    scale = mean |w|            of a block, in half precision
    w'    = scale * clip(round(w / scale), -1, 1)

Axes: O outputs, I inputs, K blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.configuration import LINEARS

WEIGHT_BLOCK = 256
ACTIVATION_BLOCK = 32
# A block of zeros keeps a scale to divide by.
_SMALLEST = 1e-7


def ternary(weight_OI: Tensor) -> Tensor:
    """Return the ternary values of a matrix, each -scale, 0 or scale of its block."""
    blocks_K = weight_OI.reshape(-1, WEIGHT_BLOCK)
    scale_K1 = blocks_K.abs().mean(1, keepdim=True).clamp(min=_SMALLEST).half().to(blocks_K)
    # Half precision has nothing below 6e-8.
    level_K = (blocks_K / scale_K1.clamp(min=_SMALLEST)).round().clamp(-1, 1)
    return (level_K * scale_K1).reshape(weight_OI.shape)


def latent_of(weight_OI: Tensor) -> Tensor:
    """Return weights whose ternary values are these, which are ternary: the inverse of `ternary`.

    The mean size of a block with zeros is below its scale; it is what is made up for here.
    """
    blocks_K = weight_OI.reshape(-1, WEIGHT_BLOCK)
    kept_K1 = (blocks_K != 0).float().mean(1, keepdim=True)
    return (blocks_K / kept_K1.clamp(min=1 / WEIGHT_BLOCK)).reshape(weight_OI.shape)


def eight_bits(x: Tensor) -> Tensor:
    """Return activations rounded to -127..127 times one scale for each ACTIVATION_BLOCK of the last
    axis; the gradient passes."""
    blocks = x.unflatten(-1, (-1, ACTIVATION_BLOCK))
    scale = blocks.detach().abs().amax(-1, keepdim=True) / 127
    rounded = (blocks.detach() / scale.clamp(min=1e-12)).round() * scale
    return (blocks + (rounded - blocks).detach()).flatten(-2)


class BitLinear(nn.Linear):
    """A linear layer that is used as ternary; `weight` holds what is trained behind it.

    Attributes:
        is_ternary: whether the weights are ternary values already, as those of an exported file,
            which are then used as they are.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        """Make a layer.

        Raises:
            ValueError: the weights are no whole blocks.
        """
        if inputs * outputs % WEIGHT_BLOCK or inputs % ACTIVATION_BLOCK:
            raise ValueError(
                f"a ternary layer of {inputs} inputs and {outputs} outputs: the inputs must be a "
                f"multiple of {ACTIVATION_BLOCK}, all weights one of {WEIGHT_BLOCK}."
            )
        super().__init__(inputs, outputs, bias)
        self.is_ternary = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, weights and activations rounded."""
        weight_OI = self.weight
        if not self.is_ternary:
            weight_OI = weight_OI + (ternary(weight_OI) - weight_OI).detach()
        return F.linear(eight_bits(x), weight_OI, self.bias)


def linear(kind: str, inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer of a kind: one of `configuration.LINEARS`.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in LINEARS:
        raise ValueError(f"linear is {kind!r}; there are {', '.join(LINEARS)}.")
    return (BitLinear if kind == "ternary" else nn.Linear)(inputs, outputs, bias)


def ternary_layers(network: nn.Module) -> dict[str, BitLinear]:
    """Return the ternary layers of a network by name."""
    return {name: part for name, part in network.named_modules() if isinstance(part, BitLinear)}


@torch.no_grad()
def keep_ternary(network: nn.Module) -> None:
    """Make the ternary values the weights themselves, as an exported file has them."""
    for layer in ternary_layers(network).values():
        if not layer.is_ternary:
            layer.weight.copy_(ternary(layer.weight))
            layer.is_ternary = True


@torch.no_grad()
def statistics(network: nn.Module) -> dict[str, float]:
    """Return figures of the ternary layers; none where there are none.

    `layers` their number, `weights` of theirs, `sparsity` the share of zeros, `plus_share` that of
    +1 among the others, `bits` a weight as TQ2_0 stores it, `compression` of the whole network
    against float32, all but the ternary weights counted as they are.
    """
    layers = ternary_layers(network).values()
    if not layers:
        return {}
    values = [
        (layer.weight if layer.is_ternary else ternary(layer.weight)).sign() for layer in layers
    ]
    count = sum(value.numel() for value in values)
    zeros = sum(int((value == 0).sum()) for value in values)
    plus = sum(int((value > 0).sum()) for value in values)
    bits = (2 * WEIGHT_BLOCK + 16) / WEIGHT_BLOCK
    total = sum(parameter.numel() for parameter in network.parameters())
    return {
        "layers": float(len(layers)),
        "weights": float(count),
        "sparsity": zeros / count,
        "plus_share": plus / max(1, count - zeros),
        "bits": bits,
        "compression": 32 * total / (32 * (total - count) + bits * count),
    }
