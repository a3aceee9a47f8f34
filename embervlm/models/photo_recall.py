"""A photo, told by the training photos that look most like it.

    recall = PhotoRecall(config)                         # config.recall_width 96
    steadier_BC = recall(features_BC)

Between what the eye sees and all that reads it lies a table of looks: what training photos look
like, as rows in a narrow space. A photo becomes the mean of the rows near it, weighted by how near
they are (a modern Hopfield network's step, Ramsauer et al. 2021), and keeps its own strength. All
rows are equally long, and the longer, the more the nearest counts before the others. What no
training photo has, words painted in, noise, a smear, has no row and is lost on the way; so two
views of one place end nearer to each other than they began. Nothing here is learnt by descent:
`export/photo_recall.py` makes the table of what the finished eye sees.

Axes: B batch, C image channels, W width of the space, R rows.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.configuration import EmberConfig


class PhotoRecall(nn.Module):
    """The table, with the way into its space and back."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.key = nn.Linear(config.image_width, config.recall_width)
        self.rows = nn.Linear(config.recall_width, config.recall_rows, bias=False)
        nn.init.normal_(self.rows.weight)
        self.value = nn.Linear(config.recall_width, config.image_width)

    def forward(self, features_BC: Tensor) -> Tensor:
        """Return features (B, C) as the rows near them tell them."""
        look_BW = self.key(features_BC)
        near_BR = self.rows(F.normalize(look_BW, dim=-1))
        found_BW = near_BR.softmax(-1) @ self.rows.weight
        strength_B1 = look_BW.norm(dim=-1, keepdim=True)
        told_BC: Tensor = self.value(F.normalize(found_BW, dim=-1) * strength_B1)
        return told_BC
