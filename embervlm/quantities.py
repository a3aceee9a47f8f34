"""Numbers with units in plain text: "half a tonne", "3 st", "52 knots", "0.4 m", "ninety minutes".

`find_quantities` returns every mention with its value in the units of `scenario.QUANTITIES`; of a
range, "10 to 12 kg", the larger end, and of "3 stone 4 lb" the sum. What a mention is *for* (the
load, the wind, an age, a price) is not decided here: the network reads that; see
`prompts.read_task`, which puts a bucket mark behind each mention, and `models.heads`.

    >>> [(m.kind, m.value) for m in find_quantities("8 kg across 400 yards, gusting 40 knots")]
    [('mass_kg', 8.0), ('length_m', 365.76), ('speed_kmh', 74.08)]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# unit word -> (kind, factor to the kind's unit). Imperial units: exact definitions; stone = 14 lb.
_UNITS: dict[str, tuple[str, float]] = {}
for _kind, _factor, _words in (
    ("mass_kg", 1.0, "kg kgs kilo kilos kilogram kilograms kilogramme kilogrammes"),
    ("mass_kg", 0.001, "g gr gram grams gramme grammes"),
    ("mass_kg", 0.45359237, "lb lbs pound pounds pounder"),
    ("mass_kg", 0.028349523125, "oz ounce ounces"),
    ("mass_kg", 6.35029318, "st stone"),
    ("mass_kg", 50.80234544, "cwt hundredweight"),
    ("mass_kg", 1000.0, "t tonne tonnes ton tons tonner"),
    ("mass_kg", 1.0, "litre litres liter liters l ltr"),
    ("mass_kg", 3.785411784, "gallon gallons"),
    ("length_m", 1.0, "m metre metres meter meters mtr mtrs"),
    ("length_m", 0.01, "cm centimetre centimetres centimeter centimeters"),
    ("length_m", 0.001, "mm millimetre millimetres millimeter millimeters"),
    ("length_m", 1000.0, "km kms kilometre kilometres kilometer kilometers klick klicks k"),
    ("length_m", 0.3048, "ft foot feet ' ′"),
    ("length_m", 0.0254, 'in inch inches " ″'),
    ("length_m", 0.9144, "yd yds yard yards"),
    ("length_m", 1609.344, "mi mile miles"),
    ("length_m", 1852.0, "nm nmi"),
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
_MANY = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fifth": 5}
_VULGAR = {"½": 1 / 2, "¼": 1 / 4, "¾": 3 / 4, "⅓": 1 / 3, "⅔": 2 / 3}

# After "a" or "a couple of" only these read as a quantity ("a tonne", "a mile", "an hour").
_COUNTABLE = frozenset(
    "kilo kilos ton tons tonne tonnes pound pounds stone mile miles metre metres meter meters km "
    "foot feet inch inches yard yards fathom fathoms kilometre kilometres kilometer kilometers "
    "hour hours day days hundredweight litre litres minute minutes".split()
)
# "Half tonne", "quarter mile", but not "half mud half stone" or "half day tickets".
_HALVED = (
    "kg kilo ton tonne pound ounce mile metre meter km kilometre kilometer centimetre centimeter "
    "foot inch yard fathom hour minute hundredweight litre liter"
).split()
_HOURS = frozenset("h hr hrs hour hours".split())
_KM = frozenset("k km kms kilometre kilometres kilometer kilometers".split())
# Without digits these are words: "ten in the bay".
_NEED_DIGITS = frozenset("k in st t l g ' ′ \" ″".split())


def _any_of(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_UNIT = _any_of(_UNITS)
_LENGTH = _any_of(
    word for word, (kind, _) in _UNITS.items() if kind == "length_m" and word not in _NEED_DIGITS
)
# "Two hundred and forty", not "six and eight" or "one hundred and two hundred". Such a number has
# an end: without one, "one one one ..." takes time that grows with its square.
_ONE = _any_of(_ONES)
_AND = r"[\s-]+(?:and[\s-]+)?"
_BELOW_100 = rf"(?:(?:{_any_of(_TENS)})(?:[\s-]+(?:{_ONE}))?|{_ONE})"
_COUPLE = r"(?:a\s+)?couple(?:\s+of)?"
_BELOW_1000 = (
    rf"(?:(?:(?:{_BELOW_100}|{_COUPLE})[\s-]+)?hundred(?:{_AND}{_BELOW_100})?|{_BELOW_100})"
)
# "One-two-zero", as it is spelt over the radio.
_DIGIT = _any_of(word for word, value in _ONES.items() if value < 10)
_SPELT = rf"(?:(?:{_DIGIT})(?:[\s-]+(?:{_DIGIT})){{2,4}})"
_WORDS = (
    rf"(?:{_SPELT}|(?:(?:{_BELOW_1000}|{_COUPLE})[\s-]+)?thousand"
    rf"(?:(?:{_AND}|,\s+(?=\w+[\s-]+hundred\b)){_BELOW_1000})?"
    rf"|{_BELOW_1000})"
)
# A space parts thousands in "10 000 kg", "the 1 500 kg crate" and "1 500 kg of sand"; "pallet 6
# 310 kg" and "props, 3 200 kg each" are two numbers. No thousands begin with a nought: "0,500 kg".
_GROUPED = r"[1-9]\d{0,2}(?:[,'’\u00a0\u2009\u202f]\d{3})+(?:\.\d+)?"
_SPACED = r"[1-9]\d{0,2}(?:[ ]\d{3})+"
_AFTER = "|".join(rf"(?<=\b{word}[ ])" for word in ("a", "an", "the", "of", "about", "over"))
_DIGITS = (
    rf"(?:{_GROUPED}|[1-9]\d{{0,2}}(?:[ ]000)+|(?:{_AFTER}){_SPACED}"
    rf"|{_SPACED}(?=\s*(?:kg|kilos|tonnes|t|litres|l|m|metres)\s+of\b)|\d+(?:[.,]\d+)?|\.\d+)"
)
_SLASHED = r"(?:[1-9][/⁄](?:[2-689]|10|16)(?!\d))"
_NUMERAL = (
    rf"(?:{_SLASHED}|[½¼¾⅓⅔]"
    rf"|{_DIGITS}(?:\s*[½¼¾⅓⅔]|[\s-]+(?:{_SLASHED}|(?:hundred|thousand|million)\b))?)"
)
# "And a half", "an a half", "and three-quarters".
_AND_PART = (
    r"(?:and?[\s-]+(?:(?:(?:an?|one)[\s-]+)?(?:half|quarter)|an?[\s-]+third|two[\s-]+thirds"
    r"|three[\s-]+quarters?))"
)
_NUMBER = (
    rf"(?:(?:{_NUMERAL}(?:\s+point\s+\d+)?|{_WORDS}(?:\s+point(?:\s+(?:{_ONE})){{1,3}})?)"
    rf"(?:[\s-]+{_AND_PART})?)"
)
# "The third floor", but "a second look".
_ORDINALS = {
    word: i + 2
    for i, word in enumerate("second third fourth fifth sixth seventh eighth ninth tenth".split())
}
_BARE = re.compile(
    rf"(?<![\w.,'’])(?:(?P<words>{_WORDS})(?!\w)|(?<!\ba )(?P<nth>{_any_of(_ORDINALS)})(?!\w)"
    rf"|(?P<digits>{_GROUPED}(?!\w)|-?[^\W_]*\d[^\W_]*(?:[.,:/]\d+)*))",
    re.IGNORECASE,
)
_DIMENSION = r"\s*(?:wide|deep|high|tall|long|across|thick)\b"
# Looked for first, so that most places are left at once.
_FIRST_WORD = _any_of(
    [*_ONES, *_TENS, *"hundred thousand between half quarter couple an a".split()]
)
_MENTION = re.compile(
    rf"""
    (?:(?<![\w.,/⁄£$€])|(?<=\b\d\d\d/)|(?<=\dft))(?=[\d.½¼¾⅓⅔]|{_FIRST_WORD})
    (?:
        (?:
            (?P<part>
                (?:a\s+)?(?:half|quarter)(?:\s+of)?\s+an?
                | an?\s+(?:third|fifth)\s+of\s+an?
                | (?:one[\s-]+half|(?:one|two|three|four)[\s-]+(?:third|quarter|fifth)s?)
                  (?:\s+of\s+an?)?
                | (?:a[\s-]+)?(?:half|quarter)(?=[\s-]+(?:{"|".join(_HALVED)})\b)
            )(?:[\s-]+(?P<many>hundred|thousand|million)\b)?
            | (?P<count>{_COUPLE}|(?:half\s+a|half|an?|one|two|three|four)\s+dozen|an?)
              (?=[\s-]+(?:{_any_of(_COUNTABLE)})\b)
        )
        (?=[\s-])
        | (?:
            (?P<between>between\s+)?(?P<low>(?:an?\s+)?{_NUMBER})
            (?:\s*(?:-|\.\.+|…)\s*(?=[\d.½¼¾⅓⅔])(?!{_SLASHED})|\s*–\s*
              |\s*(?:±|\+/-)\s*|\s*[x×]\s*(?=\d+(?:\.\d+)?\s?(?:{_LENGTH})\b)
              |[\s-]*(?:to|or|(?(between)and|or))[\s-]*)
        )?
        (?P<number>{_NUMBER})
    )
    (?:[\s-]odd\b|\+)?[\s–-]*(?:of\s+a\s+)?
    (?:
        (?P<length>{_LENGTH})[\s-]*(?:/|\bper\b|\ban?\b)[\s-]*
        (?P<time>h|hr|hour|min|minute|s|sec|second)(?![\w/])
        | h\s?(?P<minutes>[0-5]\d)(?:m|mins?)?(?![\w/]|\s*(?:{_UNIT})\b)
        | (?-i:m)\s?(?P<cm>\d\d)(?={_DIMENSION}|\s*(?:[,;:!?)]|\.(?!\d)|$))
        | (?:metric[\s-]+(?=ton)|(?P<nautical>nautical)[\s-]+(?=mile))?(?P<unit>{_UNIT})
          (?:(?!\w|/(?!\d[\d.,]*[\s-]?(?:{_UNIT})\b))|(?<=['′])(?=\d\d?\s?["″])
             |(?<=ft)(?=\d\d?\s?in\b))
    )
    (?P<square>\s*(?:²|³|\^\d)|\s+(?:square|cubic)\b)?
    (?P<tail>\s+and\s+(?:a\s+(?:half|quarter)|three[\s-]+quarters)\b)?
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Hyphens that do not break, and the sign of minus: one character for one.
HYPHENS = str.maketrans("\u2010\u2011\u2212", "---")
_SECONDS = {"s": 1, "m": 60, "h": 3600}

# "On the 21st": no stone; "11st" is some.
_ORDINAL = re.compile(r"(?<!1)1st", re.IGNORECASE)
# "12 St Mary's Road" is no weight, and a stone alone is one only in "a stone of flour" and "a stone
# and a half".
_STREET = re.compile(r"St\.?\s+[A-Z]|[A-Z][a-z]+\s+(?:[A-Z]\w+\s+)?(?:Street|Road|Lane|Avenue)\b")
_ONE_STONE = re.compile(r"(?:an?|one)[\s-]+stone", re.IGNORECASE)
_OF = re.compile(r"\s+of\b", re.IGNORECASE)
# "A 4K camera": how fine its picture is.
_VIDEO = re.compile(r"[48]K")
# "At 1400 hours", "0412 hrs": a time of day.
_TIME_OF_DAY = re.compile(r"(?:[01]\d|2[0-3])[0-5]\d\s?h", re.IGNORECASE)
# "Once a day", "8 hours a day": how often, not how long.
_TIMES = re.compile(r"\b(?:once|twice|thrice|times)\s+$", re.IGNORECASE)
# "At 14h30", "at 17 h": no hours.
_AT = re.compile(r"\bat\s+$", re.IGNORECASE)
_CLOCK = re.compile(r"\b(?:at|by|from|to|until|till|since|before|after|around)\s+$", re.IGNORECASE)
# "Two hours and thirty minutes", "3 stone 4 lb": one number, in a unit and in the next smaller one.
_NEXT_SMALLER = {
    _UNITS[unit]: _UNITS[smaller]
    for unit, smaller in (
        ("day", "hour"), ("hour", "minute"), ("stone", "pound"), ("pound", "ounce"),
        ("foot", "inch"), ("metre", "centimetre"),
    )
}  # fmt: skip
# "2 m 50 cm" is one length, "1 m and 50 cm" are two.
_JOINT = re.compile(r"\s*(?:and\s+)?", re.IGNORECASE)

# No inch stands before a word ("70 in that bay", "8 in deep snow"), but in "a 30 in wide gap", or
# where "wide" ends what is said.
_BEFORE_WORD = re.compile(r"\s+\w")
_IS_DIMENSION = re.compile(_DIMENSION, re.IGNORECASE)
_PHRASE_GOES_ON = re.compile(r"\s+(?!(?:and|or|but|by|at)\b)\w", re.IGNORECASE)
_ARTICLE = re.compile(r"\ban?\s+$", re.IGNORECASE)

# Beaufort and words for wind; the middle of each band, km/h (WMO scale).
_BEAUFORT = (0, 3, 9, 16, 24, 34, 44, 56, 68, 82, 96, 110, 125)
_N_FORCE = "1[0-2]|\\d|" + "|".join(list(_ONES)[:13])
_FORCE = re.compile(
    rf"(?<!task )(?<!air )\b(?:force|beaufort|bft)[\s-]+"
    rf"(?:(?:{_N_FORCE})\s*(?:-|–|to\b|or\b)\s*)?(?P<n>{_N_FORCE})\b"
    r"|\b(?P<before>1[0-2]|\d)[\s-]*(?:beaufort|bft)\b"
    r"|(?:(?<=\bwind )|(?<=\bwinds )|(?<=\bgusting )"
    r"|\b(?=F\d+\s+(?:breeze|winds?|gales?|gusts?|storm)\b))F(?P<f>1[0-2]|\d)\b",
    re.IGNORECASE,
)

# Bare numbers whose unit the trade leaves out: "gusting 85", "wind's at 90", "gap 0.7 wide",
# "1.4 deep".
_SPEED = _any_of(word for word, (kind, _) in _UNITS.items() if kind == "speed_kmh")
_LINK = (
    r"(?:(?:'s|is|of|at|to|from|a|steady|up|about|around|over|under|now|still|only|just|past|near"
    r"|nearly|almost|gusts?|gusting)\s+){0,8}"
)
_TEENS = _any_of(word for word, value in _ONES.items() if value > 9)
_WIND_IN_WORDS = (
    rf"(?:(?:(?:{_any_of(_TENS)})(?:[\s-]+(?:{_ONE}))?|{_TEENS}"
    rf"|(?:one[\s-]+)?hundred(?:{_AND}{_BELOW_100})?)\b)"
)
# A heading is no speed ("winds of 300 degrees at 20", "wind 270/15", "winds from 270"), nor is an
# hour.
_BARE_WIND = re.compile(
    r"\b(?<!no )(?:winds?(?:[\s-]?speeds?)?|gusts?|gusting|blows|blowing|breeze|squalls)"
    rf"(?:'s|:)?\s+{_LINK}(?:\d{{3}}(?:\s*(?:degrees|deg|°))?\s+at\s+|\d{{1,3}}\s*(?:-|–|/|to|or)\s*)?"
    rf"(?P<n>(?<!\bfrom )\d{{3}}|\d{{1,2}}|{_WIND_IN_WORDS})"
    rf"(?!\d|[.:/]\d|[\s-]*(?:{_UNIT}|{_ONE})\b|\s*(?:%|degrees|deg\b|°|noon|midnight|o['’]clock"
    rf"|[ap]\.?m\b|at\s+\d+(?:\.\d+)?\s*(?:{_SPEED})\b))"
    r"|(?<![\w.,-])(?P<m>\d{1,3})\s+(?:gusts?|winds?)\b(?!\s+(?:turbine|farm|gauge|sensor))",
    re.IGNORECASE,
)
# "35 knots gusting 50": knots too.
_SPEED_BEFORE = re.compile(rf"\b(?P<unit>{_SPEED})[\s,]*(?:and\s+)?$", re.IGNORECASE)
# "Winds of 70 km": an hour.
_WIND_OF = re.compile(rf"\b(?:winds?|gusts?|gusting|blowing)(?:'s)?\s+{_LINK}$", re.IGNORECASE)
_BARE_LENGTH = re.compile(
    r"(?<![\w.,/])(?P<n>\d{1,3}(?:\.\d+)?)\s+(?:wide|deep|across|down|high|long)\b", re.IGNORECASE
)

# Quantities are told with fewer digits than imperial units have in metric ones.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Mention:
    """A number with a unit in a text: characters `start` to `end`, its value in its kind's unit.

    `kind` is one of `mass_kg`, `length_m`, `speed_kmh`, `hours`. Of a range, `value` is the larger
    end and `low` the smaller one; None: it is no range.
    """

    kind: str
    value: float
    start: int
    end: int
    low: float | None = None

    @property
    def least(self) -> float:
        """The smaller end of a range, or the value: a passage is as wide as it is narrow."""
        return self.value if self.low is None else self.low


def find_quantities(text: str) -> list[Mention]:
    """Return the mentions of a text from left to right."""
    text = text.translate(HYPHENS)
    mentions: list[Mention] = []
    unit_before = None
    for match in _MENTION.finditer(text):
        word = _folded(match["length"] or match["unit"] or ("m" if match["cm"] else "h"))
        unit = _UNITS["nm" if match["nautical"] else word]
        kind, factor = unit
        value, low = _value(match)
        last = mentions[-1] if mentions else None
        joins = (
            last is not None
            and last.low is None is low
            and unit_before in _NEXT_SMALLER
            and _NEXT_SMALLER[unit_before] == unit
            and value * factor < unit_before[1]
            and _JOINT.fullmatch(text, last.end, match.start()) is not None
            and (unit != _UNITS["cm"] or text[last.end : match.start()].strip() == "")
        )
        is_rate = (
            kind == "hours"
            and _folded(match["count"] or "") in ("a", "an")
            and (
                _TIMES.search(text[max(0, match.start() - 8) : match.start()]) is not None
                or (last is not None and text[last.end : match.start()].isspace())
            )
        )
        if is_rate or match["square"] or not (joins or _is_quantity(text, match, word)):
            continue
        if match["time"]:
            kind, factor = "speed_kmh", 3.6 * factor / _SECONDS[_folded(match["time"])[0]]
        elif word in _KM and _WIND_OF.search(text, max(0, match.start() - 24), match.start()):
            kind, factor = _UNITS["kmh"]
        value = round(value * factor, 6)
        low = None if low is None else round(low * factor, 6)
        start = match.start()
        if last is not None and joins:
            mentions.pop()
            value, start = round(last.value + value, 6), last.start
        mentions.append(Mention(kind, value, start, match.end(), low))
        unit_before = (kind, factor)
    for match in _FORCE.finditer(text):
        number = _folded(match["n"] or match["before"] or match["f"])
        force = int(number) if number.isdigit() else _ONES[number]
        mentions.append(Mention("speed_kmh", float(_BEAUFORT[force]), match.start(), match.end()))
    for pattern, kind in ((_BARE_WIND, "speed_kmh"), (_BARE_LENGTH, "length_m")):
        for match in pattern.finditer(text):
            group = "n" if match["n"] else "m"
            start, end = match.span(group)
            if not any(found.start < end and start < found.end for found in mentions):
                told = _SPEED_BEFORE.search(text, max(0, match.start() - 12), match.start())
                factor = _UNITS[_folded(told["unit"])][1] if told else 1.0
                value = round(_number(match[group]) * factor, 6)
                mentions.append(Mention(kind, value, start, end))
    return sorted(mentions, key=lambda mention: mention.start)


def states(request: str, line: str) -> bool:
    """Return whether a request states every quantity of a line; of its ranges, both ends count.

    >>> states("carry the 8 kg pump", "load 8 kg"), states("carry the 8 kg pump", "8 m of cable")
    (True, False)
    """
    stated = [
        (mention.kind, value)
        for mention in find_quantities(request)
        for value in (mention.value, mention.least)
    ]
    return all(
        any(
            kind == mention.kind and abs(value - mention.value) <= _ROUNDING * value
            for kind, value in stated
        )
        for mention in find_quantities(line)
    )


def numbers_in(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the numbers of a text that have no unit, and those that have one, in digits.

    What holds letters too, a "B12", is one as it stands. "One" and "first" are none: they seldom
    count anything.

    >>> bare, measured = numbers_in("take twenty boxes of 8 kg from gate B12 to the third hall")
    >>> sorted(bare), sorted(measured)
    (['20', '3', 'b12'], ['8'])
    """
    rest, measured = text, set()
    for mention in reversed(find_quantities(text)):
        said = re.sub(r"(\d)(?=[^\W\d_])", r"\1 ", text[mention.start : mention.end])
        measured |= _digits(said)
        rest = f"{rest[: mention.start]} ; {rest[mention.end :]}"
    return frozenset(_digits(rest)), frozenset(measured)


def _digits(text: str) -> set[str]:
    """Return the numbers of a text in digits, without leading noughts."""
    found = set()
    for match in _BARE.finditer(text):
        said = _folded(match[0])
        if match["words"]:
            said = "" if said == "one" else f"{_number(said):g}"
        elif match["nth"]:
            said = str(_ORDINALS[said])
        else:
            said = re.sub(r"(?<=\d)(?:st|nd|rd|th)$", "", said)
            if re.fullmatch(_GROUPED, said):
                said = re.sub(r"[^\d.]", "", said)
            said = re.sub(r"^(-?)0+(?=\d)", r"\1", said)
        found.add(said)
    return found - {""}


def number_from_words(words: str) -> float:
    """Return the value of an English number: "two hundred and forty" is 240."""
    total = current = 0
    for word in re.split(r"[\s,-]+", _folded(words)):
        if word == "hundred":
            current = max(current, 1) * 100
        elif word == "thousand":
            total, current = total + max(current, 1) * 1000, 0
        elif word == "couple":
            current += 2
        elif word not in ("and", "a", "of"):
            current += _ONES[word] if word in _ONES else _TENS[word]
    return float(total + current)


def number_told(value: float) -> str:
    """Return a number as people write it, with six digits at most.

    >>> number_told(1e6), number_told(26.666666)
    ('1000000', '26.6667')
    """
    return f"{float(f'{value:.6g}'):.15g}"


def _folded(text: str) -> str:
    """Return a match in lower case, with an "i" for each "İ", which matches it."""
    return text.casefold().replace("i\u0307", "i")


def _is_quantity(text: str, match: re.Match[str], unit: str) -> bool:
    """Say whether what looks like a number with a unit is one."""
    if unit in _NEED_DIGITS and (match["number"] or "a")[0].isalpha():
        return False
    if match["unit"] and _STREET.match(text, match.start("unit")):
        return False
    if unit == "st":
        return not _ORDINAL.search(match[0])
    if unit == "nm" and match["unit"] == "Nm":  # newton metres
        return False
    if unit == "k" and _VIDEO.fullmatch(match[0]) and not text.isupper():
        return False
    if unit == "stone" and _ONE_STONE.fullmatch(match[0]):
        return _OF.match(text, match.end()) is not None
    before = text[max(0, match.start() - 8) : match.start()]
    if unit in _HOURS and (before.endswith(":") or _TIME_OF_DAY.match(match[0])):
        return False
    if unit in ("'", "′") and before.endswith(unit):  # the valve marked '1200'
        return False
    if match["minutes"]:
        return not _CLOCK.search(before)
    if unit == "h" and _AT.search(before):
        return False
    dimension = _IS_DIMENSION.match(text, match.end())
    if unit in ('"', "″"):
        return dimension is not None
    if unit == "in" and _BEFORE_WORD.match(text, match.end()):
        return dimension is not None and (
            _ARTICLE.search(before) is not None or not _PHRASE_GOES_ON.match(text, dimension.end())
        )
    return True


def _value(match: re.Match[str]) -> tuple[float, float | None]:
    """Return the number in its unit; of a range the larger end, and the smaller one."""
    low = None
    if match["part"]:
        value = _part(match["part"]) * _MANY.get(_folded(match["many"] or ""), 1)
    elif match["count"]:
        words = _folded(match["count"]).split()
        value = 2.0 if "couple" in words else 12.0 if "dozen" in words else 1.0
        value *= 0.5 if "half" in words else _ONES.get(words[0], 1)
    else:
        value = _number(match["number"])
        # "One to two hundred": its smaller end is said in hundreds too.
        is_short = re.search("(?:hundred|thousand)$", match["number"], re.IGNORECASE)
        if match["low"] and not is_short:
            other = _number(match["low"])
            link = match.string[match.end("low") : match.start("number")]
            if "±" in link or "+/-" in link:
                other, value = other - value, other + value
            # "From pier 9 to 5 kg" is no range; "7 or 4 kg" and "between 7 and 4 kg" are.
            if other > value and (match["between"] or re.search(r"\bor\b", link, re.IGNORECASE)):
                other, value = value, other
            low = other if other < value else None
    if match["tail"]:
        value += _part(match["tail"])
    if match["minutes"]:
        value += int(match["minutes"]) / 60
    if match["cm"]:
        value += int(match["cm"]) / 100
    return value, low


def _number(text: str) -> float:
    """Return the value of a number as `_NUMBER` finds it: "2½", "1,200", "two and a half"."""
    text = re.sub(r"^an?\s+", "", _folded(text))
    value = 0.0
    if match := re.search(rf"[\s-]+{_AND_PART}$", text):
        value, text = _part(match[0]), text[: match.start()]
    if match := re.search(r"\s+point\s+", text):
        digits = (_ONES.get(word, word) for word in text[match.end() :].split())
        value, text = value + float("0." + "".join(map(str, digits))), text[: match.start()]
    if re.fullmatch(_SPELT, text):
        return float("".join(str(_ONES[word]) for word in re.split(r"[\s-]+", text)))
    if text[0].isalpha():
        return value + number_from_words(text)
    if text[-1] in _VULGAR:
        value, text = value + _VULGAR[text[-1]], text[:-1]
    elif match := re.search(r"(\d)[/⁄](\d+)$", text):
        value, text = value + int(match[1]) / int(match[2]), text[: match.start()]
    many = next((n for word, n in _MANY.items() if text.endswith(word)), 1)
    text = re.sub(r"[\s'’-]|[a-z]+$", "", text)
    if re.fullmatch(_GROUPED, text):
        text = text.replace(",", "")
    return value + many * float(text.replace(",", ".") or 0)


def _part(words: str) -> float:
    """Return the value of "a half", "two thirds of a" or "and three-quarters"."""
    found = [word.removesuffix("s") for word in re.split(r"[\s-]+", _folded(words))]
    above = next((_ONES[word] for word in found if word in _ONES), 1)
    return above / next(_PARTS[word] for word in found if word in _PARTS)
