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
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
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
LEFT_OUT = "left out"

MAX_NAME_CHARACTERS = 60
MOST_OF_A_KIND = 1_000_000
# Slower than a metre an hour is a slip; with far less the minutes of a way have no end.
LEAST_SPEED_KMH = 0.001
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
    "setup_min",
    "energy_w",
    "location",
)

# Metres east and north of a point that the operator chooses.
Place = tuple[float, float]


@dataclass(frozen=True)
class Objective:
    """What a good plan is: the weights of its cost, which is counted in minutes.

    `time` weighs a minute of the whole plan, `energy` a watt-hour, `safety` a robot at its limit
    (a risk of 1), `preference` a factor of e between the model's chances. A step whose duration is
    not stated takes `step_min`. `docs/plans.md` has the formula.
    """

    time: float = 1.0
    energy: float = 0.01
    safety: float = 10.0
    preference: float = 20.0
    step_min: float = 10.0


@dataclass(frozen=True)
class Robot:
    """One kind of robot, as the operator states it.

    `limits` maps the keys of `LIMIT_UNITS` to numbers; a missing key means that no limit is stated.
    `count` is how many of the kind there are, `status` one of `STATUSES`, or `LEFT_OUT` where the
    operator excludes it. `setup_min` passes before each of its steps, `energy_w` is what it draws
    at work (None: not stated), `location` is where it stands (None: not stated). `battery` (the
    share that is left, of which `endurance_min` shrinks) and `free_in_min` come from the live
    state (`live.FleetState`). `base` is from where `max_distance_m` counts while a plan moves it
    (None: from where it stands).
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
    setup_min: float = 0.0
    energy_w: float | None = None
    location: Place | None = None
    battery: float = 1.0
    free_in_min: float = 0.0
    base: Place | None = None

    @property
    def endurance_min(self) -> float:
        """How long it runs on what its battery holds; infinite if the fleet states nothing."""
        return self.limits.get("endurance_min", float("inf")) * self.battery

    def can(self, capability: str) -> bool:
        """Say whether the robot states this action or condition among its capabilities."""
        return capability in self.capabilities

    def to_record(self) -> dict[str, Any]:
        """Return the robot's row of a fleet file, as plain values; what is not stated is left
        out."""
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
        if self.speed_kmh is not None:
            row["speed_kmh"] = self.speed_kmh
        if self.setup_min:
            row["setup_min"] = self.setup_min
        if self.energy_w is not None:
            row["energy_w"] = self.energy_w
        if self.location is not None:
            row["location"] = {"x_m": self.location[0], "y_m": self.location[1]}
        return row


@dataclass(frozen=True)
class Fleet:
    """The robots at hand, in the order of their file."""

    robots: tuple[Robot, ...]
    objective: Objective = Objective()

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
        return cls.from_record(load_yaml(text, source, "fleet file"), source=source)

    @classmethod
    def from_record(cls, content: Any, *, source: str = "fleet") -> Fleet:
        """Build from what a fleet file holds, as plain values; `source` names it in errors.

        Raises:
            ValueError: see `from_yaml`.
        """
        if not isinstance(content, dict) or "robots" not in content:
            raise ValueError(f"{source}: expected a key `robots` that holds a list of robots.")
        for key in content:
            if key not in ("robots", "objective"):
                raise ValueError(
                    f"{source}: {key!r} is not a key of a fleet file; it has `robots` and, if "
                    "need be, `objective`."
                )
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
        for robot in robots:
            # The second unit of a kind is called "name 2" in pictures and in Open-RMF.
            kind, _, number = robot.name.rpartition(" ")
            if kind.lower() in seen and number.isdecimal() and len(number) < 8:
                other = next(r for r in robots if r.name == seen[kind.lower()])
                if kind.lower() == other.name.lower() and 2 <= int(number) <= other.count:
                    raise ValueError(
                        f"{source}: robot {robot.name!r}, key `name`: one of the {other.count} of "
                        f"{other.name!r} is called so; give another name."
                    )
        return cls(robots, _parse_objective(content.get("objective", {}), source))

    def to_record(self) -> dict[str, Any]:
        """Return what a file of this fleet holds, as plain values."""
        record: dict[str, Any] = {"robots": [robot.to_record() for robot in self.robots]}
        if self.objective != Objective():
            record["objective"] = asdict(self.objective)
        return record

    @cached_property
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
        found = self._by_word.get(word.strip().lower())
        if found is not None:
            return found
        raise ValueError(f"No robot is called {word!r}; the fleet has {', '.join(self.names)}.")

    def called(self, word: str) -> str:
        """Return the name of the robot that answers to a word, else the word itself."""
        found = self._by_word.get(word.strip().lower())
        return word if found is None else found.name

    @cached_property
    def _by_word(self) -> dict[str, Robot]:
        """Every name and alias in small letters; where several robots have one, the first."""
        words: dict[str, Robot] = {}
        for robot in self.robots:
            for word in (robot.name, *robot.aliases):
                words.setdefault(word.lower(), robot)
        return words

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.names)

    def __getitem__(self, name: str) -> Robot:
        return self.find(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[Robot]:
        return iter(self.robots)

    def __len__(self) -> int:
        return len(self.robots)


def load_yaml(text: str, source: str, what: str) -> Any:
    """Parse YAML that a stranger may have written; `source` and `what` name it in errors.

    Raises:
        ValueError: it is larger than 1 MB, no YAML, or has aliases or a key twice, of which YAML
            would take the last without a word.
    """
    if len(text) > 1_000_000:
        raise ValueError(f"{source}: a {what} has at most 1 MB; this one has {len(text)}.")
    try:
        tokens = yaml.scan(text, Loader=_LOADER)
        has_alias = any(isinstance(token, yaml.AliasToken) for token in tokens)
        tree = None if has_alias else yaml.compose(text, Loader=_LOADER)
        content = None if tree is None else yaml.load(text, Loader=_LOADER)
    # ValueError: a date such as 2026-13-45, or a whole number of thousands of digits.
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{source}: this is not YAML ({reason}).") from error
    if has_alias:
        raise ValueError(f"{source}: YAML aliases (*name) are not allowed; write it out.")
    if (twice := _twice(tree)) is not None:
        raise ValueError(
            f"{source}: line {twice.start_mark.line + 1}: the key `{twice.value}` stands there "
            "twice in one place; write it once."
        )
    return content


def _twice(tree: yaml.Node | None) -> yaml.ScalarNode | None:
    """Return a key of a mapping that stands in it before; None where there is none."""
    waiting = [] if tree is None else [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        return key
                    seen.add(key.value)
                waiting.append(value)
    return None


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
        if not is_number(value) or value < 0:
            raise wrong(
                f"limits.{key}", f"a number of {LIMIT_UNITS[key]}, 0 or more, not {value!r}"
            )
    speed = row.get("speed_kmh")
    if speed is not None and (not is_number(speed) or speed < LEAST_SPEED_KMH):
        raise wrong("speed_kmh", f"a number of km/h, {LEAST_SPEED_KMH} or more, not {speed!r}")
    count = row.get("count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_OF_A_KIND:
        raise wrong("count", f"a whole number, 0 or more, at most {MOST_OF_A_KIND:,}")
    status = row.get("status", "ready")
    if status not in STATUSES:
        raise wrong("status", f"one of {', '.join(STATUSES)}, not {status!r}")
    setup = row.get("setup_min", 0)
    if not is_number(setup) or setup < 0:
        raise wrong("setup_min", f"a number of min, 0 or more, not {setup!r}")
    energy = row.get("energy_w")
    if energy is not None and (not is_number(energy) or energy < 0):
        raise wrong("energy_w", f"a number of W, 0 or more, not {energy!r}")
    location = None
    if "location" in row:
        location = parse_place(row["location"])
        if location is None:
            raise wrong(
                "location", f"a place such as {{x_m: 40, y_m: -12.5}}, not {row['location']!r}"
            )
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
        setup_min=float(setup),
        energy_w=None if energy is None else float(energy),
        location=location,
    )


def parse_place(value: Any) -> Place | None:
    """Read `{x_m: 40, y_m: -12.5}`; None if it is something else."""
    if not isinstance(value, dict) or set(value) != {"x_m", "y_m"}:
        return None
    x, y = value["x_m"], value["y_m"]
    return (float(x), float(y)) if is_number(x) and is_number(y) else None


def _parse_objective(row: Any, source: str) -> Objective:
    known = [field.name for field in fields(Objective)]
    if not isinstance(row, dict):
        raise ValueError(
            f"{source}: key `objective`: expected a mapping such as {{time: 1, safety: 10}}."
        )
    for key, value in row.items():
        if key not in known:
            raise ValueError(
                f"{source}: key `objective.{key}`: expected one of {', '.join(known)}."
            )
        if not is_number(value) or value < 0:
            raise ValueError(
                f"{source}: key `objective.{key}`: expected a number, 0 or more, not {value!r}."
            )
    return Objective(**{key: float(value) for key, value in row.items()})


def is_number(value: Any) -> bool:
    """Say whether a value of a file is a finite number of a usable size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
