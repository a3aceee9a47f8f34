"""Write a model as the one GGUF file that the engine reads.

    embervlm export gguf --model F32.gguf --out MODEL.gguf --type q4_0
    python -m embervlm.export.gguf --network N.safetensors --tokenizer T.json --type q4_0 --out
    MODEL.gguf

Matrices of the reader and the decoder take the wanted type; `stored` says what becomes of the rest.
A ternary matrix is TQ2_0 whatever the type, in rows of 256 of it, as many as it has; the text
`embervlm.shapes` says what shape it has. Its values come back to the bit (`models/bitnet.py`); its
bias is F16. The space of `models/matching.py`, which no decision reads, stays out.
Everything else that a reader of the file must know lies in it as text or number (`embervlm.*`): the
sizes, the calibration, how a photo becomes pixels, what each output stands for. The digest is the
SHA-256 of the whole file with its own 64 digits as zeros. A network that comes from training has a
neutral calibration until `evaluation.calibration` fits it on the exported file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from embervlm.backends.base import labels
from embervlm.backends.plan_writer import HALF_TABLES
from embervlm.checkpoint import (
    NO_DIGEST,
    SMALLEST_QUANTISED,
    Checkpoint,
    load_checkpoint,
    padded_calibration,
    quantise,
    switched_on,
    write_with_digest,
)
from embervlm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from embervlm.models.modeling import EmberNetwork

TYPES = {"f32": Type.F32, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0, "tq2_0": Type.TQ2_0}
# What every engine reads; what holds a part of `checkpoint.SWITCHES`, or a table of looks.
PLAIN_FORMAT, SWITCHED_FORMAT, RECALL_FORMAT = 2, 3, 4
FORMAT_KEY = "embervlm.format"
LARGEST_FILE = 16_000_000
TERNARY_KEY = "embervlm.trained_ternary"
TERNARY_BLOCK = 256
# Read row by row, and small.
_FLOAT_TABLES = (
    "image.scene_table.weight", "image.no_photo", "memory.slots", "reasoning.step.weight",
    "plan.step.weight", "plan.apart.weight",
)  # fmt: skip
# What they say is the answer: four bits would show.
_FINE = ("heads.", "image.view.", "image.scene.", "recall.")

Array = NDArray[np.float32]


def export(model: Path | None, out: Path, wanted: str) -> None:
    """Write a model (None: the one that ships) to `out`; see `write_gguf`.

    Raises:
        ValueError: an unknown type, or the file holds no sound model.
    """
    if wanted not in TYPES:
        raise ValueError(f"Unknown type {wanted!r}; there are {', '.join(TYPES)}.")
    write_gguf(load_checkpoint(model), out, wanted)


def write_gguf(
    checkpoint: Checkpoint, path: Path, wanted: str, *, smallest: int = SMALLEST_QUANTISED
) -> None:
    """Write a checkpoint to `path`, its matrices of the type that `wanted` names (see TYPES).

    Those with fewer than `smallest` values stay float32, and ternary ones ternary; beside those,
    what was not trained for it is not made so.

    Raises:
        ValueError: the engine cannot see with this network's vision, or what is said to be ternary
            is not.
    """
    vision = checkpoint.config.get("vision", "mobilenet-v2")
    if vision != "mobilenet-v2":
        raise ValueError(f"The engine sees with mobilenet-v2, not with {vision}; train with that.")
    kind = Type.Q4_0 if checkpoint.ternary and wanted == "tq2_0" else TYPES[wanted]
    shapes = {name: list(checkpoint.weights[name].shape) for name in sorted(checkpoint.ternary)}
    biases = {f"{name.removesuffix('.weight')}.bias" for name in shapes}
    unfinished = path.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, "embervlm")
    is_ternary = bool(checkpoint.ternary)
    writer.add_uint32(FORMAT_KEY, format_of(checkpoint.config, is_ternary=is_ternary))
    writer.add_string("embervlm.sha256", NO_DIGEST)
    writer.add_string("embervlm.type", wanted)
    preprocessing = {
        "size": checkpoint.config["image_size"],
        "mean": 128,
        "scale": 1 / 128,
        "resample": "bilinear",
        "crop": "centre",
    }
    for name, content in {
        "config": checkpoint.config,
        "preprocessing": preprocessing,
        "labels": labels(),
        "specials": list(checkpoint.tokenizer.specials),
    }.items():
        writer.add_string(f"embervlm.{name}", json.dumps(content))
    if shapes:
        writer.add_string("embervlm.shapes", json.dumps(shapes))
        writer.add_bool(TERNARY_KEY, True)
    calibration = padded_calibration(checkpoint.calibration)
    writer.add_string("embervlm.calibration", calibration.decode())
    for name, tensor in sorted(checkpoint.weights.items()):
        if name in checkpoint.ternary and kind != Type.F32:
            parts = _ternary(name, tensor)
        elif name in biases and kind != Type.F32:
            parts = _as(name, tensor, Type.F16)
        else:
            parts = stored(name, tensor, kind, smallest)
        for stored_name, (content, stored_kind) in parts.items():
            writer.add_tensor(stored_name, content, raw_dtype=stored_kind)
    # GGUF has no unsigned type of 16 bits: the same bits, signed.
    merges_M2 = checkpoint.tokenizer.merges_M2.view(np.int16)
    writer.add_tensor("tokenizer.merges", merges_M2, raw_dtype=Type.I16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = bytearray(unfinished.read_bytes())
    unfinished.unlink()
    write_with_digest(path, whole)


def stored(
    name: str, tensor: Array, wanted: Type, smallest: int = SMALLEST_QUANTISED
) -> Mapping[str, tuple[NDArray[np.generic], Type]]:
    """Return the tensors that hold one of the checkpoint, by name, each with its type.

    | tensor                              | as                                               |
    | ---                                 | ---                                              |
    | matrices of the reader, the decoder | `wanted`; Q4_0 where ternary blocks do not fit   |
    | the embeddings                      | `wanted`; never ternary                          |
    | heads, image.view, .scene, recall   | Q8_0                                             |
    | tables of positions                 | Q8_0                                             |
    | 1x1 convolutions, odd rows          | int8, a scale a row (NAME.scale)                 |
    | 3x3 filters                         | NAME.taps (9, C): int8, a scale a column         |
    | n-gram table                        | ngrams.columns (columns, rows): Q4_0, Q8_0       |
    | n-gram importance, plan.table       | F16                                              |
    | the rest: norms, biases, the small  | F32                                              |

    With F32 wanted all are F32, in the same shapes.
    """
    exact = wanted == Type.F32
    tensor = np.atleast_1d(tensor)
    if name.endswith("depthwise.weight"):
        taps_9C = np.ascontiguousarray(tensor.reshape(len(tensor), 9).T)
        name = name.replace(".weight", ".taps")
        return {name: (taps_9C, Type.F32)} if exact else _whole_taps(name, taps_9C)
    if name == "ngrams.table.weight":
        name, tensor = "ngrams.columns", np.ascontiguousarray(tensor.T)
        kind = Type.Q4_0 if wanted == Type.TQ2_0 else wanted
        return _as(name, tensor, kind if _fits(tensor, kind) else Type.F16)
    if exact or name in _FLOAT_TABLES:
        return _as(name, tensor, Type.F32)
    if name in ("ngrams.importance", *HALF_TABLES):
        return _as(name, tensor, Type.F16)
    if name.endswith("positions.weight"):
        return _as(name, tensor, Type.Q8_0 if _fits(tensor, Type.Q8_0) else Type.F16)
    if tensor.ndim == 2 and name.startswith(_FINE) and _fits(tensor, Type.Q8_0):
        return _as(name, tensor, Type.Q8_0)
    if tensor.ndim < 2 or tensor.size < smallest:
        return _as(name, tensor, Type.F32)
    if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
        ternary = wanted == Type.TQ2_0
        if ternary and (name == "text.embed.weight" or not _fits(tensor, wanted)):
            return _as(name, tensor, Type.Q4_0)
        return _as(name, tensor, wanted)
    parts = quantise(name, tensor, smallest)
    return {
        name: (parts[name], Type.I8),
        f"{name}.scale": (parts[f"{name}.scale"], Type.F32),
    }


def format_of(config: Mapping[str, Any], *, is_ternary: bool) -> int:
    """Return the number that tells an engine of another age whether it can read a file."""
    if config.get("recall_width"):
        return RECALL_FORMAT
    return SWITCHED_FORMAT if is_ternary or switched_on(config) else PLAIN_FORMAT


def _ternary(name: str, tensor: Array) -> Mapping[str, tuple[NDArray[np.generic], Type]]:
    """Return a ternary matrix in rows of whole blocks."""
    if tensor.size % TERNARY_BLOCK == 0:
        rows = tensor.reshape(-1, TERNARY_BLOCK)
        packed = gguf.quants.quantize(rows, Type.TQ2_0)
        if np.array_equal(gguf.quants.dequantize(packed, Type.TQ2_0), rows):
            return {name: (packed, Type.TQ2_0)}
    raise ValueError(
        f"{name} is said to be ternary, but is not in blocks of {TERNARY_BLOCK}; export the "
        "network that was trained."
    )


def checkpoint_of(
    network: EmberNetwork, tokenizer: Tokenizer, calibration: Mapping[str, float]
) -> Checkpoint:
    """Return a trained network as what is written; ternary layers become their ternary values, and
    what no decision reads is left out."""
    from embervlm.models.bitnet import keep_ternary, ternary_layers

    keep_ternary(network)
    config = {**network.config.to_dict(), "match_width": 0}
    if switched_on(config):
        config = {"family": network.config.family, **config}
    weights = {
        name: tensor.float().numpy()
        for name, tensor in network.state_dict().items()
        if not name.startswith("match.")
    }
    ternary = frozenset(f"{name}.weight" for name in ternary_layers(network))
    return Checkpoint(config, dict(calibration), tokenizer, weights, ternary)


def _as(name: str, tensor: Array, kind: Type) -> dict[str, tuple[NDArray[np.generic], Type]]:
    return {name: (gguf.quants.quantize(tensor.astype(np.float32), kind), kind)}


def _fits(tensor: Array, kind: Type) -> bool:
    """Return whether the rows are whole blocks of a type."""
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return bool(tensor.shape[-1] % block == 0)


def _whole_taps(name: str, taps_9C: Array) -> dict[str, tuple[NDArray[np.generic], Type]]:
    scale_C = (np.maximum(np.abs(taps_9C).max(0), 1e-12) / 127).astype(np.float32)
    whole_9C = np.rint(taps_9C / scale_C).astype(np.int8)
    return {name: (whole_9C, Type.I8), f"{name}.scale": (scale_C, Type.F32)}


def main() -> None:
    """Read the flags, write a trained network, and refuse a file that is too large to ship; the
    user's mistakes are one sentence and code 2."""
    from embervlm.models.modeling import load_network

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--type", choices=TYPES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        network = load_network(options.network)
        tokenizer = Tokenizer.from_file(options.tokenizer)
        write_gguf(checkpoint_of(network, tokenizer, {}), options.out, options.type)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"embervlm: {error}\n")
        sys.exit(2)
    size = options.out.stat().st_size
    if options.type != "f32" and size > LARGEST_FILE:
        raise SystemExit(f"{options.out} has {size:,} bytes; a shipped file has at most 16 MB.")


if __name__ == "__main__":
    main()
