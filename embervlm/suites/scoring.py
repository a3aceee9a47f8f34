"""What is asked for each rule of `formats.SUITES`, what its answers score, and what guessing would.

    figures = score(SUITES["mmbench"], items, texts)
    figures["all"]          # {"value": 71.2, "low": 66.1, "high": 76.0, "n": 300, "chance": 25.0}

All figures are per cent, but MME's scores. The chance of a question with k options is 1 / k, of yes
or no 1 / 2, of groups of them that all must be right the product; an answer in free words has no
chance level, which is written as 0. Means have a 95 % bootstrap interval in which the questions
about one picture are drawn together; MME's and HallusionBench's figures have none.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from embervlm.evaluation.metrics import RESAMPLES, figure, resampling_weights
from embervlm.reasoner.judging import final_answer, is_right
from embervlm.reasoner.problems import LETTERS, Gold
from embervlm.suites.formats import Suite
from embervlm.suites.loaders import Item
from embervlm.suites.scorers import (
    PERCEPTION,
    anls,
    chance_of_all,
    contains,
    hallusion,
    mme,
    option_letter,
    relaxed,
    vqa_accuracy,
    yes_or_no,
    yes_or_no_word,
)

SEED = 1
FORMULAS = ("HME100k", "Handwritten Mathematical Expression Recognition")

_Figure = dict[str, float | int | None]
Figures = dict[str, _Figure]


@dataclass(frozen=True)
class Rule:
    """How a suite asks and scores.

    `ask` stands behind each question. `mark` gives one answer's score, 0 to 1, or None where the
    text cannot be read (which scores 0). `guess` is what guessing scores on an item.
    """

    ask: str
    mark: Callable[[str, Item], float | None]
    guess: Callable[[Item], float]


def words_of_item(suite: Suite, item: Item) -> str:
    """Return the words of a question, its options one a line, and what form the answer has."""
    rule = RULES[suite.rule]
    lines = [item.question]
    if item.options and not item.has_options_in_words:
        lines += [f"{LETTERS[i]}. {option}" for i, option in enumerate(item.options)]
    ask = rule.ask
    if suite.rule == "letter or words":
        ask = RULES["letter"].ask if item.options else "Answer with the number or words alone."
    return "\n".join([*lines, ask])


def score(suite: Suite, items: Sequence[Item], texts: Sequence[str | None]) -> Figures:
    """Return the figures of a suite's answers; None is no answer, and scores 0.

    Raises:
        ValueError: MME's questions are not two a picture.
    """
    rule = RULES[suite.rule]
    marks = [
        None if text is None else rule.mark(text, item)
        for text, item in zip(texts, items, strict=True)
    ]
    values = [mark or 0.0 for mark in marks]
    figures: Figures = {}
    if suite.rule == "mme":
        figures |= _mme(items, values)
    elif suite.rule == "hallusion":
        figures |= _hallusion(items, values)
    else:
        guesses = [rule.guess(item) for item in items]
        figures["all"] = _mean(values, guesses, items)
        kinds = sorted({item.kind for item in items if item.kind})
        for kind in kinds if len(kinds) > 1 else ():
            of = [i for i, item in enumerate(items) if item.kind == kind]
            figures[kind] = _mean(
                [values[i] for i in of], [guesses[i] for i in of], [items[i] for i in of]
            )
    unreadable = [float(mark is None) for mark in marks]
    return figures | {"unreadable": _mean(unreadable, [0.0] * len(items), items)}


def _mean(values: Sequence[float], guesses: Sequence[float], items: Sequence[Item]) -> _Figure:
    clusters = [
        hashlib.sha256(b"".join(item.photos)).hexdigest() if item.photos else item.id
        for item in items
    ]
    weights_BN = resampling_weights(clusters, RESAMPLES, SEED)
    value_N = 100 * np.array(values, dtype=np.float64)
    found = figure(float(value_N.mean()), weights_BN @ value_N / weights_BN.sum(1), len(values))
    return {**found.to_dict(), "chance": 100 * mean(guesses)}


def _plain(value: float, n: int, chance: float) -> _Figure:
    return {"value": value, "low": None, "high": None, "n": n, "chance": chance}


def _mme(items: Sequence[Item], values: Sequence[float]) -> Figures:
    pictures = Counter((item.kind, item.figure) for item in items)
    odd = [kind for (kind, _), n in pictures.items() if n != 2]
    if odd:
        raise ValueError(
            f"{len(odd):,} pictures of MME, one of them of {odd[0]!r}, have not two questions; "
            "acc+ needs both. Give whole pairs (an even --limit)."
        )
    rows = [(i.kind, i.figure, bool(v)) for i, v in zip(items, values, strict=True)]
    # Of a picture's two questions guessing has each with 1/2, both with 1/4.
    chances = {"acc": 50.0, "acc+": 25.0}
    kinds = {item.kind for item in items}
    for name, has in (("perception", True), ("cognition", False)):
        chances[name] = 75.0 * sum((kind.lower() in PERCEPTION) == has for kind in kinds)
    found = mme(rows)
    n = {kind: sum(item.kind == kind for item in items) for kind in kinds}
    return {
        name: _plain(value, n.get(name.removeprefix("score "), len(items)), chances.get(name, 75.0))
        for name, value in found.items()
    }


def _hallusion(items: Sequence[Item], values: Sequence[float]) -> Figures:
    rows = [(i.figure, i.question_group, bool(v)) for i, v in zip(items, values, strict=True)]
    figures = Counter(item.figure for item in items)
    questions = Counter(item.question_group for item in items)
    chances = {
        "aAcc": 50.0,
        "fAcc": chance_of_all(figures),
        "qAcc": chance_of_all(questions),
    }
    n = {"aAcc": len(items), "fAcc": len(figures), "qAcc": len(questions)}
    return {name: _plain(value, n[name], chances[name]) for name, value in hallusion(rows).items()}


def _letter(text: str, item: Item) -> float | None:
    said = option_letter(text, item.options)
    return None if said is None else float(said == item.answers[0])


def _letter_or_words(text: str, item: Item) -> float | None:
    if item.options:
        return _letter(text, item)
    said = final_answer(text) or text.strip().rstrip(".")
    return float(is_right(said, Gold(item.answers, decimals=item.decimals)))


def _yes_no(read: Callable[[str], str | None]) -> Callable[[str, Item], float | None]:
    def mark(text: str, item: Item) -> float | None:
        said = read(text)
        return None if said is None else float(said == item.answers[0])

    return mark


def _one_in_options(item: Item) -> float:
    return 1 / len(item.options) if item.options else 0.0


_SHORT = "Answer with a single word, number or short phrase and nothing else."
_YES_NO = "Answer with yes or no alone."

RULES: Mapping[str, Rule] = {
    "letter": Rule("Answer with the letter of the right option alone.", _letter, _one_in_options),
    "letter or words": Rule("", _letter_or_words, _one_in_options),
    "mme": Rule(_YES_NO, _yes_no(yes_or_no), lambda item: 0.5),
    "hallusion": Rule(_YES_NO, _yes_no(yes_or_no_word), lambda item: 0.5),
    "vqa": Rule(_SHORT, lambda text, item: vqa_accuracy(text, item.answers), lambda item: 0.0),
    "relaxed": Rule(
        _SHORT,
        lambda text, item: float(relaxed(text.strip().rstrip("."), item.answers[0])),
        lambda item: 0.0,
    ),
    "anls": Rule(_SHORT, lambda text, item: anls(text, item.answers), lambda item: 0.0),
    "contains": Rule(
        _SHORT,
        lambda text, item: float(contains(text, item.answers, formula=item.kind in FORMULAS)),
        lambda item: 0.0,
    ),
    # The judge's words, not the model's, are marked: `running` asks it.
    "judge": Rule("", lambda text, item: _judged(text), lambda item: 0.0),
}


def _judged(text: str) -> float | None:
    try:
        found = float(text.strip().split()[0])
    except (ValueError, IndexError):
        return None
    return found if 0 <= found <= 1 else None
