"""The ternary layer: its values against the closed form, the file's type, and its gradient."""

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from embervlm.models.bitnet import (
    BitLinear,
    eight_bits,
    keep_ternary,
    latent_of,
    linear,
    statistics,
    ternary,
)


def test_the_values_are_those_of_the_closed_form() -> None:
    torch.manual_seed(0)
    weight_OI = torch.randn(96, 64)
    blocks = weight_OI.reshape(-1, 256).numpy()
    scale = np.abs(blocks).mean(1, keepdims=True).astype(np.float16).astype(np.float32)
    expected = np.clip(np.rint(blocks / scale), -1, 1) * scale
    np.testing.assert_array_equal(ternary(weight_OI).reshape(-1, 256).numpy(), expected)


def test_zeros_stay_zeros_and_tiny_weights_stay_finite() -> None:
    assert not ternary(torch.zeros(8, 32)).any()
    assert torch.isfinite(ternary(torch.full((8, 32), 1e-9))).all()


def test_the_file_s_type_holds_the_values_exactly() -> None:
    torch.manual_seed(1)
    values = ternary(torch.randn(48, 384)).reshape(-1, 256).numpy()
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.TQ2_0)
    assert packed.nbytes * 8 / values.size == 2.0625
    back = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.TQ2_0)
    np.testing.assert_array_equal(back, values)


def test_latent_weights_have_the_ternary_values_they_were_made_of() -> None:
    torch.manual_seed(2)
    values = ternary(torch.randn(64, 128))
    torch.testing.assert_close(ternary(latent_of(values)), values, rtol=1e-3, atol=0)


def test_activations_lose_at_most_half_a_step_of_their_block() -> None:
    torch.manual_seed(3)
    x = torch.randn(5, 96)
    step = x.unflatten(-1, (3, 32)).abs().amax(-1, keepdim=True) / 127
    apart = (eight_bits(x) - x).unflatten(-1, (3, 32)).abs()
    assert (apart <= step / 2 * 1.001).all()


def test_gradients_pass_the_rounding_of_weights_and_activations() -> None:
    torch.manual_seed(4)
    layer = BitLinear(64, 32)
    x = torch.randn(7, 64, requires_grad=True)
    up = torch.randn(7, 32)
    (layer(x) * up).sum().backward()
    torch.testing.assert_close(x.grad, up @ ternary(layer.weight).detach())
    torch.testing.assert_close(layer.weight.grad, up.T @ eight_bits(x).detach())


def test_a_layer_that_keeps_its_ternary_values_answers_the_same() -> None:
    torch.manual_seed(5)
    network = nn.Sequential(linear("ternary", 64, 64), nn.Linear(64, 8))
    x = torch.randn(3, 64)
    before = network(x)
    keep_ternary(network)
    torch.testing.assert_close(network(x), before)
    assert network[0].weight.reshape(-1, 256).abs().unique(dim=1).shape[1] <= 256
    keep_ternary(network)
    torch.testing.assert_close(network(x), before)


def test_statistics_count_zeros_signs_and_bits() -> None:
    layer = BitLinear(32, 16)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 1.0, -1.0, 0.0]).repeat(128).reshape(16, 32))
    found = statistics(nn.Sequential(layer))
    assert found["layers"] == 1
    assert found["weights"] == 512
    assert found["sparsity"] == 0.25
    assert found["plus_share"] == pytest.approx(2 / 3)
    assert found["compression"] == pytest.approx(32 * 528 / (32 * 16 + 2.0625 * 512))
    assert statistics(nn.Linear(2, 2)) == {}


def test_sizes_without_whole_blocks_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 32, all weights one of 256"):
        BitLinear(32, 3)
    with pytest.raises(ValueError, match="linear is 'binary'; there are full, ternary"):
        linear("binary", 32, 32)
