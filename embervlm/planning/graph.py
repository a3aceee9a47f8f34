"""Which steps wait for which: a directed graph without cycles, given as `after` lists.

`after[i]` holds the indices of the steps that must be finished before step i begins.

    >>> order([(2,), (), (1,)])
    [1, 2, 0]
    >>> reduced([(), (0,), (0, 1)])
    [(), (0,), (1,)]
"""

from __future__ import annotations

from collections.abc import Sequence

After = Sequence[Sequence[int]]


def check(after: After) -> None:
    """Make sure that the links form no cycle and point at steps that are there.

    Raises:
        ValueError: names the cycle, or the link that points nowhere. Steps are counted from 1.
    """
    for i, before in enumerate(after):
        for j in before:
            if not 0 <= j < len(after):
                raise ValueError(
                    f"Step {i + 1} waits for step {j + 1}, but there are {len(after)} steps."
                )
    if cycle := find_cycle(after):
        path = " after ".join(str(i + 1) for i in cycle)
        raise ValueError(f"The steps wait for one another in a circle ({path}); break one link.")


def find_cycle(after: After) -> list[int]:
    """Return the steps of a cycle, the first one again at the end; empty if there is none."""
    settled: set[int] = set()
    for start in range(len(after)):
        path: list[int] = []
        waiting = [(start, iter(after[start]))] if start not in settled else []
        on_path = {start}
        while waiting:
            step, links = waiting[-1]
            if len(path) < len(waiting):
                path.append(step)
            following = next((j for j in links if j not in settled), None)
            if following is None:
                settled.add(step)
                on_path.discard(step)
                path.pop()
                waiting.pop()
            elif following in on_path:
                return [*path[path.index(following) :], following]
            else:
                on_path.add(following)
                waiting.append((following, iter(after[following])))
    return []


def order(after: After) -> list[int]:
    """Return the steps so that each stands behind those it waits for; otherwise as they were given.

    Raises:
        ValueError: there is a cycle.
    """
    check(after)
    left = {i: set(before) for i, before in enumerate(after)}
    sequence: list[int] = []
    while left:
        first = next(i for i, before in left.items() if not before)
        del left[first]
        sequence.append(first)
        for before in left.values():
            before.discard(first)
    return sequence


def ancestors(after: After) -> list[set[int]]:
    """Return for each step all the steps that must be finished before it, near and far."""
    found: list[set[int]] = [set() for _ in after]
    for i in order(after):
        for j in after[i]:
            found[i] |= {j} | found[j]
    return found


def reduced(after: After) -> list[tuple[int, ...]]:
    """Return the fewest links that say the same (the transitive reduction)."""
    before = ancestors(after)
    return [
        tuple(sorted(j for j in set(links) if not any(j in before[k] for k in links)))
        for links in after
    ]


def critical_path(
    after: After, durations_min: Sequence[float], earliest_min: Sequence[float] | None = None
) -> tuple[list[int], float]:
    """Return the chain of steps that ends last, and when it ends.

    It begins with a step that waits for no other one, or that cannot begin before its
    `earliest_min` (None: nothing is known of it).
    """
    end = [0.0] * len(after)
    previous: list[int | None] = [None] * len(after)
    for i in order(after):
        start = earliest_min[i] if earliest_min is not None else 0.0
        for j in after[i]:
            if end[j] >= start:
                start, previous[i] = end[j], j
        end[i] = start + durations_min[i]
    step = max(range(len(after)), key=lambda i: end[i], default=None)
    path: list[int] = []
    while step is not None:
        path.append(step)
        step = previous[step]
    return path[::-1], max(end, default=0.0)
