"""Byte-level BPE in plain Python: text to token numbers and back.

The vocabulary is our own (about 8,000 tokens, trained by `training/tokenizer.py`); any text can be
written with it, since every byte is a token. Words are split as `PATTERN` says: a word keeps the
space before it, digits stand alone (so that 13 and 16 share no token), punctuation runs together.

All that there is to know is the list of merges: the first 256 tokens are the bytes, token 256 + i
is the pair `merges[i]` joined, and the special tokens come behind those.

    tokenizer = Tokenizer.from_file("tokenizer.json")
    tokenizer.decode(tokenizer.encode("8 kg up the stairs"))      # "8 kg up the stairs"

Axes: M merges, 2 left and right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PATTERN = r" ?[^\W\d_]+| ?\d| ?[^\s\w]+| ?_+|\s+"
BYTES = 256
_WORD = re.compile(PATTERN)


def byte_alphabet() -> dict[int, str]:
    """Return GPT-2's printable stand-in for each byte, which BPE libraries learn and write with."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(BYTES) if byte not in shown]
    return {
        **{byte: chr(byte) for byte in shown},
        **{byte: chr(BYTES + i) for i, byte in enumerate(hidden)},
    }


# Tokens 0 to 255 are the bytes in the order of their stand-ins: that of the library that learns
# the merges.
_BYTE_OF = sorted(range(BYTES), key=byte_alphabet().__getitem__)
_TOKEN_OF = {byte: token for token, byte in enumerate(_BYTE_OF)}


class Tokenizer:
    """Encodes and decodes with merges and special tokens.

    `merges_M2` holds the token numbers of each pair, best first; `specials` are marks such as
    `<|task|>`. Text never produces a special token: only callers do.
    """

    def __init__(self, merges_M2: NDArray[np.uint16], specials: Sequence[str]) -> None:
        """Take the merges as they are.

        Raises:
            ValueError: a pair names a token that comes after it, or the numbers do not fit.
        """
        merges_M2 = np.asarray(merges_M2, np.uint16)
        count = len(merges_M2)
        first = BYTES + np.arange(count)
        if merges_M2.shape != (count, 2) or (count and (merges_M2 >= first[:, None]).any()):
            raise ValueError("merges are pairs of tokens that come before them; these are not.")
        self.merges_M2 = merges_M2
        self.specials = {mark: BYTES + count + i for i, mark in enumerate(specials)}
        # One number a pair: a dict of 8,000 tuples would take three times the memory.
        pairs = merges_M2.astype(np.int64)
        keys = (pairs[:, 0] << 16 | pairs[:, 1]).tolist()
        self._joined = dict(zip(keys, range(BYTES, BYTES + count), strict=True))
        self._special_numbers = {number: mark for mark, number in self.specials.items()}
        self._encode_word = lru_cache(maxsize=4096)(self._merge_word)
        self.token_bytes = lru_cache(maxsize=4096)(self._token_bytes)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read the JSON file that `save` writes.

        Raises:
            ValueError: the file is missing, is not JSON, or holds something else.
        """
        try:
            return cls.from_json(Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not a tokenizer file of embervlm ({error}).") from error

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Read the text of such a file.

        Raises:
            ValueError: it is not JSON, or holds something else.
        """
        try:
            content = json.loads(text)
            merges = np.array(content["merges"], np.int64).reshape(-1, 2)
            if (merges < 0).any() or (merges >= 2**16).any():
                raise ValueError("a token number is out of range")
            return cls(merges.astype(np.uint16), [str(mark) for mark in content["specials"]])
        except (TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"not the form of a tokenizer: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the merges and the special tokens as JSON."""
        content = {"specials": list(self.specials), "merges": self.merges_M2.tolist()}
        Path(path).write_text(json.dumps(content) + "\n", "utf-8")

    def __len__(self) -> int:
        return self.plain_tokens + len(self.specials)

    @property
    def plain_tokens(self) -> int:
        """The number of tokens that text is made of; the special ones come behind them."""
        return BYTES + len(self.merges_M2)

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a text."""
        return [number for word in _WORD.findall(text) for number in self._encode_word(word)]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of token numbers; special tokens are written as their marks."""
        text, pending = [], bytearray()
        for number in numbers:
            if number in self._special_numbers:
                text.append(pending.decode("utf-8", errors="replace"))
                text.append(self._special_numbers[number])
                pending.clear()
            else:
                pending.extend(self.token_bytes(number))
        return "".join(text) + pending.decode("utf-8", errors="replace")

    def _token_bytes(self, number: int) -> bytes:
        """Return the bytes of a plain token."""
        if number < BYTES:
            return bytes([_BYTE_OF[number]])
        left, right = self.merges_M2[number - BYTES].tolist()
        return self._token_bytes(left) + self._token_bytes(right)

    def _merge_word(self, word: str) -> tuple[int, ...]:
        parts = [_TOKEN_OF[byte] for byte in word.encode("utf-8", errors="replace")]
        joined_of = self._joined
        while len(parts) > 1:
            keys = [left << 16 | right for left, right in zip(parts, parts[1:], strict=False)]
            # The best pair is the one that was learnt first, so the one with the lowest number.
            best = min((joined_of[key] for key in keys if key in joined_of), default=None)
            if best is None:
                break
            left, right = self.merges_M2[best - BYTES].tolist()
            # All of them at once: one by one, a request of 4,000 emoji would take a minute.
            joined, i = [], 0
            while i < len(parts):
                together = parts[i] == left and parts[i + 1 : i + 2] == [right]
                joined.append(best if together else parts[i])
                i += 2 if together else 1
            parts = joined
        return tuple(parts)
