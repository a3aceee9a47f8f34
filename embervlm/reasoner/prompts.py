"""Every text that the loop's models read or write, and what reads it, side by side.

Two are asked: whoever answers, and whoever reviews. An answer ends with "Answer: ...", which
`judging.final_answer` reads. A review has exactly this form, and is None if it has any other:

    VERDICT: revise
    FEEDBACK: The second step adds the numbers; the price of several is price times number.
    ADD correction: The price of several things is the price of one times how many there are.
    UPDATE 4: An hour has 60 minutes; bring both times to minutes first.
    REMOVE 7

Nothing here can see a gold answer: a `Problem` has none. What stands in memory, in an earlier
answer or in feedback came from models and people: it is put between marks that it cannot close.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from embervlm.memory.entries import (
    ENTRY_TYPES,
    MAX_CONTENT_CHARACTERS,
    MemoryBuffer,
    MemoryEntry,
    fenced,
)
from embervlm.reasoner.problems import LETTERS, Problem
from embervlm.training.teacher_prompts import Prompt

MAX_OPERATIONS = 3
MAX_FEEDBACK_CHARACTERS = 600
MAX_QUOTED_LINES = 60

_SOLVE = (
    "Solve the problem. Write one step a line, and each calculation as an equation such as "
    "3 * 4 = 12. Write a last line that begins with 'Answer: ' and has the answer alone"
)
_SOLVE_NUMBER = _SOLVE + ", without words around it."
_SOLVE_OPTIONS = _SOLVE + ": the letter of the right option."
_QUESTION, _OPTIONS = "Problem:\n", "\n\nOptions:\n"
_BEFORE = "\n\nYour earlier answer:\n<answer>\n"
_SAID = "\n</answer>\n\nWhat was said of it:\n<feedback>\n"
_AGAIN = "\n</feedback>\n\nSolve the problem again from the start. Keep what is right."

_REVIEW = """You review an answer to a problem and keep a memory of lessons for later problems.
Write lines of these forms and nothing else:
VERDICT: accept (or: VERDICT: revise)
FEEDBACK: what is wrong and what to do, in one line (only after revise)
ADD correction: a lesson in one line (or: ADD insight, ADD fact)
UPDATE 3: better words for the remembered entry 3
REMOVE 3
VERDICT comes first. At most three lines of ADD, UPDATE and REMOVE. Never state the final answer."""


def solve_prompt(
    problem: Problem, memory: Sequence[MemoryEntry], earlier: str = "", feedback: str = ""
) -> Prompt:
    """Return what is asked of whoever answers; with `feedback`, of an `earlier` answer again."""
    words = _problem_words(problem, memory)
    if feedback:
        words += f"{_BEFORE}{_quoted(earlier)}{_SAID}{_quoted(feedback)}{_AGAIN}"
    return Prompt(_SOLVE_OPTIONS if problem.options else _SOLVE_NUMBER, words)


def question_of(prompt: Prompt) -> str:
    """Return the question alone that a prompt of `solve_prompt` asks."""
    # A line of memory begins with its number, so that the first such line is ours.
    _, _, rest = f"\n{prompt.words}".partition(f"\n{_QUESTION}")
    for end in (_BEFORE, _OPTIONS):
        rest = rest.partition(end)[0]
    return rest.strip()


def review_prompt(
    problem: Problem, memory: Sequence[MemoryEntry], answer: str, told: str = ""
) -> Prompt:
    """Return what is asked of whoever reviews; `told` is what the source of feedback said."""
    words = f"{_problem_words(problem, memory)}\n\nAnswer:\n<answer>\n{_quoted(answer)}\n</answer>"
    if told:
        words += f"\n\nWhat was said of it:\n<feedback>\n{_quoted(told)}\n</feedback>"
    return Prompt(_REVIEW, words)


@dataclass(frozen=True)
class Operation:
    """A change of the memory: `add` an entry of a type, `update` an entry's words, or `remove`."""

    kind: str
    content: str = ""
    entry_type: str = "correction"
    entry_id: int = 0

    def line(self) -> str:
        """Return the line that `parse_review` reads back."""
        if self.kind == "add":
            return f"ADD {self.entry_type}: {fenced(self.content)}"
        if self.kind == "update":
            return f"UPDATE {self.entry_id}: {fenced(self.content)}"
        return f"REMOVE {self.entry_id}"


@dataclass(frozen=True)
class Review:
    """What is to be done about an answer; an accepted one has no feedback."""

    accepted: bool
    feedback: str = ""
    operations: tuple[Operation, ...] = ()


def write_review(review: Review) -> str:
    """Return the lines that `parse_review` reads back."""
    lines = [f"VERDICT: {'accept' if review.accepted else 'revise'}"]
    if not review.accepted:
        lines.append(f"FEEDBACK: {fenced(review.feedback)}")
    return "\n".join([*lines, *(operation.line() for operation in review.operations)])


_VERDICT = re.compile(r"VERDICT: (accept|revise)")
_FEEDBACK = re.compile(r"FEEDBACK: (\S.*)")
_ADD = re.compile(rf"ADD ({'|'.join(ENTRY_TYPES)}): (\S.*)")
_UPDATE = re.compile(r"UPDATE ([1-9]\d{0,8}): (\S.*)")
_REMOVE = re.compile(r"REMOVE ([1-9]\d{0,8})")


def parse_review(text: str) -> Review | None:
    """Read a review; None if it is anything but the lines that were asked for.

    >>> parse_review("VERDICT: accept") == Review(accepted=True)
    True
    >>> parse_review("I would accept it.") is None
    True
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    verdict = _VERDICT.fullmatch(lines[0]) if lines else None
    if verdict is None:
        return None
    accepted, feedback, rest = verdict[1] == "accept", "", lines[1:]
    if not accepted:
        told = _FEEDBACK.fullmatch(rest[0]) if rest else None
        if told is None or len(told[1]) > MAX_FEEDBACK_CHARACTERS:
            return None
        feedback, rest = told[1], rest[1:]
    operations = [_operation(line) for line in rest]
    if len(operations) > MAX_OPERATIONS or None in operations:
        return None
    return Review(accepted, feedback, tuple(one for one in operations if one is not None))


def _operation(line: str) -> Operation | None:
    if found := _ADD.fullmatch(line):
        operation = Operation("add", found[2], entry_type=found[1])
    elif found := _UPDATE.fullmatch(line):
        operation = Operation("update", found[2], entry_id=int(found[1]))
    elif found := _REMOVE.fullmatch(line):
        return Operation("remove", entry_id=int(found[1]))
    else:
        return None
    return operation if len(operation.content) <= MAX_CONTENT_CHARACTERS else None


def _problem_words(problem: Problem, memory: Sequence[MemoryEntry]) -> str:
    remembered = MemoryBuffer().format(memory)
    words = f"{remembered}\n\n" if remembered else ""
    words += f"{_QUESTION}{problem.question.strip()}"
    if problem.options:
        lettered = zip(LETTERS, problem.options, strict=False)
        words += _OPTIONS + "\n".join(f"{letter}. {option}" for letter, option in lettered)
    return words


def _quoted(text: str) -> str:
    lines = [fenced(line) for line in text.strip().splitlines()]
    return "\n".join(line for line in lines if line)[: MAX_QUOTED_LINES * 200]
