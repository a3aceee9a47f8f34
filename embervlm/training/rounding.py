"""Train through the rounding of the file: what moves is seen in four bits, its gradient is not.

Every matrix is seen through the rounding of GGUF's Q4_0 (blocks of 32, one scale, 16 levels) while
the network trains; the gradient passes as if there were none ("straight through", Bengio et al.
2013). At the end the weights are the rounded ones, so that the four-bit file holds them exactly.

Axes: O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from embervlm.models.bitnet import BitLinear
from embervlm.models.modeling import EmberNetwork

BLOCK = 32
ROUNDED_PARTS = ("text", "decoder")


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


def round_weights(module: nn.Module) -> None:
    """Let every matrix be seen rounded from now on; tables of positions stay as they are.

    A linear layer with fewer than BLOCK outputs is a head: it is not worth rounding. A ternary one
    is rounded by itself.
    """
    for name, part in module.named_modules():
        is_matrix = isinstance(part, nn.Linear | nn.Embedding) and len(part.weight) >= BLOCK
        if is_matrix and not name.endswith("positions") and not isinstance(part, BitLinear):
            assert part.weight.shape[1] % BLOCK == 0, "Q4_0 rows are whole blocks of 32"
            parametrize.register_parametrization(part, "weight", _Rounded())


def keep_rounded(module: nn.Module) -> None:
    """Make the rounded values the weights themselves."""
    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)


def round_parts(network: EmberNetwork, moves: Iterable[str]) -> None:
    """Round reader and decoder where a parameter of theirs is to move; see `round_weights`."""
    for name in ROUNDED_PARTS:
        if any(start.startswith(f"{name}.") for start in moves):
            round_weights(getattr(network, name))


def as_rounded(network: EmberNetwork) -> EmberNetwork:
    """Return a copy whose weights are the rounded ones; the same network where none is."""
    state = network.state_dict()
    if not any(name.endswith(_ORIGINAL) for name in state):
        return network
    found = EmberNetwork(network.config)
    found.load_state_dict(
        {
            name.replace(_ORIGINAL, ".weight"): round_q4_0(value)
            if name.endswith(_ORIGINAL)
            else value
            for name, value in state.items()
        }
    )
    return found


_ORIGINAL = ".parametrizations.weight.original"
