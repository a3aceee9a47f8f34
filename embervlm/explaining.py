"""The four lines of a decision's reasoning, worded by rules or, checked, by the decoder.

    explain(decision, fleet, team=False)
    # ("Task: Carry; load 8 kg", "Environment: Indoor cluttered", "Robots: ...", "Decision: ...")

The lines say what was read, why each robot was taken or left, and the decision. Of what the decoder
words itself a line is shown only if it states no quantity that the request does not
(`quantities.states`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from embervlm import planning
from embervlm.backends.base import Backend, Proposal
from embervlm.faithfulness import names_in
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.prompts import Reasoning, describe_needs, parse_reasoning
from embervlm.quantities import states
from embervlm.scenario import Decision, Needs

_DEFAULT_FLEET = Fleet.default()
# How a clause on a robot begins against which nothing is stated (`planning.reasons_against`).
_KEEPS_ALL = "breaks no stated limit"
# What speaks for a robot that was asked for, where nothing else does.
_REQUIRED = "is required"
_NOBODY: Mapping[str, Sequence[str]] = {}


def explain(
    decision: Decision,
    fleet: Fleet,
    *,
    team: bool,
    written: Reasoning | None = None,
    unread: Sequence[str] = (),
    named: Mapping[str, Sequence[str]] = _NOBODY,
) -> tuple[str, str, str, str]:
    """Return the lines on task, place, robots and decision.

    Args:
        decision: what was decided.
        fleet: the robots as they were when it was.
        team: whether the robots go together, rather than one in place of another.
        written: the decoder's own words, `own_words`; of them goes in what holds.
        unread: the quantities for which the request was too long, as it words them.
        named: what stands against each robot that a lesson or the caller named; see `against`.
    """
    task = decision.scenario.task if decision.scenario else None
    place = _capitalised(decision.environment.replace("_", " "))
    asked = describe_needs(decision.needs) if task else "no request; the photo alone"
    if task and not decision.needs.actions:
        asked = f"no action that a robot takes was read; {asked}"
    sentence = decision_sentence(decision, team)
    if written is not None:
        if states(task or "", written.task):
            asked = written.task
        if states(task or "", written.environment):
            place = f"{place}. {_capitalised(written.environment)}"
        sentence = checked_decision(written, decision.robots, fleet, task or "") or sentence
    if unread:
        asked = f"{asked}; not read, for the request is too long: {', '.join(unread)}"
    why = []
    for name in decision.robots:
        facts = (
            planning.reasons_for(fleet[name], _needs_for(name, decision))
            if name in fleet
            else ["no robot of the fleet can do the core of this"]
        )
        if name in named:
            own = [fact for fact in facts if fact != planning.AS_A_WHOLE]
            facts = [*(own or [_REQUIRED]), *(f"though it {clause}" for clause in named[name])]
        if decision.lessons:
            own = [fact for fact in facts if fact != _REQUIRED] if name in fleet else []
            facts = [f"as lesson {decision.lessons[0]} says", *own]
        why.append(f"{name}: {', '.join(facts)}")
    why += [f"not {name}: {reason}" for name, reason in decision.rejected.items()]
    return (
        f"Task: {_capitalised(asked)}",
        f"Environment: {place}",
        f"Robots: {'; '.join(why)}",
        f"Decision: {_capitalised(sentence)}",
    )


def against(
    name: str, decision: Decision, fleet: Fleet, misread: Collection[str] = ()
) -> list[str]:
    """Return what stands against a decided robot: the limits that it breaks and the actions that it
    lacks, of what is likely to be asked of it and was not misread; of several steps, by its own, or
    where it has none by the one against which the least stands."""

    def clauses(needs: Needs) -> list[str]:
        actions = planning.missing_actions(fleet[name], needs)
        lacks = [f"cannot {' or '.join(actions)}"] if actions else []
        return planning.broken_limits(fleet[name], needs) + lacks

    steps = [(step.robot, step.needs) for step in decision.plan if step.needs is not None]
    if len(decision.plan) < 2 or not steps:
        return clauses(decision.needs.without(misread))
    own = [clauses(needs) for robot, needs in steps if robot == name]
    own = own or [min((clauses(needs) for _, needs in steps), key=len)]
    return list(dict.fromkeys(clause for found in own for clause in found))


def taught_otherwise(
    rejected: Mapping[str, str], lesson: int, taught: Collection[str]
) -> dict[str, str]:
    """Return what is said against each robot where a lesson chose those that it `taught`.

    >>> taught_otherwise({"Drone": "breaks no stated limit, but suits less well (96%)"}, 1, [])
    {'Drone': 'breaks no stated limit, but lesson 1 says otherwise'}
    """
    otherwise = f"{_KEEPS_ALL}, but lesson {lesson} says otherwise"
    return {
        name: otherwise if why.startswith(_KEEPS_ALL) and name not in taught else why
        for name, why in rejected.items()
    }


def own_words(
    decision: Decision, proposal: Proposal, backend: Backend, slot_of: Mapping[str, int]
) -> Reasoning:
    """Return how the decoder words a decision, unchecked.

    It knows the default robots; one of another name is told as the one it stands for, `slot_of` by
    name (`abilities`).
    """
    told = [
        _DEFAULT_FLEET.names[slot_of[name]] if name in slot_of else name for name in decision.robots
    ]
    written = parse_reasoning(backend.write(proposal, tuple(dict.fromkeys(told))))
    assert written is not None, "the decoder's grammar lets nothing else out"
    return written


def decision_sentence(decision: Decision, team: bool) -> str:
    """Return the decision in one sentence that names every decided robot once."""
    first, *others = decision.robots
    if first == NO_ROBOT and decision.lessons:
        return f"No Robot, as lesson {decision.lessons[0]} says."
    if first == NO_ROBOT:
        return "No Robot: none of the fleet can do the core of this."
    if not others:
        return f"Send the {first}."
    rest = " and the ".join(others)
    if team:
        return f"Send the {first} and the {rest} as a team."
    return f"Send the {first}; the {rest} would do as well."


def checked_decision(
    written: Reasoning, robots: Sequence[str], fleet: Fleet, request: str
) -> str | None:
    """Return the decoder's line on the decision, or None unless it names each decided robot once,
    no others, and no quantity that the request does not state."""
    text = written.decision
    once = names_in(text, fleet) == Counter(set(robots))
    return text if once and states(request, text) else None


def _needs_for(name: str, decision: Decision) -> Needs:
    """Return those of a decision's needs that a robot's own steps have; all of a single job's."""
    own = [s.needs for s in decision.plan if s.robot == name and s.needs is not None]
    if len(decision.plan) < 2 or not own:
        return decision.needs
    whole = decision.needs
    actions = {action for needs in own for action in needs.actions}
    limits = {item for needs in own for item in needs.quantities.items()}
    return Needs(
        tuple(action for action in whole.actions if action in actions),
        whole.environment,
        {key: value for key, value in whole.quantities.items() if (key, value) in limits},
        frozenset(flag for needs in own for flag in needs.flags),
    )


def _capitalised(line: str) -> str:
    return line[:1].upper() + line[1:]
