"""A problem, what is right, and why a record of a data set became none.

The two are kept apart on purpose: whatever writes prompts takes a `Problem`, which holds no answer;
only `judging`, `metrics` and the sources of feedback in `feedback` take a `Gold`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Problem:
    """What a model is asked. `options` are lettered A, B, ...; `photos` are image files' bytes in
    the order in which the words speak of them."""

    id: str
    question: str
    options: tuple[str, ...] = ()
    photos: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError(f"The problem {self.id} has no question.")
        if len(self.options) == 1 or len(self.options) > len(LETTERS):
            raise ValueError(
                f"The problem {self.id} has {len(self.options)} options; expected none, or 2 to "
                f"{len(LETTERS)}."
            )


@dataclass(frozen=True)
class Gold:
    """What is right.

    `answers` are the accepted ones, of options the letter. `steps` are the numbers that a full
    solution passes through, as they are written; `lines` the solution's lines. `decimals` is how
    many digits behind the point count, None: all. `kind` names problems in which the same mistake
    may be made; `lesson` is what an operator would say of it.
    """

    answers: tuple[str, ...]
    steps: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    decimals: int | None = None
    kind: str | None = None
    lesson: str | None = None


@dataclass(frozen=True)
class Case:
    """A problem and its gold."""

    problem: Problem
    gold: Gold


@dataclass
class Loaded:
    """The cases of a data set, and how many records became none, by reason."""

    cases: list[Case] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def sentence(self) -> str:
        """Say how many were read, and what was left out and why."""
        told = f"{len(self.cases):,} problems"
        if self.left_out:
            reasons = ", ".join(f"{count:,} {why}" for why, count in sorted(self.left_out.items()))
            told += f"; left out: {reasons}"
        return told + "."


class BrokenRecordError(Exception):
    """A record that is no problem; the message is the reason under which it is counted."""
