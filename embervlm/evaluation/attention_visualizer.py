"""`AttentionVisualizer`, the name under which EmberVLM documents pictures of attention.

    from embervlm import AttentionVisualizer
    visualizer = AttentionVisualizer(network)
    maps = visualizer.extract_attention(pixel_values, input_ids)
    visualizer.visualize_cross_attention(maps["reader 1"], tokens=words, output_path="heads.png")
    visualizer.visualize_attention_on_image(maps["by_word"], image, 3, output_path="a.png")

It is thin: `attention.look_at` finds the maps and `network_pictures` draws them. `network` is one
of this project, or whatever holds one as `network` (a backend) or `backend` (a selector).

Axes: B batch (1), T tokens, N photos or texts, D width, G places along a side, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embervlm.evaluation.attention import look_at, rollout
from embervlm.evaluation.network_pictures import draw_attention, draw_heads, draw_space

OVER_PHOTO, BY_WORD = "over_photo", "by_word"
METHODS = ("tsne", "pca")


class AttentionVisualizer:
    """Finds and draws where a network looks."""

    def __init__(self, model: Any) -> None:
        """Take a network, or what holds one."""
        while not isinstance(model, torch.nn.Module):
            inner = getattr(model, "network", None) or getattr(model, "backend", None)
            if inner is None:
                raise ValueError(
                    f"{type(model).__name__} holds no network; give one of embervlm.models, or a "
                    "selector with the backend pytorch."
                )
            model = inner
        self.network = model

    def extract_attention(self, pixel_values: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the heads of each layer, (H, queries, keys), by the layer's name.

        Where the network has a map over the photo, also "over_photo" (G, G) and "by_word" (T, G,
        G), both by rollout.

        Raises:
            ValueError: more than one request or photo is given.
        """
        seen = look_at(self.network, input_ids, pixel_values)
        maps = dict(seen.heads)
        if seen.over_photo is not None and seen.by_word is not None:
            maps |= {OVER_PHOTO: seen.over_photo, BY_WORD: seen.by_word}
        return maps

    def attention_rollout(
        self,
        attention_maps: Sequence[Tensor],
        head_fusion: str = "mean",
        discard_ratio: float = 0.0,
    ) -> Tensor:
        """Return (S, S): the product of the layers with their residual paths.

        Args:
            attention_maps: (H, S, S) of each layer, the first first.
            head_fusion: "mean", "max" or "min" over heads.
            discard_ratio: this share of the smallest entries of each row is set to 0 before rows
                are made to sum to 1 again.

        Raises:
            ValueError: an unknown fusion, or a ratio outside 0 to below 1.
        """
        fusions = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0),
                   "min": lambda x: x.amin(0)}  # fmt: skip
        if head_fusion not in fusions:
            raise ValueError(f"head_fusion is {head_fusion!r}; there are {', '.join(fusions)}.")
        if not 0 <= discard_ratio < 1:
            raise ValueError(f"discard_ratio is {discard_ratio}; give a number from 0 to below 1.")
        layers = []
        for shares_HSS in attention_maps:
            shares_SS = fusions[head_fusion](shares_HSS)
            if count := int(discard_ratio * shares_SS.shape[-1]):
                lowest = shares_SS.argsort(dim=-1)[:, :count]
                shares_SS = shares_SS.scatter(-1, lowest, 0.0)
            layers.append(shares_SS / shares_SS.sum(-1, keepdim=True).clamp(min=1e-12))
        return rollout(layers)

    def visualize_cross_attention(
        self,
        attention_map: Tensor,
        tokens: Sequence[str] | None = None,
        output_path: str | Path = "cross_attention.png",
    ) -> Path:
        """Write what each head of a layer reads, (H, Q, K); return the path.

        `tokens` name those that read, the last of them where there are more; without them they are
        numbered.
        """
        H, Q, K = attention_map.shape
        words = list(tokens or [])
        queries, keys = (
            [f"state {i + 1}" for i in range(count - len(words))] + words
            if count >= len(words)
            else [f"state {i + 1}" for i in range(count)]
            for count in (Q, K)
        )
        path = Path(output_path)
        draw_heads(attention_map.double().numpy(force=True), queries, keys, path, f"{H} heads")
        return path

    def visualize_attention_on_image(
        self,
        attention_map: Tensor,
        image: NDArray[np.uint8],
        token_index: int | None = None,
        output_path: str | Path = "attention.png",
    ) -> Path:
        """Write a map over its photo, (G, G), or (T, G, G) of which `token_index` is shown, without
        it the mean; return the path."""
        name = "all words"
        if attention_map.dim() == 3:
            name = name if token_index is None else f"token {token_index}"
            attention_map = (
                attention_map.mean(0) if token_index is None else attention_map[token_index]
            )
        path, maps = Path(output_path), {name: attention_map.double().numpy(force=True)}
        draw_attention(np.asarray(image), maps, path, "Attention over the photo",
                       "shares of the photo's places")  # fmt: skip
        return path

    def visualize_feature_space(
        self,
        visual_features: Tensor,
        text_features: Tensor,
        labels: Sequence[str] | None = None,
        method: str = "tsne",
        output_path: str | Path = "features.png",
    ) -> Path:
        """Write photos and texts, (N, D) each, in two dimensions; return the path.

        Both ways stand side by side whichever `method` is asked for.

        Raises:
            ValueError: an unknown method.
        """
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; there are {', '.join(METHODS)}.")
        path = Path(output_path)
        sides = [side.double().numpy(force=True) for side in (visual_features, text_features)]
        names = list(labels) if labels is not None else ["all"] * len(sides[0])
        draw_space(sides[0], sides[1], names, path, "Photos and texts in one space")
        return path
