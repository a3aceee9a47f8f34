"""A plan of which a step has failed: what is done stays, the rest is planned again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from embervlm.fleet import Fleet
from embervlm.planning.allocation import allocate
from embervlm.planning.costs import Step
from embervlm.scenario import Needs, Plan, Subtask

# Without preferences, another robot than before counts as half as likely to suit (log 1/2).
_CHANGE = -0.7


def replan(
    fleet: Fleet,
    plan: Plan | Sequence[Subtask],
    failed: Collection[int],
    *,
    done: Collection[int] = (),
    preferences: Sequence[Mapping[str, float]] | None = None,
) -> Plan:
    """Plan the steps that are left; a robot that failed at a step does not get it again.

    Times count anew from now. A robot keeps its other steps unless another one is clearly better.

    Args:
        fleet: the robots as they are now.
        plan: what `allocate` gave, or a decision's plan.
        failed: the steps, from 0, at which their robots failed.
        done: the steps that are finished, besides those that the plan says are.
        preferences: see `allocate`; None prefers each step's present robot.

    Raises:
        ValueError: a step is not in the plan, or is both failed and done.
    """
    subtasks = plan.steps if isinstance(plan, Plan) else tuple(plan)
    for i in (*failed, *done):
        if not 0 <= i < len(subtasks):
            raise ValueError(f"There is no step {i + 1}; the plan has {len(subtasks)}.")
    finished = {i for i, step in enumerate(subtasks) if step.done} | set(done)
    if both := sorted(finished & set(failed)):
        raise ValueError(f"Step {both[0] + 1} is done, so it cannot have failed.")
    steps, wishes = [], []
    for i, old in enumerate(subtasks):
        barred = old.barred
        if i in failed and old.robot is not None and old.robot not in barred:
            barred = (*barred, old.robot)
        steps.append(
            Step(
                old.subtask,
                old.needs or Needs(),
                old.after,
                done=i in finished,
                robot=old.robot if i in finished else None,
                minutes=old.minutes,
                place=old.place,
                barred=barred,
                unsuited=old.unsuited,
                start_min=_begun(old, subtasks) if i in finished else None,
            )
        )
        wishes.append({name: 0.0 if name == old.robot else _CHANGE for name in fleet.names})
    new = allocate(fleet, steps, preferences=preferences or wishes)
    kept = tuple(
        replace(old, done=True) if i in finished else step
        for i, (old, step) in enumerate(zip(subtasks, new.steps, strict=True))
    )
    return replace(new, steps=kept)


def _begun(old: Subtask, plan: Sequence[Subtask]) -> float | None:
    """Return when a step was begun, in minutes of its plan; of plans before that one below 0, in
    the order of their own times."""
    if old.start_min is None or not old.done:
        return old.start_min
    latest = max(step.start_min for step in plan if step.done and step.start_min is not None)
    return old.start_min - latest - 1
