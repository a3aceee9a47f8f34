r"""Reads the final answer out of a model's text, and says whether it is the gold one.

A final answer is what stands last behind "####", in \boxed{}, or behind "Answer:"; or the whole
text, if that is nothing else than a number, a letter of an option or an option's words. Anything
else is None: an answer that cannot be read is counted, and is not right.

Two answers are the same if their numbers are equal (fractions, mixed numbers, LaTeX, thousands
separators, currency and units are understood), or else their words, but for capitals, spaces, an
article and the full stop. No part of a text is ever looked for in another.

    >>> final_answer("16 - 7 = 9\n#### 9")
    '9'
    >>> same("$1,250.00 dollars", "1250"), same(r"\frac{3}{4}", "0.75"), same("19", "9")
    (True, True, False)
    >>> final_answer("I think it is (b).", ("red", "blue")) is None
    True
    >>> final_answer("Answer: (b) blue", ("red", "blue"))
    'B'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from embervlm.reasoner.problems import LETTERS, Gold

# A model may write a number of millions of digits; nobody reads it.
_MAX_CHARACTERS = 300

_HASHES = re.compile(r"####[ \t]*([^\n#]+)")
_STATED = re.compile(
    r"(?im)^[\s*_>#-]*(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+)?(?:final\s+)?answer"
    r"(?:\s*(?:\*\*)?\s*:\s*(?:\*\*)?|\s+is\s*:?)[ \t]*([^\n]+)$"
)
_BOXED = re.compile(r"\\boxed\s*\{")
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_PLAIN = re.compile(
    rf"(?P<sign>[-+]?)\s*[$£€]?\s*(?P<sign2>-?)(?:(?P<whole>\d+)\s+(?P<of>\d+)\s*/\s*(?P<parts>\d+)"
    rf"|(?P<above>{_NUMBER})(?:\s*/\s*(?P<below>{_NUMBER}))?)"
    r"\s*(?P<unit>%|°?[^\W\d_][^\d=<>]*)?"
)
# Words behind a number that make it another number, or several.
_NO_UNIT = frozenset(
    "or and to not is but if minus plus times k bn dozen half hundred thousand million billion "
    "squared cubed pi more less".split()
)
_SHORT_UNITS = frozenset("m g l s h k c f v a w n j".split())
_UNIT_WORDS = 4
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TEXT_MACRO = re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}")
_ASSIGNED = re.compile(r"[A-Za-z]\w{0,7}\s*=\s*(?=[-+$£€.\d\\])")
_LETTER = re.compile(r"(?:option\s+)?[(\[]?([A-Za-z])[)\].:]*(?:\s+(.*))?", re.IGNORECASE)
_SPACES = re.compile(r"\\[,;:! ]|~|\s+")


def final_answer(text: str, options: Sequence[str] = ()) -> str | None:
    """Return the final answer of a text, of options the letter; None if none can be read."""
    found = _last_stated(text)
    if found is None:
        whole = text.strip()
        if "\n" in whole or len(whole) > _MAX_CHARACTERS:
            return None
        if options:
            return _option(whole, options)
        return whole if number(whole) is not None else None
    if not 0 < len(found) <= _MAX_CHARACTERS:
        return None
    return _option(found, options) if options else found


def is_right(answer: str | None, gold: Gold) -> bool:
    """Say whether an answer is one of the accepted ones; None is not."""
    if answer is None:
        return False
    return any(same(answer, one, gold.decimals) for one in gold.answers)


def same(one: str, other: str, decimals: int | None = None) -> bool:
    """Say whether two answers are the same; with `decimals`, after rounding numbers to so many.

    Units count only where both have one, and are compared as words, not converted.
    """
    ours, theirs = number(one), number(other)
    if ours is None or theirs is None:
        return ours is theirs and _words(one) == _words(other)
    if ours[1] and theirs[1] and ours[1] != theirs[1]:
        return False
    if decimals is not None:
        return round(ours[0], decimals) == round(theirs[0], decimals)
    return ours[0] == theirs[0]


def number(text: str) -> tuple[Fraction, str] | None:
    r"""Return the one number that a text is, and its unit or nothing; None if it is no number.

    >>> number("1 1/2 hours"), number("$-1,000")
    ((Fraction(3, 2), 'hour'), (Fraction(-1000, 1), ''))
    >>> number("12,34"), number("3 or 4"), number("about 5")
    (None, None, None)
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    found = _PLAIN.fullmatch(_ASSIGNED.sub("", _without_latex(text), count=1).rstrip(".").strip())
    if found is None:
        return None
    if found["whole"]:
        below = int(found["parts"])
        value = Fraction(int(found["whole"])) + Fraction(int(found["of"]), below) if below else None
    else:
        under = _fraction(found["below"]) if found["below"] else Fraction(1)
        value = _fraction(found["above"]) / under if under else None
    if value is None:
        return None
    unit = _unit(found["unit"] or "")
    words = unit.split()
    if len(words) > _UNIT_WORDS or not _NO_UNIT.isdisjoint(words):
        return None
    if len(unit) == 1 and unit not in _SHORT_UNITS | {"%"}:
        return None
    negative = (found["sign"] == "-") != (found["sign2"] == "-")
    return (-value if negative else value), unit


def _last_stated(text: str) -> str | None:
    """Return what the last of the marks says, by place."""
    found: list[tuple[int, str]] = []
    for pattern in (_HASHES, _STATED):
        for match in pattern.finditer(text):
            found.append((match.start(1), match[1]))
    for match in _BOXED.finditer(text):
        inside = _braced(text, match.end())
        if inside is not None:
            found.append((match.end(), inside))
    if not found:
        return None
    stated = max(found)[1].strip().strip("*").strip()
    boxed = _BOXED.search(stated)
    if boxed:
        return _braced(stated, boxed.end())
    return stated


def _braced(text: str, start: int) -> str | None:
    """Return what stands up to the brace that closes the one before `start`."""
    depth = 1
    for at in range(start, min(len(text), start + _MAX_CHARACTERS)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at].strip()
    return None


def _option(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that a text is; None if it is none, or two at once."""
    exact = [i for i, option in enumerate(options) if same(text, option)]
    plain = _without_latex(text).strip().strip("*").rstrip(".").strip()
    lettered = _LETTER.fullmatch(plain)
    if lettered and (place := LETTERS.find(lettered[1].upper())) < len(options):
        words = lettered[2]
        if words is None or same(words, options[place]):
            return LETTERS[place]
    return LETTERS[exact[0]] if len(exact) == 1 else None


def _without_latex(text: str) -> str:
    text = text.strip().replace("−", "-").replace("–", "-")
    text = text.replace(r"\left", "").replace(r"\right", "").replace(r"\(", "").replace(r"\)", "")
    text = _TEXT_MACRO.sub(r" \1", text)
    text = _FRACTION.sub(r"(\1)/(\2)", text)
    text = re.sub(r"(\d)\s*\((\d+)\)/\((\d+)\)", r"\1 \2/\3", text)
    text = re.sub(r"\((-?[\d.,]+)\)/\((-?[\d.,]+)\)", r"\1/\2", text)
    text = re.sub(r"\\([$%])", r"\1", text)
    if len(text) > 1 and text.startswith("$") and text.endswith("$"):
        text = text[1:-1]
    return _SPACES.sub(" ", text).strip()


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _unit(text: str) -> str:
    """Return a unit in small letters, one of many; currency's words are no unit."""
    unit = _words(text)
    unit = unit if unit.endswith("ss") else unit.removesuffix("s")
    if unit in ("dollar", "usd", "euro", "pound"):
        return ""
    return "%" if unit in ("percent", "per cent") else unit


def _words(text: str) -> str:
    words = _without_latex(text).casefold().strip(" .$*\"'`").split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)
