"""Words without their endings, and how rare they are: what two texts have in common.

stems("Carrying the old pumps")     # ["carry", "old", "pump"]
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+")
_ENDING = re.compile(r"(?:ings?|ed|es|s|er|e)$")
_PLAIN = frozenset(
    "the a an of to in on at for and or with from by is it its that this be are was as up down "
    "then when once after before into over under we you they there".split()
)


def stems(text: str, plain: frozenset[str] = _PLAIN) -> list[str]:
    """Return the words of a text that say something, all but the `plain` ones, without their
    endings."""
    words = (word for word in _WORD.findall(text.lower()) if word not in plain)
    return [_ENDING.sub("", word)[:6] for word in words]


def rarities(texts: Sequence[str]) -> dict[str, float]:
    """Return how rare each word of some texts is, by its stem: ln((1 + all) / those with it)."""
    seen = Counter(word for text in texts for word in set(stems(text)))
    return {word: math.log((1 + len(texts)) / count) for word, count in seen.items()}
