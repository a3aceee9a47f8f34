"""The suites' rules, held against values worked by hand."""

from __future__ import annotations

import random

import pytest

from embervlm.suites.scorers import (
    anls,
    chance_of_all,
    contains,
    edit_distance,
    hallusion,
    mme,
    option_letter,
    relaxed,
    vqa_accuracy,
    vqa_words,
    yes_or_no,
    yes_or_no_word,
)

PETS = ["a dog", "a cat", "a red bird"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("B. a cat", "B"),
        ("The answer is C.", "C"),
        ("The answer is A", "A"),
        ("A. a dog", "A"),
        ("A", "A"),
        ("A cat sits on the mat", "B"),
        ("a cat", "B"),
        ("It is a red bird", "C"),
        ("B or C", None),
        ("B or C: a red bird", "C"),
        ("C, for it is in a tree", None),
        ("I see a dog, it is A", "A"),
        ("I think A is in it", "A"),
        ("a dog and a cat", None),
        ("D", None),
        ("a horse", None),
        ("", None),
        ("a cat " + "and so on " * 20, None),
    ],
)
def test_option_letter(text: str, letter: str | None) -> None:
    assert option_letter(text, PETS) == letter


@pytest.mark.parametrize(
    ("text", "of_four", "of_words"),
    [
        ("Yes", "yes", "yes"),
        ("no.", "no", "no"),
        ("Y", "yes", None),
        (" Yes, it is.", "yes", "yes"),
        ("It is, yes", None, "yes"),
        ("yes and no", "yes", None),
        ("Not at all", "no", None),
        ("maybe", None, None),
    ],
)
def test_yes_or_no(text: str, of_four: str | None, of_words: str | None) -> None:
    assert (yes_or_no(text), yes_or_no_word(text)) == (of_four, of_words)


def test_mme_by_hand() -> None:
    rows = [
        ("count", "1", True), ("count", "1", True), ("count", "2", True), ("count", "2", False),
        ("code_reasoning", "3", False), ("code_reasoning", "3", True),
    ]  # fmt: skip
    scores = mme(rows)
    # count: 3 of 4 questions, 1 of 2 pictures; code: 1 of 2 questions, 0 of 1 picture.
    assert scores["score count"] == scores["perception"] == 75 + 50
    assert scores["score code_reasoning"] == scores["cognition"] == 50
    assert scores["acc"] == pytest.approx(100 * 4 / 6)
    assert scores["acc+"] == pytest.approx(100 / 3)
    perfect = mme([(kind, pic, True) for kind in ("OCR", "scene") for pic in "ab" for _ in "12"])
    assert perfect["perception"] == 400


def test_vqa_accuracy_by_hand() -> None:
    people = ["yes"] * 8 + ["no"] * 2
    assert vqa_accuracy("Yes.", people) == 1
    # "no": the eight others leave two who say it, 2/3; each of the two leaves one, 1/3.
    assert vqa_accuracy("no", people) == pytest.approx((8 * 2 / 3 + 2 * 1 / 3) / 10)
    assert vqa_accuracy("red", people) == 0
    # One of ten: nine leave-one-outs have 1/3, his own has 0.
    assert vqa_accuracy("blue", ["blue"] + ["red"] * 9) == pytest.approx(0.3)
    assert vqa_accuracy("a cat", ["The cat"]) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Two dogs.", "2 dogs"),
        ("1,000 people", "1000 people"),
        ("it's 3.5 m", "its 3.5 m"),
        ("None", "0"),
        ("hello, world!", "hello world"),
    ],
)
def test_vqa_words(text: str, words: str) -> None:
    assert vqa_words(text) == words


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("105", "100", True),
        ("95", "100", True),
        ("105.1", "100", False),
        ("14%", "0.14", True),
        ("14", "14%", False),
        ("Red", "red", True),
        ("red one", "red", False),
        ("0", "0", True),
        ("0.1", "0", False),
        ("-104", "-100", True),
    ],
)
def test_relaxed(text: str, answer: str, right: bool) -> None:
    assert relaxed(text, answer) is right


def test_anls_by_hand() -> None:
    assert edit_distance("", "abc") == 3
    assert edit_distance("flaw", "lawn") == 2
    assert anls("New  York", ["new york"]) == 1
    assert anls("new yark", ["New York"]) == pytest.approx(7 / 8)
    assert anls("york", ["new york"]) == 0.5
    assert anls("yor", ["new york"]) == 0, "below a half counts nothing"
    assert anls("boston", ["new york", "Bostan"]) == pytest.approx(5 / 6), "the best one"
    assert anls("", [""]) == 1


def test_contains_by_hand() -> None:
    assert contains("The sign says OPEN now", ["open"])
    assert not contains("closed", ["open", "opened"])
    assert contains("ABC１２", ["abc12"]), "full-width forms"
    assert contains("x ^ 2 + 1", ["x^2+1"], formula=True)
    assert not contains("X^2", ["x^2"], formula=True), "capitals count in formulas"


def test_hallusion_by_hand() -> None:
    rows = [
        ("fig 1", "q 1", True), ("fig 1", "q 2", True),
        ("fig 2", "q 1", True), ("fig 2", "q 2", False),
    ]  # fmt: skip
    assert hallusion(rows) == {"aAcc": 75, "fAcc": 50, "qAcc": 50}
    assert chance_of_all({"fig 1": 2, "fig 2": 1}) == pytest.approx(100 * (0.25 + 0.5) / 2)


def test_the_rules_score_as_vlmevalkits_own() -> None:
    """Where VLMEvalKit is installed (it is none of our dependencies)."""
    matching = pytest.importorskip("vlmeval.utils.matching_util")
    from vlmeval.dataset.utils.vqa_eval import hit_calculate, process_line
    from vlmeval.dataset.utils.yorn import YOrN_Extraction

    draw = random.Random(1)
    words = [*"ABCD", "A.", "(B)", "C:", "**D**", "answer", "is", "the", "or", "Yes", "no,", *PETS]
    short = [
        "two",
        "2",
        "the dog",
        "dog",
        "1,000",
        "1000",
        "don't",
        "5%",
        "0.05",
        "100",
        "103",
        "106",
    ]
    for _ in range(2000):
        text = " ".join(draw.choices(words, k=draw.randint(1, 8)))
        found = matching.can_infer(text, dict(zip("ABC", PETS, strict=True)))
        assert option_letter(text, PETS) == (found or None), text
        assert yes_or_no_word(text) == {"Yes": "yes", "No": "no"}.get(YOrN_Extraction(text)), text
        said, answers = draw.choice(short), draw.choices(short, k=10)
        for suite, method, ours in (
            ("TextVQA", "vqa_score", vqa_accuracy(said, answers)),
            ("ChartQA", "relaxed_accuracy", max(relaxed(said, one) for one in answers)),
            ("DocVQA", "anls", anls(said, answers)),
        ):
            theirs = process_line({"answer": str(answers), "prediction": said}, method)
            assert ours == pytest.approx(hit_calculate([theirs], suite)[0]), (suite, said, answers)
