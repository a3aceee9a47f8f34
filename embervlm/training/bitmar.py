"""The stages of `bitmar`: those of `ember-nano` (`stages.py`), with its own parts moving too.

    align   nothing is low-rank, for a ternary matrix takes no addition; two losses more, which say
            how near a photo and its caption are to be (MATCHED), and other captions (MISMATCHED)
    select, reason   one loss more: the value, which learns whether the set is right

and the figures of its parts, under one name each, for the log of a run:

    ternary/layers  ternary/weights  ternary/sparsity  ternary/plus_share  ternary/bits
    ternary/compression              see `bitnet.statistics`
    memory/usage_mean  memory/usage_max  memory/usage_min  memory/active_slots
    memory/active_share  memory/slot_similarity       see `episodic_memory`
    memory/gate                      how much of what is read is added, tanh
    fusion/text_gate  fusion/image_gate               means over the layers, tanh, without sign
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from embervlm.models.bitnet import statistics
from embervlm.training.stages import STAGES, Phase, Stage

PARTS = ("fusion.", "memory.", "reasoning.")


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
    image = align.phases[0].moves
    return {
        "align": replace(
            align,
            losses={**align.losses, "matched": 0.5, "mismatched": 0.5},
            phases=(Phase((*image, "text.", "decoder.", *PARTS), (*image, "decoder.", *PARTS)),),
        ),
        "instruct": _with(STAGES["instruct"]),
        "select": _with(select, losses={**select.losses, "value": 0.2}),
        "reason": _with(reason, losses={**reason.losses, "value": 0.1}),
        "grpo": STAGES["grpo"],
    }


def network_figures(network: Any) -> dict[str, float]:
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
    return found


BITMAR_STAGES = _stages()
