"""Train the byte-level BPE vocabulary that `embervlm.tokenizer` reads.

    python -m embervlm.training.tokenizer --shared ../shared --out build/tokenizer.json

Trained on our training requests (repeated, lower case), their reasoning (as written), captions,
dialogues and robotics documentation.
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, models, pre_tokenizers, trainers

from embervlm.data.scenarios import FILES, load
from embervlm.prompts import SPECIALS
from embervlm.tokenizer import BYTES, PATTERN, Tokenizer, byte_alphabet

OWN_TEXT_REPEATS = 8
LINES = {
    "coco_val_captions": 25_000,
    "dialogues_sgd": 40_000,
    "ros2_docs": 15_000,
    "nltk_subjectivity": 5_000,
}


def corpus(shared: Path) -> Iterator[str]:
    """Yield the training text, our own lines several times."""
    for name in FILES:
        for row in load(name, "train"):
            for _ in range(OWN_TEXT_REPEATS):
                yield " " + row["task"].lower()
            if "reasoning" in row:
                yield from reasoning_lines(row["reasoning"])
    for name, lines in LINES.items():
        with lzma.open(shared / "text" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            for line, _ in zip(file, range(lines), strict=False):
                yield " " + line.strip().lower()


def reasoning_lines(reasoning: dict[str, Any]) -> Iterator[str]:
    """Yield the authors' four lines as they stand."""
    yield from (" " + reasoning[key] for key in ("task", "environment", "decision"))
    yield from (f" {name}: {why}" for name, why in reasoning["robots"].items())


def train(shared: Path, vocabulary_size: int) -> Tokenizer:
    """Return a tokenizer with `vocabulary_size` tokens, specials included."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(SPECIALS),
        initial_alphabet=sorted(byte_alphabet().values()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(shared), trainer)
    model = json.loads(bpe.to_str())["model"]
    return Tokenizer(merge_numbers(model["vocab"], model["merges"]), SPECIALS)


def merge_numbers(
    vocabulary: Mapping[str, int], merges: Sequence[str | Sequence[str]]
) -> NDArray[np.uint16]:
    """Return the library's merges, written in the byte alphabet, as pairs of token numbers."""
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    made = [vocabulary[left + right] for left, right in pairs]
    assert made == list(range(BYTES, BYTES + len(pairs))), "tokens stand in the order of merges"
    numbers = [[vocabulary[left], vocabulary[right]] for left, right in pairs]
    return np.array(numbers, np.uint16).reshape(-1, 2)


def main() -> None:
    """Read the flags, train, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary-size", type=int, default=8192)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    train(options.shared, options.vocabulary_size).save(options.out)


if __name__ == "__main__":
    main()
