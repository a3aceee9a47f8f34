"""Steps that wait for one another: cycles, order, the fewest links, the longest chain."""

import random

import pytest

from embervlm.planning import graph


def random_after(chance: random.Random, *, cycles: bool) -> list[tuple[int, ...]]:
    count = chance.randint(1, 7)
    names = chance.sample(range(count), count)
    after: list[tuple[int, ...]] = [()] * count
    for k, i in enumerate(names):
        candidates = names if cycles else names[:k]
        after[i] = tuple(j for j in candidates if chance.random() < 0.25)
    return after


def reachable(after: list[tuple[int, ...]]) -> list[set[int]]:
    """Follow links again and again until nothing is new."""
    found = [set(links) for links in after]
    for _ in after:
        for i, links in enumerate(found):
            for j in list(links):
                found[i] |= found[j]
    return found


def test_finds_a_cycle_exactly_where_a_step_leads_back_to_itself() -> None:
    chance = random.Random(1)
    cyclic = 0
    for _ in range(500):
        after = random_after(chance, cycles=True)
        cycle = graph.find_cycle(after)
        assert bool(cycle) == any(i in links for i, links in enumerate(reachable(after)))
        if cycle:
            cyclic += 1
            assert cycle[0] == cycle[-1]
            assert all(b in after[a] for a, b in zip(cycle, cycle[1:], strict=False))
            with pytest.raises(ValueError, match="in a circle"):
                graph.order(after)
    assert cyclic > 100


def test_order_and_fewest_links_say_the_same() -> None:
    chance = random.Random(2)
    for _ in range(500):
        after = random_after(chance, cycles=False)
        sequence = graph.order(after)
        assert sorted(sequence) == list(range(len(after)))
        assert all(sequence.index(j) < sequence.index(i) for i in sequence for j in after[i])
        fewest = graph.reduced(after)
        assert reachable(fewest) == reachable(after) == graph.ancestors(after)
        for i, links in enumerate(fewest):
            for j in links:
                without = [*fewest]
                without[i] = tuple(k for k in links if k != j)
                assert reachable(without) != reachable(after)


def test_the_longest_chain_is_the_longest_of_all() -> None:
    chance = random.Random(3)
    for _ in range(200):
        after = random_after(chance, cycles=False)
        minutes = [chance.uniform(0, 9) for _ in after]

        def longest(i: int, after: list = after, minutes: list = minutes) -> float:
            return minutes[i] + max((longest(j) for j in after[i]), default=0.0)

        path, total = graph.critical_path(after, minutes)
        assert total == pytest.approx(max(longest(i) for i in range(len(after))))
        assert total == pytest.approx(sum(minutes[i] for i in path))
        assert all(a in after[b] for a, b in zip(path, path[1:], strict=False))
