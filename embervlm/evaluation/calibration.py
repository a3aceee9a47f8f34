"""Fit the numbers that ship beside the weights, on the validation split and nothing else.

The network is run once over the split; everything else is a search over what it said. In this
order, each step with the numbers of those before it: the temperature of the set, the probability
above which a flag rules robots out, the shift towards numbers being limits, the weights of a team's
steps and of the whole request, how likely two written steps make a job a team's, the shift of No
Robot, how sure an answer's signs make it, the confidence under which a person decides, and the
cosine above which two requests are the same.

    python -m embervlm.evaluation.calibration --model M.gguf [--shared ../shared]
    python -m embervlm.evaluation.calibration --model M.gguf --only teams

With `--shared` the photo requests of the split, with photos of the split, count too, for how sure
an answer is also without their words. `--jobs w85` lets the training plans whose ids begin so
count for teams: those that the plans' part was judged by and did not learn. With `--only teams` the
numbers for teams are fitted anew, and the file keeps the others. `--no-robot-recall` trades right
sets for requests where nobody can go (`fit_shift`).

Axes: N requests, S sets or signs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from embervlm.backends import BACKENDS, load_backend
from embervlm.backends.base import Array, Backend, Proposal, StepScores
from embervlm.checkpoint import update_calibration
from embervlm.data.sample import subset_of
from embervlm.data.scenarios import load
from embervlm.evaluation.cases import Case, photo_cases, text_cases
from embervlm.evaluation.counterfactual import Swap, SwapRead, holds, read_swap, swaps_of
from embervlm.evaluation.fitting import (
    Floats,
    answer_from,
    fit_confidence,
    fit_temperature,
    same_request,
)
from embervlm.evaluation.metrics import truth_of
from embervlm.evaluation.team_numbers import fit_teams
from embervlm.fleet import NO_ROBOT
from embervlm.prompts import Encoder
from embervlm.reading import PHOTO_SIGNS, SIGNS, Calibration
from embervlm.scenario import Scenario
from embervlm.scoring import exact
from embervlm.selector import Selector

SHIFTS = tuple(i / 10 for i in range(-20, 21))
LIMIT_SHIFTS = tuple(i / 2 for i in range(13))
CERTAIN_FLAGS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.93, 0.95, 0.97, 0.98, 0.99)


class Remembering:
    """A backend that says the same again where it was asked before: steps and words alone, which
    the search over one number after another asks for a hundred times. Implements `Backend`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._read: dict[str | None, Proposal] = {}
        # The proposal is kept beside its steps, so that no other gets its id.
        self._split: dict[int, tuple[Proposal, tuple[StepScores, ...]]] = {}

    @property
    def image_size(self) -> int:
        """The side of a photo, in pixels."""
        return self._backend.image_size

    @property
    def tokenizer(self) -> Encoder:
        """What turns words into tokens."""
        return self._backend.tokenizer

    @property
    def calibration(self) -> dict[str, float]:
        """The numbers that the file has."""
        return self._backend.calibration

    def propose(self, task: str | None, pixels_CHW: Array | None) -> Proposal:
        """Read words, a photo, or both."""
        if pixels_CHW is not None:
            return self._backend.propose(task, pixels_CHW)
        if task not in self._read:
            self._read[task] = self._backend.propose(task, None)
        return self._read[task]

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """Return what is said of each step."""
        if id(proposal) not in self._split:
            self._split[id(proposal)] = (proposal, self._backend.split(proposal))
        return self._split[id(proposal)][1]

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return the marked reasoning."""
        return self._backend.write(proposal, robots)


def fit(
    selector: Selector,
    cases: Sequence[Case],
    swaps: Sequence[Swap] = (),
    no_robot_recall: float | None = None,
    jobs: Sequence[Case] = (),
) -> dict[str, float]:
    """Return the fields of `reading.Calibration` for these cases; see `fit_proposals`."""
    console = Console(stderr=True)
    wordless = [
        replace(case, scenario=replace(case.scenario, task=None))
        for case in cases
        if case.scenario.image is not None
    ]
    proposals = [
        selector.propose(case.scenario)
        for case in track([*cases, *wordless], "read the split", console=console)
    ]
    read = [read_swap(selector, swap) for swap in track(swaps, "swap the numbers", console=console)]
    alone = list(zip(wordless, proposals[len(cases) :], strict=True))
    more = [(job, selector.propose(job.scenario)) for job in jobs]
    return fit_proposals(
        selector, cases, proposals[: len(cases)], read, alone, no_robot_recall, more
    )


def fit_proposals(
    selector: Selector,
    cases: Sequence[Case],
    proposals: Sequence[Proposal],
    swaps: Sequence[SwapRead] = (),
    wordless: Sequence[tuple[Case, Proposal]] = (),
    no_robot_recall: float | None = None,
    jobs: Sequence[tuple[Case, Proposal]] = (),
) -> dict[str, float]:
    """Return the calibration for cases of which the network has said `proposals`.

    `certain_flag` is the candidate with the most exact sets, all hard rules on; of equals the
    lowest, which keeps the most rules. Photos without words, `wordless`, play a part only in how
    sure an answer is: without them one to a photo alone was taken to be surer than it is. More
    `jobs` play one only for teams. The selector's lessons and its present calibration play no part.
    """
    logits_NS = np.stack([proposal.subsets for proposal in proposals]).astype(np.float64)
    true_N = np.array([subset_of(case.truth.robots) for case in cases])
    temperature = fit_temperature(logits_NS, true_N)
    trial = Selector(Remembering(selector.backend), selector.fleet)
    outcomes = []
    for certain_flag in CERTAIN_FLAGS:
        trial.calibration = Calibration(temperature=temperature, certain_flag=certain_flag)
        outcomes.append(_answers(trial, cases, proposals)[1].sum())
    certain_flag = CERTAIN_FLAGS[outcomes.index(max(outcomes))]
    trial.calibration = Calibration(temperature=temperature, certain_flag=certain_flag)
    limit_shift = fit_limit_shift(trial, cases, proposals, swaps)
    trial.calibration = replace(trial.calibration, limit_shift=limit_shift)
    asked = [*zip(cases, proposals, strict=True), *jobs]
    teams = fit_teams(trial, *zip(*asked, strict=True))
    trial.calibration = replace(trial.calibration, **teams)
    shift = fit_shift(trial, cases, proposals, no_robot_recall)
    trial.calibration = replace(trial.calibration, no_robot_shift=shift)
    signs_NS, right_N = _answers(trial, cases, proposals)
    more = (
        _answers(trial, *zip(*wordless, strict=True)) if wordless else (signs_NS[:0], right_N[:0])
    )
    has_photo_N = np.array([case.scenario.image is not None for case in cases])
    with_photo = (
        np.concatenate([signs_NS[has_photo_N], more[0]]),
        np.concatenate([right_N[has_photo_N], more[1]]),
    )
    fitted = fit_confidence(signs_NS[~has_photo_N], right_N[~has_photo_N])
    fitted_photo = fit_confidence(*with_photo) if len(with_photo[1]) else fitted
    odds_N = np.where(
        has_photo_N,
        *(signs_NS @ weights_S + offset for weights_S, offset in (fitted_photo, fitted)),
    )
    confidence_N = 1 / (1 + np.exp(-odds_N))
    embeddings = np.stack([proposal.embedding for proposal in proposals])
    values = {
        "no_robot_shift": shift,
        "temperature": temperature,
        **dict(zip(SIGNS, fitted[0], strict=True)),
        "confidence_shift": fitted[1],
        **dict(zip(PHOTO_SIGNS, fitted_photo[0], strict=True)),
        "photo_shift": fitted_photo[1],
        "ask_below": answer_from(confidence_N, right_N),
        "certain_flag": certain_flag,
        "limit_shift": limit_shift,
        **teams,
        "same_request": same_request(embeddings, true_N),
    }
    return {name: float(value) for name, value in values.items()}


def fit_limit_shift(
    trial: Selector,
    cases: Sequence[Case],
    proposals: Sequence[Proposal],
    swaps: Sequence[SwapRead],
) -> float:
    """Return the shift with which most sets are exact and most swaps hold, all rules on.

    Of shifts that do equally well, the smallest. What people write has its usual numbers, and the
    network takes an unusual one for no limit at all: a swapped number shows it.
    """

    def right(shift: float) -> float:
        trial.calibration = replace(trial.calibration, limit_shift=shift)
        exact_sets = float(_answers(trial, cases, proposals)[1].sum())
        return exact_sets + sum(holds(trial, swap) for swap in swaps)

    return max(LIMIT_SHIFTS, key=right)


def fit_shift(
    trial: Selector,
    cases: Sequence[Case],
    proposals: Sequence[Proposal],
    recall: float | None = None,
) -> float:
    """Return the shift with which No Robot is answered as often as it is right, all rules on; or
    the lowest with which at least `recall` of the cases where it is right are answered so.

    Counted over the cases without a photo; of shifts that come equally close, the smallest. The
    training rows hold another share of No Robot than requests do, and the network learns it. Where
    a robot that is sent in vain costs more than a person who is asked in vain, give `recall`.
    """
    alone = [
        (case, proposal)
        for case, proposal in zip(cases, proposals, strict=True)
        if case.scenario.image is None
    ]
    is_right_N = np.array([NO_ROBOT in case.truth.robots for case, _ in alone])

    def said(shift: float) -> NDArray[np.bool_]:
        trial.calibration = replace(trial.calibration, no_robot_shift=shift)
        return np.array(
            [
                NO_ROBOT in trial.answer(proposal, case.scenario, reasoning=False).robots
                for case, proposal in alone
            ]
        )

    if recall is None:
        wanted = is_right_N.sum()
        return min(SHIFTS, key=lambda shift: (abs(said(shift).sum() - wanted), abs(shift)))
    wanted = recall * is_right_N.sum()
    enough = (shift for shift in SHIFTS if (said(shift) & is_right_N).sum() >= wanted)
    return next(enough, SHIFTS[-1])


def _answers(
    selector: Selector, cases: Sequence[Case], proposals: Sequence[Proposal]
) -> tuple[Floats, Floats]:
    """Return the signs of each answer, (N, S), and 1.0 where it is right."""
    decisions = [
        selector.answer(proposal, case.scenario, reasoning=False)
        for proposal, case in zip(proposals, cases, strict=True)
    ]
    right = [exact(d.robots, case.truth.robots) for d, case in zip(decisions, cases, strict=True)]
    return np.array([d.signs for d in decisions]), np.array(right, dtype=np.float64)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags, fit on the validation split, rewrite the file's calibration; the user's
    mistakes are one sentence and code 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a model file")
    parser.add_argument("--shared", type=Path, help="folder that holds photos/; none: words only")
    parser.add_argument("--backend", choices=BACKENDS, default="native")
    parser.add_argument("--only", choices=["teams"])
    parser.add_argument("--jobs", default="", metavar="IDS", help="training plans to fit teams by")
    parser.add_argument(
        "--no-robot-recall", type=float, metavar="X",
        help="find at least this share of the requests for which nobody can go, 0 to 1",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    recall = options.no_robot_recall
    if recall is not None and not 0 < recall <= 1:
        parser.error(f"--no-robot-recall is {recall}; give a share above 0, at most 1.")
    try:
        values = _fitted(options, recall)
        update_calibration(options.model, values)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"embervlm: {error}\n")
        sys.exit(2)
    sys.stdout.write(json.dumps(values, indent=2) + "\n")


def _fitted(options: argparse.Namespace, recall: float | None) -> dict[str, float]:
    selector = Selector(load_backend(options.backend, options.model))
    cases = text_cases("validation")
    swaps = [
        swap for row in load("scenarios", "validation") for swap in swaps_of(row, selector.fleet)
    ]
    if options.shared is not None:
        cases += photo_cases("validation", options.shared / "photos")
    jobs = [
        Case(Scenario(row["task"]), truth_of(row))
        for row in load("plans", "train")
        if options.jobs and row["id"].startswith(options.jobs)
    ]
    if options.only:
        cases += jobs
        return fit_teams(selector, cases, [selector.propose(case.scenario) for case in cases])
    return fit(selector, cases, swaps, recall, jobs)


if __name__ == "__main__":
    main()
