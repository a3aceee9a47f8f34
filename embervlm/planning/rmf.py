"""A plan as task requests for Open-RMF, one a step, each for the robot that the plan names.

The form is rmf_api_msgs' `robot_task_request.json` with a composed task (`task_request.json`,
category `compose`) of one `perform_action` activity (rmf_ros2, `rmf_fleet_adapter/schemas`). Its
`category` is the step's first action, which the fleet adapter must offer
(`add_performable_action`). Open-RMF knows places by the names of waypoints, not by metres, so the
place goes along in the activity's description. It has no links between tasks either: each request
says from when on it may begin, and the list is in that order; `after` tells an orchestrator what to
wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embervlm.scenario import Plan, Subtask


def task_requests(
    plan: Plan | Sequence[Subtask], *, fleet_name: str = "embervlm", now_ms: int = 0
) -> list[dict[str, Any]]:
    """Return a request for each step that a robot does and that is not done.

    Args:
        plan: what `allocate` gave, or a decision's plan.
        fleet_name: what Open-RMF calls the fleet.
        now_ms: when the plan begins, milliseconds since 1970.
    """
    steps = plan.steps if isinstance(plan, Plan) else tuple(plan)
    open_steps = [i for i, step in enumerate(steps) if step.robot is not None and not step.done]
    open_steps.sort(key=lambda i: steps[i].start_min or 0.0)
    return [_request(i, steps[i], fleet_name, now_ms) for i in open_steps]


def robot_name(step: Subtask) -> str:
    """Return what a unit is called: the kind, with a number from the second unit on."""
    return f"{step.robot} {step.unit}" if step.unit > 1 else f"{step.robot}"


def _request(number: int, step: Subtask, fleet_name: str, now_ms: int) -> dict[str, Any]:
    actions = list(step.needs.actions) if step.needs is not None else []
    detail: dict[str, Any] = {
        "step": number + 1,
        "subtask": step.subtask,
        "after": [j + 1 for j in step.after],
        "actions": actions,
    }
    if step.place is not None:
        detail["place"] = {"x_m": step.place[0], "y_m": step.place[1]}
    action: dict[str, Any] = {
        "category": actions[0] if actions else "embervlm",
        "description": detail,
    }
    if step.duration_min is not None:
        action["unix_millis_action_duration_estimate"] = round(step.duration_min * 60_000)
    request: dict[str, Any] = {
        "category": "compose",
        "description": {
            "category": "embervlm",
            "detail": step.subtask,
            "phases": [{"activity": {"category": "perform_action", "description": action}}],
        },
    }
    if step.start_min is not None:
        request["unix_millis_earliest_start_time"] = now_ms + round(step.start_min * 60_000)
    return {
        "type": "robot_task_request",
        "robot": robot_name(step),
        "fleet": fleet_name,
        "request": request,
    }
