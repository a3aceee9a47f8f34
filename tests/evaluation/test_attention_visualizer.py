"""The documented names find a network, draw into the path that was given, and name mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")

import torch

from embervlm import AttentionVisualizer
from embervlm.backends.pytorch import PyTorchBackend
from embervlm.checkpoint import Checkpoint
from embervlm.evaluation.attention import rollout
from embervlm.selector import Selector


def test_documented_calls_work(bitmar_checkpoint: Checkpoint, tmp_path: Path) -> None:
    visualizer = AttentionVisualizer(Selector(PyTorchBackend(bitmar_checkpoint)))
    pixels = torch.rand(1, 3, 96, 96) * 2 - 1
    maps = visualizer.extract_attention(pixels, torch.tensor([[1, 5, 6, 2]]))
    assert maps["by_word"].shape == (4, 2, 2)
    words = ["<|task|>", "cut", "it", "<|end|>"]
    image = np.full((24, 24, 3), 90, np.uint8)
    paths = [
        visualizer.visualize_cross_attention(
            maps["reader 1"], tokens=words, output_path=tmp_path / "heads.png"
        ),
        visualizer.visualize_attention_on_image(
            attention_map=maps["by_word"], image=image, token_index=2,
            output_path=tmp_path / "word.png",
        ),
        visualizer.visualize_feature_space(
            torch.rand(3, 4), torch.rand(3, 4), output_path=tmp_path / "space.png", method="pca"
        ),
    ]  # fmt: skip
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="method is 'umap'"):
        visualizer.visualize_feature_space(torch.rand(3, 4), torch.rand(3, 4), method="umap")


def test_rollout_of_all_heads(bitmar_checkpoint: Checkpoint) -> None:
    visualizer = AttentionVisualizer(PyTorchBackend(bitmar_checkpoint))
    layers = [torch.rand(4, 5, 5).softmax(-1) for _ in range(3)]
    flow = visualizer.attention_rollout(layers)
    assert torch.allclose(flow, rollout([layer.mean(0) for layer in layers]), atol=1e-6)
    cut = visualizer.attention_rollout(attention_maps=layers, discard_ratio=0.9)
    assert torch.allclose(cut.sum(-1), torch.ones(5))
    with pytest.raises(ValueError, match="head_fusion is 'sum'"):
        visualizer.attention_rollout(layers, head_fusion="sum")
    with pytest.raises(ValueError, match="discard_ratio is 1"):
        visualizer.attention_rollout(layers, discard_ratio=1)


def test_what_holds_no_network_is_named() -> None:
    with pytest.raises(ValueError, match="str holds no network"):
        AttentionVisualizer("ember-nano")
