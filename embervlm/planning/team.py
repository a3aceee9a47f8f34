"""Steps of a team whose request was not split: one a robot, in the usual order of work."""

from __future__ import annotations

from collections.abc import Sequence

from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.scenario import Needs, Subtask

# A job is done in this order unless the request says otherwise: learn first, then act, then tell.
_WORK_ORDER = ("map", "search", "look", "measure", "sample", "carry", "handle", "patrol", "talk")


def assign(
    fleet: Fleet, robots: Sequence[str], needs: Needs, *, task: str, team: bool
) -> list[Subtask]:
    """Turn a decision into steps: one step for a choice, one step a robot for a team.

    In a team each needed action goes to the chosen robot that states it, to the one with the fewest
    abilities when several do, and the steps follow one another in the usual order of work.
    """
    if not robots or NO_ROBOT in robots:
        return []
    if not team or len(robots) == 1:
        return [Subtask(subtask=task, robot=robots[0], needs=needs)]
    load = needs.quantities.get("load_kg", 0.0)
    share: dict[str, list[str]] = {name: [] for name in robots}
    for action in sorted(needs.actions, key=_WORK_ORDER.index):
        able = [name for name in robots if fleet[name].can(action)]
        if action == "carry":
            strong = [name for name in able if fleet[name].limits.get("payload_kg", load) >= load]
            able = strong or able
        if able:
            idle_first = min(
                able, key=lambda name: (len(share[name]), len(fleet[name].capabilities))
            )
            share[idle_first].append(action)
    order = sorted(
        robots, key=lambda name: _WORK_ORDER.index(share[name][0]) if share[name] else 99
    )
    steps = []
    for i, name in enumerate(order):
        words = " and ".join(share[name]) or "support"
        lifted = {"load_kg": load} if load and "carry" in share[name] else {}
        alone = Needs(tuple(share[name]), quantities=lifted)
        steps.append(Subtask(words, name, after=(i - 1,) if i else (), needs=alone))
    return steps
