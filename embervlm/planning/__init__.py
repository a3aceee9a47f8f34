"""From needs to a plan: who can do it, who does which step, when, and why not the others.

    limits      is a robot within every stated limit? why (not)?
    graph       which steps wait for which: cycles, order, the longest chain
    costs       minutes, energy and risk of a step for a robot
    allocation  who does which step when, for the least cost
    repair      a plan of which a step has failed
    team        steps of a team whose request was not split
    pictures    a plan as a Gantt chart and as a graph, SVG or PNG
    rmf         a plan as task requests for Open-RMF

>>> from embervlm.fleet import Fleet
>>> from embervlm.scenario import Needs
>>> plan = allocate(
...     Fleet.default(),
...     [Step("map the flood", Needs(("map",))), Step("take samples", Needs(("sample",)), (0,))],
...     preferences=[{"Drone": -0.1}, {"Underwater Robot": -0.2}],
... )
>>> [(step.robot, step.start_min) for step in plan.steps]
[('Drone', 0.0), ('Underwater Robot', 10.0)]
"""

from embervlm.planning.allocation import allocate, reasons_in_plan
from embervlm.planning.costs import Step
from embervlm.planning.limits import (
    AS_A_WHOLE,
    broken_limits,
    feasible,
    missing_actions,
    reasons_against,
    reasons_for,
    unavailable,
)
from embervlm.planning.repair import replan
from embervlm.planning.team import assign

__all__ = [
    "AS_A_WHOLE",
    "Step",
    "allocate",
    "assign",
    "broken_limits",
    "feasible",
    "missing_actions",
    "reasons_against",
    "reasons_for",
    "reasons_in_plan",
    "replan",
    "unavailable",
]
