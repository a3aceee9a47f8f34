"""The fleet as it is now: state files, and what they do to decisions."""

from pathlib import Path

import pytest
from opinion import DIVER, DRONE, HUMANOID, LEGS, WHEELS, Opinion, one

from embervlm import planning
from embervlm.faithfulness import check_line
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.live import FleetState, without
from embervlm.scenario import Needs, Scenario
from embervlm.selector import Selector

FLEET = Fleet.default()
LOOK = Scenario("look at the ridge")


def test_a_state_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "state.yaml"
    file.write_text(
        "robots:\n"
        "  drone: {battery: 0.5, location: {x_m: 1, y_m: -2}}\n"
        "  Robot with Legs: {status: fault}\n"
        "  Humanoid: {ready: 0}\n"
        "  wheeled: {free_in_min: 12}\n"
    )
    now = FleetState.from_file(file).applied(FLEET)
    assert now[DRONE].endurance_min == 20
    assert now[DRONE].location == (1.0, -2.0)
    assert planning.unavailable(now[LEGS]) == ["is not ready (fault)"]
    assert planning.unavailable(now[HUMANOID]) == ["has none at hand"]
    assert now[WHEELS].free_in_min == 12
    assert now[DIVER] == FLEET[DIVER]
    assert now.objective == FLEET.objective


def test_json_is_a_state_file_too() -> None:
    now = FleetState.from_text('{"robots": {"Drone": {"battery": 0}}}').applied(FLEET)
    assert planning.unavailable(now[DRONE]) == ["has an empty battery"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("robots: {Drone: {battery: 1.5}}", "`battery`: expected a share from 0 to 1, not 1.5"),
        ("robots: {Drone: {battery: yes}}", "`battery`: expected a share"),
        ("robots: {Drone: {status: asleep}}", "`status`: expected one of ready, busy"),
        ("robots: {Drone: {status: [a]}}", "`status`: expected one of ready, busy"),
        ("robots: {Drone: {ready: -1}}", "`ready`: expected a whole number"),
        ("robots: {Drone: {ready: 1.5}}", "`ready`: expected a whole number"),
        ("robots: {Drone: {free_in_min: soon}}", "`free_in_min`: expected a number of min"),
        ("robots: {Drone: {location: [1, 2]}}", "`location`: expected a place such as"),
        ("robots: {Drone: {mood: good}}", "`mood`: expected one of the known keys"),
        ("robots: {Drone: 5}", "expected a mapping"),
        ("robots: {5: {}}", "robot 5: expected a mapping"),
        ("robots: [Drone]", "`robots` must map names"),
        ("Drone: {battery: 1}", "expected one key, `robots`"),
        ("", "expected one key, `robots`"),
        ("{", "this is not YAML"),
        ("robots: {Drone: &a {battery: 1}, Humanoid: *a}", "aliases"),
    ],
)
def test_says_what_is_wrong_with_a_state_in_one_sentence(text: str, part: str) -> None:
    with pytest.raises(ValueError) as caught:
        FleetState.from_text(text, source="s.yaml")
    assert part in str(caught.value)
    assert str(caught.value).startswith("s.yaml: ")


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ({"Crane": {"battery": 1.0}}, "No robot is called 'Crane'"),
        ({"Drone": {"ready": 2}}, "2 are ready, but the fleet has 1"),
        ({"Drone": {}, "uav": {}}, "'Drone' stands there twice"),
    ],
)
def test_a_state_must_fit_the_fleet(rows: dict[str, dict[str, float]], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        FleetState(rows).applied(FLEET)


def test_a_missing_state_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        FleetState.from_file(tmp_path / "none.yaml")


def test_an_empty_battery_a_fault_and_the_operator_rule_robots_out() -> None:
    selector = Selector(Opinion(one(DRONE, LEGS)))
    assert selector.decide(LOOK).robots == (DRONE, LEGS)
    state = FleetState({"Robot with Legs": {"status": "charging"}})
    decision = selector.decide(LOOK, state=state)
    assert decision.robots == (DRONE,)
    assert decision.rejected[LEGS] == "is not ready (charging)"
    decision = selector.decide(LOOK, exclude=["drone"])
    assert decision.robots == (LEGS,)
    assert decision.rejected[DRONE] == "is left out by the operator"
    decision = selector.decide(LOOK, state=state, exclude=[DRONE])
    assert decision.robots == (NO_ROBOT,)
    assert decision.plan == ()
    assert selector.decide(LOOK).robots == (DRONE, LEGS)


def test_a_low_battery_shortens_what_a_robot_can_be_asked() -> None:
    selector = Selector(Opinion(one(DRONE), roles=["hours"]))
    film = Scenario("film for 30 minutes")
    assert selector.decide(film).robots == (DRONE,)
    decision = selector.decide(film, state=FleetState({DRONE: {"battery": 0.5}}))
    assert decision.robots == (NO_ROBOT,)
    assert decision.rejected[DRONE] == "runs for 20 min on 50% of its battery, asked 30 min"


def test_everything_that_is_said_of_a_live_fleet_is_known_to_be_true() -> None:
    now = without(
        FleetState({DRONE: {"battery": 0.5}, HUMANOID: {"battery": 0}}).applied(FLEET), [LEGS]
    )
    needs = Needs(("look",), quantities={"hours": 0.5})
    against = planning.reasons_against(now, needs, [], {})
    line = "Robots: " + "; ".join(f"not {name}: {why}" for name, why in against.items())
    assert [claim.fault for claim in check_line(line, now, needs) if claim.fault] == []
    lies = check_line(line, FLEET, needs)
    assert sum(claim.fault is not None for claim in lies) == 3


def test_all_robots_busy_is_no_robot_with_the_reason_of_each() -> None:
    state = FleetState({name: {"status": "busy"} for name in FLEET.names})
    decision = Selector(Opinion(one(DRONE))).decide(LOOK, state=state)
    assert decision.robots == (NO_ROBOT,)
    assert set(decision.rejected.values()) == {"is not ready (busy)"}


def test_a_required_robot_is_sent_or_it_is_said_why_not() -> None:
    selector = Selector(Opinion({**one(DRONE), frozenset({DRONE, LEGS}): 0.2}))
    assert selector.decide(LOOK).robots == (DRONE,)
    assert set(selector.decide(LOOK, require=["robot dog"]).robots) >= {LEGS}
    assert selector.decide(LOOK, require=[LEGS], top_k=1).robots == (LEGS,)
    with pytest.raises(
        ValueError, match="The Robot with Legs is required, but cannot be sent: it "
    ):
        selector.decide(LOOK, require=[LEGS], exclude=[LEGS])
    with pytest.raises(ValueError, match="No robot is called 'Crane'"):
        selector.decide(LOOK, require=["Crane"])
    with pytest.raises(ValueError, match="ask for 2 robots or more"):
        selector.decide(LOOK, require=[LEGS, DRONE], top_k=1)


def test_alternatives_say_what_would_be_decided_without_each_robot() -> None:
    selector = Selector(Opinion({frozenset({DRONE, LEGS}): 0.7, frozenset({HUMANOID}): 0.3}))
    decision = selector.decide(LOOK)
    others = selector.alternatives(decision)
    assert list(others) == list(decision.robots)
    assert others[DRONE].robots == (LEGS,)
    assert others[LEGS].robots == (DRONE,)


def test_a_failed_step_goes_to_another_robot() -> None:
    opinion = Opinion(one(DRONE, LEGS), actions=("map", "carry"), team=True)
    selector = Selector(opinion)
    decision = selector.decide(Scenario("map it, then carry the box"))
    failed = next(i for i, step in enumerate(decision.plan) if step.robot == DRONE)
    again = selector.replan(decision, [failed])
    assert again.plan[failed].robot not in (None, DRONE)
    assert again.plan[1 - failed].robot == LEGS
    assert set(again.rejected) == set(FLEET.names) - set(again.robots)


def test_a_battery_that_does_not_last_for_the_one_step_keeps_a_robot_here() -> None:
    selector = Selector(Opinion({frozenset({DRONE}): 0.8, frozenset({LEGS}): 0.2}))
    assert selector.decide(LOOK).robots == (DRONE,)
    low = FleetState({DRONE: {"battery": 0.1}})
    decision = selector.decide(LOOK, state=low)
    assert DRONE not in decision.robots
    why = "runs for 4 min on 10% of its battery, the step takes 10.0 min"
    assert decision.rejected[DRONE] == why
    line, needs = decision.reasoning[2], decision.needs
    assert not [c.fault for c in check_line(line, low.applied(FLEET), needs) if c.fault]
    assert [c.clause for c in check_line(line, FLEET, needs) if c.fault] == [why]
    with pytest.raises(ValueError, match=f"cannot be sent: it {why}"):
        selector.decide(LOOK, state=low, require=[DRONE])
    assert selector.decide(LOOK, state=FleetState({DRONE: {"battery": 0.3}})).robots == (DRONE,)


def test_a_required_robot_goes_where_one_suffices_and_brings_nobody_who_does_not_suit() -> None:
    selector = Selector(Opinion({frozenset({DRONE, WHEELS}): 0.9, frozenset({HUMANOID}): 0.1}))
    decision = selector.decide(LOOK, require=[LEGS])
    assert (decision.primary, set(decision.robots)) == (LEGS, {DRONE, WHEELS, LEGS})
    assert [step.robot for step in decision.plan] == [LEGS]
    assert decision.probabilities[LEGS] == pytest.approx(0.0, abs=1e-6)
    assert decision.probabilities[DRONE] == pytest.approx(0.9, abs=1e-6)
    assert decision.ask


def test_alternatives_keep_to_what_was_required() -> None:
    selector = Selector(Opinion({frozenset({DRONE}): 0.9, frozenset({HUMANOID}): 0.1}))
    decision = selector.decide(LOOK, require=[LEGS])
    others = selector.alternatives(decision, require=[LEGS])
    assert LEGS in others[DRONE].robots
    assert others[LEGS].robots == (DRONE,)


def test_whoever_failed_is_said_to_have_failed() -> None:
    selector = Selector(Opinion(one(DRONE)))
    decision = selector.decide(LOOK)
    again = selector.replan(decision, [0])
    assert again.rejected[DRONE] == "has failed at it"


def test_a_key_written_twice_is_refused() -> None:
    for text in (
        "robots: {Drone: {battery: 0.1}, Drone: {status: ready}}",
        "robots: {Drone: {battery: 0.1, battery: 1}}",
    ):
        with pytest.raises(ValueError, match=r"line 1: the key `(Drone|battery)` stands there tw"):
            FleetState.from_text(text)
