"""MobileNetV2 in plain NumPy: for boards without PyTorch, and the reference for every other engine.

The pictures are kept as H x W x C, so that a 1x1 convolution is one matrix product, and a depthwise
3x3 convolution is nine multiply-adds of shifted views. `embervlm.models.vision` is the same network
in PyTorch; a test holds the two together.

Axes: H height, W width, C channels, O output channels.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def mobilenet_v2_places(
    weights: Mapping[str, Float], pixels_CHW: Float, *, prefix: str = "vision."
) -> Float:
    """Return the features (H / 32, W / 32, channels) of a photo from `embervlm.imaging.preprocess`.

    Args:
        weights: the checkpoint's tensors, in PyTorch's layout (O, C, H, W): `vision.stem.weight`,
            `vision.blocks.0.depthwise.bias` and so on; other names are not looked at. Where there
            is no `vision.last.weight`, the features are those of the last bottleneck.
        pixels_CHW: float32 in [-1, 1), shape (3, H, W).
        prefix: what stands before the names of the network's tensors.

    Raises:
        ValueError: `pixels_CHW` does not have three channels.
    """
    if pixels_CHW.ndim != 3 or pixels_CHW.shape[0] != 3:
        raise ValueError(f"got pixels of shape {pixels_CHW.shape}, expected (3, H, W)")

    def layer(name: str) -> tuple[Float, Float]:
        return weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"]

    image_HWC = np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0), dtype=np.float32)
    x_HWC = _relu6(_convolution(image_HWC, *layer("stem"), stride=2))
    block = 0
    while f"{prefix}blocks.{block}.project.weight" in weights:
        name = f"blocks.{block}"
        hidden = x_HWC
        if f"{prefix}{name}.expand.weight" in weights:
            hidden = _relu6(_pointwise(hidden, *layer(f"{name}.expand")))
        hidden = _relu6(_depthwise(hidden, *layer(f"{name}.depthwise"), stride=stride_of(block)))
        out_HWC = _pointwise(hidden, *layer(f"{name}.project"))
        if out_HWC.shape == x_HWC.shape:
            out_HWC += x_HWC
        x_HWC = out_HWC
        block += 1
    if f"{prefix}last.weight" in weights:
        x_HWC = _relu6(_pointwise(x_HWC, *layer("last")))
    return x_HWC


def pool_grid(x_HWC: Float, side: int) -> Float:
    """Return the features (side x side, C) of a grid, row by row: each the mean of the pixels that
    its place touches, as PyTorch's adaptive average pooling."""

    def parts(size: int) -> list[slice]:
        return [slice(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]

    down, right = parts(x_HWC.shape[0]), parts(x_HWC.shape[1])
    return np.stack([x_HWC[rows, columns].mean((0, 1)) for rows in down for columns in right])


def stride_of(block: int) -> int:
    """Return the stride of a block: 2 where the paper's table 2 halves the picture."""
    return 2 if block in (1, 3, 6, 13) else 1


def _relu6(x: Float) -> Float:
    return np.clip(x, 0, 6, out=x)


def _pointwise(x_HWC: Float, kernel_OC11: Float, bias_O: Float) -> Float:
    """A 1x1 convolution: every pixel's channels times one matrix."""
    height, width, channels = x_HWC.shape
    out = x_HWC.reshape(-1, channels) @ kernel_OC11.reshape(-1, channels).T
    out += bias_O
    return out.reshape(height, width, -1)


def _depthwise(x_HWC: Float, kernel_C1HW: Float, bias_C: Float, *, stride: int) -> Float:
    """A 3x3 convolution of each channel by itself, as nine shifted multiply-adds."""
    padded_HWC, height, width = _pad_same(x_HWC, stride)
    taps_HWC = np.ascontiguousarray(kernel_C1HW[:, 0].transpose(1, 2, 0))
    out_HWC = np.empty((height, width, x_HWC.shape[2]), dtype=np.float32)
    product_WC = np.empty(out_HWC.shape[1:], dtype=np.float32)
    # Row by row, so that the sum and the product stay in the processor's cache.
    for row in range(height):
        sum_WC = out_HWC[row]
        sum_WC[:] = bias_C
        for down in range(3):
            line_WC = padded_HWC[row * stride + down]
            for right in range(3):
                shifted_WC = line_WC[right : right + stride * width : stride][:width]
                np.multiply(shifted_WC, taps_HWC[down, right], out=product_WC)
                sum_WC += product_WC
    return out_HWC


def _convolution(x_HWC: Float, kernel_OCHW: Float, bias_O: Float, *, stride: int) -> Float:
    """A full 3x3 convolution: gather the nine neighbours of each pixel, then one matrix product."""
    padded_HWC, height, width = _pad_same(x_HWC, stride)
    neighbours = [
        padded_HWC[down : down + stride * height : stride, right : right + stride * width : stride]
        for down in range(3)
        for right in range(3)
    ]
    patches = np.concatenate([view[:height, :width] for view in neighbours], axis=2)
    kernel_OC11 = kernel_OCHW.transpose(0, 2, 3, 1).reshape(len(kernel_OCHW), -1, 1, 1)
    return _pointwise(patches, kernel_OC11, bias_O)


def _pad_same(x_HWC: Float, stride: int) -> tuple[Float, int, int]:
    """Pad for a 3x3 filter as TensorFlow's SAME does; return also the height and width after it."""
    height, width, channels = x_HWC.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    down = max((out_height - 1) * stride + 3 - height, 0)
    right = max((out_width - 1) * stride + 3 - width, 0)
    padded_HWC = np.zeros((height + down, width + right, channels), dtype=np.float32)
    top, left = down // 2, right // 2
    padded_HWC[top : top + height, left : left + width] = x_HWC
    return padded_HWC, out_height, out_width
