"""Finds the equations of an answer's steps and recomputes them.

    >>> (found,) = equations("She sells 16 - 3 = 12 eggs.")
    >>> found.left, str(found.value), found.stated, found.holds
    ('16 - 3', '13', '12', False)

Only whole chains of numbers with + - * / and brackets count, right before an equals sign and with
one number behind it. What has words, letters or percent signs in between is left alone: a rule
that cries wolf would harm more than it helps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

MAX_EQUATIONS = 200
_MAX_LINE = 1000
_MAX_LEFT = 100
_NUM = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,15}(?:\.\d{1,15})?|\.\d{1,15}"
_LEFT = re.compile(
    rf"(?<![\w.)%])-?(?:\(\s*)*\$?(?:{_NUM})(?:\s*\))*"
    rf"(?:\s*[-+*/x]\s*(?:\(\s*)*\$?(?:{_NUM})(?:\s*\))*)+\s*$"
)
_RIGHT = re.compile(
    rf"\s*\$?\s*(-?)\s*\$?({_NUM})(?![\d,.]*\d)(?![^\W\d_])(?!\s*%)"
    r"(?!\s*[-+*/x^]\s*[\d($])(?!\s+\d)"
)
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")
_TOKEN = re.compile(rf"\s*({_NUM}|[-+*/()])")


@dataclass(frozen=True)
class Equation:
    """A sum as stated, and its value; `holds` allows for rounding to the digits stated."""

    left: str
    value: Fraction
    stated: str

    @property
    def result(self) -> Fraction:
        """What was stated, as a number."""
        return Fraction(self.stated)

    @property
    def holds(self) -> bool:
        """Whether it is true; 10 / 3 = 3.33 is, 10 / 3 = 3 is not."""
        decimals = len(self.stated.partition(".")[2])
        if decimals:
            return bool(abs(self.value - self.result) * 10**decimals * 2 <= 1)
        return self.value == self.result


def equations(text: str) -> list[Equation]:
    """Return the equations of a text in order."""
    return [equation for equation, _ in _signs(text) if equation is not None]


def reached(steps: Sequence[str], text: str) -> int:
    """Return how many of a solution's numbers stand right behind an equals sign of a text, each
    sign counting once, and none whose sum can be read and does not hold."""
    results = [stated for equation, stated in _signs(text) if equation is None or equation.holds]
    count = 0
    for step in map(Fraction, steps):
        if step in results:
            results.remove(step)
            count += 1
    return count


def _signs(text: str) -> list[tuple[Equation | None, Fraction]]:
    """Return what stands around each equals sign with a number behind it."""
    found: list[tuple[Equation | None, Fraction]] = []
    for line in _ANNOTATION.sub("", text).splitlines():
        line = line[:_MAX_LINE].replace("−", "-").replace("–", "-")
        line = line.replace("×", "*").replace("÷", "/").replace(r"\times", "*").replace("·", "*")
        parts = line.split("=")
        for before, after in zip(parts, parts[1:], strict=False):
            right = _RIGHT.match(after)
            if right is not None:
                stated = right[1] + right[2].replace(",", "")
                found.append((_equation(before, stated), Fraction(stated)))
            if len(found) >= MAX_EQUATIONS:
                return found
    return found


def _equation(before: str, stated: str) -> Equation | None:
    before = before[-_MAX_LEFT:]
    left = _LEFT.search(before)
    if left is None or _is_rest_of_more(before[: left.start()].rstrip()):
        return None
    words = " ".join(left[0].replace("$", "").split())
    value = evaluate(words.replace("x", "*"))
    if value is None:
        return None
    return Equation(words, value, stated)


def _is_rest_of_more(in_front: str) -> bool:
    """Say whether what stands in front makes a sum the end of a longer one: an operator, or a
    number, as in "1 1/2" and "350 000"."""
    if not in_front:
        return False
    last = in_front[-1]
    return (
        last in "+*/^(%),.="
        or last.isdigit()
        or in_front.endswith(" x")
        or (last == "-" and len(in_front) > 1)
    )


def evaluate(text: str) -> Fraction | None:
    """Return the value of a sum of numbers; None if it is none, or divides by zero.

    >>> evaluate("2 * (3 + 4) / 7"), evaluate("2 +"), evaluate("1 / 0")
    (Fraction(2, 1), None, None)
    """
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match[1].replace(",", ""))
        at = match.end()
    try:
        value, rest = _sum(tokens, 0)
    except (ValueError, IndexError, ZeroDivisionError, RecursionError):
        return None
    return value if rest == len(tokens) else None


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        other, end = _product(tokens, at + 1)
        value = value + other if tokens[at] == "+" else value - other
        at = end
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _one(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        other, end = _one(tokens, at + 1)
        value = value * other if tokens[at] == "*" else value / other
        at = end
    return value, at


def _one(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if tokens[at] == "-":
        value, at = _one(tokens, at + 1)
        return -value, at
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1)
        if tokens[at] != ")":
            raise ValueError("an open bracket")
        return value, at + 1
    return Fraction(tokens[at]), at + 1
