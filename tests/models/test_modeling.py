"""A network comes back from its file with its configuration."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from embervlm.models.configuration import EmberConfig  # noqa: E402
from embervlm.models.modeling import EmberNetwork, load_network, save_network  # noqa: E402

SMALL = EmberConfig(
    vocabulary_size=300, text_layers=1, text_width=32, text_heads=2, text_hidden=64,
    decoder_layers=1, decoder_width=32, decoder_heads=2, decoder_hidden=64, ngram_rows=8,
)  # fmt: skip


def test_a_network_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EmberNetwork(SMALL)
    save_network(network, tmp_path / "network.safetensors")
    again = load_network(tmp_path / "network.safetensors")
    assert again.config == SMALL
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]


def test_weights_without_or_with_another_configuration_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    weights = {k: v.contiguous() for k, v in EmberNetwork(SMALL).state_dict().items()}
    save_file(weights, path)
    with pytest.raises(ValueError, match="no configuration"):
        load_network(path)
    save_file(weights, path, {"config": '{"vocabulary_size": 301}'})
    with pytest.raises(ValueError, match="other weights"):
        load_network(path)
