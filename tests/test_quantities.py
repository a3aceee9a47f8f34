"""Numbers with units are read from plain words as people write them."""

import random

import pytest

from embervlm.quantities import find_quantities, number_from_words, states


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8 kg", [("mass_kg", 8)]),
        ("600 kg/1,320 lb box", [("mass_kg", 600)]),
        ("8 kg/m", []),
        ("600\u2011kg crate", [("mass_kg", 600)]),
        ("2 m 50 cm wide", [("length_m", 2.5)]),
        ("1 m and 50 cm kerbs", [("length_m", 1), ("length_m", 0.5)]),
        ("1 m 50 wide", [("length_m", 1.5)]),
        ("5ft6in wide", [("length_m", 1.6764)]),
        ("3 nm off, 1.2 nautical miles", [("length_m", 5556), ("length_m", 2222.4)]),
        ("20 gallons", [("mass_kg", 75.708236)]),
        ("a force-8 wind", [("speed_kmh", 68)]),
        ("force 6 to 7 winds", [("speed_kmh", 56)]),
        ("8-Beaufort gusts", [("speed_kmh", 68)]),
        ("wind F5", [("speed_kmh", 34)]),
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
        ("8 k\u0130los, f\u0130ve kg", [("mass_kg", 8), ("mass_kg", 5)]),
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
    assert_read(text, expected)


def assert_read(text: str, expected: list[tuple[str, float]]) -> None:
    found = [(mention.kind, mention.value) for mention in find_quantities(text)]
    assert [kind for kind, _ in found] == [kind for kind, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected])


@pytest.mark.parametrize(
    ("text", "kmh"),
    [
        ("wind speed is 80 kilometres per hour", 80),
        ("12 km an hour", 12),
        ("60 miles per hour", 96.56064),
        ("gusts of 50 miles an hour", 80.4672),
        ("sixty-mile-an-hour gusts", 96.56064),
        ("80 kilometres/h", 80),
        ("25 metres per second", 90),
        ("twenty metres a second", 72),
        ("100 feet per minute", 1.8288),
    ],
)
def test_a_length_in_a_time_is_a_speed(text: str, kmh: float) -> None:
    assert_read(text, [("speed_kmh", kmh)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on the 21st", []),
        ("12 St Mary's Road", []),
        ("nine stones and two old oaks, a stone circle, one stone", []),
        ("a stone and a half of flour", [("mass_kg", 9.52544)]),
        ("at 1400 hours, 0412 hrs, 2230h", []),
        ("for 1:30 hours", []),
        ("once a day, three times a day", []),
        ("30 minutes a day", [("hours", 0.5)]),
        ("for a day", [("hours", 24)]),
        ("the valve marked '1200'", []),
        ("12 Stone Street, 21 Mile End Road", []),
        ("a 4K camera, plate 8K", []),
        ("at 17 h", []),
        ("four M12 bolts to 80 Nm", []),
        ("building F8, fuse F12, task force 9", []),
        ("60 wind turbines, wind 65%", []),
        ("the 1st floor, 51st street, the 101ST", []),
        ("11st", [("mass_kg", 69.853225)]),
        ("21 st", [("mass_kg", 133.356157)]),
        ("Anton is afoot", []),
        ("£20k, €1.2 m", []),
        ("half mud half stone, half day tickets", []),
        ("five or so and half the crew", []),
        ("at 14h30", []),
        ("4 in deep snow", []),
        ('room "12" is closed', []),
    ],
)
def test_what_looks_like_a_quantity_is_none(text: str, expected: list[tuple[str, float]]) -> None:
    assert_read(text, expected)


@pytest.mark.parametrize(
    ("text", "value", "low"),
    [
        ("10-12 kg", 12, 10),
        ("5 – 10 kg", 10, 5),
        ("between 5 and 10 kg", 10, 5),
        ("between ten and twelve kilos", 12, 10),
        ("twenty-five to thirty kilos", 30, 25),
        ("two to two and a half kilos", 2.5, 2),
        ("1½ to 2 kg", 2, 1.5),
        ("18..20 kg", 20, 18),
        ("25 ± 1 kg", 26, 24),
        ("0.6 x 3 m duct", 3, 0.6),
        ("3 x 20 kg crates", 20, None),
        ("from pier 9 to 5 kg", 5, None),
        ("between a hundred and two hundred kilos", 200, None),
        ("one or two hundred kilos", 200, None),
        ("at four, six and eight kilos", 8, None),
        ("one hundred and two hundred kilos", 200, None),
        ("twenty-five kilos", 25, None),
    ],
)
def test_of_a_range_the_larger_end_counts(text: str, value: float, low: float | None) -> None:
    (mention,) = find_quantities(text)
    assert (mention.value, mention.low) == (value, low)
    assert mention.least == (value if low is None else low)


@pytest.mark.parametrize(
    ("text", "kg"),
    [
        ("6 hundred kg", 600),
        ("5 or 6 hundred kilos", 600),
        ("5 thousand kg", 5000),
        ("a couple of hundred kilos", 200),
        ("a couple of thousand kilos", 2000),
        ("a couple kilos", 2),
        ("half a thousand kilos", 500),
        ("one thousand, two hundred kilos", 1200),
        ("25+ kg", 25),
        ("600\u2013kg crate", 600),
        ("two dozen kilos", 24),
        ("fifty-odd kilos", 50),
        ("six hundred and one-half kilos", 600.5),
        ("two metric tons", 2000),
        ("10 000 kg", 10_000),
        ("1,234,567 kg", 1_234_567),
        ("1'500 kg", 1500),
        ("1\u00a0500 kg", 1500),
        ("1\u2009500 kg", 1500),
        ("1\u202f500 kg", 1500),
        ("the 1 500 kg crate", 1500),
        ("carry 1 500 kg of sand", 1500),
        ("pallet 6 310 kg", 310),
        ("props, 3 200 kg each", 200),
        ("0,500 kg", 0.5),
        (".5 kg", 0.5),
        ("3/4 tonne", 750),
        ("2 1/4 tonnes", 2250),
        ("2-1/2 tonnes", 2500),
        ("1⁄2 tonne", 500),
        ("half tonne", 500),
        ("a quarter tonne", 250),
        ("three quarter tonne", 750),
        ("two thirds of a tonne", 2000 / 3),
        ("two-and-a-half-tonne", 2500),
        ("ten and three quarter tonnes", 10_750),
        ("half a dozen kilos", 6),
        ("one-two-zero kilos", 120),
        ("one point two five kilos", 1.25),
    ],
)
def test_reads_thousands_and_parts(text: str, kg: float) -> None:
    assert_read(text, [("mass_kg", kg)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two hours and thirty minutes", [("hours", 2.5)]),
        ("2 h 45 min", [("hours", 2.75)]),
        ("half an hour and fifteen minutes", [("hours", 0.75)]),
        ("two days, 3 hours and 30 minutes", [("hours", 48), ("hours", 3.5)]),
        ("1h30", [("hours", 1.5)]),
        ("for 1 h 45.", [("hours", 1.75)]),
        ("an hour and three quarters", [("hours", 1.75)]),
        ("2 stone 6 lb", [("mass_kg", 15.422141)]),
        ("6'2\"", [("length_m", 1.8796)]),
        ("6 ft 2 in tall", [("length_m", 1.8796)]),
        ("3 km, 500 m of climb", [("length_m", 3000), ("length_m", 500)]),
        ("an hour and ninety minutes", [("hours", 1), ("hours", 1.5)]),
        ("2 to 3 h 30 min", [("hours", 3), ("hours", 0.5)]),
    ],
)
def test_two_units_of_one_quantity_are_one_number(
    text: str, expected: list[tuple[str, float]]
) -> None:
    assert_read(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 in wide", [0.762]),
        ('30" wide', [0.762]),
        ("a 30 in wide gap", [0.762]),
        ("30 in wide streets", []),
    ],
)
def test_an_inch_is_told_from_a_word(text: str, expected: list[float]) -> None:
    assert_read(text, [("length_m", value) for value in expected])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wind speed of 70", [70]),
        ("wind speed: 70", [70]),
        ("winds 20 to 30", [30]),
        ("wind: 60, wind blows at 70, gusts near 80", [60, 70, 80]),
        ("wind ten, gusting sixty-five, gusts of a hundred and ten", [10, 65, 110]),
        ("wind seventy-two knots", [133.344]),
        ("35 knots gusting 50", [64.82, 92.6]),
        ("wind 60/80, wind 240/35kt", [80, 64.82]),
        ("winds of 70 km", [70]),
        ("gusting F6", [44]),
        ("winds from 270, winds from 270 at 15", [15]),
        ("no wind: 60 crates", []),
        ("winds of 300 degrees at 20 km/h", [20]),
        ("wind 270 at 15 knots", [27.78]),
        ("wind 270 at 15", [15]),
        ("winds at 12 noon, gusts at 10 am, wind at 2 o'clock", []),
    ],
)
def test_reads_the_wind_and_not_where_it_comes_from(text: str, expected: list[float]) -> None:
    assert_read(text, [("speed_kmh", value) for value in expected])


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
        "🚁", "'", "in", "the", ".", "/", "st", "force 9", "a couple of", "\ud800", "\x00",
        "point five", "between", "and", "to", "per hour", "⁄", "3/4", '"', "h30", " 000", "stone",
        "lb", "thirds", "İ",
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


@pytest.mark.parametrize(
    ("text", "low", "value"),
    [
        ("a crate of 7 or 4 kg", 4.0, 7.0),
        ("between 20 and 10 kg", 10.0, 20.0),
        ("from pier 9 to 5 kg", None, 5.0),
    ],
)
def test_a_range_may_be_told_from_its_larger_end(
    text: str, low: float | None, value: float
) -> None:
    (mention,) = find_quantities(text)
    assert (mention.low, mention.value) == (low, value)


@pytest.mark.parametrize(
    ("request_", "line", "is_stated"),
    [
        ("carry the 8 kg pump", "load 8 kg", True),
        ("carry the 8 kg pump", "load 9 kg", False),
        ("carry the 8 kg pump", "8 m away", False),
        ("4 to 8 kg", "load 4 kg, 8 kg at most", True),
        ("4 to 8 kg", "load 6 kg", False),
        ("400 yards off", "366 m away", True),
        ("no number", "none here", True),
        ("", "load 8 kg", False),
    ],
)
def test_a_line_states_what_the_request_does(request_: str, line: str, is_stated: bool) -> None:
    assert states(request_, line) is is_stated
