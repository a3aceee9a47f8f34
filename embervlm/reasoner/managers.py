"""Who reviews answers and keeps the memory: the protocol, the rules that need no model, and how a
review's operations change a memory.

    manager = RuleManager()
    review = manager.review(problem, [Attempt(text, answer)], found=[], told=None)

The rules say only what they can show. Without a source that knows the gold they recompute the
answer's equations and see whether it has a final answer at all; where they find no fault they
accept, since to ask "are you sure?" without a reason makes right answers wrong more often than
wrong ones right (Huang et al. 2024, section 3.2). `ask_again=True` asks all the same, once.

What they keep: which sum was wrong, an operator's hint (both corrections), and, after a verifier
turned a wrong answer into a right one, the way of the right one with all its numbers taken out
(insight). The right value of a sum is neither said nor kept: of the last sum it would be the
answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from embervlm.memory.entries import MAX_CONTENT_CHARACTERS, MemoryBuffer, MemoryEntry, fenced
from embervlm.reasoner.equations import equations
from embervlm.reasoner.feedback import Told
from embervlm.reasoner.problems import Problem
from embervlm.reasoner.prompts import Operation, Review

MAX_TASK_CHARACTERS = 4000
_SHOWN_FAULTS = 3
_MAX_WAY_LINES = 8
_NUMBER = re.compile(
    r"\d[\d,]*(?:\.\d+)?|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|"
    r"ninety|hundred|thousand|million)\b",
    re.IGNORECASE,
)
_LETTER_IN_NAME = re.compile(r"[^\W\d_]{3,}")
ASK_AGAIN = "Check each step once more against the problem, and answer again."
NO_ANSWER = "No final answer can be read: end with a line that begins with 'Answer: '."


@dataclass(frozen=True)
class Attempt:
    """An answer: its text, what was read out of it, and what was said of it."""

    text: str
    answer: str | None
    feedback: str = ""


@dataclass(frozen=True)
class Reviewed:
    """A review, or None if what came is none; `asked` and `said` are a model's part in it."""

    review: Review | None
    asked: str = ""
    said: str = ""


class Manager(Protocol):
    """Who reviews answers."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    def review(
        self,
        problem: Problem,
        attempts: Sequence[Attempt],
        found: Sequence[MemoryEntry],
        told: Told | None,
        *,
        seed: int = 0,
    ) -> Reviewed:
        """Review the last of the attempts. `found` is what was retrieved for the problem, `told`
        what a source that knows the gold said, None without one."""


class RuleManager:
    """Reviews by rules alone."""

    name = "rules"

    def __init__(self, *, ask_again: bool = False) -> None:
        self._ask_again = ask_again

    def review(
        self,
        problem: Problem,
        attempts: Sequence[Attempt],
        found: Sequence[MemoryEntry],
        told: Told | None,
        *,
        seed: int = 0,
    ) -> Reviewed:
        """Review the last attempt; see the module."""
        last = attempts[-1]
        wrong = [equation for equation in equations(last.text) if not equation.holds]
        faults = [
            f"{equation.left} is not {equation.stated}: calculate it again."
            for equation in wrong[:_SHOWN_FAULTS]
        ]
        if told is not None:
            return Reviewed(self._after(told, problem, attempts, faults, found))
        if last.answer is None:
            return Reviewed(Review(False, " ".join([NO_ANSWER, *faults])))
        if faults:
            kept = Operation("add", " ".join(faults))
            return Reviewed(Review(False, " ".join(faults), (kept,)))
        if self._ask_again and len(attempts) == 1:
            return Reviewed(Review(False, _pointing(ASK_AGAIN, found)))
        return Reviewed(Review(True))

    def _after(
        self,
        told: Told,
        problem: Problem,
        attempts: Sequence[Attempt],
        faults: Sequence[str],
        found: Sequence[MemoryEntry],
    ) -> Review:
        if told.right:
            way = _way(attempts[-1].text) if len(attempts) > 1 and not problem.options else ""
            return Review(True, "", (Operation("add", way, entry_type="insight"),) if way else ())
        operations = []
        if told.hint:
            operations.append(Operation("add", told.hint[:MAX_CONTENT_CHARACTERS]))
        said = _pointing(" ".join([told.sentence(), *faults]), found)
        return Review(False, said, tuple(operations))


@dataclass(frozen=True)
class Applied:
    """What became of a review's operations: entries changed, and lines that were refused."""

    changed: tuple[int, ...]
    refused: tuple[str, ...]


def apply(
    operations: Sequence[Operation],
    memory: MemoryBuffer,
    *,
    may_change: Sequence[int],
    metadata: dict[str, Any],
) -> Applied:
    """Change a memory as a review says.

    Only entries that the reviewer was shown (`may_change`) may be updated or removed. What says
    the same as another entry is not added. What cannot be done is refused, never raised.
    """
    changed: list[int] = []
    refused: list[str] = []
    for operation in operations:
        try:
            if operation.kind == "add":
                content = fenced(operation.content)
                if any(entry.content == content for entry in memory):
                    continue
                entry = memory.add(operation.entry_type, content, metadata=metadata)
            elif operation.entry_id not in may_change:
                raise ValueError("an entry that was not shown")
            elif operation.kind == "update":
                entry = memory.update(operation.entry_id, content=fenced(operation.content))
            else:
                entry = memory.remove(operation.entry_id)
            changed.append(entry.id)
        except ValueError:
            refused.append(operation.line())
    return Applied(tuple(changed), tuple(refused))


def task_of(problem: Problem) -> str:
    """Return the words of a problem by which an entry about it is found again."""
    return problem.question.strip()[:MAX_TASK_CHARACTERS]


def _pointing(said: str, found: Sequence[MemoryEntry]) -> str:
    if not found:
        return said
    numbers = ", ".join(str(entry.id) for entry in found)
    return f"{said} Hold it against what is remembered: {numbers}."


def _way(text: str) -> str:
    """Return the lines with equations of a right answer, each number as "n"; none without them."""
    lines = [line.strip() for line in text.splitlines() if equations(line)]
    way = " ".join(_NUMBER.sub("n", line) for line in lines[:_MAX_WAY_LINES])
    if not _LETTER_IN_NAME.search(way):
        return ""
    return f"A way that was right: {way}"[:MAX_CONTENT_CHARACTERS]
