"""How the suites score: each rule on texts alone, as its suite states it, in our own words.

    >>> option_letter("(B) a cat", ["a dog", "a cat"]), yes_or_no("No, it is red.")
    ('B', 'no')
    >>> relaxed("41", "40"), round(anls("new yrok", ["New York"]), 2)
    (True, 0.75)

| rule | source |
|---|---|
| `option_letter` | VLMEvalKit, the rules it tries before a judge |
| `yes_or_no_word` | VLMEvalKit, for HallusionBench |
| `yes_or_no`, `mme` | Fu et al. 2023, MME, section 2.3: the first four characters; acc and acc+ |
| `vqa_accuracy` | Antol et al. 2015 and the official script: leave one of the people out |
| `relaxed` | Masry et al. 2022, ChartQA, section 5.1: 5 % on numbers |
| `anls` | Biten et al. 2019: 1 - edit distance / longer length, 0 below 0.5 |
| `contains` | Liu et al. 2024, OCRBench: the answer stands in what is said |
| `hallusion` | Guan et al. 2024, HallusionBench: by question, figure and pair of questions |
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PERCEPTION = frozenset(
    "existence count position color posters celebrity scene landmark artwork ocr".split()
)
_PEOPLE_THAT_AGREE = 3
_TOLERANCE = 0.05
_ANLS_THRESHOLD = 0.5
_MARKS = re.compile(r"[.()\[\],:;!*#{}]")
# A letter that stands before these is no answer: "A cat sits on the mat".
_LAST_WORDS = 4
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten".split()
    )
} | {"none": "0"}  # fmt: skip
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def option_letter(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that a text names; None if it names none, or several.

    First the one letter that stands alone among the words, if it is one of the last four; then the
    one option whose words the text holds, if the text is not more than twice as long as all options
    together.
    """
    words = _MARKS.sub(" ", text).split()
    said = [letter for letter in LETTERS[: len(options)] if letter in words]
    if len(said) == 1 and words.index(said[0]) >= len(words) - _LAST_WORDS:
        return said[0]
    low = text.lower()
    if len(low) > 2 * sum(map(len, options)):
        return None
    held = [i for i, option in enumerate(options) if option.lower() in low]
    return LETTERS[held[0]] if len(held) == 1 else None


def yes_or_no(text: str) -> str | None:
    """Return "yes" or "no" if the first four characters say so, else None: MME's rule."""
    said = text.lower().strip().replace(".", "")
    if said in ("y", "n"):
        return "yes" if said == "y" else "no"
    return "yes" if "yes" in said[:4] else "no" if "no" in said[:4] else None


def yes_or_no_word(text: str) -> str | None:
    """Return the one of "yes" and "no" that is a word of a text, None if both or neither are."""
    words = set(_MARKS.sub(" ", text.lower()).split()) & {"yes", "no"}
    return words.pop() if len(words) == 1 else None


def mme(rows: Sequence[tuple[str, str, bool]]) -> dict[str, float]:
    """Return the scores of (category, picture, right), two questions a picture.

    acc is the share of questions that are right, acc+ that of pictures with both right, in per
    cent; a category's score is their sum, 0 to 200. `perception` and `cognition` are the sums over
    their categories, at best 2,000 and 800.
    """
    of: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for category, picture, right in rows:
        of[category][picture].append(right)
    scores: dict[str, float] = {"perception": 0.0, "cognition": 0.0}
    both: list[bool] = []
    for category, pictures in of.items():
        acc = 100 * mean(right for rights in pictures.values() for right in rights)
        plus = 100 * mean(all(rights) for rights in pictures.values())
        both += [all(rights) for rights in pictures.values()]
        kind = "perception" if category.lower() in PERCEPTION else "cognition"
        scores[kind] += acc + plus
        scores[f"score {category}"] = acc + plus
    scores["acc"] = 100 * mean(right for _, _, right in rows)
    scores["acc+"] = 100 * mean(both)
    return scores


def vqa_accuracy(text: str, answers: Sequence[str]) -> float:
    """Return the accuracy of an answer against those of (ten) people, 0 to 1.

    Each person is left out once; the answer has min(1, others who say it / 3); the mean counts.
    """
    said = vqa_words(text)
    people = [vqa_words(answer) for answer in answers]
    if len(people) == 1:  # nobody would be left
        return float(said == people[0])
    agreeing = sum(one == said for one in people)
    return mean(min(1.0, (agreeing - (one == said)) / _PEOPLE_THAT_AGREE) for one in people)


def vqa_words(text: str) -> str:
    """Return an answer as the official script compares it: low, without articles and marks, number
    words as digits. Apostrophes are dropped, in place of the script's list of contractions.

    >>> vqa_words("The two dogs."), vqa_words("1,000"), vqa_words("don't")
    ('2 dogs', '1000', 'dont')
    """
    text = _COMMA_IN_NUMBER.sub("", text.lower().replace("'", "").replace("\n", " "))
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text)
    words = re.sub(r"[^\w\s.%$-]", " ", text).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def relaxed(text: str, answer: str) -> bool:
    """Say whether an answer is right: numbers within 5 % of the true one, words the same.

    A percentage is the number that it stands for, if both are or one is a plain number.
    """
    said, true = _number(text), _number(answer)
    if said is not None and true:
        return abs(said - true) / abs(true) <= _TOLERANCE
    return text.strip().lower() == answer.strip().lower()


def anls(text: str, answers: Sequence[str]) -> float:
    """Return the best normalised likeness to one of the answers, 0 where it is below 0.5."""
    said = " ".join(text.lower().split())
    best = 0.0
    for answer in answers:
        true = " ".join(answer.lower().split())
        longer = max(len(said), len(true))
        best = max(best, 1 - edit_distance(said, true) / longer if longer else 1.0)
    return best if best >= _ANLS_THRESHOLD else 0.0


def edit_distance(one: str, other: str) -> int:
    """Return how many letters must be put in, taken out or changed (Levenshtein 1966).

    >>> edit_distance("kitten", "sitting")
    3
    """
    before = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        now = [i]
        for j, b in enumerate(other, start=1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (a != b)))
        before = now
    return before[-1]


def contains(text: str, answers: Sequence[str], *, formula: bool = False) -> bool:
    """Say whether one of the answers stands in a text: OCRBench's rule.

    A `formula` keeps capitals and loses spaces; all else loses capitals and full-width forms.
    """

    def plain(words: str) -> str:
        words = words.strip().replace("\n", " ")
        return words.replace(" ", "") if formula else words.translate(_FULL_WIDTH).lower()

    return any(plain(answer) in plain(text) for answer in answers)


def hallusion(rows: Sequence[tuple[str, str, bool]]) -> dict[str, float]:
    """Return HallusionBench's three accuracies of (figure, question, right), in per cent.

    aAcc counts questions; fAcc figures of which all questions are right; qAcc questions that are
    right for all figures about which they are asked.
    """
    figures: dict[str, list[bool]] = defaultdict(list)
    questions: dict[str, list[bool]] = defaultdict(list)
    for figure, question, right in rows:
        figures[figure].append(right)
        questions[question].append(right)
    return {
        "aAcc": 100 * mean(right for _, _, right in rows),
        "fAcc": 100 * mean(map(all, figures.values())),
        "qAcc": 100 * mean(map(all, questions.values())),
    }


def chance_of_all(groups: Mapping[str, int]) -> float:
    """Return the per cent of groups of so many yes-no questions that guessing has all right."""
    return 100 * mean(0.5**n for n in groups.values())


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
