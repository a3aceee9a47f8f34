"""One form for all that the network learns to decide from: words, a place seen or not, targets.

A target that a source does not give is None, and its loss is left out for that sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embervlm.fleet import ACTIONS, ENVIRONMENTS, NO_ROBOT, Fleet
from embervlm.quantities import Mention
from embervlm.scenario import FLAGS, QUANTITIES

_OUTCOMES = Fleet.default().outcomes
_ROBOTS = _OUTCOMES[:-1]

# A mention states a limit when it has the limit's kind and its value within this share.
_SAME_VALUE = 0.06
_KIND_OF = {
    "load_kg": "mass_kg",
    "distance_m": "length_m",
    "depth_m": "length_m",
    "width_m": "length_m",
    "wind_kmh": "speed_kmh",
    "step_cm": "length_m",
    "hours": "hours",
}
_UNIT_OF = {"step_cm": 100.0}


@dataclass(frozen=True)
class Sample:
    """A request and its right answer.

    `subset` has bit r set for robot r of the default fleet, 0 is No Robot. `photo_environment` is
    the place that a photo shows, None where there is no photo; `photo` names a file of the photo
    set.
    """

    id: str
    task: str | None
    subset: int | None
    primary: int | None
    environment: int | None
    actions: tuple[int, ...] | None
    flags: tuple[int, ...] | None
    limits: Mapping[str, float] | None
    team: bool | None
    photo_environment: str | None = None
    photo: str | None = None


def subset_of(robots: list[str] | tuple[str, ...]) -> int:
    """Return the subset number of a list of robot names."""
    return sum(1 << _ROBOTS.index(name) for name in robots if name != NO_ROBOT)


def robots_of(subset: int) -> list[str]:
    """Return the robot names of a subset number, No Robot for 0."""
    return [name for r, name in enumerate(_ROBOTS) if subset >> r & 1] or [NO_ROBOT]


def outcome_index(name: str) -> int:
    """Return the place of a robot, or of No Robot (last), among the outcomes."""
    return _OUTCOMES.index(name)


def from_scenario(row: Mapping[str, Any]) -> Sample:
    """Turn a row of `scenarios.jsonl` into a sample."""
    return Sample(
        id=row["id"],
        task=row["task"],
        subset=subset_of(row["suited"]),
        primary=outcome_index(row["primary"]),
        environment=ENVIRONMENTS.index(row["environment"]),
        **_needs(row),
        team=row["kind"] == "team",
    )


def from_plan(row: Mapping[str, Any]) -> Sample:
    """Turn a row of `plans.jsonl` into a sample; the needs are those of all its steps."""
    steps = row["plan"]
    limits: dict[str, Any] = {}
    for step in steps:
        limits.update(step["limits"])
    actions = list(dict.fromkeys(action for step in steps for action in step["actions"]))
    return Sample(
        id=row["id"],
        task=row["task"],
        subset=subset_of(row["suited"]),
        primary=outcome_index(row["suited"][0]),
        environment=ENVIRONMENTS.index(row["environment"]),
        **_needs({"actions": actions, "limits": limits}),
        team=len(set(row["suited"])) > 1,
    )


def from_photo_request(row: Mapping[str, Any], environment: str, photo: str | None) -> Sample:
    """Turn a row of `photo_requests.jsonl` into a sample for a photo of one environment."""
    suited = row["by_environment"][environment]
    return Sample(
        id=row["id"],
        task=row["task"],
        subset=subset_of(suited),
        primary=outcome_index(suited[0]),
        environment=ENVIRONMENTS.index(environment),
        **_needs(row),
        team=False,
        photo_environment=environment,
        photo=photo,
    )


def _needs(row: Mapping[str, Any]) -> dict[str, Any]:
    limits = row["limits"]
    return {
        "actions": tuple(ACTIONS.index(action) for action in row["actions"] if action != "none"),
        "flags": tuple(i for i, flag in enumerate(FLAGS) if limits.get(flag)),
        "limits": {key: float(limits[key]) for key in QUANTITIES if key in limits},
    }


def role_of(mention: Mention, limits: Mapping[str, float]) -> int:
    """Return what a mention is for: the place in QUANTITIES of the limit it states, or
    len(QUANTITIES)."""
    for i, key in enumerate(QUANTITIES):
        if key in limits and _KIND_OF[key] == mention.kind:
            stated = mention.least if key == "width_m" else mention.value
            value = stated * _UNIT_OF.get(key, 1.0)
            if abs(value - limits[key]) <= _SAME_VALUE * limits[key] + 0.01:
                return i
    return len(QUANTITIES)
