"""What a teacher is told and how its answer is read, side by side.

Two things are asked: an answer to a question about a picture, in plain words; and how well each
robot of the fleet suits a request, as one JSON object:

    {"scores": {"Drone": 0.9, "Underwater Robot": 0, ..., "No Robot": 0.1}, "place": "rough",
     "reasoning": {"task": "...", "environment": "...", "robots": "...", "decision": "..."}}

The prompt is made of the fleet file and of the request's words alone. Reading is strict: what is
not exactly such an object is None, which is counted, and not a low score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embervlm.fleet import ENVIRONMENTS, LIMIT_UNITS, Fleet, Robot
from embervlm.prompts import parse_object

REASONING = ("task", "environment", "robots", "decision")
MAX_LINE_CHARACTERS = 300


@dataclass(frozen=True)
class Prompt:
    """The instruction that all questions of a kind share, and this question's own words."""

    system: str
    words: str


_ANSWER = (
    "Answer the question about the picture, or without one from what you know. One or two plain "
    "sentences, or a single word where that is enough. No lists, no markup, no opening phrase."
)
_CAPTION = "Describe in one plain sentence what the picture shows. No markup, no opening phrase."


def answer_prompt(question: str | None) -> Prompt:
    """Return how a question is asked; None asks for a caption of the picture."""
    if question is None:
        return Prompt("You describe pictures.", _CAPTION)
    return Prompt(_ANSWER, question)


@dataclass(frozen=True)
class RobotScores:
    """A teacher's opinion on a request.

    `scores` maps each outcome of the fleet to 0 (cannot do it) to 1 (as good as the best);
    `reasoning` has a line for each of `REASONING`.
    """

    scores: Mapping[str, float]
    place: str
    reasoning: Mapping[str, str]


_TASK = """You are the dispatcher of a fleet of robots. You get a request, a photo of the place, or
both, and say how well each robot suits it. These are the robots and all their limits:

{fleet}

Rules:
- A robot's score is 1 if it does the core of the job alone and as well as the best choice would, 0
  if it cannot do it, and between them as the chance that a careful dispatcher would send it.
- Hold every number and circumstance of the request against the limits: a robot that would break one
  has the score 0. Take the place from the photo where there is one.
- Where the job takes several robots together, each that is needed has a high score.
- "{none}" has a high score if no robot can do the core of the job, or if it is no job for robots.

Answer with one JSON object and nothing else, with exactly these keys:
{form}
"place" is one of: {places}. Each line of "reasoning" is one short sentence."""


def robots_prompt(task: str | None, fleet: Fleet) -> Prompt:
    """Return how the robots for a request are asked for; None where a photo says it all."""
    form = {
        "scores": dict.fromkeys(fleet.outcomes, 0.0),
        "place": "none",
        "reasoning": {
            "task": "what is asked",
            "environment": "where, and what is hard about it",
            "robots": "what the numbers allow and rule out",
            "decision": "why these",
        },
    }
    system = _TASK.format(
        fleet="\n".join(map(describe_robot, fleet)),
        none=fleet.outcomes[-1],
        form=json.dumps(form),
        places=", ".join(ENVIRONMENTS),
    )
    return Prompt(system, f"Request: {task}" if task else "There is no request but the photo.")


def describe_robot(robot: Robot) -> str:
    """Return what the fleet file says of a robot, in one line.

    >>> describe_robot(Fleet.default()["Underwater Robot"]).partition(" Limits: ")[2]
    'max depth 300 m, min depth 0.5 m. Speed: 4 km/h.'
    """
    limits = [
        f"{key.rpartition('_')[0].replace('_', ' ')} {robot.limits[key]:g} {unit}"
        for key, unit in LIMIT_UNITS.items()
        if key in robot.limits
    ]
    parts = [
        f"- {robot.name}: {robot.description}",
        f"Can: {', '.join(sorted(robot.capabilities))}.",
        f"Works in: {', '.join(sorted(robot.environments))}.",
        f"Limits: {', '.join(limits) or 'none stated'}.",
    ]
    if robot.speed_kmh is not None:
        parts.append(f"Speed: {robot.speed_kmh:g} km/h.")
    return " ".join(parts)


def write_robot_scores(scores: RobotScores) -> str:
    """Return the JSON that a teacher is asked for; `parse_robot_scores` reads it back."""
    return json.dumps(
        {
            "scores": dict(scores.scores),
            "place": scores.place,
            "reasoning": dict(scores.reasoning),
        }
    )


def parse_robot_scores(text: str, outcomes: tuple[str, ...]) -> RobotScores | None:
    """Read a teacher's answer; None if it is anything but the object that was asked for.

    One fence of Markdown around it is no part of it. Every outcome has a score, a number of 0 to 1;
    not all are 0.
    """
    found = parse_object(text, ("scores", "place", "reasoning"))
    if found is None:
        return None
    scores, place, reasoning = found["scores"], found["place"], found["reasoning"]
    if not isinstance(scores, dict) or set(scores) != set(outcomes):
        return None
    if not all(map(_is_share, scores.values())) or not any(scores.values()):
        return None
    if not isinstance(place, str) or place not in ENVIRONMENTS:
        return None
    if not isinstance(reasoning, dict) or set(reasoning) != set(REASONING):
        return None
    if not all(map(_is_line, reasoning.values())):
        return None
    return RobotScores(
        {name: float(scores[name]) for name in outcomes},
        place,
        {name: " ".join(reasoning[name].split()) for name in REASONING},
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= MAX_LINE_CHARACTERS
