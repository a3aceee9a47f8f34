"""Byte-level BPE in plain Python: text to token numbers and back, with nothing but the standard
library.

The vocabulary is our own (about 8,000 tokens, trained by `training/tokenizer.py`); any text can be
written with it, since every byte is a token. Words are split as `PATTERN` says: a word keeps the
space before it, digits stand alone (so that 13 and 16 share no token), punctuation runs together.

    tokenizer = Tokenizer.from_file("tokenizer.json")
    tokenizer.decode(tokenizer.encode("8 kg up the stairs"))      # "8 kg up the stairs"
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

PATTERN = r" ?[^\W\d_]+| ?\d| ?[^\s\w]+| ?_+|\s+"
_WORD = re.compile(PATTERN)


def byte_alphabet() -> dict[int, str]:
    """Return GPT-2's printable stand-in for each byte, so that vocabularies can be JSON text."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {
        **{byte: chr(byte) for byte in shown},
        **{byte: chr(256 + i) for i, byte in enumerate(hidden)},
    }


_SHOWN = byte_alphabet()
_BYTE_OF = {char: byte for byte, char in _SHOWN.items()}


class Tokenizer:
    """Encodes and decodes with a vocabulary, its merges and its special tokens.

    `vocabulary` maps tokens in the byte alphabet to numbers; `merges` lists pairs, best first;
    `specials` maps marks such as `<|task|>` to numbers. Text never produces a special token: only
    callers do.
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: list[tuple[str, str]], specials: dict[str, int]
    ) -> None:
        self.vocabulary = vocabulary
        self.specials = specials
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._tokens = {number: token for token, number in vocabulary.items()}
        self._special_numbers = {number: mark for mark, number in specials.items()}
        self._encode_word = lru_cache(maxsize=20_000)(self._merge_word)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read the JSON file that `training/tokenizer.py` writes.

        Raises:
            ValueError: the file is missing, is not JSON, or lacks a key.
        """
        try:
            return cls.from_json(Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not a tokenizer file of embervlm ({error}).") from error

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Read the text of such a file.

        Raises:
            ValueError: it is not JSON, or lacks a key.
        """
        try:
            content = json.loads(text)
            merges = [
                (left, right) for left, right in (pair.split(" ") for pair in content["merges"])
            ]
            return cls(content["vocabulary"], merges, content["specials"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the form of a tokenizer: {error}") from error

    def __len__(self) -> int:
        return len(self.vocabulary) + len(self.specials)

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
                pending.extend(_BYTE_OF[char] for char in self._tokens[number])
        return "".join(text) + pending.decode("utf-8", errors="replace")

    def _merge_word(self, word: str) -> tuple[int, ...]:
        parts = [_SHOWN[byte] for byte in word.encode("utf-8", errors="replace")]
        while len(parts) > 1:
            pairs = {pair for pair in zip(parts, parts[1:], strict=False) if pair in self._ranks}
            if not pairs:
                break
            left, right = min(pairs, key=self._ranks.__getitem__)
            # All of them at once: one by one, a request of 4,000 emoji would take a minute.
            joined, i = [], 0
            while i < len(parts):
                together = parts[i] == left and parts[i + 1 : i + 2] == [right]
                joined.append(left + right if together else parts[i])
                i += 2 if together else 1
            parts = joined
        return tuple(self.vocabulary[part] for part in parts)
