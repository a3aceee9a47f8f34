"""The plan that comes out is the best there is, and holds nothing that cannot be done."""

import math
import random
from collections.abc import Mapping, Sequence

import pytest
from fleets import random_fleet, random_preferences, random_steps

from embervlm.fleet import Fleet, Objective, Robot
from embervlm.planning import Step, allocate, broken_limits, missing_actions
from embervlm.scenario import Needs, Plan

FLEET = Fleet.default()


def drive(
    robot: Robot, start: tuple[float, float] | None, end: tuple[float, float] | None
) -> float:
    if start is None or end is None or robot.speed_kmh is None:
        return 0.0
    return math.hypot(start[0] - end[0], start[1] - end[1]) / 1000 / robot.speed_kmh * 60


def best_of_all(
    fleet: Fleet, steps: Sequence[Step], wishes: Sequence[Mapping[str, float]]
) -> tuple[int, float]:
    """Try every unit for every step in every order, with nothing of the solver's; return how many
    steps the best plan leaves out, and what it costs. The same steps done at the same times by the
    same units are gone on from once."""
    weights = fleet.objective
    units = [robot for robot in fleet for _ in range(robot.count)]
    work = [
        {
            u: robot.setup_min + (weights.step_min if step.minutes is None else step.minutes)
            for u, robot in enumerate(units)
            if not broken_limits(robot, step.needs)
            and not missing_actions(robot, step.needs)
            and not (
                robot.location is not None
                and step.place is not None
                and math.dist(robot.location, step.place)
                > robot.limits.get("max_distance_m", math.inf)
            )
            and robot.setup_min
            + (weights.step_min if step.minutes is None else step.minutes)
            + drive(robot, robot.location, step.place)
            <= robot.endurance_min + 1e-9
        }
        for step in steps
    ]
    for i, step in enumerate(steps):  # the fleets' steps wait for earlier ones alone
        if any(not work[j] for j in step.after):
            work[i] = {}
    # Whose power is not stated draws the most that one states who can do something.
    unstated = max((units[u].energy_w or 0.0 for row in work for u in row), default=0.0)
    best = (len(steps), 0.0)
    seen = set()

    def cost_of(step: int, robot: Robot, minutes: float) -> float:
        watts = unstated if robot.energy_w is None else robot.energy_w
        wish = min(7.0, -wishes[step].get(robot.name, -7.0))
        return weights.energy * watts * minutes / 60 + weights.preference * wish

    def go(ends: dict[int, float], state: tuple[tuple, ...], late: float, spent: float) -> None:
        nonlocal best
        now = (frozenset(ends.items()), state, round(spent, 9))
        if now in seen:
            return
        seen.add(now)
        key = (len(steps) - len(ends), weights.time * late + spent)
        best = min(best, key)
        for i, step in enumerate(steps):
            if i in ends or any(j not in ends for j in step.after):
                continue
            tried = set()
            for u, minutes in work[i].items():
                robot = units[u]
                free, where, ran = state[u]
                if (robot.name, state[u]) in tried:
                    continue
                tried.add((robot.name, state[u]))
                took = minutes + drive(robot, where, step.place)
                endurance = robot.limits.get("endurance_min", math.inf) * robot.battery
                if ran + took > endurance + 1e-9:
                    continue
                ready = max((ends[j] for j in step.after), default=0.0)
                end = max(free + took - minutes, ready) + minutes
                moved = (end, step.place or where, ran + took)
                go(
                    {**ends, i: end},
                    (*state[:u], moved, *state[u + 1 :]),
                    max(late, end),
                    spent + cost_of(i, robot, took),
                )

    start = tuple((robot.free_in_min, robot.location, 0.0) for robot in units)
    go({}, start, 0.0, 0.0)
    return best


@pytest.mark.parametrize("seed", range(10))
def test_equals_exhaustive_search(seed: int) -> None:
    """100 random instances a seed: up to 5 kinds of robots, up to 6 steps (4 in most of them)."""
    chance = random.Random(seed)
    for number in range(100):
        fleet, steps = random_fleet(chance), random_steps(chance, 6 if number % 5 == 0 else 4)
        wishes = random_preferences(chance, fleet, steps)
        plan = allocate(fleet, steps, preferences=wishes)
        left_out, cost = best_of_all(fleet, steps, wishes)
        assert plan.is_optimal
        assert len(plan.unassigned) == left_out
        assert plan.cost == pytest.approx(cost, abs=1e-6)
        assert plan.bound <= plan.cost + 1e-9


def test_equals_exhaustive_search_where_every_robot_can_do_every_step() -> None:
    chance = random.Random(11)
    robots = tuple(
        Robot(
            name=f"robot {i}",
            capabilities=frozenset({"look"}),
            speed_kmh=chance.choice([3.0, 5.0, 9.0]),
            location=(chance.uniform(0, 900), chance.uniform(0, 900)),
        )
        for i in range(4)
    )
    steps = [
        Step(
            f"step {i}",
            Needs(("look",)),
            tuple(j for j in range(i) if chance.random() < 0.3),
            minutes=chance.uniform(2, 20),
            place=(chance.uniform(0, 900), chance.uniform(0, 900)),
        )
        for i in range(5)
    ]
    fleet = Fleet(robots, Objective(preference=0.0))
    plan = allocate(fleet, steps)
    wishes = [dict.fromkeys(fleet.names, 0.0)] * 5
    assert (0, pytest.approx(plan.cost)) == best_of_all(fleet, steps, wishes)
    assert plan.is_optimal


def faults_of(fleet: Fleet, steps: Sequence[Step], plan: Plan) -> list[str]:
    """Say what is wrong with a plan, by the plain meaning of the fleet's numbers."""
    faults = []
    ran: dict[tuple[str, int], float] = {}
    busy: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for i, step in enumerate(plan.steps):
        if step.robot is None:
            if not step.why.endswith("."):
                faults.append(f"{i}: nobody, and no reason")
            continue
        robot = fleet[step.robot]
        assert step.start_min is not None
        assert step.duration_min is not None
        faults += [f"{i}: {clause}" for clause in broken_limits(robot, steps[i].needs)]
        faults += [f"{i}: {word}" for word in missing_actions(robot, steps[i].needs)]
        unit = (step.robot, step.unit)
        if step.unit > robot.count or robot.status != "ready":
            faults.append(f"{i}: there is no such unit")
        if step.start_min < robot.free_in_min - 1e-9:
            faults.append(f"{i}: before it is free")
        end = step.start_min + step.duration_min
        busy.setdefault(unit, []).append((step.start_min, end))
        ran[unit] = ran.get(unit, 0.0) + step.duration_min
        if ran[unit] > robot.limits.get("endurance_min", math.inf) * robot.battery + 1e-6:
            faults.append(f"{i}: longer than its battery lasts")
        work = steps[i].minutes
        work = fleet.objective.step_min if work is None else work
        for j in step.after:
            before = plan.steps[j]
            if before.robot is None:
                faults.append(f"{i}: after a step that nobody does")
            elif "hours" not in steps[i].needs.quantities and (
                end - work < before.start_min + before.duration_min - 1e-6
            ):
                faults.append(f"{i}: works before step {j} has ended")
    for spans in busy.values():
        spans.sort()
        if any(a[1] > b[0] + 1e-6 for a, b in zip(spans, spans[1:], strict=False)):
            faults.append("a unit does two steps at a time")
    return faults


@pytest.mark.parametrize("seed", range(10))
def test_no_plan_gives_a_step_to_a_robot_that_cannot_do_it(seed: int) -> None:
    """1,000 random fleets and plans a seed."""
    chance = random.Random(100 + seed)
    assigned = 0
    for _ in range(1000):
        fleet = random_fleet(chance, most=4)
        steps = random_steps(chance, most=3, numbers=True)
        plan = allocate(fleet, steps)
        assert faults_of(fleet, steps, plan) == []
        assigned += len(steps) - len(plan.unassigned)
    assert assigned > 200


def test_large_plans_hold_to_every_limit_too() -> None:
    chance = random.Random(7)
    robots = [robot for _ in range(8) for robot in random_fleet(chance).robots]
    named = [Robot(**{**vars(robot), "name": f"robot {i}"}) for i, robot in enumerate(robots)]
    fleet = Fleet(tuple(named))
    steps = random_steps(chance, most=25)
    plan = allocate(fleet, steps)
    assert faults_of(fleet, steps, plan) == []
    assert plan.bound <= plan.cost


def test_permuting_the_fleet_permutes_the_plan() -> None:
    chance = random.Random(8)
    for _ in range(100):
        fleet, steps = random_fleet(chance), random_steps(chance, most=4)
        wishes = [{name: -chance.random() for name in fleet.names} for _ in steps]
        shuffled = Fleet(tuple(chance.sample(fleet.robots, len(fleet))), fleet.objective)
        one = allocate(fleet, steps, preferences=wishes)
        two = allocate(shuffled, steps, preferences=wishes)
        assert one.cost == pytest.approx(two.cost)
        assert one.unassigned == two.unassigned


def test_the_model_s_preference_decides_between_robots_that_can() -> None:
    look = [Step("look", Needs(("look",)))]
    for name in FLEET.names:
        plan = allocate(FLEET, look, preferences=[{name: -0.1}])
        assert plan.steps[0].robot == name


def test_units_of_one_kind_work_side_by_side() -> None:
    robot = Robot("Dog", capabilities=frozenset({"look"}), count=2)
    steps = [Step("north", Needs(("look",))), Step("south", Needs(("look",)))]
    plan = allocate(Fleet((robot,)), steps)
    assert plan.makespan_min == 10
    assert sorted(step.unit for step in plan.steps) == [1, 2]


def test_every_step_that_nobody_does_says_why_with_the_numbers() -> None:
    heavy = Step("carry the crate", Needs(("carry",), quantities={"load_kg": 900}))
    plan = allocate(FLEET, [heavy, Step("look", Needs(("look",)), (0,))])
    assert "Robot with Wheels: carries up to 500 kg, asked 900 kg" in plan.steps[0].why
    assert plan.steps[1].why == "It waits for step 1, which nobody can do."
    assert plan.robots == ()


def test_a_battery_that_does_not_last_for_all_steps_is_told() -> None:
    robot = Robot("Drone", capabilities=frozenset({"look"}), limits={"endurance_min": 40})
    steps = [Step(f"look {i}", Needs(("look",)), minutes=15) for i in range(3)]
    plan = allocate(Fleet((robot,)), steps)
    [left] = plan.unassigned
    assert plan.steps[left].why == (
        "Nobody has the battery for it (Drone: runs for 40 min, its other steps take 30.0 min, "
        "this one 15.0 min)."
    )


def test_an_empty_fleet_invents_nothing() -> None:
    plan = allocate(Fleet(()), [Step("look", Needs(("look",)))])
    assert plan.steps[0].robot is None
    assert plan.steps[0].why == "Nobody can do it: the fleet has no robots."
    assert allocate(FLEET, []).steps == ()


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([(1,), (0,)], r"in a circle \(1 after 2 after 1\)"),
        ([(0,)], r"in a circle \(1 after 1\)"),
        ([(4,)], r"waits for step 5, but there are 1"),
    ],
)
def test_circles_and_links_to_nowhere_are_refused(
    steps: list[tuple[int, ...]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        allocate(FLEET, [Step("look", Needs(("look",)), after) for after in steps])


def test_wrong_names_and_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="No robot is called 'Crane'"):
        allocate(FLEET, [Step("look", Needs(("look",)), robot="Crane")])
    with pytest.raises(ValueError, match="2 preferences for 1 steps"):
        allocate(FLEET, [Step("look", Needs(("look",)))], preferences=[{}, {}])


def test_a_robot_that_is_set_does_its_step_if_it_can() -> None:
    plan = allocate(FLEET, [Step("look", Needs(("look",)), robot="Humanoid")])
    assert plan.steps[0].robot == "Humanoid"
    deep = Needs(("look",), "underwater")
    plan = allocate(FLEET, [Step("look", deep, robot="Humanoid")])
    assert plan.steps[0].why == "Nobody can do it (Humanoid: cannot work under water)."


def test_a_way_that_is_gone_before_a_step_begins_is_no_reason_to_call_a_plan_the_best() -> None:
    look = frozenset({"look"})
    fleet = Fleet(
        (
            Robot("A", capabilities=look, speed_kmh=6.0, location=(5000, 0), free_in_min=30),
            Robot("B", capabilities=look, speed_kmh=6.0, location=(2000, 0), free_in_min=30),
        )
    )
    steps = [
        Step("near B", Needs(("look",)), minutes=20, place=(2000, 0)),
        Step("near A", Needs(("look",)), minutes=10, place=(5000, 0)),
    ]
    wishes = [{"A": 0.0, "B": -1.0}, {"A": -1.0, "B": 0.0}]
    plan = allocate(fleet, steps, preferences=wishes)
    assert (0, pytest.approx(plan.cost)) == best_of_all(fleet, steps, wishes)
    assert plan.cost == pytest.approx(80.0)
    assert [step.robot for step in plan.steps] == ["A", "B"]
    assert plan.is_optimal


def test_steps_of_no_minutes_are_planned_as_others_are() -> None:
    both = frozenset({"look", "map"})
    fleet = Fleet((Robot("A", capabilities=both), Robot("B", capabilities=frozenset({"look"}))))
    steps = [
        Step("0", Needs(("look",)), minutes=0),
        Step("1", Needs(("map",)), minutes=5),
        Step("2", Needs(("map",)), minutes=5),
    ]
    wishes = [{"A": -0.5, "B": -0.5}, {"A": 0.0, "B": -0.5}, {"A": -0.5, "B": -0.5}]
    plan = allocate(fleet, steps, preferences=wishes)
    assert plan.is_optimal
    assert (0, pytest.approx(plan.cost)) == best_of_all(fleet, steps, wishes)


def test_stated_hours_are_those_of_the_way_too() -> None:
    ring = Needs(("patrol",), "paved", {"distance_m": 5000.0, "hours": 8.0})
    wheels = Fleet((Fleet.default()["Robot with Wheels"],))
    assert allocate(wheels, [Step("patrol the ring", ring)]).makespan_min == 480
    fly = Fleet((Fleet.default()["Drone"],))
    watch = Needs(("look",), "airborne", {"hours": 0.6667})
    assert allocate(fly, [Step("watch the roof for 40 minutes", watch)]).makespan_min == 40
    far = Needs(("patrol",), "paved", {"distance_m": 40_000.0, "hours": 1.0})
    assert allocate(wheels, [Step("patrol the road", far)]).makespan_min == 120


@pytest.mark.parametrize("minutes", [-5.0, math.nan, math.inf])
def test_a_step_takes_a_number_of_minutes(minutes: float) -> None:
    with pytest.raises(ValueError, match="Step 1 takes .* minutes; give a number"):
        allocate(FLEET, [Step("look", Needs(("look",)), minutes=minutes)])


def test_robots_may_be_called_by_an_alias_wherever_a_step_names_them() -> None:
    (step,) = allocate(FLEET, [Step("look", Needs(("look",)), robot="quadcopter")]).steps
    assert step.robot == "Drone"
    others = [name for name in FLEET.names if name != "Robot with Legs"]
    (step,) = allocate(FLEET, [Step("look", Needs(("look",)), barred=("drone",))]).steps
    assert step.robot != "Drone"
    (step,) = allocate(FLEET, [Step("look", Needs(("look",)), unsuited=tuple(others))]).steps
    assert step.robot == "Robot with Legs"
    (step,) = allocate(FLEET, [Step("look", Needs(("look",)), unsuited=FLEET.names)]).steps
    assert "Drone: suits it with a chance below 3%" in step.why


def test_a_robot_that_can_do_nothing_changes_no_plan_whatever_it_draws() -> None:
    look = frozenset({"look"})
    two = (Robot("A", capabilities=look), Robot("B", capabilities=look, energy_w=1000.0))
    steps, wishes = [Step("look", Needs(("look",)))], [{"A": 0.0, "B": -0.1}]
    alone = allocate(Fleet(two), steps, preferences=wishes)
    beside = allocate(Fleet((*two, Robot("C", energy_w=1e6))), steps, preferences=wishes)
    assert alone == beside
