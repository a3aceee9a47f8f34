"""The loop: answer, be told, remember, answer better.

    reasoner = IterativeReasoner(open_model("local:Qwen/Qwen2.5-1.5B-Instruct"), RuleManager())
    trace = reasoner.solve(problem)
    trace.answer, trace.stopped, trace.iterations[0].feedback

An iteration retrieves from memory what the problem shares words with, asks for an answer with its
steps, and has it reviewed; the review's operations change the memory at once. The loop stops when
the manager accepts ("accepted"), when an answer is the same as the one before ("unchanged"), at
`max_iterations` ("most iterations"), when nobody reviews ("no review"), or when the model has none
("no answer"). The memory stays for the next problem; with `fresh_memory` each begins with what was
there at first.

A problem has no gold answer. What knows it is the `source` that a caller may pass, and the trace
then says which kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from embervlm.imaging import encode_jpeg, load_image
from embervlm.memory.entries import MemoryBuffer, MemoryEntry
from embervlm.reasoner.feedback import KINDS, ORACLES, Source
from embervlm.reasoner.judging import final_answer, same
from embervlm.reasoner.managers import Attempt, Manager, RuleManager, apply, task_of
from embervlm.reasoner.models import LanguageModel
from embervlm.reasoner.problems import Problem
from embervlm.reasoner.prompts import solve_prompt
from embervlm.training.teachers import NoAnswerError

RETRIEVED = 3
PHOTO_PX = 768
_GAP_PX = 16


@dataclass(frozen=True)
class Iteration:
    """One round: what was asked, what came, what was said of it, and what was remembered.

    `answer` is None if it could not be read, `told_right` if no source knew. `memory` are the
    entries in the prompt, `changed` those that the review added, changed or removed. `accepted` is
    None if nobody reviewed.
    """

    system: str
    prompt: str
    text: str
    answer: str | None
    cut: bool
    memory: tuple[int, ...]
    told_right: bool | None = None
    accepted: bool | None = None
    feedback: str = ""
    changed: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()
    review_prompt: str = ""
    review_text: str = ""


@dataclass(frozen=True)
class Trace:
    """All that happened with a problem, in plain JSON values by `to_dict`."""

    problem: str
    feedback: str
    iterations: tuple[Iteration, ...]
    stopped: str
    reason: str = ""

    @property
    def answer(self) -> str | None:
        """The final answer; None if there is none that could be read."""
        return self.iterations[-1].answer if self.iterations else None

    @property
    def text(self) -> str:
        """The final answer with its steps."""
        return self.iterations[-1].text if self.iterations else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as plain JSON values."""
        return asdict(self)


class IterativeReasoner:
    """Solves one problem after the other with a model, a manager and a memory."""

    def __init__(
        self,
        model: LanguageModel,
        manager: Manager | None = None,
        max_iterations: int = 3,
        *,
        memory: MemoryBuffer | None = None,
        fresh_memory: bool = False,
        seed: int = 0,
    ) -> None:
        """Take the parts; None is the manager of rules, and an empty memory.

        Raises:
            ValueError: `max_iterations` is below 1.
        """
        if max_iterations < 1:
            raise ValueError(f"max_iterations is {max_iterations}; expected 1 or more.")
        self.model, self.manager = model, manager or RuleManager()
        self.max_iterations, self.fresh_memory, self.seed = max_iterations, fresh_memory, seed
        self.memory = MemoryBuffer() if memory is None else memory
        self._begin = tuple(self.memory)
        self._solved = 0

    def solve(
        self, problem: Problem, source: Source | None = None, *, feedback: str = "self"
    ) -> Trace:
        """Solve a problem; `feedback` names the kind of `source`, see `feedback.KINDS`.

        Raises:
            ValueError: kind and source do not belong together, or the model cannot be asked at all.
            NoAnswerError: the model or the manager's model is out of reach.
        """
        if feedback not in KINDS or (source is not None) != (feedback in ORACLES):
            raise ValueError(
                f"feedback is {feedback!r}; verdict and hint take a source, none and self do not."
            )
        if self.fresh_memory:
            self.memory = MemoryBuffer(self._begin)
        self._solved += 1
        photo = one_photo(problem.photos)
        iterations: list[Iteration] = []
        attempts: list[Attempt] = []
        for turn in range(1 if feedback == "none" else self.max_iterations):
            seed = self.seed + 1000 * self._solved + turn
            found = self.memory.retrieve(problem.question, RETRIEVED)
            earlier = attempts[-1] if attempts else Attempt("", None)
            prompt = solve_prompt(problem, found, earlier.text, earlier.feedback)
            try:
                reply = self.model.ask(prompt, photo, seed=seed)
            except NoAnswerError as error:
                if error.out_of_reach:
                    raise
                return Trace(problem.id, feedback, tuple(iterations), "no answer", str(error))
            iteration = Iteration(
                prompt.system,
                prompt.words,
                reply.text,
                final_answer(reply.text, problem.options),
                reply.cut,
                tuple(entry.id for entry in found),
            )
            if feedback == "none":
                return Trace(problem.id, feedback, (iteration,), "no review")
            if _unchanged(earlier.answer, iteration.answer):
                return Trace(problem.id, feedback, (*iterations, iteration), "unchanged")
            attempts.append(Attempt(iteration.text, iteration.answer))
            iteration = self._reviewed(problem, attempts, iteration, found, source, feedback, seed)
            attempts[-1] = replace(attempts[-1], feedback=iteration.feedback)
            iterations.append(iteration)
            if iteration.accepted is not False:
                stopped = "accepted" if iteration.accepted else "no review"
                return Trace(problem.id, feedback, tuple(iterations), stopped)
        return Trace(problem.id, feedback, tuple(iterations), "most iterations")

    def _reviewed(
        self,
        problem: Problem,
        attempts: Sequence[Attempt],
        iteration: Iteration,
        found: Sequence[MemoryEntry],
        source: Source | None,
        feedback: str,
        seed: int,
    ) -> Iteration:
        """Have an answer reviewed and change the memory; return the iteration with both."""
        told = source(iteration.answer, iteration.text) if source else None
        made = self.manager.review(problem, attempts, found, told, seed=seed)
        iteration = replace(
            iteration,
            told_right=told.right if told else None,
            review_prompt=made.asked,
            review_text=made.said,
        )
        if made.review is None:
            return iteration
        about = {"task": task_of(problem), "author": self.manager.name, "source": feedback}
        applied = apply(
            made.review.operations, self.memory, may_change=iteration.memory, metadata=about
        )
        return replace(
            iteration,
            accepted=made.review.accepted,
            feedback=made.review.feedback,
            changed=applied.changed,
            refused=applied.refused,
        )


def one_photo(photos: tuple[bytes, ...]) -> bytes | None:
    """Return image files as one JPEG, one under the other in order; None without any.

    Raises:
        ValueError: one cannot be read.
    """
    if not photos:
        return None
    pictures = [Image.fromarray(load_image(photo)) for photo in photos]
    width = max(picture.width for picture in pictures)
    height = sum(picture.height for picture in pictures) + _GAP_PX * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + _GAP_PX
    return encode_jpeg(np.asarray(sheet), PHOTO_PX * len(pictures))


def _unchanged(before: str | None, now: str | None) -> bool:
    return before is not None and now is not None and same(before, now)
