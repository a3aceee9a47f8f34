"""Write a model as a folder of ONNX graphs, for ONNX Runtime and whatever else reads them.

    embervlm export onnx --out FOLDER --bits 8

The folder is self-sufficient: `backends/onnx.py` says what lies in it, and `model.json` tells a
stranger the inputs, outputs, labels and the pixels' range. The bits are those of the weights:

    32  everything float32
     8  matrices int8 with a scale a column, activations rounded to eight bits as they come;
        convolutions int8 with a scale a channel, their activations' ranges seen on photos
     4  matrices in blocks of 32 (MatMulNBits), w = (q - 8) * scale; convolutions as with 8

Int8 weights keep to -64..63: without VNNI, ONNX Runtime adds pairs of products in 16 bits, which a
whole byte would overflow (its documentation's reduce_range).

With 8 and 4 the tables of which single rows are read are int8 with a scale a row; the heads stay
float32, since the calibration was fitted on their logits.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from embervlm.backends.onnx import DESCRIPTION, FORMAT, PLAN, TOKENIZER, plan_weights
from embervlm.backends.onnx_graphs import build_graphs
from embervlm.checkpoint import SMALLEST_QUANTISED, Checkpoint, load_checkpoint, quantise
from embervlm.fleet import ACTIONS, ENVIRONMENTS, NO_ROBOT, Fleet
from embervlm.imaging import load_image, preprocess
from embervlm.scenario import FLAGS, QUANTITIES

BITS = (32, 8, 4)
BLOCK = 32
MAX_PHOTOS = 200
DEMO_PHOTO = Path(__file__).parents[1] / "demo" / "seabed.jpg"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_KEPT = ("heads.", "decoder.gate")

Array = NDArray[np.float32]


def export(
    model: str | Path | None, out: str | Path, bits: int = 32, photos: str | Path | None = None
) -> None:
    """Write a model (None: the one that ships) to the folder `out`; see `write_folder`.

    Raises:
        ValueError: unknown bits, no sound model, or no photo in `photos`.
    """
    if bits not in BITS:
        raise ValueError(f"Unknown bits {bits}; there are {', '.join(map(str, BITS))}.")
    write_folder(load_checkpoint(model), Path(out), bits, photos)


def write_folder(
    checkpoint: Checkpoint, folder: Path, bits: int, photos: str | Path | None = None
) -> None:
    """Write the graphs, the tokenizer and, last, the description with everybody's checksum.

    Below 32 bits the ranges of the convolutions' activations are taken from the photos of a folder
    and of the folders in it, at most MAX_PHOTOS, evenly spread; or where it is None from the demo
    photo, its quarters and their mirrors.
    """
    graphs = build_graphs(checkpoint)
    interface = {name: _interface(graph.graph) for name, graph in graphs.items()}
    if bits < 32:
        size = int(checkpoint.config["image_size"])
        graphs["vision"] = quantise_convolutions(graphs["vision"], _pixels(photos, size))
        narrow = quantise_dynamically if bits == 8 else pack_four_bits
        for name in ("prefill", "step"):
            graphs[name] = narrow(quantise_tables(graphs[name]))
    with TemporaryDirectory() as place:
        saved = Path(place) / TOKENIZER
        checkpoint.tokenizer.save(saved)
        contents = {TOKENIZER: saved.read_bytes()}
    for name, graph in graphs.items():
        contents[f"{name}.onnx"] = graph.SerializeToString()
    if plan := plan_weights(checkpoint.weights):
        packed = io.BytesIO()
        halves: Any = {name: value.astype(np.float16) for name, value in plan.items()}
        np.savez(packed, **halves)
        contents[PLAN] = packed.getvalue()
    description = {
        "format": FORMAT,
        "bits": bits,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "config": checkpoint.config,
        "calibration": checkpoint.calibration,
        "graphs": interface,
        "labels": _labels(),
        "preprocessing": {
            "size": checkpoint.config["image_size"],
            "resize": "shorter side to size, bilinear with averaging, centre crop",
            "layout": "NCHW, red green blue",
            "value": "(byte - 128) / 128",
        },
    }
    contents[DESCRIPTION] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        _write(folder / name, content)


def quantise_convolutions(model: onnx.ModelProto, pixels_BCHW: Sequence[Array]) -> onnx.ModelProto:
    """Return the graph with eight-bit convolutions, the ranges of activations as in these photos.

    What stands behind the pooling is small and stays float32.
    """
    nodes = list(model.graph.node)
    pooling = next(i for i, node in enumerate(nodes) if node.op_type == "GlobalAveragePool")
    _mark_prepared(model)
    with TemporaryDirectory() as place:
        path = Path(place) / "quantised.onnx"
        quantization.quantize_static(
            model,
            path,
            _Photos(pixels_BCHW),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Clip", "Add"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[node.name for node in nodes[pooling:]],
        )
        return onnx.load(path)


def quantise_dynamically(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with int8 matrices, a scale for each column."""
    _mark_prepared(model)
    with TemporaryDirectory() as place:
        path = Path(place) / "quantised.onnx"
        quantization.quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[n.name for n in model.graph.node if n.name.startswith(_KEPT)],
        )
        return onnx.load(path)


def pack_four_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its products by constant matrices as MatMulNBits."""
    packed = onnx.ModelProto()
    packed.CopyFrom(model)
    weights = _initializers(packed)
    for node in packed.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights or node.name.startswith(_KEPT):
            continue
        name = node.input[1]
        matrix_KN = numpy_helper.to_array(weights[name])
        whole, scale = four_bit_blocks(matrix_KN)
        _replace(packed, name, {f"{name}.q4": whole, f"{name}.scale": scale})
        replacement = helper.make_node(
            "MatMulNBits",
            [node.input[0], f"{name}.q4", f"{name}.scale"],
            list(node.output),
            name=node.name,
            domain="com.microsoft",
            K=matrix_KN.shape[0],
            N=matrix_KN.shape[1],
            bits=4,
            block_size=BLOCK,
            accuracy_level=4,
        )
        node.CopyFrom(replacement)
    packed.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return packed


def four_bit_blocks(matrix_KN: Array) -> tuple[NDArray[np.uint8], Array]:
    """Return what MatMulNBits reads: (N, blocks, 16) bytes, the even row in the low half, and
    scales (N, blocks).

    w = (q - 8) * scale, so that the value of the largest size in a block is -8 scales; rows that
    fill up the last block are 0.
    """
    K, N = matrix_KN.shape
    blocks = -(-K // BLOCK)
    rows = np.zeros((N, blocks * BLOCK), dtype=np.float32)
    rows[:, :K] = matrix_KN.T
    parts = rows.reshape(N, blocks, BLOCK)
    largest = np.take_along_axis(parts, np.abs(parts).argmax(-1)[..., None], axis=-1)
    scale = (largest / -8).astype(np.float32)
    whole = np.rint(parts / np.where(scale == 0, 1, scale)) + 8
    whole = whole.clip(0, 15).astype(np.uint8)
    return whole[..., ::2] | whole[..., 1::2] << 4, scale[..., 0]


def quantise_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with int8 rows, each with its scale, in the tables that rows are taken from.

    As the model that ships has them (`checkpoint.quantise`).
    """
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    weights, nodes = _initializers(narrow), []
    for node in model.graph.node:
        table = weights.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) < 2 or np.prod(table.dims) < SMALLEST_QUANTISED:
            nodes.append(node)
            continue
        name, rows, result = table.name, node.input[1], node.output[0]
        parts = quantise(name, numpy_helper.to_array(table))
        _replace(
            narrow, name, {name: parts[name], f"{name}.scale": parts[f"{name}.scale"][:, None]}
        )
        nodes += [
            helper.make_node("Gather", [name, rows], [f"{result}_whole"]),
            helper.make_node("Gather", [f"{name}.scale", rows], [f"{result}_scale"]),
            helper.make_node(
                "Cast", [f"{result}_whole"], [f"{result}_float"], to=TensorProto.FLOAT
            ),
            helper.make_node("Mul", [f"{result}_float", f"{result}_scale"], [result]),
        ]
    del narrow.graph.node[:]
    narrow.graph.node.extend(nodes)
    return narrow


class _Photos(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives the quantiser one photo after the other."""

    def __init__(self, pixels_BCHW: Sequence[Array]) -> None:
        self._left: Iterator[Array] = iter(pixels_BCHW)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next photo as the graph's input, None behind the last."""
        pixels_CHW = next(self._left, None)
        return None if pixels_CHW is None else {"pixels": pixels_CHW[None]}


def _pixels(photos: str | Path | None, size: int) -> list[Array]:
    """Return the photos to see the ranges of activations on, each (3, size, size)."""
    if photos is not None:
        paths = [p for p in sorted(Path(photos).rglob("*")) if p.suffix.lower() in _SUFFIXES]
        if not paths:
            raise ValueError(f"{photos} holds no photo; give a folder of JPEG, PNG or WebP files.")
        apart = -(-len(paths) // MAX_PHOTOS)
        return [preprocess(load_image(path), size) for path in paths[::apart]]
    image_HWC = load_image(DEMO_PHOTO)
    down, right = image_HWC.shape[0] // 2, image_HWC.shape[1] // 2
    views = [image_HWC]
    views += [image_HWC[y : y + down, x : x + right] for y in (0, down) for x in (0, right)]
    views += [view[:, ::-1] for view in views]
    return [preprocess(np.ascontiguousarray(view), size) for view in views]


def _interface(graph: onnx.GraphProto) -> dict[str, Any]:
    """Return the names, types and shapes of what goes into a graph and comes out."""

    def tell(values: Sequence[onnx.ValueInfoProto]) -> dict[str, Any]:
        return {
            value.name: {
                "type": helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                "shape": [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            }
            for value in values
        }

    return {"inputs": tell(graph.input), "outputs": tell(graph.output)}


def _labels() -> dict[str, Any]:
    """Return what each number of a head stands for."""
    robots = list(Fleet.default().names)
    return {
        "subsets": "bit r of the index: robot r of primary",
        "primary": [*robots, NO_ROBOT],
        "environment": list(ENVIRONMENTS),
        "scene": list(ENVIRONMENTS),
        "actions": list(ACTIONS),
        "flags": list(FLAGS),
        "roles": [*QUANTITIES, "other"],
    }


def _initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _replace(model: onnx.ModelProto, name: str, tensors: dict[str, NDArray[Any]]) -> None:
    """Put tensors into a graph where the one of this name was."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    kept += [numpy_helper.from_array(value, key) for key, value in tensors.items()]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _mark_prepared(model: onnx.ModelProto) -> None:
    """Tell the quantiser not to ask for its own clean-up; our graphs have nothing to clean up."""
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
