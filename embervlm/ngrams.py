"""Words, word pairs and pieces of words as rows of a hashed table.

What a linear model on n-grams knows of dispatch language is not quite what the reader knows: the
sum of both decides better than either (`docs/LOG.md`). The text comes from
`prompts.mark_quantities`, so "16 kg" also counts as the mark that says what it is above and below.
"""

from __future__ import annotations

import re
import zlib

_WORDS = re.compile(r"<\|[^|]*\|>|\w+")
_PIECES = range(2, 6)


def hash_ngrams(text: str, rows: int) -> list[int]:
    """Return the rows, 0 to `rows` - 1, rising and each once, of a text's n-grams.

    They are its words, its pairs of words, and the pieces of 2 to 5 letters of each word with a
    space on both sides; lower case. A row is the CRC-32 of the n-gram's UTF-8 bytes behind the
    letter of its kind, "w" or "c", modulo `rows`.
    """
    words = _WORDS.findall(text.lower())
    found = {f"w{word}" for word in words}
    found.update(f"w{left} {right}" for left, right in zip(words, words[1:], strict=False))
    for word in words:
        if not word.startswith("<"):
            padded = f" {word} "
            for size in _PIECES:
                found.update(f"c{padded[i : i + size]}" for i in range(len(padded) - size + 1))
    return sorted({zlib.crc32(ngram.encode()) % rows for ngram in found})
