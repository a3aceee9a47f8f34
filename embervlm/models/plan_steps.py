"""A request as the steps of a plan: written one after the other behind the reader.

    words in the middle of the reader -> its own of the reader's last layers
    those, and the words as such -> narrow -> one layer more
    step k: what was written so far -> reads the words -> points at the words it stands in
            -> is there such a step? who suits it, actions, flags, place
    all steps: mark the words that they stand in -> the words read each other anew
            -> the steps gather theirs, read each other and the words -> which waits for which

The steps come in the order in which the request tells them; which of two is done first is said of
each pair, in both directions.
It learns behind a reader that stays as it is, so nothing else that the network says changes.
`backends/plan_writer.py` and `splitting.py` say how its numbers become steps: only what their
grammar allows comes out.

Axes: B batch, T words, D width of the reader, W width here, K or J steps, X what is compared of
two, L labels of a step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.models.configuration import EmberConfig
from embervlm.models.heads import ROBOTS
from embervlm.models.text import EncoderLayer
from embervlm.scenario import FLAGS

MAX_STEPS = 6
# What a step tells the next one of itself: its robots, its actions, and nothing up to a whole block
# of a quantised row.
LABELS = 32
# What is said of each step, and with how many logits: `more`, whether there is such a step.
ANSWERS = {
    "more": 1,
    "robots": ROBOTS + 1,
    "actions": len(ACTIONS),
    "flags": len(FLAGS),
    "environment": len(ENVIRONMENTS),
}
# What is compared of two steps.
PAIR_WIDTH = 96
# Width of its own table of tokens: what joins two steps ("then", "meanwhile") shows in the word;
# the states say little of it.
TABLE_WIDTH = 64
# Layers that read the words once it is known which step each of them is of.
MARKED_LAYERS = 2
_HEADS = 4


class StepLayer(nn.Module):
    """Steps read those before them, or all, then the words; a norm behind each sum."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.self_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.read = nn.Linear(width, width)
        self.read_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.output_norm = nn.LayerNorm(width)

    def forward(
        self, x_BKW: Tensor, words_BTW: Tensor, mask_BT: Tensor, live_BK: Tensor | None = None
    ) -> Tensor:
        """Return the layer's output, (B, K, W); steps read the `live_BK` ones, or those in front of
        them and themselves."""
        drop = self.dropout if self.training else 0.0
        q, k, v = (_heads(part) for part in self.qkv(x_BKW).chunk(3, -1))
        seen = None if live_BK is None else live_BK[:, None, None]
        read = F.scaled_dot_product_attention(q, k, v, seen, is_causal=seen is None)
        x_BKW = self.self_norm(x_BKW + F.dropout(self.out(_joined(read)), drop))
        key, value = (_heads(part) for part in self.key_value(words_BTW).chunk(2, -1))
        read = F.scaled_dot_product_attention(
            _heads(self.query(x_BKW)), key, value, mask_BT[:, None, None]
        )
        x_BKW = self.read_norm(x_BKW + F.dropout(self.read(_joined(read)), drop))
        up_BKX = self.down(F.gelu(self.up(x_BKW)))
        out_BKW: Tensor = self.output_norm(x_BKW + F.dropout(up_BKX, drop))
        return out_BKW


class PlanSteps(nn.Module):
    """Writes the steps of a request; `forward` teaches all of them at once."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        W = config.plan_width
        sizes = (config.text_width, config.text_heads, config.text_hidden, config.dropout)
        self.readers = nn.ModuleList(
            EncoderLayer(*sizes, drop_links=False) for _ in range(config.plan_readers)
        )
        self.narrow = nn.Linear(config.text_width, W)
        self.table = nn.Embedding(config.vocabulary_size, TABLE_WIDTH)
        self.words = nn.Linear(TABLE_WIDTH, W)
        self.norm = nn.LayerNorm(W)
        self.reader = EncoderLayer(W, _HEADS, 2 * W, config.dropout, drop_links=False)
        self.step = nn.Embedding(MAX_STEPS + 1, W)
        self.told = nn.Linear(LABELS, W)
        self.layers = nn.ModuleList(StepLayer(W, config.dropout) for _ in range(config.plan_layers))
        self.pointer_query = nn.Linear(W, W)
        self.pointer_key = nn.Linear(W, W)
        self.found = nn.Linear(2 * W, W)
        self.found_norm = nn.LayerNorm(W)
        self.answers = nn.Linear(W, sum(ANSWERS.values()))
        self.mark = nn.Linear(W, W)
        self.marked_norm = nn.LayerNorm(W)
        self.marked = nn.ModuleList(
            EncoderLayer(W, _HEADS, 2 * W, config.dropout, drop_links=False)
            for _ in range(MARKED_LAYERS)
        )
        self.gathered = nn.Linear(W, W)
        self.order = StepLayer(W, config.dropout)
        self.pair = nn.Linear(W, 2 * PAIR_WIDTH)
        self.apart = nn.Embedding(2 * MAX_STEPS + 1, PAIR_WIDTH)
        nn.init.zeros_(self.apart.weight)
        self.waits = nn.Linear(PAIR_WIDTH, 1)

    def forward(
        self,
        words_BTD: Tensor,
        tokens_BT: Tensor,
        mask_BT: Tensor,
        told_BKL: Tensor,
        count_B: Tensor,
    ) -> dict[str, Tensor]:
        """Return the logits of each step.

        Args:
            words_BTD: the words in front of those layers of the reader that this part has its own
                of, or behind all where it has none.
            tokens_BT: the words' tokens, int64.
            mask_BT: True where there is a word.
            told_BKL: the labels of the steps (robots, then actions, 0 or 1) for K = `MAX_STEPS`
                + 1 places; a step reads those in front of it.
            count_B: how many steps there are, 1 or more; those behind them wait for nothing.

        Returns:
            those of `ANSWERS`, each (B, K, its logits); `after` (B, K, K): row k, column j: step k
            waits for step j; `pointer` (B, K, T): the words that the step stands in.
        """
        for layer in self.readers:
            words_BTD = layer(words_BTD, mask_BT[:, None, None])
        words_BTW = self.narrow(words_BTD) + self.words(self.table(tokens_BT))
        words_BTW = self.reader(self.norm(words_BTW), mask_BT[:, None, None])
        told_BKW = F.pad(self.told(told_BKL)[:, :-1], (0, 0, 1, 0))
        x_BKW = self.step.weight + told_BKW
        for layer in self.layers:
            x_BKW = layer(x_BKW, words_BTW, mask_BT)
        W = x_BKW.shape[-1]
        pointer_BKT = self.pointer_query(x_BKW) @ self.pointer_key(words_BTW).transpose(1, 2)
        pointer_BKT = (pointer_BKT / W**0.5).masked_fill(~mask_BT[:, None], float("-inf"))
        found_BKW = pointer_BKT.softmax(-1) @ words_BTW
        s_BKW = self.found_norm(x_BKW + self.found(torch.cat([x_BKW, found_BKW], -1)))
        parts = self.answers(s_BKW).split(list(ANSWERS.values()), -1)
        answers = dict(zip(ANSWERS, parts, strict=True))
        K = s_BKW.shape[1]
        live_BK = torch.arange(K) < count_B[:, None]
        share_BKT = pointer_BKT.softmax(-1).detach()
        of_step_BKT = share_BKT / share_BKT.amax(-1, keepdim=True) * live_BK[..., None]
        marks_BTW = of_step_BKT.transpose(1, 2) @ self.mark(s_BKW)
        words_BTW = self.marked_norm(words_BTW + marks_BTW)
        for layer in self.marked:
            words_BTW = layer(words_BTW, mask_BT[:, None, None])
        s_BKW = s_BKW + self.gathered(share_BKT @ words_BTW)
        all_BKW = self.order(s_BKW, words_BTW, mask_BT, live_BK)
        later_BKX, earlier_BJX = self.pair(all_BKW).chunk(2, -1)
        apart_KJX = self.apart(torch.arange(K)[:, None] - torch.arange(K) + MAX_STEPS)
        both_BKJX = F.gelu(later_BKX[:, :, None] + earlier_BJX[:, None] + apart_KJX)
        return {**answers, "after": self.waits(both_BKJX)[..., 0], "pointer": pointer_BKT}

    @torch.no_grad()
    def write(
        self, words_BTD: Tensor, tokens_BT: Tensor, mask_BT: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return what `forward` does of steps that are told what was written before them, and how
        many steps each request has (B,), 1 to `MAX_STEPS`.

        A step tells its likeliest robot, and the actions that are likelier than not or else the
        likeliest one.
        """
        told_BKL = words_BTD.new_zeros(len(words_BTD), MAX_STEPS + 1, LABELS)
        count_B = torch.ones(len(words_BTD), dtype=torch.int64)
        for k in range(MAX_STEPS):
            out = self(words_BTD, tokens_BT, mask_BT, told_BKL, count_B)
            robot_B = out["robots"][:, k, :ROBOTS].argmax(-1)
            told_BKL[:, k, :ROBOTS] = F.one_hot(robot_B, ROBOTS).to(told_BKL)
            actions_BA = out["actions"][:, k]
            taken_BA = (actions_BA > 0) | (actions_BA == actions_BA.amax(-1, keepdim=True))
            told_BKL[:, k, ROBOTS : ROBOTS + len(ACTIONS)] = taken_BA.to(told_BKL)
        is_there_BK = out["more"][:, 1:MAX_STEPS, 0] > 0
        count_B = 1 + is_there_BK.int().cumprod(-1).sum(-1)
        return self(words_BTD, tokens_BT, mask_BT, told_BKL, count_B), count_B


def _heads(x_BKW: Tensor) -> Tensor:
    B, K, W = x_BKW.shape
    return x_BKW.view(B, K, _HEADS, W // _HEADS).transpose(1, 2)


def _joined(x_BHKw: Tensor) -> Tensor:
    return x_BHKw.transpose(1, 2).flatten(2)
