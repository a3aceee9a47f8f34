"""Draw the numbers of a request anew: over their whole range for their roles, or within their marks
for the decision.

In what people write, 420 m is nearly always a distance, so a network trained on that reads "420 m
to the floor of the cistern" as one. Here the numbers are drawn over their whole range while their
roles stay; what else the request asks for may be another job then, so nothing else is learnt of it.

Between two thresholds of the guide a number does not matter: there the same robots suit, and the
decision is learnt with the number that stands there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from embervlm.data.sample import Sample, role_of
from embervlm.evaluation.counterfactual import with_number
from embervlm.prompts import bucket_mark
from embervlm.quantities import Mention, find_quantities

# From where to where numbers are drawn, evenly over their logarithms.
RANGES = {
    "mass_kg": (0.5, 1500.0),
    "length_m": (0.1, 2500.0),
    "speed_kmh": (3.0, 130.0),
    "hours": (0.1, 30.0),
}

# How far a number moves that is only varied, in its logarithm: by a fifth.
A_LITTLE = 0.2


def mentions_of(sample: Sample) -> list[tuple[Mention, int]]:
    """Return the quantities of a request with their roles."""
    assert sample.limits is not None
    found = find_quantities(sample.task or "")
    return [(mention, role_of(mention, sample.limits)) for mention in found]


def redrawn(sample: Sample, rng: random.Random) -> tuple[str, list[int]] | None:
    """Return the request with every number drawn anew, and the roles; None: a number was lost."""
    task, told = sample.task or "", mentions_of(sample)
    for mention, _ in reversed(told):
        low, high = RANGES[mention.kind]
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        task = with_number(task, mention, value)
    kinds = [mention.kind for mention in find_quantities(task)]
    if kinds != [mention.kind for mention, _ in told]:
        return None
    return task, [role for _, role in told]


def varied(sample: Sample, rng: random.Random) -> tuple[str, list[int]] | None:
    """Return the request with every number a little different, where its mark stays, and the roles;
    None: it has no number, or one was lost."""
    task, told = sample.task or "", mentions_of(sample)
    for mention, _ in reversed(told):
        value = mention.value * math.exp(rng.uniform(-A_LITTLE, A_LITTLE))
        if mention.value > 0 and bucket_mark(replace(mention, value=value)) == bucket_mark(mention):
            task = with_number(task, mention, value)
    marks = [bucket_mark(mention) for mention in find_quantities(task)]
    if not told or marks != [bucket_mark(mention) for mention, _ in told]:
        return None
    return task, [role for _, role in told]


def times(share: float, samples: Sequence[Sample], rng: random.Random) -> list[Sample]:
    """Return the samples as often as the share says: each twice and half of them again for 2.5."""
    whole = int(share)
    count = round((share - whole) * len(samples))
    return [*(sample for _ in range(whole) for sample in samples), *rng.sample(samples, count)]
