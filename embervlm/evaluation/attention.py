"""Where a network looks: the attention of every head, and what flows from photo to decision.

    seen = look_at(network, tokens_BT, pixels_BCHW)
    seen.over_photo                # (G, G): rollout, from the places of the photo to the mean word
    seen.by_word                   # (T, G, G): the same for each word
    seen.heads                     # name of a layer -> (H, queries, keys)

Attention is worked out again from what the layers' own projections give for one request, so that
nothing in the networks has to change: softmax(q k^T / sqrt(d)) of each head. Rollout (Abnar and
Zuidema 2020, "Quantifying Attention Flow in Transformers", equations 1 and 2) multiplies layers,
half of each being the residual path: R = prod_l (A_l + I) / 2, A_l the mean over heads.

Which networks have a map over the photo: `bitmar`, whose words read the photo's places behind the
reader, and `ember-37m`, where the places stand among the words. `ember-nano` pools a photo into one
vector; there `embervlm.occlusion` covers parts of it instead.

Axes: B batch (1), T words, N places, S states, H heads, D width, G places along a side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from embervlm.fleet import ENVIRONMENTS
from embervlm.models.ember_37m import Ember37M
from embervlm.models.fusion import CrossRead
from embervlm.models.modeling import EmberNetwork


@dataclass(frozen=True)
class Seen:
    """What one request with a photo makes of the attention; see the file's head.

    `over_photo` and `by_word` are None where a network has no map over the photo; each map sums to
    1. `places_share` is how much of what words end as comes from those places at all.
    """

    heads: dict[str, Tensor] = field(default_factory=dict)
    over_photo: Tensor | None = None
    by_word: Tensor | None = None
    places_share: float = 0.0


@torch.no_grad()
def look_at(network: nn.Module, tokens_BT: Tensor, pixels_BCHW: Tensor) -> Seen:
    """Run one request with its photo and return where it looks.

    Raises:
        ValueError: more than one request is given, or it is no network of this project.
    """
    if len(tokens_BT) != 1 or len(pixels_BCHW) != 1:
        raise ValueError(f"Got {len(tokens_BT)} requests; look at one at a time.")
    network.eval()
    if isinstance(network, Ember37M):
        return _look_at_prefix(network, tokens_BT, pixels_BCHW)
    if isinstance(network, EmberNetwork):
        return _look_at_ember(network, tokens_BT, pixels_BCHW)
    raise ValueError(f"{type(network).__name__} is no network of this project.")


def rollout(layers: list[Tensor]) -> Tensor:
    """Return (S, S): how much of each state's end comes from each state's beginning.

    `layers` are (S, S), rows that sum to 1, the first layer first; so do the rows of the product.
    """
    flow_SS = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype)
    for shares_SS in layers:
        flow_SS = (shares_SS + torch.eye(len(shares_SS), dtype=shares_SS.dtype)) / 2 @ flow_SS
    return flow_SS


def shares_of(q_HQd: Tensor, k_HKd: Tensor, allowed_QK: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d)), (H, Q, K), of what may be read."""
    scores_HQK = q_HQd @ k_HKd.transpose(1, 2) / math.sqrt(q_HQd.shape[-1])
    if allowed_QK is not None:
        scores_HQK = scores_HQK.masked_fill(~allowed_QK, float("-inf"))
    return scores_HQK.softmax(-1)


@contextmanager
def recorded(parts: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Keep what each of these modules last gave, by name, of a batch's first row."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            kept[name] = output.detach()[0].float()

        return hook

    handles = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _look_at_ember(network: EmberNetwork, tokens_BT: Tensor, pixels_BCHW: Tensor) -> Seen:
    readers: Any = network.text.layers
    parts: dict[str, nn.Module] = {f"reader {i + 1}": layer.qkv for i, layer in enumerate(readers)}
    reads: dict[str, CrossRead] = {}
    if network.fusion is not None:
        for i, layer in enumerate(network.fusion.layers):
            reads |= {
                f"words read the photo {i + 1}": layer.text_reads,
                f"the photo reads words {i + 1}": layer.image_reads,
            }
    for name, read in reads.items():
        parts |= {f"{name} q": read.query, f"{name} k": read.keys_values}
    seen_B = torch.ones(1, dtype=torch.bool)
    with recorded(parts) as kept:
        features, scene_BE = network.see(pixels_BCHW)
        assert scene_BE.shape[-1] == len(ENVIRONMENTS)
        mask_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
        network.encode(tokens_BT, mask_BT, features, scene_BE, seen_B, seen_B)
    H = network.config.text_heads
    heads = {}
    for name in [name for name in parts if name.startswith("reader")]:
        q_HSd, k_HSd, _ = _split(kept[name], H, 3)
        heads[name] = shares_of(q_HSd, k_HSd)
    for name, read in reads.items():
        query_HQd = _split(kept[f"{name} q"], read.heads, 1)[0]
        heads[name] = shares_of(query_HQd, _split(kept[f"{name} k"], read.heads, 2)[0])
    if network.fusion is None:
        return Seen(heads)
    G, T = network.config.image_grid, tokens_BT.shape[1]
    N = network.config.image_tokens
    front = heads["reader 1"].shape[-1] - T
    layers = []
    for i in range(len(network.text.layers)):
        # The whole photo's tokens in front are no places; what words read of them is left out.
        among_TT = heads[f"reader {i + 1}"].mean(0)[front:, front:]
        layers.append(_joint(among_TT / among_TT.sum(-1, keepdim=True), torch.eye(N)))
    for i in range(len(network.fusion.layers)):
        words_TN = heads[f"words read the photo {i + 1}"].mean(0)
        photo_NT = heads[f"the photo reads words {i + 1}"].mean(0)
        upper = torch.cat([torch.zeros(T, T), words_TN], dim=1)
        layers.append(torch.cat([upper, torch.cat([photo_NT, torch.zeros(N, N)], dim=1)]))
    # The first image token is the place as a whole; the others are the grid.
    from_places_TP = rollout(layers)[:T, T + 1 :]
    by_word = _scaled(from_places_TP).reshape(T, G, G)
    share = float(from_places_TP.sum(-1).mean())
    return Seen(heads, _scaled(from_places_TP.mean(0)).reshape(G, G), by_word, share)


def _look_at_prefix(network: Ember37M, tokens_BT: Tensor, pixels_BCHW: Tensor) -> Seen:
    layers: Any = network.decoder.transformer.h
    parts: dict[str, nn.Module] = {
        f"decoder {i + 1}": layer.attn.c_attn for i, layer in enumerate(layers)
    }
    parts["reader"] = network.reader.qkv
    with recorded(parts) as kept:
        mask_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
        network.encode(tokens_BT, mask_BT, network.see(pixels_BCHW))
    T, H = tokens_BT.shape[1], network.config.text_heads
    causal_TT = torch.ones(T, T, dtype=torch.bool).tril()
    heads = {}
    for name in parts:
        q_HTd, k_HTd, _ = _split(kept[name], H, 3)
        heads[name] = shares_of(q_HTd, k_HTd, None if name == "reader" else causal_TT)
    flow_TT = rollout([shares_HTT.mean(0) for shares_HTT in heads.values()])
    is_place_T = tokens_BT[0] == network.config.image_token
    G = math.isqrt(int(is_place_T.sum()))
    from_places_TP = flow_TT[~is_place_T][:, is_place_T]
    by_word = _scaled(from_places_TP).reshape(-1, G, G)
    share = float(from_places_TP.sum(-1).mean())
    return Seen(heads, _scaled(from_places_TP.mean(0)).reshape(G, G), by_word, share)


def _split(x_SX: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """Return queries, keys and values, or some of them, each (H, S, d), of a joint projection."""
    return tuple(x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in x_SX.chunk(parts, dim=-1))


def _joint(words_TT: Tensor, places_NN: Tensor) -> Tensor:
    return torch.block_diag(words_TT, places_NN)


def _scaled(shares: Tensor) -> Tensor:
    """Return shares of the places alone, which sum to 1."""
    return shares / shares.sum(-1, keepdim=True).clamp(min=1e-12)
