"""DINOv2 as the eye (Oquab et al. 2023), through transformers, by the names of its publisher.

    vision = Dinov2Vision.from_pretrained("facebook/dinov2-small")    # or a local folder
    places_BCHW = vision.places(pixels_BCHW)       # pixels of `embervlm.imaging.preprocess`

It is a network of 22 M ("small") or 87 M parameters ("base"), for a larger machine; what it says of
photos can be written to disk once (`training/photo_grid.py`). The engine does not run it.

Axes: B batch, C channels, H height, W width, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Of each published size: width, layers, heads.
SIZES = {"dinov2-small": (384, 12, 6), "dinov2-base": (768, 12, 12)}
# Of ImageNet, as its image processor says.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class Dinov2Vision(nn.Module):
    """A photo to the features of its places, one for each 14 x 14 pixels.

    Attributes:
        channels: the width of the features.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: str, **sizes: int) -> None:
        """Make one with random weights; `sizes` are keys of `Dinov2Config`, for a smaller one."""
        from transformers import Dinov2Config, Dinov2Model

        super().__init__()
        width, layers, heads = SIZES[size]
        given: dict[str, Any] = {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
        }
        self.model = Dinov2Model(Dinov2Config(**{**given, **sizes}))
        self.channels = int(self.model.config.hidden_size)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    @classmethod
    def from_pretrained(cls, name: str) -> Dinov2Vision:
        """Load published weights by their name on the hub, or from a folder.

        Raises:
            ValueError: they cannot be had, or are not DINOv2's.
        """
        from transformers import Dinov2Model

        try:
            model = Dinov2Model.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{name} cannot be loaded as DINOv2 ({reason}); give its folder or a name on the "
                "hub, such as facebook/dinov2-small."
            ) from error
        vision = cls.__new__(cls)
        nn.Module.__init__(vision)
        vision.model = model
        vision.channels = int(model.config.hidden_size)
        vision.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        vision.register_buffer(
            "deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False
        )
        return vision

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the mean of the places' features, (B, channels)."""
        return self.places(pixels_BCHW).mean((2, 3))

    def places(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the features (B, channels, H / 14, W / 14) of pixels (v - 128) / 128."""
        side = self.model.config.patch_size
        assert isinstance(side, int), "DINOv2's patches are squares"
        B, _, H, W = pixels_BCHW.shape
        scaled_BCHW = (pixels_BCHW * 128 + 128) / 255
        found = self.model((scaled_BCHW - self.mean) / self.deviation)
        # The first token stands for the whole picture.
        patches_BTC: Tensor = found.last_hidden_state[:, 1:]
        return patches_BTC.transpose(1, 2).reshape(B, -1, H // side, W // side)
