"""The one file that holds a model, in Python: checked, read back to floats, and re-calibrated.

A model is a GGUF file (github.com/ggml-org/ggml, docs/gguf.md) that `export/gguf.py` writes and the
C engine maps. The NumPy, ONNX and PyTorch backends read the same file here, so that they run
the same weights: what was rounded to four bits comes back as the rounded value.

    texts      embervlm.config, .calibration, .preprocessing, .labels, .specials (JSON), .sha256;
               of a ternary network embervlm.shapes (JSON): NAME -> [outputs, inputs]
    tensors    under the names of `models.modeling`, but for these:
               NAME.depthwise.taps  (9, C)  is  NAME.depthwise.weight (C, 1, 3, 3)
               ngrams.columns       (K, G)  is  ngrams.table.weight   (G, K)
               NAME.scale           one a row (a channel of the taps) where NAME is plain int8
               NAME of the shapes   (B, 256), the matrix row behind row, or as it is where floats
               tokenizer.merges     (M, 2)  pairs of token numbers

The digest is the SHA-256 of the file with its own 64 digits as zeros.

Axes: B blocks, C channels, K columns, G rows of the n-gram table, M merges.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.tokenizer import Tokenizer

SHIPPED = Path(__file__).parent / "weights" / "ember-nano.gguf"
NO_DIGEST = "0" * 64
# The calibration is padded to this, so that it can be replaced without moving what follows.
CALIBRATION_BYTES = 1024

# Smaller tensors (biases, norms) stay floats.
SMALLEST_QUANTISED = 4096

# What `models/configuration.py` can switch on, each with what it is when it is off, as in
# `ember-nano`.
SWITCHES: Mapping[str, Any] = {
    "linear": "full",
    "embed_width": 0,
    "fusion": "prefix",
    "image_grid": 0,
    "memory_slots": 0,
    "reasoning_width": 0,
    "vision": "mobilenet-v2",
}

# Lies beside a `network.safetensors`, where a GGUF file has a text.
CALIBRATION = "calibration.json"

_DIGEST_KEY = b"embervlm.sha256"
_CALIBRATION_KEY = b"embervlm.calibration"


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory; `weights` are float32 under the names of `models.modeling`.

    `ternary` names those of them that are -1, 0 or 1 times a scale for each 256, row behind row.
    """

    config: dict[str, Any]
    calibration: dict[str, float]
    tokenizer: Tokenizer
    weights: dict[str, NDArray[np.float32]]
    ternary: frozenset[str] = frozenset()


def switched_on(config: Mapping[str, Any]) -> list[str]:
    """Return which of SWITCHES a network has on, none of them being `ember-nano`.

    >>> switched_on({"text_layers": 6, "linear": "ternary", "fusion": "prefix"})
    ['linear']
    """
    return [name for name, off in SWITCHES.items() if config.get(name, off) != off]


def load_checkpoint(path: str | Path | None = None) -> Checkpoint:
    """Read and check a model file; None is the model that ships with the package.

    Raises:
        ValueError: the file is missing, damaged, or no model of this project.
        ModuleNotFoundError: the gguf package is not installed.
    """
    import gguf

    path = Path(path) if path is not None else SHIPPED
    checked_bytes(path)
    reader = gguf.GGUFReader(path)
    texts = {name: field.contents() for name, field in reader.fields.items()}
    found = {tensor.name: tensor for tensor in reader.tensors}
    try:
        told, numbers = texts["embervlm.config"], texts["embervlm.calibration"]
        specials = json.loads(texts["embervlm.specials"])
        shapes = _shapes(texts.get("embervlm.shapes", "{}"), path)
        merges_M2 = np.array(found.pop("tokenizer.merges").data).view(np.uint16)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} lacks {error}; export the model again.") from error
    config, calibration = object_of(told, "embervlm.config"), calibration_of(numbers)
    weights: dict[str, NDArray[np.float32]] = {}
    for name, tensor in found.items():
        if name.endswith(".scale"):
            continue
        if (scale := found.get(f"{name}.scale")) is not None:
            value = np.array(tensor.data, np.float32)
            value *= _scale_of(name, value, np.array(scale.data, np.float32))
        else:
            value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            value = np.array(value, np.float32)
        if name in shapes:
            value = _unfolded(name, value, shapes[name], path)
        weights.update([_as_trained(name, value)])
    if missing := set(shapes) - set(weights):
        raise ValueError(f"{path} lacks the ternary {min(missing)}; export the model again.")
    tokenizer = Tokenizer(merges_M2, specials)
    return Checkpoint(config, calibration, tokenizer, weights, frozenset(shapes))


def _shapes(text: str, path: Path) -> dict[str, tuple[int, int]]:
    """Return the shapes of the ternary matrices that a file's text names."""
    found = json.loads(text)
    is_sound = isinstance(found, dict) and all(
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(size) is int and size > 0 for size in shape)
        for shape in found.values()
    )
    if not is_sound:
        raise ValueError(f"{path}: embervlm.shapes holds no pairs of sizes; export it again.")
    return {name: (outputs, inputs) for name, (outputs, inputs) in found.items()}


def _unfolded(
    name: str, value: NDArray[np.float32], shape: tuple[int, int], path: Path
) -> NDArray[np.float32]:
    if value.size != shape[0] * shape[1]:
        raise ValueError(
            f"{path}: {name} has {value.size:,} weights, embervlm.shapes says {shape[0]} x "
            f"{shape[1]}; export the model again."
        )
    return value.reshape(shape)


def _scale_of(
    name: str, value: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a tensor's scales in the shape that multiplies it: taps have theirs by column."""
    if name.endswith(".taps"):
        return scale.reshape(1, -1)
    return scale.reshape(-1, *[1] * (value.ndim - 1))


def _as_trained(name: str, value: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
    """Return the name and the shape that `models.modeling` has for a tensor of the file."""
    if name.endswith("depthwise.taps"):
        return name.replace(".taps", ".weight"), np.ascontiguousarray(value.T.reshape(-1, 1, 3, 3))
    if name == "ngrams.columns":
        return "ngrams.table.weight", np.ascontiguousarray(value.T)
    if name == "memory.clock":
        return name, value.reshape(())
    return name, value


def quantise(
    key: str, tensor: NDArray[np.float32], smallest: int = SMALLEST_QUANTISED
) -> dict[str, NDArray[Any]]:
    """Return a tensor as int8 with a scale a row, w = int8 * scale, scale = max|row| / 127; one
    below `smallest` as it is."""
    if tensor.size < smallest or tensor.ndim < 2:
        return {key: tensor}
    rows = tensor.reshape(len(tensor), -1)
    scale = np.maximum(np.abs(rows).max(1), 1e-12) / 127
    whole = np.rint(rows / scale[:, None]).astype(np.int8).reshape(tensor.shape)
    return {key: whole, f"{key}.scale": scale.astype(np.float32)}


def update_calibration(path: str | Path, values: Mapping[str, float]) -> None:
    """Replace these numbers of a model file's calibration and its digest; the weights stay.

    Of the `network.safetensors` of a run the calibration is a file beside it.

    Raises:
        ValueError: the file holds no sound model, or `calibration_of` refuses the numbers.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        found = json.dumps(_checked({**read_calibration(path), **values}), indent=2) + "\n"
        unfinished = path.with_name(f"{CALIBRATION}.unfinished")
        unfinished.write_text(found, "utf-8")
        unfinished.replace(path.with_name(CALIBRATION))
        return
    content = checked_bytes(path)
    begin, end = _text_at(content, _CALIBRATION_KEY)
    calibration = _checked({**json.loads(content[begin:end]), **values})
    content[begin:end] = padded_calibration(calibration)
    write_with_digest(path, content)


def calibration_of(text: str) -> dict[str, float]:
    """Return the numbers of a model file's calibration from its text.

    Raises:
        ValueError: it is no JSON object of finite numbers, a temperature is not above 0, or
            `certain_flag` is not between 0 and 1.
    """
    return _checked(object_of(text, "embervlm.calibration"))


def _checked(calibration: dict[str, Any], whose: str = "The model file's") -> dict[str, float]:
    """Return a calibration in which every number is one that a decision can be made with."""
    for name, value in calibration.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= sys.float_info.max:
            raise ValueError(f"{whose} calibration has no number for {name!r}; calibrate it again.")
        if name.endswith("temperature") and value <= 0:
            raise ValueError(f"{whose} {name} is {value:g}; calibrate it again.")
        if name == "certain_flag" and not 0 < value < 1:
            raise ValueError(
                f"{whose} {name} is {value:g}, expected between 0 and 1; calibrate it again."
            )
    return calibration


def object_of(text: str, key: str) -> dict[str, Any]:
    """Return the JSON object that a model file has under a key, such as `embervlm.config`.

    Raises:
        ValueError: the text is something else.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"The model file's {key} is no JSON object; export the model again.")
    return found


def read_calibration(network: Path) -> dict[str, float]:
    """Return the numbers in the calibration file beside a run's network; without one, none.

    Raises:
        ValueError: the file is damaged, or `calibration_of` refuses its numbers.
    """
    path = network.with_name(CALIBRATION)
    if not path.is_file():
        return {}
    try:
        found = dict(json.loads(path.read_text("utf-8")).items())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no calibration ({error}); calibrate again.") from error
    return {name: float(value) for name, value in _checked(found, f"{path}: the").items()}


def padded_calibration(values: Mapping[str, float]) -> bytes:
    """Return the calibration as JSON of exactly CALIBRATION_BYTES."""
    text = json.dumps(dict(values)).encode()
    assert len(text) <= CALIBRATION_BYTES, "the calibration has outgrown its place"
    return text.ljust(CALIBRATION_BYTES)


def checked_bytes(path: Path) -> bytearray:
    """Return a model file's content, its digest found right.

    Raises:
        ValueError: the file cannot be read, is no model, or is damaged.
    """
    try:
        # A pipe could keep us waiting for ever, so look before opening.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"The model {path} cannot be read (it is no file); check the path.")
        content = bytearray(path.read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"The model {path} cannot be read ({reason}); check the path.") from error
    if not content.startswith(b"GGUF") or _DIGEST_KEY not in content:
        raise ValueError(f"{path} is no model of embervlm; 'embervlm export gguf' writes one.")
    begin, end = _text_at(content, _DIGEST_KEY)
    if digest_of(content) != content[begin:end].decode("ascii", "replace"):
        raise ValueError(f"{path} is damaged (its SHA-256 differs); get it again.")
    return content


def text_in(content: bytearray, key: str) -> str:
    """Return a text of a model file's header, such as `embervlm.config`.

    Raises:
        ValueError: there is none under this key.
    """
    if key.encode() not in content:
        raise ValueError(f"The model file lacks {key}; export the model again.")
    begin, end = _text_at(content, key.encode())
    return content[begin:end].decode()


def digest_of(content: bytearray) -> str:
    """Return the SHA-256 of a model file with its own digits as zeros."""
    import hashlib  # 4 MB of OpenSSL, which a decision by the engine does without

    begin, end = _text_at(content, _DIGEST_KEY)
    digest = hashlib.sha256(content[:begin])
    digest.update(NO_DIGEST.encode())
    digest.update(content[end:])
    return digest.hexdigest()


def write_with_digest(path: Path, content: bytearray) -> None:
    """Put the digest into a model file's content and write it, through a temporary file."""
    begin, end = _text_at(content, _DIGEST_KEY)
    content[begin:end] = digest_of(content).encode()
    unfinished = path.with_suffix(path.suffix + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _text_at(content: bytearray, key: bytes) -> tuple[int, int]:
    """Return where the text of a key begins and ends: behind the key stand its kind (4 bytes) and
    its length (8)."""
    at = content.find(key)
    begin = at + len(key) + 12
    length = int.from_bytes(content[begin - 8 : begin], "little")
    return begin, begin + length
