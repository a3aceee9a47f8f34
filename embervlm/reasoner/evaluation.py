"""Runs the loop over a data set and says what it is worth.

    report = evaluate(reasoner, load_set("gsm8k:test.jsonl"), feedback="self")
    report["figures"]["harm"]

Gold answers are used after the loop has ended, by `metrics`. Only with feedback `verdict` or `hint`
does the loop hear of them before, and the report is then marked `"oracle": true`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embervlm.reasoner.feedback import ORACLES, source_of
from embervlm.reasoner.loop import IterativeReasoner, Trace
from embervlm.reasoner.memory_manager import ReasoningMemoryManager
from embervlm.reasoner.metrics import measure
from embervlm.reasoner.problems import Case, Loaded
from embervlm.training.teachers import NoAnswerError


def evaluate(
    reasoner: IterativeReasoner,
    data: Loaded,
    *,
    feedback: str = "self",
    on_trace: Callable[[Case, Trace], None] = lambda case, trace: None,
) -> dict[str, Any]:
    """Solve every problem of a set, in order, and return the report.

    A problem with photos is not asked of a model that cannot see, and is counted.

    Raises:
        ValueError: a model is out of reach or refuses; the message says after how many problems.
    """
    left_out = Counter(data.left_out)
    cases = [case for case in data.cases if reasoner.model.sees or not case.problem.photos]
    if unseen := len(data.cases) - len(cases):
        left_out["with images, which the model cannot see"] += unseen
    if not cases:
        raise ValueError(f"{reasoner.model.name} cannot see, and every problem has an image.")
    entries = len(reasoner.memory)
    traces: list[Trace] = []
    for case in cases:
        source = source_of(case, feedback)
        try:
            trace = reasoner.solve(case.problem, source, feedback=feedback)
        except NoAnswerError as error:
            raise ValueError(
                f"The model cannot be reached ({error}), after {len(traces):,} of {len(cases):,} "
                "problems; check that it runs, and begin again."
            ) from error
        traces.append(trace)
        on_trace(case, trace)
    return {
        "model": reasoner.model.name,
        "manager": reasoner.manager.name,
        "feedback": feedback,
        "oracle": feedback in ORACLES,
        "max_iterations": reasoner.max_iterations,
        "fresh_memory": reasoner.fresh_memory,
        "seed": reasoner.seed,
        "problems": len(cases),
        "left_out": dict(left_out),
        "figures": {
            name: asdict(share)
            for name, share in measure(traces, [case.gold for case in cases]).items()
        },
        **counts(traces, reasoner),
        "entries": {"before": entries, "after": len(reasoner.memory)},
    }


def counts(traces: Sequence[Trace], reasoner: IterativeReasoner) -> dict[str, Any]:
    """Return why the loop stopped how often, and what was asked, cut, refused and unreadable."""
    iterations = [iteration for trace in traces for iteration in trace.iterations]
    found: dict[str, Any] = {
        "stopped": dict(Counter(trace.stopped for trace in traces)),
        "answers": len(iterations),
        "answers_cut": sum(iteration.cut for iteration in iterations),
        "operations_refused": sum(len(iteration.refused) for iteration in iterations),
    }
    if isinstance(reasoner.manager, ReasoningMemoryManager):
        found["reviews_malformed"] = reasoner.manager.malformed
        found["reviews_unanswered"] = reasoner.manager.unanswered
    return found


def trace_line(case: Case, trace: Trace) -> str:
    """Return a trace with its gold as a line of JSON."""
    row = {**trace.to_dict(), "gold": list(case.gold.answers)}
    return json.dumps(row, ensure_ascii=False) + "\n"


def check_writable(paths: Sequence[Path | None]) -> None:
    """Fail before anything is asked if a result could not be written.

    Raises:
        ValueError: which, and why.
    """
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ValueError(f"{path} cannot be written: give a file in a folder that is there.")
