"""Damage does what it says and no more, and its figures are of pairs."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeBackend
from PIL import Image

from embervlm.backends.base import Array, Proposal
from embervlm.evaluation.cases import Case, photo_cases
from embervlm.evaluation.metrics import Answer, Truth
from embervlm.evaluation.robustness import (
    CHANGES,
    JPEG_QUALITY,
    SIDE_PX,
    TOLD,
    WORDS_PER_TYPO,
    compare,
    photo_rows,
    typo_rows,
    with_typos,
)
from embervlm.imaging import load_image
from embervlm.scenario import Scenario
from embervlm.selector import Selector

WHEELS, LEGS = 8, 16
STRANGE = "zvrknq"
SQUARE = np.random.default_rng(0).integers(90, 160, (SIDE_PX, SIDE_PX, 3), np.uint8)


def looker() -> Selector:
    """Return a selector that sends legs into the dark and wheels into the light, whatever the
    words but two, which it knows by their letters; one of them is in no list of words."""

    def say(proposal: Proposal, task: str | None, pixels: Array | None) -> Proposal:
        subsets = np.zeros(32, np.float32)
        bright = pixels is not None and pixels.mean() > -0.4
        known = any(word in (task or "") for word in ("field", STRANGE))
        subsets[WHEELS if bright or known else LEGS] = 4
        return replace(proposal, subsets=subsets)

    return Selector(FakeBackend(say))


def case(task: str, robot: str, name: str = "a") -> Case:
    return Case(Scenario(task), Truth(name, task, (robot,), robot))


@pytest.mark.parametrize("words", [2, 8, 16, 40])
def test_one_typo_for_each_eight_words_and_numbers_stay(words: int) -> None:
    task = " ".join(["bring"] * (words - 1) + ["300kg"])
    changed = with_typos(task, random.Random(1))
    assert changed.split()[-1] == "300kg"
    differ = sum(a != b for a, b in zip(task.split(), changed.split(), strict=True))
    assert differ == max(1, round(words / WORDS_PER_TYPO))
    assert with_typos(task, random.Random(1)) == changed


def test_slips_are_of_one_letter_and_never_the_first() -> None:
    found = {with_typos("bridge", random.Random(seed)) for seed in range(200)}
    assert "bridge" not in found
    assert all(word[0] == "b" and abs(len(word) - 6) <= 1 for word in found)
    assert {len(word) for word in found} == {5, 6, 7}
    assert with_typos("in 7 to", random.Random(0)) == "in 7 to"


def test_strengths_are_those_that_are_stated() -> None:
    changed = {}
    for name, change in CHANGES.items():
        data = change(SQUARE, np.random.default_rng(1))
        changed[name] = load_image(data).astype(float)
        assert changed[name].shape == SQUARE.shape
        assert change(SQUARE, np.random.default_rng(1)) == data
    before = SQUARE.astype(float)
    assert changed["dark"].mean() == pytest.approx(before.mean() / 4, abs=1)
    assert (changed["noisy"] - before).std() == pytest.approx(40, rel=0.03)
    assert changed["blurred"].std() < 0.2 * before.std()
    assert changed["turned"].min() > 0.5 * before.min()
    painted = (changed[TOLD] != before).any(2)
    columns = np.flatnonzero(painted.any(0))
    assert 0.78 * SIDE_PX < columns[-1] - columns[0] < 0.86 * SIDE_PX
    assert painted.any(1).mean() < 0.25
    assert JPEG_QUALITY == 10 and (changed["coarse JPEG"] != before).any()


def test_figures_are_of_pairs() -> None:
    cases = [case("a", "Drone", "1"), case("b", "Drone", "2"), case("c", "Humanoid", "3")]
    drone, humanoid = (Answer((name,), name) for name in ("Drone", "Humanoid"))
    row = compare(cases, [drone, drone, drone], [drone, humanoid, humanoid])
    assert row["flipped"].value == pytest.approx(2 / 3)
    assert row["cost"].value == pytest.approx(0.0)
    assert row["exact_set"].value == pytest.approx(2 / 3)
    same = compare(cases, [drone] * 3, [drone] * 3)
    assert (same["flipped"].value, same["cost"].low, same["cost"].high) == (0.0, 0.0, 0.0)


def test_typos_cost_what_was_known_by_its_letters() -> None:
    cases = [case(STRANGE, "Robot with Wheels", "1"), case("at", "Robot with Legs", "2")]
    row = typo_rows(looker(), cases)[f"a typo in each {WORDS_PER_TYPO} words"]
    assert (row["flipped"].value, row["cost"].value) == (0.5, 0.5)


def test_typos_cost_nothing_where_the_word_is_read_as_it_was_meant() -> None:
    cases = [case("the field", "Robot with Wheels", "1"), case("at", "Robot with Legs", "2")]
    row = typo_rows(looker(), cases)[f"a typo in each {WORDS_PER_TYPO} words"]
    assert (row["flipped"].value, row["cost"].value) == (0.0, 0.0)


def test_only_the_damage_that_is_seen_flips(small_data: Path) -> None:
    cases = photo_cases("test", small_data / "photos")
    for one in cases:
        Image.new("RGB", (64, 48), (140, 140, 140)).save(str(one.scenario.image))
    rows = photo_rows(looker(), cases)
    assert list(rows) == list(CHANGES)
    assert {name for name, row in rows.items() if row["flipped"].value} == {"dark"}
    assert rows[TOLD]["drawn_to_it"].value == 0.0
