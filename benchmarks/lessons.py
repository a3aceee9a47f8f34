"""What lessons do to answers, and what they cost: corrected, unrelated, many, hostile, and time.

    python benchmarks/lessons.py --json benchmarks/lessons.json
    python benchmarks/lessons.py --cost --json benchmarks/lessons-cost.json

The operator is the gold label of the test split's requests (`scenarios`; `--split` names another):
he says which robots are right, and what was misread. Every figure has a 95 % interval: over seeds
(Student's t) where seeds draw, else bootstrapped over requests. Parts:

    one          for each wrong answer a store with its correction alone: is the same request right,
                 and which share of the other requests changes, and of right ones becomes wrong?
    paraphrases  the twelve requests of `lessons_paraphrases.jsonl`, each with five other wordings
                 (ours, written before any was measured): how many follow the lesson, in a store of
                 it alone?
    stream       500 requests drawn from 100, so that mistakes recur: errors made again, accuracy
    kinds        the same, but what comes again is always said in other words (`rewording`)
    many         10 to 10,000 true lessons from the train split, reworded where it ends: accuracy on
                 the test split
    hostile      500 lessons of one author, all for one robot, on train requests, on one day: with
                 the usual quotas and with none. Unrelated are answers whose lesson is about a
                 request with another right answer or at another kind of place.

`--cost` measures instead, at 10,000 and 100,000 entries of width 384: processor time of opening, of
a search that reads CLOSE entries, and of adding one; bytes an entry. It is processor time, so that
other work on the machine counts less; of the search also the fastest by the clock. With `--memory`
it is measured in a PostgreSQL database without lessons, at 10,000 entries; its server's own time
is in the clock's alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rewording import reword
from scipy import stats

from embervlm.backends import load_backend
from embervlm.backends.base import Proposal, StepScores
from embervlm.data.scenarios import load
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.protocol import Quotas
from embervlm.memory.store import IN_MEMORY, LessonStore
from embervlm.reading import read_needs
from embervlm.scenario import Decision, Feedback, Needs, Scenario
from embervlm.scoring import exact
from embervlm.selector import Selector

SEEDS = range(5)
HOSTILE = 500
STREAM, POOL = 500, 100
CLOSE = 3
COUNTS = (10_000, 100_000)
MANY = (10, 100, 1000, 10_000)
PARAPHRASES = Path(__file__).with_name("lessons_paraphrases.jsonl")


class Remembering:
    """A backend that reads each request once."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.seen: dict[str | None, Proposal] = {}
        self.steps: dict[int, tuple[StepScores, ...]] = {}
        self.image_size, self.tokenizer = backend.image_size, backend.tokenizer
        self.calibration = backend.calibration

    def propose(self, task: str | None, pixels: Any) -> Proposal:
        """Return what the network says of words alone."""
        if task not in self.seen:
            # Without the states, which only steps and reasoning need: they would fill the memory.
            proposal = self.backend.propose(task, pixels)
            kept = self.seen[task] = replace(proposal, states=None)
            self.steps[id(kept)] = self.backend.split(proposal)
        return self.seen[task]

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """Return what is said of each step."""
        return self.steps[id(proposal)]


def with_memory(backend: Any, quotas: Quotas | None = None) -> Selector:
    """Return a selector with an empty store of its own."""
    return Selector(backend, memory=LessonStore(IN_MEMORY, quotas=quotas))


def decide(selector: Selector, task: str) -> Decision:
    """Return the decision for words, without the reasoning."""
    return selector.decide(Scenario(task), reasoning=False)


def teach(selector: Selector, task: str, robots: Sequence[str]) -> bool:
    """Correct the decision for a request; return whether the lesson is used."""
    entry = selector.learn(decide(selector, task), Feedback(robots))
    return "quarantine" not in entry.metadata


def correct(selector: Selector, decision: Decision, row: dict[str, Any]) -> bool:
    """Say who is right and what was misread; return whether the lesson is used."""
    proposal = selector.propose(Scenario(row["task"]))
    _, _, team = read_needs(proposal, selector.calibration, row["task"])
    true = Needs.from_record(row, row["environment"])
    misread = [k for k, v in decision.needs.limits.items() if true.limits.get(k) != v]
    if decision.environment not in ("none", true.environment):
        misread.append("environment")
    if team != (row["kind"] == "team"):
        misread.append("team")
    entry = selector.learn(decision, Feedback(row["suited"], misread=misread))
    return "quarantine" not in entry.metadata


def over_seeds(measure: Callable[[np.random.Generator], dict[str, float]]) -> dict[str, Any]:
    """Return the mean of each figure over the seeds, with Student's interval."""
    rows = [measure(np.random.default_rng(seed)) for seed in SEEDS]
    out = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
        mean = float(values.mean())
        out[name] = {
            "mean": round(mean, 4),
            "interval": [round(mean - half, 4), round(mean + half, 4)],
        }
    return out


def over_requests(values: Sequence[float]) -> dict[str, Any]:
    """Return a mean with its bootstrapped interval."""
    draw = np.random.default_rng(0)
    array = np.array(values, float)
    means = array[draw.integers(0, len(array), (2000, len(array)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "n": len(array),
        "mean": round(float(array.mean()), 5),
        "interval": [round(float(low), 5), round(float(high), 5)],
    }


def one(backend: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Teach one correction at a time; see the module."""
    plain = Selector(backend)
    before = [decide(plain, row["task"]) for row in rows]
    right = [exact(d.robots, row["suited"]) for d, row in zip(before, rows, strict=True)]
    fixed, used, changed, broken = [], [], [], []
    for at in np.flatnonzero(~np.array(right)):
        selector = with_memory(backend)
        used.append(correct(selector, decide(selector, rows[at]["task"]), rows[at]))
        after = [decide(selector, row["task"]) for row in rows]
        fixed.append(exact(after[at].robots, rows[at]["suited"]))
        others = [i for i in range(len(rows)) if i != at]
        changed.append(np.mean([after[i].robots != before[i].robots for i in others]))
        broken.append(
            np.mean([not exact(after[i].robots, rows[i]["suited"]) for i in others if right[i]])
        )
    return {
        "right_before": over_requests(right),
        "same_request_right": over_requests(fixed),
        "not_quarantined": over_requests(used),
        "others_changed": over_requests(changed),
        "right_ones_broken": over_requests(broken),
    }


def paraphrases(backend: Any) -> dict[str, Any]:
    """Teach each request another answer and ask it in other words; see the module."""
    rows = [json.loads(line) for line in PARAPHRASES.read_text("utf-8").splitlines()]
    follows = []
    for row in rows:
        selector = with_memory(backend)
        sent = decide(selector, row["task"]).robots
        teach(selector, row["task"], ["No Robot"] if sent != ("No Robot",) else ["Humanoid"])
        follows += [bool(decide(selector, words).lessons) for words in row["paraphrases"]]
    return {"follow": over_requests(follows)}


def stream(
    backend: Any,
    rows: list[dict[str, Any]],
    draw: np.random.Generator,
    *,
    other_words: bool = False,
) -> dict[str, float]:
    """Correct every mistake of a stream in which requests recur, in other words if that is said."""
    pool = draw.choice(len(rows), POOL, replace=False)
    order, tasks, met = draw.choice(pool, STREAM), [], set()
    for at in order:
        task = rows[at]["task"]
        tasks.append(reword(task, draw) if other_words and at in met else task)
        met.add(at)
    found: dict[str, float] = {}
    for name in ("without", "with"):
        selector = with_memory(backend)
        wrong_before: set[int] = set()
        errors = again = chances = 0
        for at, task in zip(order, tasks, strict=True):
            row = {**rows[at], "task": task}
            decision = decide(selector, task)
            is_wrong = not exact(decision.robots, row["suited"])
            errors += is_wrong
            chances += at in wrong_before
            again += is_wrong and at in wrong_before
            if is_wrong:
                wrong_before.add(int(at))
                if name == "with":
                    correct(selector, decision, row)
        found[f"accuracy_{name}"] = 1 - errors / STREAM
        found[f"errors_repeated_{name}"] = again / max(1, chances)
    return found


def many(
    backend: Any, train: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Teach more and more true lessons to one selector; see the module."""
    draw = np.random.default_rng(0)
    order = draw.permutation(len(train))
    selector = with_memory(backend)
    found = {"0": accuracy(selector, rows)}
    for number in range(max(MANY)):
        row = train[order[number % len(train)]]
        if number >= len(train):
            row = {**row, "task": reword(row["task"], draw)}
        correct(selector, decide(selector, row["task"]), row)
        if number + 1 in MANY:
            found[str(number + 1)] = accuracy(selector, rows)
    return found


def accuracy(selector: Selector, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the share of requests answered with the exact set, and of those that follow a
    lesson."""
    decisions = [decide(selector, row["task"]) for row in rows]
    right = [exact(d.robots, row["suited"]) for d, row in zip(decisions, rows, strict=True)]
    return {
        "exact_set": round(float(np.mean(right)), 4),
        "follow_a_lesson": round(float(np.mean([bool(d.lessons) for d in decisions])), 4),
    }


def hostile(
    backend: Any, train: list[dict[str, Any]], rows: list[dict[str, Any]], draw: np.random.Generator
) -> dict[str, float]:
    """Let one author say one robot of HOSTILE requests."""
    robot = str(draw.choice(["Drone", "Humanoid", "Robot with Legs", "Robot with Wheels"]))
    chosen = [train[i] for i in draw.choice(len(train), HOSTILE, replace=False)]
    plain = Selector(backend)
    before = [decide(plain, row["task"]).robots for row in rows]
    found: dict[str, float] = {}
    for name, quotas in (("quotas", Quotas()), ("no_quotas", None)):
        selector = with_memory(backend, quotas)
        kept: dict[int, dict[str, Any]] = {}
        for row in chosen:
            feedback = Feedback([robot], author="mallory")
            try:
                entry = selector.learn(decide(selector, row["task"]), feedback)
            except ValueError:  # the quota is used up
                break
            kept[entry.id] = row
        changed, unrelated = 0, 0
        for row, robots in zip(rows, before, strict=True):
            decision = decide(selector, row["task"])
            if decision.robots != robots:
                about = kept[decision.lessons[0]]
                same = set(about["suited"]) == set(row["suited"])
                changed += 1
                unrelated += not (same and about["environment"] == row["environment"])
        found |= {
            f"{name}_kept": len(kept),
            f"{name}_changed": changed / len(rows),
            f"{name}_unrelated_changed": unrelated / len(rows),
        }
    return found


def cost(count: int, address: str | None = None) -> dict[str, Any]:
    """Measure time and space with so many entries, in a file or a database."""
    task = "Third floor east, lift dead since the quake. The 18 kg oxygen concentrator has to go up"
    about = {
        "photo": None,
        "environment": "indoor_cluttered",
        "needs": {
            "actions": ["carry", "handle"],
            "environment": "indoor_cluttered",
            "limits": {"load_kg": 18.0, "stairs": True, "doors": True},
        },
        "robots": ["Humanoid"],
        "source_decision": {"robots": ["Robot with Wheels"], "confidence": 0.8123, "lessons": []},
    }
    draw = np.random.default_rng(0)

    def entry_of(number: int) -> MemoryEntry:
        content = f"Send the Humanoid, not the Robot with Wheels: lift {number} is dead."
        metadata = {"task": f"{task} to ward {number}.", **about}
        return MemoryEntry("correction", content, metadata=metadata)

    def vector() -> Any:
        return draw.normal(size=384).astype(np.float32)

    def cpu_s(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
        begun = clock()
        work()
        return clock() - begun

    with tempfile.TemporaryDirectory() as folder:
        place = address or Path(folder) / "lessons.sqlite"
        store = LessonStore(place, quotas=None)
        # One transaction: so many commits would only take time.
        with store._log.writing() as db:
            for number in range(count):
                key = f"{number:016x}"
                store._insert(db, entry_of(number), vector(), "Ada", number, key, by="Ada")
        store.close()
        store = LessonStore(place, quotas=None)
        opened = cpu_s(store.usable)
        search = partial(store.search, environment="indoor_cluttered", at_least=-1, k=CLOSE)
        times = [cpu_s(partial(search, vector())) for _ in range(200)]
        waits = [cpu_s(partial(search, vector()), time.perf_counter) for _ in range(200)]
        adds = [cpu_s(partial(store.add, entry_of(count + i), vector())) for i in range(20)]
        size = store.stats()["size_bytes"]
        store.close()
    return {
        "open_cpu_s": round(opened, 3),
        "search_cpu_ms_median": round(float(np.median(times)) * 1e3, 3),
        "search_cpu_ms_fastest": round(min(times) * 1e3, 3),
        "search_clock_ms_fastest": round(min(waits) * 1e3, 3),
        "add_cpu_ms_median": round(float(np.median(adds)) * 1e3, 2),
        "bytes_an_entry": round(size / (count + len(adds))),
    }


def main() -> None:
    """Read the flags, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cost", action="store_true", help="time and space instead of answers")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--only", metavar="PART", nargs="+", help="parts that are measured")
    parser.add_argument("--backend", default="native")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--memory", metavar="ADDRESS", help="with --cost: a PostgreSQL database")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    if options.cost:
        counts = COUNTS[:1] if options.memory else COUNTS
        parts: dict[str, Callable[[], Any]] = {
            str(count): partial(cost, count, options.memory) for count in counts
        }
    else:
        backend = Remembering(load_backend(options.backend, options.model))
        rows, train = load("scenarios", options.split), load("scenarios", "train")
        parts = {
            "one": lambda: one(backend, rows),
            "paraphrases": lambda: paraphrases(backend),
            "stream": lambda: over_seeds(lambda draw: stream(backend, rows, draw)),
            "kinds": lambda: over_seeds(lambda draw: stream(backend, rows, draw, other_words=True)),
            "many": lambda: many(backend, train, rows),
            "hostile": lambda: over_seeds(lambda draw: hostile(backend, train, rows, draw)),
        }
    told = ["git", "describe", "--always", "--dirty"]
    report: dict[str, Any] = {
        "machine": platform.platform(),
        "commit": subprocess.run(told, capture_output=True, text=True).stdout.strip(),
    }
    for name in options.only or parts:
        measure = parts[name]
        report[name] = measure()
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        sys.stdout.write(f"{name}: {json.dumps(report[name])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
