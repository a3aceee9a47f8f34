"""A model of known skill behind a real HTTP server, and what the loop must then measure.

    with serve(Skill(right=0.4), problems, seed=1) as url:
        open_model(f"openai:{url}#scripted")

It speaks OpenAI's protocol and answers simulated word problems (`embervlm.reasoner.simulation`).
For each question it has one right answer and one wrong one; it reads the prompt that it gets:

    asked for the first time          right with probability p, or q if the lesson of this kind of
                                      problem stands in the memory of the prompt
    asked again, was wrong            right with probability r, or q with the lesson
    asked again, was right            wrong with probability h

All draws are independent; they depend on the seed, the question and how often it was asked. A wrong
answer has an equation that does not hold with probability d, drawn once for each question;
otherwise its equations hold and the way is wrong.

Closed forms. The same wrong answer twice ends the loop ("unchanged"), so that a wrong answer is
asked about once only, whatever `max_iterations` of 2 or more.

    none          accuracy = p.

    self          The rules see a wrong equation and nothing else. Right answers are never asked
                  again: harm = 0. A wrong one is asked again with probability d, and then mended
                  with r: effectiveness = d r, accuracy = p + (1 - p) d r. Of those asked again
                  1 - r come again: error repetition = 1 - r.

    self, asking  (`ask_again`, d = 0.) Every first answer is asked about once; a second one that
      again       differs is accepted, since no rule finds a fault. harm = h, effectiveness = r,
                  accuracy = p (1 - h) + (1 - p) r, error repetition = 1 - r.

    verdict       Wrong answers are asked again, all of them: effectiveness = r, harm = 0,
                  accuracy = p + (1 - p) r.

    hint          The hint is the lesson; the manager keeps it at once, so that it stands in the
                  next prompt: effectiveness = q, harm = 0. With a memory that stays, the j-th
                  problem of a kind (from 1) meets no lesson only if the j - 1 before it were all
                  right at first, each with p, hence with probability p^(j - 1):

                      accuracy_first(j) = p^(j - 1) p + (1 - p^(j - 1)) q
                      accuracy(j)       = accuracy_first(j) + (1 - accuracy_first(j)) q

                  After the first mistake of a kind the lesson is there: kind repetition = 1 - q.
                  With `fresh_memory` nothing stays: accuracy_first(j) = p, kind repetition = 1 - p.

This holds if a lesson that is kept is always among the entries retrieved for its kind; the
benchmark counts that too.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from embervlm.reasoner.problems import Case, Gold, Problem
from embervlm.reasoner.simulation import WordProblem, answer_text, draw_problem, wrong_answers
from embervlm.reasoner.templates import TEMPLATES


@dataclass(frozen=True)
class Skill:
    """The probabilities p, q, r, h and d of the module."""

    right: float
    with_lesson: float = 0.0
    mended: float = 0.0
    broken: float = 0.0
    visible: float = 0.0


def draw_stream(seed: int, each: int) -> list[WordProblem]:
    """Return `each` problems of every kind, in rounds: one of each kind after the other."""
    draw = random.Random(f"stream {seed}")
    found: dict[str, WordProblem] = {}
    for _ in range(each):
        for template in TEMPLATES:
            problem = draw_problem(template, draw)
            while problem.question in found or len(wrong_texts(problem)) < 2:
                problem = draw_problem(template, draw)
            found[problem.question] = problem
    return list(found.values())


def wrong_texts(problem: WordProblem) -> dict[str, str]:
    """Return a wrong answer with a wrong way and one with a wrong sum; less if one cannot be."""
    draw = random.Random(problem.question)
    made = {wrong.mistake: wrong.text() for wrong in wrong_answers(problem, draw)}
    return {mistake: text for mistake, text in made.items() if mistake in ("operation", "slip")}


def cases_of(problems: Sequence[WordProblem]) -> list[Case]:
    """Return problems as a data set has them."""
    return [
        Case(
            Problem(f"simulated-{i}", problem.question),
            Gold(
                (str(problem.gold),),
                tuple(str(line.result) for line in problem.lines),
                tuple(line.text() for line in problem.lines),
                kind=problem.template.kind,
                lesson=problem.template.lesson,
            ),
        )
        for i, problem in enumerate(problems)
    ]


class ScriptedModel:
    """Answers prompts; see the module."""

    def __init__(self, skill: Skill, problems: Sequence[WordProblem], seed: int) -> None:
        self._skill, self._seed = skill, seed
        self._problems = {problem.question: problem for problem in problems}
        self._asked: dict[str, int] = {}
        self.prompts: list[str] = []

    def answer(self, words: str) -> str:
        """Return the answer to a prompt's words."""
        self.prompts.append(words)
        memory, _, rest = f"\n{words}".partition("\nProblem:\n")
        question, _, before = rest.partition("\n\nYour earlier answer:\n")
        problem = self._problems[question.strip()]
        times = self._asked[problem.question] = self._asked.get(problem.question, 0) + 1
        skill, knows = self._skill, problem.template.lesson in memory
        right = skill.right if times == 1 else skill.mended
        chance = skill.with_lesson if knows else right
        if before and f"Answer: {problem.gold}\n" in before:
            chance = 1 - skill.broken
        draw = random.Random(f"{self._seed}|{problem.question}|{times}").random()
        return answer_text(problem.lines) if draw < chance else self._wrong(problem)

    def _wrong(self, problem: WordProblem) -> str:
        draw = random.Random(f"{self._seed}|{problem.question}|wrong").random()
        return wrong_texts(problem)["slip" if draw < self._skill.visible else "operation"]


class _Handler(BaseHTTPRequestHandler):
    model: ScriptedModel

    def do_POST(self) -> None:
        """Answer a chat completion."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = request["messages"][-1]["content"]
        message = {"role": "assistant", "content": self.model.answer(words)}
        body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serve(model: ScriptedModel) -> Iterator[str]:
    """Yield the address of a server for a model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"model": model}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def expected(skill: Skill, feedback: str, *, ask_again: bool = False) -> Mapping[str, float]:
    """Return the closed forms of figures that do not depend on a problem's place in a stream."""
    p, q, r = skill.right, skill.with_lesson, skill.mended
    h, d = skill.broken, skill.visible
    if feedback == "none":
        return {"accuracy_first": p, "accuracy": p}
    if feedback == "hint":
        return {"correction_effectiveness": q, "harm": 0.0, "error_repetition": 1 - q}
    if feedback == "verdict":
        mended, harm = r, 0.0
    elif ask_again:
        mended, harm = r, h
    else:
        mended, harm = d * r, 0.0
    return {
        "accuracy_first": p,
        "accuracy": p * (1 - harm) + (1 - p) * mended,
        "correction_effectiveness": mended,
        "harm": harm,
        "error_repetition": 1 - r,
    }


def expected_at(skill: Skill, place: int, *, stays: bool) -> tuple[float, float]:
    """Return accuracy_first and accuracy of the `place`-th problem of a kind (from 1), with
    hints."""
    p, q = skill.right, skill.with_lesson
    unknown = p ** (place - 1) if stays else 1.0
    first = unknown * p + (1 - unknown) * q
    return first, first + (1 - first) * q
