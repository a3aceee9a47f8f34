"""The stages of `bitmar`: those of `ember-nano` (`stages.py`), with its own parts moving too.

    align   nothing is low-rank, for a ternary matrix takes no addition; two losses more, which say
            how near a photo and its caption are to be (MATCHED), and other captions (MISMATCHED),
            and the cosines themselves, `cosine_matched`, `cosine_mismatched`, which weigh nothing;
            `matching.py` learns them once more when nothing else moves
    select, reason   one loss more: the value, which learns whether the set is right
    grpo    what is drawn has one part more: whom to send first, by the policy; the value learns
            what answers earn where it is the recipe's baseline

and the figures of its parts at each look at validation, under one name each, in the run's
`metrics.jsonl` and TensorBoard:

    ternary/layers  ternary/weights  ternary/sparsity  ternary/plus_share  ternary/bits
    ternary/compression              see `bitnet.statistics`
    memory/usage_mean  memory/usage_max  memory/usage_min  memory/active_slots
    memory/active_share  memory/slot_similarity       see `episodic_memory`
    memory/gate                      how much of what is read is added, tanh
    fusion/text_gate  fusion/image_gate               means over the layers, tanh, without sign
    fusion/attention_entropy         of how words look at a photo, 1: at all places alike, 0: at one
    fusion/attention_peak            the share of the place that is looked at most

Axes: L layers, B batch, T words, N image tokens, X all rows of L, B and T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from embervlm.models.bitnet import statistics
from embervlm.training.stages import STAGES, Batch, Phase, Stage

PARTS = ("fusion.", "memory.", "reasoning.")
CHOOSING = ("heads.primary.", "heads.value.", "reasoning.")


def _with(stage: Stage, **changes: Any) -> Stage:
    """Return the stage with bitmar's parts among what moves, and other fields changed."""
    phases = tuple(
        replace(phase, moves=(*phase.moves, *PARTS), fresh=(*phase.fresh, *PARTS))
        if "text." in phase.moves
        else phase
        for phase in stage.phases
    )
    return replace(stage, **{"phases": phases, **changes})


def _stages() -> Mapping[str, Stage]:
    align, select, reason = STAGES["align"], STAGES["select"], STAGES["reason"]
    grpo = STAGES["grpo"]
    image = align.phases[0].moves
    return {
        "align": replace(
            align,
            losses={
                **align.losses,
                "matched": 0.5,
                "mismatched": 0.5,
                "cosine_matched": 0.0,
                "cosine_mismatched": 0.0,
            },
            phases=(Phase((*image, "text.", "decoder.", *PARTS), (*image, "decoder.", *PARTS)),),
        ),
        "instruct": _with(STAGES["instruct"]),
        "select": _with(select, losses={**select.losses, "value": 0.2}),
        "reason": _with(reason, losses={**reason.losses, "value": 0.1}),
        "grpo": replace(
            grpo,
            losses={
                **grpo.losses,
                "primary": 1.0,
                "kl_primary": 0.04,
                "clipped_primary": 0.0,
                "value": 0.5,
            },
            phases=(replace(grpo.phases[0], moves=(*grpo.phases[0].moves, *CHOOSING)),),
        ),
    }


def figures(network: Any, batch: Batch) -> dict[str, float]:
    """Return the figures at the head of this file, of the parts that a network has."""
    found = {f"ternary/{name}": value for name, value in statistics(network).items()}
    if network.memory is not None:
        found |= {f"memory/{name}": value for name, value in network.memory.statistics().items()}
        found["memory/gate"] = float(torch.tanh(network.memory.gate.detach()))
    if network.fusion is not None:
        layers = network.fusion.layers
        for side in ("text", "image"):
            gates = torch.stack([getattr(layer, f"{side}_reads").gate for layer in layers])
            found[f"fusion/{side}_gate"] = float(torch.tanh(gates.detach()).abs().mean())
        found |= _attention(network, batch)
    return {name: round(value, 6) for name, value in found.items()}


@torch.no_grad()
def _attention(network: Any, batch: Batch) -> dict[str, float]:
    """Return how words of requests with a photo's places look at them; nothing of none."""
    seen_B = batch["has_photo"] & batch["has_view"]
    if not bool(seen_B.any()):
        return {}
    inputs = ("features", "scene", "has_photo", "has_view")
    image_BND = network.image(*(batch[name][seen_B] for name in inputs))
    mask_BT = batch["mask"][seen_B]
    words_BTD = network.read_words(
        batch["tokens"][seen_B], mask_BT, *(batch[name][seen_B] for name in inputs)
    )
    shares_LBTN = network.fusion.looked_at(words_BTD, mask_BT, image_BND)
    shares_XN = shares_LBTN[:, mask_BT].flatten(0, 1)
    entropy_X = -(shares_XN * shares_XN.clamp(min=1e-12).log()).sum(-1)
    return {
        "fusion/attention_entropy": float(entropy_X.mean()) / math.log(shares_XN.shape[-1]),
        "fusion/attention_peak": float(shares_XN.amax(-1).mean()),
    }


BITMAR_STAGES = {name: replace(stage, figures=figures) for name, stage in _stages().items()}
