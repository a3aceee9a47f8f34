"""The checker agrees with planning on what is true, and finds every kind of falsehood."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from embervlm import planning
from embervlm.explaining import against, checked_decision
from embervlm.faithfulness import CHECKS, broken_by, check_line, checks_of, named_robots, names_in
from embervlm.fleet import ACTIONS, ENVIRONMENTS, Fleet
from embervlm.prompts import Reasoning, Thinking, write_thinking
from embervlm.scenario import FLAGS, QUANTITIES, Decision, Needs, Scenario

FLEET = Fleet.default()


def random_needs(rng: random.Random) -> Needs:
    """Return needs with a few random demands."""
    return Needs(
        actions=tuple(rng.sample(ACTIONS, rng.randrange(4))),
        environment=rng.choice(ENVIRONMENTS),
        quantities={
            key: rng.choice([0.3, 1.0, 4.5, 12.25, 60.0, 700.0, 1333.3333])
            for key in rng.sample(QUANTITIES, rng.randrange(5))
        },
        flags=frozenset(rng.sample(FLAGS, rng.randrange(4))),
    )


def line_of(fleet: Fleet, needs: Needs, chosen: list[str], chances: dict[str, float]) -> str:
    """Write the line as `Selector` does."""
    why = [f"{name}: {', '.join(planning.reasons_for(fleet[name], needs))}" for name in chosen]
    against = planning.reasons_against(fleet, needs, chosen, chances)
    return "Robots: " + "; ".join([*why, *(f"not {name}: {r}" for name, r in against.items())])


def test_every_clause_that_planning_writes_is_known_and_true() -> None:
    rng = random.Random(1)
    busy = replace(FLEET.robots[0], status="busy")
    none_left = replace(FLEET.robots[1], count=0)
    fleets = [FLEET, Fleet((busy, none_left, *FLEET.robots[2:]))]
    for i in range(1500):
        fleet, needs = fleets[i % 2], random_needs(rng)
        free = [
            r.name
            for r in fleet
            if not planning.broken_limits(r, needs) and r.status == "ready" and r.count
        ]
        chosen = rng.sample(free, min(len(free), rng.randrange(1, 3)))
        if not chosen:
            continue
        chances = {name: rng.random() for name in fleet.outcomes}
        line = line_of(fleet, needs, chosen, chances)
        claims = check_line(line, fleet, needs, probabilities=chances)
        assert [claim.fault for claim in claims if claim.fault] == []
        assert named_robots(line, fleet) == (set(chosen), set(fleet.names) - set(chosen))


def test_what_stands_against_a_robot_that_a_person_named_is_known_and_true() -> None:
    rng = random.Random(3)
    for _ in range(300):
        needs = random_needs(rng)
        decision = replace(DECISION, needs=needs, plan=())
        for name in FLEET.names:
            clauses = [f"though it {clause}" for clause in against(name, decision, FLEET)]
            line = f"Robots: {name}: {', '.join(['is required', *clauses])}"
            claims = check_line(line, FLEET, needs)
            assert [claim.clause for claim in claims] == ["is required", *clauses]
            assert [claim.fault for claim in claims if claim.fault] == []


def test_finds_the_same_broken_limits_as_planning() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        needs = random_needs(rng)
        for robot in FLEET:
            assert len(broken_by(robot, needs)) == len(planning.broken_limits(robot, needs))


NEEDS = Needs(
    ("look", "carry"), "rough", {"load_kg": 8.0, "wind_kmh": 60.0, "hours": 3.0}, frozenset({"mud"})
)


@pytest.mark.parametrize(
    "clauses",
    [
        "Robot with Legs: carries up to 25 kg, asked 8 kg",
        "Robot with Legs: carries up to 15 kg, asked 9 kg",
        "Robot with Legs: can handle",
        "Robot with Legs: can look and talk",
        "Robot with Legs: can patrol",
        "Robot with Legs: copes with snow",
        "Robot with Legs: copes with fire",
        "Drone: carries up to 5 kg, asked 8 kg",
        "Drone: no stated limit speaks against it",
        "Robot with Legs: is the best there is",
        "Tank: can look",
        "not Robot with Legs: cannot cross mud",
        "not Robot with Legs: carries up to 15 kg, asked 8 kg",
        "not Drone: works in wind up to 40 km/h, asked 60 km/h",
        "not Drone: runs for 40 min, asked 3 min",
        "not Drone: cannot look",
        "not Drone: cannot talk",
        "not Humanoid: cannot take stairs",
        "not Drone: has none at hand",
        "not Drone: is not ready (busy)",
        "not Drone: breaks no stated limit, but suits less well (10%)",
        "not Robot with Wheels: breaks no stated limit, but suits less well (40%)",
        "not No Robot: no robot of the fleet can do the core of this",
        "Drone: as lesson 2 says",
        "not Underwater Robot: breaks no stated limit, but lesson 2 says otherwise",
        "not Drone: breaks no stated limit, but lesson 1 says otherwise",
        "not No Robot: breaks no stated limit, but lesson 1 says otherwise",
        "Tank: as lesson 1 says",
        "Robot with Legs: can look, though it cannot cross mud",
        "Drone: though it carries up to 5 kg, asked 9 kg",
        "Drone: though it is old",
    ],
)
def test_finds_a_false_clause(clauses: str) -> None:
    claims = check_line(
        f"Robots: {clauses}", FLEET, NEEDS, lessons=[1], probabilities={"Drone": 0.1}
    )
    assert [claim for claim in claims if claim.fault], claims


def test_digits_that_are_left_out_may_not_hide_a_broken_limit() -> None:
    needs = Needs(("carry",), quantities={"load_kg": 5.00001})
    for asked, is_true in (("5.00001", True), ("5", False)):
        line = f"Robots: not Drone: carries up to 5 kg, asked {asked} kg"
        assert (check_line(line, FLEET, needs)[0].fault is None) == is_true


def test_takes_the_true_ones() -> None:
    line = (
        "Robots: Robot with Legs: can look and carry, copes with mud, "
        "carries up to 15 kg, asked 8 kg; "
        "not Drone: carries up to 5 kg, asked 8 kg; works in wind up to 50 km/h, asked 60 km/h; "
        "runs for 40 min, asked 180 min; not Humanoid: cannot cross mud; "
        "not Underwater Robot: cannot carry"
    )
    claims = check_line(line, FLEET, NEEDS)
    assert [claim.fault for claim in claims] == [None] * 8


DECISION = Decision(
    robots=("Robot with Legs",),
    primary="Robot with Legs",
    environment="indoor_cluttered",
    confidence=0.87654,
    probabilities={"Drone": 0.12},
    ask=False,
    needs=Needs(("carry",), "indoor_cluttered", {"load_kg": 8.1647}, frozenset({"stairs"})),
    reasoning=(
        "Task: Carry; load 8.1647 kg; stairs",
        "Environment: Indoor cluttered. A stair",
        "Robots: Robot with Legs: can carry; not Drone: carries up to 5 kg, asked 8.1647 kg",
        "Decision: Send the Robot with Legs.",
    ),
    scenario=Scenario("carry the 18 lb pump up the stairs"),
)


def test_an_account_may_tell_the_smaller_width_of_a_range() -> None:
    decision = replace(
        DECISION,
        needs=Needs(("carry",), "indoor_cluttered", {"width_m": 1.0}),
        reasoning=(
            "Task: Carry; width 1 m",
            *DECISION.reasoning[1:2],
            "Robots: Robot with Legs: can carry; not Drone: needs 2 m of width, there are 1 m",
            *DECISION.reasoning[3:],
        ),
        scenario=Scenario("carry the pump through, it is 1 to 3 m wide"),
    )
    checks = checks_of(write_thinking(Thinking.of(decision)), decision, FLEET)
    assert checks == dict.fromkeys(CHECKS, True)


def test_a_name_within_another_is_not_named() -> None:
    fleet = Fleet((*FLEET.robots, replace(FLEET["Drone"], name="Drone XL")))
    assert names_in("Send the Drone XL and the drone XL.", fleet) == {"Drone XL": 2}
    assert names_in("Send the Drone; the Drone XL would do as well.", fleet) == {
        "Drone": 1,
        "Drone XL": 1,
    }
    assert not names_in("Send the Drones.", fleet)
    written = Reasoning((), "Look", "Rough", "Send the Drone XL.")
    assert checked_decision(written, ["Drone XL"], fleet, "") == "Send the Drone XL."
    assert checked_decision(written, ["Drone"], fleet, "") is None


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("", "", set()),
        ("selection>", "selections>", set(CHECKS)),
        ("Send the Robot with Legs", "Send it", {"robots"}),
        ("Send the Robot with Legs", "Send the Robot with Legs, not the Drone", {"robots"}),
        ("n>Robot with Legs<", "n>Robot with Legs; Drone<", {"robots"}),
        ("n>Robot with Legs<", "n>Flying Pig<", {"robots"}),
        ("up to 5 kg", "up to 6 kg", {"facts"}),
        ("can carry;", "can fly;", {"facts"}),
        ("load 8.1647 kg", "load 9 kg", {"numbers"}),
        ("load 8.1647 kg", "load 8.1647 m", {"numbers"}),
        ("A stair", "A stair of 3 m", {"numbers"}),
        ("Indoor cluttered", "Indoor", {"environment"}),
        ("Indoor cluttered", "Rough", {"environment"}),
        ("0.8765", "0.8766", {"confidence"}),
    ],
)
def test_each_check_of_an_account_finds_its_fault(old: str, new: str, wrong: set[str]) -> None:
    text = write_thinking(Thinking.of(DECISION))
    assert old in text
    found = checks_of(text.replace(old, new) if old else text, DECISION, FLEET)
    assert {name for name, is_right in found.items() if not is_right} == wrong
