"""Answers are judged by what they are, never by what they contain."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from embervlm.reasoner.equations import equations, evaluate, reached
from embervlm.reasoner.judging import final_answer, is_right, number, same
from embervlm.reasoner.metrics import bootstrap, wilson
from embervlm.reasoner.problems import Gold

OPTIONS = ("a red ball", "a blue ball", "12", "1/2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16 - 7 = 9\n#### 9", "9"),
        ("#### 5\nNo, wait.\n#### 6", "6"),
        ("so we get \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{3} is wrong, so \\boxed{4}", "4"),
        ("Answer: 18 eggs", "18 eggs"),
        ("**Answer:** $18", "$18"),
        ("**Final Answer: 7**", "7"),
        ("Therefore, the answer is 42.", "42."),
        ("The final answer is $\\boxed{42}$", "42"),
        ("Answer: 4\nbut 5 = 5", "4"),
        ("42", "42"),
        ("$1,234.50", "$1,234.50"),
        ("I guess 42", None),
        ("it is 42, or 43", None),
        ("", None),
        ("Answer:", None),
        ("\\boxed{never closed", None),
        ("Answer: " + "9" * 5000, None),
    ],
)
def test_a_final_answer_is_read_or_is_none(text: str, expected: str | None) -> None:
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"), ("Answer: (b)", "B"), ("Answer: B. a blue ball", "B"), ("C", "C"),
        ("Answer: a blue ball", "B"), ("Answer: The blue ball", "B"), ("Answer: Option D", "D"),
        ("Answer: 12.0", "C"), ("Answer: 0.5", "D"), ("\\boxed{\\text{B}}", "B"),
        ("Answer: B. a red ball", None), ("Answer: E", None), ("Answer: blue", None),
        ("Answer: A or B", None), ("A ball, I think: B", None),
    ],
)  # fmt: skip
def test_an_option_is_a_letter_or_its_very_words(text: str, letter: str | None) -> None:
    assert final_answer(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,234", "1234"), ("$18", "18"), ("18 dollars", "$18.00"), ("3/4", "0.75"),
        (r"\frac{3}{4}", ".75"), (r"1\frac{1}{2}", "1.5"), ("1 1/2", "3/2"), ("-5", "−5"),
        ("x = 7", "7"), (r"\$1{,}000".replace("{,}", ","), "1000"), ("50%", "50"),
        ("50 percent", "50%"), ("5 kilometres", "5 kilometre"), ("5 km", "5"), ("7.", "7"),
        ("Paris", "paris."), ("the cat", "a cat"), ("[0,  10]", "[0, 10]"), (r"\text{red}", "red"),
        (r"9\text{ cm}", "9 cm"),
    ],
)  # fmt: skip
def test_what_is_the_same(one: str, other: str) -> None:
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("19", "9"), ("9", "19"), ("3 or 4", "3"), ("3 or four", "3"), ("5 km", "5 m"),
        ("12,34", "1234"),
        ("3 million", "3"), ("5k", "5"), ("5x", "5"), ("2 pi", "2"), ("5π", "5"), ("about 5", "5"),
        ("not 5", "5"), ("-5", "5"), ("1/3", "0.33"), ("1/0", "0"), ("catalogue", "cat"), ("", "0"),
        ("five", "5"), ("1e3", "1"), ("3 dozen", "3"), ("5 - 2", "5"),
    ],
)  # fmt: skip
def test_what_is_not_the_same(one: str, other: str) -> None:
    assert not same(one, other)
    assert not same(other, one)


def test_numbers_are_compared_at_the_digits_that_the_data_states() -> None:
    assert is_right("3.14159", Gold(("3.14",), decimals=2))
    assert not is_right("3.16", Gold(("3.14",), decimals=2))
    assert not is_right("3.14159", Gold(("3.14",)))
    assert not is_right(None, Gold(("None",)))
    assert is_right("b", Gold(("a", "B")))


def test_written_numbers_are_read_back() -> None:
    draw = random.Random(0)
    for _ in range(300):
        value = Fraction(draw.randrange(-(10**7), 10**7), draw.choice((1, 10, 100)))
        text = f"{float(value):,.2f}" if value.denominator > 1 else f"{int(value):,}"
        found = number(f"{text} apples")
        assert found == (value, "apple")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs", [True]),
        ("9 * 2 = $18 and 18 / 4 = 4.5", [True, True]),
        ("10 / 3 = 3.33", [True]),
        ("10 / 3 = 3", [False]),
        ("2 × (3 + 4) = 15", [False]),
        ("-16 + 3 = -13", [True]),
        ("- 16 - 3 = 13", [True]),
        ("1,200 * 2 = 2,400", [True]),
        ("2 * 3 = 6 = 12 / 2", [True]),
        ("x + 3 = 7, 2x + 3 = 9, y = 4", []),
        ("8 x 1 1/2 = 12, $350 000 x 5/100 = 17500, 20% * 50 = 10", []),
        ("3 hours * 60 minutes = 180", []),
        ("1 / 0 = 5", []),
        ("100/5 = 5A/5", []),
        ("3/2 = 1.50 + 3", []),
    ],
)
def test_equations_are_recomputed_and_no_wolf_is_cried(text: str, holds: list[bool]) -> None:
    assert [equation.holds for equation in equations(text)] == holds


def test_sums_equal_pythons() -> None:
    draw = random.Random(1)
    for _ in range(200):
        text = str(draw.randrange(1, 99))
        for _ in range(draw.randrange(1, 5)):
            text = f"{text} {draw.choice('+-*/')} {draw.randrange(1, 99)}"
            text = f"({text})" if draw.random() < 0.3 else text
        assert evaluate(text) is not None
        assert float(evaluate(text) or 0) == pytest.approx(eval(text))


def test_hostile_sums_end() -> None:
    assert evaluate("(" * 50_000) is None
    assert len(equations("1 + 1 = 2 " * 10_000)) <= 200
    equations("9" * 100_000 + " = 1")
    equations("1 + " * 50_000 + "= 1")


def test_steps_count_where_they_are_results() -> None:
    steps = ("9", "18", "18")
    assert reached(steps, "16 - 3 - 4 = 9\n9 * 2 = $18") == 2
    assert reached(steps, "3 cows * 3 = 9") == 1, "words between do not hide a result"
    assert reached(steps, "10 + 1 = 9\n9, 18") == 0, "neither a false sum nor a number alone"


def test_wilson_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count, n in ((0, 5), (3, 7), (50, 100), (100, 100)):
        theirs = stats.binomtest(count, n).proportion_ci(method="wilson")
        ours = wilson(count, n)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert wilson(0, 0).value is None


def test_the_bootstrap_draws_whole_problems() -> None:
    together = bootstrap([(5, 5)] * 10 + [(0, 5)] * 10)
    apart = bootstrap([(1, 1)] * 50 + [(0, 1)] * 50)
    assert together.value == apart.value == 0.5
    assert together.high is not None and apart.high is not None
    assert together.high > apart.high, "answers of one problem hang together"
    assert bootstrap([(0, 0)]).value is None
