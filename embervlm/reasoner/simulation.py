"""Simulated reviews to train a manager on, and the word problems that they are about.

    simulate(Path("build/sim"), rows=2000, seed=0)

Each problem is a template with drawn numbers; its gold is computed, never written down. Each wrong
answer has one stated mistake, made in one step and carried through the others:

    operation   another operation than the template's, about which its `lesson` is
    slip        a step's result is wrong, so that its equation does not hold
    misread     a number of the problem is copied wrong
    omitted     the last step is left out

The right review names the step and what to do, and says what is to be done with the memory that was
retrieved: add the lesson if it is not there, nothing if it is, better words for a vague entry, and
away with one that teaches the mistake. It never states the gold. A third of the answers are right
and to be accepted: a manager that has seen mistakes alone would find one everywhere.

The folder gets `train.jsonl` and `validation.jsonl` (no question stands in both), whose `words` and
`completion` are what a manager reads and writes, and `problems.jsonl`, other problems of the same
kinds for `embervlm rmm evaluate --data simulated:...`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from embervlm.memory.entries import MemoryEntry
from embervlm.reasoner.problems import Problem
from embervlm.reasoner.prompts import Operation, Review, review_prompt, write_review
from embervlm.reasoner.templates import OPERATIONS, TEMPLATES, Step, Template

MISTAKES = ("operation", "slip", "misread", "omitted")
FILES = ("train.jsonl", "validation.jsonl", "problems.jsonl")
VALIDATION_EVERY = 10
KNOWN_TO_THE_RIGHT = 0.5
_TRIES = 200
_OTHER = {"+": "-", "-": "+", "*": "+", "/": "*"}
_WORD = {"+": "adds", "-": "subtracts", "*": "multiplies", "/": "divides"}
_DIGITS = re.compile(r"\d+")
_GENERAL = {
    "slip": "Calculate each step a second time before going on.",
    "misread": "Compare each number with the problem before using it.",
}


@dataclass(frozen=True)
class Line:
    """A step as somebody wrote it: words, the sum, and the result stated."""

    says: str
    left: str
    result: Fraction

    def text(self) -> str:
        """Return the step as a line of an answer."""
        return f"{self.says} {self.left} = {self.result}."


@dataclass(frozen=True)
class WordProblem:
    """A template with numbers, and its solution."""

    template: Template
    numbers: Mapping[str, int]
    question: str
    lines: tuple[Line, ...]

    @property
    def gold(self) -> Fraction:
        """The computed answer."""
        return self.lines[-1].result

    def solution(self) -> str:
        """Return the solution in GSM8K's layout."""
        steps = []
        for line in self.lines:
            noted = f"<<{line.left.replace(' ', '')}={line.result}>>"
            steps.append(f"{line.says} {line.left} = {noted}{line.result}.")
        return "\n".join([*steps, f"#### {self.gold}"])


@dataclass(frozen=True)
class WrongAnswer:
    """An answer with one mistake, in step `at` (from 0), and what a reviewer should say of it."""

    mistake: str
    at: int
    lines: tuple[Line, ...]
    feedback: str
    lesson: str

    def text(self) -> str:
        """Return the answer as a model would write it."""
        return answer_text(self.lines)


def simulate(folder: Path, *, rows: int, seed: int, problems: int = 500) -> dict[str, int]:
    """Write the three files; return how many rows each has.

    Raises:
        ValueError: the folder holds something already, or `rows` or `problems` are too few.
    """
    if rows < 20 or problems < 1:
        raise ValueError(
            f"{rows} rows and {problems} problems; expected 20 or more, and 1 or more."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; give a new folder.")
    random_draw = random.Random(seed)
    seen: set[str] = set()
    reviews: list[dict[str, Any]] = []
    while len(reviews) < rows:
        reviews.append(review_row(new_problem(random_draw, seen), random_draw, len(reviews)))
    others = [
        {
            "question": problem.question,
            "answer": problem.solution(),
            "kind": problem.template.kind,
            "lesson": problem.template.lesson,
        }
        for problem in (new_problem(random_draw, seen) for _ in range(problems))
    ]
    validation = reviews[::VALIDATION_EVERY]
    train = [row for i, row in enumerate(reviews) if i % VALIDATION_EVERY]
    folder.mkdir(parents=True, exist_ok=True)
    written = dict(zip(FILES, (train, validation, others), strict=True))
    for name, found in written.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (folder / name).write_text("".join(lines), "utf-8")
    return {name: len(found) for name, found in written.items()}


def new_problem(draw: random.Random, seen: set[str]) -> WordProblem:
    """Draw a problem whose words are not among `seen`, and put them there.

    Raises:
        ValueError: nearly all that the templates can say has been said.
    """
    for _ in range(_TRIES):
        problem = draw_problem(draw.choice(TEMPLATES), draw)
        if problem.question not in seen:
            seen.add(problem.question)
            return problem
    raise ValueError(
        f"The templates have no more than these {len(seen):,} problems; ask for fewer."
    )


def draw_problem(template: Template, draw: random.Random) -> WordProblem:
    """Draw numbers for a template until all results are whole and above zero."""
    for _ in range(_TRIES):
        numbers = {name: draw.choice(choices) for name, choices in template.numbers.items()}
        lines = _solve(template.steps, numbers, {})
        if all(line.result > 0 and line.result.denominator == 1 for line in lines):
            return WordProblem(template, numbers, template.text.format(**numbers), tuple(lines))
    raise AssertionError(f"the template {template.kind} seldom gives whole numbers")


def wrong_answers(problem: WordProblem, draw: random.Random) -> Iterator[WrongAnswer]:
    """Yield one wrong answer for each kind of mistake that can be made with whole numbers."""
    for mistake in MISTAKES:
        for _ in range(_TRIES):
            made = _make(mistake, problem, draw)
            if made is None or made.lines[-1].result == problem.gold:
                continue
            if str(problem.gold) not in _DIGITS.findall(made.feedback):
                yield made
                break


def answer_text(lines: tuple[Line, ...]) -> str:
    """Return steps as an answer, in the form that `prompts` asks for."""
    return "\n".join([*(line.text() for line in lines), f"Answer: {lines[-1].result}"])


def review_row(problem: WordProblem, draw: random.Random, number: int) -> dict[str, Any]:
    """Return one row: an answer, what was retrieved, and the right review."""
    wrong = draw.choice(list(wrong_answers(problem, draw))) if draw.random() < 2 / 3 else None
    lessons = [other.lesson for other in draw.sample(TEMPLATES, draw.randrange(3))]
    memory = [
        MemoryEntry("correction", lesson, id=i)
        for i, lesson in enumerate(lessons, start=1)
        if lesson != problem.template.lesson
    ]
    review = Review(True)
    if wrong is None:
        # A remembered lesson alone must be no sign that the answer is wrong.
        if draw.random() < KNOWN_TO_THE_RIGHT:
            memory.append(MemoryEntry("correction", problem.template.lesson, id=len(memory) + 5))
    else:
        operations, memory = _keeping(wrong, problem, memory, draw)
        review = Review(False, wrong.feedback, operations)
    text = wrong.text() if wrong else answer_text(problem.lines)
    asked = Problem(f"simulated-{number}", problem.question)
    prompt = review_prompt(asked, memory, text)
    return {
        "id": asked.id,
        "kind": problem.template.kind,
        "question": problem.question,
        "mistake": wrong.mistake if wrong else "none",
        "answer": text,
        "memory": [entry.to_dict() for entry in memory],
        "feedback": review.feedback,
        "operations": [operation.line() for operation in review.operations],
        "system": prompt.system,
        "words": prompt.words,
        "completion": write_review(review),
    }


def _keeping(
    wrong: WrongAnswer, problem: WordProblem, memory: list[MemoryEntry], draw: random.Random
) -> tuple[tuple[Operation, ...], list[MemoryEntry]]:
    """Return what is to be done with the memory, and the memory that was retrieved."""
    kind = "correction" if wrong.mistake == "operation" else "insight"
    number = len(memory) + 5
    case = draw.choice(("new", "new", "known", "vague", "harmful"))
    if case == "known":
        return (), [*memory, MemoryEntry(kind, wrong.lesson, id=number)]
    if case == "vague":
        entry = MemoryEntry(
            kind, f"Take care with problems about {problem.template.about}.", id=number
        )
        return (Operation("update", wrong.lesson, entry_id=number),), [*memory, entry]
    add = Operation("add", wrong.lesson, entry_type=kind)
    if case == "harmful" and wrong.mistake == "operation":
        entry = MemoryEntry("insight", problem.template.mislesson, id=number)
        return (add, Operation("remove", entry_id=number)), [*memory, entry]
    return (add,), memory


def _value(name: str, known: Mapping[str, Fraction]) -> Fraction:
    return known[name] if name in known else Fraction(name)


def _make(mistake: str, problem: WordProblem, draw: random.Random) -> WrongAnswer | None:
    """Return an answer with a mistake of this kind in a drawn step; None if it cannot be had."""
    template, right = problem.template, problem.lines
    at = draw.randrange(len(right))
    step, place = template.steps[at], f"Step {at + 1}"
    if mistake == "omitted":
        if len(right) < 2:
            return None
        missing = template.steps[-1].says[:1].lower() + template.steps[-1].says[1:]
        said = f"A step is missing at the end: {missing} is still to be found."
        return WrongAnswer(mistake, len(right) - 1, right[:-1], said, template.asked)
    steps, numbers, results = list(template.steps), dict(problem.numbers), {}
    if mistake == "operation":
        at = template.at
        step, place = template.steps[at], f"Step {at + 1}"
        other = _OTHER[step.operation]
        steps[at] = Step(step.says, step.left, other, step.right)
        said, lesson = f"{place} {_WORD[other]}. {template.lesson}", template.lesson
    elif mistake == "slip":
        results[at] = right[at].result + draw.choice((-10, -2, -1, 1, 2, 10))
        said = f"{place}: calculate {right[at].left} again; it is not {results[at]}."
        lesson = _GENERAL[mistake]
    else:
        used = [name for name in (step.left, step.right) if name in numbers]
        if not used:
            return None
        name = draw.choice(used)
        numbers[name] += draw.choice((-3, -1, 1, 2, 10))
        said = f"{place} uses {numbers[name]}; the problem says {problem.numbers[name]}."
        lesson = _GENERAL[mistake]
    lines = _solve(tuple(steps), numbers, results)
    if any(line.result <= 0 or line.result.denominator != 1 for line in lines):
        return None
    return WrongAnswer(mistake, at, tuple(lines), said, lesson)


def _solve(
    steps: tuple[Step, ...], numbers: Mapping[str, int], results: Mapping[int, Fraction]
) -> list[Line]:
    """Solve, but state these results instead of the true ones, and go on with them."""
    known: dict[str, Fraction] = {name: Fraction(value) for name, value in numbers.items()}
    lines: list[Line] = []
    for i, step in enumerate(steps):
        left, right = (_value(name, known) for name in (step.left, step.right))
        if step.operation == "/" and right == 0:
            return [Line(step.says, "", Fraction(0))]
        value = results.get(i, OPERATIONS[step.operation](left, right))
        known[f"s{i + 1}"] = value
        lines.append(Line(step.says, f"{left} {step.operation} {right}", value))
    return lines
