"""Makes the list of words that `embervlm/spelling.py` reads by, from the training split and texts.

    python -m embervlm.training.spelling --shared ../shared --out embervlm/weights/words.npz

Known is each word of the training split's requests and of the public texts of `--shared`
(`text/LICENCES.md` there names them); may be meant each word that stands three times or more in
those requests. No word of validation or test is in it unless it is elsewhere too.
"""

from __future__ import annotations

import argparse
import lzma
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from embervlm.data.scenarios import load
from embervlm.spelling import SHIPPED, WORD, Spelling

_LEAST_COUNT = 3


def words_of(texts: Iterable[str]) -> Counter[str]:
    """Return how often each word stands in the texts, in lower case."""
    return Counter(word.lower() for text in texts for word in WORD.findall(text))


def learn(requests: Iterable[str], texts: Iterable[str]) -> Spelling:
    """Return the words that are known, and which of them are likely in requests."""
    counts = words_of(requests)
    often = {word: count for word, count in counts.items() if count >= _LEAST_COUNT}
    return Spelling.of_counts({*counts, *words_of(texts)}, often)


def main() -> None:
    """Read the flags, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    rows = [*load("scenarios", "train"), *load("plans", "train")]
    texts = map(_text, sorted((options.shared / "text").glob("*.xz")))
    spelling = learn([row["task"] for row in rows], texts)
    spelling.save(options.out)
    size = options.out.stat().st_size
    sys.stdout.write(f"{options.out}: {len(spelling):,} words, {size:,} bytes\n")


def _text(path: Path) -> str:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    main()
