"""Words and places of a photo read each other, through gates.

After FIBER (Dou et al. 2022, "Coarse-to-Fine Vision-Language Pre-training with Fusion in the
Backbone"): behind the reader, each layer adds to the words what they find in the photo and to the
photo what it finds in the words, both from the states before the layer:

    t' = t + tanh(a) * out(attend(query(norm t), photo))
    p' = p + tanh(b) * out(attend(query(norm p), words))

With a = b = 0 a request is read as if there were no fusion, and FIBER begins so; but little is
learnt behind a shut gate, so here they begin at 1 (docs/LOG.md says what that brings). FIBER puts
its layers into both backbones; here the photo's network may be another one, so they stand behind.

Axes: B batch, T words, N image tokens, D width, W width of the attention, H heads, Q queries, K
keys, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.bitnet import linear
from embervlm.models.configuration import EmberConfig


class CrossRead(nn.Module):
    """Gated cross-attention: what some states find in others."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        D, W, kind = config.text_width, config.fusion_width, config.linear
        self.heads = config.fusion_heads
        self.query = linear(kind, D, W)
        self.keys_values = linear(kind, D, 2 * W)
        self.out = linear(kind, W, D)
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, x_BQD: Tensor, from_BKD: Tensor, mask_BK: Tensor | None) -> Tensor:
        """Return what is added to `x`, (B, Q, D); `mask_BK` is True where a state may be read.

        A row of a batch in which none may be read gets zeros.
        """
        q_BHQd, k_BHKd, v_BHKd = self._parts(x_BQD, from_BKD)
        mask_B11K = None if mask_BK is None else mask_BK[:, None, None, :]
        read_BHQd = F.scaled_dot_product_attention(q_BHQd, k_BHKd, v_BHKd, attn_mask=mask_B11K)
        return torch.tanh(self.gate) * self.out(read_BHQd.transpose(1, 2).flatten(2))

    def shares(self, x_BQD: Tensor, from_BKD: Tensor) -> Tensor:
        """Return how much each query reads of each key, the mean over heads: (B, Q, K)."""
        q_BHQd, k_BHKd, _ = self._parts(x_BQD, from_BKD)
        scores_BHQK = q_BHQd @ k_BHKd.transpose(2, 3) / q_BHQd.shape[-1] ** 0.5
        return scores_BHQK.softmax(-1).mean(1)

    def _parts(self, x_BQD: Tensor, from_BKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        k_BKW, v_BKW = self.keys_values(from_BKD).chunk(2, dim=-1)
        return heads(self.query(x_BQD)), heads(k_BKW), heads(v_BKW)


class FusionLayer(nn.Module):
    """Both directions once; see the head of this file."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.text_norm = nn.LayerNorm(config.text_width)
        self.image_norm = nn.LayerNorm(config.text_width)
        self.text_reads = CrossRead(config)
        self.image_reads = CrossRead(config)

    def forward(
        self, text_BTD: Tensor, mask_BT: Tensor, image_BND: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the states of words and photo."""
        text_norm_BTD, image_norm_BND = self.text_norm(text_BTD), self.image_norm(image_BND)
        return (
            text_BTD + self.text_reads(text_norm_BTD, image_norm_BND, None),
            image_BND + self.image_reads(image_norm_BND, text_norm_BTD, mask_BT),
        )


class Fusion(nn.Module):
    """A stack of `FusionLayer`."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        layers = nn.ModuleList(FusionLayer(config) for _ in range(config.fusion_layers))
        self.layers = cast("Sequence[FusionLayer]", layers)  # which a ModuleList does not tell

    def forward(
        self, text_BTD: Tensor, mask_BT: Tensor, image_BND: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the states of words and photo behind all layers."""
        for layer in self.layers:
            text_BTD, image_BND = layer(text_BTD, mask_BT, image_BND)
        return text_BTD, image_BND

    @torch.no_grad()
    def looked_at(self, text_BTD: Tensor, mask_BT: Tensor, image_BND: Tensor) -> Tensor:
        """Return how much each word reads of each image token, (L, B, T, N), rows that sum to 1."""
        found = []
        for layer in self.layers:
            text_norm_BTD, image_norm_BND = layer.text_norm(text_BTD), layer.image_norm(image_BND)
            found.append(layer.text_reads.shares(text_norm_BTD, image_norm_BND))
            text_BTD, image_BND = layer(text_BTD, mask_BT, image_BND)
        return torch.stack(found)
