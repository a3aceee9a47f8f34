"""After a failure what is done stays, and whoever failed does not get the step again."""

import random

import pytest
from fleets import random_fleet, random_steps

from embervlm.fleet import Fleet
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
