"""A decision as a client gets it: the bytes of a JSON object, written where the decision was made.

    written(decision, "plan")       # b'{"robots":["Drone"],"confidence":0.97,...}'

The loop that all clients share only passes them on. The same decision has the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from embervlm.scenario import Decision

Form = Literal["decision", "plan", "analysis"]

_OF_A_PLAN = ("robots", "confidence", "ask", "plan", "memory", "lessons")


def written(decision: Decision, form: Form) -> bytes:
    """Return a decision in a form, as JSON in UTF-8."""
    # As Starlette's JSONResponse writes all other answers.
    record = _FORMS[form](decision)
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def analysis(decision: Decision) -> dict[str, Any]:
    """Return a decision in the form that EmberVLM documents, and the lessons that it follows."""
    record = decision.to_dict()
    steps = [
        f"{i}. {step.robot or 'nobody'}: {step.subtask}"
        + (f" (after {', '.join(str(j + 1) for j in step.after)})" if step.after else "")
        for i, step in enumerate(decision.plan, start=1)
    ]
    return {
        "selected_robot": record["primary"],
        "confidence": record["confidence"],
        "reasoning": record["reasoning"],
        "robot_probabilities": record["probabilities"],
        "action_plan": "\n".join(steps),
        "memory": record["memory"],
        "lessons": record["lessons"],
    }


def plan(decision: Decision) -> dict[str, Any]:
    """Return who does what, and the lessons that this follows."""
    record = decision.to_dict()
    return {key: record[key] for key in _OF_A_PLAN}


_FORMS: Mapping[Form, Callable[[Decision], dict[str, Any]]] = {
    "decision": Decision.to_dict,
    "plan": plan,
    "analysis": analysis,
}
