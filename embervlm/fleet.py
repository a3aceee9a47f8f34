"""The robots that can be sent: what each can do, where, and up to which numbers.

A fleet is data, not code. The default one, `default_fleet.yaml`, states the labelling guide's
numbers; an operator copies that file and declares other robots. Everything above this module asks
the fleet and never carries a number of its own.

    >>> fleet = Fleet.default()
    >>> fleet["Drone"].limits["payload_kg"]
    5.0
    >>> fleet.find("robot dog").name
    'Robot with Legs'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

NO_ROBOT = "No Robot"

ENVIRONMENTS = (
    "underwater",
    "water_surface",
    "airborne",
    "indoor_flat",
    "indoor_cluttered",
    "paved",
    "rough",
    "rubble",
    "confined",
    "none",
)

ACTIONS = ("look", "carry", "handle", "search", "measure", "talk", "map", "patrol", "sample")

# Circumstances that take an ability of their own; `dive` is asked for by the environment.
CONDITIONS = (
    "dive",
    "height",
    "stairs",
    "rubble",
    "mud",
    "snow",
    "sand",
    "ice",
    "doors",
    "smoke",
    "fire",
    "storm",
)

LIMIT_UNITS = {
    "payload_kg": "kg",
    "max_wind_kmh": "km/h",
    "max_depth_m": "m",
    "min_depth_m": "m",
    "max_distance_m": "m",
    "endurance_min": "min",
    "min_width_m": "m",
    "max_step_cm": "cm",
}

STATUSES = ("ready", "busy", "charging", "fault")

MAX_NAME_CHARACTERS = 60
_NOT_IN_NAMES = re.compile("[;<|>]")
# The same safe loader compiled, where PyYAML has it: ten times as quick.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_ROBOT_KEYS = (
    "name",
    "aliases",
    "description",
    "capabilities",
    "environments",
    "limits",
    "speed_kmh",
    "count",
    "status",
)


@dataclass(frozen=True)
class Robot:
    """One kind of robot, as the operator states it.

    `limits` maps the keys of `LIMIT_UNITS` to numbers; a missing key means that no limit is stated.
    `count` is how many of the kind there are, `status` one of `STATUSES`.
    """

    name: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    environments: frozenset[str] = frozenset()
    limits: Mapping[str, float] = field(default_factory=dict)
    speed_kmh: float | None = None
    count: int = 1
    status: str = "ready"

    def can(self, capability: str) -> bool:
        """Say whether the robot states this action or condition among its capabilities."""
        return capability in self.capabilities

    def to_record(self) -> dict[str, Any]:
        """Return the robot's row of a fleet file, as plain values; a speed only if it is stated."""
        row: dict[str, Any] = {
            "name": self.name,
            "aliases": list(self.aliases),
            "description": self.description,
            "capabilities": [c for c in ACTIONS + CONDITIONS if c in self.capabilities],
            "environments": [place for place in ENVIRONMENTS if place in self.environments],
            "limits": {key: self.limits[key] for key in LIMIT_UNITS if key in self.limits},
            "count": self.count,
            "status": self.status,
        }
        return row if self.speed_kmh is None else {**row, "speed_kmh": self.speed_kmh}


@dataclass(frozen=True)
class Fleet:
    """The robots at hand, in the order of their file."""

    robots: tuple[Robot, ...]

    @classmethod
    def default(cls) -> Fleet:
        """Return the five robots of the labelling guide."""
        text = resources.files("embervlm").joinpath("default_fleet.yaml").read_text("utf-8")
        return cls.from_text(text, source="default_fleet.yaml")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Fleet:
        """Read a fleet file.

        Raises:
            ValueError: the file is missing or wrong; names the robot, the key and what was
                expected.
        """
        path = Path(path)
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"The fleet file {path} cannot be read ({type(error).__name__}); "
                "give the path of a YAML text file."
            ) from error
        return cls.from_text(text, source=str(path))

    @classmethod
    def from_text(cls, text: str, *, source: str = "fleet") -> Fleet:
        """Parse the text of a fleet file; `source` names it in errors.

        Raises:
            ValueError: see `from_yaml`.
        """
        if len(text) > 1_000_000:
            raise ValueError(f"{source}: a fleet file has at most 1 MB; this one has {len(text)}.")
        try:
            tokens = yaml.scan(text, Loader=_LOADER)
            has_alias = any(isinstance(token, yaml.AliasToken) for token in tokens)
            content = None if has_alias else yaml.load(text, Loader=_LOADER)
        # ValueError: a date such as 2026-13-45, or a whole number of thousands of digits.
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{source}: this is not YAML ({reason}).") from error
        if has_alias:
            raise ValueError(f"{source}: YAML aliases (*name) are not allowed; write it out.")
        return cls.from_record(content, source=source)

    @classmethod
    def from_record(cls, content: Any, *, source: str = "fleet") -> Fleet:
        """Build from what a fleet file holds, as plain values; `source` names it in errors.

        Raises:
            ValueError: see `from_yaml`.
        """
        if not isinstance(content, dict) or set(content) != {"robots"}:
            raise ValueError(f"{source}: expected one key, `robots`, that holds a list of robots.")
        rows = content["robots"]
        if not isinstance(rows, list) or not 1 <= len(rows) <= 1000:
            raise ValueError(f"{source}: `robots` must be a list of 1 to 1,000 robots.")
        robots = tuple(_parse_robot(row, i, source) for i, row in enumerate(rows))
        seen = {NO_ROBOT.lower(): NO_ROBOT}
        for robot in robots:
            for word in {word.lower() for word in (robot.name, *robot.aliases)}:
                if word in seen:
                    raise ValueError(
                        f"{source}: robot {robot.name!r}, key `aliases`: {word!r} already means "
                        f"{seen[word]!r}; every name and alias must be its own."
                    )
                seen[word] = robot.name
        return cls(robots)

    def to_record(self) -> dict[str, Any]:
        """Return what a file of this fleet holds, as plain values."""
        return {"robots": [robot.to_record() for robot in self.robots]}

    @property
    def names(self) -> tuple[str, ...]:
        """The robots' names, in order, without No Robot."""
        return tuple(robot.name for robot in self.robots)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The names and, last, No Robot."""
        return (*self.names, NO_ROBOT)

    def find(self, word: str) -> Robot:
        """Return the robot of this name or alias, in any case.

        Raises:
            ValueError: no robot answers to it.
        """
        wanted = word.strip().lower()
        for robot in self.robots:
            if wanted in (robot.name.lower(), *(alias.lower() for alias in robot.aliases)):
                return robot
        raise ValueError(f"No robot is called {word!r}; the fleet has {', '.join(self.names)}.")

    def __getitem__(self, name: str) -> Robot:
        return self.find(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[Robot]:
        return iter(self.robots)

    def __len__(self) -> int:
        return len(self.robots)


def _parse_robot(row: Any, index: int, source: str) -> Robot:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not row["name"].strip():
        raise ValueError(f"{source}: robot number {index + 1}, key `name`: expected a text.")
    name = row["name"].strip()

    def wrong(key: str, expected: str) -> ValueError:
        return ValueError(f"{source}: robot {name!r}, key `{key}`: expected {expected}.")

    if name.lower() == NO_ROBOT.lower():
        raise wrong("name", f"another name ({NO_ROBOT!r} is always there and is not declared)")
    # Names are written into the reasoning's marked form and onto terminals.
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable() or _NOT_IN_NAMES.search(name):
        raise wrong("name", f"at most {MAX_NAME_CHARACTERS} printable characters, none of ;<|>")
    for key in row:
        if key not in _ROBOT_KEYS:
            raise wrong(str(key), f"one of the known keys ({', '.join(_ROBOT_KEYS)})")

    def words(key: str, known: tuple[str, ...] | None) -> tuple[str, ...]:
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise wrong(key, "a list of words")
        for word in value:
            if known is not None and word not in known:
                raise wrong(key, f"words among {', '.join(known)}, not {word!r}")
        return tuple(value)

    limits = row.get("limits", {})
    if not isinstance(limits, dict):
        raise wrong("limits", "a mapping such as {payload_kg: 5}")
    for key, value in limits.items():
        if key not in LIMIT_UNITS:
            raise wrong(f"limits.{key}", f"one of {', '.join(LIMIT_UNITS)}")
        if not _is_number(value) or value < 0:
            raise wrong(
                f"limits.{key}", f"a number of {LIMIT_UNITS[key]}, 0 or more, not {value!r}"
            )
    speed = row.get("speed_kmh")
    if speed is not None and (not _is_number(speed) or speed <= 0):
        raise wrong("speed_kmh", f"a number of km/h above 0, not {speed!r}")
    count = row.get("count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise wrong("count", f"a whole number, 0 or more, not {count!r}")
    status = row.get("status", "ready")
    if status not in STATUSES:
        raise wrong("status", f"one of {', '.join(STATUSES)}, not {status!r}")
    description = row.get("description", "")
    if not isinstance(description, str):
        raise wrong("description", "a text")
    return Robot(
        name=name,
        description=description.strip(),
        aliases=words("aliases", None),
        capabilities=frozenset(words("capabilities", ACTIONS + CONDITIONS)),
        environments=frozenset(words("environments", ENVIRONMENTS)),
        limits={key: float(value) for key, value in limits.items()},
        speed_kmh=None if speed is None else float(speed),
        count=count,
        status=status,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
