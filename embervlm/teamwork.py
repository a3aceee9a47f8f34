"""A job for several robots: from the request to its steps, and from the steps to who does them.

    job = split(backend, calibration, task, proposal)     # None: one step
    allocated(fleet, abilities, ["Drone", "Humanoid"], job, may_grow=True)

It keeps nothing between calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from embervlm import deciding, planning
from embervlm.abilities import Abilities
from embervlm.backends.base import MAX_TASK_TOKENS, Backend, Proposal
from embervlm.fleet import Fleet
from embervlm.planning.costs import LEAST_CHANCE, Step
from embervlm.planning.limits import missing_actions
from embervlm.prompts import one_line, token_spans
from embervlm.reading import Calibration, stated_quantities
from embervlm.scenario import Subtask
from embervlm.splitting import (
    Job,
    in_working_order,
    liked_robots,
    one_step_each,
    steps_of,
)
from embervlm.tokenizer import Tokenizer


def split(
    backend: Backend, calibration: Calibration, task: str | None, proposal: Proposal
) -> Job | None:
    """Return a job in steps, None where the network sees one step or cannot split.

    Args:
        backend: what said the proposal, and reads each step by itself.
        calibration: the numbers fitted for this network.
        task: the request, as it was meant.
        proposal: what the network says of it.
    """
    told = backend.split(proposal)
    if len(told) < 2:
        return None
    words, tokenizer = one_line(task), backend.tokenizer
    assert isinstance(tokenizer, Tokenizer), "only networks with our tokenizer split a job"
    stated = [
        (mention, stated_quantities([mention], roles_R[None], calibration.limit_shift))
        for mention, roles_R in zip(proposal.mentions, proposal.roles, strict=True)
    ]
    spans = token_spans(words, tokenizer, MAX_TASK_TOKENS)
    certain = calibration.certain_flag
    steps, scores = in_working_order(steps_of(words, spans, told, stated, certain), told)
    liked = [
        liked_robots(score, backend.propose(step.subtask, None), calibration.step_weight)
        for score, step in zip(scores, steps, strict=True)
    ]
    return Job(steps, scores, tuple(liked), told[1].more)


def allocated(
    fleet: Fleet, abilities: Abilities, robots: Sequence[str], job: Job, *, may_grow: bool
) -> tuple[Subtask, ...]:
    """Return a team's steps with who does them.

    They go to the `robots` that were chosen, one at least to each. If it `may_grow`, what none of
    them can do goes to another of the fleet that can; with robots unlike all default ones, of whom
    the network has said nothing, every step goes to whom it suits best.
    """
    preferences = [
        deciding.preferences(score, liked_R, abilities)
        for score, liked_R in zip(job.scores, job.liked, strict=True)
    ]
    steps = [
        replace(step, unsuited=_unsuited(fleet, step, liked))
        for step, liked in zip(job.steps, preferences, strict=True)
    ]
    all_alike = all(abilities.is_alike.values())
    chosen = Fleet(tuple(fleet[name] for name in robots), fleet.objective)
    if all_alike:
        kept = one_step_each(chosen, steps, preferences)
        made = planning.allocate(chosen, kept, preferences=preferences)
    else:
        made = planning.allocate(fleet if may_grow else chosen, steps, preferences=preferences)
    if made.unassigned and all_alike and may_grow:
        made = planning.allocate(fleet, steps, preferences=preferences)
    if may_grow:
        return made.steps
    return tuple(
        replace(step, why=f"Of those that are sent: {step.why[0].lower()}{step.why[1:]}")
        if step.why
        else step
        for step in made.steps
    )


def _unsuited(fleet: Fleet, step: Step, liked: Mapping[str, float]) -> tuple[str, ...]:
    """Return the robots that have the actions for a step, but next to no chance at it."""
    return tuple(
        name
        for name, chance in liked.items()
        if chance < np.log(LEAST_CHANCE) and not missing_actions(fleet[name], step.needs)
    )
