"""After a failure what is done stays, and whoever failed does not get the step again."""

import random
from dataclasses import replace

import pytest
from fleets import random_fleet, random_steps

from embervlm.fleet import Fleet, Robot
from embervlm.live import FleetState
from embervlm.planning import Step, allocate, replan
from embervlm.scenario import Needs, Subtask

FLEET = Fleet.default()
STEPS = [
    Step("map the site", Needs(("map",))),
    Step("measure the gas", Needs(("measure",)), (0,)),
    Step("look again", Needs(("look",)), (1,)),
]
WISHES = [{"Drone": -0.1}, {"Robot with Legs": -0.1}, {"Drone": -0.1}]


def test_another_robot_takes_the_step_and_the_rest_stays() -> None:
    plan = allocate(FLEET, STEPS, preferences=WISHES)
    assert [step.robot for step in plan.steps] == ["Drone", "Robot with Legs", "Drone"]
    new = replan(FLEET, plan, [1], done=[0])
    assert new.steps[0].done
    assert new.steps[0].robot == "Drone"
    assert new.steps[1].robot not in (None, "Robot with Legs")
    assert new.steps[1].start_min == 0
    assert new.steps[2].robot == "Drone"
    assert set(new.robots) == {new.steps[1].robot, "Drone"}


def test_whoever_failed_once_never_gets_the_step_again_until_nobody_is_left() -> None:
    plan = allocate(FLEET, STEPS[:1])
    tried = []
    while plan.steps[0].robot is not None:
        tried.append(plan.steps[0].robot)
        plan = replan(FLEET, plan, [0])
    assert sorted(tried) == sorted(robot.name for robot in FLEET if robot.can("map"))
    assert "Drone: has failed at it" in plan.steps[0].why


def test_random_plans_keep_what_is_done() -> None:
    chance = random.Random(1)
    for _ in range(200):
        fleet, steps = random_fleet(chance), random_steps(chance, most=4)
        plan = allocate(fleet, steps)
        given = [i for i, step in enumerate(plan.steps) if step.robot is not None]
        if not given:
            continue
        failed = chance.choice(given)
        ready = [i for i in given if i != failed and not plan.steps[i].after]
        new = replan(fleet, plan, [failed], done=ready)
        assert all(new.steps[i].robot == plan.steps[i].robot for i in ready)
        assert new.steps[failed].robot != plan.steps[failed].robot
        assert not set(new.unassigned) & set(ready)


def test_steps_that_are_not_there_or_done_are_refused() -> None:
    plan = [Subtask("look", "Drone", needs=Needs(("look",)))]
    with pytest.raises(ValueError, match="There is no step 3; the plan has 1"):
        replan(FLEET, plan, [2])
    with pytest.raises(ValueError, match="Step 1 is done, so it cannot have failed"):
        replan(FLEET, plan, [0], done=[0])


def test_whoever_does_not_suit_a_step_does_not_get_it_after_a_failure_either() -> None:
    steps = [replace(STEPS[0], unsuited=("Underwater Robot", "Humanoid", "Robot with Wheels"))]
    plan = allocate(FLEET, steps, preferences=WISHES[:1])
    (again,) = replan(FLEET, plan, [0]).steps
    assert again.robot == "Robot with Legs"
    (nobody,) = replan(FLEET, replan(FLEET, plan, [0]), [0]).steps
    assert nobody.robot is None
    assert "Humanoid: suits it with a chance below 3%" in nobody.why


def test_a_robot_sets_off_from_where_it_did_its_last_step() -> None:
    walker = Robot(
        "Walker", capabilities=frozenset({"look"}), speed_kmh=6.0, location=(0.0, 0.0),
        limits={"endurance_min": 40.0},
    )  # fmt: skip
    look = Needs(("look",))
    far = [
        Step("half way", look, minutes=5, place=(2500.0, 0.0)),
        Step("the end", look, (0,), minutes=5, place=(5000.0, 0.0)),
    ]
    fleet = Fleet((walker,))
    plan = allocate(fleet, far)
    assert plan.steps[1].robot is None
    again = replan(fleet, plan, [], done=[0])
    assert again.steps[1].duration_min == pytest.approx(30.0)
    late = [
        Step("late", look, (1,), minutes=5, place=(1000.0, 0.0)),
        Step("early", look, minutes=5, place=(500.0, 0.0)),
        Step("last", look, (0, 1), minutes=5, place=(1000.0, 0.0)),
    ]
    plan = allocate(Fleet((replace(walker, limits={}),)), late)
    again = replan(Fleet((replace(walker, limits={}),)), plan, [], done=[0, 1])
    assert again.steps[2].duration_min == pytest.approx(5.0)


def test_how_far_a_robot_goes_counts_from_where_the_fleet_says_it_stands() -> None:
    rover = Robot(
        "Rover", capabilities=frozenset({"look"}), speed_kmh=6.0, location=(0.0, 0.0),
        limits={"max_distance_m": 1000.0},
    )  # fmt: skip
    fleet, look = Fleet((rover,)), Needs(("look",))
    for west, robot in ((-900.0, "Rover"), (1800.0, None)):
        steps = [
            Step("east", look, minutes=1, place=(900.0, 0.0)),
            Step("west", look, (0,), minutes=1, place=(west, 0.0)),
        ]
        plan = allocate(fleet, steps)
        assert plan.steps[1].robot == robot
        assert replan(fleet, plan, [], done=[0]).steps[1].robot == robot


def test_a_robot_still_stands_where_it_was_after_a_second_repair_or_where_it_was_seen() -> None:
    look = Needs(("look",))
    walker = Robot("A", capabilities=frozenset({"look"}), speed_kmh=6.0, location=(0.0, 0.0))
    fleet = Fleet((walker,))
    far = (1000.0, 0.0)
    steps = [
        Step("far", look, (1,), place=far),
        Step("near", look, place=(100.0, 0.0)),
        Step("more", look, (0,), place=far),
        Step("last", look, (2,), place=far),
    ]
    once = replan(fleet, allocate(fleet, steps), [], done=[0, 1])
    assert once.steps[2].duration_min == 10
    assert replan(fleet, once, []).steps[2:] == once.steps[2:]
    third = replan(fleet, replan(fleet, once, [], done=[2]), [])
    assert third.steps[3].duration_min == 10
    seen = FleetState({"A": {"location": {"x_m": 500, "y_m": 0}}}).applied(fleet)
    assert replan(seen, allocate(fleet, steps), [], done=[0, 1]).steps[2].duration_min == 15


def test_how_far_a_robot_may_go_counts_from_its_home_wherever_it_was_seen() -> None:
    tied = Robot(
        "A",
        capabilities=frozenset({"look"}),
        limits={"max_distance_m": 1000.0},
        speed_kmh=6.0,
        location=(0.0, 0.0),
    )
    seen = FleetState({"A": {"location": {"x_m": 900, "y_m": 0}}}).applied(Fleet((tied,)))
    (step,) = allocate(seen, [Step("look", Needs(("look",)), place=(1800.0, 0.0))]).steps
    assert step.robot is None
    assert "goes up to 1000 m, the place is 1800 m away" in step.why
