"""Quantise a model to 8, 4 or 1.58 bits a weight, and hold the file's size against the arithmetic.

    embervlm export quantize --bits 4 --out M.gguf

The file is `export.gguf`'s; here it is opened again, and every tensor must take its number of
blocks times the bytes of a block, no more. A quantisation that left all weights as they were fails.

A block of 32 weights takes 34 bytes in q8_0 (half-precision scale + 32 x 8 bits) and 18 in q4_0;
256 take 66 in tq2_0 (scale + 256 x 2 bits), the ternary type.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf

from embervlm.export.gguf import TERNARY_KEY, export

TYPES = {"8": "q8_0", "4": "q4_0", "1.58": "tq2_0"}
# type -> (weights, bytes) of a block
BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "I16": (1, 2),
    "I8": (1, 1),
    "Q8_0": (32, 34),
    "Q4_0": (32, 18),
    "TQ2_0": (256, 66),
}


@dataclass(frozen=True)
class Sizes:
    """What a written file holds, in bytes, but for `weights`, a number.

    `before_bytes` is all weights as float32, `packed_bytes` what their blocks ask for, `file_bytes`
    the file's size: `packed_bytes`, the header (names, tokenizer) and the gaps that alignment
    leaves. `types` has the packed bytes of each type. `trained_ternary`: the file says that it was.
    """

    weights: int
    before_bytes: int
    packed_bytes: int
    header_bytes: int
    gap_bytes: int
    file_bytes: int
    types: dict[str, int]
    trained_ternary: bool


def quantize(model: Path | None, out: Path, bits: str) -> Sizes:
    """Write a model (None: the one that ships) to `out` and return the checked sizes.

    Raises:
        ValueError: unknown bits, or the file holds no sound model, or none that has a row of
            whole blocks; `out` is as it was.
    """
    if bits not in TYPES:
        raise ValueError(f"--bits {bits!r}: choose {', '.join(TYPES)}.")
    unchecked = out.with_name(out.name + ".unchecked")
    try:
        export(model, unchecked, TYPES[bits])
        sizes = measure(unchecked)
        kind = TYPES[bits].upper()
        if kind not in sizes.types:
            raise ValueError(
                f"No matrix of this model has rows of whole {kind} blocks of {BLOCKS[kind][0]} "
                "weights; choose more bits."
            )
        unchecked.replace(out)
    finally:
        unchecked.unlink(missing_ok=True)
    return sizes


def measure(path: Path) -> Sizes:
    """Hold a GGUF file's size against the sum of its tensors' blocks.

    Raises:
        ValueError: a tensor takes another number of bytes, or the file holds something else.
    """
    file = gguf.GGUFReader(path)
    types: dict[str, int] = {}
    weights = gaps = 0
    ends = file.data_offset
    for tensor in sorted(file.tensors, key=lambda tensor: int(tensor.data_offset)):
        kind = tensor.tensor_type.name
        count, size = BLOCKS[kind]
        number = prod(int(n) for n in tensor.shape)
        packed = number // count * size
        if number % count or packed != int(tensor.n_bytes):
            raise ValueError(
                f"{path}: {tensor.name} takes {int(tensor.n_bytes):,} bytes, its {number:,} "
                f"{kind} weights ask for {packed:,}; the writer is at fault."
            )
        gaps += int(tensor.data_offset) - ends
        ends = int(tensor.data_offset) + packed
        types[kind] = types.get(kind, 0) + packed
        # A scale belongs to weights that were counted; the tokenizer has none.
        counts = not tensor.name.endswith(".scale") and not tensor.name.startswith("tokenizer.")
        weights += number if counts else 0
    size = path.stat().st_size
    gaps += size - ends
    packed = sum(types.values())
    if not 0 <= gaps <= file.alignment * len(file.tensors):
        raise ValueError(
            f"{path} has {size:,} bytes; {file.data_offset:,} of header and {packed:,} of weights "
            f"leave {gaps:,}, more than alignment takes; the writer is at fault."
        )
    ternary = file.get_field(TERNARY_KEY)
    return Sizes(
        weights,
        4 * weights,
        packed,
        file.data_offset,
        gaps,
        size,
        types,
        bool(ternary and ternary.contents()),
    )
