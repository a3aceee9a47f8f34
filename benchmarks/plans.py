"""How long plans take and how near their cost comes to the bound.

    python benchmarks/plans.py --json benchmarks/plans.json

Random fleets and steps, seeded: robots of 40 makes with their own speeds, powers, loads, places and
batteries; steps with needs, places, forerunners and a stranger's preferences. `gap` is cost / bound
- 1, an upper limit of how much better the best plan could be. Seconds are those of
one core (CPU time, so that other work on the machine does not count), the best of some rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from pathlib import Path

from embervlm.fleet import ACTIONS, CONDITIONS, ENVIRONMENTS, Fleet, Objective, Robot
from embervlm.planning import Step, allocate
from embervlm.scenario import Needs

# name -> steps, robots, and of how many rounds the quickest counts
SIZES = {
    "6 steps, 5 robots": (6, 5, 5),
    "12 steps, 20 robots": (12, 20, 1),
    "50 steps, 200 robots": (50, 200, 1),
    "50 steps, 20 robots": (50, 20, 1),
    "1 step, 1,000 robots": (1, 1000, 20),
}
INSTANCES = 6


def fleet_of(chance: random.Random, robots: int) -> Fleet:
    """Return a fleet in which each robot can do about half of all actions."""
    makes = [
        {
            "capabilities": frozenset(chance.sample(ACTIONS + CONDITIONS, 12)),
            "environments": frozenset(chance.sample(ENVIRONMENTS[:-1], 5)),
            "speed_kmh": chance.uniform(3, 40),
            "setup_min": chance.uniform(0, 5),
            "energy_w": chance.uniform(50, 800),
            "limits": {
                "payload_kg": chance.choice([2.0, 10.0, 50.0, 500.0]),
                "endurance_min": chance.uniform(40, 480),
            },
        }
        for _ in range(40)
    ]
    return Fleet(
        tuple(
            Robot(
                name=f"robot {i}",
                location=(chance.uniform(0, 2000), chance.uniform(0, 2000)),
                battery=chance.uniform(0.5, 1),
                **chance.choice(makes),
            )
            for i in range(robots)
        ),
        Objective(),
    )


def steps_of(chance: random.Random, count: int) -> list[Step]:
    """Return steps of which each waits for at most two of those before it."""
    return [
        Step(
            subtask=f"step {i}",
            needs=Needs(
                actions=(chance.choice(ACTIONS),),
                quantities={"load_kg": chance.choice([1.0, 8.0, 30.0])},
            ),
            after=tuple(sorted(chance.sample(range(i), min(i, chance.randint(0, 2))))),
            minutes=chance.uniform(2, 20),
            place=(chance.uniform(0, 2000), chance.uniform(0, 2000)),
        )
        for i in range(count)
    ]


def measure(steps: int, robots: int, rounds: int, *, wishes: bool) -> dict[str, float]:
    """Return medians and extremes over the instances of one size."""
    seconds, gaps, optimal, left = [], [], 0, 0
    for seed in range(INSTANCES):
        chance = random.Random(seed)
        fleet, request = fleet_of(chance, robots), steps_of(chance, steps)
        preferences = [
            {name: -chance.expovariate(0.5) for name in fleet.names} for _ in range(steps)
        ]
        fastest = float("inf")
        for _ in range(rounds):
            began = time.process_time()
            plan = allocate(fleet, request, preferences=preferences if wishes else None)
            fastest = min(fastest, time.process_time() - began)
        seconds.append(fastest)
        left += len(plan.unassigned)
        optimal += plan.is_optimal
        if plan.bound > 0 and not plan.unassigned:
            gaps.append(plan.cost / plan.bound - 1)
    seconds.sort()
    gaps.sort()
    return {
        "instances": INSTANCES,
        "seconds_median": round(seconds[len(seconds) // 2], 5),
        "seconds_most": round(seconds[-1], 5),
        "gap_median": round(gaps[len(gaps) // 2], 5) if gaps else 0.0,
        "gap_most": round(gaps[-1], 5) if gaps else 0.0,
        "proven_optimal": optimal,
        "steps_left_out": left,
    }


def main() -> None:
    """Measure every size with and without preferences, and print or write the figures."""
    parser = argparse.ArgumentParser(description="Times and gaps of plans.")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report: dict[str, object] = {
        "command": "python benchmarks/plans.py",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    for name, (steps, robots, rounds) in SIZES.items():
        for wishes in (True, False):
            label = f"{name}, {'with' if wishes else 'without'} preferences"
            report[label] = row = measure(steps, robots, rounds, wishes=wishes)
            sys.stdout.write(f"{label} {row}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
