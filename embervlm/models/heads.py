"""What the network says: the suited set, the first robot, the place and the needs.

The set is one distribution over all subsets of the five robots, the empty one being No Robot. A
subset S scores
    score(S) = sum_{r in S} a_r + sum_{r < s in S} c_rs + [S empty] e
and softmax over the 32 scores gives P(S). So "two as good as each other" is learnt as such, No
Robot is always reachable, and a hard limit removes exactly the subsets that hold the robot that it
rules out.

Axes: B batch, D width, R robots (5), S subsets (32), E environments (10), G n-grams, M mentions, K
steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.models.reasoning_steps import STEPS
from embervlm.scenario import FLAGS, QUANTITIES

ROBOTS = 5
# Subset s holds robot r when bit r of s is set; subset 0 is No Robot.
SUBSETS_SR = torch.tensor(
    [[(s >> r) & 1 for r in range(ROBOTS)] for s in range(1 << ROBOTS)]
).float()
_PAIRS = list(combinations(range(ROBOTS), 2))
_FEATURES_SF = torch.cat(
    [
        SUBSETS_SR,
        torch.stack([SUBSETS_SR[:, r] * SUBSETS_SR[:, s] for r, s in _PAIRS], dim=1),
        (SUBSETS_SR.sum(1) == 0).float()[:, None],
    ],
    dim=1,
)

# What a stated number is for; the last role is "none of these" (an age, a price, a weight not to be
# moved).
ROLES = (*QUANTITIES, "other")


SUBSETS = len(SUBSETS_SR)


class NgramScores(nn.Module):
    """A linear model on the hashed n-grams of a request (`embervlm.ngrams`), beside the reader.

    A request's score is the sum of its n-grams' rows, weighted by `importance`, the weights scaled
    to length 1, plus a bias.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(rows, SUBSETS + len(ENVIRONMENTS), mode="sum")
        self.bias = nn.Parameter(torch.zeros(SUBSETS + len(ENVIRONMENTS)))
        self.register_buffer("importance", torch.ones(rows))
        self.importance: Tensor
        nn.init.zeros_(self.table.weight)

    def forward(self, ngrams: Sequence[Sequence[int]]) -> Tensor:
        """Return what is added to the logits of subsets and places, (B, S + E), from rows.

        A text without n-grams gets zeros.
        """
        found_BG = [torch.tensor(rows, dtype=torch.int64) for rows in ngrams]
        weights_BG = [F.normalize(self.importance[rows], dim=0) for rows in found_BG]
        starts_B = torch.tensor([0, *(len(rows) for rows in found_BG[:-1])]).cumsum(0)
        sums_BX = self.table(
            torch.cat(found_BG), starts_B, per_sample_weights=torch.cat(weights_BG)
        )
        any_B1 = torch.tensor([[bool(rows)] for rows in map(len, found_BG)])
        return torch.where(any_B1, sums_BX + self.bias, 0.0)


class DecisionHeads(nn.Module):
    """Linear heads on the pooled state; `roles` reads the states of each quantity mention.

    In a network that reasons in steps each head reads the step whose question it answers, `primary`
    is the policy, and `value` says how likely the set is right.
    """

    def __init__(self, width: int, *, has_value: bool = False) -> None:
        super().__init__()
        self.subset_features = nn.Linear(width, _FEATURES_SF.shape[1])
        self.primary = nn.Linear(width, ROBOTS + 1)
        self.environment = nn.Linear(width, len(ENVIRONMENTS))
        self.actions = nn.Linear(width, len(ACTIONS))
        self.flags = nn.Linear(width, len(FLAGS))
        self.team = nn.Linear(width, 1)
        self.roles = nn.Linear(width, len(ROLES))
        if has_value:
            self.value = nn.Linear(width, 1)
        self.register_buffer("features_SF", _FEATURES_SF, persistent=False)
        self.features_SF: Tensor

    def forward(self, pooled_BD: Tensor, thoughts_BKD: Tensor | None = None) -> dict[str, Tensor]:
        """Return logits by name; `subsets` is (B, 32).

        `thoughts_BKD` are the states behind `reasoning_steps.STEPS`; with them there is `value`.
        """
        states = [pooled_BD] * len(STEPS) if thoughts_BKD is None else thoughts_BKD.unbind(1)
        needs_BD, place_BD, sets_BD, policy_BD, value_BD = states
        logits = {
            "subsets": self.subset_features(sets_BD) @ self.features_SF.T,
            "primary": self.primary(policy_BD),
            "environment": self.environment(place_BD),
            "actions": self.actions(needs_BD),
            "flags": self.flags(needs_BD),
            "team": self.team(needs_BD).squeeze(-1),
        }
        if thoughts_BKD is not None:
            logits["value"] = self.value(value_BD).squeeze(-1)
        return logits
