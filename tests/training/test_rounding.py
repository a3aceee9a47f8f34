"""Rounding in training is the rounding of the file."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

from embervlm.models.configuration import EmberConfig  # noqa: E402
from embervlm.models.modeling import EmberNetwork  # noqa: E402
from embervlm.training.decisions import encode  # noqa: E402
from embervlm.training.pruning import prune  # noqa: E402
from embervlm.training.rounding import (  # noqa: E402
    as_rounded,
    keep_rounded,
    round_q4_0,
    round_weights,
)


def test_rounds_as_the_file_does() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 96) * torch.rand(40, 1) * 10
    weight[3] = 0
    kind = gguf.GGMLQuantizationType.Q4_0
    stored = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
    assert torch.equal(round_q4_0(weight), torch.from_numpy(stored))


def test_the_reader_learns_through_the_rounding_and_ends_rounded() -> None:
    torch.manual_seed(0)
    network = EmberNetwork(
        EmberConfig(
            vocabulary_size=64, text_layers=1, text_width=32, text_heads=2, text_hidden=64,
            decoder_width=32, decoder_hidden=64, ngram_rows=8,
        )
    )  # fmt: skip
    names = set(network.state_dict())
    round_weights(network.text)
    weight = network.text.layers[0].up.weight
    assert torch.equal(weight, round_q4_0(weight))
    tokens = torch.randint(64, (2, 5))
    network.text(tokens, tokens >= 0).sum().backward()
    hidden = network.text.layers[0].up.parametrizations.weight.original
    assert hidden.grad is not None and hidden.grad.any()
    copy = as_rounded(network)
    assert set(copy.state_dict()) == names
    assert torch.equal(copy.text.layers[0].up.weight, weight)
    assert hidden.data_ptr() == (
        network.text.layers[0].up.parametrizations.weight.original.data_ptr()
    ), "the network itself stays as it is"
    keep_rounded(network.text)
    assert set(network.state_dict()) == names
    again = round_q4_0(network.text.layers[0].up.weight)
    assert torch.allclose(again, network.text.layers[0].up.weight, rtol=1e-3, atol=1e-6)


def test_pruning_only_units_that_never_move_changes_nothing() -> None:
    torch.manual_seed(0)
    config = EmberConfig(
        vocabulary_size=64, text_layers=2, text_width=32, text_heads=2, text_hidden=64,
        decoder_width=32, decoder_hidden=64, ngram_rows=8, dropout=0.0,
    )  # fmt: skip
    teacher = EmberNetwork(config).eval()
    for layer in teacher.text.layers:
        layer.down.weight.data[:, ::2] = 0  # half of the units say nothing
        layer.up.weight.data[4:8] = 0  # four of them always say the same
        layer.up.bias.data[4:8] = 3.0
    batch = {
        "tokens": torch.randint(64, (3, 7)),
        "mask": torch.ones(3, 7, dtype=torch.bool),
        "features": torch.zeros(3, config.image_width),
        "scene": torch.zeros(3, 10),
        "has_photo": torch.zeros(3, dtype=torch.bool),
        "has_view": torch.zeros(3, dtype=torch.bool),
    }
    student = prune(teacher, replace(config, text_hidden=32), [batch]).eval()
    with torch.no_grad():
        expected, found = encode(teacher, batch), encode(student, batch)
    assert torch.allclose(found.states_BSD, expected.states_BSD, atol=1e-5)
