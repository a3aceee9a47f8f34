"""Words that join two steps say whether the second waits."""

import pytest

from embervlm.waiting import FEATURES, Stand, features, waiting_logit


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
