"""Photos and words in a space of their own, in which a photo lies near what is said of it.

CLIP (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision")
projects both sides linearly behind its encoders; so here:

    v = unit(P norm(c) + p)                 c: the mean of the photo's features
    w = unit(R [norm(d), norm(e)] + r)      d: the mean of the words' states behind the reader
                                            e: the mean of their vectors in the table

norm takes away the mean of a vector and divides by its spread. No head reads this space, so it can
be learnt last, with all else as it is, and no decision changes (`training/matching.py`).

Axes: B batch, C image channels, D width, M width of the space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.configuration import EmberConfig


class Matching(nn.Module):
    """The two projections; see the head of this file."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.photo = nn.Linear(config.image_width, config.match_width)
        self.words = nn.Linear(2 * config.text_width, config.match_width)

    def place_photo(self, features_BC: Tensor) -> Tensor:
        """Return where photos lie, (B, M), each of length 1."""
        return F.normalize(self.photo(photo_inputs(features_BC)), dim=-1)

    def place_words(self, pooled_BD: Tensor, table_BD: Tensor) -> Tensor:
        """Return where words lie, (B, M), each of length 1."""
        return F.normalize(self.words(word_inputs(pooled_BD, table_BD)), dim=-1)


def photo_inputs(features_BC: Tensor) -> Tensor:
    """Return what the photo's projection reads, (B, C)."""
    return _norm(features_BC)


def word_inputs(pooled_BD: Tensor, table_BD: Tensor) -> Tensor:
    """Return what the words' projection reads, (B, 2 D)."""
    return torch.cat([_norm(pooled_BD), _norm(table_BD)], dim=-1)


def _norm(x_BD: Tensor) -> Tensor:
    return F.layer_norm(x_BD, x_BD.shape[-1:])
