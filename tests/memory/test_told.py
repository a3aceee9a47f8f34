"""What requests tell in so many words keeps those apart that a network reads alike."""

import pytest

from embervlm.fleet import Fleet
from embervlm.memory.told import told_in

FLEET = Fleet.default()


def agree(one: str, other: str) -> bool:
    return told_in(one, FLEET).agrees(told_in(other, FLEET))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("look at hall 3", "please look at hall three"),
        ("look at hall 3", "look at the 3rd hall"),
        ("take 2 boxes to gate 005", "to gate five, two boxes"),
        ("bring the 8 kg pump", "bring the pump of eight kilograms"),
        ("bring the pump", "bring the 8 kg pump"),
        ("cores every ten, depth 22", "cores every ten metres, 22 m deep"),
        ("fetch 1,200 bricks", "fetch 1200 bricks"),
        ("send the drone up", "get quadcopters up"),
        ("look underwater at the hull", "look at the hull under water"),
        ("a drone of engines, look in the shed", "loud engines, look in the shed"),
        ("look in hall no. 3, no wind", "look in hall 3, the air is still"),
        ("you can't hear a thing, look there", "it is loud, look there"),
        ("they do not hear us, look there", "look there"),
        ("the one by the door, first", "it is by the door"),
    ],
)
def test_the_same_told_in_other_words(one: str, other: str) -> None:
    assert agree(one, other)
    assert agree(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("look at hall 3", "look at hall 30"),
        ("look at hall 3", "look at all halls"),
        ("check level 2", "check level -2"),
        ("check the second floor", "check the third floor"),
        ("wait at gate B12", "wait at gate B13"),
        ("take two boxes", "take twenty boxes"),
        ("send the drone", "send the humanoid"),
        ("send the drone", "send the robot dog"),
        ("send the drone", "do not send the drone"),
        ("send the drone", "please don't send the drone"),
        ("send the drone", "send anything but the drone"),
        ("look along the hedge", "never look along the hedge"),
        ("look along the hedge", "look along no hedge"),
        ("search the cellar", "search the cellar, it is on fire"),
        ("search the cellar", "search the cellar through the smoke"),
        ("search the cellar", "search the flooded cellar"),
    ],
)
def test_something_else_is_told(one: str, other: str) -> None:
    assert not agree(one, other)
    assert not agree(other, one)
