"""The search for a plan: one step behind the other, to the unit where it costs least."""

from __future__ import annotations

from embervlm.planning import graph
from embervlm.planning.problem import Problem, Schedule


def solve(problem: Problem) -> tuple[Schedule, float, bool]:
    """Return a schedule, a cost that none can be below, and whether it is the best."""
    schedule = Schedule(problem)
    for step in graph.order(problem.after):
        if any(j not in schedule.end for j in problem.after[step]):
            continue
        found = []
        for index, unit in enumerate(schedule.units):
            trial = schedule.trial(step, index)
            if trial is not None and trial[1] < float("inf"):
                begin, end, way = trial
                cost = problem.time_weight * max(schedule.makespan, end)
                cost += float(problem.fixed_SR[step, unit.kind])
                cost += problem.way_cost_R[unit.kind] * way
                found.append((cost, index, trial))
        if found:
            _, index, trial = min(found)
            schedule.place(step, index, *trial)
    cheapest = problem.fixed_SR.min(1).sum() if len(problem.after) else 0.0
    return schedule, float(cheapest), False
