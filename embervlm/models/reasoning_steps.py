"""Five steps of thought behind the reader, each with a question of its own to answer.

    context     what the job needs: actions, circumstances, a team or one
    environment where it is
    evaluation  which robots suit: the scores of the sets
    selection   the policy: which of six outcomes, the five robots or No Robot, comes first
    confidence  the value: how likely the evaluation is right

At each step the network reads the words again, with a query that depends on what it has thought so
far, and a minimal gated unit (Zhou et al. 2016, "Minimal Gated Unit for Recurrent Neural Networks")
carries the thought on:

    x  = read(attention of (h + step) over the words) + step
    f  = sigmoid(forget [h, x])
    h' = (1 - f) h + f tanh(candidate [f h, x])

What a step says is read off the request's state plus `out(h')`.

Axes: B batch, T words, D width of the reader, R width of a thought, K steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embervlm.models.bitnet import linear
from embervlm.models.configuration import EmberConfig

STEPS = ("context", "environment", "evaluation", "selection", "confidence")


class ReasoningSteps(nn.Module):
    """The recurrent part; the questions are `heads.DecisionHeads`."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        D, R, kind = config.text_width, config.reasoning_width, config.linear
        self.step = nn.Embedding(len(STEPS), R)
        self.query = linear(kind, R, D)
        self.read = linear(kind, D, R)
        self.forget = linear(kind, 2 * R, R)
        self.candidate = linear(kind, 2 * R, R)
        self.out = linear(kind, R, D)
        nn.init.normal_(self.step.weight, std=0.3)

    def forward(self, pooled_BD: Tensor, words_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the state behind each step, (B, K, D)."""
        h_BR = pooled_BD.new_zeros(len(pooled_BD), self.step.embedding_dim)
        thoughts = []
        for step_R in self.step.weight:
            query_BD = self.query(h_BR + step_R)
            scores_BT = (words_BTD @ query_BD[:, :, None])[:, :, 0] / words_BTD.shape[-1] ** 0.5
            shares_BT = scores_BT.masked_fill(~mask_BT, float("-inf")).softmax(-1)
            found_BD = (shares_BT[:, None] @ words_BTD)[:, 0]
            x_BR = self.read(found_BD) + step_R
            forget_BR = torch.sigmoid(self.forget(torch.cat([h_BR, x_BR], dim=-1)))
            new_BR = torch.tanh(self.candidate(torch.cat([forget_BR * h_BR, x_BR], dim=-1)))
            h_BR = (1 - forget_BR) * h_BR + forget_BR * new_BR
            thoughts.append(pooled_BD + self.out(h_BR))
        return torch.stack(thoughts, dim=1)
