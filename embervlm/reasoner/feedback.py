"""Who says something of an answer, and what they may know.

    kind      what is said of an answer                                   knows gold?    reported
    none      nothing: one answer, no second try                          no             honest
    self      what the manager finds in problem, answer and memory alone  no             honest
    verdict   "right" or "wrong", from a verifier                         yes, one bit   oracle
    hint      that, and an operator's words about the mistake             yes            oracle

`self` is the default. With a verdict or a hint the loop also stops at a right answer, so that its
gain is an upper bound that no user has without a verifier (Huang et al. 2024, "Large Language
Models Cannot Self-Correct Reasoning Yet", section 3, on oracle labels). A figure of them is always
named "oracle".

A hint is the data's lesson about this kind of mistake, or else the first line of the publisher's
solution that the answer lacks; a line that has the gold answer is never given. What an operator
says may be kept in memory for later problems. A verdict's bit may be kept too; an answer is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from embervlm.reasoner.equations import equations
from embervlm.reasoner.judging import is_right, number
from embervlm.reasoner.problems import LETTERS, Case

KINDS = ("none", "self", "verdict", "hint")
ORACLES = ("verdict", "hint")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")


@dataclass(frozen=True)
class Told:
    """What a source that knows the gold says of an answer."""

    right: bool
    hint: str = ""

    def sentence(self) -> str:
        """Return it in words."""
        if self.right:
            return "A verifier says that the answer is right."
        said = "A verifier says that the answer is wrong."
        return f"{said} Hint: {self.hint}" if self.hint else said


# From an answer as read, None if it could not be, and the text that it stands in.
Source = Callable[[str | None, str], Told]


def source_of(case: Case, kind: str) -> Source | None:
    """Return who says what of answers to a problem; None for the kinds that know no gold.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no feedback {kind!r}; give {', '.join(KINDS)}.")
    if kind not in ORACLES:
        return None

    def tell(answer: str | None, text: str) -> Told:
        right = is_right(answer, case.gold)
        return Told(right, "" if right or kind == "verdict" else hint(case, text))

    return tell


def hint(case: Case, text: str) -> str:
    """Return what an operator would say of a wrong answer; nothing if it would say the gold."""
    gold = case.gold
    if gold.lesson:
        return "" if _states(gold.lesson, case) else gold.lesson
    results = {equation.result for equation in equations(text)}
    for line in gold.lines:
        of_line = [equation.result for equation in equations(line)]
        if of_line and not results.issuperset(of_line) and not _states(line, case):
            return line
    return ""


def _states(line: str, case: Case) -> bool:
    """Say whether a line has a gold answer as one of its numbers or as its words; of options the
    letter or the option's words."""
    options = case.problem.options
    numbers = {Fraction(found.replace(",", "")) for found in _NUMBER.findall(line)}
    for answer in case.gold.answers:
        if options and re.search(rf"\b{re.escape(answer)}\b", line):
            return True
        words = options[LETTERS.index(answer)] if options else answer
        value = number(words)
        if value is not None and abs(value[0]) in numbers:
            return True
        if value is None and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", line, re.IGNORECASE):
            return True
    return False
