"""An endpoint as a teacher; `embervlm.endpoint` does the asking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embervlm.endpoint import Endpoint
from embervlm.training.teacher_prompts import Prompt
from embervlm.training.teachers import Reply, TeacherSettings


class OpenAITeacher:
    """A model behind an endpoint, named `openai:URL#model`."""

    sees = True

    def __init__(self, name: str, settings: TeacherSettings) -> None:
        """Take the address apart; no connection is opened yet.

        Raises:
            ValueError: the address is none, or the key would travel in the open.
        """
        self.name, self._options = name, settings.endpoint
        self._endpoint = Endpoint(name, settings.endpoint)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the answers depend on."""
        return {
            "temperature": self._options.temperature,
            "max_tokens": self._options.max_tokens,
        }

    def ask(self, prompt: Prompt, photo: bytes | None, *, seed: int) -> Reply:
        """Return the answer; see `Endpoint.ask`.

        Raises:
            NoAnswerError: every try failed, or the server does not want this question.
            ValueError: the server refuses the key, the model or the address.
        """
        answer = self._endpoint.ask(prompt.system, prompt.words, photo=photo, seed=seed)
        return Reply(answer.text, cut=answer.cut)
