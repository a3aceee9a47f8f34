"""The request reader: a bidirectional transformer with BERT's post-norm blocks.

It has the shape of all-MiniLM-L6-v2 (Wang et al. 2020, "MiniLM"; sentence-transformers), so that
encoder's weights can start it. Image tokens stand in front of the words and attend to them both
ways.

Axes: B batch, T tokens (image tokens included), D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embervlm.models.bitnet import linear
from embervlm.models.configuration import EmberConfig


class EncoderLayer(nn.Module):
    """Self-attention over all tokens, then a feed-forward network; a norm behind each sum.

    Without `drop_links`, dropout leaves the attention's weights alone, whose number grows with the
    square of the length.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float,
        kind: str = "full",
        *,
        drop_links: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.drop_links = drop_links
        self.qkv = linear(kind, width, 3 * width)
        self.out = linear(kind, width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.up = linear(kind, width, hidden)
        self.down = linear(kind, hidden, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor) -> Tensor:
        """Return the layer's output, (B, T, D); `mask_B11T` is True where a token may be read."""
        B, T, D = x_BTD.shape
        qkv = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads)
        q_BHTd, k_BHTd, v_BHTd = qkv.permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(
            q_BHTd, k_BHTd, v_BHTd, mask_B11T, drop if self.drop_links else 0.0
        )
        read_BTD = self.out(read.transpose(1, 2).reshape(B, T, D))
        x_BTD = self.attention_norm(x_BTD + F.dropout(read_BTD, drop))
        ffn_BTD = self.down(F.gelu(self.up(x_BTD)))
        return self.output_norm(x_BTD + F.dropout(ffn_BTD, drop))


class TextEncoder(nn.Module):
    """Token and position embeddings, a norm, and a stack of `EncoderLayer`."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocabulary_size, config.table_width)
        if config.embed_width:
            self.widen = nn.Linear(config.embed_width, config.text_width, bias=False)
        self.positions = nn.Embedding(config.text_positions, config.text_width)
        self.embed_norm = nn.LayerNorm(config.text_width, eps=1e-12)
        self.dropout = config.dropout
        # Whether training computes a layer's inside twice instead of keeping it.
        self.checkpointed = False
        self.layers = nn.ModuleList(
            EncoderLayer(
                config.text_width,
                config.text_heads,
                config.text_hidden,
                config.dropout,
                config.linear,
            )
            for _ in range(config.text_layers)
        )

    def forward(
        self, tokens_BT: Tensor, mask_BT: Tensor, image_BND: Tensor | None = None
    ) -> Tensor:
        """Read tokens (B, T) int64 and image tokens (B, N, D); return states (B, N + T, D).

        `mask_BT` is True where there is a token. Image tokens carry no position; `image_BND` is
        None where no sample of the batch has a photo, else each sample has N tokens (a learnt "no
        photo" one where it has none).
        """
        T = tokens_BT.shape[1]
        x_BTD = self.vectors(tokens_BT) + self.positions.weight[:T]
        x_BTD = self.embed_norm(x_BTD)
        if image_BND is not None:
            x_BTD = torch.cat([image_BND, x_BTD], dim=1)
            seen = mask_BT.new_ones(image_BND.shape[:2])
            mask_BT = torch.cat([seen, mask_BT], dim=1)
        if self.training:
            x_BTD = F.dropout(x_BTD, self.dropout)
        mask_B11T = mask_BT[:, None, None, :]
        for layer in self.layers:
            if self.checkpointed and self.training:
                x_BTD = checkpoint(layer, x_BTD, mask_B11T, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD, mask_B11T)
        return x_BTD

    def vectors(self, tokens_BT: Tensor) -> Tensor:
        """Return the tokens' vectors in the table, as wide as the reader, (B, T, D)."""
        found_BTD: Tensor = self.embed(tokens_BT)
        return self.widen(found_BTD) if hasattr(self, "widen") else found_BTD


def from_minilm(weights: dict[str, Tensor], config: EmberConfig) -> dict[str, Tensor]:
    """Rename all-MiniLM-L6-v2's tensors (Apache-2.0) to `TextEncoder`'s, embeddings left out.

    The token-type embedding is a constant for single texts and goes into the positions.
    """
    ours = {
        "positions.weight": (
            weights["embeddings.position_embeddings.weight"][: config.text_positions]
            + weights["embeddings.token_type_embeddings.weight"][0]
        ),
        "embed_norm.weight": weights["embeddings.LayerNorm.weight"],
        "embed_norm.bias": weights["embeddings.LayerNorm.bias"],
    }
    names = {
        "out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "output_norm": "output.LayerNorm",
    }
    for i in range(config.text_layers):
        theirs = f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            parts = [
                weights[f"{theirs}attention.self.{x}.{kind}"] for x in ("query", "key", "value")
            ]
            ours[f"layers.{i}.qkv.{kind}"] = torch.cat(parts)
            for our_name, their_name in names.items():
                ours[f"layers.{i}.{our_name}.{kind}"] = weights[f"{theirs}{their_name}.{kind}"]
    return ours
