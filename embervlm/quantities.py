"""Numbers with units in plain text: "half a tonne", "3 st", "52 knots", "0.4 m", "ninety minutes".

`find_quantities` returns every mention with its value in the units of `scenario.QUANTITIES`. What a
mention is *for* (the load, the wind, an age, a price) is not decided here: the network reads that;
see `prompts.read_task`, which puts a bucket mark behind each mention, and `models.heads`.

    >>> [(m.kind, m.value) for m in find_quantities("8 kg across 400 yards, gusting 40 knots")]
    [('mass_kg', 8.0), ('length_m', 365.76), ('speed_kmh', 74.08)]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# unit word -> (kind, factor to the kind's unit). Imperial units: exact definitions; stone = 14 lb.
_UNITS: dict[str, tuple[str, float]] = {}
for _kind, _factor, _words in (
    ("mass_kg", 1.0, "kg kgs kilo kilos kilogram kilograms kilogramme kilogrammes"),
    ("mass_kg", 0.001, "g gr gram grams gramme grammes"),
    ("mass_kg", 0.45359237, "lb lbs pound pounds pounder"),
    ("mass_kg", 0.028349523125, "oz ounce ounces"),
    ("mass_kg", 6.35029318, "st stone stones"),
    ("mass_kg", 50.80234544, "cwt hundredweight"),
    ("mass_kg", 1000.0, "t tonne tonnes ton tons tonner"),
    ("mass_kg", 1.0, "litre litres liter liters l ltr"),
    ("length_m", 1.0, "m metre metres meter meters mtr mtrs"),
    ("length_m", 0.01, "cm centimetre centimetres centimeter centimeters"),
    ("length_m", 0.001, "mm millimetre millimetres millimeter millimeters"),
    ("length_m", 1000.0, "km kms kilometre kilometres kilometer kilometers klick klicks k"),
    ("length_m", 0.3048, "ft foot feet '"),
    ("length_m", 0.0254, "in inch inches"),
    ("length_m", 0.9144, "yd yds yard yards"),
    ("length_m", 1609.344, "mi mile miles"),
    ("length_m", 1.8288, "fathom fathoms"),
    ("speed_kmh", 1.0, "km/h kmh kph kmph km/hr"),
    ("speed_kmh", 1.609344, "mph"),
    ("speed_kmh", 1.852, "kn kt kts knot knots"),
    ("speed_kmh", 3.6, "m/s mps"),
    ("hours", 1.0, "h hr hrs hour hours"),
    ("hours", 1 / 60, "min mins minute minutes"),
    ("hours", 24.0, "day days"),
):
    for _word in _words.split():
        _UNITS[_word] = (_kind, _factor)

_ONES = {
    word: i
    for i, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * (i + 2)
    for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())
}
_ONES["fourty"] = 40
_LOOSE = {"a": 1.0, "an": 1.0, "couple": 2.0, "pair": 2.0, "dozen": 12.0}
_FRACTIONS = {"half": 0.5, "quarter": 0.25, "third": 1 / 3}

_NUMBER_WORD = "|".join(sorted([*_ONES, *_TENS, "hundred", "thousand"], key=len, reverse=True))
# Ten words at most: without an end, "one one one ..." takes time that grows with its square.
_WORDS = rf"(?:(?:{_NUMBER_WORD})(?:(?:[\s-]+(?:and[\s-]+)?)(?:{_NUMBER_WORD})){{0,9}})"
_DIGITS = r"\d{1,3}(?:[,\u00a0]\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?"
_UNIT = "|".join(re.escape(word) for word in sorted(_UNITS, key=len, reverse=True))
_TAIL = r"(?P<tail>\s+and\s+a\s+(?P<extra>half|quarter))?"
_MENTION = re.compile(
    rf"(?<![\w.,/])(?:"
    rf"(?P<half>(?:a\s+)?(?:half|quarter)(?:\s+of)?\s+an?|three[\s-]quarters\s+of\s+an?|"
    rf"(?:a\s+)?couple\s+of|a\s+dozen|an?)"
    rf"|(?P<range>(?:{_DIGITS})\s*(?:-|–|to|or)\s*)?(?P<digits>{_DIGITS})"
    rf"(?P<point>\s+point\s+\d+)?(?P<vulgar>\s*[½¼¾]|\s+1/2)?"
    rf"|(?P<bare>[½¼¾])"
    rf"|(?P<words>{_WORDS})(?P<wpoint>\s+point\s+(?:{_NUMBER_WORD}))?"
    rf")(?P<mid>\s+and\s+a\s+(?:half|quarter))?[\s-]*(?:of\s+a\s+)?(?P<unit>{_UNIT})(?![\w/])"
    rf"(?P<square>\s*(?:²|³|\^\d)|\s+(?:square|cubic)\b)?" + _TAIL,
    re.IGNORECASE,
)
_VULGAR = {"½": 0.5, "¼": 0.25, "¾": 0.75, "1/2": 0.5}

# "70 in that bay": no inch stands before a word.
_IN_IS_A_WORD = re.compile(r"\s+\w")

# Beaufort and words for wind; the middle of each band, km/h (WMO scale).
_BEAUFORT = (0, 3, 9, 16, 24, 34, 44, 56, 68, 82, 96, 110, 125)
_FORCE = re.compile(
    r"\b(?:force|beaufort|bft)\s+(?P<n>1[0-2]|\d|" + "|".join(list(_ONES)[:13]) + r")\b"
    r"|\b(?:(?P<before>1[0-2]|\d)\s+(?:beaufort|bft)|F(?P<f>1[0-2]|\d))\b",
    re.IGNORECASE,
)

# Bare numbers whose unit the trade leaves out: "gusting 85", "wind's at 90", "gap 0.7 wide",
# "1.4 deep".
_LINK = (
    r"(?:(?:'s|is|of|at|to|from|a|steady|up|about|around|over|under|now|still|only|just|past|gusts?"
    r"|gusting)\s+)*"
)
_BARE_WIND = re.compile(
    rf"\b(?:winds?|gusts?|gusting|blowing|breeze|squalls)(?:'s)?\s+{_LINK}(?P<n>\d{{1,3}})"
    rf"(?!\d|[.:/]\d|\s*(?:{_UNIT})\b)"
    r"|(?<![\w.,])(?P<m>\d{1,3})\s+(?:gusts?|winds?)\b",
    re.IGNORECASE,
)
_BARE_LENGTH = re.compile(
    r"(?<![\w.,/])(?P<n>\d{1,3}(?:\.\d+)?)\s+(?:wide|deep|across|down|high|long)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Mention:
    """A number with a unit in a text: characters `start` to `end`, its value in its kind's unit.

    `kind` is one of `mass_kg`, `length_m`, `speed_kmh`, `hours`.
    """

    kind: str
    value: float
    start: int
    end: int


def find_quantities(text: str) -> list[Mention]:
    """Return the mentions of a text from left to right."""
    mentions = []
    for match in _MENTION.finditer(text):
        unit = match["unit"].casefold()
        if match["square"] or (unit == "in" and _IN_IS_A_WORD.match(text, match.end())):
            continue
        value = _value(match)
        kind, factor = _UNITS[unit]
        if value is None or (unit in {"k", "in", "st", "t", "l", "g", "'"} and not match["digits"]):
            continue
        mentions.append(Mention(kind, round(value * factor, 6), match.start(), match.end()))
    for match in _FORCE.finditer(text):
        number = (match["n"] or match["before"] or match["f"]).casefold()
        force = int(number) if number.isdigit() else _ONES[number]
        mentions.append(Mention("speed_kmh", float(_BEAUFORT[force]), match.start(), match.end()))
    for pattern, kind in ((_BARE_WIND, "speed_kmh"), (_BARE_LENGTH, "length_m")):
        for match in pattern.finditer(text):
            group = "n" if match["n"] else "m"
            start, end = match.span(group)
            if not any(found.start < end and start < found.end for found in mentions):
                mentions.append(Mention(kind, float(match[group]), start, end))
    return sorted(mentions, key=lambda mention: mention.start)


def number_from_words(words: str) -> float:
    """Return the value of an English number: "two hundred and forty" is 240."""
    total = current = 0
    for word in re.split(r"[\s-]+", words.casefold()):
        if word == "hundred":
            current = max(current, 1) * 100
        elif word == "thousand":
            total, current = total + max(current, 1) * 1000, 0
        elif word != "and":
            current += _ONES[word] if word in _ONES else _TENS[word]
    return float(total + current)


def _value(match: re.Match[str]) -> float | None:
    extra = sum(
        _FRACTIONS[part.split()[-1].casefold()] for part in (match["mid"], match["tail"]) if part
    )
    if match["half"]:
        words = match["half"].casefold()
        if "three" in words:
            return 0.75
        for fraction, value in _FRACTIONS.items():
            if fraction in words:
                return value
        if match["unit"].casefold() not in _COUNTABLE:
            return None
        return next((v for k, v in _LOOSE.items() if k in words.split() and v > 1), 1.0) + extra
    if match["bare"]:
        return _VULGAR[match["bare"]]
    if match["words"]:
        value = number_from_words(match["words"])
        if match["wpoint"]:
            value += number_from_words(match["wpoint"].split()[-1]) / 10
        return value + extra
    digits = match["digits"].replace("\u00a0", "")
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits):
        digits = digits.replace(",", "")
    value = float(digits.replace(",", "."))
    if match["point"]:
        value += float("0." + match["point"].split()[-1])
    if match["vulgar"]:
        value += _VULGAR[match["vulgar"].strip()]
    return value + extra


# After "a" or "a couple of" only these read as a quantity ("a tonne", "a mile", "an hour").
_COUNTABLE = frozenset(
    "kilo kilos ton tons tonne tonnes pound pounds stone mile miles metre metres meter meters km "
    "foot feet inch inches yard yards fathom fathoms kilometre kilometres kilometer kilometers "
    "hour hours day days hundredweight litre litres minute minutes".split()
)
