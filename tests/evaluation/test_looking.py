"""Attention is what the layers compute, rollout keeps its sums, and every picture is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import torch
import torch.nn.functional as F

from embervlm.backends.pytorch import PyTorchBackend
from embervlm.checkpoint import Checkpoint
from embervlm.evaluation import cases
from embervlm.evaluation.attention import look_at, recorded, rollout, shares_of
from embervlm.evaluation.looking import look, ternary_shares
from embervlm.evaluation.network_pictures import principal_components
from embervlm.export.gguf import write_gguf
from embervlm.models.configuration import PrefixConfig
from embervlm.models.ember_37m import Ember37M

PREFIX = PrefixConfig(
    vocabulary_size=261, text_layers=2, text_width=32, text_heads=4, text_hidden=48,
    text_positions=64, image_size=64, image_widths=(8, 8, 16, 16), image_depths=(1, 1, 2, 1),
    image_tokens=4, dropout=0.0,
)  # fmt: skip


def pixels_of(size: int) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shares_are_those_of_the_layers(bitmar_checkpoint: Checkpoint) -> None:
    network = PyTorchBackend(bitmar_checkpoint).network
    layer = network.text.layers[0]
    x_BTD = torch.randn(1, 5, 96)
    with torch.no_grad(), recorded({"qkv": layer.qkv, "out": layer.out}) as kept:
        layer(x_BTD, torch.ones(1, 1, 1, 5, dtype=torch.bool))
    with torch.no_grad():
        q, k, v = (x.unflatten(-1, (4, -1)).transpose(0, 1) for x in kept["qkv"].chunk(3, -1))
        read_TD = (shares_of(q, k) @ v).transpose(0, 1).flatten(1)
        assert torch.allclose(layer.out(read_TD), kept["out"], atol=1e-5)
        assert torch.allclose(
            shares_of(q, k) @ v, F.scaled_dot_product_attention(q, k, v), atol=1e-6
        )


def test_rollout_keeps_its_sums_and_the_order_of_layers() -> None:
    layers = [torch.rand(4, 4).softmax(-1) for _ in range(3)]
    eye = torch.eye(4)
    by_hand = (layers[2] + eye) / 2 @ ((layers[1] + eye) / 2) @ ((layers[0] + eye) / 2)
    assert torch.allclose(rollout(layers), by_hand)
    assert torch.allclose(rollout(layers).sum(-1), torch.ones(4))


def test_words_of_bitmar_read_the_places_of_the_photo(bitmar_checkpoint: Checkpoint) -> None:
    network = PyTorchBackend(bitmar_checkpoint).network
    seen = look_at(network, torch.tensor([[1, 5, 6, 7, 2]]), pixels_of(96))
    assert seen.by_word is not None and seen.over_photo is not None
    assert seen.by_word.shape == (5, 2, 2)
    assert 0 < seen.places_share < 1
    assert torch.allclose(seen.by_word.sum((1, 2)), torch.ones(5), atol=1e-5)
    assert float(seen.over_photo.sum()) == pytest.approx(1.0, abs=1e-5)
    assert seen.heads["reader 1"].shape == (4, 7, 7)
    assert seen.heads["words read the photo 2"].shape == (2, 5, 5)
    for shares_HQK in seen.heads.values():
        assert torch.allclose(shares_HQK.sum(-1), torch.ones(()), atol=1e-5)
    # The mean over heads is what the fusion itself says of its first layer.
    with torch.no_grad():
        features, scene = network.see(pixels_of(96))
        yes = torch.ones(1, dtype=torch.bool)
        mask = torch.ones(1, 5, dtype=torch.bool)
        tokens = torch.tensor([[1, 5, 6, 7, 2]])
        words = network.read_words(tokens, mask, features, scene, yes, yes)
        image = network.image(features, scene, yes, yes)
        first = network.fusion.looked_at(words, mask, image)[0, 0]
    assert torch.allclose(seen.heads["words read the photo 1"].mean(0), first, atol=1e-4)


def test_prefix_network_never_looks_ahead() -> None:
    torch.manual_seed(0)
    network = Ember37M(PREFIX)
    tokens = torch.tensor([[3, *[PREFIX.image_token] * 4, 5, 6]])
    seen = look_at(network, tokens, pixels_of(64))
    assert seen.by_word is not None
    assert seen.by_word.shape == (3, 2, 2)
    for name, shares_HTT in seen.heads.items():
        if name != "reader":
            assert float(shares_HTT.triu(1).abs().max()) == 0.0
    with pytest.raises(ValueError, match="look at one at a time"):
        look_at(network, tokens.expand(2, -1), pixels_of(64))


def test_components_are_those_of_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    x_ND = np.random.default_rng(0).normal(size=(20, 6))
    theirs_N2 = decomposition.PCA(2).fit_transform(x_ND)
    assert np.allclose(np.abs(principal_components(x_ND)), np.abs(theirs_N2))


def test_ternary_shares_are_whole(bitmar_checkpoint: Checkpoint) -> None:
    shares = ternary_shares(PyTorchBackend(bitmar_checkpoint).network)
    assert len(shares) > 10
    assert all(sum(parts) == pytest.approx(1.0) for parts in shares.values())


def test_every_picture_of_a_network_with_everything(
    bitmar_checkpoint: Checkpoint, small_data: Path, photo: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "bitmar.gguf", tmp_path / "out"
    write_gguf(bitmar_checkpoint, model, "f32")
    table = (cases.DATA_DIR / "photos.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) | {"split": "validation"} for line in table]
    (cases.DATA_DIR / "photos.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    manifest = [
        json.dumps({"file": row["file"], "source": "us", "captions": [f"a photo {i}"]})
        for i, row in enumerate(rows)
    ]
    (small_data / "photos" / "manifest.jsonl").write_text("\n".join(manifest), "utf-8")
    found = look(model, out, photo, "find the sensor", small_data)
    names = {path.stem for path in found.drawn if not path.stem.startswith("heads-")}
    assert names == {
        "attention", "memory", "ternary", "with-without-reasoning", "space", "similarity",
        "retrieval",
    }  # fmt: skip
    assert len(found.drawn) - len(names) == 6
    assert found.missing == {}
    for path in found.drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".svg").is_file()


def test_what_a_network_lacks_is_named(tiny_model: Path, photo: Path, tmp_path: Path) -> None:
    found = look(tiny_model, tmp_path, photo, "find the sensor")
    assert set(found.missing) == {
        "attention over the photo", "memory", "ternary", "with and without reasoning",
        "photos and captions",
    }  # fmt: skip
    assert {path.stem for path in found.drawn} == {"attention", "heads-reader-1", "heads-reader-2"}
