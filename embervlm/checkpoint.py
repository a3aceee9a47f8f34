"""The folder that holds a model: its weights, tokenizer, sizes, calibration and checksums.

    config.json         tokenizer.json      calibration.json    SHA256SUMS
    vision.safetensors  reader.safetensors  ngrams.safetensors  decoder.safetensors

Matrices are stored as int8 with one float scale a row (w = int8 * scale, scale = max|row| / 127),
the rest in half precision. safetensors loads a file with a flipped bit without a word, so every
file is checked first.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from embervlm.tokenizer import Tokenizer

SHIPPED = Path(__file__).parent / "weights"
FORMAT = 1
PARTS = {
    "vision.safetensors": ("vision.",),
    "reader.safetensors": ("text.", "image.", "heads."),
    "ngrams.safetensors": ("ngrams.",),
    "decoder.safetensors": ("decoder.",),
}
_TEXTS = ("config.json", "tokenizer.json", "calibration.json")
_SUMS = "SHA256SUMS"
# Smaller tensors (biases, norms) stay in half precision.
SMALLEST_QUANTISED = 4096


@dataclass(frozen=True)
class Checkpoint:
    """A model folder in memory; `weights` are float32 under the names of `models.modeling`."""

    config: dict[str, Any]
    calibration: dict[str, float]
    tokenizer: Tokenizer
    weights: dict[str, NDArray[np.float32]]


def load_checkpoint(folder: str | Path | None = None) -> Checkpoint:
    """Read and check a model folder; None is the model that ships with the package.

    Raises:
        ValueError: a file is missing, differs from its checksum, or has another format version.
    """
    folder = Path(folder) if folder is not None else SHIPPED
    contents = _checked_contents(folder)
    config = json.loads(contents["config.json"])
    if config.pop("format", None) != FORMAT:
        raise ValueError(f"{folder}: this model has another format; get one of format {FORMAT}.")
    weights: dict[str, NDArray[np.float32]] = {}
    for name in PARTS:
        stored = load(contents[name])
        for key, tensor in stored.items():
            if key.endswith(".scale"):
                continue
            value = tensor.astype(np.float32)
            if (scale := stored.get(f"{key}.scale")) is not None:
                value *= scale.astype(np.float32).reshape(-1, *[1] * (value.ndim - 1))
            weights[key] = value
    return Checkpoint(
        config,
        json.loads(contents["calibration.json"]),
        Tokenizer.from_file(folder / "tokenizer.json"),
        weights,
    )


def save_checkpoint(
    folder: str | Path,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    config: Mapping[str, Any],
    calibration: Mapping[str, float],
    tokenizer_file: Path,
) -> None:
    """Write a model folder, every file through a temporary one, the checksums last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "config.json": _json({"format": FORMAT, **config}),
        "calibration.json": _json(calibration),
        "tokenizer.json": tokenizer_file.read_bytes(),
    }
    for name, prefixes in PARTS.items():
        stored: dict[str, NDArray[Any]] = {}
        for key in sorted(weights):
            if key.startswith(prefixes):
                stored |= quantise(key, weights[key])
        contents[name] = save(stored)
    for name, content in {**contents, _SUMS: _sums(contents)}.items():
        _write(folder / name, content)


def update_calibration(folder: str | Path, values: Mapping[str, float]) -> None:
    """Replace these numbers of a model folder's calibration and its checksum; the weights stay.

    Raises:
        ValueError: the folder holds no sound model.
    """
    folder = Path(folder)
    contents = _checked_contents(folder)
    content = _json({**json.loads(contents["calibration.json"]), **values})
    contents["calibration.json"] = content
    _write(folder / "calibration.json", content)
    _write(folder / _SUMS, _sums(contents))


def quantise(
    key: str, tensor: NDArray[np.float32], smallest: int = SMALLEST_QUANTISED
) -> dict[str, NDArray[Any]]:
    """Return a tensor as stored: int8 and a scale a row, or half precision below `smallest`."""
    if tensor.size < smallest or tensor.ndim < 2:
        return {key: tensor.astype(np.float16)}
    rows = tensor.reshape(len(tensor), -1)
    scale = np.maximum(np.abs(rows).max(1), 1e-12) / 127
    whole = np.rint(rows / scale[:, None]).astype(np.int8).reshape(tensor.shape)
    return {key: whole, f"{key}.scale": scale.astype(np.float32)}


def _checked_contents(folder: Path) -> dict[str, bytes]:
    expected = {}
    try:
        for line in (folder / _SUMS).read_text("utf-8").splitlines():
            digest, _, name = line.partition("  ")
            expected[name] = digest
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder} holds no model: its {_SUMS} cannot be read.") from error
    contents = {}
    for name in (*_TEXTS, *PARTS):
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{folder}: {name} is missing; get the model again.") from error
        if _sha256(contents[name]) != expected.get(name):
            raise ValueError(f"{folder}: {name} is damaged (its SHA-256 differs); get it again.")
    return contents


def _sums(contents: Mapping[str, bytes]) -> bytes:
    return "".join(f"{_sha256(contents[name])}  {name}\n" for name in sorted(contents)).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_suffix(path.suffix + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
