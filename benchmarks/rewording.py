"""Say a request in other words, by rules, as an operator's next message about a job may.

    reword("Third floor, 18 kg concentrator up, lift's dead", np.random.default_rng(1))

Two to four of: words around it as on a radio, abbreviations and contractions written out or the
other way round, everyday words for one another, a slip of the keyboard, numbers a little different
between the same of the guide's thresholds, no capitals or stops. What is asked stays the same, so
the right answer does. People reword more freely than that: `lessons_paraphrases.jsonl` has forms
that people might write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from embervlm.evaluation.counterfactual import with_number
from embervlm.prompts import bucket_mark
from embervlm.quantities import find_quantities

Draw = np.random.Generator

_BEFORE = (
    "Control, ", "Hello, ", "Duty desk here. ", "Right, next one: ", "Can you sort this: ",
    "Morning. ", "Listen, ", "New job. ", "From the site office: ", "As discussed, ",
)  # fmt: skip
_BEHIND = (
    " Over.", " Thanks.", " Please.", " Soon as you can.", " Let me know.", " Call me back.",
    " That's all.", " No rush.", " Confirm please.", " Cheers.",
)  # fmt: skip
_ALIKE = (
    ("metres", "m"), ("kilos", "kg"), ("minutes", "min"), ("it's", "it is"),
    ("there's", "there is"), ("can't", "cannot"), ("won't", "will not"), ("don't", "do not"),
    ("isn't", "is not"), ("who's", "who is"), ("what's", "what is"), ("somebody", "someone"),
    ("check", "look at"), ("quick", "fast"), ("need", "want"), ("big", "large"),
    ("small", "little"), ("near", "close to"), ("broken", "bust"), ("get", "fetch"),
    ("take", "bring"), ("and", "&"), ("whether", "if"), ("please", "kindly"),
    ("photo", "picture"),
)  # fmt: skip
_HOW_FAR = 0.15


def reword(task: str, draw: Draw) -> str:
    """Return the request in other words; two to four rules are applied, in one order."""
    rules: tuple[Callable[[str, Draw], str], ...] = (
        _other_numbers, _alike, _slip, _plain, _around
    )  # fmt: skip
    chosen = draw.choice(len(rules), draw.integers(2, 5), replace=False)
    for i in sorted(chosen):
        task = rules[i](task, draw)
    return task


def _around(task: str, draw: Draw) -> str:
    before = str(draw.choice(_BEFORE)) if draw.random() < 0.7 else ""
    behind = str(draw.choice(_BEHIND)) if draw.random() < 0.7 or not before else ""
    stop = "" if not behind or task.rstrip().endswith((".", "?", "!")) else "."
    return f"{before}{task}{stop}{behind}"


def _alike(task: str, draw: Draw) -> str:
    for pair in _ALIKE:
        one, other = pair if draw.random() < 0.5 else pair[::-1]
        if draw.random() < 0.6:
            task = re.sub(rf"(?<![\w']){re.escape(one)}(?![\w'])", other, task)
    return task


def _slip(task: str, draw: Draw) -> str:
    """Swap two letters of one long word that is not part of a number."""
    spans = [(mention.start, mention.end) for mention in find_quantities(task)]
    found = [
        match
        for match in re.finditer(r"[a-z]{5,}", task)
        if not any(start < match.end() and match.start() < end for start, end in spans)
    ]
    if not found:
        return task
    at = found[draw.integers(len(found))].start() + 1 + int(draw.integers(2))
    return task[:at] + task[at + 1] + task[at] + task[at + 2 :]


def _plain(task: str, draw: Draw) -> str:
    text = task.lower() if draw.random() < 0.7 else task
    return re.sub(r"[!?.,;:]+(?=\s|$)", "", text) if draw.random() < 0.5 else text


def _other_numbers(task: str, draw: Draw) -> str:
    for mention in reversed(find_quantities(task)):
        value = mention.value * math.exp(draw.uniform(-_HOW_FAR, _HOW_FAR))
        if mention.value > 0 and bucket_mark(replace(mention, value=value)) == bucket_mark(mention):
            task = with_number(task, mention, value)
    return task
