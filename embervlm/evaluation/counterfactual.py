"""Does a decision follow the number in the request? The number is swapped, and nothing else.

Two kinds of swap, made from rows whose labels say which number states which limit:

- over a limit: the number of a suited robot's own limit is put just beyond it, so the robot has to
  leave the set;
- within: the number changes a little and stays between the same thresholds, so the set has to stay.

Rows for a team are left out: there a number may concern one robot of several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from embervlm.backends.base import Proposal
from embervlm.data.sample import role_of
from embervlm.evaluation.cases import watched
from embervlm.evaluation.metrics import Rows, share
from embervlm.fleet import Fleet
from embervlm.prompts import bucket_mark
from embervlm.quantities import Mention, find_quantities
from embervlm.scenario import QUANTITIES, Scenario
from embervlm.selector import Selector

# quantity -> the robot's limit, and how many of the mention's units make one of the limit's
_LIMITS = {
    "load_kg": ("payload_kg", 1.0),
    "distance_m": ("max_distance_m", 1.0),
    "depth_m": ("max_depth_m", 1.0),
    "width_m": ("min_width_m", 1.0),
    "wind_kmh": ("max_wind_kmh", 1.0),
    "step_cm": ("max_step_cm", 100.0),
    "hours": ("endurance_min", 60.0),
}
_UNITS = {"mass_kg": "kg", "length_m": "m", "speed_kmh": "km/h", "hours": "hours"}
_BEYOND, _A_LITTLE_LESS = 1.4, 0.93


@dataclass(frozen=True)
class Swap:
    """A request with another number: `robot` has to leave the set; None: the set has to stay."""

    id: str
    before: str
    task: str
    robot: str | None


def with_number(task: str, mention: Mention, value: float) -> str:
    """Return the request with another value, in the unit of the mention's kind, in its place."""
    unit = _UNITS[mention.kind]
    if unit == "hours" and value < 1:
        value, unit = 60 * value, "minutes"
    number = f"{float(f'{value:.3g}'):g}"
    return f"{task[: mention.start]}{number} {unit}{task[mention.end :]}"


def swaps_of(row: Mapping[str, Any], fleet: Fleet) -> Iterable[Swap]:
    """Yield the swaps that a scenario's row allows; a limit stated by two numbers is left alone."""
    mentions = find_quantities(row["task"])
    roles = [role_of(mention, row["limits"]) for mention in mentions]
    for mention, role in zip(mentions, roles, strict=True):
        if row["kind"] == "team" or role == len(QUANTITIES) or roles.count(role) > 1:
            continue
        limit, factor = _LIMITS[QUANTITIES[role]]
        for name in row["suited"]:
            bound = fleet[name].limits.get(limit) if name in fleet else None
            if bound is not None:
                beyond = bound / factor * (1 / _BEYOND if limit.startswith("min") else _BEYOND)
                task = with_number(row["task"], mention, beyond)
                yield Swap(row["id"], row["task"], task, name)
        near = replace(mention, value=mention.value * _A_LITTLE_LESS)
        if mention.value > 0 and bucket_mark(near) == bucket_mark(mention):
            yield Swap(row["id"], row["task"], with_number(row["task"], mention, near.value), None)


@dataclass(frozen=True)
class SwapRead:
    """A swap and what the network said of the request after it, and of that before where the set
    has to stay."""

    swap: Swap
    after: Proposal
    before: Proposal | None


def read_swap(selector: Selector, swap: Swap) -> SwapRead:
    """Run the network over what `holds` needs."""
    after = selector.propose(Scenario(task=swap.task))
    before = selector.propose(Scenario(task=swap.before)) if swap.robot is None else None
    return SwapRead(swap, after, before)


def holds(selector: Selector, read: SwapRead) -> bool:
    """Say whether the robot has left the set, or the set has stayed."""
    swap = read.swap
    after = selector.answer(read.after, Scenario(task=swap.task), reasoning=False).robots
    if read.before is None:
        return swap.robot not in after
    before = selector.answer(read.before, Scenario(task=swap.before), reasoning=False).robots
    return set(before) == set(after)


def swap_rows(selector: Selector, rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the share of swaps that hold, of either kind."""
    swaps = [swap for row in rows for swap in swaps_of(row, selector.fleet)]
    right = [holds(selector, read_swap(selector, s)) for s in watched(swaps, "swap the numbers")]
    found: Rows = {}
    for name, over in (("over a limit: the robot leaves", True), ("within: the set stays", False)):
        kept = [i for i, swap in enumerate(swaps) if (swap.robot is not None) == over]
        found[name] = {"share": share([right[i] for i in kept], [swaps[i].id for i in kept])}
    return found
