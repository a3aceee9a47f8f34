"""Writes the reasoning greedily under its grammar, whatever computes the chances of a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.base import Array
from embervlm.prompts import END, SECTIONS, reasoning_prefix
from embervlm.tokenizer import Tokenizer

# A section longer than this is ended; the authors' longest has 19 tokens.
MAX_SECTION_TOKENS = 20


class Grammar:
    """What the reasoning may hold: three sections behind the robots, each begun by a letter or a
    digit."""

    def __init__(self, tokenizer: Tokenizer, positions: int) -> None:
        """Find out what each token may do; `positions` is how many the decoder can write."""
        self._tokenizer, self._positions = tokenizer, positions
        # Control characters and "|" would break the line or forge a mark. A section that begins
        # with a plain letter or digit is not blank.
        self._forbidden, self._cannot_begin = np.ones((2, len(tokenizer)), dtype=bool)
        for number in range(tokenizer.plain_tokens):
            text = tokenizer.decode([number])
            self._forbidden[number] = any(char < " " or char in "|\x7f" for char in text)
            first = text.strip()[:1]
            self._cannot_begin[number] = not (first.isascii() and first.isalnum())

    def write(self, robots: Sequence[str], step: Callable[[int], Array]) -> str:
        """Return the marked reasoning; `step` feeds a token and returns the chances (V,) of the
        next, which it may be asked to forget."""
        tokens = reasoning_prefix(robots, self._tokenizer)
        specials = self._tokenizer.specials
        room = self._positions - len(tokens)
        for token in tokens[:-1]:
            step(token)
        endings = (*SECTIONS[2:], END)
        for left, mark in zip(range(len(endings), 0, -1), endings, strict=True):
            limit = min(MAX_SECTION_TOKENS, room // left - 1)
            begin = len(tokens)
            for length in range(limit):
                chance = step(tokens[-1])
                ending = chance[specials[mark]]
                chance[self._forbidden] = -1
                chance[repetitions(tokens[begin:])] = -1
                if length:
                    chance[specials[mark]] = ending
                else:
                    chance[self._cannot_begin] = -1
                tokens.append(int(chance.argmax()))
                room -= 1
                if tokens[-1] == specials[mark]:
                    break
            else:
                step(tokens[-1])
                tokens.append(specials[mark])
                room -= 1
        return self._tokenizer.decode(tokens)


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
