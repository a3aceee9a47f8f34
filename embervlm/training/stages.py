"""The stages in one table: what each is trained on, what of the network moves, and by which losses.

    align     photos and captions: the photo's view token near its caption, and captions written
    instruct  questions and answers: the answer's tokens alone; a teacher's distribution beside them
    select    requests and photos: set, first robot, place, needs, roles of numbers; a teacher's
              scores beside them
    reason    decisions put into words; the reader is held to the same decisions
    grpo      answers drawn from the network itself, rewarded (`grpo.py`, `rewards.py`)

A stage's module turns a batch into sums, one for each loss, and says in `batch["counts"]` over how
many targets each goes. The trainer divides by the counts of the whole step, all processes and all
accumulated batches together, so that eight examples at once are what eight times one are. Only the
contrast of `align` is different: a caption is held against the others of its own forward pass.

Axes: B batch, T tokens, S states, V vocabulary, D width, K losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.episodic_memory import EpisodicMemory
from embervlm.models.modeling import EmberNetwork, Encoded
from embervlm.training.decisions import IGNORED, encode, logits_of
from embervlm.training.grpo import grpo_counts, grpo_sums
from embervlm.training.teacher_scores import score_count, score_sum
from embervlm.training.top_logits import TEMPERATURE, top_logits_sum

CONTRAST_TEMPERATURE = 0.07
# Cosines of a photo with its caption, and with another's, beyond which nothing is left to learn.
MATCHED, MISMATCHED = 0.85, 0.25

Batch = dict[str, Tensor]
Sums = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """A part of a stage: which parameters move, by the beginnings of their names.

    Of those that `moves` names, the ones that `stays` names do not. Those of `fresh` learn at the
    head rate; modules of `low_rank` keep their matrices and get a low-rank addition (LoRA, Hu et
    al. 2021), which is added up at the end. `rate` multiplies both rates.
    """

    moves: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    low_rank: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    rate: float = 1.0

    def is_moved(self, name: str) -> bool:
        """Return whether the parameter of that name moves."""
        return begins_with(name, self.moves) and not begins_with(name, self.stays)


@dataclass(frozen=True)
class Stage:
    """One row of the table; a stage of several phases gives each the same share of its epochs.

    `figures` gives more of a network for the log, from a batch of validation.
    """

    name: str
    data: str
    losses: Mapping[str, float]
    # Of the network, a batch, and the teacher or None.
    sums: Callable[[Any, Batch, Any], Sums]
    counts: Callable[[Batch], dict[str, Tensor]]
    phases: tuple[Phase, ...]
    figures: Callable[[Any, Batch], dict[str, float]] | None = None


class StageModule(nn.Module):
    """The network under one stage's losses: a batch in, their sums (K,) out, in the table's order.

    Everything goes through `forward`, so that wrappers (DDP, FSDP, autocast) see it.
    """

    def __init__(self, network: Any, stage: Stage, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.stage = network, stage
        # In a tuple: the teacher is no part of what is trained, moved or saved.
        self._teacher = (teacher,)

    def train(self, mode: bool = True) -> StageModule:
        """Set the mode of all parts but batch normalisations, which keep their statistics, and a
        memory that does not move, which is not written.

        With those of a batch, eight examples at once would not be what eight times one are.
        """
        super().train(mode)
        for part in self.modules():
            stays = isinstance(part, EpisodicMemory) and not part.gate.requires_grad
            if stays or isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Return the sums; what is not in a batch gives zero."""
        if "pixels" in batch:
            batch = seen(self.network, batch)
        found = self.stage.sums(self.network, batch, self._teacher[0])
        return torch.stack([found[name].float() for name in self.stage.losses])


@torch.no_grad()
def seen(network: EmberNetwork, batch: Batch) -> Batch:
    """Return the batch with the features and places of its pictures; vision itself stays."""
    rows = batch["pixel_rows"]
    pixels_PCHW = (batch["pixels"].permute(0, 3, 1, 2).float() - 128) / 128
    features_PC, scene_PE = network.see(pixels_PCHW)
    return {
        **batch,
        "features": batch["features"].index_copy(0, rows, features_PC.float()),
        "scene": batch["scene"].index_copy(0, rows, scene_PE.float()),
        "has_photo": batch["has_photo"].index_fill(0, rows, True),
        "has_view": batch["has_view"].index_fill(0, rows, True),
    }


def select_sums(network: EmberNetwork, batch: Batch, teacher: EmberNetwork | None) -> Sums:
    """Return the losses of a decision, and how far its logits and states are from a teacher's;
    and from a larger teacher's scores (`teacher_scores`).

    The teacher has learnt to decide too: its chances are goals as they are (Hinton et al. 2015),
    and each word's state is held to its own, relative to the size of that ("TinyBERT", Jiao et al.
    2020).
    """
    encoded = encode(network, batch)
    logits = logits_of(network, encoded, batch)
    zero = logits["subsets"].new_zeros(())
    sums = {**decision_sums(logits, batch), "teacher": zero, "states": zero}
    sums["scores"] = score_sum(logits, batch)
    sums["views"] = views_sum(network, logits, batch) if "other_rows" in batch else zero
    if teacher is not None:
        with torch.no_grad():
            theirs = encode(teacher, batch)
            goals = logits_of(teacher, theirs, batch)
        sums["teacher"] = decisions_apart(logits, goals)
        states_BTD = encoded.states_BSD[:, network.config.image_tokens :].float()
        goal_BTD = theirs.states_BSD[:, teacher.config.image_tokens :].float()
        apart_BT = (states_BTD - goal_BTD).square().mean(-1) / goal_BTD.square().mean(-1)
        sums["states"] = (apart_BT * batch["mask"]).sum()
    return sums


def views_sum(network: EmberNetwork, logits: Batch, batch: Batch) -> Tensor:
    """Return how far decisions on another view of the same photo are from those on the first."""
    rows = batch["other_rows"]
    if not len(rows):
        return logits["subsets"].new_zeros(())
    other = {
        "features": batch["other_features"],
        "scene": batch["other_scene"],
        **{
            name: batch[name][rows] for name in ("tokens", "mask", "has_photo", "has_view", "marks")
        },
    }
    goals = {name: value[rows].detach() for name, value in logits.items()}
    return decisions_apart(logits_of(network, encode(network, other), other), goals)


def decisions_apart(logits: Batch, goals: Batch) -> Tensor:
    """Return how far decisions are from others, summed over a batch."""
    choices = [
        F.kl_div(
            logits[name].float().log_softmax(-1),
            goals[name].float().log_softmax(-1),
            reduction="sum",
            log_target=True,
        )
        for name in _CHOICES
    ]
    several = [
        F.binary_cross_entropy_with_logits(
            logits[name].float(), goals[name].float().sigmoid(), reduction="none"
        )
        for name in _SEVERAL
    ]
    return torch.stack(
        choices + [each.reshape(len(each), -1).mean(1).sum() for each in several]
    ).sum()


def select_counts(batch: Batch) -> dict[str, Tensor]:
    """Return how many targets each loss of a decision has."""
    return {
        **_decision_counts(batch),
        "teacher": torch.tensor(len(batch["tokens"])),
        "states": batch["mask"].sum(),
        "scores": score_count(batch),
        "views": torch.tensor(len(batch.get("other_rows", ()))),
    }


def _decision_counts(batch: Batch) -> dict[str, Tensor]:
    needs = batch["has_needs"].sum()
    return {
        **{name: (batch[target] != IGNORED).sum() for name, target in _CHOICES.items()},
        "value": (batch["subset"] != IGNORED).sum(),
        "roles": (batch["roles"] != IGNORED).sum(),
        **dict.fromkeys(_SEVERAL, needs),
    }


def align_counts(batch: Batch) -> dict[str, Tensor]:
    """Return the number of pairs, and of the captions' tokens."""
    pairs = torch.tensor(len(batch["tokens"]))
    names = ("contrast", "matched", "mismatched", "cosine_matched", "cosine_mismatched")
    return {**dict.fromkeys(names, pairs), "caption": batch["learnt"][:, 1:].sum()}


def instruct_counts(batch: Batch) -> dict[str, Tensor]:
    """Return the number of the answers' tokens, for both losses; where a teacher's logits are kept,
    of those tokens that have some."""
    learnt = batch["learnt"][:, 1:].sum()
    return {"answer": learnt, "teacher": batch["has_top"].sum() if "has_top" in batch else learnt}


def reason_counts(batch: Batch) -> dict[str, Tensor]:
    """Return the number of the reasons' tokens, and the targets of the decisions."""
    return {"words": batch["learnt"][:, 1:].sum(), **_decision_counts(batch)}


_CHOICES = {"subsets": "subset", "primary": "primary", "environment": "environment"}
_SEVERAL = ("actions", "flags", "team")
_SET_SMOOTHING = 0.03


def decision_sums(logits: Batch, batch: Batch) -> Sums:
    """Return the losses of a decision, summed over a batch."""
    sums = {}
    for name, target in _CHOICES.items():
        sums[name] = F.cross_entropy(
            logits[name].float(),
            batch[target],
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=_SET_SMOOTHING if name == "subsets" else 0.0,
        )
    sums["roles"] = F.cross_entropy(
        logits["roles"].float().flatten(0, 1),
        batch["roles"].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    sums["value"] = logits["subsets"].new_zeros(())
    if "value" in logits:
        right_B = logits["subsets"].detach().argmax(-1) == batch["subset"]
        apart_B = F.binary_cross_entropy_with_logits(
            logits["value"].float(), right_B.float(), reduction="none"
        )
        sums["value"] = (apart_B * (batch["subset"] != IGNORED)).sum()
    for name in _SEVERAL:
        apart = F.binary_cross_entropy_with_logits(
            logits[name].float(), batch[name], reduction="none"
        )
        each_B = apart.flatten(1).mean(1) if apart.dim() > 1 else apart
        sums[name] = (each_B * batch["has_needs"]).sum()
    return sums


def align_sums(network: EmberNetwork, batch: Batch, teacher: EmberNetwork | None) -> Sums:
    """Return the contrast of photos and captions (CLIP, Radford et al. 2021), and what writing each
    caption costs, from the photo alone."""
    read = encode(network, {**batch, "has_photo": torch.zeros_like(batch["has_photo"])})
    view_BD = network.image.summary(batch["features"])
    contrast = contrast_sum(view_BD, read.pooled_BD)
    cosine_BB = cosines(view_BD, read.pooled_BD)
    blank = {**batch, "tokens": batch["blank_tokens"], "mask": batch["blank_mask"]}
    written = _written(network, encode(network, blank), blank, batch["written"])
    return {
        "contrast": contrast,
        "caption": _token_sum(written, batch),
        **nearness_sums(cosine_BB),
    }


def contrast_sum(seen_BD: Tensor, read_BD: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss of pairs: each row of one is nearest to its own of the
    other."""
    logits_BB = cosines(seen_BD, read_BD) / CONTRAST_TEMPERATURE
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (
        F.cross_entropy(logits_BB, target_B, reduction="sum")
        + F.cross_entropy(logits_BB.T, target_B, reduction="sum")
    ) / 2


def cosines(seen_BD: Tensor, read_BD: Tensor) -> Tensor:
    """Return the cosines (B, B) of each row of one with each of the other."""
    return F.normalize(seen_BD.float(), dim=-1) @ F.normalize(read_BD.float(), dim=-1).T


def nearness_sums(cosine_BB: Tensor) -> Sums:
    """Return the cosines of pairs and of others, the mean of a row, summed over a batch; and by how
    much the ones are below MATCHED and the others above MISMATCHED.

    The contrast alone asks for an order; this asks for sizes that mean something by themselves.
    """
    own_B = cosine_BB.diagonal()
    others = max(1, len(cosine_BB) - 1)
    above_BB = F.relu(cosine_BB - MISMATCHED)
    return {
        "cosine_matched": own_B.sum(),
        "cosine_mismatched": (cosine_BB.sum() - own_B.sum()) / others,
        "matched": F.relu(MATCHED - own_B).sum(),
        "mismatched": (above_BB.sum() - above_BB.diagonal().sum()) / others,
    }


def instruct_sums(network: EmberNetwork, batch: Batch, teacher: EmberNetwork | None) -> Sums:
    """Return what each token of the answers costs, and how far their distributions are from the
    teacher's, both softened by `TEMPERATURE`: of a network, or as its logits were kept."""
    log_p_BTV = _written(network, encode(network, batch), batch, batch["written"])
    sums = {"answer": _token_sum(log_p_BTV, batch), "teacher": log_p_BTV.new_zeros(())}
    if teacher is not None:
        with torch.no_grad():
            goal_BTV = _written(teacher, encode(teacher, batch), batch, batch["written"])
        apart_BT = F.kl_div(
            (log_p_BTV / TEMPERATURE).log_softmax(-1),
            (goal_BTV / TEMPERATURE).log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        sums["teacher"] = TEMPERATURE**2 * (apart_BT * batch["learnt"][:, 1:]).sum()
    elif "has_top" in batch:
        sums["teacher"] = top_logits_sum(log_p_BTV, batch)
    return sums


def reason_sums(network: EmberNetwork, batch: Batch, teacher: EmberNetwork | None) -> Sums:
    """Return what the reasoning's tokens cost, and the losses of the decision that it explains: the
    reader that the words come from must go on to decide so."""
    encoded = encode(network, batch)
    logits = logits_of(network, encoded, batch)
    log_p_BTV = _written(network, encoded, batch, batch["written"])
    return {"words": _token_sum(log_p_BTV, batch), **decision_sums(logits, batch)}


def _written(network: EmberNetwork, encoded: Encoded, batch: Batch, written_BT: Tensor) -> Tensor:
    """Return the log-probabilities (B, T - 1, V) of each token behind those before it."""
    tokens_BT, mask_BT = batch["tokens"], batch["mask"]
    images_BN = tokens_BT.new_full((len(tokens_BT), network.config.image_tokens), -1)
    source_BS = torch.cat([images_BN, tokens_BT.masked_fill(~mask_BT, -1)], dim=1)
    log_p_BTV: Tensor = network.decoder(
        written_BT[:, :-1],
        encoded.states_BSD,
        encoded.mask_BS,
        source_BS,
        network.text.embed.weight,
    )
    return log_p_BTV


def _token_sum(log_p_BTV: Tensor, batch: Batch) -> Tensor:
    loss_BT = -log_p_BTV.gather(-1, batch["written"][:, 1:].unsqueeze(-1)).squeeze(-1)
    return (loss_BT * batch["learnt"][:, 1:]).sum()


_DECISION = {
    "subsets": 1.0, "primary": 0.3, "environment": 1.0, "actions": 1.5, "flags": 1.5, "team": 0.5,
    "roles": 0.3,
}  # fmt: skip
_IMAGE = ("image.view.", "image.norm.", "image.scene_table.", "image.no_photo")

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="align",
            data="photos with captions",
            losses={"contrast": 0.5, "caption": 0.5},
            sums=align_sums,
            counts=align_counts,
            phases=(Phase(_IMAGE, _IMAGE, low_rank=("text.layers.", "decoder.layers.")),),
        ),
        Stage(
            name="instruct",
            data="questions and answers, about a photo or without one",
            losses={"answer": 0.7, "teacher": 0.3},
            sums=instruct_sums,
            counts=instruct_counts,
            phases=(Phase(("text.", "decoder.", *_IMAGE), ("decoder.", *_IMAGE)),),
        ),
        Stage(
            name="select",
            data="requests, plans, photo requests, photos alone",
            losses={**_DECISION, "teacher": 1.0, "states": 2.0, "scores": 0.5, "views": 1.0},
            sums=select_sums,
            counts=select_counts,
            phases=(Phase(("text.", "heads.", *_IMAGE), ("heads.", *_IMAGE)),),
        ),
        Stage(
            name="reason",
            data="requests with their decision's reasons",
            losses={"words": 1.0, **{name: 0.5 * weight for name, weight in _DECISION.items()}},
            sums=reason_sums,
            counts=reason_counts,
            phases=(
                Phase(("decoder.", "heads."), ("decoder.",)),
                Phase(("decoder.", "heads.", "text."), ("decoder.",), rate=0.5),
            ),
        ),
        # `clip`, `temperature` and the weight of the divergences are the recipe's
        # (`grpo_trainer.row_of`); what is clipped is counted beside the losses.
        Stage(
            name="grpo",
            data="requests with the right set; the words are the network's own",
            losses={
                "set": 1.0,
                "words": 1.0,
                "kl_set": 0.04,
                "kl_words": 0.04,
                "clipped_set": 0.0,
                "clipped_words": 0.0,
            },
            sums=partial(grpo_sums, clip=0.2, temperature=1.0),
            counts=grpo_counts,
            phases=(Phase(("decoder.", "heads.subset_features."), ("heads.",)),),
        ),
    )
}


def begins_with(name: str, beginnings: Iterable[str]) -> bool:
    """Return whether a parameter's name begins with one of these."""
    return name.startswith(tuple(beginnings))
