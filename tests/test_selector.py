"""The network proposes, rules dispose: held against a backend that says what the test wants."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opinion import DIVER, DRONE, HUMANOID, LEGS, WHEELS, Opinion, one

import embervlm
from embervlm import deciding
from embervlm.abilities import Abilities
from embervlm.ember_vlm import EmberVLM
from embervlm.faithfulness import check_line
from embervlm.fleet import ACTIONS, NO_ROBOT, Fleet, Robot
from embervlm.live import FleetState
from embervlm.quantities import find_quantities
from embervlm.reading import Calibration, read_needs
from embervlm.scenario import Feedback, Scenario
from embervlm.selector import Selector


def test_the_set_of_most_weight_is_sent_its_first_in_front() -> None:
    opinion = Opinion({**one(DRONE, LEGS), frozenset({DRONE}): 0.5}, first=LEGS)
    decision = Selector(opinion, own_words=True).decide(Scenario("look at the ridge"))
    assert decision.robots == (LEGS, DRONE)
    assert decision.primary == LEGS
    assert decision.confidence == pytest.approx(2 / 3, abs=1e-3)
    assert decision.probabilities[DRONE] == pytest.approx(1, abs=1e-3)
    assert decision.probabilities[LEGS] == pytest.approx(2 / 3, abs=1e-3)
    assert set(decision.rejected) == {DIVER, HUMANOID, WHEELS}
    assert opinion.told == [(LEGS, DRONE)]


def test_a_broken_limit_moves_the_weight_to_the_rest_of_the_set() -> None:
    opinion = Opinion(
        {frozenset({DRONE, LEGS}): 0.6, frozenset({DRONE}): 0.3, frozenset({HUMANOID}): 0.1},
        roles=["load_kg"],
    )
    decision = Selector(opinion).decide(Scenario("bring the 8 kg pump"))
    assert decision.robots == (LEGS,)
    assert decision.probabilities[DRONE] == 0
    assert decision.probabilities[LEGS] == pytest.approx(0.6, abs=1e-3)
    assert decision.probabilities[NO_ROBOT] == pytest.approx(0.3, abs=1e-3)
    assert decision.rejected[DRONE] == "carries up to 5 kg, asked 8 kg"
    assert decision.needs.quantities == {"load_kg": 8}


@pytest.mark.parametrize(
    ("task", "role", "ruled_out"),
    [
        ("6 kg", "load_kg", {DRONE}),
        ("16 kg", "load_kg", {DRONE, LEGS}),
        ("21 kg", "load_kg", {DRONE, LEGS, HUMANOID}),
        ("half a tonne and 1 kg, a 501 kg load", "load_kg", {DRONE, LEGS, HUMANOID, WHEELS}),
        ("51 km/h", "wind_kmh", {DRONE}),
        ("28 knots", "wind_kmh", {DRONE}),
        ("1.9 m", "width_m", {DRONE}),
        ("41 minutes", "hours", {DRONE}),
        ("40 minutes", "hours", set()),
        ("3 hours", "hours", {DRONE, LEGS}),
        ("9 hours", "hours", {DRONE, LEGS, WHEELS}),
        ("11 cm", "step_cm", {WHEELS}),
        ("1.1 km", "distance_m", {HUMANOID}),
        ("0.4 m", "depth_m", {DIVER}),
        ("301 m", "depth_m", {DIVER}),
    ],
)
def test_a_stated_number_rules_out_by_rule_whatever_the_network_wants(
    task: str, role: str, ruled_out: set[str]
) -> None:
    everyone = Fleet.default().names
    roles = [role] * len(find_quantities(task))
    decision = Selector(Opinion(one(*everyone), roles=roles)).decide(Scenario(task))
    assert set(decision.robots) == set(everyone) - ruled_out


def test_the_smallest_width_and_the_largest_load_count() -> None:
    opinion = Opinion(one(LEGS), roles=["width_m", "width_m", "load_kg", "load_kg"])
    decision = Selector(opinion).decide(Scenario("2 m, then 0.4 m, with 3 kg or 9 kg"))
    assert decision.needs.quantities == {"width_m": 0.4, "load_kg": 9}


def test_of_a_range_the_smaller_width_and_the_larger_load_count() -> None:
    opinion = Opinion(one(LEGS), roles=["width_m", "load_kg"])
    scenario = Scenario("1 to 3 m wide, with 3 to 9 kg")
    decision = Selector(opinion).decide(scenario)
    assert decision.needs.quantities == {"width_m": 1, "load_kg": 9}


def test_a_number_that_is_no_limit_rules_nothing_out() -> None:
    decision = Selector(Opinion(one(DRONE))).decide(Scenario("look for the 80 kg man"))
    assert decision.robots == (DRONE,)
    assert decision.needs.quantities == {}


def test_a_flag_rules_out_only_when_it_is_certain() -> None:
    opinion = Opinion(one(DRONE), flags=["smoke"])
    assert Selector(opinion).decide(Scenario("look")).robots == (NO_ROBOT,)
    opinion.calibration = {"certain_flag": 0.99999}
    assert Selector(opinion).decide(Scenario("look")).robots == (DRONE,)


def test_no_robot_is_reached_by_opinion_and_by_rule() -> None:
    for opinion in (Opinion({frozenset(): 1.0}), Opinion(one(WHEELS), flags=["stairs"])):
        decision = Selector(opinion).decide(Scenario("file my taxes"))
        assert decision.robots == (NO_ROBOT,)
        assert decision.primary == NO_ROBOT
        assert decision.plan == ()
        assert decision.probabilities[NO_ROBOT] > 0.99
        assert set(decision.rejected) == set(Fleet.default().names)
        assert decision.reasoning[3].startswith("Decision: No Robot")


def test_a_robot_that_is_not_at_hand_is_not_sent_even_in_a_team() -> None:
    default = Fleet.default()
    fleet = Fleet((replace(default[DRONE], status="charging"), default[LEGS]))
    for team in (False, True):
        opinion = Opinion(one(DRONE, LEGS), team=team)
        decision = Selector(opinion, fleet).decide(Scenario("look"))
        assert decision.robots == (LEGS,)
        assert "is not ready (charging)" in decision.rejected[DRONE]


def test_an_unknown_robot_is_told_as_the_default_one_that_it_is_most_like() -> None:
    likenesses = {
        "Seal": Robot(
            "Seal",
            capabilities=frozenset({"dive", "sample"}),
            environments=frozenset({"underwater"}),
        ),
        "Kestrel": Robot(
            "Kestrel",
            capabilities=frozenset({"look", "height", "fire"}),
            environments=frozenset({"airborne"}),
        ),
    }
    fleet = Fleet(tuple(likenesses.values()))
    assert Abilities(fleet).slot_of == {"Seal": 1, "Kestrel": 0}
    opinion = Opinion(one(DRONE), environment="airborne", decision="Send the Drone, 99 kg.")
    decision = Selector(opinion, fleet, own_words=True).decide(Scenario("look at the ridge"))
    assert decision.robots == ("Kestrel",)
    assert list(decision.probabilities) == ["Seal", "Kestrel", NO_ROBOT]
    assert opinion.told == [(DRONE,)]
    assert decision.reasoning[3] == "Decision: Send the Kestrel."


def test_a_large_fleet_of_long_names_is_explained_too(reference: object) -> None:
    robots = tuple(
        Robot(f"{'long name ' * 5}{i:03d}", capabilities=frozenset({"look"})) for i in range(200)
    )
    decision = Selector(reference, Fleet(robots), own_words=True).decide(
        Scenario("look at the roof")
    )
    assert len(decision.reasoning) == 4


def test_equal_robots_stay_in_the_order_of_the_fleet() -> None:
    names = [f"drone {i}" for i in range(20)]
    drone = Fleet.default()[DRONE]
    fleet = Fleet(
        tuple(
            Robot(name, capabilities=drone.capabilities, environments=drone.environments)
            for name in names
        )
    )
    assert Selector(Opinion(one(DRONE)), fleet).decide(Scenario("look")).robots == tuple(names)


def test_permuting_the_fleet_does_not_change_who_is_sent() -> None:
    robots = Fleet.default().robots
    for opinion in (Opinion(one(DRONE, LEGS)), Opinion(one(WHEELS), first=WHEELS)):
        plain = Selector(opinion, Fleet(robots)).decide(Scenario("look"))
        turned = Selector(opinion, Fleet(robots[::-1])).decide(Scenario("look"))
        assert turned.robots == plain.robots
        assert turned.rejected == plain.rejected
        assert turned.confidence == plain.confidence


def test_top_k_keeps_the_best_and_refuses_less_than_one() -> None:
    selector = Selector(Opinion(one(DRONE, LEGS), first=LEGS))
    decision = selector.decide(Scenario("look"), top_k=1)
    assert decision.robots == (LEGS,)
    assert DRONE in decision.rejected
    with pytest.raises(ValueError, match="top_k is 0"):
        selector.decide(Scenario("look"), top_k=0)


def test_asks_and_says_which_number_a_long_request_left_unread() -> None:
    selector, scenario = Selector(Opinion(one(DRONE))), Scenario("look at the 900 kg pump")
    proposal = selector.propose(scenario)
    assert not selector.answer(proposal, scenario).ask
    decision = selector.answer(replace(proposal, unread=proposal.mentions), scenario)
    assert decision.ask
    assert decision.reasoning[0].endswith("; not read, for the request is too long: 900 kg")


def test_asks_a_person_when_it_is_not_sure() -> None:
    shares = {frozenset({DRONE}): 0.4, frozenset({LEGS}): 0.3, frozenset({WHEELS}): 0.3}
    opinion = Opinion(shares, calibration={"ask_below": 0.5})
    decision = Selector(opinion).decide(Scenario("look"))
    assert decision.ask
    assert decision.confidence == pytest.approx(0.4, abs=1e-3)
    opinion.calibration = {"ask_below": 0.5, "confidence_shift": 2.0}
    assert not Selector(opinion).decide(Scenario("look")).ask


def test_says_what_makes_it_sure_and_weighs_it() -> None:
    shares = {frozenset({DRONE, LEGS}): 0.6, frozenset({DRONE}): 0.3, frozenset(): 0.1}
    opinion = Opinion(shares)
    best, own, second, several, undecided = Selector(opinion).decide(Scenario("look")).signs
    assert best == own == pytest.approx(math.log(0.6 / 0.4), abs=1e-3)
    assert second == pytest.approx(math.log(0.3 / 0.7), abs=1e-3)
    assert several == 1
    assert 0 < undecided < 0.05
    opinion.calibration = {"confidence_scale": 0.5, "confidence_second": -1.0,
                           "confidence_several": 0.25, "confidence_undecided": -2.0,
                           "confidence_network": 0.75}  # fmt: skip
    odds = 0.5 * best + 0.75 * own - second + 0.25 - 2 * undecided
    sure = Selector(opinion).decide(Scenario("look")).confidence
    assert sure == pytest.approx(1 / (1 + math.exp(-odds)))


def test_photos_have_numbers_of_their_own_or_those_of_an_older_file() -> None:
    old = Calibration.from_dict({"confidence_scale": 0.5, "confidence_shift": 1.0})
    assert old.weights_of_signs(True) == old.weights_of_signs(False) == ((0.5, 0, 0, 0, 0), 1.0)
    new = Calibration.from_dict({"confidence_shift": 1.0, "photo_shift": -1.0})
    signs = (0.5, 0.5, -1.0, 0.0, 0.1)
    with_photo, alone = (deciding.confidence(signs, new, has_photo=has) for has in (True, False))
    assert with_photo == pytest.approx(1 / (1 + math.exp(0.5)))
    assert alone == pytest.approx(1 / (1 + math.exp(-1.5)))


def test_an_answer_that_rules_alone_left_is_as_sure_as_the_network_was_of_it() -> None:
    shares = {frozenset({DRONE}): 0.9, frozenset({LEGS}): 0.1}
    opinion = Opinion(shares, roles=["load_kg"])
    best, own, *_ = Selector(opinion).decide(Scenario("bring the 700 kg")).signs
    assert best == 5.0
    assert own < -5.0


def test_a_lesson_answers_the_same_request_and_is_named() -> None:
    selector = Selector(Opinion(one(DRONE)))
    first = selector.decide(Scenario("look under the bridge"))
    assert first.memory == ()
    selector.learn(first, Feedback(robots=["robot dog"], note="the deck hides it"))
    again = selector.decide(Scenario("look under the bridge"))
    assert again.robots == (LEGS,)
    (said,) = again.memory
    assert re.fullmatch(
        r"lesson 1 of \d+ \w+ applies: send the Robot with Legs, not the Drone: the deck hides it",
        said,
    )
    assert again.lessons == (1,)
    assert selector.decide(Scenario("another request")).robots == (DRONE,)
    selector.learn(again, Feedback(robots=NO_ROBOT))
    assert selector.decide(Scenario("look under the bridge")).robots == (NO_ROBOT,)


def test_what_a_selector_of_another_fleet_or_backend_learns_counts_here_too() -> None:
    scenario = Scenario("look under the bridge")
    for is_fleet in (True, False):
        selector = Selector(Opinion(one(DRONE)))
        backend = selector.backend
        other = selector.with_fleet(selector.fleet) if is_fleet else selector.with_backend(backend)
        other.learn(other.decide(scenario), Feedback([LEGS]))
        assert selector.decide(scenario).robots == (LEGS,)


@pytest.mark.parametrize("taught", [LEGS, NO_ROBOT])
def test_the_reasons_say_what_a_lesson_decided(taught: str) -> None:
    selector, asked = Selector(Opinion(one(DRONE))), Scenario("look under the bridge")
    selector.learn(selector.decide(asked), Feedback([taught]))
    decision = selector.decide(asked)
    assert decision.rejected[DRONE] == "breaks no stated limit, but lesson 1 says otherwise"
    told, sentence = decision.reasoning[2:]
    assert told.startswith(f"Robots: {taught}: as lesson 1 says")
    assert ("as lesson 1 says" in sentence) == (taught == NO_ROBOT)
    claims = check_line(
        told, selector.fleet, decision.needs, lessons=[1], probabilities=decision.probabilities
    )
    assert [claim.fault for claim in claims if claim.fault] == []
    # One that the lesson names and that is left off is not what it says otherwise of.
    both = Selector(Opinion(one(DRONE)))
    both.learn(both.decide(asked), Feedback([LEGS, DRONE]))
    assert "suits less well" in both.decide(asked, top_k=1).rejected[DRONE]


def test_who_overrules_what_was_read_is_told_what_stands_against_the_robot() -> None:
    keel = Scenario("inspect the keel of the boat")
    unsure = {"certain_flag": 0.9999}
    asks = {"actions": ["look", "handle"], "flags": ["smoke"], "calibration": unsure}
    selector = Selector(Opinion(one(DIVER), **asks))
    required = selector.decide(keel, require=[DRONE])
    selector.learn(selector.decide(keel), Feedback([DRONE]))
    why = f"{DRONE}: %scan look, though it cannot work in dense smoke, though it cannot handle"
    for decision, whose in ((required, ""), (selector.decide(keel), "as lesson 1 says, ")):
        assert DRONE in decision.robots
        assert decision.ask
        line = decision.reasoning[2]
        assert why % whose in line
        claims = check_line(line, selector.fleet, decision.needs, lessons=decision.lessons)
        assert [claim.fault for claim in claims if claim.fault] == []
    # What was misread stands against nobody.
    selector.learn(selector.decide(keel), Feedback([DRONE], misread=["smoke"]))
    assert "can look, though it cannot handle; " in selector.decide(keel).reasoning[2]


def test_nothing_is_said_to_suit_because_a_person_named_it() -> None:
    selector, asked = Selector(Opinion(one(DRONE), actions=[])), Scenario("see to the valve")
    assert f"{DRONE}: suits the request as a whole" in selector.decide(asked).reasoning[2]
    required = selector.decide(asked, require=[DRONE])
    assert f"{DRONE}: is required;" in required.reasoning[2]
    selector.learn(required, Feedback([DRONE]))
    assert f"{DRONE}: as lesson 1 says;" in selector.decide(asked).reasoning[2]
    assert check_line(required.reasoning[2], selector.fleet, required.needs)[0].fault is None


def test_a_lesson_does_not_apply_at_another_kind_of_place() -> None:
    opinion = Opinion(one(DRONE))
    selector = Selector(opinion)
    selector.learn(selector.decide(Scenario("look")), Feedback(robots=[LEGS]))
    opinion.environment = "airborne"
    assert selector.decide(Scenario("look")).robots == (DRONE,)


def test_a_hard_limit_beats_a_lesson() -> None:
    selector = Selector(Opinion(one(LEGS), roles=["load_kg"]))
    decision = selector.decide(Scenario("bring the 8 kg pump"))
    selector.learn(decision, Feedback(robots=[DRONE]))
    again = selector.decide(Scenario("bring the 8 kg pump"))
    assert again.robots == (LEGS,)
    assert again.memory == ()
    selector.learn(decision, Feedback(robots=[DRONE, HUMANOID]))
    assert selector.decide(Scenario("bring the 8 kg pump")).robots == (HUMANOID,)


def test_feedback_names_robots_of_the_fleet() -> None:
    selector = Selector(Opinion(one(DRONE)))
    decision = selector.decide(Scenario("look"))
    with pytest.raises(ValueError, match="No robot is called 'crane'"):
        selector.learn(decision, Feedback(robots=["crane"]))
    for robots in ([], [DRONE, DRONE], [DRONE, NO_ROBOT]):
        with pytest.raises(ValueError, match="robot"):
            Feedback(robots=robots)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Height and a wide area: send the Drone.", True),
        ("Send the Robot with Legs.", False),
        ("Send the Drone and the Humanoid.", False),
        ("The Drone carries 8 kg.", True),
        ("The Drone carries 25 kg.", False),
        ("The Drone climbs 8 m.", False),
        ("No name at all.", False),
    ],
)
def test_the_written_decision_names_the_decided_robots_and_no_new_number(
    said: str, shown: bool
) -> None:
    opinion = Opinion(one(DRONE), decision=said)
    decision = Selector(opinion, own_words=True).decide(Scenario("look for the 8 kg parcel"))
    assert decision.reasoning[3] == f"Decision: {said if shown else 'Send the Drone.'}"


def test_the_reasoning_is_worded_from_what_was_read() -> None:
    decisions = [
        Selector(opinion).decide(Scenario("carry the 3 kg kit up"))
        for opinion in (
            Opinion(one(DRONE), actions=["carry"]),
            Opinion(one(DRONE, LEGS), actions=[]),
            Opinion(one(DRONE, LEGS), team=True),
        )
    ]
    assert decisions[0].reasoning[0].startswith("Task: Carry")
    assert decisions[0].reasoning[3] == "Decision: Send the Drone."
    assert decisions[1].reasoning[0].startswith("Task: No action that a robot takes was read")
    assert decisions[1].reasoning[3].endswith("would do as well.")
    assert decisions[2].reasoning[3].endswith("as a team.")
    for decision in decisions:
        assert all(decision.reasoning[3].count(name) == 1 for name in decision.robots)


def test_a_team_has_a_step_for_each_of_its_robots() -> None:
    opinion = Opinion(one(DRONE, WHEELS), actions=["map", "carry"], team=True)
    decision = Selector(opinion).decide(Scenario("map it, then haul the sand"))
    assert {step.robot for step in decision.plan} == {DRONE, WHEELS}
    assert decision.plan[0].after == ()
    assert decision.plan[1].after == (0,)


def test_a_decision_is_plain_json_without_the_request() -> None:
    decision = Selector(Opinion(one(DRONE))).decide(Scenario("look"), reasoning=False)
    record = json.loads(json.dumps(decision.to_dict()))
    assert list(record) == [
        "robots",
        "primary",
        "environment",
        "confidence",
        "probabilities",
        "ask",
        "needs",
        "reasoning",
        "plan",
        "rejected",
        "memory",
        "lessons",
        "read_as",
    ]
    assert list(record["probabilities"]) == list(Fleet.default().outcomes)
    assert record["reasoning"] == []


@pytest.mark.parametrize(
    ("task", "image"), [(None, None), ("  ", None), ("x" * 4001, None), (7, None)]
)
def test_refuses_a_scenario_with_nothing_or_too_much_in_it(task: object, image: None) -> None:
    with pytest.raises(ValueError):
        Scenario(task=task, image=image)


def test_the_names_of_the_package_work_with_a_model_file(tiny_model: Path, photo: Path) -> None:
    fleet = embervlm.Fleet.default()
    model = embervlm.EmberVLM.from_pretrained(tiny_model, fleet=fleet)
    assert isinstance(model, EmberVLM)
    decision = model.select_robots(image=photo, task="reach the people on the roof", top_k=3)
    assert 1 <= len(decision.robots) <= 3
    assert sum(decision.probabilities.values()) >= 0.99
    assert [line.split(":")[0] for line in decision.reasoning] == [
        "Task",
        "Environment",
        "Robots",
        "Decision",
    ]
    model.learn(decision, embervlm.Feedback(robots=["Drone"], note="the bridge is low"))
    assert dir(embervlm)
    with pytest.raises(AttributeError, match="no attribute 'Crane'"):
        embervlm.Crane  # noqa: B018


def test_a_photo_alone_and_words_alone_are_both_decided(tiny_model: Path, photo: Path) -> None:
    model = EmberVLM.from_pretrained(tiny_model)
    assert model.select_robots(image=photo.read_bytes()).robots
    assert model.select_robots(task="look").robots
    with pytest.raises(ValueError, match="Nothing was asked"):
        model.select_robots()


def test_a_value_of_another_type_gets_a_sentence(tiny_model: Path) -> None:
    model = EmberVLM.from_pretrained(tiny_model)
    for asked, says in [
        ({"task": 5}, "The request must be a text, not int"),
        ({"task": "look", "top_k": "3"}, "top_k must be a whole number or None, not str"),
        ({"task": "look", "top_k": 1.5}, "top_k must be a whole number or None, not float"),
        ({"task": "look", "top_k": True}, "top_k must be a whole number or None, not bool"),
        ({"image": 5}, "the photo must be a path, the bytes of a file or an .*, not int"),
    ]:
        with pytest.raises(ValueError, match=says):
            model.select_robots(**asked)  # type: ignore[arg-type]
    decision = model.select_robots(task="look", top_k=np.int64(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="The feedback must be a Feedback, not str"):
        model.learn(decision, "Drone")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="The decision must be a Decision, not dict"):
        model.learn(decision.to_dict(), Feedback("Drone"))  # type: ignore[arg-type]


def test_the_shift_of_no_robot_tips_a_close_call_where_there_is_no_photo(photo: Path) -> None:
    sets = {frozenset(): 0.52, frozenset([DRONE]): 0.48}
    for shift, expected in [(0.0, (NO_ROBOT,)), (-0.5, (DRONE,)), (0.5, (NO_ROBOT,))]:
        selector = Selector(Opinion(sets, calibration={"no_robot_shift": shift}))
        assert selector.decide(Scenario(task="look at the roof")).robots == expected
        seen = Scenario(task="look at the roof", image=photo)
        assert selector.decide(seen).robots == (NO_ROBOT,)


def test_a_team_has_two_robots_or_more() -> None:
    sets = {
        frozenset([DRONE]): 0.6,
        frozenset(): 0.2,
        frozenset([DRONE, LEGS]): 0.15,
        frozenset([DRONE, LEGS, WHEELS]): 0.05,
    }
    for team, expected in [(False, {DRONE}), (True, {DRONE, LEGS})]:
        decision = Selector(Opinion(sets, team=team)).decide(Scenario(task="look, then carry"))
        assert set(decision.robots) == expected


def test_an_unsure_action_is_told_but_rules_nothing_out() -> None:
    backend = Opinion({frozenset([LEGS]): 1.0}, actions=())
    proposal = backend.propose("do the thing", None)
    unsure = np.full(len(ACTIONS), -5.0, np.float32)
    for logit, expected in [(-1.5, ("handle",)), (-2.5, ())]:
        unsure[ACTIONS.index("handle")] = logit
        needs, hard, _ = read_needs(replace(proposal, actions=unsure), Calibration(), "do it")
        assert needs.actions == expected
        assert hard.actions == ()


def test_the_policy_is_one_distribution_over_the_fleet() -> None:
    selector = Selector(Opinion(one(DRONE), first=LEGS))
    first = selector.backend.propose("look", None).primary
    shares = np.exp(first - first.max())
    policy = selector.decide(Scenario("look")).policy
    assert list(policy) == list(Fleet.default().outcomes)
    assert list(policy.values()) == pytest.approx((shares / shares.sum()).tolist())
    twins = [replace(Fleet.default()[LEGS], name=name) for name in ("Rex", "Max")]
    policy = (
        Selector(Opinion(one(LEGS), first=LEGS), Fleet(tuple(twins)))
        .decide(Scenario("look"))
        .policy
    )
    assert list(policy) == ["Rex", "Max", NO_ROBOT]
    assert policy["Rex"] == policy["Max"] == pytest.approx(0.5, abs=1e-4)
    assert sum(policy.values()) == pytest.approx(1)


REQUESTS = (
    "carry the 8 kg pump up the stairs",
    "look for the boat 18 miles out in 30 knots of wind",
    "paint me a picture",
    "inspect the hull at 12 fathoms for 3 hours",
    "search the rubble for survivors, then carry 10 lb of water to them",
)


def test_decisions_of_the_model_that_ships_are_analysed() -> None:
    model = EmberVLM.from_pretrained()
    decisions = [model.select_robots(task=task) for task in REQUESTS]
    found = model.get_reasoning_analysis(decisions)
    assert set(found) == {"robot_probabilities", "reasoning_quality", "robot_selections"}
    chosen = model.extract_robot_selections(decisions)
    assert found["robot_selections"] == chosen == [list(one.robots) for one in decisions]
    assert [NO_ROBOT] in chosen
    for policy in found["robot_probabilities"]:
        assert list(policy) == list(Fleet.default().outcomes)
        assert sum(policy.values()) == pytest.approx(1)
    # What is shown is worded by rules and so holds; a false number does not.
    assert found["reasoning_quality"] == [1.0] * len(REQUESTS)
    lines = decisions[0].reasoning
    lied = replace(decisions[0], reasoning=(lines[0].replace("8 kg", "9 kg"), *lines[1:]))
    assert model.get_reasoning_analysis(lied)["reasoning_quality"] == [pytest.approx(5 / 6)]
    # Of robots as they were then: one left out, one busy.
    terms = {"state": FleetState({"Humanoid": {"status": "busy"}}), "exclude": ["Drone"]}
    then = model.decide(Scenario(task="look at the roof from above"), **terms)
    assert model.get_reasoning_analysis(then, **terms)["reasoning_quality"] == [1.0]
    silent = model.select_robots(task=REQUESTS[0], reasoning=False)
    assert model.extract_robot_selections(silent) == chosen[:1]
    with pytest.raises(ValueError, match="has no reasoning; decide with reasoning=True"):
        model.get_reasoning_analysis([silent])
