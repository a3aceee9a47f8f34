"""What is true of the reasoning that a model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embervlm.backends.base import Backend, Proposal
from embervlm.evaluation.cases import Answered, watched
from embervlm.evaluation.faithfulness import check_line, named_robots
from embervlm.evaluation.metrics import Rows, share
from embervlm.fleet import Fleet
from embervlm.prompts import parse_reasoning
from embervlm.selector import Selector

# False claims listed in the report, so that a reader can see what kind they are.
SHOWN_FAULTS = 20


def reasoning_rows(selector: Selector, answered: Sequence[Answered]) -> tuple[Rows, list[str]]:
    """Return what is true of the written reasoning, and the first false claims.

    "own words" is the decoder's line on the decision as it wrote it; "as shown" is the line after
    the selector has checked it. Facts are the clauses of the line on the robots, checked by
    `evaluation.faithfulness`.
    """
    backend = _Remembering(selector.backend)
    teller = Selector(backend, selector.fleet)
    teller.calibration = selector.calibration
    parses, own, shown, speaks_for, facts, facts_of, faultless = [], [], [], [], [], [], []
    ids, parsed_ids, faults = [], [], []
    for one in watched(answered, "write the reasoning"):
        case, proposal, decision = one.case, one.proposal, one.decision
        ids.append(case.truth.id)
        written = parse_reasoning(backend.write(proposal, decision.robots))
        parses.append(written is not None)
        if written is None:
            continue
        parsed_ids.append(case.truth.id)
        told = teller.answer(proposal, case.scenario)
        robots = set(told.robots)
        own.append(names_in(written.decision, selector.fleet) == robots)
        shown.append(names_in(told.reasoning[3], selector.fleet) == robots)
        speaks_for.append(named_robots(told.reasoning[2], selector.fleet)[0] == robots)
        claims = check_line(
            told.reasoning[2], selector.fleet, told.needs, probabilities=told.probabilities
        )
        facts += [claim.fault is None for claim in claims]
        facts_of += [case.truth.id] * len(claims)
        faultless.append(all(claim.fault is None for claim in claims))
        faults += [f"{case.truth.id}: {claim.fault}" for claim in claims if claim.fault]
    lines = {
        "parses": (parses, ids),
        "own words name exactly the decided robots": (own, parsed_ids),
        "as shown names exactly the decided robots": (shown, parsed_ids),
        "speaks for exactly the decided robots": (speaks_for, parsed_ids),
        "facts that are true": (facts, facts_of),
        "all its facts are true": (faultless, parsed_ids),
    }
    rows = {name: {"share": share(right, of)} for name, (right, of) in lines.items()}
    return rows, faults[:SHOWN_FAULTS]


def names_in(text: str, fleet: Fleet) -> set[str]:
    """Return the outcomes whose names stand in a text."""
    return {name for name in fleet.outcomes if name.lower() in text.lower()}


class _Remembering:
    """A backend that writes each reasoning once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._last: tuple[Proposal, tuple[str, ...], str] | None = None

    @property
    def image_size(self) -> int:
        return self._backend.image_size

    @property
    def calibration(self) -> dict[str, float]:
        return self._backend.calibration

    def propose(self, task: str | None, pixels_CHW: Any) -> Proposal:
        return self._backend.propose(task, pixels_CHW)

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        last = self._last
        if last is None or last[0] is not proposal or last[1] != tuple(robots):
            text = self._backend.write(proposal, robots)
            self._last = last = (proposal, tuple(robots), text)
        return last[2]
