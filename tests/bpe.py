"""A tokenizer learnt in the plainest way, for tests."""

from collections import Counter

import numpy as np

from embervlm.prompts import SPECIALS
from embervlm.tokenizer import BYTES, Tokenizer

TEXT = (
    " carry the pump up the stairs look at the roof and the river search the ruins for people"
    " send the robot with legs the robot with wheels the drone the humanoid the diver"
)


def learn_bpe(text: str, merges: int) -> Tokenizer:
    """Return a tokenizer learnt in the plainest way: join the commonest pair."""
    bytes_only = Tokenizer(np.zeros((0, 2), np.uint16), ())
    words = [bytes_only.encode(f" {word}") for word in text.split()]
    pairs: list[tuple[int, int]] = []
    for _ in range(merges):
        counts = Counter(pair for word in words for pair in zip(word, word[1:], strict=False))
        if not counts:
            break
        best = max(sorted(counts), key=lambda pair: counts[pair])
        for word in words:
            for i in range(len(word) - 1, 0, -1):
                if tuple(word[i - 1 : i + 1]) == best:
                    word[i - 1 : i + 1] = [BYTES + len(pairs)]
        pairs.append(best)
    return Tokenizer(np.array(pairs, np.uint16).reshape(-1, 2), SPECIALS)
