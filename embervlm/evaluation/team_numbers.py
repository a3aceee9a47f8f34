"""Fit what counts for teams: the steps and the whole request, and how likely a job is a team's.

Axes: N jobs, S sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from embervlm.backends.base import Proposal
from embervlm.data.sample import subset_of
from embervlm.evaluation.cases import Case
from embervlm.evaluation.fitting import fit_confidence, mean_loss
from embervlm.reading import SIZES, Calibration
from embervlm.selector import Selector
from embervlm.splitting import Job, liked_robots, team_logits

STEP_WEIGHTS = (0.0, 0.15, 0.3, 0.5)
TEAM_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
TEAM_TEMPERATURES = (1.0, 1.5, 2.0, 3.0)
TEAM_FROM = -6.0
TEAM_NUMBERS = (
    "step_weight", "team_weight", "team_temperature", "team_from", "team_scale", "team_second",
    "team_shift",
)  # fmt: skip
# One job that is quite misread must not decide alone.
_MOST_LOSS = 12.0


def fit_teams(
    trial: Selector, cases: Sequence[Case], proposals: Sequence[Proposal]
) -> dict[str, float]:
    """Return the numbers of a calibration that are for teams.

    Of the combinations of `STEP_WEIGHTS` and `TEAM_WEIGHTS` those with the most exact teams are
    taken, of them that with which the true ones are likeliest, at the best of `TEAM_TEMPERATURES`.
    Only jobs that the network splits and takes for a team's play a part. Of those that it splits
    though it takes them for one robot's, from `TEAM_FROM` on, the odds of `deciding.odds_of_team`
    are learnt.
    """
    jobs, signs, teams = [], [], []
    trial.calibration = replace(trial.calibration, step_weight=0.0)
    for case, proposal in zip(cases, proposals, strict=True):
        if proposal.team <= TEAM_FROM or not case.scenario.task:
            continue
        job = trial.split(case.scenario, proposal)
        if job is None:
            continue
        if proposal.team > 0:
            alone = [trial.backend.propose(step.subtask, None) for step in job.steps]
            jobs.append((job, alone, proposal, subset_of(case.truth.robots)))
        else:
            signs.append((proposal.team, job.more))
            teams.append(float(case.truth.is_team))
    known = Calibration()
    found = {name: getattr(known, name) for name in TEAM_NUMBERS}
    if jobs:
        found |= _team_weights(jobs)
    if 0 < sum(teams) < len(teams):
        weights, shift = fit_confidence(np.array(signs), np.array(teams))
        names = ("team_from", "team_scale", "team_second", "team_shift")
        found |= dict(zip(names, (TEAM_FROM, *weights, shift), strict=True))
    return found


def _team_weights(jobs: Sequence[tuple[Job, list[Proposal], Proposal, int]]) -> dict[str, float]:
    """Return `step_weight`, `team_weight` and `team_temperature`; see `fit_teams`."""
    true_N = np.array([true for *_, true in jobs])
    worth: dict[tuple[float, float, float], tuple[int, float]] = {}
    for step_weight in STEP_WEIGHTS:
        liked = [
            [
                liked_robots(score, one, step_weight)
                for score, one in zip(job.scores, alone, strict=True)
            ]
            for job, alone, _, _ in jobs
        ]
        for team_weight in TEAM_WEIGHTS:
            logits_NS = np.stack(
                [
                    team_logits(proposal.subsets, steps, team_weight)
                    for (_, _, proposal, _), steps in zip(jobs, liked, strict=True)
                ]
            ).astype(np.float64)
            logits_NS[:, SIZES < 2] = -np.inf
            right = int((logits_NS.argmax(1) == true_N).sum())
            for temperature in TEAM_TEMPERATURES:
                loss = sum(
                    min(mean_loss(logits_S[None] / temperature, true_N[n : n + 1]), _MOST_LOSS)
                    for n, logits_S in enumerate(logits_NS)
                )
                worth[step_weight, team_weight, temperature] = right, -loss
    best = max(worth, key=lambda numbers: worth[numbers])
    return dict(zip(("step_weight", "team_weight", "team_temperature"), best, strict=True))
