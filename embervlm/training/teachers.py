"""Who can be asked: any endpoint that speaks OpenAI's protocol, or a model of transformers.

    teacher = open_teacher("openai:http://localhost:8000/v1#qwen2.5-vl", settings)
    teacher = open_teacher("local:HuggingFaceTB/SmolVLM-Instruct", settings)     # or a folder
    teacher.ask(Prompt("You describe pictures.", "What is to be seen?"), photo, seed=1).text

A teacher's name and the settings that change its answers are part of the key under which an answer
is kept, so an answer is never taken for one of another teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from embervlm.endpoint import EndpointSettings, NoAnswerError
from embervlm.training.teacher_prompts import Prompt

if TYPE_CHECKING:
    from embervlm.training.top_logits import TopLogits

__all__ = ["NoAnswerError", "Reply", "Teacher", "TeacherSettings", "open_teacher"]


@dataclass(frozen=True)
class TeacherSettings:
    """What all teachers are set to. `temperature` 0 takes the likeliest token each time.

    `logits` is how many of each token's likeliest ones are kept, 0: none; they take a local teacher
    and the student's tokenizer. `timeout_s` is for one answer; `retries` are for each question.
    """

    temperature: float = 0.0
    max_tokens: int = 512
    logits: int = 0
    student: str = ""
    timeout_s: float = 120.0
    retries: int = 5
    first_pause_s: float = 1.0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what no teacher can be set to.

        Raises:
            ValueError: which, and what was expected.
        """
        _ = self.endpoint
        if self.logits < 0:
            raise ValueError(f"logits is {self.logits}; it must be 0 or more.")
        if bool(self.logits) != bool(self.student):
            raise ValueError(
                "Logits need the student's tokenizer, to see that the vocabularies are the same, "
                "and it serves nothing else: give --logits and --student together."
            )

    @property
    def endpoint(self) -> EndpointSettings:
        """What of it concerns an endpoint.

        Raises:
            ValueError: a value that none can be set to.
        """
        return EndpointSettings(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            timeout_s=self.timeout_s,
            retries=self.retries,
            first_pause_s=self.first_pause_s,
        )


@dataclass(frozen=True)
class Reply:
    """What a teacher said; `cut`: it was stopped at `max_tokens`. `top` is None without logits."""

    text: str
    cut: bool = False
    top: TopLogits | None = None


class Teacher(Protocol):
    """Someone who can be asked, from several threads at a time."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    @property
    def sees(self) -> bool:
        """Whether it can be shown photos."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its answers depend on beside the question."""

    def ask(self, prompt: Prompt, photo: bytes | None, *, seed: int) -> Reply:
        """Return the answer; `photo` is a JPEG file.

        Raises:
            NoAnswerError: there is none to this question.
            ValueError: there will be none to any: the key or the name of the model is wrong.
        """


def open_teacher(name: str, settings: TeacherSettings) -> Teacher:
    """Return the teacher that a command line names: `openai:URL#model` or `local:FOLDER_OR_NAME`.

    Raises:
        ValueError: it is neither, or cannot be had.
    """
    kind, _, rest = name.partition(":")
    if kind == "openai" and rest:
        if settings.logits or settings.device != "auto":
            raise ValueError(
                f"{name} runs elsewhere and sends words alone; leave out --logits and --device."
            )
        from embervlm.training.openai_teacher import OpenAITeacher

        return OpenAITeacher(name, settings)
    if kind == "local" and rest:
        from embervlm.training.local_teacher import LocalTeacher

        return LocalTeacher(name, settings)
    raise ValueError(
        f"There is no teacher {name!r}; give openai:URL#model or local:FOLDER_OR_NAME."
    )
