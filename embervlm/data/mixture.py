"""Several sets as one endless or finite stream, mixed by weight, the same for the same seed.

    mixture = Mixture(
        [
            Source("gqa", 3.0, partial(open_set, "gqa", questions=..., images=...)),
            Source("cc3m", 1.0, partial(open_set, "cc3m", folder=...)),
        ],
        seed=1,
    )
    for example in mixture: ...
    state = mixture.state_dict()       # small, JSON; load_state_dict goes on exactly from there

Which set the k-th draw comes from is a hash of the seed and k; the order within a set is a shuffle
through a buffer, seeded by the set and by how often it has begun. So a state need not hold the
buffers: it says how many examples of the present pass were drawn, and resuming reads so many again.
That takes time, and no memory: a resumed set reads from its start to where it was.

Each worker of each rank reads its own part of every set (`part_of`), which is disjoint from all
others, and has its own state.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from embervlm.data.example import WHOLE, Example, Part, Report

# As many examples of each set wait in memory to be mixed; of sets in shards with their images.
BUFFER = 2000


@dataclass(frozen=True)
class Source:
    """A set in a mixture.

    `read(report=..., part=...)` yields its examples in the same order each time. `weight` is its
    share of the draws, in proportion to those of the sets that have not ended. A set that does not
    `repeat` ends when it is exhausted; one that does begins again in another order.
    """

    name: str
    weight: float
    read: Callable[..., Iterator[Example]]
    repeat: bool = True


def part_of(rank: int, ranks: int, worker: int = 0, workers: int = 1) -> Part:
    """Return the part that one worker of one rank reads.

    >>> part_of(1, 2, worker=0, workers=3)
    Part(index=3, count=6)

    Raises:
        ValueError: the worker or the rank is not one of so many.
    """
    within = Part(worker, workers)
    return Part(Part(rank, ranks).index * workers + within.index, ranks * workers)


class Mixture:
    """An iterator over several sets; it ends when all have ended, which may be never.

    `reports` has the report of the present pass through each set that was begun.

    Args:
        sources: the sets, of different names.
        seed: of all that is drawn.
        part: what this worker reads of every set, see `part_of`.
        buffer: how many examples of a set are shuffled at a time; 1 keeps their order.

    Raises:
        ValueError: no sets, two of one name, or a weight that is not above 0. Later: see the sets.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        seed: int,
        part: Part = WHOLE,
        buffer: int = BUFFER,
    ) -> None:
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"A mixture takes sets of different names, not {names}.")
        if wrong := [s.name for s in sources if not 0 < s.weight < float("inf")]:
            raise ValueError(f"The weights of {wrong} are not above 0; leave the sets out instead.")
        if buffer < 1:
            raise ValueError(f"A buffer of {buffer} holds nothing; give 1 to keep the order.")
        self.reports: dict[str, Report] = {}
        self._sources = {source.name: source for source in sources}
        self._seed, self._part, self._buffer = seed, part, buffer
        self._draws = 0
        self._places = {name: _Place() for name in names}
        self._passes: dict[str, Iterator[Example]] = {}

    def __iter__(self) -> Mixture:
        return self

    def __next__(self) -> Example:
        while live := [name for name, place in self._places.items() if not place.ended]:
            name = self._choose(live)
            example = self._next_of(name)
            if example is not None:
                self._draws += 1
                self._places[name].drawn += 1
                return example
        raise StopIteration

    def state_dict(self) -> dict[str, Any]:
        """Return where the mixture stands, as JSON can hold it."""
        return {
            **self._identity(),
            "draws": self._draws,
            "places": {name: vars(place).copy() for name, place in self._places.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: what follows is what would have followed then.

        Raises:
            ValueError: the state is of another mixture: other sets, weights, seed, part or buffer.
        """
        identity = self._identity()
        if differing := [key for key in identity if state.get(key) != identity[key]]:
            raise ValueError(
                f"The state is of another mixture: {', '.join(differing)} differ; resume with the "
                "settings of the run that wrote it, or begin anew."
            )
        self._draws = state["draws"]
        self._places = {name: _Place(**place) for name, place in state["places"].items()}
        self._passes = {}

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "part": [self._part.index, self._part.count],
            "buffer": self._buffer,
            "sets": [[s.name, s.weight, s.repeat] for s in self._sources.values()],
        }

    def _choose(self, live: Sequence[str]) -> str:
        """Return the set of the present draw, by a hash, so that no generator has to be saved."""
        weights = [self._sources[name].weight for name in live]
        key = f"{self._seed}/{self._part.index}/{self._draws}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        left = int.from_bytes(digest) / 2**64 * sum(weights)
        for name, weight in zip(live, weights, strict=True):
            left -= weight
            if left < 0:
                return name
        return live[-1]

    def _next_of(self, name: str) -> Example | None:
        """Return the next example of a set, of its next pass if need be; None if it has ended."""
        place = self._places[name]
        if name not in self._passes:
            self._passes[name] = self._begin(name)
            # What was drawn before the state was written is read again and let go.
            again = sum(1 for _ in islice(self._passes[name], place.drawn))
            if again < place.drawn:
                raise ValueError(
                    f"{name} now has {again} examples of the {place.drawn} that were drawn before "
                    "the state was written; restore its files, or begin anew."
                )
        example = next(self._passes[name], None)
        if example is None and self._sources[name].repeat and place.drawn:
            place.epoch += 1
            place.drawn = 0
            self._passes[name] = self._begin(name)
            example = next(self._passes[name], None)
        if example is None:
            place.ended = True
        return example

    def _begin(self, name: str) -> Iterator[Example]:
        self.reports[name] = Report(name)
        order = f"{self._seed}/{name}/{self._part.index}/{self._places[name].epoch}"
        examples = self._sources[name].read(report=self.reports[name], part=self._part)
        return shuffled(examples, self._buffer, random.Random(order))


@dataclass
class _Place:
    """Where a set stands: which pass, how many examples of it were drawn, whether it has ended."""

    epoch: int = 0
    drawn: int = 0
    ended: bool = False


def shuffled(examples: Iterable[Example], size: int, order: random.Random) -> Iterator[Example]:
    """Yield all examples in another order, holding at most `size` of them."""
    held: list[Example] = []
    for example in examples:
        if len(held) < size:
            held.append(example)
            continue
        # Of all of random's methods, only random() keeps its numbers from version to version.
        i = int(order.random() * size)
        held[i], example = example, held[i]
        yield example
    while held:
        i = int(order.random() * len(held))
        held[i], held[-1] = held[-1], held[i]
        yield held.pop()
