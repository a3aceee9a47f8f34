"""The network, put together: photo and words in, what the heads say out.

    photo -> vision, recall -> image tokens ---+
                                               +--> text encoder -> heads (set, first, place, needs)
    words -> tokens and quantity marks --------+              \\-> decoder -> reasoning
      \\-> n-grams -> linear scores, added to those of set and place

`bitmar` is the same class with its switches on (`configuration.BitMarConfig`): behind the reader,
words and the photo's places read each other (`fusion.py`), past requests are looked up
(`episodic_memory.py`), and the heads read five steps of thought (`reasoning_steps.py`). How near a
photo is to what is said of it is another output, which no head reads (`matching.py`).

Axes: B batch, T tokens, N image tokens, P places of a photo, D width, C image channels, E
environments, M mentions (of a space: its width), K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embervlm.fleet import ENVIRONMENTS
from embervlm.models.configuration import EmberConfig, from_metadata, to_metadata
from embervlm.models.episodic_memory import EpisodicMemory
from embervlm.models.fusion import Fusion
from embervlm.models.heads import SUBSETS, DecisionHeads, NgramScores
from embervlm.models.language import ReasoningDecoder
from embervlm.models.matching import Matching
from embervlm.models.photo_recall import PhotoRecall
from embervlm.models.plan_steps import PlanSteps
from embervlm.models.reasoning_steps import ReasoningSteps
from embervlm.models.text import TextEncoder
from embervlm.models.vision import MobileNetV2


@dataclass(frozen=True)
class Encoded:
    """The reader's output: states (B, N + T, D), their mask (B, N + T), the mean over words (B, D)
    with what the memory adds, and the states behind the steps of reasoning, None without them."""

    states_BSD: Tensor
    mask_BS: Tensor
    pooled_BD: Tensor
    thoughts_BKD: Tensor | None = None


class ImageTokens(nn.Module):
    """Turns photo features into tokens: one says which place it is, one shows what else is there.

    The scene token is the mean of ten place embeddings, weighted by the photo's own place
    probabilities, so that places without photos in our data can be taught by words alone. Of a
    grid each place has a token of its own that shows what is there.
    """

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.scene = nn.Linear(config.image_width, len(ENVIRONMENTS))
        self.scene_table = nn.Embedding(len(ENVIRONMENTS), config.text_width)
        self.view = nn.Linear(config.image_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width)
        self.no_photo = nn.Parameter(torch.zeros(2, config.text_width))

    def forward(
        self, features_BC: Tensor, scene_BE: Tensor, has_photo_B: Tensor, has_view_B: Tensor
    ) -> Tensor:
        """Return image tokens (B, N, D): the scene, then the view (one, or one for each place).

        `features_BC` is (B, C), or (B, P, C) of a grid. `scene_BE` holds place probabilities. Where
        `has_photo_B` is False all tokens are the learnt "no photo"; where `has_view_B` is False
        all but the first are.
        """
        scene_BD = self.norm(scene_BE @ self.scene_table.weight)
        features_BPC = features_BC.unsqueeze(1) if features_BC.dim() == 2 else features_BC
        view_BPD = self.norm(self.view(features_BPC))
        none_2D = self.no_photo
        scene_BD = torch.where(has_photo_B[:, None], scene_BD, none_2D[0])
        view_BPD = torch.where((has_photo_B & has_view_B)[:, None, None], view_BPD, none_2D[1])
        return torch.cat([scene_BD[:, None], view_BPD], dim=1)

    def summary(self, features_BC: Tensor) -> Tensor:
        """Return one vector (B, D) of what photos show, to be held against that of words."""
        if features_BC.dim() == 3:
            features_BC = features_BC.mean(1)
        return self.norm(self.view(features_BC))


class EmberNetwork(nn.Module):
    """`ember-nano` and `bitmar`: vision, reader, heads and decoder in one module."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = vision_of(config)
        self.image = ImageTokens(config)
        self.text = TextEncoder(config)
        self.fusion = Fusion(config) if config.is_fused else None
        self.memory = EpisodicMemory(config) if config.memory_slots else None
        self.reasoning = ReasoningSteps(config) if config.reasoning_width else None
        self.heads = DecisionHeads(config.text_width, has_value=config.reasoning_width > 0)
        self.ngrams = NgramScores(config.ngram_rows)
        self.decoder = ReasoningDecoder(config)
        self.match = Matching(config) if config.match_width else None
        self.plan = PlanSteps(config) if config.plan_width else None
        self.recall = PhotoRecall(config) if config.recall_rows else None

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
        N = image_BND.shape[1]
        if self.fusion is None:
            states_BSD = self.text(tokens_BT, mask_BT, image_BND)
        else:
            words_BTD = self.read_words(
                tokens_BT, mask_BT, features_BC, scene_BE, has_photo_B, has_view_B
            )
            words_BTD, image_BND = self.fusion(words_BTD, mask_BT, image_BND)
            states_BSD = torch.cat([image_BND, words_BTD], dim=1)
        mask_BS = torch.cat([mask_BT.new_ones(len(mask_BT), N), mask_BT], dim=1)
        words_BTD = states_BSD[:, N:]
        weight_BT1 = mask_BT.unsqueeze(-1).to(states_BSD.dtype)
        pooled_BD = (words_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
        if self.memory is not None:
            pooled_BD = self.memory(pooled_BD)
        thoughts_BKD = None
        if self.reasoning is not None:
            thoughts_BKD = self.reasoning(pooled_BD, words_BTD, mask_BT)
        return Encoded(states_BSD, mask_BS, pooled_BD, thoughts_BKD)

    def read_words(
        self,
        tokens_BT: Tensor,
        mask_BT: Tensor,
        features_BPC: Tensor,
        scene_BE: Tensor,
        has_photo_B: Tensor,
        has_view_B: Tensor,
    ) -> Tensor:
        """Return the states (B, T, D) of words that are to be fused with the photo's places.

        Where the configuration wants both, the whole photo's two tokens stand in front of them.
        """
        if self.config.fusion != "both":
            return self.text(tokens_BT, mask_BT, None)
        whole_B2D = self.image(features_BPC.mean(1), scene_BE, has_photo_B, has_view_B)
        return self.text(tokens_BT, mask_BT, whole_B2D)[:, 2:]

    def look(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, C), or (B, P, C) of a grid, and place logits (B, E) of photos."""
        if not self.config.image_grid:
            features_BC = self.vision(pixels_BCHW)
            if self.recall is not None:
                features_BC = self.recall(features_BC)
            return features_BC, self.image.scene(features_BC)
        places_BCHW = self.vision.places(pixels_BCHW)
        scene_BE = self.image.scene(places_BCHW.mean((2, 3)))
        return grid_of(places_BCHW, self.config.image_grid), scene_BE

    def see(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `look` does, with place probabilities (B, E)."""
        features_BC, scene_BE = self.look(pixels_BCHW)
        return features_BC, scene_BE.softmax(-1)

    def decide(self, encoded: Encoded, ngrams: Sequence[Sequence[int]] | None) -> dict[str, Tensor]:
        """Return all logits but the roles.

        With `ngrams`, the rows of each request's n-grams, the linear scores are added; leave them
        out where there is a photo, which the words' own habits must not speak against.
        """
        logits: dict[str, Tensor] = self.heads(encoded.pooled_BD, encoded.thoughts_BKD)
        if ngrams is not None:
            added_BX = self.ngrams(ngrams)
            logits["subsets"] = logits["subsets"] + added_BX[:, :SUBSETS]
            logits["environment"] = logits["environment"] + added_BX[:, SUBSETS:]
        return logits

    def place_photo(self, features_BC: Tensor) -> Tensor:
        """Return vectors of length 1, (B, M), of photos' features or of their grid's, to be held
        against those of words; without `match_width` they are the photo's token, (B, D)."""
        if self.match is None:
            return F.normalize(self.image.summary(features_BC), dim=-1)
        return self.match.place_photo(
            features_BC.mean(1) if features_BC.dim() == 3 else features_BC
        )

    def place_words(self, pooled_BD: Tensor, table_BD: Tensor) -> Tensor:
        """Return vectors of length 1, (B, M), of words as `read_alone` gives them; without
        `match_width` they are the mean of their states, (B, D)."""
        if self.match is None:
            return F.normalize(pooled_BD, dim=-1)
        return self.match.place_words(pooled_BD, table_BD)

    def read_alone(self, tokens_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return of words without a photo the mean of their states, and that of their vectors in
        the table, both (B, D)."""
        B, none_B = len(mask_BT), mask_BT.new_zeros(len(mask_BT))
        table_BTD = self.text.vectors(tokens_BT)
        features = table_BTD.new_zeros(B, *self.config.features_shape)
        scene_BE = table_BTD.new_zeros(B, len(ENVIRONMENTS))
        pooled_BD = self.encode(tokens_BT, mask_BT, features, scene_BE, none_B, none_B).pooled_BD
        weight_BT1 = mask_BT.unsqueeze(-1).to(table_BTD.dtype)
        return pooled_BD, (table_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)

    def roles(self, encoded: Encoded, marks_BM: Tensor) -> Tensor:
        """Return the logits (B, M, roles) of each quantity mark; `marks_BM` counts from the first
        word."""
        N = self.config.image_tokens
        index = (marks_BM + N).unsqueeze(-1).expand(-1, -1, encoded.states_BSD.shape[-1])
        logits: Tensor = self.heads.roles(encoded.states_BSD.gather(1, index))
        return logits


def vision_of(config: EmberConfig) -> Any:
    """Return the network for photos, with random weights; it gives what MobileNetV2 does."""
    if config.vision == "mobilenet-v2":
        return MobileNetV2(last_channels=0)
    from embervlm.models.dinov2 import Dinov2Vision  # transformers, which the small one needs not

    return Dinov2Vision(config.vision)


def grid_of(places_BCHW: Tensor, side: int) -> Tensor:
    """Return the features (B, P, C) of a grid of `side` x `side` places, row by row."""
    return F.adaptive_avg_pool2d(places_BCHW, side).flatten(2).transpose(1, 2)


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
    """Read what `save_network` wrote of `ember-nano` or `bitmar`; `presets.load` reads all
    families.

    Raises:
        ValueError: the file cannot be read, or holds no configuration, one of another family, or
            another one than its weights have.
    """
    try:
        with safe_open(path, "pt") as file:
            config = from_metadata(file.metadata(), path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); give the network.safetensors of a run."
        ) from error
    if not isinstance(config, EmberConfig):
        raise ValueError(
            f"{path} is of the family {config.family}; this needs ember-nano or bitmar."
        )
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
