"""Reads a mistyped word as the word that was meant, so that a slip of the finger decides nothing.

    spelling = shipped()
    spelling.read("look whethr the brigde stands")
    # ("look whether the bridge stands", {"whethr": "whether", "brigde": "bridge"})

A word of four letters or more that is not known is read as the known word one slip away that is
likeliest: how common it is in requests, times how common such a slip is (the noisy channel of
Kernighan, Church and Gale, 1990; one slip after Damerau, 1964). Slips that fingers make count most:
two neighbours swapped, a letter doubled, one hit beside its key. Numbers, names (a capital within a
sentence), abbreviations in capitals and words of the fleet stay, and so does a word that is known
but rare: a larder is no ladder. A request of which most words are unknown is in another language,
and stays as a whole. What was read otherwise is told in `Decision.read_as`.

The words are kept as hashes, beside the weights, made from the training split and public texts by
`training/spelling.py`: 75,000 of them take 0.4 MB of memory, as a set of strings several.

Axes: W words, C candidates.
"""

from __future__ import annotations

import re
import string
import zlib
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

SHIPPED = Path(__file__).parent / "weights" / "words.npz"
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
# Commonness is kept in a byte, sixteen steps for each doubling; 0 is a word that is known, but too
# rare in requests to be what somebody meant.
STEPS_PER_DOUBLING = 16
_SHORTEST, _LONGEST = 4, 24
# Each takes about 400 look-ups: so many are looked for in one request, of which there are few.
_MOST_UNKNOWN = 64
_MANY = 4
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {
    pair for row in _KEYS for a, b in zip(row, row[1:], strict=False) for pair in (a + b, b + a)
}
_FINGER, _LOST, _ADDED, _OTHER = 1.0, 0.5, 0.3, 0.1
_SENTENCE_ENDS = ".!?:;\n-•"


class Spelling:
    """Known words, by their hashes, and how common each is in requests."""

    def __init__(self, hashes_W: NDArray[np.uint32], commonness_W: NDArray[np.uint8]) -> None:
        """Take CRC-32s of words in lower case, rising, and 0 to 255 for each; see `of_counts`."""
        self._hashes_W = hashes_W
        self._commonness_W = commonness_W
        self._meant = lru_cache(maxsize=1024)(self._find)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file that `save` writes.

        Raises:
            ValueError: there is none, or it holds something else.
        """
        try:
            with np.load(path) as file:
                return cls(file["hashes"], file["commonness"])
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} holds no list of words ({error}).") from error

    @classmethod
    def of_counts(cls, known: Iterable[str], counts: dict[str, int]) -> Self:
        """Build from words that are known, and from how often those stand that may be meant."""
        commonness = {zlib.crc32(word.encode()): 0 for word in known}
        for word, count in counts.items():
            steps = round(STEPS_PER_DOUBLING * np.log2(1 + count))
            commonness[zlib.crc32(word.encode())] = min(int(steps), 255)
        hashes = sorted(commonness)
        return cls(
            np.array(hashes, np.uint32), np.array([commonness[key] for key in hashes], np.uint8)
        )

    def save(self, path: Path) -> None:
        """Write both arrays, compressed."""
        np.savez_compressed(path, hashes=self._hashes_W, commonness=self._commonness_W)

    def __len__(self) -> int:
        return len(self._hashes_W)

    def read(self, text: str, own: Collection[str] = ()) -> tuple[str, dict[str, str]]:
        """Return the text as it was meant, and the words that are read otherwise.

        `own` are further words that stay, in lower case, such as the names of robots.
        """
        words = {match[0].lower() for match in WORD.finditer(text)} - set(own)
        unknown = self._unknown({word for word in words if _could_be_slip(word)})
        if not unknown or len(unknown) >= _MANY and 2 * len(unknown) > len(words):
            return text, {}
        unknown = unknown[:_MOST_UNKNOWN]
        shouted = text.isupper()
        read_as: dict[str, str] = {}

        def meant(match: re.Match[str]) -> str:
            word = match[0]
            if word.lower() not in unknown:
                return word
            if word[0].isupper() and not shouted and (word.isupper() or _within(text, match)):
                return word
            found = self._meant(word.lower())
            if found is None:
                return word
            found = found.upper() if word.isupper() else found
            read_as[word] = found[0].upper() + found[1:] if word[0].isupper() else found
            return read_as[word]

        return WORD.sub(meant, text), read_as

    def _unknown(self, words: Collection[str]) -> list[str]:
        """Return the words that are not known, nor known before their apostrophe, sorted."""
        all_C = sorted(words)
        known_C = self._common(all_C) >= 0
        known_C |= self._common([word.partition("'")[0].partition("’")[0] for word in all_C]) >= 0
        return [word for word, known in zip(all_C, known_C, strict=True) if not known]

    def _common(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Return how common each word is, -1 where it is not known."""
        keys_C = np.array([zlib.crc32(word.encode()) for word in words], np.uint32)
        at_C = np.searchsorted(self._hashes_W, keys_C).clip(max=len(self._hashes_W) - 1)
        found_C = self._hashes_W[at_C] == keys_C
        return np.where(found_C, self._commonness_W[at_C].astype(np.int64), -1)

    def _find(self, word: str) -> str | None:
        slips = one_slip_away(word)
        candidates = list(slips)
        common_C = self._common(candidates)
        chance_C = np.log2([slips[candidate] for candidate in candidates])
        chance_C += common_C / STEPS_PER_DOUBLING
        best = int(np.where(common_C > 0, chance_C, -np.inf).argmax())
        return candidates[best] if common_C[best] > 0 else None


def one_slip_away(word: str) -> dict[str, float]:
    """Return what may have been meant by a word in lower case, and how likely the slip is.

    >>> one_slip_away("teh")["the"], one_slip_away("bridgge")["bridge"]
    (1.0, 1.0)
    """
    meant: dict[str, float] = {}

    def add(other: str, chance: float) -> None:
        meant[other] = max(chance, meant.get(other, 0.0))

    for i in range(len(word) + 1):
        left, right = word[:i], word[i:]
        for letter in string.ascii_lowercase:
            add(left + letter + right, _LOST)
            if right and letter != right[0]:
                beside = letter + right[0] in _BESIDE
                add(left + letter + right[1:], _FINGER if beside else _OTHER)
        if right:
            doubled = right[0] in (left[-1:], right[1:2])
            add(left + right[1:], _FINGER if doubled else _ADDED)
        if len(right) > 1:
            add(left + right[1] + right[0] + right[2:], _FINGER)
    meant.pop(word, None)
    return meant


@lru_cache(maxsize=1)
def shipped() -> Spelling:
    """Return the words that ship, read once."""
    return Spelling.load(SHIPPED)


def _could_be_slip(word: str) -> bool:
    return _SHORTEST <= len(word) <= _LONGEST and word.isascii()


def _within(text: str, match: re.Match[str]) -> bool:
    """Whether a word stands within a sentence, so that its capital makes it a name."""
    before = text[: match.start()].rstrip(" \t\"'“(")
    return bool(before) and before[-1] not in _SENTENCE_ENDS
