"""MobileNetV2, the eye of the small models, and its public weights.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), width 1.0, table 2.
Batch normalisation is folded into the convolutions from the start, because the public weights come
that way (a quantised TensorFlow Lite file, Apache-2.0) and because every backend wants it so. The
padding is TensorFlow's SAME, which adds more at the right and the bottom.

    vision = MobileNetV2.from_tflite("mobilenet_v2_1.0_224_quant.tflite")
    features_BC = vision(pixels_BCHW)                    # pixels of `embervlm.imaging.preprocess`

Axes: B batch, C channels, H height, W width, O output channels.
"""

import struct
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

STEM_CHANNELS = 32
# Expansion, output channels, repeats, stride of the first: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """Pixels to one vector: 2.2 M parameters with the last convolution, 1.8 M without.

    Args:
        last_channels: width of the last 1x1 convolution, 1280 in the paper. With 0 there is none
            and the features are the mean of the last bottleneck, 320 wide.

    Attributes:
        channels: the width of the features.
    """

    def __init__(self, last_channels: int = 0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2)
        blocks, width = [], STEM_CHANNELS
        for expansion, channels, repeats, stride in STAGES:
            for index in range(repeats):
                blocks.append(
                    InvertedResidual(width, channels, expansion, stride if index == 0 else 1)
                )
                width = channels
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(width, last_channels, 1) if last_channels else None
        self.channels = last_channels or width

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the features, shape (B, channels), of pixels in [-1, 1) of any size."""
        return self.places(pixels_BCHW).mean((2, 3))

    def places(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the features of each place of the picture, (B, channels, H / 32, W / 32)."""
        x_BCHW = F.relu6(self.stem(pad_same(pixels_BCHW, stride=2)), inplace=True)
        for block in self.blocks:
            x_BCHW = block(x_BCHW)
        if self.last is not None:
            x_BCHW = F.relu6(self.last(x_BCHW), inplace=True)
        return x_BCHW

    @classmethod
    def from_tflite(cls, path: str | Path, last_channels: int = 0) -> Self:
        """Return the network with the weights of a TensorFlow Lite file (see `load_tflite`).

        Raises:
            ValueError: the file holds no MobileNetV2 1.0, or `last_channels` is not its 1280 or 0.
        """
        model = cls(last_channels)
        weights = load_tflite(path)
        try:
            model.load_state_dict({name: weights[name] for name in model.state_dict()})
        except RuntimeError as error:
            raise ValueError(f"{path} has other shapes than this MobileNetV2: {error}") from error
        return model


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; add the input where the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.stride = stride
        self.is_residual = stride == 1 and in_channels == out_channels
        self.expand = nn.Conv2d(in_channels, hidden, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(
            hidden, hidden, 3, stride, padding=1 if stride == 1 else 0, groups=hidden
        )
        self.project = nn.Conv2d(hidden, out_channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's output; at stride 2 it has half the height and width."""
        hidden = x_BCHW
        if self.expand is not None:
            hidden = F.relu6(self.expand(hidden), inplace=True)
        if self.stride == 2:
            hidden = pad_same(hidden, stride=2)
        hidden = F.relu6(self.depthwise(hidden), inplace=True)
        out_BCHW: Tensor = self.project(hidden)
        return x_BCHW + out_BCHW if self.is_residual else out_BCHW


def pad_same(x_BCHW: Tensor, stride: int, kernel: int = 3) -> Tensor:
    """Pad as TensorFlow's SAME does: n becomes ceil(n / stride), the odd pixel right and below."""
    height, width = x_BCHW.shape[2:]
    down = max((-(-height // stride) - 1) * stride + kernel - height, 0)
    right = max((-(-width // stride) - 1) * stride + kernel - width, 0)
    return F.pad(x_BCHW, (right // 2, right - right // 2, down // 2, down - down // 2))


def load_tflite(path: str | Path) -> dict[str, Tensor]:
    """Read a quantised MobileNetV2 1.0 and return float32 tensors under the names of `MobileNetV2`.

    The classifier over ImageNet's 1000 classes and the background (class 0) comes too, as
    `classifier.weight` (1001, 1280) and `classifier.bias`. A quantised value q stands for
    (q - zero point) * scale, with one scale per tensor or one per channel.

    Raises:
        ValueError: the file is no TensorFlow Lite model, or its layers are not MobileNetV2's.
    """
    data = Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(f"{path} is no TensorFlow Lite model: expected TFL3, got {data[4:8]!r}")
    try:
        convolutions = _read_convolutions(data)
    except (struct.error, LookupError, ValueError) as error:
        raise ValueError(
            f"{path} is a damaged or foreign TensorFlow Lite model: {error}"
        ) from error
    names = _layer_names()
    if len(convolutions) != len(names):
        raise ValueError(
            f"{path} has {len(convolutions)} convolutions, expected MobileNetV2's {len(names)}"
        )
    weights = {}
    for name, (kernel, bias) in zip(names, convolutions, strict=True):
        weights[f"{name}.weight"] = torch.from_numpy(kernel)
        weights[f"{name}.bias"] = torch.from_numpy(bias)
    weights["classifier.weight"] = weights["classifier.weight"].flatten(1)
    return weights


def _layer_names() -> list[str]:
    """Name the convolutions of the file in the order in which they run."""
    names = ["stem"]
    block = 0
    for expansion, _, repeats, _ in STAGES:
        for _ in range(repeats):
            layers = (
                ("expand", "depthwise", "project") if expansion > 1 else ("depthwise", "project")
            )
            names += [f"blocks.{block}.{layer}" for layer in layers]
            block += 1
    return [*names, "last", "classifier"]


# The few fields of TensorFlow Lite's schema that are read here, by their number in each table.
_MODEL_OPERATOR_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_GRAPH_TENSORS, _GRAPH_OPERATORS = 0, 3
_OPERATOR_CODE, _OPERATOR_INPUTS = 0, 1
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_QUANTIZATION = 0, 1, 2, 4
_QUANTIZATION_SCALE, _QUANTIZATION_ZERO, _QUANTIZATION_AXIS = 2, 3, 6
_CONVOLUTION, _DEPTHWISE = 3, 4
_DTYPES = {0: np.float32, 2: np.int32, 3: np.uint8, 9: np.int8}

Float = NDArray[np.float32]


class _Table:
    """One table of a FlatBuffer: a list of optional fields, found through a table of offsets."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.offsets_at = at - self._number("<i", at)

    def number(self, field: int, layout: str) -> int:
        """Return the number in a field, 0 where it is absent."""
        at = self._find(field)
        return self._number(layout, at) if at else 0

    def array(self, field: int, dtype: type[np.generic]) -> NDArray[Any]:
        """Return the vector of numbers in a field, empty where it is absent."""
        at = self._find(field)
        if not at:
            return np.empty(0, dtype)
        at += self._number("<I", at)
        return np.frombuffer(self.data, dtype, count=self._number("<I", at), offset=at + 4)

    def table(self, field: int) -> "_Table":
        """Return the table in a field.

        Raises:
            IndexError: the field is absent.
        """
        at = self._find(field)
        if not at:
            raise IndexError(f"field {field} is absent")
        return _Table(self.data, at + self._number("<I", at))

    def tables(self, field: int) -> list["_Table"]:
        """Return the vector of tables in a field."""
        at = self._find(field)
        if not at:
            return []
        at += self._number("<I", at)
        starts = range(at + 4, at + 4 + 4 * self._number("<I", at), 4)
        return [_Table(self.data, start + self._number("<I", start)) for start in starts]

    def _find(self, field: int) -> int:
        slot = 4 + 2 * field
        if slot >= self._number("<H", self.offsets_at):
            return 0
        offset = self._number("<H", self.offsets_at + slot)
        return self.at + offset if offset else 0

    def _number(self, layout: str, at: int) -> int:
        return int(struct.unpack_from(layout, self.data, at)[0])


def _read_convolutions(data: bytes) -> list[tuple[Float, Float]]:
    """Return kernel (O, C, H, W) and bias (O,) of each convolution, in the order of the file."""
    model = _Table(data, struct.unpack_from("<I", data)[0])
    codes = [code.number(0, "<b") for code in model.tables(_MODEL_OPERATOR_CODES)]
    graph = model.tables(_MODEL_SUBGRAPHS)[0]
    tensors, buffers = graph.tables(_GRAPH_TENSORS), model.tables(_MODEL_BUFFERS)
    found = []
    for operator in graph.tables(_GRAPH_OPERATORS):
        code = codes[operator.number(_OPERATOR_CODE, "<I")]
        if code not in (_CONVOLUTION, _DEPTHWISE):
            continue
        _, kernel_index, bias_index = operator.array(_OPERATOR_INPUTS, np.int32).tolist()
        kernel = _dequantise(tensors[kernel_index], buffers)
        # TensorFlow: O, H, W, C, and 1, H, W, O where each channel has its own filter.
        kernel = kernel.transpose((0, 3, 1, 2) if code == _CONVOLUTION else (3, 0, 1, 2))
        found.append((np.ascontiguousarray(kernel), _dequantise(tensors[bias_index], buffers)))
    return found


def _dequantise(tensor: _Table, buffers: list[_Table]) -> Float:
    dtype = _DTYPES[tensor.number(_TENSOR_TYPE, "<b")]
    values = buffers[tensor.number(_TENSOR_BUFFER, "<I")].array(0, np.uint8).view(dtype)
    values = values.reshape(tensor.array(_TENSOR_SHAPE, np.int32).tolist())
    if dtype is np.float32:
        return values.astype(np.float32)
    quantization = tensor.table(_TENSOR_QUANTIZATION)
    along = [1] * values.ndim
    along[quantization.number(_QUANTIZATION_AXIS, "<i") if values.ndim else 0] = -1
    scale = quantization.array(_QUANTIZATION_SCALE, np.float32).astype(np.float64).reshape(along)
    zero = quantization.array(_QUANTIZATION_ZERO, np.int64).reshape(along)
    real: Float = ((values.astype(np.int64) - zero) * scale).astype(np.float32)
    return real
