"""A mixture is the same for the same seed, goes on from a state, and keeps to its weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from embervlm.data.example import WHOLE, Example, Part, Report, Turn, examples_of
from embervlm.data.mixture import Mixture, Source, part_of


def source(name: str, size: int, weight: float = 1.0, *, repeat: bool = True) -> Source:
    def read(report: Report, part: Part = WHOLE) -> Iterator[Example]:
        def make(i: int) -> Example:
            return Example(f"{name}{i}", name, None, (Turn(None, "x"),))

        return examples_of(iter(range(size)), make, report=report, part=part)

    return Source(name, weight, read, repeat)


def sources() -> list[Source]:
    return [source("a", 7, 2.0), source("b", 23, 1.0, repeat=False), source("c", 5, 0.5)]


def ids(mixture: Mixture, count: int | None = None) -> list[str]:
    return [example.id for example in islice(mixture, count)]


def test_the_same_seed_gives_the_same_stream_and_another_seed_another() -> None:
    first = ids(Mixture(sources(), seed=1), 200)
    assert ids(Mixture(sources(), seed=1), 200) == first
    assert ids(Mixture(sources(), seed=2), 200) != first


@pytest.mark.parametrize("buffer", [1, 3, 100])
@pytest.mark.parametrize("part", [WHOLE, Part(1, 3)])
def test_resuming_anywhere_equals_never_having_stopped(buffer: int, part: Part) -> None:
    expected = ids(Mixture(sources(), seed=3, part=part, buffer=buffer), 150)
    for stop in range(100):
        stopped = Mixture(sources(), seed=3, part=part, buffer=buffer)
        assert ids(stopped, stop) == expected[:stop]
        state = json.loads(json.dumps(stopped.state_dict()))
        resumed = Mixture(sources(), seed=3, part=part, buffer=buffer)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert ids(resumed, 150 - stop) == expected[stop:]


def test_a_state_does_not_change_once_it_is_taken_and_stays_small() -> None:
    mixture = Mixture(sources(), seed=3)
    ids(mixture, 10)
    state = mixture.state_dict()
    before = json.dumps(state)
    ids(mixture, 5000)
    assert json.dumps(state) == before
    assert len(json.dumps(mixture.state_dict())) < 1000


def test_resuming_after_the_end_is_the_end() -> None:
    finite = [source("a", 5, repeat=False), source("b", 9, repeat=False)]
    mixture = Mixture(finite, seed=1)
    assert len(ids(mixture)) == 14
    resumed = Mixture(finite, seed=1)
    resumed.load_state_dict(mixture.state_dict())
    assert ids(resumed) == []


def test_weights_are_met() -> None:
    mixture = Mixture([source("a", 11, 6), source("b", 400, 3), source("c", 50, 1)], seed=4)
    counts = Counter(example.source for example in islice(mixture, 20_000))
    for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        # Three standard deviations of 20,000 draws are at most 0.011.
        assert counts[name] / 20_000 == pytest.approx(share, abs=0.011)


def test_the_sets_that_are_left_share_in_proportion() -> None:
    mixture = Mixture(
        [source("a", 3, 10, repeat=False), source("b", 400, 3), source("c", 50, 1)], seed=4
    )
    counts = Counter(example.source for example in islice(mixture, 10_000))
    assert counts["a"] == 3
    assert counts["b"] / (counts["b"] + counts["c"]) == pytest.approx(0.75, abs=0.015)


@pytest.mark.parametrize("buffer", [1, 4, 1000])
def test_each_pass_has_every_example_once_in_another_order(buffer: int) -> None:
    stream = ids(Mixture([source("a", 50)], seed=5, buffer=buffer), 150)
    passes = [stream[i : i + 50] for i in (0, 50, 100)]
    assert all(len(set(one)) == 50 for one in passes)
    if buffer == 1:
        assert passes[0] == [f"a{i}" for i in range(50)]
    else:
        assert passes[0] != passes[1] != passes[2] != passes[0]


def test_a_set_that_does_not_repeat_ends_and_then_the_mixture() -> None:
    mixture = Mixture([source("a", 5, repeat=False), source("b", 9, repeat=False)], seed=1)
    assert set(ids(mixture)) == {*(f"a{i}" for i in range(5)), *(f"b{i}" for i in range(9))}
    assert ids(mixture) == []


def test_workers_of_ranks_read_disjoint_parts_that_are_the_whole() -> None:
    finite = [source("a", 101, repeat=False), source("b", 37, repeat=False)]
    parts = [part_of(r, 3, worker=w, workers=2) for r in range(3) for w in range(2)]
    assert sorted(part.index for part in parts) == list(range(6))
    streams = [ids(Mixture(finite, seed=1, part=part)) for part in parts]
    assert Counter(name for stream in streams for name in stream) == Counter(
        [*(f"a{i}" for i in range(101)), *(f"b{i}" for i in range(37))]
    )


def test_more_workers_than_examples_is_no_endless_loop() -> None:
    mixture = Mixture([source("a", 2), source("b", 1)], seed=1, part=Part(5, 8))
    assert ids(mixture) == []


def test_no_more_than_the_buffer_waits_in_memory() -> None:
    read = 0

    def endless(report: Report, part: Part) -> Iterator[Example]:
        nonlocal read
        while True:
            read += 1
            yield Example(str(read), "endless", None, ())

    ids(Mixture([Source("endless", 1, endless)], seed=1, buffer=10), 90)
    assert read == 100


def test_the_report_of_the_present_pass_is_kept() -> None:
    mixture = Mixture([source("a", 6)], seed=1)
    ids(mixture, 8)
    assert mixture.reports["a"].summary() == "a: 6 examples; left out: none"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 9}, "seed"),
        ({"part": Part(0, 2)}, "part"),
        ({"buffer": 9}, "buffer"),
        ({"sources": [source("a", 7)]}, "sets"),
    ],
)
def test_the_state_of_another_mixture_is_refused(change: dict[str, Any], named: str) -> None:
    state = Mixture(sources(), seed=1).state_dict()
    other = Mixture(**{"sources": sources(), "seed": 1, **change})
    with pytest.raises(ValueError, match=f"another mixture: {named} differ"):
        other.load_state_dict(state)


def test_a_set_that_has_shrunk_since_is_refused() -> None:
    before = Mixture([source("a", 50)], seed=1)
    ids(before, 40)
    after = Mixture([source("a", 20)], seed=1)
    after.load_state_dict(before.state_dict())
    with pytest.raises(ValueError, match="a now has 20 examples of the 40"):
        next(after)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weights of \['a'\] are not above 0"):
        Mixture([source("a", 1, weight)], seed=1)


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        Mixture([], seed=1)
    with pytest.raises(ValueError, match="different names"):
        Mixture([source("a", 1), source("a", 2)], seed=1)
    with pytest.raises(ValueError, match="holds nothing"):
        Mixture([source("a", 1)], seed=1, buffer=0)
    for rank, ranks, worker, workers in ((2, 2, 0, 1), (0, 1, 3, 3), (-1, 1, 0, 1), (0, 0, 0, 1)):
        with pytest.raises(ValueError, match="does not exist"):
            part_of(rank, ranks, worker, workers)
