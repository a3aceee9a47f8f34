"""Any fleet is judged by what its robots state, never by their names."""

import random
from dataclasses import replace

import numpy as np
import pytest
from opinion import DRONE, Opinion, one

from embervlm.abilities import Abilities
from embervlm.evaluation.unseen_fleets import able, random_fleet
from embervlm.fleet import NO_ROBOT, Fleet, Robot
from embervlm.scenario import Needs, Scenario
from embervlm.selector import Selector

GRIPPER = Robot(
    "Gecko", "Climbs with a gripper.", capabilities=frozenset({"handle", "height"}),
    environments=frozenset({"airborne"}),
)  # fmt: skip
SNIFFER = Robot(
    "Newt", "Crawls and measures gas.", capabilities=frozenset({"measure", "rubble"}),
    environments=frozenset({"rubble", "confined"}),
)  # fmt: skip


def asked(*actions: str, place: str, flags: tuple[str, ...] = ()) -> Opinion:
    return Opinion({frozenset(): 1.0}, environment=place, actions=actions, flags=flags)


def test_who_can_do_it_is_sent_whatever_the_network_knows_of_default_robots() -> None:
    fleet = Fleet((GRIPPER, SNIFFER))
    for opinion, wanted in (
        (asked("handle", place="airborne", flags=("height",)), "Gecko"),
        (asked("measure", place="rubble", flags=("rubble",)), "Newt"),
        (asked("measure", place="airborne"), NO_ROBOT),
        (asked("handle", "measure", place="airborne"), NO_ROBOT),
        (asked(place="rubble"), NO_ROBOT),
    ):
        decision = Selector(opinion, fleet).decide(Scenario("do it"))
        assert decision.robots == (wanted,)
        assert set(decision.probabilities) == {"Gecko", "Newt", NO_ROBOT}


def test_other_names_and_another_order_give_the_same_robots() -> None:
    rng = random.Random(4)
    opinions = [
        asked("look", place="rough", flags=("mud",)), asked("carry", place="paved"),
        Opinion(one(DRONE), environment="airborne"),
    ]  # fmt: skip
    for fleet in [Fleet.default(), *(random_fleet(rng) for _ in range(30))]:
        order = rng.sample(range(len(fleet)), len(fleet))
        renamed = Fleet(tuple(replace(fleet.robots[i], name=f"unit {i}") for i in order))
        for opinion in opinions:
            plain = Selector(opinion, fleet).decide(Scenario("do it")).robots
            other = Selector(opinion, renamed).decide(Scenario("do it")).robots
            back = [
                fleet.names[int(name.split()[1])] if name != NO_ROBOT else name for name in other
            ]
            assert sorted(back) == sorted(plain)


def test_a_robot_that_cannot_changes_nothing() -> None:
    rng = random.Random(5)
    useless = Robot("Brick", capabilities=frozenset({"talk"}), environments=frozenset({"confined"}))
    for fleet in [Fleet.default(), *(random_fleet(rng) for _ in range(30))]:
        for opinion in (asked("look", place="rough"), Opinion(one(DRONE))):
            plain = Selector(opinion, fleet).decide(Scenario("do it"))
            more = Selector(opinion, Fleet((*fleet.robots, useless))).decide(Scenario("do it"))
            assert more.robots == plain.robots
            assert "talk" not in more.rejected["Brick"]


def test_a_stated_number_rules_out_a_robot_of_any_name() -> None:
    weak = replace(GRIPPER, capabilities=frozenset({"carry", "height"}), limits={"payload_kg": 4})
    opinion = Opinion(
        {frozenset(): 1.0}, environment="airborne", actions=["carry"], roles=["load_kg"]
    )
    for load, wanted in ((4, "Gecko"), (5, NO_ROBOT)):
        decision = Selector(opinion, Fleet((weak,))).decide(Scenario(f"carry {load} kg"))
        assert decision.robots == (wanted,)


def test_chances_are_the_product_of_what_is_lacked() -> None:
    proposal = Opinion(environment="rubble", actions=["measure"]).propose("x", None)
    sure = 1 / (1 + np.exp(-8))
    found = Abilities(Fleet((GRIPPER, SNIFFER))).chances(proposal)
    assert found["Newt"] == pytest.approx(sure, abs=0.01)
    assert found["Gecko"] < 0.01


def test_the_oracle_follows_the_fleet_file() -> None:
    fleet = Fleet((GRIPPER, replace(SNIFFER, limits={"min_width_m": 0.5})))
    assert able(fleet, Needs(("measure",), "rubble")) == {"Newt"}
    assert able(fleet, Needs(("measure",), "rubble", {"width_m": 0.4})) == set()
    assert able(fleet, Needs(("measure",), "airborne")) == set()
    assert able(fleet, Needs()) == set()
    drawn = random_fleet(random.Random(1))
    assert drawn == random_fleet(random.Random(1))
    assert 3 <= len(drawn) <= 12


def test_a_robot_that_must_go_goes_though_it_is_hardly_able() -> None:
    opinion = asked("measure", place="rubble")
    decision = Selector(opinion, Fleet((GRIPPER, SNIFFER))).decide(
        Scenario("measure"), require=["Gecko"]
    )
    assert "Gecko" in decision.robots
    assert decision.ask
    assert decision.probabilities["Gecko"] < 0.01 < decision.probabilities["Newt"]
