"""A few slots in which the network keeps what it has met: written in training, then only read.

Each request is a key of its own. Reading is attention over the slots in use (Graves et al. 2014,
"Neural Turing Machines", 3.3, by content); writing goes to the slot that is most alike, or, where
none is alike enough, to the one that has gone unwritten for longest (LRU: Santoro et al. 2016,
"Meta-Learning with Memory-Augmented Neural Networks", 3.2).

    key   = norm(query(pooled))
    read  = softmax(key slots^T / sqrt(width)) slots
    state = pooled + tanh(gate) * up(read)

Slots are no parameters: they have no gradient and are saved with the weights. In evaluation mode
nothing is written, so the same question has the same answer, whatever was asked before.

Axes: B batch, D width of the reader, K slots, M width of a slot.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.bitnet import linear
from embervlm.models.configuration import EmberConfig

# Keys of a smaller cosine are another kind of request.
ALIKE = 0.6
# How far a slot moves to a key that is like it.
RATE = 0.05


class EpisodicMemory(nn.Module):
    """Slots of past requests beside the reader.

    Attributes:
        slots: (K, M); zeros where a slot has never been used.
        writes: (K,) how often each was written since it was last replaced.
        written_at: (K,) the number of the write that was its last; -1: never.
        clock: how many writes there were.
    """

    slots: Tensor
    writes: Tensor
    written_at: Tensor
    clock: Tensor

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        K, M = config.memory_slots, config.memory_width
        self.query = linear(config.linear, config.text_width, M)
        self.norm = nn.LayerNorm(M)
        self.up = linear(config.linear, M, config.text_width)
        self.gate = nn.Parameter(torch.zeros(1))
        self.register_buffer("slots", torch.zeros(K, M))
        self.register_buffer("writes", torch.zeros(K, dtype=torch.int64))
        self.register_buffer("written_at", torch.full((K,), -1, dtype=torch.int64))
        self.register_buffer("clock", torch.zeros((), dtype=torch.int64))

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Return the requests' states with what was found; in training mode, write them too."""
        key_BM = self.norm(self.query(pooled_BD))
        read_BM = self.read(key_BM)
        if self.training:
            self.write(key_BM)
        return pooled_BD + torch.tanh(self.gate) * self.up(read_BM)

    def read(self, key_BM: Tensor) -> Tensor:
        """Return the mean of the slots in use by their likeness to the keys; zeros of none."""
        in_use_K = self.written_at >= 0
        if not bool(in_use_K.any()):
            return torch.zeros_like(key_BM)
        slots_KM = self.slots.to(key_BM).clone()
        scores_BK = key_BM @ slots_KM.T / slots_KM.shape[-1] ** 0.5
        return scores_BK.masked_fill(~in_use_K, float("-inf")).softmax(-1) @ slots_KM

    @torch.no_grad()
    def write(self, key_BM: Tensor) -> None:
        """Put keys into the slots, one after the other."""
        for key_M in key_BM.detach().to(self.slots):
            alike_K = F.cosine_similarity(self.slots, key_M[None], dim=-1)
            alike_K = alike_K.masked_fill(self.written_at < 0, -1.0)
            best = int(alike_K.argmax())
            if alike_K[best] >= ALIKE:
                self.slots[best] += RATE * (key_M - self.slots[best])
                self.writes[best] += 1
            else:
                best = int(self.written_at.argmin())
                self.slots[best] = key_M
                self.writes[best] = 1
            self.written_at[best] = self.clock
            self.clock += 1

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Return figures of the slots.

        `usage_mean`, `usage_max`, `usage_min`: writes to a slot since it was last replaced;
        `active_slots`: how many were written in the last 100 x K writes; `active_share` of all;
        `slot_similarity`: the mean cosine of two active slots, 0 of fewer than two.
        """
        K = len(self.slots)
        active_K = (self.written_at >= 0) & (self.written_at >= int(self.clock) - 100 * K)
        directions = F.normalize(self.slots[active_K], dim=-1)
        count = len(directions)
        alike = (directions @ directions.T).sum() - count
        writes_K = self.writes.float()
        return {
            "usage_mean": float(writes_K.mean()),
            "usage_max": float(writes_K.max()),
            "usage_min": float(writes_K.min()),
            "active_slots": float(count),
            "active_share": count / K,
            "slot_similarity": float(alike) / (count * (count - 1)) if count > 1 else 0.0,
        }
