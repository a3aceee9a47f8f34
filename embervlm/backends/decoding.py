"""Writes the reasoning greedily under its grammar, whatever computes the chances of a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.base import Array
from embervlm.prompts import END, SECTIONS, reasoning_prefix
from embervlm.tokenizer import BYTES, Tokenizer

# A section longer than this is ended; the authors' longest has 19 tokens.
MAX_SECTION_TOKENS = 20

# Bits of `token_masks`.
FORBIDDEN, CANNOT_BEGIN = 1, 2


@dataclass(frozen=True)
class Section:
    """1 to `most` tokens, then `ending`; none with a bit of `never`, none of `not_first` first."""

    ending: int
    most: int = MAX_SECTION_TOKENS
    never: int = FORBIDDEN
    not_first: int = CANNOT_BEGIN


class Grammar:
    """What the reasoning may hold: three sections behind the robots, each begun by a letter or a
    digit."""

    def __init__(self, tokenizer: Tokenizer, positions: int) -> None:
        """Take the tokenizer, and how many tokens the decoder can write."""
        self._tokenizer, self.positions = tokenizer, positions
        self.sections = [Section(tokenizer.specials[mark]) for mark in (*SECTIONS[2:], END)]

    @cached_property
    def masks(self) -> NDArray[np.uint8]:
        """What each token may do (V,); found out when it is first asked for."""
        return token_masks(self._tokenizer)

    def write(self, robots: Sequence[str], step: Callable[[int], Array]) -> str:
        """Return the marked reasoning; `step` feeds a token and returns the chances (V,) of the
        next, which it may be asked to forget."""
        tokens = reasoning_prefix(robots, self._tokenizer)
        room = self.positions - len(tokens)
        for token in tokens[:-1]:
            step(token)
        for left, section in zip(range(len(self.sections), 0, -1), self.sections, strict=True):
            limit = min(section.most, room // left - 1)
            begin = len(tokens)
            for length in range(limit):
                chance = step(tokens[-1])
                ending = chance[section.ending]
                chance[self.masks & section.never != 0] = -1
                chance[repetitions(tokens[begin:])] = -1
                if length:
                    chance[section.ending] = ending
                else:
                    chance[self.masks & section.not_first != 0] = -1
                tokens.append(int(chance.argmax()))
                room -= 1
                if tokens[-1] == section.ending:
                    break
            else:
                step(tokens[-1])
                tokens.append(section.ending)
                room -= 1
        return self._tokenizer.decode(tokens)


def token_masks(tokenizer: Tokenizer) -> NDArray[np.uint8]:
    """Return what each token may not do (V,), in bits.

    Control characters and "|" would break the line or forge a mark; a section that begins with a
    plain letter or digit is not blank. Special tokens may do nothing. What a token of plain ASCII
    is follows from the two that it joins, so that 8,000 texts need not be decoded.
    """
    masks = np.full(len(tokenizer), FORBIDDEN | CANNOT_BEGIN, np.uint8)
    forbidden: list[bool] = []
    begins: list[str] = []  # the first character behind the spaces; "?" of one beyond ASCII
    for number in range(BYTES):
        (byte,) = tokenizer.token_bytes(number)
        forbidden.append(byte < 32 or byte in b"|\x7f")
        begins.append("?" if byte > 127 else chr(byte).strip())
    for left, right in tokenizer.merges_M2.tolist():
        forbidden.append(forbidden[left] or forbidden[right])
        begins.append(begins[left] or begins[right])
    for number, first in enumerate(begins):
        if first == "?" and number >= BYTES:  # perhaps a space, such as U+00A0
            first = tokenizer.decode([number]).strip()[:1]
        can_begin = first.isascii() and first.isalnum()
        masks[number] = FORBIDDEN * forbidden[number] | CANNOT_BEGIN * (not can_begin)
    return masks


def repetitions(section: Sequence[int]) -> list[int]:
    """Return the tokens that would stutter: the last one again, or four in a row for a second
    time."""
    last, found = list(section[-3:]), list(section[-1:])
    for i in range(len(section) - 3):
        if list(section[i : i + 3]) == last:
            found.append(section[i + 3])
    return found


def subset_features() -> NDArray[np.float32]:
    """Return (32, 16): which robots, which pairs of robots, none; as `models.heads` has it."""
    bits = (np.arange(32)[:, None] >> np.arange(5)) & 1
    pairs = [bits[:, r] * bits[:, s] for r in range(5) for s in range(r + 1, 5)]
    none = (bits.sum(1) == 0).astype(int)
    return np.column_stack([bits, *pairs, none]).astype(np.float32)
