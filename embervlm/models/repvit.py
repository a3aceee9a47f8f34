"""RepViT-M0.9, the eye of `ember-37m`.

Wang et al. 2023, "RepViT: Revisiting Mobile CNN From ViT Perspective" (section 3, figure 3):
a convolutional network built like a vision transformer. A block mixes places first (a 3x3 filter
for each channel), then channels (two 1x1 convolutions, 2x wide). Parameter names are timm's, so
that the checkpoint `timm/repvit_m0_9.dist_450e_in1k` (Apache-2.0) loads; its classifiers are left
out.

    vision = RepViT()
    load_repvit(vision, load_published("timm/repvit_m0_9.dist_450e_in1k"))
    features_BNC = fuse(vision.eval())(pixels_BCHW)      # (B, 49, 384) of 224 x 224 pixels

"Re-parameterisation": while it trains, a place mixer is the sum of a 3x3 filter, a 1x1 filter and
the identity, each step normalised. All of that is linear once the statistics are fixed, so `fuse`
writes it as one 3x3 filter. The formulas are at `fold_norm` and `PlaceMixer.fuse`.

Axes: B batch, C channels, H height, W width, N places (H x W of the last stage), O output channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.published import LoadReport, Published, fill

WIDTHS = (48, 96, 192, 384)
DEPTHS = (2, 2, 14, 2)
# Pixels to one place of the last stage: the stem divides by 4, each later stage by 2.
STRIDE = 32
EXPANSION = 2
# Squeeze-and-excitation passes through a quarter of the channels, rounded to a multiple of 8.
SQUEEZE = 4
SQUEEZE_MULTIPLE = 8

# What the public weights expect of red, green and blue in [0, 1]: ImageNet's mean and deviation.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class RepViT(nn.Module):
    """Pixels to a grid of features: 4.7 M parameters with the paper's sizes.

    Args:
        widths: channels of each stage; the first stage works at a quarter of the image's size, each
            later one at half of the one before.
        depths: blocks of each stage, less the one that begins a later stage.

    Attributes:
        channels: the width of the features.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, depths: Sequence[int] = DEPTHS) -> None:
        super().__init__()
        self.stem = Stem(widths[0])
        before = [None, *widths[:-1]]
        self.stages = nn.Sequential(*map(Stage, before, widths, depths))
        self.channels = widths[-1]
        # value / 255 = (pixel * 128 + 128) / 255, then less the mean, over the deviation. Kept
        # apart from the stem: its zero padding stands for the mean colour.
        mean_C11, std_C11 = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale_C11", 128 / 255 / std_C11, persistent=False)
        self.register_buffer("shift_C11", (128 / 255 - mean_C11) / std_C11, persistent=False)
        self.scale_C11: Tensor
        self.shift_C11: Tensor

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return features (B, N, channels), row by row, of pixels from `imaging.preprocess`.

        H and W are multiples of 32, pixels in [-1, 1); N is (H / 32) (W / 32).
        """
        x_BCHW = self.stages(self.stem(pixels_BCHW * self.scale_C11 + self.shift_C11))
        return x_BCHW.flatten(2).transpose(1, 2)


class ConvNorm(nn.Module):
    """A convolution without bias and a batch normalisation; padding keeps the size at stride 1."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the normalised output."""
        return self.bn(self.c(x_BCHW))

    def fuse(self) -> nn.Conv2d:
        """Return one convolution with bias that computes the same in evaluation."""
        return convolution_like(self.c, *fold_norm(self.c.weight, None, self.bn))


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2: a quarter of the height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels // 2, kernel=3, stride=2)
        self.conv2 = ConvNorm(channels // 2, channels, kernel=3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, channels, H / 4, W / 4)."""
        return self.conv2(F.gelu(self.conv1(x_BCHW)))


class PlaceMixer(nn.Module):
    """Looks at a channel's neighbourhood in three ways at once: 3x3, 1x1 and as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, kernel=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the normalised sum, of the same shape."""
        return self.bn(self.conv(x_BCHW) + self.conv1(x_BCHW) + x_BCHW)

    def fuse(self) -> nn.Conv2d:
        """Return the one 3x3 filter a channel that computes the same in evaluation.

        The 1x1 filter and the identity are 3x3 filters that are zero but for the centre:
        kernel = norm(3x3 + centre * (1x1 + 1)).
        """
        conv = self.conv.fuse()
        assert conv.bias is not None and self.conv1.bias is not None
        kernel_O133 = conv.weight + F.pad(self.conv1.weight + 1, (1, 1, 1, 1))
        folded = fold_norm(kernel_O133, conv.bias + self.conv1.bias, self.bn)
        return convolution_like(self.conv.c, *folded)


class ChannelMixer(nn.Module):
    """Two 1x1 convolutions; the second starts at zero, so that a new block is the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, EXPANSION * channels)
        self.conv2 = ConvNorm(EXPANSION * channels, channels)
        nn.init.zeros_(self.conv2.bn.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return what the block adds to its input."""
        return self.conv2(F.gelu(self.conv1(x_BCHW)))


class SqueezeExcite(nn.Module):
    """Scales each channel by what the whole image says (Hu et al. 2018, section 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = squeezed(channels)
        self.fc1 = nn.Conv2d(channels, narrow, 1)
        self.fc2 = nn.Conv2d(narrow, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the scaled channels."""
        mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
        return x_BCHW * self.fc2(F.relu(self.fc1(mean_BC11))).sigmoid()


class Block(nn.Module):
    """Mix places, perhaps squeeze and excite, then mix channels beside a shortcut."""

    def __init__(self, channels: int, has_excite: bool) -> None:
        super().__init__()
        self.token_mixer = PlaceMixer(channels)
        self.se = SqueezeExcite(channels) if has_excite else nn.Identity()
        self.channel_mixer = ChannelMixer(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's output, of the same shape."""
        x_BCHW = self.se(self.token_mixer(x_BCHW))
        return x_BCHW + self.channel_mixer(x_BCHW)


class Downsample(nn.Module):
    """Between two stages: a block, half the height and width, other channels, a channel mixer."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pre_block = Block(in_channels, has_excite=False)
        self.spatial_downsample = ConvNorm(in_channels, in_channels, 3, 2, groups=in_channels)
        self.channel_downsample = ConvNorm(in_channels, channels)
        self.ffn = ChannelMixer(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, channels, H / 2, W / 2)."""
        x_BCHW = self.spatial_downsample(self.pre_block(x_BCHW))
        x_BCHW = self.channel_downsample(x_BCHW)
        return x_BCHW + self.ffn(x_BCHW)


class Stage(nn.Module):
    """Blocks of one size; every other one, from the first, squeezes and excites (section 3.4).

    `in_channels` is None for the first stage, which begins without a `Downsample`.
    """

    def __init__(self, in_channels: int | None, channels: int, depth: int) -> None:
        super().__init__()
        self.downsample = Downsample(in_channels, channels) if in_channels else nn.Identity()
        self.blocks = nn.Sequential(*(Block(channels, i % 2 == 0) for i in range(depth)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the stage's output."""
        return self.blocks(self.downsample(x_BCHW))


def fuse(vision: RepViT) -> RepViT:
    """Return a copy for inference, without a batch normalisation: each place mixer one filter.

    It equals `vision.eval()` but for rounding, and cannot be trained on as `vision` can.
    """
    fused = copy.deepcopy(vision).eval()
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvNorm | PlaceMixer):
                setattr(parent, name, child.fuse())
    return fused.requires_grad_(False)


def load_repvit(vision: RepViT, published: Published) -> LoadReport:
    """Fill `vision` with timm's tensors, all but the classifiers (`head.*`).

    Raises:
        ValueError: the names or shapes are not those of `vision`.
    """
    heads = {name for name in published.tensors if name.startswith("head.")}
    kept = {name: value for name, value in published.tensors.items() if name not in heads}
    return fill(vision, kept, source=published.source, dropped=sorted(heads))


def fold_norm(
    kernel_OCHW: Tensor, bias_O: Tensor | None, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of norm(kernel * x + bias) with the norm's fixed statistics.

    scale = weight / sqrt(variance + eps); kernel' = scale kernel; bias' = scale (bias - mean) +
    the norm's bias. `bias_O` is None where there is none.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale_O = norm.weight / (norm.running_var + norm.eps).sqrt()
    shifted_O = -norm.running_mean if bias_O is None else bias_O - norm.running_mean
    return kernel_OCHW * scale_O[:, None, None, None], scale_O * shifted_O + norm.bias


def convolution_like(model: nn.Conv2d, kernel_OCHW: Tensor, bias_O: Tensor) -> nn.Conv2d:
    """Return a convolution with stride, padding and groups of `model` and these weights."""
    fused = copy.deepcopy(model)
    fused.weight = nn.Parameter(kernel_OCHW.detach().clone())
    fused.bias = nn.Parameter(bias_O.detach().clone())
    return fused


def squeezed(channels: int) -> int:
    """Return how many channels squeeze-and-excitation passes through: 48 -> 16, 384 -> 96."""
    multiples = (channels // SQUEEZE + SQUEEZE_MULTIPLE // 2) // SQUEEZE_MULTIPLE
    return max(multiples, 1) * SQUEEZE_MULTIPLE
