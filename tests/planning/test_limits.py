"""The rules: who can do a job at all, and who does which part of it."""

import random
from dataclasses import replace

import pytest

from embervlm import planning
from embervlm.faithfulness import check_line
from embervlm.fleet import ACTIONS, CONDITIONS, ENVIRONMENTS, LIMIT_UNITS, NO_ROBOT, Fleet, Robot
from embervlm.planning.limits import Demand
from embervlm.scenario import FLAGS, QUANTITIES, Needs, Subtask

FLEET = Fleet.default()

UPPER = {
    "load_kg": ("payload_kg", 1),
    "distance_m": ("max_distance_m", 1),
    "step_cm": ("max_step_cm", 1),
    "wind_kmh": ("max_wind_kmh", 1),
    "depth_m": ("max_depth_m", 1),
    "hours": ("endurance_min", 60),
}
LOWER = {"width_m": "min_width_m", "depth_m": "min_depth_m"}


def random_needs(chance: random.Random) -> Needs:
    return Needs(
        actions=tuple(chance.sample(ACTIONS, chance.randint(0, 3))),
        environment=chance.choice(ENVIRONMENTS),
        quantities={
            key: chance.choice([0.1, 0.4, 1, 5, 8, 15, 16, 70, 400, 2000])
            for key in chance.sample(QUANTITIES, chance.randint(0, 4))
        },
        flags=frozenset(chance.sample(FLAGS, chance.randint(0, 4))),
    )


def random_fleet(chance: random.Random) -> Fleet:
    abilities = ACTIONS + CONDITIONS
    robots = [
        Robot(
            name=f"robot {i}",
            capabilities=frozenset(chance.sample(abilities, chance.randint(1, len(abilities)))),
            environments=frozenset(chance.sample(ENVIRONMENTS, 3)),
            limits={
                key: chance.choice([0.5, 2, 10, 50, 300, 1000])
                for key in chance.sample(list(LIMIT_UNITS), chance.randint(0, 5))
            },
            count=chance.choice([0, 1, 1, 1]),
            status=chance.choice(["ready", "ready", "ready", "fault"]),
        )
        for i in range(chance.randint(1, 7))
    ]
    return Fleet(tuple(robots))


def breaks_a_number(robot: Robot, needs: Needs) -> bool:
    """Compare by the plain meaning of the keys, written without looking at `planning`."""
    for quantity, value in needs.quantities.items():
        limit, factor = UPPER.get(quantity, (None, 1))
        if limit in robot.limits and value * factor > robot.limits[limit]:
            return True
        lower = LOWER.get(quantity)
        if lower == "min_depth_m" and "dive" not in robot.capabilities:
            continue
        if lower in robot.limits and value < robot.limits[lower]:
            return True
    return False


def test_a_stated_number_that_rules_a_robot_out_always_does() -> None:
    chance = random.Random(1)
    broken = 0
    for _ in range(3000):
        fleet, needs = random_fleet(chance), random_needs(chance)
        for robot in fleet:
            clauses = planning.broken_limits(robot, needs)
            if breaks_a_number(robot, needs):
                broken += 1
                assert clauses
            if robot.count == 0 or robot.status != "ready":
                assert clauses
            if needs.environment == "underwater" and not robot.can("dive"):
                assert "cannot work under water" in clauses
    assert broken > 1000


def test_a_heavier_job_never_lets_more_robots_in() -> None:
    chance = random.Random(2)
    for _ in range(1000):
        fleet, needs = random_fleet(chance), random_needs(chance)
        harder = replace(
            needs,
            quantities={
                key: value * (0.5 if key == "width_m" else 1 if key == "depth_m" else 2)
                for key, value in needs.quantities.items()
            },
            flags=needs.flags | {chance.choice(FLAGS)},
        )
        for robot in fleet:
            if planning.broken_limits(robot, needs):
                assert planning.broken_limits(robot, harder)


def test_permuting_the_fleet_permutes_the_answer() -> None:
    chance = random.Random(3)
    for _ in range(300):
        fleet, needs = random_fleet(chance), random_needs(chance)
        order = chance.sample(fleet.robots, len(fleet))
        shuffled = Fleet(tuple(order))
        assert planning.feasible(fleet, needs) == planning.feasible(shuffled, needs)
        chosen = [fleet.names[0]]
        reasons = planning.reasons_against(fleet, needs, chosen, {})
        assert reasons == planning.reasons_against(shuffled, needs, chosen, {})
        assert list(planning.feasible(shuffled, needs)) == [robot.name for robot in order]


@pytest.mark.parametrize(
    ("name", "needs", "clause"),
    [
        ("Drone", Needs(quantities={"load_kg": 8}), "carries up to 5 kg, asked 8 kg"),
        ("Drone", Needs(quantities={"wind_kmh": 70}), "works in wind up to 50 km/h, asked 70 km/h"),
        ("Drone", Needs(quantities={"width_m": 0.4}), "needs 2 m of width, there are 0.4 m"),
        ("Drone", Needs(quantities={"hours": 2}), "runs for 40 min, asked 120 min"),
        ("Drone", Needs(flags=frozenset({"smoke"})), "cannot work in dense smoke"),
        ("Drone", Needs(flags=frozenset({"storm"})), "cannot work in a storm"),
        ("Humanoid", Needs(quantities={"distance_m": 1500}), "goes up to 1000 m, asked 1500 m"),
        ("Humanoid", Needs(flags=frozenset({"mud"})), "cannot cross mud"),
        (
            "Robot with Wheels",
            Needs(quantities={"step_cm": 15}),
            "climbs steps up to 10 cm, asked 15 cm",
        ),
        ("Robot with Wheels", Needs(flags=frozenset({"stairs"})), "cannot take stairs"),
        ("Robot with Legs", Needs(environment="underwater"), "cannot work under water"),
        ("Robot with Legs", Needs(environment="airborne"), "cannot work at height"),
        (
            "Underwater Robot",
            Needs(quantities={"depth_m": 0.3}),
            "needs 0.5 m of water, there are 0.3 m",
        ),
        ("Underwater Robot", Needs(quantities={"depth_m": 400}), "dives to 300 m, asked 400 m"),
    ],
)
def test_says_which_limit_is_broken_with_its_numbers(name: str, needs: Needs, clause: str) -> None:
    assert planning.broken_limits(FLEET[name], needs) == [clause]
    assert clause in planning.reasons_against(FLEET, needs, [], {})[name]


@pytest.mark.parametrize(
    ("key", "asked", "told"),
    [
        ("wind_kmh", 80.4672, "asked 80.47 km/h"),
        ("load_kg", 133.356, "asked 133.4 kg"),
        ("load_kg", 20_123.4, "asked 20123.4 kg"),
        ("load_kg", 1_000_000, "asked 1000000 kg"),
        ("load_kg", 5.0001, "asked 5.0001 kg"),
        ("load_kg", 5.000_000_1, "asked 5.0000001 kg"),
        ("width_m", 1.9999, "there are 1.9999 m"),
        ("width_m", 0.3048, "there are 0.3048 m"),
    ],
)
def test_what_is_asked_has_as_few_digits_as_keep_it_true(key: str, asked: float, told: str) -> None:
    needs = Needs(("look",), quantities={key: asked})
    (clause,) = planning.broken_limits(FLEET["Drone"], needs)
    assert clause.endswith(told)
    (claim,) = check_line(f"Robots: not Drone: {clause}", FLEET, needs)
    assert claim.fault is None


@pytest.mark.parametrize(
    ("key", "at_the_limit"),
    [("load_kg", 5), ("wind_kmh", 50), ("width_m", 2), ("hours", 40 / 60), ("hours", 0.6667)],
)
def test_a_number_at_the_limit_is_still_allowed(key: str, at_the_limit: float) -> None:
    assert planning.broken_limits(FLEET["Drone"], Needs(quantities={key: at_the_limit})) == []


def test_ground_under_water_stops_nobody_who_dives() -> None:
    muddy = Needs(("look",), "underwater", flags=frozenset({"mud", "sand", "rubble"}))
    diver, wheels = FLEET["Underwater Robot"], FLEET["Robot with Wheels"]
    assert planning.broken_limits(diver, muddy) == []
    assert Demand.of(muddy).met_by(diver)
    assert not Demand.of(muddy).met_by(wheels)
    on_land = replace(muddy, environment="rough")
    assert "cannot cross mud" in planning.broken_limits(diver, on_land)
    assert not Demand.of(on_land).met_by(diver)
    smoke = replace(muddy, flags=frozenset({"smoke"}))
    assert planning.broken_limits(diver, smoke) == ["cannot work in dense smoke"]


def test_reasons_cover_each_robot_that_is_not_chosen_and_no_other() -> None:
    chance = random.Random(4)
    for _ in range(500):
        fleet, needs = random_fleet(chance), random_needs(chance)
        chosen = chance.sample(fleet.names, chance.randint(0, len(fleet)))
        reasons = planning.reasons_against(fleet, needs, chosen, {})
        assert set(reasons) == set(fleet.names) - set(chosen)
        assert all(reason.strip() for reason in reasons.values())
        for robot in fleet:
            assert planning.reasons_for(robot, needs)


def test_what_is_said_for_a_robot_is_true_of_the_fleet_file() -> None:
    needs = Needs(("carry", "look"), "rough", {"load_kg": 4.0}, frozenset({"mud"}))
    facts = planning.reasons_for(FLEET["Robot with Legs"], needs)
    assert facts == ["can carry and look", "copes with mud", "carries up to 15 kg, asked 4 kg"]
    diving = planning.reasons_for(FLEET["Underwater Robot"], Needs(environment="underwater"))
    assert diving == ["can dive"]


def test_a_plan_sends_each_robot_once_in_an_order_without_cycles() -> None:
    chance = random.Random(5)
    for _ in range(1000):
        fleet, needs = random_fleet(chance), random_needs(chance)
        team = chance.sample(fleet.names, chance.randint(1, len(fleet)))
        plan = planning.assign(fleet, team, needs, task="all of it", team=True)
        assert sorted(step.robot for step in plan) == sorted(team)
        for i, step in enumerate(plan):
            assert step.subtask
            assert all(0 <= j < i for j in step.after)
        if len(team) > 1:
            words = " ".join(step.subtask for step in plan).split()
            for action in needs.actions:
                able = [name for name in team if fleet[name].can(action)]
                assert words.count(action) == (1 if able else 0)
                for step in plan:
                    assert action not in step.subtask.split() or fleet[step.robot].can(action)


@pytest.mark.parametrize("load", [6, 16, 400])
def test_the_load_of_a_team_goes_to_one_that_can_carry_it(load: float) -> None:
    needs = Needs(("carry", "look"), quantities={"load_kg": load})
    team = ["Drone", "Humanoid", "Robot with Legs", "Robot with Wheels"]
    steps = planning.assign(FLEET, team, needs, task="all of it", team=True)
    [carrier] = [step.robot for step in steps if "carry" in step.subtask]
    assert FLEET[carrier].limits["payload_kg"] >= load


def test_a_choice_has_one_step_and_no_robot_has_none() -> None:
    needs = Needs(("look",))
    [step] = planning.assign(FLEET, ["Drone", "Robot with Legs"], needs, task="look", team=False)
    assert (step.subtask, step.robot, step.after) == ("look", "Drone", ())
    for team in (True, False):
        for nobody in ([NO_ROBOT], (NO_ROBOT,), []):
            assert planning.assign(FLEET, nobody, needs, task="look", team=team) == []


def test_yes_or_no_says_the_same_as_the_sentences() -> None:
    chance = random.Random(6)
    met = 0
    for _ in range(2000):
        fleet, needs = random_fleet(chance), random_needs(chance)
        demand = Demand.of(needs)
        for robot in fleet:
            battery = replace(robot, battery=chance.choice([0.0, 0.5, 1.0]))
            clauses = planning.broken_limits(battery, needs)
            clauses += planning.missing_actions(battery, needs)
            assert demand.met_by(battery) == (not clauses)
            met += not clauses
    assert met > 300


def test_a_robot_is_held_against_the_steps_of_a_plan_and_not_against_the_whole() -> None:
    plan = [
        Subtask("map the flood from above", "Drone", needs=Needs(("map",), "airborne")),
        Subtask(
            "take the radio there", "Robot with Legs", (0,),
            Needs(("carry",), quantities={"load_kg": 9.0}, flags=frozenset({"mud"})),
        ),
    ]  # fmt: skip
    sent = ["Drone", "Robot with Legs"]
    reasons = planning.reasons_in_plan(FLEET, plan, sent, {"Humanoid": 0.25})
    assert reasons["Humanoid"] == "cannot work at height; cannot cross mud"
    # Who can do one of the steps is not said to break what another one asks.
    reasons = planning.reasons_in_plan(FLEET, plan, ["Drone"], {"Robot with Legs": 0.5})
    assert reasons["Robot with Legs"] == "breaks no stated limit, but suits less well (50%)"
    plan[1] = replace(plan[1], barred=("Robot with Wheels",), needs=Needs(("carry",)))
    reasons = planning.reasons_in_plan(FLEET, plan, sent, {})
    assert reasons["Robot with Wheels"] == "cannot work at height; has failed at it"
    plan[0] = replace(plan[0], needs=Needs(("map",)))
    reasons = planning.reasons_in_plan(FLEET, plan, sent, {})
    assert reasons["Robot with Wheels"] == "has failed at step 2"
