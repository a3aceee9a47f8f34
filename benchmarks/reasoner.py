"""Does the loop of `embervlm rmm` measure what is there? Against a model of known skill.

    python benchmarks/reasoner.py --gsm8k ../shared/public --json benchmarks/reasoner.json

`scripted_model.py` answers over HTTP with known probabilities and says what the figures must then
be. Each figure is measured, and compared with its closed form by the central binomial interval of
its count, at a level that holds for all comparisons together (Bonferroni, 99 %). With `--gsm8k` the
publisher's own solutions are judged, and their sums recomputed, too. This says nothing about a real
language model: it says that the loop, the memory and the metrics are right.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scipy import stats
from scripted_model import (
    ScriptedModel,
    Skill,
    cases_of,
    draw_stream,
    expected,
    expected_at,
    serve,
)

from embervlm.memory.entries import MemoryBuffer
from embervlm.reasoner.equations import equations, reached
from embervlm.reasoner.evaluation import evaluate
from embervlm.reasoner.judging import final_answer, is_right
from embervlm.reasoner.loop import IterativeReasoner, Trace
from embervlm.reasoner.managers import RuleManager
from embervlm.reasoner.models import open_model
from embervlm.reasoner.problems import Case, Loaded
from embervlm.reasoner.word_problems import load_gsm8k

LEVEL = 0.99
SKILL = Skill(right=0.4, with_lesson=0.8, mended=0.3, broken=0.15, visible=0.5)
# The rules see no fault in a wrong answer, so that only the question itself changes answers.
HIDDEN = Skill(right=0.4, with_lesson=0.8, mended=0.3, broken=0.15)

Comparison = dict[str, Any]


def compare(part: str, figure: str, count: int, n: int, closed: float) -> Comparison:
    """Return a measured share beside its closed form; `inside` is judged when all are known."""
    return {
        "part": part,
        "figure": figure,
        "count": count,
        "n": n,
        "measured": round(count / n, 4),
        "closed_form": round(closed, 4),
    }


def judge(comparisons: list[Comparison]) -> bool:
    """Write into each comparison the interval of its share; say whether all lie within."""
    level = 1 - (1 - LEVEL) / len(comparisons)
    for one in comparisons:
        low, high = stats.binom.interval(level, one["n"], one["closed_form"])
        one["interval"] = [round(low / one["n"], 4), round(high / one["n"], 4)]
        one["inside"] = bool(low <= one["count"] <= high)
    return all(one["inside"] for one in comparisons)


def kinds_of_feedback(problems: int) -> list[Comparison]:
    """Compare the figures of no feedback, of the rules, of asking again and of a verdict."""
    found = []
    modes = (
        ("none", False, SKILL),
        ("self", False, SKILL),
        ("self", True, HIDDEN),
        ("verdict", False, SKILL),
    )
    for seed, (feedback, ask_again, skill) in enumerate(modes):
        stream = draw_stream(seed, max(1, problems // 8))
        with serve(ScriptedModel(skill, stream, seed)) as url:
            reasoner = IterativeReasoner(
                open_model(f"openai:{url}#scripted"), RuleManager(ask_again=ask_again)
            )
            report = evaluate(reasoner, Loaded(cases_of(stream)), feedback=feedback)
        part = feedback + (", asking again" if ask_again else "")
        for name, closed in expected(skill, feedback, ask_again=ask_again).items():
            share = report["figures"][name]
            found.append(compare(part, name, share["count"], share["n"], closed))
    return found


def lessons(streams: int, each: int, *, stays: bool) -> tuple[list[Comparison], dict[str, int]]:
    """Compare what hints bring, problem by problem of a kind, with and without a memory that stays;
    also count how often a lesson that was kept stood in the prompt."""
    first, last = [0] * each, [0] * each
    totals = {name: [0, 0] for name in (*expected(SKILL, "hint"), "kind_repetition")}
    kept = shown = 0
    for seed in range(streams):
        stream = draw_stream(seed, each)
        model = ScriptedModel(SKILL, stream, seed)
        traces: list[tuple[Case, Trace]] = []
        with serve(model) as url:
            reasoner = IterativeReasoner(
                open_model(f"openai:{url}#scripted"), fresh_memory=not stays
            )
            report = evaluate(
                reasoner,
                Loaded(cases_of(stream)),
                feedback="hint",
                on_trace=lambda case, trace, traces=traces: traces.append((case, trace)),
            )
        kinds = len(stream) // each
        learnt: set[str] = set()
        for i, (case, trace) in enumerate(traces):
            first[i // kinds] += is_right(trace.iterations[0].answer, case.gold)
            last[i // kinds] += is_right(trace.answer, case.gold)
            lesson = str(case.gold.lesson)
            if stays and lesson in learnt:
                kept += 1
                shown += lesson in trace.iterations[0].prompt
            if trace.iterations[0].told_right is False:
                learnt.add(lesson)
        for name, total in totals.items():
            total[0] += report["figures"][name]["count"]
            total[1] += report["figures"][name]["n"]
    part = "hint, memory stays" if stays else "hint, memory fresh"
    found = []
    for i in range(each):
        n = streams * len(draw_stream(0, 1))
        closed_first, closed_last = expected_at(SKILL, i + 1, stays=stays)
        found.append(compare(part, f"accuracy_first({i + 1})", first[i], n, closed_first))
        found.append(compare(part, f"accuracy({i + 1})", last[i], n, closed_last))
    again = 1 - (SKILL.with_lesson if stays else SKILL.right)
    for name, closed in {**expected(SKILL, "hint"), "kind_repetition": again}.items():
        found.append(compare(part, name, *totals[name], closed))
    return found, {"lessons_kept": kept, "lessons_in_the_prompt": shown}


def retrieval_ms(entries: int) -> float:
    """Return how long one retrieval takes among so many entries, in milliseconds."""
    memory = MemoryBuffer()
    for seed in range(entries // 8):
        for problem in draw_stream(seed, 1):
            memory.add("correction", problem.template.lesson, metadata={"task": problem.question})
    question = draw_stream(-1, 1)[0].question
    begun = time.process_time()
    for _ in range(5):
        memory.retrieve(question)
    return round((time.process_time() - begun) / 5 * 1000, 2)


def published_solutions(path: Path) -> dict[str, int]:
    """Return how many solutions of GSM8K are judged right by their gold, how many of their
    equations hold, and how many of their steps are found."""
    counts = dict.fromkeys(("solutions", "right", "equations", "hold", "steps", "reached"), 0)
    for name in ("gsm8k_train.jsonl", "gsm8k_test.jsonl"):
        rows = [json.loads(line) for line in (path / name).read_text("utf-8").splitlines()]
        for row, case in zip(rows, load_gsm8k(path / name).cases, strict=True):
            found = equations(row["answer"])
            counts["solutions"] += 1
            counts["right"] += is_right(final_answer(row["answer"]), case.gold)
            counts["equations"] += len(found)
            counts["hold"] += sum(equation.holds for equation in found)
            counts["steps"] += len(case.gold.steps)
            counts["reached"] += reached(case.gold.steps, row["answer"])
    return counts


def run(problems: int, streams: int, each: int) -> dict[str, Any]:
    """Return all parts of the benchmark."""
    comparisons = kinds_of_feedback(problems)
    staying, recall = lessons(streams, each, stays=True)
    fresh, _ = lessons(streams, each, stays=False)
    comparisons += staying + fresh
    inside = judge(comparisons)
    return {
        "skill": vars(SKILL),
        "problems": problems,
        "streams": streams,
        "all_inside": inside,
        "comparisons": comparisons,
        **recall,
    }


def main() -> None:
    """Print the comparisons, and write them if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--gsm8k", type=Path, help="folder with gsm8k_train.jsonl and _test.jsonl")
    parser.add_argument("--problems", type=int, default=480, help="for each kind of feedback")
    parser.add_argument("--streams", type=int, default=24)
    parser.add_argument("--each", type=int, default=4, help="problems of a kind in a stream")
    given = parser.parse_args()
    report = run(given.problems, given.streams, given.each)
    report["retrieval_ms"] = {str(n): retrieval_ms(n) for n in (80, 800)}
    if given.gsm8k:
        report["gsm8k"] = published_solutions(given.gsm8k)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    report = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        **report,
    }
    for one in report["comparisons"]:
        mark = "" if one["inside"] else "   OUTSIDE"
        sys.stdout.write(
            f"{one['part']:20} {one['figure']:26} {one['measured']:.3f}  closed form "
            f"{one['closed_form']:.3f}  [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}]  "
            f"n = {one['n']}{mark}\n"
        )
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if not report["all_inside"]:
        raise SystemExit("A figure is not what its closed form says.")


if __name__ == "__main__":
    main()
