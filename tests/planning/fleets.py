"""Random fleets and steps, small ones, for the tests of plans."""

import random

from embervlm.fleet import ACTIONS, CONDITIONS, ENVIRONMENTS, Fleet, Objective, Robot
from embervlm.planning import Step
from embervlm.scenario import FLAGS, QUANTITIES, Needs

_ABILITIES = ACTIONS + CONDITIONS


def random_fleet(chance: random.Random, most: int = 5) -> Fleet:
    """Robots of several kinds, some with places, batteries and units, some of which are away."""
    robots = []
    for i in range(chance.randint(1, most)):
        limits = {}
        if chance.random() < 0.4:
            limits["endurance_min"] = chance.choice([15.0, 30.0, 60.0, 200.0])
        if chance.random() < 0.4:
            limits["payload_kg"] = chance.choice([2.0, 10.0, 50.0])
        if chance.random() < 0.2:
            limits["max_distance_m"] = chance.choice([100.0, 1000.0])
        robots.append(
            Robot(
                name=f"robot {i}",
                capabilities=frozenset(chance.sample(_ABILITIES, chance.randint(6, 21))),
                environments=frozenset(chance.sample(ENVIRONMENTS, 4)),
                limits=limits,
                speed_kmh=chance.choice([None, 2.0, 5.0, 20.0]),
                count=chance.choice([0, 1, 1, 1, 1, 2]),
                status=chance.choice(["ready"] * 8 + ["fault"]),
                setup_min=chance.choice([0.0, 0.0, 3.0]),
                energy_w=chance.choice([None, 50.0, 400.0]),
                location=random_place(chance),
                battery=chance.choice([1.0, 1.0, 1.0, 0.5]),
                free_in_min=chance.choice([0.0, 0.0, 0.0, 7.0]),
            )
        )
    weights = [chance.choice([0.0, 1.0, 10.0]) for _ in range(4)]
    return Fleet(tuple(robots), Objective(*weights))


def random_place(chance: random.Random) -> tuple[float, float] | None:
    if chance.random() < 0.5:
        return None
    return chance.randint(-500, 500) * 1.0, chance.randint(-500, 500) * 1.0


def random_steps(chance: random.Random, most: int = 6, *, numbers: bool = False) -> list[Step]:
    """Steps that wait for some of those before them, in shuffled order."""
    count = chance.randint(1, most)
    places = chance.sample(range(count), count)
    steps: list[Step | None] = [None] * count
    for k, index in enumerate(places):
        quantities = {}
        if numbers:
            for key in chance.sample(QUANTITIES, chance.randint(0, 3)):
                quantities[key] = chance.choice([0.1, 0.4, 1, 5, 16, 70, 400])
        steps[index] = Step(
            subtask=f"step {index}",
            needs=Needs(
                actions=(chance.choice(ACTIONS[:5]),),
                environment=chance.choice(ENVIRONMENTS) if numbers else "none",
                quantities=quantities,
                flags=frozenset(chance.sample(FLAGS, chance.randint(0, 2)))
                if numbers
                else frozenset(),
            ),
            after=tuple(i for i in places[:k] if chance.random() < 0.3),
            minutes=chance.choice([None, 1.0, 5.0, 12.0, 20.0]),
            place=random_place(chance),
        )
    return [step for step in steps if step is not None]


def random_preferences(
    chance: random.Random, fleet: Fleet, steps: list[Step]
) -> list[dict[str, float]]:
    return [
        {
            name: -chance.choice([0.0, 0.1, 0.7, 2.0])
            for name in fleet.names
            if chance.random() < 0.8
        }
        for _ in steps
    ]
