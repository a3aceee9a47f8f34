"""Which step waits for which, by the words that join them.

    waiting_logit(stand, 1, 0) > 0     # does step 1 wait for step 0?

What people write says so in few words: "then", "once that is in", "meanwhile", or a condition that
names what another step finds ("when the gas is okay"). Each of `FEATURES` is one such sign. Beside
them count the n-grams of the words around both steps, in a hashed table. A logistic regression that
`python -m embervlm.training.waiting` fits on the written plans of the training split says how much:
it lies beside the weights in `waiting.npz`. The network's own opinion is added to it.

Axes: F signs, N rows of the table.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

_THEN = re.compile(
    r"\b(?:then|after|afterwards|once|when|next|finally|lastly|last|until|till|subsequently|"
    r"thereafter|later|following|with that|that done|second|only if|cleared|based on|at the end)\b",
    re.IGNORECASE,
)
_BESIDE = re.compile(
    r"\b(?:meanwhile|same time|at once|also|parallel|simultaneous\w*|besides|separately|"
    r"independent\w*|while|as well|straight away|right away|immediately|from the start|now|"
    r"don't wait|without waiting|whenever|any time|both|order is immaterial)\b",
    re.IGNORECASE,
)
_ALL = re.compile(
    r"\b(?:both|all three|all of (?:that|this|it)|everything|all that|all done|the rest|"
    r"the others|the two|the three|1 and 2)\b",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"\b(?:before|prior to|ahead of|first)\b", re.IGNORECASE)
_FIRST = re.compile(r"\bfirst\b", re.IGNORECASE)
_CONDITION = re.compile(
    r"\b(?:when|once|after|until|till|if|as soon as|before|with|based on)\b([^,.;:]{3,60})",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z0-9]+")
_ENDING = re.compile(r"(?:ings?|ed|es|s|er|e)$")
_PLAIN = frozenset(
    "the a an of to in on at for and or with from by is it its that this be are was as up down "
    "then when once after before into over under we you they there".split()
)
_LOOKS = frozenset({"look", "measure", "search", "map", "sample"})
# So many characters at the front of a piece are where a joining word stands.
_HEAD = 25

FEATURES = (
    "next", "next but one", "then in front", "then near", "beside near", "beside in front",
    "all near", "before near", "next, then in front", "next, then near", "next, beside near",
    "next, beside in front", "all and then near", "condition names it", "condition and then",
    "same robot", "last step", "first in the request", "then in the request",
    "beside in the request", "told behind it", "looks before hands", "looks before a load",
    "both look", "talk", "the other first", "the other before", "right behind it", "bias",
)  # fmt: skip
# So many rows the table of n-grams has; a bit fewer cost half a point of F1 on folds.
ROWS = 1 << 17
SHIPPED = Path(__file__).parent / "weights" / "waiting.npz"
_TOKEN = re.compile(r"[a-z0-9']+|[?.!;:,()-]")
# A step waits from this chance on: of 0.3, 0.4 and 0.5 the best beside the network's opinion.
WAITS_FROM = 0.3


@dataclass(frozen=True)
class Stand:
    """Where the steps of a request stand, and what is known of them, in the order of telling.

    `pieces` are all pieces of the request in order, `best` the one that a step stands in, `own` all
    that are its own; `actions` and `robots` are what it needs and whom it is for.
    """

    pieces: Sequence[str]
    best: Sequence[int]
    own: Sequence[frozenset[int]]
    actions: Sequence[frozenset[str]]
    robots: Sequence[int]


def stems(text: str, plain: frozenset[str] = _PLAIN) -> list[str]:
    """Return the words of a text that say something, all but the `plain` ones, without their
    endings."""
    words = (word for word in _WORD.findall(text.lower()) if word not in plain)
    return [_ENDING.sub("", word)[:6] for word in words]


def rarities(tasks: Sequence[str]) -> dict[str, float]:
    """Return how rare each word of some requests is, by its stem: ln((1 + all) / those with it)."""
    seen = Counter(word for task in tasks for word in set(stems(task)))
    return {word: math.log((1 + len(tasks)) / count) for word, count in seen.items()}


def features(stand: Stand, later: int, earlier: int) -> list[float]:
    """Return `FEATURES` for one step, which may wait for the other; either may be told first."""
    pieces, at = stand.pieces, stand.best[later]
    task = " ".join(pieces)
    near = " ".join(pieces[max(0, at - 1) : at + 1])
    front, behind = pieces[at][:_HEAD], " ".join(pieces[at : at + 2])
    named = {stem for c in _CONDITION.findall(f"{near} {behind}") for stem in stems(c)}
    from_ = stand.best[earlier]
    the_other = " ".join(pieces[from_ : from_ + 2])
    told = {stem for p in stand.own[earlier] for stem in stems(pieces[p])}
    common = min(3, len(named & told))
    is_next = later - earlier == 1
    then_front, then_near = bool(_THEN.search(front)), bool(_THEN.search(near))
    beside_front, beside_near = bool(_BESIDE.search(front)), bool(_BESIDE.search(near))
    all_near = bool(_ALL.search(near))
    acts, looked = stand.actions[later], stand.actions[earlier]
    signs: list[float] = [
        is_next,
        later - earlier == 2,
        then_front,
        then_near,
        beside_near,
        beside_front,
        all_near,
        bool(_BEFORE.search(behind)),
        is_next and then_front,
        is_next and then_near,
        is_next and beside_near,
        is_next and beside_front,
        all_near and then_near,
        common,
        common > 0 and then_near,
        stand.robots[later] == stand.robots[earlier],
        later == len(stand.best) - 1,
        bool(_FIRST.search(task)),
        bool(_THEN.search(task)),
        bool(_BESIDE.search(task)),
        earlier > later,
        "handle" in acts and bool(looked & _LOOKS),
        "carry" in acts and bool(looked & _LOOKS),
        bool(acts & _LOOKS) and bool(looked & _LOOKS),
        "talk" in acts,
        earlier > later and bool(_FIRST.search(the_other)),
        earlier > later and bool(_BEFORE.search(the_other)),
        earlier - later == 1,
        1.0,
    ]
    return [float(sign) for sign in signs]


def ngrams(stand: Stand, later: int, earlier: int) -> list[int]:
    """Return the rows of the table, rising and each once, for one step, which may wait for the
    other.

    They are the n-grams of the pieces that the two stand in and of those beside them, each with
    where it stands, and who the two are for, what they need, and how far apart they are.
    """
    pieces, at, from_ = stand.pieces, stand.best[later], stand.best[earlier]
    next_to = "next" if abs(later - earlier) == 1 else "far"
    told = "told" if earlier < later else "back"
    next_to = f"{told} {next_to}"
    found = [
        *_grams(" ".join(pieces), f"request {told}", 2),
        *_grams(pieces[at], next_to, 3),
        *_grams(pieces[from_], f"the other {next_to}", 3),
        *_grams(" ".join(pieces[max(0, at - 1) : at]), f"in front {told}", 2),
        *_grams(" ".join(pieces[at + 1 : at + 2]), f"behind {told}", 2),
        *_grams(" ".join(pieces[from_ + 1 : from_ + 2]), f"behind the other {told}", 2),
        *(
            f"needs {one} {other} {told}"
            for one in stand.actions[earlier]
            for other in stand.actions[later]
        ),
        f"robots {stand.robots[earlier]} {stand.robots[later]} {told}",
        f"apart {min(3, abs(at - from_))} {next_to}",
    ]
    return sorted({zlib.crc32(gram.encode()) % ROWS for gram in found})


def _grams(text: str, where: str, longest: int) -> Iterator[str]:
    tokens = _TOKEN.findall(text.lower())
    for n in range(1, longest + 1):
        for i in range(len(tokens) - n + 1):
            yield f"{where}: {' '.join(tokens[i : i + n])}"


@dataclass(frozen=True)
class Weights:
    """How much the signs count, (F,), and the rows of the table, (N,)."""

    signs_F: NDArray[np.float32]
    rows_N: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write a file for `load`, the rows in half precision."""
        np.savez_compressed(path, signs=self.signs_F, rows=self.rows_N.astype(np.float16))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file that `save` writes.

        Raises:
            ValueError: there is none, or it holds something else.
        """
        try:
            with np.load(path) as file:
                signs_F, rows_N = (file[name].astype(np.float32) for name in ("signs", "rows"))
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} does not say how much signs count ({error}).") from error
        if signs_F.shape != (len(FEATURES),) or rows_N.shape != (ROWS,):
            raise ValueError(
                f"{path} has {signs_F.shape} signs and {rows_N.shape} rows, expected "
                f"{len(FEATURES)} and {ROWS}; fit it again."
            )
        return cls(signs_F, rows_N)


@cache
def shipped() -> Weights:
    """Return the weights that ship, read once."""
    return Weights.load(SHIPPED)


def waiting_logit(stand: Stand, later: int, earlier: int, weights: Weights | None = None) -> float:
    """Return how far a step is from `WAITS_FROM`, in log-odds: above 0 it waits for the other."""
    weights = weights or shipped()
    odds = float(weights.signs_F @ np.array(features(stand, later, earlier), np.float32))
    odds += float(weights.rows_N[ngrams(stand, later, earlier)].sum())
    return odds - math.log(WAITS_FROM / (1 - WAITS_FROM))
