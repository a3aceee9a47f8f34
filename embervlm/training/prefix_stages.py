"""The stages of `ember-37m`: those of `stages.py`, for a decoder that reads photos among words.

    align     photos and captions: the mean image token near the mean state of the caption's words,
              and captions written behind the photo; vision stays
    instruct  questions and answers: the answer's tokens alone; a teacher's distribution beside them
    select    requests and photos: set, first robot, place, needs, roles of numbers
    reason    reasons behind the decision, which reader and heads must go on to make

Losses and weights are those of `ember-nano`, and so is the trainer. Two things differ:

- The contrast of `align` takes the decoder's own states, not the reader's. One table reads and
  writes the decoder's words, so its last states lie in the space of its inputs, which is where the
  image tokens go. The reader is still random in this stage and will be fed by the decoder.
- Vision moves in `select`: nothing before has told it what a place looks like. (Of `ember-nano` a
  vision run has, before the stages.) Its batch normalisations keep their statistics.

Axes: B batch, T tokens, P photos, N image tokens, D width, K tokens to be learnt, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embervlm.models.ember_37m import Ember37M
from embervlm.training.stages import (
    STAGES,
    Batch,
    Phase,
    Stage,
    Sums,
    align_counts,
    contrast_sum,
    decision_sums,
    decisions_apart,
    instruct_counts,
    reason_counts,
    select_counts,
)
from embervlm.training.teacher_scores import score_sum
from embervlm.training.top_logits import TEMPERATURE, top_logits_sum


def image_tokens(network: Ember37M, batch: Batch) -> Tensor | None:
    """Return image tokens (B, N, D) of a batch, those of rows without a photo zero; None: no photo.

    Where the projector is trained, a batch without a photo sends a grey one through for nothing:
    every process must have a gradient for every parameter, and DDP waits for each.
    """
    B, side = len(batch["tokens"]), network.config.image_size
    if "photos" in batch:
        rows = batch["photo_rows"]
        pixels_PCHW = (batch["photos"].permute(0, 3, 1, 2).float() - 128) / 128
    elif torch.is_grad_enabled() and network.projector.out.weight.requires_grad:
        rows = batch["tokens"].new_zeros(1)
        pixels_PCHW = torch.zeros(1, 3, side, side, device=rows.device)
    else:
        return None
    seen_PND = network.see(pixels_PCHW)
    return seen_PND.new_zeros(B, *seen_PND.shape[1:]).index_copy(0, rows, seen_PND)


def align_sums(network: Ember37M, batch: Batch, teacher: Ember37M | None) -> Sums:
    """Return the contrast of photos and captions, and what writing each caption costs."""
    image_BND = image_tokens(network, batch)
    assert image_BND is not None, "each caption has its photo"
    words_BT = batch["caption_mask"]
    read_BTD, _ = network.decoder(batch["caption_tokens"], mask_BT=words_BT)
    weight_BT1 = words_BT[:, :, None].to(read_BTD.dtype)
    read_BD = (read_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
    logits_KV, target_K = _written(network, batch, _states(network, batch, image_BND))
    return {
        "contrast": contrast_sum(image_BND.mean(1), read_BD),
        "caption": F.cross_entropy(logits_KV, target_K, reduction="sum"),
    }


def instruct_sums(network: Ember37M, batch: Batch, teacher: Ember37M | None) -> Sums:
    """Return what each token of the answers costs, and how far their distributions are from the
    teacher's, both softened by `TEMPERATURE`: of a network, or as its logits were kept."""
    states_BTD = _states(network, batch, image_tokens(network, batch))
    logits_KV, target_K = _written(network, batch, states_BTD)
    sums = {
        "answer": F.cross_entropy(logits_KV, target_K, reduction="sum"),
        "teacher": logits_KV.new_zeros(()),
    }
    if teacher is not None:
        with torch.no_grad():
            theirs_BTD = _states(teacher, batch, image_tokens(teacher, batch))
            goal_KV, _ = _written(teacher, batch, theirs_BTD)
        sums["teacher"] = TEMPERATURE**2 * F.kl_div(
            (logits_KV / TEMPERATURE).log_softmax(-1),
            (goal_KV / TEMPERATURE).log_softmax(-1),
            reduction="sum",
            log_target=True,
        )
    elif "has_top" in batch:
        asked_BT = batch["learnt"][:, 1:] > 0
        kept = {name: batch[name][asked_BT] for name in ("top_tokens", "top_log_p", "has_top")}
        sums["teacher"] = top_logits_sum(logits_KV, kept)
    return sums


def select_sums(network: Ember37M, batch: Batch, teacher: Ember37M | None) -> Sums:
    """Return the losses of a decision, and how far its logits and states are from a teacher's;
    and from a larger teacher's scores (`teacher_scores`)."""
    logits, read_BTD = decided(network, batch, image_tokens(network, batch))
    zero = logits["subsets"].new_zeros(())
    sums = {**decision_sums(logits, batch), "teacher": zero, "states": zero}
    sums["scores"] = score_sum(logits, batch)
    if teacher is not None:
        with torch.no_grad():
            goals, goal_BTD = decided(teacher, batch, image_tokens(teacher, batch))
        sums["teacher"] = decisions_apart(logits, goals)
        apart_BT = (read_BTD - goal_BTD).float().square().mean(-1)
        size_BT = goal_BTD.float().square().mean(-1)
        sums["states"] = (apart_BT / size_BT * batch["request"]).sum()
    return sums


def reason_sums(network: Ember37M, batch: Batch, teacher: Ember37M | None) -> Sums:
    """Return what the reasons' tokens cost, and the losses of the decision that they explain."""
    states_BTD = _states(network, batch, image_tokens(network, batch))
    logits_KV, target_K = _written(network, batch, states_BTD)
    words = F.cross_entropy(logits_KV, target_K, reduction="sum")
    logits, _ = _decided(network, batch, states_BTD)
    return {"words": words, **decision_sums(logits, batch)}


def decided(network: Ember37M, batch: Batch, image_BND: Tensor | None) -> tuple[Batch, Tensor]:
    """Return all logits of a batch of requests, and the reader's states (B, T, D)."""
    return _decided(network, batch, _states(network, batch, image_BND))


def _decided(network: Ember37M, batch: Batch, states_BTD: Tensor) -> tuple[Batch, Tensor]:
    read_BTD, pooled_BD = network.read(states_BTD, batch["tokens"], batch["request"])
    roles_BMR = network.roles(read_BTD, batch["marks"])
    return {**network.decide(pooled_BD), "roles": roles_BMR}, read_BTD


def _states(network: Ember37M, batch: Batch, image_BND: Tensor | None) -> Tensor:
    states_BTD: Tensor = network.decoder(
        batch["tokens"], mask_BT=batch["mask"], image_BND=image_BND
    )[0]
    return states_BTD


def _written(network: Ember37M, batch: Batch, states_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores (K, V) of each token that is learnt, and these tokens (K,).

    Only of those: 50,262 numbers a token are most of the memory.
    """
    asked_BT = batch["learnt"][:, 1:] > 0
    logits_KV = network.decoder.logits(states_BTD[:, :-1][asked_BT]).float()
    return logits_KV, batch["tokens"][:, 1:][asked_BT]


_DECIDING = ("reader.", "heads.")

PREFIX_STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="align",
            data=STAGES["align"].data,
            losses=STAGES["align"].losses,
            sums=align_sums,
            counts=align_counts,
            phases=(Phase(("projector.",), ("projector.",), low_rank=("decoder.",)),),
        ),
        Stage(
            name="instruct",
            data=STAGES["instruct"].data,
            losses=STAGES["instruct"].losses,
            sums=instruct_sums,
            counts=instruct_counts,
            phases=(Phase(("decoder.", "projector."), ("projector.",)),),
        ),
        Stage(
            name="select",
            data=STAGES["select"].data,
            losses={name: x for name, x in STAGES["select"].losses.items() if name != "views"},
            sums=select_sums,
            counts=select_counts,
            phases=(
                Phase(
                    ("vision.", "projector.", "decoder.", *_DECIDING), ("projector.", *_DECIDING)
                ),
            ),
        ),
        Stage(
            name="reason",
            data=STAGES["reason"].data,
            losses=STAGES["reason"].losses,
            sums=reason_sums,
            counts=reason_counts,
            phases=(Phase(_DECIDING, _DECIDING), Phase(("decoder.", *_DECIDING), rate=0.5)),
        ),
    )
}
