"""The network, put together: photo and words in, what the heads say out.

    photo -> vision -> scene and view tokens --+
                                               +--> text encoder -> heads (set, first, place, needs)
    words -> tokens and quantity marks --------+              \\-> decoder -> reasoning
      \\-> n-grams -> linear scores, added to those of set and place

Axes: B batch, T tokens, N image tokens, D width, C image channels, E environments, M mentions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embervlm.fleet import ENVIRONMENTS
from embervlm.models.configuration import EmberConfig, from_metadata, to_metadata
from embervlm.models.heads import SUBSETS, DecisionHeads, NgramScores
from embervlm.models.language import ReasoningDecoder
from embervlm.models.text import TextEncoder
from embervlm.models.vision import MobileNetV2


@dataclass(frozen=True)
class Encoded:
    """The reader's output: states (B, N + T, D), their mask (B, N + T) and the mean over words (B,
    D)."""

    states_BSD: Tensor
    mask_BS: Tensor
    pooled_BD: Tensor


class ImageTokens(nn.Module):
    """Turns photo features into tokens: one says which place it is, one shows what else is there.

    The scene token is the mean of ten place embeddings, weighted by the photo's own place
    probabilities, so that places without photos in our data can be taught by words alone.
    """

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.scene = nn.Linear(config.image_width, len(ENVIRONMENTS))
        self.scene_table = nn.Embedding(len(ENVIRONMENTS), config.text_width)
        self.view = nn.Linear(config.image_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width)
        self.no_photo = nn.Parameter(torch.zeros(config.image_tokens, config.text_width))

    def forward(
        self, features_BC: Tensor, scene_BE: Tensor, has_photo_B: Tensor, has_view_B: Tensor
    ) -> Tensor:
        """Return image tokens (B, 2, D).

        `scene_BE` holds place probabilities. Where `has_photo_B` is False both tokens are the
        learnt "no photo"; where `has_view_B` is False the second one is.
        """
        scene_BD = self.norm(scene_BE @ self.scene_table.weight)
        view_BD = self.norm(self.view(features_BC))
        none_ND = self.no_photo
        scene_BD = torch.where(has_photo_B[:, None], scene_BD, none_ND[0])
        view_BD = torch.where((has_photo_B & has_view_B)[:, None], view_BD, none_ND[1])
        return torch.stack([scene_BD, view_BD], dim=1)


class EmberNetwork(nn.Module):
    """`ember-nano`: vision, reader, heads and decoder in one module."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = MobileNetV2(last_channels=0)
        self.image = ImageTokens(config)
        self.text = TextEncoder(config)
        self.heads = DecisionHeads(config.text_width)
        self.ngrams = NgramScores(config.ngram_rows)
        self.decoder = ReasoningDecoder(config)

    def encode(
        self,
        tokens_BT: Tensor,
        mask_BT: Tensor,
        features_BC: Tensor,
        scene_BE: Tensor,
        has_photo_B: Tensor,
        has_view_B: Tensor,
    ) -> Encoded:
        """Read words and image features (see `ImageTokens.forward` and `TextEncoder.forward`)."""
        image_BND = self.image(features_BC, scene_BE, has_photo_B, has_view_B)
        states_BSD = self.text(tokens_BT, mask_BT, image_BND)
        N = image_BND.shape[1]
        mask_BS = torch.cat([mask_BT.new_ones(len(mask_BT), N), mask_BT], dim=1)
        weight_BT1 = mask_BT.unsqueeze(-1).to(states_BSD.dtype)
        pooled_BD = (states_BSD[:, N:] * weight_BT1).sum(1) / weight_BT1.sum(1)
        return Encoded(states_BSD, mask_BS, pooled_BD)

    def see(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, C) and place probabilities (B, E) of photos."""
        features_BC = self.vision(pixels_BCHW)
        return features_BC, self.image.scene(features_BC).softmax(-1)

    def decide(
        self, pooled_BD: Tensor, ngrams: Sequence[Sequence[int]] | None
    ) -> dict[str, Tensor]:
        """Return all logits but the roles.

        With `ngrams`, the rows of each request's n-grams, the linear scores are added; leave them
        out where there is a photo, which the words' own habits must not speak against.
        """
        logits = self.heads(pooled_BD)
        if ngrams is not None:
            added_BX = self.ngrams(ngrams)
            logits["subsets"] = logits["subsets"] + added_BX[:, :SUBSETS]
            logits["environment"] = logits["environment"] + added_BX[:, SUBSETS:]
        return logits

    def roles(self, encoded: Encoded, marks_BM: Tensor) -> Tensor:
        """Return the logits (B, M, roles) of each quantity mark; `marks_BM` counts from the first
        word."""
        N = self.config.image_tokens
        index = (marks_BM + N).unsqueeze(-1).expand(-1, -1, encoded.states_BSD.shape[-1])
        logits: Tensor = self.heads.roles(encoded.states_BSD.gather(1, index))
        return logits


def save_network(network: nn.Module, path: Path) -> None:
    """Write the weights of a network of any family, with its configuration, through a temporary
    file."""
    config: Any = network.config
    unfinished = path.with_suffix(".unfinished")
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        unfinished,
        to_metadata(config),
    )
    unfinished.replace(path)


def load_network(path: Path) -> EmberNetwork:
    """Read what `save_network` wrote of `ember-nano`; `presets.load` reads both families.

    Raises:
        ValueError: the file holds no configuration, one of another family, or another one than its
            weights have.
    """
    with safe_open(path, "pt") as file:
        config = from_metadata(file.metadata(), path)
    if not isinstance(config, EmberConfig):
        raise ValueError(f"{path} is of the family {config.family}; this needs ember-nano.")
    network = EmberNetwork(config)
    fill_from(network, path)
    return network


def fill_from(network: nn.Module, path: Path) -> None:
    """Load all weights of a file.

    Raises:
        ValueError: the file holds others than the network has.
    """
    try:
        network.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{path} holds other weights than its configuration says.") from error
