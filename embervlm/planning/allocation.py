"""Who does which step, and when: the plan that costs least by the fleet's objective.

What a plan may hold is decided before what it costs: a robot is only ever offered steps that it
can do (`costs.obstacles`), one unit does one step at a time, a step begins when those before it
have ended, and no unit runs longer than its battery lasts. Of what is left, the plan that does most
steps for the least cost is sought; see `docs/plans.md` for the cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from embervlm.fleet import Fleet, Objective, Place, Robot
from embervlm.planning import graph
from embervlm.planning.costs import Step, obstacles, watt_hours
from embervlm.planning.limits import runs_for, suits_less
from embervlm.planning.problem import Placement, Problem, Schedule, build
from embervlm.planning.search import solve
from embervlm.scenario import Needs, Plan, Subtask

# So many robots are named where nobody can do a step; the others are counted.
_NAMED = 5


def allocate(
    fleet: Fleet,
    steps: Sequence[Step],
    *,
    preferences: Sequence[Mapping[str, float]] | None = None,
    objective: Objective | None = None,
) -> Plan:
    """Give each step to the robot that suits the whole plan best.

    Args:
        fleet: the robots as they are now.
        steps: what is to be done; those that are `done` stay as they are.
        preferences: for each step, by name, the logarithm of the model's chance that a robot suits
            it. A robot that is missing is not preferred, but not forbidden.
        objective: other weights than the fleet's.

    Raises:
        ValueError: the steps wait for one another in a circle or for a step that is not there, a
            step names a robot that the fleet lacks or has no possible `minutes`, or `preferences`
            has another length.
    """
    graph.check([step.after for step in steps])
    if preferences is not None and len(preferences) != len(steps):
        raise ValueError(f"There are {len(preferences)} preferences for {len(steps)} steps.")
    steps = [_checked(step, i, fleet) for i, step in enumerate(steps)]
    fleet = replace(
        fleet,
        robots=tuple(
            replace(robot, location=_stands(robot, steps), base=robot.base or robot.location)
            for robot in fleet
        ),
        objective=objective or fleet.objective,
    )
    kept, problem = build(fleet, steps, preferences)
    why = _impossible(fleet, steps, kept)
    schedule, bound, is_optimal = solve(problem)
    _left_over(fleet, steps, kept, schedule, why)
    placed = {kept[placement.step]: placement for placement in schedule.placed}
    planned, energy_wh = _subtasks(steps, placed, problem, why)
    return Plan(
        steps=planned,
        makespan_min=schedule.makespan,
        energy_wh=energy_wh,
        cost=schedule.cost,
        bound=bound,
        is_optimal=is_optimal,
    )


def _subtasks(
    steps: Sequence[Step],
    placed: Mapping[int, Placement],
    problem: Problem,
    why: Mapping[int, str],
) -> tuple[tuple[Subtask, ...], float]:
    """Return the steps as they are planned, and the energy that those placed take, in watt hours.

    `placed` and `why` go by a step's place in `steps`: when somebody does it, or why nobody does.
    """
    planned, energy_wh = [], 0.0
    for i, step in enumerate(steps):
        subtask = Subtask(
            step.subtask,
            step.robot,
            step.after,
            step.needs,
            done=step.done,
            place=step.place,
            minutes=step.minutes,
            barred=step.barred,
            unsuited=step.unsuited,
        )
        if i in placed:
            placement = placed[i]
            robot = problem.robots[placement.kind]
            minutes = placement.way + placement.end - placement.begin
            energy_wh += watt_hours(robot, minutes, problem.unstated_w)
            subtask = replace(
                subtask,
                robot=robot.name,
                unit=1 + placement.number,
                start_min=placement.begin - placement.way,
                duration_min=minutes,
            )
        elif not step.done:
            subtask = replace(subtask, robot=None, why=why[i])
        planned.append(subtask)
    return tuple(planned), energy_wh


def _checked(step: Step, number: int, fleet: Fleet) -> Step:
    """Return the step with its robots called as the fleet calls them; of those that failed or do
    not suit it some may be gone."""
    if step.minutes is not None and not 0 <= step.minutes < float("inf"):
        raise ValueError(
            f"Step {number + 1} takes {step.minutes} minutes; give a number of minutes, 0 or more."
        )
    if step.robot is not None and not step.done:
        step = replace(step, robot=fleet.find(step.robot).name)
    if not step.barred and not step.unsuited:
        return step
    barred, unsuited = (tuple(map(fleet.called, names)) for names in (step.barred, step.unsuited))
    return replace(step, barred=barred, unsuited=unsuited)


def _stands(robot: Robot, steps: Sequence[Step]) -> Place | None:
    """Return where a robot stands: where a live state says, or where it last finished a step, or
    where the fleet says."""
    if robot.base is not None:
        return robot.location
    done = [s for s in steps if s.done and s.robot == robot.name and s.place is not None]
    if not done or robot.count > 1:
        return robot.location
    in_time = sorted(done, key=lambda s: (s.start_min is not None, s.start_min or 0.0))
    return in_time[-1].place


def _impossible(fleet: Fleet, steps: Sequence[Step], kept: Sequence[int]) -> dict[int, str]:
    """Map the steps that no robot can do, or that wait for such a step, to the sentence why."""
    why: dict[int, str] = {}
    if len(kept) + sum(step.done for step in steps) == len(steps):
        return why
    for i in graph.order([step.after for step in steps]):
        if steps[i].done or i in kept:
            continue
        stopped = [j for j in steps[i].after if j in why]
        waits = f"It waits for step {stopped[0] + 1}, which nobody can do." if stopped else ""
        why[i] = waits or nobody(fleet, steps[i])
    return why


def nobody(fleet: Fleet, step: Step) -> str:
    """Return the sentence that says robot by robot why nobody can do a step."""
    asked = [robot for robot in fleet if step.robot in (None, robot.name)]
    if not asked:
        return "Nobody can do it: the fleet has no robots."
    clauses = [
        f"{robot.name}: {', '.join(obstacles(robot, step, fleet.objective))}"
        for robot in asked[:_NAMED]
    ]
    more = f"; and {len(asked) - _NAMED} more cannot" if len(asked) > _NAMED else ""
    return f"Nobody can do it ({'; '.join(clauses)}{more})."


def reasons_in_plan(
    fleet: Fleet, plan: Sequence[Subtask], chosen: Sequence[str], probabilities: Mapping[str, float]
) -> dict[str, str]:
    """Say for each robot that is not chosen why it can do none of the steps, or how it compares."""
    steps = [
        Step(s.subtask, s.needs or Needs(), minutes=s.minutes, place=s.place, barred=s.barred)
        for s in plan
        if not s.done
    ]
    reasons = {}
    for robot in fleet:
        if robot.name in chosen:
            continue
        told = [obstacles(robot, step, fleet.objective) for step in steps]
        clauses = dict.fromkeys(clause for one in told for clause in one) if all(told) else {}
        failed = [i + 1 for i, step in enumerate(plan) if robot.name in step.barred]
        otherwise = suits_less(probabilities.get(robot.name, 0.0))
        if failed:
            otherwise = f"has failed at step {failed[0]}"
        reasons[robot.name] = "; ".join(clauses) or otherwise
    return reasons


def _left_over(
    fleet: Fleet,
    steps: Sequence[Step],
    kept: Sequence[int],
    schedule: Schedule,
    why: dict[int, str],
) -> None:
    """Add to `why` the steps that are left because the robots' batteries do not last for all."""
    number = {step: i for i, step in enumerate(kept)}
    left = {i for i in kept if number[i] not in schedule.end}
    problem = schedule.problem
    for i in graph.order([step.after for step in steps]):
        if i not in left:
            continue
        if stopped := [j for j in steps[i].after if j in left]:
            why[i] = f"It waits for step {stopped[0] + 1}, which nobody has the battery to do."
            continue
        clauses = []
        for kind in problem.able[number[i]]:
            robot = problem.robots[kind]
            for unit in schedule.units[kind]:
                minutes = problem.minutes[number[i]][kind]
                minutes += problem.way(kind, unit.place, number[i])
                clauses.append(
                    f"{robot.name}: {runs_for(robot)}, its other steps take {unit.used_min:.1f} "
                    f"min, this one {minutes:.1f} min"
                )
        more = f"; and {len(clauses) - _NAMED} more" if len(clauses) > _NAMED else ""
        why[i] = f"Nobody has the battery for it ({'; '.join(clauses[:_NAMED])}{more})."
