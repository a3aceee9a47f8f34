"""The records that every layer passes: what is asked, what it needs, what was decided, what was
wrong.

A `Scenario` is a request with or without a photo. `Needs` is what the job takes, read from it. A
`Decision` answers it. `Feedback` is an operator's correction of a decision.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embervlm.fleet import Place

# Numbers that a request may state, with their units in the key.
QUANTITIES = ("load_kg", "distance_m", "depth_m", "width_m", "wind_kmh", "step_cm", "hours")

# Kind of a number in a text (`quantities`) -> what it may state, each with the factor to its unit.
FACTORS: Mapping[str, Mapping[str, float]] = {
    "mass_kg": {"load_kg": 1.0},
    "length_m": {"distance_m": 1.0, "depth_m": 1.0, "width_m": 1.0, "step_cm": 100.0},
    "speed_kmh": {"wind_kmh": 1.0},
    "hours": {"hours": 1.0},
}

# Circumstances that a request may state or plainly imply.
FLAGS = (
    "people",
    "flat",
    "stairs",
    "height",
    "rubble",
    "narrow",
    "night",
    "mud",
    "storm",
    "doors",
    "snow",
    "ice",
    "sand",
    "fire",
    "smoke",
)

# What can be read wrongly in a request, and told to have been.
READINGS = (*QUANTITIES, *FLAGS, "environment", "team")


@dataclass(frozen=True)
class Scenario:
    """A request to decide: words, a photo, or both.

    Raises:
        ValueError: both are absent, or the words are longer than `MAX_TASK_CHARACTERS`.
    """

    task: str | None = None
    image: str | Path | bytes | None = None

    def __post_init__(self) -> None:
        if self.task is not None and not isinstance(self.task, str):
            raise ValueError(f"The request must be a text, not {type(self.task).__name__}.")
        if not (self.task and self.task.strip()) and self.image is None:
            raise ValueError("Nothing was asked: give a request, a photo, or both.")
        if self.task and len(self.task) > MAX_TASK_CHARACTERS:
            raise ValueError(
                f"The request has {len(self.task):,} characters; "
                f"shorten it to {MAX_TASK_CHARACTERS:,} or fewer."
            )


MAX_TASK_CHARACTERS = 4000


@dataclass(frozen=True)
class Needs:
    """What a job takes: actions (fleet.ACTIONS), a place, numbers (QUANTITIES) and flags (FLAGS).

    Numbers and flags hold only what the request states or plainly implies.
    """

    actions: tuple[str, ...] = ()
    environment: str = "none"
    quantities: Mapping[str, float] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()

    @property
    def limits(self) -> dict[str, float | bool]:
        """Numbers and flags in one mapping, as in the data files."""
        return {**self.quantities, **{flag: True for flag in FLAGS if flag in self.flags}}

    def without(self, names: Collection[str]) -> Needs:
        """Return the needs without these limits, and without the place if it is named."""
        return replace(
            self,
            environment="none" if "environment" in names else self.environment,
            quantities={k: v for k, v in self.quantities.items() if k not in names},
            flags=self.flags.difference(names),
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any], environment: str) -> Needs:
        """Build needs from a data row's `actions` and `limits`."""
        limits = record["limits"]
        return cls(
            actions=tuple(action for action in record["actions"] if action != "none"),
            environment=environment,
            quantities={key: float(limits[key]) for key in QUANTITIES if key in limits},
            flags=frozenset(flag for flag in FLAGS if limits.get(flag)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the needs as plain JSON values."""
        return {
            "actions": list(self.actions),
            "environment": self.environment,
            "limits": self.limits,
        }


@dataclass(frozen=True)
class Subtask:
    """One step of a plan: what, by whom, and after which other steps (indices).

    `robot` is None where nobody can do it; `why` then says so with the numbers. `unit` counts the
    robots of one kind from 1. `start_min` and `duration_min` count in minutes from the start of the
    plan, way and setup included; None means not timed. `minutes` is how long the work itself was
    said to take, `place` is where it is done, if that is known. `barred` are robots that failed at
    it, `unsuited` those to which the model gives next to no chance at it. A step that is `done`
    takes no more time.
    """

    subtask: str
    robot: str | None
    after: tuple[int, ...] = ()
    needs: Needs | None = None
    start_min: float | None = None
    duration_min: float | None = None
    unit: int = 1
    why: str = ""
    done: bool = False
    place: Place | None = None
    minutes: float | None = None
    barred: tuple[str, ...] = ()
    unsuited: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the step as plain JSON values; what is not known of it is left out."""
        record: dict[str, Any] = {
            "subtask": self.subtask,
            "robot": self.robot,
            "after": list(self.after),
        }
        if self.needs is not None:
            record["needs"] = self.needs.to_dict()
        if self.start_min is not None and self.duration_min is not None:
            record["start_min"] = round(self.start_min, 2)
            record["duration_min"] = round(self.duration_min, 2)
        if self.unit > 1:
            record["unit"] = self.unit
        if self.place is not None:
            record["place"] = {"x_m": self.place[0], "y_m": self.place[1]}
        if self.minutes is not None:
            record["minutes"] = self.minutes
        if self.barred:
            record["barred"] = list(self.barred)
        if self.unsuited:
            record["unsuited"] = list(self.unsuited)
        if self.why:
            record["why"] = self.why
        if self.done:
            record["done"] = True
        return record


@dataclass(frozen=True)
class Plan:
    """Who does which step when, and how good that is.

    `makespan_min` is when the last step ends, `energy_wh` what the robots draw. `cost` is the
    fleet's objective, in minutes; no plan that does all of these steps costs less than `bound`.
    `is_optimal` says that this is proven: no other plan does more steps, or as many for less.
    """

    steps: tuple[Subtask, ...]
    makespan_min: float
    energy_wh: float
    cost: float
    bound: float
    is_optimal: bool

    @property
    def robots(self) -> tuple[str, ...]:
        """The robots that have something to do, in the order in which they begin."""
        timed = [step for step in self.steps if step.robot is not None and not step.done]
        timed.sort(key=lambda step: step.start_min or 0.0)
        return tuple(dict.fromkeys(step.robot for step in timed if step.robot is not None))

    @property
    def unassigned(self) -> tuple[int, ...]:
        """The steps that nobody does; each says why."""
        return tuple(i for i, step in enumerate(self.steps) if step.robot is None and not step.done)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "steps": [step.to_dict() for step in self.steps],
            "makespan_min": round(self.makespan_min, 2),
            "energy_wh": round(self.energy_wh, 2),
            "cost": round(self.cost, 4),
            "bound": round(self.bound, 4),
            "is_optimal": self.is_optimal,
        }


@dataclass(frozen=True)
class Decision:
    """Which robots to send, and everything that explains it.

    `robots` is ordered, the one to send first at the front; `("No Robot",)` stands alone.
    `confidence` is the calibrated probability, 0 to 1, that the set is the right one; `ask` says
    that it is below the threshold under which a person should decide. `probabilities` maps each
    outcome to the chance that it belongs to the set. `rejected` maps every other robot to the limit
    it would break, or to how it compares. `reasoning` has four lines: task, environment, robots,
    decision. `memory` says which lesson decided, `lessons` holds its number. `policy` is what the
    network alone says of whom to send first, before rules and lessons: one distribution over all
    outcomes, while `probabilities` are a chance for each. `read_as` maps each mistyped word to the
    one that it was read as. `signs` is what `confidence` was worked out from (`reading.SIGNS`).
    """

    robots: tuple[str, ...]
    primary: str
    environment: str
    confidence: float
    probabilities: Mapping[str, float]
    ask: bool
    needs: Needs
    reasoning: tuple[str, ...] = ()
    plan: tuple[Subtask, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)
    memory: tuple[str, ...] = ()
    lessons: tuple[int, ...] = ()
    scenario: Scenario | None = None
    policy: Mapping[str, float] = field(default_factory=dict)
    read_as: Mapping[str, str] = field(default_factory=dict)
    signs: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as plain JSON values; photo, request, policy and signs are left
        out."""
        return {
            "robots": list(self.robots),
            "primary": self.primary,
            "environment": self.environment,
            "confidence": round(self.confidence, 4),
            "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
            "ask": self.ask,
            "needs": self.needs.to_dict(),
            "reasoning": list(self.reasoning),
            "plan": [step.to_dict() for step in self.plan],
            "rejected": dict(self.rejected),
            "memory": list(self.memory),
            "lessons": list(self.lessons),
            "read_as": dict(self.read_as),
        }


@dataclass(frozen=True)
class Feedback:
    """An operator's correction: the robots that should have been sent, and why.

    `robots` may be given as one name; it is kept as a tuple. Empty, it is for the note to say who
    is right. `author` is who says so. `misread` names what was read in the request though it does
    not say so: limits ("snow" of snow globes, "load_kg" of a bomb that is only looked at),
    "environment", or "team" if the job was wrongly taken for one of a team, or not for one.

    Raises:
        ValueError: `robots` and `note` are empty, No Robot is mixed with robots, or `misread` names
            something else.
    """

    robots: Sequence[str]
    note: str = ""
    author: str = "operator"
    misread: Sequence[str] = ()

    def __post_init__(self) -> None:
        robots = (self.robots,) if isinstance(self.robots, str) else tuple(self.robots)
        object.__setattr__(self, "robots", robots)
        if not (robots or self.note.strip()) or len(set(robots)) != len(robots):
            raise ValueError("Feedback needs one or more different robots, or No Robot alone.")
        if "No Robot" in robots and len(robots) > 1:
            raise ValueError("No Robot stands alone: take it or the other robots out.")
        misread = (self.misread,) if isinstance(self.misread, str) else tuple(self.misread)
        object.__setattr__(self, "misread", misread)
        if unknown := sorted(set(misread) - set(READINGS)):
            raise ValueError(
                f"Nothing called {unknown[0]!r} is read in a request; misread may name "
                f"{', '.join(READINGS)}."
            )
