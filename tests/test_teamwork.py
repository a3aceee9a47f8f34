"""A job for several robots by the model that ships: who does its steps, and what is said of it."""

from dataclasses import replace

import pytest

from embervlm import planning
from embervlm.backends import load_backend
from embervlm.checkpoint import SHIPPED
from embervlm.faithfulness import check_line, needs_of_steps
from embervlm.fleet import NO_ROBOT, Fleet, Robot
from embervlm.live import FleetState
from embervlm.scenario import Decision, Feedback, Scenario
from embervlm.selector import Selector

pytestmark = pytest.mark.skipif(not SHIPPED.is_file(), reason="no weights ship with this tree")

DRONE, LEGS, WHEELS = "Drone", "Robot with Legs", "Robot with Wheels"
FLOOD = Scenario("map the flood from above, then take the 9 kg radio through the mud")


@pytest.fixture(scope="module")
def selector() -> Selector:
    return Selector(load_backend("native", SHIPPED))


def faults(decision: Decision, fleet: Fleet) -> list[str]:
    claims = check_line(
        decision.reasoning[2],
        fleet,
        decision.needs,
        probabilities=decision.probabilities,
        steps=needs_of_steps(decision),
    )
    return [f"{claim.clause}: {claim.fault}" for claim in claims if claim.fault]


def test_each_robot_is_held_against_the_steps_and_not_against_the_whole(
    selector: Selector,
) -> None:
    decision = selector.decide(FLOOD)
    assert decision.robots == (DRONE, LEGS)
    assert decision.rejected == planning.reasons_in_plan(
        selector.fleet, decision.plan, decision.robots, decision.probabilities
    )
    assert faults(decision, selector.fleet) == []


def test_at_most_so_many_as_go_anyway_changes_nothing(selector: Selector) -> None:
    whole = selector.decide(FLOOD)
    assert len(whole.robots) > 1
    for many in range(len(whole.robots), 7):
        assert selector.decide(FLOOD, top_k=many) == whole


def test_a_plan_that_is_not_whole_asks_and_says_of_whom_it_speaks(selector: Selector) -> None:
    decision = selector.decide(FLOOD, top_k=1)
    assert decision.robots == (DRONE,)
    assert decision.ask
    why = "Of those that are sent: nobody can do it (Drone: carries up to 5 kg, asked 9 kg)."
    assert [step.why for step in decision.plan] == ["", why]


def test_an_empty_battery_is_the_reason_and_makes_it_unsure(selector: Selector) -> None:
    low = FleetState({DRONE: {"battery": 0.1}})
    decision = selector.decide(FLOOD, state=low)
    assert decision.robots == (NO_ROBOT,)
    assert decision.ask
    assert decision.confidence < 0.1
    assert decision.rejected[DRONE].startswith("runs for 4 min on 10% of its battery, the step ")
    assert faults(decision, low.applied(selector.fleet)) == []
    assert faults(decision, selector.fleet)


def test_a_robot_that_can_do_nothing_changes_nothing(selector: Selector) -> None:
    duster = Robot("Duster", environments=frozenset({"airborne"}))
    more = selector.with_fleet(Fleet((*Fleet.default().robots, duster)))
    decision, beside = selector.decide(FLOOD), more.decide(FLOOD)
    assert beside.confidence == decision.confidence
    assert [s.to_dict() for s in beside.plan] == [s.to_dict() for s in decision.plan]
    assert {**decision.probabilities, "Duster": 0.0} == beside.probabilities


def test_as_many_robots_as_were_asked_for_go_of_an_unlike_fleet_too(selector: Selector) -> None:
    ox = Robot("Ox", capabilities=frozenset({"carry", "mud"}), limits={"payload_kg": 900.0})
    kite = Robot("Kite", capabilities=frozenset({"look", "map", "height"}))
    pair = selector.with_fleet(Fleet((kite, ox)))
    assert set(pair.decide(FLOOD).robots) == {"Kite", "Ox"}
    one = pair.decide(FLOOD, top_k=1)
    assert len(one.robots) == 1
    assert {step.robot for step in one.plan} <= {None, *one.robots}


def test_after_a_failure_no_step_goes_to_whom_it_does_not_suit(selector: Selector) -> None:
    decision = selector.decide(
        Scenario(
            "map the burnt warehouse, then search the rubble for people and carry a 12 kg "
            "stretcher in"
        )
    )
    assert decision.plan[0].robot == DRONE
    again = selector.replan(decision, [0])
    assert "has failed at" in again.rejected[DRONE]
    for step in again.plan:
        assert step.robot not in (*step.barred, *step.unsuited)
        assert step.robot is not None or step.why
    assert again.ask or None not in [step.robot for step in again.plan]


def with_seconds(*names: str) -> Fleet:
    fleet = Fleet.default()
    seconds = (replace(fleet[name], name=f"{name} B", aliases=()) for name in names)
    return Fleet((*fleet.robots, *seconds))


def test_of_one_step_another_goes_as_the_decision_says_whom_it_suits(selector: Selector) -> None:
    decision = selector.decide(Scenario("look around the yard"))
    assert decision.robots == (DRONE, WHEELS)
    again = selector.replan(decision, [0])
    assert again.robots == (WHEELS,)
    assert "has failed" in again.rejected[DRONE]
    done = selector.replan(decision, [], done=[0])
    assert done.robots == (NO_ROBOT,)
    assert done.rejected == {}


def test_a_second_robot_of_a_sort_makes_the_same_team_no_less_sure(selector: Selector) -> None:
    asked = Scenario("look at the roof from above, then shut the valve in the pump room")
    decision = selector.decide(asked)
    both = selector.with_fleet(with_seconds(DRONE, "Humanoid"))
    for top_k in (None, 2, 3):
        again = both.decide(asked, top_k=top_k)
        assert set(again.robots) == set(decision.robots)
        assert again.confidence == pytest.approx(decision.confidence, abs=0.01)


def test_of_each_sort_one_goes_before_the_second_of_any(selector: Selector) -> None:
    both = selector.with_fleet(with_seconds(DRONE))
    order = both._in_turn([DRONE, f"{DRONE} B", LEGS], ())
    assert order == [DRONE, LEGS, f"{DRONE} B"]
    assert both._in_turn(order, [f"{DRONE} B"])[0] == f"{DRONE} B"


def test_of_a_named_robot_without_a_step_the_reasons_say_what_stands_against_it() -> None:
    selector = Selector(load_backend("native", SHIPPED))
    asked = Scenario("inspect the keel of the boat under water, then open the valve")
    required = selector.decide(asked, require=[DRONE])
    selector.learn(selector.decide(asked), Feedback([DRONE]))
    taught = selector.decide(asked)
    assert taught.lessons
    for decision in (required, taught):
        assert DRONE in decision.robots
        assert DRONE not in [step.robot for step in decision.plan]
        assert len(decision.plan) == 2
        assert decision.ask
        assert "can look, though it cannot work under water" in decision.reasoning[2]
        assert faults(decision, selector.fleet) == []


def test_a_robot_required_by_two_of_its_names_is_one(selector: Selector) -> None:
    decision = selector.decide(Scenario("look around the yard"), top_k=1, require=[DRONE, "UAV"])
    assert decision.robots == (DRONE,)
