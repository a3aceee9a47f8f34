"""Mistyped words are read as meant; what is known, a name, a number or a robot's word stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from embervlm import EmberVLM
from embervlm.evaluation.robustness import with_typos
from embervlm.scenario import Feedback, Scenario
from embervlm.spelling import Spelling, one_slip_away, shipped
from embervlm.training.spelling import learn

FEW = Spelling.of_counts(["larder", "moat"], {"ladder": 40, "bridge": 90, "boat": 60, "stands": 5})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("the brigde stands", "the bridge stands"),
        ("the bridgge stnds", "the bridge stands"),
        ("Brideg", "Bridge"),
        ("THE BRIDG STANDS", "THE BRIDGE STANDS"),
        ("a boat, a moat", "a boat, a moat"),
        ("the larder", "the larder"),
        ("call Bridgs now", "call Bridgs now"),  # a name
        ("the BRIDG unit", "the BRIDG unit"),  # an abbreviation
        ("bot", "bot"),  # too short to be sure
        ("a brödge", "a brödge"),  # another language
        ("zzzzzzz 12 kg", "zzzzzzz 12 kg"),
        ("", ""),
    ],
)
def test_reads_what_was_meant(typed: str, meant: str) -> None:
    assert FEW.read(typed)[0] == meant


def test_names_what_it_read_otherwise() -> None:
    assert FEW.read("Brigde or boatt?")[1] == {"Brigde": "Bridge", "boatt": "boat"}


def test_likelier_words_and_slips_win() -> None:
    spelling = Spelling.of_counts([], {"carry": 100, "curry": 10, "cart": 50, "care": 50})
    assert spelling.read("czrry")[0] == "carry"
    # "csrt" is a key beside in "cart"; "care" is two slips away.
    assert spelling.read("csrt")[0] == "cart"


def test_every_slip_of_the_evaluation_is_one_slip() -> None:
    drawn = random.Random(5)
    for _ in range(300):
        typed = with_typos("bridge", drawn)
        assert typed == "bridge" or "bridge" in one_slip_away(typed)


def test_words_of_the_fleet_stay() -> None:
    assert FEW.read("send bridgo", {"bridgo"})[0] == "send bridgo"


def test_another_language_stays() -> None:
    text = "prosze sprawdzic dach szkoly przed deszczem i zglosic szkody burzowe"
    assert shipped().read(text) == (text, {})


def test_a_long_hostile_request_ends_and_is_bounded() -> None:
    text = " ".join("".join(random.Random(i).choices("qxzjk", k=20)) for i in range(190))
    assert FEW.read(text) == (text, {})


def test_is_kept_and_read_back(tmp_path: Path) -> None:
    spelling = learn(["look at the bridge"] * 3 + ["a moat"], ["Other words, than these"])
    spelling.save(tmp_path / "words.npz")
    again = Spelling.load(tmp_path / "words.npz")
    assert len(again) == 10
    assert again.read("lok at the bridg of othr words")[0] == "lok at the bridge of othr words"
    (tmp_path / "words.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="holds no list of words"):
        Spelling.load(tmp_path / "words.npz")


def test_a_decision_survives_typos_and_says_so() -> None:
    model = EmberVLM.from_pretrained()
    right = model.decide(Scenario("Photograph the cracked bridge from above before it gets dark."))
    typed = Scenario("Photogarph the crackedd brigde from aboce before it gets dark.")
    decision = model.decide(typed)
    assert (decision.robots, decision.confidence) == (right.robots, right.confidence)
    assert decision.read_as["brigde"] == "bridge"
    assert decision.scenario == typed
    assert decision.to_dict()["read_as"] == dict(decision.read_as)
    assert right.read_as == {}


def test_a_lesson_on_a_mistyped_request_is_found_again() -> None:
    selector = EmberVLM.from_pretrained()
    typed = Scenario("Look along the corridr of the scool for wet floors.")
    selector.learn(selector.decide(typed), Feedback(["Humanoid"]))
    assert selector.decide(typed).robots == ("Humanoid",)


def test_clean_requests_are_hardly_touched() -> None:
    from embervlm.data.scenarios import load

    tasks = [row["task"] for row in load("scenarios", "validation")]
    touched = [task for task in tasks if shipped().read(task)[1]]
    assert len(touched) <= 0.03 * len(tasks)


def test_a_long_text_of_another_language_stays_as_a_whole() -> None:
    syllables = ("ka", "lo", "ti", "ve", "nu", "sa", "di")
    words = [a + b + c for a in syllables for b in syllables for c in syllables][:300]
    text = " ".join(words)
    assert shipped().read(text) == (text, {})
