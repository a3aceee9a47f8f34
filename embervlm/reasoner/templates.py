"""The word problems that can be simulated: eight kinds, each with the mistake that it invites.

    {name}      a number that is drawn
    steps       each of two numbers: drawn ones by name, earlier results as s1, s2, or constants
    at          the step in which the typical mistake is made, from 0
    lesson      what would have helped, true of all problems of the kind, without any number of one
    mislesson   the wrong rule that leads to the mistake
    asked       what to look at so that no step is left out

The words of the kinds differ, so that a lesson is found by the words of its own kind.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@dataclass(frozen=True)
class Step:
    """One calculation and the words before it."""

    says: str
    left: str
    operation: str
    right: str


@dataclass(frozen=True)
class Template:
    """A kind of problem; see the module."""

    kind: str
    about: str
    text: str
    numbers: Mapping[str, Sequence[int]]
    steps: tuple[Step, ...]
    at: int
    lesson: str
    mislesson: str
    asked: str


TEMPLATES = (
    Template(
        "discount",
        "discounts",
        "A lamp has a price of {price} dollars, and a shop gives a discount of {percent} percent. "
        "A customer also pays {post} dollars for delivery. How many dollars are paid in all?",
        {"price": range(40, 401, 20), "percent": (5, 10, 15, 20, 25, 30), "post": range(3, 20)},
        (
            Step("The discount, hundredfold, is", "price", "*", "percent"),
            Step("The discount is", "s1", "/", "100"),
            Step("The lamp costs after the discount", "price", "-", "s2"),
            Step("With delivery the customer pays", "s3", "+", "post"),
        ),
        2,
        "A discount off a price is subtracted from the price.",
        "A discount off a price is added to the price.",
        "After the discount, see whether delivery is still to be paid.",
    ),
    Template(
        "travel",
        "travel times",
        "A train travels at {speed} kilometres an hour for {hours} hours, and then another {rest} "
        "kilometres. How long is the whole journey in kilometres?",
        {"speed": range(40, 161, 5), "hours": range(2, 9), "rest": range(5, 60)},
        (
            Step("At that speed the train travels", "speed", "*", "hours"),
            Step("The whole journey is", "s1", "+", "rest"),
        ),
        0,
        "The kilometres of a journey at one speed are the speed times the hours.",
        "The kilometres of a journey are the speed plus the hours.",
        "See whether a journey has a second part before you end.",
    ),
    Template(
        "sharing",
        "sharing",
        "{boxes} boxes hold {each} sweets each. {children} children share all sweets equally. How "
        "many sweets does each child get?",
        {"boxes": range(2, 13), "each": range(6, 31), "children": range(2, 10)},
        (
            Step("The boxes hold", "boxes", "*", "each"),
            Step("Each child gets", "s1", "/", "children"),
        ),
        1,
        "Sweets that children share equally are divided by the number of children.",
        "Sweets that children share are multiplied by the number of children.",
        "A total of sweets is no answer where a child's share is asked for.",
    ),
    Template(
        "wages",
        "wages",
        "A gardener earns {wage} euros per day and works {days} days a week for {weeks} weeks. The "
        "tools cost {tools} euros. What remains of the earnings, in euros?",
        {"wage": range(60, 200), "days": range(2, 7), "weeks": range(2, 9), "tools": range(10, 99)},
        (
            Step("The gardener works", "days", "*", "weeks"),
            Step("The earnings are", "s1", "*", "wage"),
            Step("After the tools there remain", "s2", "-", "tools"),
        ),
        2,
        "What a gardener spends on tools is taken away from the earnings.",
        "What a gardener spends on tools comes on top of the earnings.",
        "Earnings are not what remains: see whether something was spent on tools.",
    ),
    Template(
        "recipe",
        "recipes",
        "A recipe for {people} guests needs {grams} grams of flour. A cook bakes for {more} guests "
        "instead. How many grams of flour are needed?",
        {"people": range(2, 9), "grams": range(100, 1001, 20), "more": range(9, 31)},
        (
            Step("One guest needs flour of", "grams", "/", "people"),
            Step("All guests need flour of", "s1", "*", "more"),
        ),
        1,
        "Flour for more guests is the flour for one guest times the guests.",
        "Flour for more guests is the flour for one guest plus the guests.",
        "The flour for one guest is no answer: multiply for all of them.",
    ),
    Template(
        "area",
        "areas",
        "A meadow is {length} metres long and {width} metres wide. A pond covers {pond} square "
        "metres of it. How many square metres are grass?",
        {"length": range(20, 120), "width": range(10, 90), "pond": range(20, 190)},
        (
            Step("The meadow covers", "length", "*", "width"),
            Step("The grass covers", "s1", "-", "pond"),
        ),
        0,
        "The square metres of a meadow are its length times its width.",
        "The square metres of a meadow are its length plus its width.",
        "A meadow with a pond has less grass than its whole ground.",
    ),
    Template(
        "ages",
        "ages",
        "Ruth is {years} years old. Her uncle is {times} times as old as she is, and her "
        "grandmother is {gap} years older than the uncle. How old is the grandmother?",
        {"years": range(5, 20), "times": range(2, 5), "gap": range(15, 35)},
        (
            Step("The uncle's age is", "years", "*", "times"),
            Step("The grandmother's age is", "s1", "+", "gap"),
        ),
        1,
        "A grandmother who is older than an uncle has his age plus the gap.",
        "A grandmother who is older than an uncle has his age minus the gap.",
        "The uncle's age is no answer where the grandmother's is asked for.",
    ),
    Template(
        "tank",
        "tanks",
        "A pump fills a tank with {inflow} litres a minute while a leak loses {outflow} litres a "
        "minute. How many litres are in the empty tank after {minutes} minutes?",
        {"inflow": range(20, 90), "outflow": range(2, 19), "minutes": range(3, 60)},
        (
            Step("Each minute the tank gains", "inflow", "-", "outflow"),
            Step("After that time it holds", "s1", "*", "minutes"),
        ),
        0,
        "Litres that leak out of a tank are subtracted from the litres that a pump brings.",
        "Litres that leak out of a tank are added to the litres that a pump brings.",
        "What a tank gains in one minute is no answer: multiply by the minutes.",
    ),
)
