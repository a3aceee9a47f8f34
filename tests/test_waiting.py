"""Words that join two steps say whether the second waits."""

from pathlib import Path

import numpy as np
import pytest

from embervlm.waiting import (
    FEATURES,
    ROWS,
    SHIPPED,
    Stand,
    Weights,
    features,
    ngrams,
    shipped,
    waiting_logit,
)


def two(second: str, *, first: str = "Look at the pump gauge.", action: str = "handle") -> Stand:
    return Stand(
        [first, second],
        [0, 1],
        [frozenset({0}), frozenset({1})],
        [frozenset({"look"}), frozenset({action})],
        [0, 2],
    )


@pytest.mark.parametrize("words", ["then shut the valve", "once that is known, shut the valve"])
def test_then_and_once_make_it_wait(words: str) -> None:
    assert waiting_logit(two(words), 1, 0) > 0


@pytest.mark.parametrize("words", ["meanwhile talk to the crew", "at the same time calm them"])
def test_meanwhile_does_not(words: str) -> None:
    assert waiting_logit(two(words, action="talk"), 1, 0) < 0


def test_a_condition_that_names_what_the_other_finds_is_a_sign() -> None:
    signs = dict(zip(FEATURES, features(two("when the gauge is read, shut it"), 1, 0), strict=True))
    assert signs["condition names it"] == 1
    other = dict(zip(FEATURES, features(two("when the tide is out, shut it"), 1, 0), strict=True))
    assert other["condition names it"] == 0
    assert waiting_logit(two("when the gauge is read, shut it"), 1, 0) > waiting_logit(
        two("when the tide is out, shut it"), 1, 0
    )


def test_ngrams_tell_the_two_steps_apart() -> None:
    stand = two("then shut the valve")
    rows = ngrams(stand, 1, 0)
    assert rows == sorted(set(rows))
    assert 0 <= rows[0] < rows[-1] < ROWS
    assert ngrams(two("shut the valve"), 1, 0) != rows
    assert ngrams(two("then shut the valve", action="carry"), 1, 0) != rows


def test_weights_come_back_from_their_file_and_count(tmp_path: Path) -> None:
    stand = two("then shut the valve")
    rows_N = np.zeros(ROWS, np.float32)
    rows_N[ngrams(stand, 1, 0)[0]] = 2
    weights = Weights(np.zeros(len(FEATURES), np.float32), rows_N)
    weights.save(tmp_path / "waiting.npz")
    again = Weights.load(tmp_path / "waiting.npz")
    none = Weights(weights.signs_F, np.zeros(ROWS, np.float32))
    more = waiting_logit(stand, 1, 0, again) - waiting_logit(stand, 1, 0, none)
    assert more == pytest.approx(2)
    assert Weights.load(SHIPPED).signs_F == pytest.approx(shipped().signs_F)


def test_a_file_that_is_none_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing.npz does not say how much signs count"):
        Weights.load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "short.npz", signs=np.zeros(3), rows=np.zeros(ROWS))
    with pytest.raises(ValueError, match=r"\(3,\) signs .* expected 29"):
        Weights.load(tmp_path / "short.npz")
