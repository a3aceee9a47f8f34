"""Quantise a model to 8, 4 or 1.58 bits a weight, and hold the file's size against the arithmetic.

    embervlm export quantize --bits 4 --model F32.gguf --out M.gguf

The file is `export.gguf`'s; here it is opened again, and every tensor must take its number of
blocks times the bytes of a block, no more. A quantisation that left all weights as they were fails.

A block of 32 weights takes 34 bytes in q8_0 (half-precision scale + 32 x 8 bits) and 18 in q4_0;
256 take 66 in tq2_0 (scale + 256 x 2 bits), the ternary type. Few matrices of a network that was
not built for it have rows of whole blocks of 256; one of which less than half would be ternary is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf

from embervlm.checkpoint import SHIPPED
from embervlm.export.gguf import TERNARY_BLOCK, TERNARY_KEY, export

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
# What a weight of a type has of its own, without its share of a block's scale.
BITS = {"F32": 32.0, "F16": 16.0, "I16": 16.0, "I8": 8.0, "Q8_0": 8.0, "Q4_0": 4.0, "TQ2_0": 1.58}
LEAST_TERNARY = 0.5


@dataclass(frozen=True)
class Sizes:
    """What a file holds, in bytes, but for `weights` and `held`, numbers.

    `packed_bytes` is what the blocks of all weights ask for, `file_bytes` the file's size:
    `packed_bytes`, the header (names, tokenizer) and the gaps that alignment leaves. `types` has
    the packed bytes of each type, `held` the weights. `trained_ternary`: the file says that it was.
    """

    weights: int
    held: dict[str, int]
    packed_bytes: int
    header_bytes: int
    gap_bytes: int
    file_bytes: int
    types: dict[str, int]
    trained_ternary: bool

    @property
    def main_type(self) -> str:
        """The type of more weights than any other."""
        return max(self.held, key=lambda kind: self.held[kind])

    def share(self, kind: str) -> float:
        """Return the share of the weights that are of a type, 0 to 1."""
        return self.held.get(kind, 0) / self.weights


def quantize(model: Path | None, out: Path, bits: str) -> tuple[Sizes, Sizes]:
    """Write a model (None: the one that ships) to `out`; return the checked sizes of both files.

    Raises:
        ValueError: unknown bits, or the file holds no sound model, or none that has a row of
            whole blocks, or less than `LEAST_TERNARY` of one that was not trained so would be
            ternary; `out` is as it was.
    """
    if bits not in TYPES:
        raise ValueError(f"--bits {bits!r}: choose {', '.join(TYPES)}.")
    unchecked = out.with_name(out.name + ".unchecked")
    try:
        export(model, unchecked, TYPES[bits])
        before, sizes = measure(model or SHIPPED), measure(unchecked)
        kind = TYPES[bits].upper()
        share = sizes.share(kind)
        if kind == "TQ2_0" and share < LEAST_TERNARY and not sizes.trained_ternary:
            raise ValueError(
                f"{100 * share:.1f} % of this model's weights would be ternary: those in matrices "
                f"with rows of whole blocks of {TERNARY_BLOCK}; choose 4 or 8 bits."
            )
        if kind not in sizes.types:
            raise ValueError(
                f"No matrix of this model has rows of whole {kind} blocks of {BLOCKS[kind][0]} "
                "weights; choose more bits."
            )
        unchecked.replace(out)
    finally:
        unchecked.unlink(missing_ok=True)
    return before, sizes


def measure(path: Path) -> Sizes:
    """Hold a GGUF file's size against the sum of its tensors' blocks.

    Raises:
        ValueError: a tensor takes another number of bytes, or the file holds something else.
    """
    file = gguf.GGUFReader(path)
    types: dict[str, int] = {}
    held: dict[str, int] = {}
    gaps = 0
    ends = file.data_offset
    for tensor in sorted(file.tensors, key=lambda tensor: int(tensor.data_offset)):
        kind = tensor.tensor_type.name
        if kind not in BLOCKS:
            raise ValueError(f"{path}: {tensor.name} is {kind}; expected {', '.join(BLOCKS)}.")
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
        if counts:
            held[kind] = held.get(kind, 0) + number
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
        sum(held.values()),
        held,
        packed,
        file.data_offset,
        gaps,
        size,
        types,
        bool(ternary and ternary.contents()),
    )
