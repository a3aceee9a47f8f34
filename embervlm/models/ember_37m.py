"""`ember-37m`: EmberVLM's documented architecture, put together so that it works.

    photo -> RepViT-M0.9 -> projector -> image tokens --+
                                                        +--> decoder -> next words
    words, <|image|> among them ------------------------+       \\-> reader -> heads (set, needs)

One decoder puts words after words, as a caption or a reasoning, and gives the states from which the
heads of `ember-nano` (`heads.py`) say what the job needs. The decoder is causal: the state of the
first word knows nothing of the last. So one bidirectional layer, the reader, stands between it and
the heads, where EmberVLM had its "reasoning module".

What was chosen so that the sum is EmberVLM's documented 37.2 M (its own code: 37,235,744):

    vision      4,717,792  RepViT-M0.9 without its classifiers
    projector     296,448  norm, 384 -> 384, GELU, 384 -> 384: the documented form. EmberVLM's code
                           had one linear layer and an adapter behind it, 336,816 together
    decoder    30,341,376  TinyLLM's 30,339,456 and five more rows of 384; reads and writes words
                           with one table, which counts once
    reader      1,774,464  one layer as in the reader of `ember-nano`, 1,536 hidden units.
                           EmberVLM's reasoning module had 1,841,680: two narrower ones and heads
    heads          25,025
    total      37,155,105

Axes: B batch, T tokens, N image tokens, C image channels, D width, M mentions.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.configuration import PrefixConfig
from embervlm.models.decoder_lm import INITIAL_STD, NORM_EPS, DecoderLM, load_gpt2
from embervlm.models.heads import DecisionHeads
from embervlm.models.published import LoadReport, load_published
from embervlm.models.repvit import STRIDE, RepViT, load_repvit
from embervlm.models.text import EncoderLayer

PUBLISHED_VISION = "timm/repvit_m0_9.dist_450e_in1k"
PUBLISHED_LANGUAGE = "tinyllm/30M-0.4"


class Projector(nn.Module):
    """Turns a photo's features into image tokens of the decoder's width.

    The grid of features is averaged down to `image_tokens` places first, where there are fewer.
    """

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.side = math.isqrt(config.image_tokens)
        if self.side**2 != config.image_tokens or not 0 < self.side <= config.image_size // STRIDE:
            raise ValueError(
                f"image_tokens is {config.image_tokens}, expected a square such as 9, 16 or 49, of "
                f"at most one token for each {STRIDE} x {STRIDE} pixels of {config.image_size}."
            )
        self.norm = nn.LayerNorm(config.image_widths[-1], eps=NORM_EPS)
        self.up = nn.Linear(config.image_widths[-1], config.text_width)
        self.out = nn.Linear(config.text_width, config.text_width)
        for linear in (self.up, self.out):  # tokens that begin no larger than words
            nn.init.normal_(linear.weight, std=INITIAL_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, features_BNC: Tensor) -> Tensor:
        """Return image tokens (B, image_tokens, D) of a square grid of features, row by row."""
        B, N, C = features_BNC.shape
        grid_BCHW = features_BNC.transpose(1, 2).reshape(B, C, math.isqrt(N), math.isqrt(N))
        pooled_BNC = F.adaptive_avg_pool2d(grid_BCHW, self.side).flatten(2).transpose(1, 2)
        return self.out(F.gelu(self.up(self.norm(pooled_BNC))))


class Ember37M(nn.Module):
    """Vision, projector, decoder, reader and heads in one module."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = RepViT(config.image_widths, config.image_depths)
        self.projector = Projector(config)
        self.decoder = DecoderLM(config)
        self.reader = EncoderLayer(
            config.text_width, config.text_heads, config.text_hidden, config.dropout
        )
        self.heads = DecisionHeads(config.text_width)

    def see(self, pixels_BCHW: Tensor) -> Tensor:
        """Return image tokens (B, N, D) of photos from `imaging.preprocess`.

        Raises:
            ValueError: the photos are not `image_size` pixels high and wide.
        """
        side = self.config.image_size
        shape = tuple(pixels_BCHW.shape[1:])
        if shape != (3, side, side):
            raise ValueError(
                f"got photos of shape {shape}, expected (3, {side}, {side}); preprocess them to "
                f"{side} pixels a side."
            )
        return self.projector(self.vision(pixels_BCHW))

    def encode(
        self, tokens_BT: Tensor, mask_BT: Tensor, image_BND: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return states (B, T, D) that have read the whole request, and their mean over words.

        The mean, (B, D), leaves out padding and image tokens.
        """
        states_BTD, _ = self.decoder(tokens_BT, mask_BT=mask_BT, image_BND=image_BND)
        return self.read(states_BTD, tokens_BT, mask_BT)

    def read(self, states_BTD: Tensor, tokens_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `encode` does, of the decoder's states; `mask_BT` is True at the request.

        What is written behind the request is left out by the mask; the decoder is causal, so the
        request's states know nothing of it.
        """
        states_BTD = self.reader(states_BTD, mask_BT[:, None, None, :])
        is_word_BT = mask_BT & (tokens_BT != self.config.image_token)
        weight_BT1 = is_word_BT[:, :, None].to(states_BTD.dtype)
        return states_BTD, (states_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)

    def decide(self, pooled_BD: Tensor) -> dict[str, Tensor]:
        """Return all logits but the roles; `subsets` is (B, 32)."""
        return self.heads(pooled_BD)

    def roles(self, states_BTD: Tensor, marks_BM: Tensor) -> Tensor:
        """Return the logits (B, M, roles) of the quantities mentioned at places `marks_BM`."""
        index_BMD = marks_BM[:, :, None].expand(-1, -1, states_BTD.shape[-1])
        return self.heads.roles(states_BTD.gather(1, index_BMD))


def start_from_published(
    network: Ember37M,
    *,
    vision: str | Path = PUBLISHED_VISION,
    language: str | Path = PUBLISHED_LANGUAGE,
    seed: int = 0,
) -> list[LoadReport]:
    """Fill vision and decoder with published weights, hub names or directories; report on each.

    Raises:
        ValueError: see `load_published`, `load_repvit` and `load_gpt2`.
    """
    sources = load_published(vision), load_published(language)
    return [
        load_repvit(network.vision, sources[0]),
        load_gpt2(network.decoder, sources[1], seed=seed),
    ]
