"""Numbers with units are read from plain words as people write them."""

import random

import pytest

from embervlm.quantities import find_quantities, number_from_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8 kg", [("mass_kg", 8)]),
        ("8kg", [("mass_kg", 8)]),
        ("8-kg pump", [("mass_kg", 8)]),
        ("(8 KG).", [("mass_kg", 8)]),
        ("1,200 kg", [("mass_kg", 1200)]),
        ("4,5 kg", [("mass_kg", 4.5)]),
        ("10-12 kg", [("mass_kg", 12)]),
        ("half a tonne", [("mass_kg", 500)]),
        ("a couple of tonnes", [("mass_kg", 2000)]),
        ("two and a half tonnes", [("mass_kg", 2500)]),
        ("3 st", [("mass_kg", 19.050880)]),
        ("40 lb", [("mass_kg", 18.143695)]),
        ("two hundred and forty kilos", [("mass_kg", 240)]),
        ("20 litres", [("mass_kg", 20)]),
        ("0.4 m", [("length_m", 0.4)]),
        ("40 cm", [("length_m", 0.4)]),
        ("one point five metres", [("length_m", 1.5)]),
        ("6 ft", [("length_m", 1.8288)]),
        ("400 yards", [("length_m", 365.76)]),
        ("2½ km", [("length_m", 2500)]),
        ("three quarters of a mile", [("length_m", 1207.008)]),
        ("gap 0.7 wide", [("length_m", 0.7)]),
        ("12 fathoms down", [("length_m", 21.9456)]),
        ("70 km/h", [("speed_kmh", 70)]),
        ("52 knots", [("speed_kmh", 96.304)]),
        ("5 m/s", [("speed_kmh", 18)]),
        ("gusting 85", [("speed_kmh", 85)]),
        ("force 9", [("speed_kmh", 82)]),
        ("Beaufort seven", [("speed_kmh", 56)]),
        ("ninety minutes", [("hours", 1.5)]),
        ("an hour and a half", [("hours", 1.5)]),
        ("three days", [("hours", 72)]),
        ("8 ton\u017f", [("mass_kg", 8000)]),
        ("6 kg up 200 m in 30 km/h", [("mass_kg", 6), ("length_m", 200), ("speed_kmh", 30)]),
        ("", []),
        ("12 people", []),
        ("room 12, bay 7", []),
        ("24/7 since 14:30", []),
        ("40 square metres, 25 m²", []),
        ("70 in that bay", []),
        ("$500 or £20", []),
        ("8 kg/m", []),
        ("a metro station, the sting of a minotaur", []),
    ],
)
def test_reads_what_people_write(text: str, expected: list[tuple[str, float]]) -> None:
    found = [(mention.kind, mention.value) for mention in find_quantities(text)]
    assert [kind for kind, _ in found] == [kind for kind, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected])


@pytest.mark.parametrize("number", [0, 1, 13, 20, 21, 99, 100, 101, 340, 999, 1000, 7042, 999_999])
def test_reads_numbers_in_words(number: int) -> None:
    assert number_from_words(in_words(number)) == number
    assert find_quantities(f"{in_words(number)} metres")[0].value == number


def in_words(n: int) -> str:
    ones = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
            "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
            "eighteen", "nineteen"]  # fmt: skip
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if n < 20:
        return ones[n]
    if n < 100:
        return tens[n // 10 - 2] + (f"-{ones[n % 10]}" if n % 10 else "")
    high, rest, name = (
        (n // 100, n % 100, "hundred") if n < 1000 else (n // 1000, n % 1000, "thousand")
    )
    joined = " and " if rest < 100 else " "
    return f"{in_words(high)} {name}" + (joined + in_words(rest) if rest else "")


def test_the_same_quantity_in_other_units_has_the_same_value() -> None:
    for one, other in [
        ("1.5 km", "1500 m"), ("500 g", "0.5 kg"), ("90 min", "1.5 hours"), ("2 t", "2000 kilos"),
        ("36 km/h", "10 m/s"), ("1 mile", "1760 yards"), ("3 feet", "1 yard"), ("1 st", "14 lb"),
    ]:  # fmt: skip
        a, b = find_quantities(one)[0], find_quantities(other)[0]
        assert a.kind == b.kind
        assert a.value == pytest.approx(b.value, rel=1e-5)


def test_mentions_lie_in_the_text_from_left_to_right_whatever_the_text() -> None:
    pieces = [
        "8", "1,200", "0.4", "half a", "two", "hundred", " and a half", " ", "-", "kg", "kg", "m",
        "m", "km/h", "knots", "hours", "force", "gusting", "wide", "²", "½", "ſ", "K", "٣", "\n",
        "🚁", "'", "in", "the", ".", "/", "st", "F9", "a couple of", "\ud800", "\x00", "point five",
    ]  # fmt: skip
    chance = random.Random(0)
    seen = 0
    for _ in range(4000):
        text = "".join(chance.choices(pieces, k=chance.randint(1, 12)))
        mentions = find_quantities(text)
        seen += len(mentions)
        for mention in mentions:
            assert 0 <= mention.start < mention.end <= len(text)
            assert mention.value >= 0
        starts = [mention.start for mention in mentions]
        assert starts == sorted(starts)
    assert seen > 200
