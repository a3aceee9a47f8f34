"""What is true of the reasoning that a model writes."""

from __future__ import annotations

from collections.abc import Sequence

from embervlm.evaluation.cases import Answered, watched
from embervlm.evaluation.metrics import Rows, share
from embervlm.faithfulness import check_line, named_robots, names_in, needs_of_steps
from embervlm.prompts import parse_reasoning
from embervlm.selector import Selector

# False claims listed in the report, so that a reader can see what kind they are.
SHOWN_FAULTS = 20


def reasoning_rows(selector: Selector, answered: Sequence[Answered]) -> tuple[Rows, list[str]]:
    """Return what is true of the written reasoning, and the first false claims.

    "own words" is what the decoder writes; the rest is what the selector shows unless asked for own
    words. Facts are the clauses of the line on the robots, checked by
    `embervlm.faithfulness`.
    """
    parses, own, shown, speaks_for, facts, facts_of, faultless = [], [], [], [], [], [], []
    ids, parsed_ids, faults = [], [], []
    for one in watched(answered, "write the reasoning"):
        case, proposal, decision = one.case, one.proposal, one.decision
        ids.append(case.truth.id)
        written = parse_reasoning(selector.backend.write(proposal, decision.robots))
        parses.append(written is not None)
        if written is None:
            continue
        parsed_ids.append(case.truth.id)
        told = selector.answer(proposal, case.scenario)
        robots = set(told.robots)
        own.append(names_in(written.decision, selector.fleet).keys() == robots)
        shown.append(names_in(told.reasoning[3], selector.fleet).keys() == robots)
        speaks_for.append(named_robots(told.reasoning[2], selector.fleet)[0] == robots)
        claims = check_line(
            told.reasoning[2],
            selector.fleet,
            told.needs,
            probabilities=told.probabilities,
            steps=needs_of_steps(told),
        )
        facts += [claim.fault is None for claim in claims]
        facts_of += [case.truth.id] * len(claims)
        faultless.append(all(claim.fault is None for claim in claims))
        faults += [f"{case.truth.id}: {claim.fault}" for claim in claims if claim.fault]
    lines = {
        "own words parse": (parses, ids),
        "own words name exactly the decided robots": (own, parsed_ids),
        "names exactly the decided robots": (shown, parsed_ids),
        "speaks for exactly the decided robots": (speaks_for, parsed_ids),
        "facts that are true": (facts, facts_of),
        "all its facts are true": (faultless, parsed_ids),
    }
    rows = {name: {"share": share(right, of)} for name, (right, of) in lines.items()}
    return rows, faults[:SHOWN_FAULTS]
