"""A model in this process that says what it is told to say and keeps every prompt."""

from __future__ import annotations

from collections.abc import Callable

from embervlm.reasoner.prompts import question_of
from embervlm.training.teacher_prompts import Prompt
from embervlm.training.teachers import Reply


class Recording:
    """`says` makes the answer from the question and how often it was asked before."""

    name = "recording"

    def __init__(self, says: Callable[[str, int], str], *, sees: bool = True) -> None:
        self.sees = sees
        self._says = says
        self._asked: dict[str, int] = {}
        self.prompts: list[Prompt] = []
        self.photos: list[bytes | None] = []

    def ask(self, prompt: Prompt, photo: bytes | None, *, seed: int) -> Reply:
        question = question_of(prompt)
        times = self._asked.get(question, 0)
        self._asked[question] = times + 1
        self.prompts.append(prompt)
        self.photos.append(photo)
        return Reply(self._says(question, times))

    @property
    def seen(self) -> str:
        return "\n".join(f"{prompt.system}\n{prompt.words}" for prompt in self.prompts)


def in_turn(*texts: str) -> Recording:
    """Return a model that gives these answers one after the other, the last again and again."""
    return Recording(lambda question, times: texts[min(times, len(texts) - 1)])
