"""Where in a written plan's request its steps are told, and in which order.

    scores_KP = piece_scores(task, ["Look at the roof", "Carry the pump"], rarities(tasks))
    order = as_told(scores_KP.argmax(1))

Nobody has marked it: a step stands in the pieces of the request that have most of the rarer words
of its short form.

Axes: K steps, P pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embervlm.splitting import pieces_of
from embervlm.stems import stems


def piece_scores(
    task: str, texts: Sequence[str], rarity: Mapping[str, float]
) -> NDArray[np.float32]:
    """Return how much each step stands in each piece of a request, (K, P).

    Args:
        task: the request in one line, `prompts.one_line`.
        texts: the steps' short forms.
        rarity: how rare each word is, `stems.rarities`; others do not count.
    """
    found_P = [set(stems(task[slice(*piece)])) for piece in pieces_of(task)]
    told_K = [set(stems(text)) for text in texts]
    scores = [
        [sum(rarity.get(w, 0.0) for w in told & found) for found in found_P] for told in told_K
    ]
    return np.array(scores, np.float32)


def as_told(places: Sequence[int | None]) -> list[int]:
    """Return the steps in the order in which they are told, by where each stands; one that stands
    nowhere comes behind the one that was listed before it, and so do equals."""
    known: list[int] = []
    for place in places:
        known.append((known or [0])[-1] if place is None else place)
    return sorted(range(len(known)), key=known.__getitem__)
