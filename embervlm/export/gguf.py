"""Write a model folder as the one GGUF file that the engine reads.

    embervlm export gguf --model FOLDER --out MODEL.gguf --type q8_0

Matrices take the wanted type; where their rows are not whole blocks, or they are convolutions or
the n-gram table, they are int8 with one scale a row; everything small is float32. Texts go in as
they are in the folder: configuration, calibration, tokenizer. The digest is the SHA-256 of the
whole file with its own 64 digits as zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from embervlm.checkpoint import SHIPPED, SMALLEST_QUANTISED, Checkpoint, load_checkpoint, quantise

TYPES = {"f32": Type.F32, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0, "tq2_0": Type.TQ2_0}
FORMAT = 1
_BLOCK = {Type.Q8_0: 32, Type.Q4_0: 32, Type.TQ2_0: 256}
_NO_DIGEST = "0" * 64
_TABLES = ("image.scene_table.weight", "image.no_photo")

Array = NDArray[np.float32]


def export(folder: Path | None, out: Path, wanted: str) -> None:
    """Write a model folder (None: the one that ships) to `out`; see `write_gguf`.

    Raises:
        ValueError: an unknown type, or the folder holds no sound model.
    """
    if wanted not in TYPES:
        raise ValueError(f"Unknown type {wanted!r}; there are {', '.join(TYPES)}.")
    text = ((folder or SHIPPED) / "tokenizer.json").read_text("utf-8")
    write_gguf(load_checkpoint(folder), text, out, wanted)


def write_gguf(
    checkpoint: Checkpoint,
    tokenizer_json: str,
    path: Path,
    wanted: str,
    *,
    smallest: int = SMALLEST_QUANTISED,
) -> None:
    """Write a checkpoint to `path`, its matrices of the type that `wanted` names (see TYPES).

    Those with fewer than `smallest` values stay float32.
    """
    unfinished = path.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, "embervlm")
    writer.add_uint32("embervlm.format", FORMAT)
    writer.add_string("embervlm.sha256", _NO_DIGEST)
    writer.add_string("embervlm.type", wanted)
    writer.add_string("embervlm.config", json.dumps(checkpoint.config))
    writer.add_string("embervlm.calibration", json.dumps(checkpoint.calibration))
    writer.add_string("embervlm.tokenizer", tokenizer_json)
    for name, tensor in sorted(checkpoint.weights.items()):
        for stored_name, (content, kind) in stored(name, tensor, TYPES[wanted], smallest).items():
            writer.add_tensor(stored_name, content, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = bytearray(unfinished.read_bytes())
    at = file.index(_NO_DIGEST.encode())
    file[at : at + 64] = hashlib.sha256(file).hexdigest().encode()
    unfinished.write_bytes(file)
    unfinished.replace(path)


def stored(
    name: str, tensor: Array, wanted: Type, smallest: int = SMALLEST_QUANTISED
) -> Mapping[str, tuple[NDArray[np.generic], Type]]:
    """Return the tensors that hold one of the checkpoint, by name, each with its type."""
    if name.endswith("depthwise.weight"):
        # (C, 1, 3, 3) as (9, C): the filter's taps, each over all channels.
        taps = np.ascontiguousarray(tensor.reshape(len(tensor), 9).T)
        return {name.replace(".weight", ".taps"): (taps, Type.F32)}
    if tensor.ndim < 2 or tensor.size < smallest or wanted == Type.F32 or _kept(name):
        return {name: (tensor.astype(np.float32), Type.F32)}
    if tensor.ndim == 2 and not name.startswith("ngrams.") and tensor.shape[1] % 32 == 0:
        kind = wanted
        if wanted == Type.TQ2_0 and (name == "text.embed.weight" or tensor.shape[1] % 256):
            kind = Type.Q4_0
        return {name: (gguf.quants.quantize(tensor, kind), kind)}
    parts = quantise(name, tensor, smallest)
    return {
        name: (parts[name], Type.I8),
        f"{name}.scale": (parts[f"{name}.scale"], Type.F32),
    }


def _kept(name: str) -> bool:
    """Return whether a tensor is only ever read row by row, and small."""
    return name.endswith("positions.weight") or name in _TABLES
