"""Fleets that nobody has seen, and the oracle that says from their numbers who can do a job.

    fleet = random_fleet(random.Random(1))
    able(fleet, Needs(("carry",), "paved", {"load_kg": 40}))     # {"Kestrel 7", "Otter 31"}

A robot is a body (flier, swimmer, boat, wheels, tracks, legs, biped, climber, snake, arm on a
cart), which says where it works and what it copes with, some tools, which say what it does there,
and numbers drawn for it. Names say nothing of either.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embervlm.backends.base import Backend
from embervlm.evaluation.metrics import Row, Rows, share
from embervlm.fleet import NO_ROBOT, Fleet, Robot
from embervlm.planning import broken_limits, missing_actions
from embervlm.scenario import Needs, Scenario
from embervlm.selector import Selector

FLEETS = 200


@dataclass(frozen=True)
class Body:
    """What robots of one build share; `limits` maps a limit to the range that it is drawn from."""

    words: str
    conditions: tuple[str, ...]
    environments: tuple[str, ...]
    limits: Mapping[str, tuple[float, float]]
    speed_kmh: tuple[float, float]


_BODIES = (
    Body(
        "flies", ("height", "stairs", "rubble", "mud", "snow", "sand", "ice"),
        ("airborne", "water_surface", "paved", "rough", "rubble"),
        {"payload_kg": (0.5, 30), "max_wind_kmh": (25, 80), "endurance_min": (15, 90)}, (20, 90),
    ),
    Body(
        "hovers in rooms", ("height", "stairs", "rubble", "smoke"),
        ("airborne", "indoor_flat", "indoor_cluttered", "confined", "rubble"),
        {"payload_kg": (0.2, 2), "max_wind_kmh": (10, 30), "endurance_min": (8, 25)}, (5, 20),
    ),
    Body(
        "dives", ("dive", "ice", "storm"), ("underwater", "confined"),
        {"min_depth_m": (0.3, 3), "max_depth_m": (20, 2000), "endurance_min": (60, 900)}, (2, 10),
    ),
    Body(
        "floats", ("ice",), ("water_surface",),
        {"payload_kg": (20, 800), "max_wind_kmh": (30, 70)}, (5, 50),
    ),
    Body(
        "drives on wheels", ("doors", "ice", "storm"), ("paved", "indoor_flat"),
        {"payload_kg": (20, 1500), "endurance_min": (120, 900), "max_step_cm": (2, 15)}, (4, 40),
    ),
    Body(
        "crawls on tracks", ("rubble", "mud", "snow", "sand", "stairs", "storm", "smoke", "fire"),
        ("rough", "rubble", "paved", "confined", "indoor_cluttered"),
        {"payload_kg": (5, 300), "endurance_min": (60, 480)}, (2, 12),
    ),
    Body(
        "walks on four legs",
        ("stairs", "rubble", "mud", "snow", "sand", "ice", "doors", "storm"),
        ("rough", "rubble", "confined", "indoor_cluttered", "indoor_flat", "paved"),
        {"payload_kg": (3, 60), "endurance_min": (40, 240)}, (3, 10),
    ),
    Body(
        "walks upright", ("stairs", "doors", "ice"), ("indoor_flat", "indoor_cluttered", "paved"),
        {"payload_kg": (5, 40), "max_distance_m": (300, 3000)}, (2, 6),
    ),
    Body(
        "climbs walls and masts", ("height", "stairs", "storm"), ("airborne", "indoor_cluttered"),
        {"payload_kg": (0.5, 8), "max_distance_m": (50, 400)}, (0.2, 2),
    ),
    Body(
        "slides through gaps", ("rubble", "mud", "doors", "smoke"), ("confined", "rubble"),
        {"payload_kg": (0.2, 3), "max_distance_m": (30, 500), "min_width_m": (0.1, 0.3)}, (0.5, 3),
    ),
)  # fmt: skip
_TOOLS = {
    "cameras": ("look", "search", "patrol", "map"),
    "a gripper": ("handle", "carry"),
    "a cargo bay": ("carry",),
    "a sensor head": ("measure", "look"),
    "a sampler": ("sample", "measure"),
    "a loudspeaker and a microphone": ("talk",),
    "two arms": ("handle", "carry", "sample", "look"),
    "a scanner": ("map", "measure", "search"),
}
_NAMES = (
    "Kestrel", "Otter", "Badger", "Heron", "Mole", "Ibex", "Lynx", "Gannet", "Marten", "Newt",
    "Osprey", "Puffin", "Raven", "Stoat", "Tern", "Vole", "Wren", "Adder", "Bison", "Crane",
)  # fmt: skip
_FEWEST, _MOST = 3, 12


def random_fleet(rng: random.Random, size: int | None = None) -> Fleet:
    """Return a fleet of `size` robots, by default 3 to 12."""
    count = size or rng.randint(_FEWEST, _MOST)
    return Fleet(tuple(_robot(f"{rng.choice(_NAMES)} {i + 1}", rng) for i in range(count)))


def _robot(name: str, rng: random.Random) -> Robot:
    body = rng.choice(_BODIES)
    tools = rng.sample(list(_TOOLS), rng.randint(1, 3))
    actions = {action for tool in tools for action in _TOOLS[tool]}
    limits = {key: _drawn(*ends, rng) for key, ends in body.limits.items() if rng.random() < 0.8}
    conditions = [word for word in body.conditions if rng.random() < 0.85]
    return Robot(
        name=name,
        description=f"{body.words.capitalize()}, with {' and '.join(tools)}.",
        capabilities=frozenset([*actions, *conditions]),
        environments=frozenset(body.environments),
        limits=limits,
        speed_kmh=_drawn(*body.speed_kmh, rng),
    )


def _drawn(low: float, high: float, rng: random.Random) -> float:
    """Return a number of two digits, as many small ones as large ones."""
    return float(f"{low * (high / low) ** rng.random():.2g}")


def able(fleet: Fleet, needs: Needs) -> set[str]:
    """Return the robots that can do all of a job: each action, within each limit, in its place.

    Nobody is able where no action is asked for.
    """
    if not needs.actions:
        return set()
    return {
        robot.name
        for robot in fleet
        if not missing_actions(robot, needs)
        and not broken_limits(robot, needs)
        and (needs.environment == "none" or needs.environment in robot.environments)
    }


def fleet_rows(backend: Backend, rows: Sequence[Mapping[str, Any]], seed: int = 1) -> Rows:
    """Return how often the robots sent of `FLEETS` unseen fleets are those of the oracle.

    Each fleet meets one request for a single job, drawn of `rows`, whose true needs the oracle is
    told; the model reads them. Where nobody is able No Robot is right.
    """
    rng = random.Random(seed)
    single = [row for row in rows if row["kind"] != "team"]
    right, nobody, names = [], [], []
    for i in range(FLEETS):
        row, fleet = rng.choice(single), random_fleet(rng)
        wanted = able(fleet, Needs.from_record(row, row["environment"])) or {NO_ROBOT}
        decision = Selector(backend, fleet).decide(Scenario(row["task"]), reasoning=False)
        right.append(set(decision.robots) == wanted)
        nobody.append(wanted == {NO_ROBOT})
        names.append(f"{row['id']} {i}")

    def of(chosen: Sequence[bool]) -> Row:
        kept = [i for i, is_in in enumerate(chosen) if is_in]
        return {"share": share([right[i] for i in kept], [names[i] for i in kept])}

    return {
        "the oracle's set": of([True] * FLEETS),
        "where somebody is able": of([not is_empty for is_empty in nobody]),
        "where nobody is": of(nobody),
    }
