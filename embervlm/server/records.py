"""What clients send and get, as pydantic records; the OpenAPI schema is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from embervlm.fleet import STATUSES
from embervlm.live import FleetState
from embervlm.memory.lessons import MAX_NOTE_CHARACTERS
from embervlm.scenario import MAX_TASK_CHARACTERS, Scenario
from embervlm.server.asked import NO_TERMS, Terms, scenario_of

_MAX_PHOTO_CHARACTERS = 12_000_000

Name = Annotated[str, Field(min_length=1, max_length=60)]


class Record(BaseModel):
    """A record from a client; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Ask(Record):
    """A request, a photo, or both."""

    task: str | None = Field(
        None, max_length=MAX_TASK_CHARACTERS, description="The request, in words."
    )
    image: Annotated[str, Field(max_length=_MAX_PHOTO_CHARACTERS)] | bytes | None = Field(
        None,
        description="The photo, JPEG, PNG or WebP: base64 or a data URI in JSON, a file in a form.",
    )

    def scenario(self) -> Scenario:
        """Return the request as the selector takes it.

        Raises:
            ValueError: nothing was asked, or the photo is no base64.
        """
        return scenario_of(self.task, self.image)

    def terms(self) -> Terms:
        """Return what holds for this request alone.

        Raises:
            ValueError: the state is none.
        """
        return NO_TERMS


class PlaceAsk(Record):
    """Metres east and north of the operator's point."""

    x_m: float
    y_m: float


class RobotState(Record):
    """What is known of a robot now; what is left out is as the fleet says."""

    battery: float | None = Field(None, description="The share that is left, 0 to 1.")
    status: str | None = Field(None, max_length=20, description=f"One of {', '.join(STATUSES)}.")
    ready: int | None = Field(None, description="How many of its kind can be sent.")
    free_in_min: float | None = Field(None, description="From when on.")
    location: PlaceAsk | None = None


class StateAsk(Record):
    """The robots as they are now, by name or alias, as in a state file."""

    robots: dict[Name, RobotState] = Field(max_length=1000)


class TermsAsk(Ask):
    """A request with what holds for it alone; in a form `state` is JSON."""

    state: StateAsk | None = Field(None, description="The robots as they are now.")
    exclude: list[Name] = Field(
        default_factory=list, max_length=100, description="Robots that are not to be sent."
    )
    require: list[Name] = Field(
        default_factory=list, max_length=100, description="Robots to send in any case."
    )

    def terms(self) -> Terms:
        """Return what holds for this request alone.

        Raises:
            ValueError: the state is none; names the robot and the key.
        """
        state = None
        if self.state is not None:
            robots = self.state.robots.items()
            state = FleetState({name: row.model_dump(exclude_none=True) for name, row in robots})
        return Terms(state, tuple(self.exclude), tuple(self.require))


class SelectAsk(TermsAsk):
    """What /v1/select takes."""

    top_k: int | None = Field(None, ge=1, le=1000, description="At most so many robots.")
    reasoning: bool = Field(True, description="False leaves the four lines of reasons out.")


class PlanAsk(TermsAsk):
    """What /v1/plan takes."""


class FeedbackAsk(TermsAsk):
    """What /v1/feedback takes: the request as it was asked, and who should have been sent."""

    robots: list[Name] = Field(
        default_factory=list, max_length=100, description="Who is right; empty, the note says it."
    )
    note: str = Field("", max_length=MAX_NOTE_CHARACTERS, description="Why, in a few words.")
    author: Name = Field("operator", description="Who says so.")
    misread: list[Name] = Field(
        default_factory=list,
        max_length=30,
        description="What was read in the request though it does not say so: load_kg, snow ...",
    )


class RollbackAsk(Record):
    """What /v1/memory/rollback takes."""

    to: str = Field(max_length=40, description="A time such as 2026-05-03T17:30+02:00.")
    author: Name = "operator"


class FleetAsk(Record):
    """What PUT /v1/fleet takes: the robots, as in a fleet file."""

    robots: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    objective: dict[str, float] = Field(default_factory=dict, max_length=20)


class NeedsRecord(BaseModel):
    """What the job takes, as it was read."""

    actions: list[str]
    environment: str
    limits: dict[str, float | bool]


class PlaceRecord(BaseModel):
    """Metres east and north of the operator's point."""

    x_m: float
    y_m: float


class StepRecord(BaseModel):
    """A step of a plan; `after` holds the numbers, from 0, of the steps that come before it.

    Where nobody can do it `robot` is null and `why` says so. What is not known is left out.
    """

    subtask: str
    robot: str | None
    after: list[int]
    needs: NeedsRecord | None = None
    start_min: float | None = None
    duration_min: float | None = None
    unit: int | None = None
    place: PlaceRecord | None = None
    minutes: float | None = None
    barred: list[str] | None = None
    unsuited: list[str] | None = None
    why: str | None = None
    done: bool | None = None


class DecisionRecord(BaseModel):
    """A decision; see embervlm.scenario.Decision."""

    robots: list[str]
    primary: str
    environment: str
    confidence: float
    probabilities: dict[str, float]
    ask: bool
    needs: NeedsRecord
    reasoning: list[str]
    plan: list[StepRecord]
    rejected: dict[str, str]
    memory: list[str]
    lessons: list[int]
    read_as: dict[str, str]


class PlanRecord(BaseModel):
    """Who does what, after what; `robots` is the team."""

    robots: list[str]
    confidence: float
    ask: bool
    plan: list[StepRecord]
    memory: list[str]
    lessons: list[int]


class AnalysisRecord(BaseModel):
    """What /analyze answers, as EmberVLM documents it; the plan is a step a line."""

    selected_robot: str
    confidence: float
    reasoning: list[str]
    robot_probabilities: dict[str, float]
    action_plan: str
    memory: list[str]
    lessons: list[int]


class LessonRecord(BaseModel):
    """A lesson; see embervlm.memory.entries.MemoryEntry."""

    id: int
    entry_type: str
    content: str
    confidence: float
    related_to: list[int]
    metadata: dict[str, Any]
    status: Literal["in force", "quarantined", "retired"]


class ForgottenRecord(LessonRecord):
    """A lesson that is out of force now, and those that are in force again because of it."""

    restored: list[int]


class LessonsRecord(BaseModel):
    """Some lessons, the newest last, and how many there are in all."""

    lessons: list[LessonRecord]
    total: int


class RollbackRecord(BaseModel):
    """How many lessons came back into force, and how many went."""

    came_back: int
    went: int


class FleetRecord(BaseModel):
    """The robots at hand, and the words that their file may use."""

    robots: list[dict[str, Any]]
    objective: dict[str, float] | None = None
    vocabulary: dict[str, Any]


class ErrorDetail(BaseModel):
    """Why there is no answer: one sentence, and a code for programs."""

    message: str
    type: str
    param: str | None
    code: str
    id: str


class ErrorRecord(BaseModel):
    """The form of every refusal and fault."""

    error: ErrorDetail
