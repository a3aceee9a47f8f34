"""GSM8K (Cobbe et al. 2021), and what `embervlm rmm simulate` writes in the same layout.

The publisher's `train.jsonl` and `test.jsonl` (github.com/openai/grade-school-math), or the tables
of huggingface.co/datasets/openai/gsm8k, have two columns:

    {"question": "...", "answer": "16 - 3 - 4 = <<16-3-4=9>>9 eggs.\\n...\\n#### 18"}

What stands in << >> are the steps that a solution passes through, what follows #### is the gold.
Simulated rows also have `kind` and `lesson`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from embervlm.reasoner.judging import number
from embervlm.reasoner.problems import BrokenRecordError, Case, Gold, Loaded, Problem
from embervlm.reasoner.records import Row, load_cases, words_of

_STEP = re.compile(r"<<[^<>=]*=([^<>=]*)>>")
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")


def load_gsm8k(path: Path, *, limit: int | None = None) -> Loaded:
    """Load GSM8K's layout.

    Raises:
        ValueError: see `records.load_cases`.
    """
    return load_cases(path, "GSM8K's layout", ("question", "answer"), _case, limit=limit)


def load_simulated(path: Path, *, limit: int | None = None) -> Loaded:
    """Load the problems that `embervlm rmm simulate` wrote.

    Raises:
        ValueError: see `records.load_cases`.
    """
    needed = ("question", "answer", "kind", "lesson")
    return load_cases(path, "of 'embervlm rmm simulate'", needed, _case, limit=limit)


def _case(row: Row, folder: Path, name: str) -> Case:
    question, solution = words_of(row, "question"), words_of(row, "answer")
    way, mark, gold = solution.rpartition("####")
    if not mark or number(gold) is None:
        raise BrokenRecordError("without a number behind ####")
    steps = [step.replace(",", "").strip() for step in _STEP.findall(way)]
    lines = [_ANNOTATION.sub("", line).strip() for line in way.splitlines()]
    kind, lesson = (row.get(key) for key in ("kind", "lesson"))
    return Case(
        Problem(name, question),
        Gold(
            (gold.strip(),),
            tuple(step for step in steps if _is_number(step)),
            tuple(line for line in lines if line),
            kind=kind if isinstance(kind, str) else None,
            lesson=lesson if isinstance(lesson, str) else None,
        ),
    )


def _is_number(text: str) -> bool:
    try:
        Fraction(text)
    except (ValueError, ZeroDivisionError):
        return False
    return True
