"""A task of lmms-eval: which robots to send. `embervlm data export-suite lmms-eval` copies this
file as `utils.py` beside the YAML files that name its functions; it needs nothing of embervlm.

Beside it lie `prompt.txt` (the fleet, the rules and the form of the answer) and `robots.json` (the
names). An answer is read as {"robots": ["Drone", ...]}, the first one to be sent first; or, as
`embervlm serve` words it, from a last line that begins with "Decision:" and names the robots. What
is neither is unreadable, and right in no figure.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

NO_ROBOT = "No Robot"
_HERE = Path(__file__).resolve().parent
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


def doc_to_text(
    doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None
) -> str:
    """Return the prompt and the request; for a model that knows the fleet, the request alone."""
    if (lmms_eval_specific_kwargs or {}).get("request_alone"):
        return str(doc["request"])
    return f"{_prompt()}\n\nRequest: {doc['request']}"


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """Return the photo, opened; nothing where the request has none."""
    if not doc.get("photo"):
        return []
    from PIL import Image

    with Image.open(_HERE / doc["photo"]) as photo:
        return [photo.convert("RGB")]


def doc_to_messages(
    doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the prompt as the system's message, and photo and request as the user's."""
    content: list[dict[str, Any]] = [
        {"type": "image", "url": photo} for photo in doc_to_visual(doc)
    ]
    content.append({"type": "text", "text": str(doc["request"])})
    system = [{"type": "text", "text": _prompt()}]
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the figures of one answer, each 0 to 1."""
    robots = read_robots(results[0])
    true = set(doc["robots"])
    said = set(robots or ())
    return {
        "exact_set": float(said == true),
        "overlap": len(said & true) / len(said | true),
        "first_in_set": float(bool(robots) and robots[0] in true) if robots else 0.0,
        "unreadable": float(robots is None),
    }


def read_robots(text: str) -> list[str] | None:
    """Return the robots of an answer in order, or None if it cannot be read."""
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    names = json.loads((_HERE / "robots.json").read_text("utf-8"))
    try:
        found = json.loads(fenced[1] if fenced else text)
    except ValueError:
        last = text.splitlines()[-1] if text else ""
        if not last.startswith("Decision:"):
            return None
        robots = sorted((name for name in names if name in last), key=last.index)
    else:
        if not isinstance(found, dict) or set(found) != {"robots"}:
            return None
        robots = found["robots"]
    if not isinstance(robots, list) or not robots:
        return None
    if not all(isinstance(name, str) and name in names for name in robots):
        return None
    if len(set(robots)) != len(robots) or (NO_ROBOT in robots and len(robots) > 1):
        return None
    return robots


def _prompt() -> str:
    return (_HERE / "prompt.txt").read_text("utf-8")
