"""The small decoder that puts a decision into words.

A GPT-2-style stack (pre-norm, learnt positions; Radford et al. 2019) with cross-attention to the
request reader's states. It shares the reader's token embeddings through two projections.

Axes: B batch, T tokens written, S states read, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.models.bitnet import linear
from embervlm.models.configuration import EmberConfig

# Each (B, H, tokens, D / H).
KeysValues = tuple[Tensor, Tensor]


@dataclass
class DecoderCache:
    """What a decoding keeps from step to step: the reader's side, and every layer's keys and
    values, `past`, which grow."""

    states_BSD: Tensor
    mask_BS: Tensor
    source_BS: Tensor
    cross: list[KeysValues]
    past: list[KeysValues] = field(default_factory=list)

    @property
    def position(self) -> int:
        """How many tokens have been fed."""
        return self.past[0][0].shape[2] if self.past else 0


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the reader, feed-forward; a norm before each."""

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.heads = config.decoder_heads
        self.dropout = config.dropout
        self.self_norm = nn.LayerNorm(width)
        kind = config.linear
        self.qkv = linear(kind, width, 3 * width)
        self.out = linear(kind, width, width)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_q = linear(kind, width, width)
        self.cross_kv = linear(kind, config.text_width, 2 * width)
        self.cross_out = linear(kind, width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.up = linear(kind, width, config.decoder_hidden)
        self.down = linear(kind, config.decoder_hidden, width)

    def forward(
        self,
        x_BTD: Tensor,
        cross: KeysValues,
        mask_B11S: Tensor,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return the layer's output, (B, T, D), and the keys and values of all tokens so far.

        `cross` is what `read` returned; `past` the keys and values of the tokens before a single
        new one, None where `x_BTD` begins with the first.
        """
        q, k, v = (self._heads(x) for x in self.qkv(self.self_norm(x_BTD)).chunk(3, dim=-1))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x_BTD = x_BTD + self._drop(self.out(self._merge(read)))
        q = self._heads(self.cross_q(self.cross_norm(x_BTD)))
        read = F.scaled_dot_product_attention(q, *cross, attn_mask=mask_B11S)
        x_BTD = x_BTD + self._drop(self.cross_out(self._merge(read)))
        return x_BTD + self._drop(self.down(F.gelu(self.up(self.ffn_norm(x_BTD))))), (k, v)

    def read(self, states_BSD: Tensor) -> KeysValues:
        """Return the keys and values that the reader's states give to cross-attention."""
        k, v = (self._heads(x) for x in self.cross_kv(states_BSD).chunk(2, dim=-1))
        return k, v

    def _heads(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        return x_BTD.view(B, T, self.heads, D // self.heads).transpose(1, 2)

    @staticmethod
    def _merge(x_BHTd: Tensor) -> Tensor:
        B, H, T, d = x_BHTd.shape
        return x_BHTd.transpose(1, 2).reshape(B, T, H * d)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class ReasoningDecoder(nn.Module):
    """Predicts the next token of the reasoning from those before it and the reader's states.

    It either writes a word of the vocabulary or copies one of the request ("pointer-generator", See
    et al. 2017): p = g p_vocabulary + (1 - g) p_copy, with p_copy the attention on the request's
    tokens. A few thousand examples teach copying; they could not teach all the words that a request
    may hold.
    """

    def __init__(self, config: EmberConfig) -> None:
        super().__init__()
        self.narrow = nn.Linear(config.table_width, config.decoder_width, bias=False)
        self.positions = nn.Embedding(config.decoder_positions, config.decoder_width)
        layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.layers = cast("Sequence[DecoderLayer]", layers)  # which a ModuleList does not tell
        self.norm = nn.LayerNorm(config.decoder_width)
        self.widen = nn.Linear(config.decoder_width, config.table_width, bias=False)
        self.copy_query = nn.Linear(config.decoder_width, config.text_width)
        self.gate = nn.Linear(config.decoder_width, 1)
        nn.init.normal_(self.positions.weight, std=0.02)

    def start_from_table(self, table_VD: Tensor) -> None:
        """Begin with the embedding table's main directions as the way in and, turned round, out."""
        centred = table_VD - table_VD.mean(0)
        main_DD = torch.linalg.svd(centred, full_matrices=False).Vh[: self.narrow.out_features]
        with torch.no_grad():
            self.narrow.weight.copy_(main_DD)
            self.widen.weight.copy_(main_DD.T)

    def forward(
        self,
        tokens_BT: Tensor,
        states_BSD: Tensor,
        mask_BS: Tensor,
        source_BS: Tensor,
        table_VD: Tensor,
    ) -> Tensor:
        """Return log-probabilities (B, T, V), float32.

        `source_BS` holds the token that each state was read from, -1 where it may not be copied
        (image tokens, padding); `table_VD` is the reader's embedding table.
        """
        x_BTD = self._through(tokens_BT, states_BSD, mask_BS, table_VD)
        return self._mix(x_BTD, states_BSD, source_BS, table_VD)

    def chosen(
        self,
        tokens_BT: Tensor,
        states_BSD: Tensor,
        mask_BS: Tensor,
        source_BS: Tensor,
        table_VD: Tensor,
        where_BT: Tensor,
        temperature: float = 1.0,
    ) -> Tensor:
        """Return the log-probability (B, T - 1) of each token behind those before it, float32.

        It is what `forward` says of these tokens (at temperature 1), without saying it of all
        others: a third of the time. Zero where `where_BT` is False; see `step` for `temperature`.
        """
        x_BTD = self._through(tokens_BT[:, :-1], states_BSD, mask_BS, table_VD)
        where_BT = where_BT[:, 1:]
        # Of all tokens of all rows only those asked for go on, K of them.
        goal_K1, x_KD = tokens_BT[:, 1:][where_BT][:, None], x_BTD[where_BT]
        logits_KV = (self.widen(x_KD) @ table_VD.T).float() / temperature
        written_K = logits_KV.gather(-1, goal_K1)[:, 0] - logits_KV.logsumexp(-1)
        source_KS = source_BS[where_BT.nonzero()[:, 0]]
        scores_KS = (self.copy_query(x_BTD) @ states_BSD.transpose(1, 2))[where_BT].float()
        scores_KS = scores_KS / (temperature * states_BSD.shape[-1] ** 0.5)
        shares_KS = scores_KS.masked_fill(source_KS < 0, -1e9).softmax(-1)
        copied_K = (shares_KS * (source_KS == goal_K1)).sum(-1)
        gate_K = self.gate(x_KD).float()[:, 0]
        log_p_K = torch.logaddexp(
            F.logsigmoid(gate_K) + written_K,
            F.logsigmoid(-gate_K) + copied_K.clamp(min=1e-9).log(),
        )
        return log_p_K.new_zeros(where_BT.shape).masked_scatter(where_BT, log_p_K)

    def _through(
        self, tokens_BT: Tensor, states_BSD: Tensor, mask_BS: Tensor, table_VD: Tensor
    ) -> Tensor:
        x_BTD = self.narrow(F.embedding(tokens_BT, table_VD))
        x_BTD = x_BTD + self.positions.weight[: tokens_BT.shape[1]]
        for layer in self.layers:
            x_BTD, _ = layer(x_BTD, layer.read(states_BSD), mask_BS[:, None, None, :])
        return self.norm(x_BTD)

    def begin(self, states_BSD: Tensor, mask_BS: Tensor, source_BS: Tensor) -> DecoderCache:
        """Return what `step` needs; see `forward` for the arguments."""
        cross = [layer.read(states_BSD) for layer in self.layers]
        return DecoderCache(states_BSD, mask_BS, source_BS, cross)

    def step(
        self, token_B1: Tensor, cache: DecoderCache, table_VD: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """Feed one token; return the log-probabilities (B, V) of the next. `cache` grows.

        `temperature` divides the logits of what is written and of what is copied; how often it
        copies stays.
        """
        x_B1D = self.narrow(F.embedding(token_B1, table_VD))
        x_B1D = x_B1D + self.positions.weight[cache.position]
        mask_B11S = cache.mask_BS[:, None, None, :]
        pasts: Sequence[KeysValues | None] = cache.past or [None] * len(self.layers)
        grown = []
        for layer, cross, past in zip(self.layers, cache.cross, pasts, strict=True):
            x_B1D, present = layer(x_B1D, cross, mask_B11S, past)
            grown.append(present)
        cache.past = grown
        x_B1D = self.norm(x_B1D)
        return self._mix(x_B1D, cache.states_BSD, cache.source_BS, table_VD, temperature)[:, 0]

    def _mix(
        self,
        x_BTD: Tensor,
        states_BSD: Tensor,
        source_BS: Tensor,
        table_VD: Tensor,
        temperature: float = 1.0,
    ) -> Tensor:
        """Return the log-probabilities (B, T, V) of writing and copying together."""
        logits_BTV = (self.widen(x_BTD) @ table_VD.T).float()
        written_BTV = (logits_BTV / temperature).log_softmax(-1)
        scores_BTS = self.copy_query(x_BTD) @ states_BSD.transpose(1, 2)
        scores_BTS = scores_BTS.float() / (temperature * states_BSD.shape[-1] ** 0.5)
        scores_BTS = scores_BTS.masked_fill((source_BS < 0)[:, None, :], -1e9)
        copied_BTV = torch.zeros_like(written_BTV).scatter_add(
            -1,
            source_BS.clamp(min=0)[:, None, :].expand_as(scores_BTS),
            scores_BTS.softmax(-1),
        )
        gate_BT1 = self.gate(x_BTD).float()
        return torch.logaddexp(
            F.logsigmoid(gate_BT1) + written_BTV,
            F.logsigmoid(-gate_BT1) + copied_BTV.clamp(min=1e-9).log(),
        )
