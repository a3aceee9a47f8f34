"""What a run is worth: six figures over its traces, each with a 95 % interval.

Right means `judging.is_right` of the final answer. An answer that could not be read, or did not
come, is not right; how many there were is a figure of its own. For problem i let f_i be whether
the first answer is right, l_i whether the last one is.

    accuracy_first            mean f_i: what the model does without the loop's second look
    accuracy                  mean l_i
    correction_effectiveness  of the problems with f_i wrong, the share with l_i right
    harm                      of the problems with f_i right, the share with l_i wrong
    error_repetition          of the wrong answers that were asked again, the share whose next
                              answer is the same wrong answer
    kind_repetition           of the problems of a kind in which an earlier problem of this run was
                              answered wrong at first, the share whose first answer is wrong again;
                              only where the data names kinds
    step_correctness          of the numbers that the publisher's solutions pass through, the share
                              that the last answers reach as results of true equations; only where
                              the data has steps
    true_equations            of the equations in the last answers, the share that hold
    unreadable                share of last answers that could not be read or did not come

    accuracy = accuracy_first + (1 - accuracy_first) * correction_effectiveness
             - accuracy_first * harm

Shares of problems have Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001 on why
not the plain one). Shares of steps, equations and answers have a percentile bootstrap over
problems, since those of one problem hang together; where all problems are alike it has no width,
however few they are. None: nothing to be counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.reasoner.equations import equations, reached
from embervlm.reasoner.judging import is_right, same
from embervlm.reasoner.loop import Trace
from embervlm.reasoner.problems import Gold

RESAMPLES = 2000
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """`count` of `n`, and the 95 % interval of the share; all None for n = 0."""

    count: int
    n: int
    value: float | None
    low: float | None
    high: float | None

    def text(self) -> str:
        """Return the share for people."""
        if self.value is None:
            return "nothing to count"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}; {self.count} of {self.n})"


def measure(traces: Sequence[Trace], golds: Sequence[Gold]) -> dict[str, Share]:
    """Return the figures that the module describes, of traces in the order in which they ran."""
    first = [is_right(_first_answer(trace), gold) for trace, gold in _pairs(traces, golds)]
    last = [is_right(trace.answer, gold) for trace, gold in _pairs(traces, golds)]
    turned = [end for begin, end in zip(first, last, strict=True) if not begin]
    kept = [end for begin, end in zip(first, last, strict=True) if begin]
    return {
        "accuracy_first": wilson(sum(first), len(first)),
        "accuracy": wilson(sum(last), len(last)),
        "correction_effectiveness": wilson(sum(turned), len(turned)),
        "harm": wilson(len(kept) - sum(kept), len(kept)),
        "error_repetition": bootstrap([_repeated(t, g) for t, g in _pairs(traces, golds)]),
        "kind_repetition": _kind_repetition(first, golds),
        "step_correctness": bootstrap(
            [(reached(g.steps, t.text), len(g.steps)) for t, g in _pairs(traces, golds)]
        ),
        "true_equations": bootstrap([_true_equations(trace.text) for trace in traces]),
        "unreadable": wilson(sum(trace.answer is None for trace in traces), len(traces)),
    }


def wilson(count: int, n: int) -> Share:
    """Return a share of independent trials with Wilson's score interval.

    >>> wilson(8, 10).text()
    '0.800 (0.490 to 0.943; 8 of 10)'
    """
    if n == 0:
        return Share(0, 0, None, None, None)
    share, z2 = count / n, Z_95 * Z_95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Share(count, n, share, max(0.0, middle - half), min(1.0, middle + half))


def bootstrap(parts: Sequence[tuple[int, int]]) -> Share:
    """Return the share of sums over problems, with a percentile bootstrap over the problems."""
    table_N2 = np.array([part for part in parts if part[1]], dtype=np.int64).reshape(-1, 2)
    if len(table_N2) == 0:
        return Share(0, 0, None, None, None)
    count, n = (int(total) for total in table_N2.sum(0))
    draw = np.random.default_rng(0)
    shares = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        of, all_of = table_N2[draw.integers(0, len(table_N2), len(table_N2))].sum(0)
        shares[i] = of / all_of
    low, high = np.quantile(shares, [0.025, 0.975])
    return Share(count, n, count / n, float(low), float(high))


def _pairs(traces: Sequence[Trace], golds: Sequence[Gold]) -> list[tuple[Trace, Gold]]:
    return list(zip(traces, golds, strict=True))


def _first_answer(trace: Trace) -> str | None:
    return trace.iterations[0].answer if trace.iterations else None


def _repeated(trace: Trace, gold: Gold) -> tuple[int, int]:
    """Return how many wrong answers were given again at once, and how many could have been."""
    answers = [iteration.answer for iteration in trace.iterations]
    repeated = asked = 0
    for before, after in zip(answers, answers[1:], strict=False):
        if before is None or is_right(before, gold):
            continue
        asked += 1
        repeated += after is not None and same(before, after, gold.decimals)
    return repeated, asked


def _true_equations(text: str) -> tuple[int, int]:
    found = equations(text)
    return sum(equation.holds for equation in found), len(found)


def _kind_repetition(first: Sequence[bool], golds: Sequence[Gold]) -> Share:
    failed: set[str] = set()
    again = n = 0
    for right, gold in zip(first, golds, strict=True):
        if gold.kind is None:
            continue
        if gold.kind in failed:
            n += 1
            again += not right
        if not right:
            failed.add(gold.kind)
    return wilson(again, n)
