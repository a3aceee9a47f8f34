"""What `select` learns from a teacher's scores: a soft target for the set and for the first robot.

Let p(S) be the network's softmax over the 32 subsets, m_r = sum of p(S) over the S with robot r,
and m_0 = p(empty) for No Robot. With the teacher's scores t of 0 to 1 for these six outcomes,

    set    sum over the six of KL(Bernoulli(t) || Bernoulli(m))
    first  KL(t / sum of t || softmax over the six for the first robot)

and a request's loss is set + 0.3 first. Both are 0 where the network thinks as the teacher does;
the gradient is that of cross-entropy with soft targets, and of the size that a label's has: were
the robots independent, the sum over them would be the divergence of the whole sets. Marginals
rather than a target for each set: scores say nothing of which robots go together, so that is learnt
from labels.

Axes: B batch, O outcomes (five robots and No Robot), S subsets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from embervlm.data.sample import Sample
from embervlm.data.teacher_answers import read_answers
from embervlm.fleet import Fleet
from embervlm.models.heads import SUBSETS_SR
from embervlm.training.teacher_prompts import parse_robot_scores

FIRST_WEIGHT = 0.3
Scores = Mapping[str, tuple[float, ...]]

# Which subsets hold each outcome: No Robot is the empty one.
_HOLDS_SO = torch.cat([SUBSETS_SR, (SUBSETS_SR.sum(1) == 0).float()[:, None]], dim=1).bool()


def read_scores(path: str | Path) -> dict[str, tuple[float, ...]]:
    """Return the scores by request, of all outcomes in the fleet's order; those of several teachers
    are averaged. Answers that cannot be parsed give none.

    Raises:
        ValueError: the file is damaged, or holds no scores.
    """
    outcomes = Fleet.default().outcomes
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for answer in read_answers(path):
        parsed = parse_robot_scores(answer.answer, outcomes) if answer.ask == "robots" else None
        if parsed is not None:
            found[answer.id].append(tuple(parsed.scores[name] for name in outcomes))
    if not found:
        raise ValueError(
            f"{path} holds no scores of robots; give robots.jsonl of 'embervlm distill'."
        )
    return {
        name: tuple(sum(several) / len(rows) for several in zip(*rows, strict=True))
        for name, rows in found.items()
    }


def scores_for(sample: Sample, scores: Scores) -> tuple[float, ...] | None:
    """Return the scores of a request; of one that a photo settles, those for the photo's place.

    None where there are none, or where the words, to which they belong, are left out.
    """
    if sample.task is None:
        return None
    place = sample.photo_environment
    return scores.get(sample.id if place is None else f"{sample.id} {place}")


def score_batch(samples: Sequence[Sample], scores: Scores) -> dict[str, Tensor]:
    """Return `scores` (B, O) float32 in [0, 1] and `has_scores` (B,), 1 where there are some."""
    rows = [scores_for(sample, scores) for sample in samples]
    none = (0.0,) * _HOLDS_SO.shape[1]
    return {
        "scores": torch.tensor([none if row is None else row for row in rows]),
        "has_scores": torch.tensor([float(row is not None) for row in rows]),
    }


def score_count(batch: Mapping[str, Tensor]) -> Tensor:
    """Return how many requests of a batch have scores."""
    return batch["has_scores"].sum() if "has_scores" in batch else torch.zeros(())


def score_sum(logits: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the losses of the requests that have scores; 0 for a batch without."""
    if "scores" not in batch:
        return logits["subsets"].new_zeros(())
    target_BO = batch["scores"].clamp(0, 1)
    log_in_BO, log_out_BO = log_marginals(logits["subsets"].float())
    apart_BO = (
        torch.special.xlogy(target_BO, target_BO)
        + torch.special.xlogy(1 - target_BO, 1 - target_BO)
        - target_BO * log_in_BO
        - (1 - target_BO) * log_out_BO
    )
    share_BO = target_BO / target_BO.sum(1, keepdim=True).clamp(min=1e-6)
    first_BO = torch.special.xlogy(share_BO, share_BO) - share_BO * logits[
        "primary"
    ].float().log_softmax(-1)
    loss_B = apart_BO.sum(1) + FIRST_WEIGHT * first_BO.sum(1)
    return (loss_B * batch["has_scores"]).sum()


def log_marginals(subsets_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms (B, O) of how likely each outcome is in the set, and is not."""
    log_p_BS1 = subsets_BS.log_softmax(-1).unsqueeze(-1)
    holds_SO = _HOLDS_SO.to(subsets_BS.device)
    out = float("-inf")
    inside_BO = log_p_BS1.masked_fill(~holds_SO, out).logsumexp(1)
    return inside_BO, log_p_BS1.masked_fill(holds_SO, out).logsumexp(1)
