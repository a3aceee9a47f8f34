"""What the network's numbers say: the needs of a request, its stated quantities, and how sure.

    needs, certain, is_team = read_needs(proposal, Calibration.from_dict(backend.calibration), task)

A backend gives logits; here they become words and numbers. A number that the request states:

    >>> from embervlm.quantities import find_quantities
    >>> says_load_MR = np.array([[9.0 if key == "load_kg" else 0.0 for key in (*QUANTITIES, "")]])
    >>> stated_quantities(find_quantities("bring the 8 kg pump"), says_load_MR)
    {'load_kg': 8.0}

Axes: M numbers of the request, R roles of a number, the last of them "none of these".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.base import Proposal
from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.quantities import Mention
from embervlm.scenario import FACTORS, FLAGS, QUANTITIES, Needs

# How many robots each of the 32 sets of the network holds.
SIZES = np.array([number.bit_count() for number in range(32)])
# Where no action is likelier than not, the likeliest is told if its logit is above this (a chance
# of 0.12): of the bounds tried on validation the one with the most right lists of actions.
_LIKELY_ACTION = -2.0


# What tells how likely an answer is to be right, by the number that weighs it: the log-odds of its
# set, and those that the network alone gave it, before any rule; those of the set that is second;
# whether it holds several robots; the chance of the action that is nearest to being as likely as
# not, or of it not being needed, whichever is less.
SIGNS = (
    "confidence_scale", "confidence_network", "confidence_second", "confidence_several",
    "confidence_undecided",
)  # fmt: skip
# The same with a photo, with words or without: what a photo settles is sure in another way.
PHOTO_SIGNS = tuple(name.replace("confidence_", "photo_") for name in SIGNS)


@dataclass(frozen=True)
class Calibration:
    """Numbers fitted on the validation split by `evaluation.calibration`, shipped beside the
    weights.

    `no_robot_shift` is added to the logit of the empty set where there is no photo, then
    `temperature` divides all of them. The log-odds of an answer being right are the sum of its
    `SIGNS`, each times its `confidence_` number, and of `confidence_shift`, with a photo of those
    that begin with `photo_`. `ask_below` is the confidence under which a person should decide.
    `certain_flag` is the probability above which a flag counts as stated, for hard limits.
    `limit_shift` is added to the logits with which a number states a limit, against "none of
    these". From the logit `team_from` of a team's job on a request is split; up to 0 it is a team's
    only if that is likelier with the odds that `team_scale`, `team_second` and `team_shift` give
    (`deciding.odds_of_team`). `step_weight` is how much a step's own words, read alone, say of whom
    it suits, and `team_weight` what the whole request says of a team beside its steps
    (`splitting.liked_robots`, `team_logits`); `team_temperature` divides the sum of both.
    `same_request` is the cosine above which a lesson applies.
    """

    no_robot_shift: float = 0.0
    temperature: float = 1.0
    confidence_scale: float = 1.0
    confidence_network: float = 0.0
    confidence_second: float = 0.0
    confidence_several: float = 0.0
    confidence_undecided: float = 0.0
    confidence_shift: float = 0.0
    photo_scale: float = 1.0
    photo_network: float = 0.0
    photo_second: float = 0.0
    photo_several: float = 0.0
    photo_undecided: float = 0.0
    photo_shift: float = 0.0
    ask_below: float = 0.5
    certain_flag: float = 0.9
    limit_shift: float = 0.0
    team_from: float = 0.0
    team_scale: float = 1.0
    team_second: float = 0.0
    team_shift: float = 0.0
    step_weight: float = 0.5
    team_weight: float = 1.0
    team_temperature: float = 2.0
    same_request: float = 0.97

    def weights_of_signs(self, has_photo: bool) -> tuple[tuple[float, ...], float]:
        """Return how much each of `SIGNS` counts, and what is added to their sum."""
        names = PHOTO_SIGNS if has_photo else SIGNS
        shift = self.photo_shift if has_photo else self.confidence_shift
        return tuple(getattr(self, name) for name in names), shift

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> Calibration:
        """Build from the shipped file; keys that it lacks keep their defaults.

        Of a file from before photos had numbers of their own, the others count for them too.
        """
        known = dict(values)
        for field in fields(cls):
            if field.name.startswith("photo_"):
                general = field.name.replace("photo_", "confidence_")
                if general in known:
                    known.setdefault(field.name, known[general])
        return cls(**{f.name: known[f.name] for f in fields(cls) if f.name in known})


def read_needs(
    proposal: Proposal, calibration: Calibration, task: str | None
) -> tuple[Needs, Needs, bool]:
    """Return what the job needs, the part of it that is certain enough for hard limits, and whether
    it is a team job.

    Where no action is likelier than not, the likeliest is told, and rules nothing out.
    """
    actions = tuple(a for a, logit in zip(ACTIONS, proposal.actions, strict=True) if logit > 0)
    best = int(proposal.actions.argmax())
    told = actions or ((ACTIONS[best],) if proposal.actions[best] > _LIKELY_ACTION else ())
    environment = ENVIRONMENTS[int(proposal.environment.argmax())]
    likely, certain = set(), set()
    sure = np.log(calibration.certain_flag / (1 - calibration.certain_flag))
    for flag, logit in zip(FLAGS, proposal.flags, strict=True):
        if logit > 0:
            likely.add(flag)
        if logit > sure:
            certain.add(flag)
    quantities = stated_quantities(proposal.mentions, proposal.roles, calibration.limit_shift)
    places = softmax(proposal.environment)
    sure_place = environment if places.max() > calibration.certain_flag else "none"
    needs = Needs(told, environment, quantities, frozenset(likely))
    hard = Needs(actions, sure_place, quantities, frozenset(certain))
    return needs, hard, proposal.team > 0 and bool(task)


def stated_quantities(
    mentions: Sequence[Mention], roles_MR: NDArray[np.float32], limit_shift: float = 0.0
) -> dict[str, float]:
    """Return the quantities that the request states; of several for one key the largest counts,
    and of a range its larger end; of widths the smallest and the smaller one.

    `limit_shift` is added to all roles but the last, "none of these".
    """
    found: dict[str, float] = {}
    for mention, roles in zip(mentions, roles_MR, strict=True):
        limits = roles[: len(QUANTITIES)] + limit_shift
        role = int(limits.argmax())
        if limits[role] <= roles[len(QUANTITIES)]:
            continue
        factor = FACTORS[mention.kind].get(QUANTITIES[role])
        if factor is not None:
            key = QUANTITIES[role]
            smallest = key == "width_m"
            value = round((mention.least if smallest else mention.value) * factor, 4)
            found[key] = (min if smallest else max)(found.get(key, value), value)
    return found


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities that logits stand for; they sum to 1."""
    shares = np.exp(logits - logits.max())
    probabilities: NDArray[np.float32] = shares / shares.sum()
    return probabilities
