"""The fleet as it is now: batteries, what is busy or broken, where it stands, whom to leave out.

A state file (YAML or JSON) names robots of the fleet; what it does not name is as the fleet says.

    robots:
      Drone: {battery: 0.35, location: {x_m: 120, y_m: 40}}
      Robot with Wheels: {status: fault}
      Robot with Legs: {ready: 1, free_in_min: 12}

`battery` is the share that is left: the robot runs for so much of its `endurance_min`. `ready` is
how many of its kind can be sent, `free_in_min` from when on.

    >>> fleet = FleetState.from_text("robots: {Drone: {battery: 0.5}}").applied(Fleet.default())
    >>> fleet["Drone"].endurance_min
    20.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embervlm.fleet import LEFT_OUT, STATUSES, Fleet, Robot, is_number, load_yaml, parse_place

_KEYS = ("battery", "status", "ready", "free_in_min", "location")


@dataclass(frozen=True)
class FleetState:
    """What is known of robots now: by name or alias, the keys of a state file.

    Raises:
        ValueError: a key or a value is none of a state file.
    """

    robots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.robots, Mapping):
            raise ValueError("state: `robots` must map names to what is known of them.")
        for name, row in self.robots.items():
            _check(name, row, "state")

    @classmethod
    def from_file(cls, path: str | Path) -> FleetState:
        """Read a state file.

        Raises:
            ValueError: the file is missing or wrong; names the robot and the key.
        """
        path = Path(path)
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"The state file {path} cannot be read ({type(error).__name__}); "
                "give the path of a YAML or JSON text file."
            ) from error
        return cls.from_text(text, source=str(path))

    @classmethod
    def from_text(cls, text: str, *, source: str = "state") -> FleetState:
        """Parse the text of a state file; `source` names it in errors.

        Raises:
            ValueError: see `from_file`.
        """
        content = load_yaml(text, source, "state file")
        if not isinstance(content, dict) or set(content) != {"robots"}:
            raise ValueError(f"{source}: expected one key, `robots`, that maps names to states.")
        rows = content["robots"]
        if not isinstance(rows, dict):
            raise ValueError(f"{source}: `robots` must map names to what is known of them.")
        for name, row in rows.items():
            _check(name, row, source)
        return cls(rows)

    def applied(self, fleet: Fleet) -> Fleet:
        """Return the fleet as it is now.

        Raises:
            ValueError: a robot is not in the fleet, is named twice, or has more ready than it has.
        """
        rows: dict[str, Mapping[str, Any]] = {}
        for word, row in self.robots.items():
            robot = fleet.find(word)
            if robot.name in rows:
                raise ValueError(f"state: {robot.name!r} stands there twice; name it once.")
            if row.get("ready", 0) > robot.count:
                raise ValueError(
                    f"state: robot {robot.name!r}, key `ready`: {row['ready']} are ready, but the "
                    f"fleet has {robot.count}."
                )
            rows[robot.name] = row
        return replace(fleet, robots=tuple(_now(robot, rows.get(robot.name)) for robot in fleet))


def without(fleet: Fleet, names: Sequence[str]) -> Fleet:
    """Return the fleet with these robots marked as left out by the operator.

    Raises:
        ValueError: a robot is not in the fleet.
    """
    left = {fleet.find(name).name for name in names}
    return replace(
        fleet,
        robots=tuple(
            replace(robot, status=LEFT_OUT) if robot.name in left else robot for robot in fleet
        ),
    )


def _now(robot: Robot, row: Mapping[str, Any] | None) -> Robot:
    if row is None:
        return robot
    location = parse_place(row.get("location"))
    return replace(
        robot,
        battery=float(row.get("battery", robot.battery)),
        status=row.get("status", robot.status),
        count=row.get("ready", robot.count),
        free_in_min=float(row.get("free_in_min", robot.free_in_min)),
        location=location or robot.location,
        base=robot.base if location is None else robot.location or location,
    )


def _check(name: Any, row: Any, source: str) -> None:
    if not isinstance(name, str) or not isinstance(row, Mapping):
        raise ValueError(f"{source}: robot {name!r}: expected a mapping such as {{battery: 0.5}}.")

    def wrong(key: str, expected: str) -> ValueError:
        got = f", not {row[key]!r}" if key in _KEYS else ""
        return ValueError(f"{source}: robot {name!r}, key `{key}`: expected {expected}{got}.")

    for key in row:
        if key not in _KEYS:
            raise wrong(str(key), f"one of the known keys ({', '.join(_KEYS)})")
    if "battery" in row and not (is_number(row["battery"]) and 0 <= row["battery"] <= 1):
        raise wrong("battery", "a share from 0 to 1")
    if "status" in row and row["status"] not in STATUSES:
        raise wrong("status", f"one of {', '.join(STATUSES)}")
    ready = row.get("ready", 0)
    if not isinstance(ready, int) or isinstance(ready, bool) or ready < 0:
        raise wrong("ready", "a whole number, 0 or more")
    free = row.get("free_in_min", 0)
    if not is_number(free) or free < 0:
        raise wrong("free_in_min", "a number of min, 0 or more")
    if "location" in row and parse_place(row["location"]) is None:
        raise wrong("location", "a place such as {x_m: 40, y_m: -12.5}")
