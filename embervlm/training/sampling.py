"""Draw answers from the network: a set for the request, then the lines behind that decision.

The policy is the network as it answers words alone: a softmax over the 32 sets, the n-grams'
linear scores added, then the decoder's tokens one after the other until `<|end|>`. No grammar
helps: that the lines parse is to be learnt. A network that reasons in steps (`bitmar`) also draws
whom to send first, by a softmax over the six outcomes, from the request alone like the set.

Every draw comes from a uniform number of its own, by inverting the cumulative chances, so an answer
depends on its request and its numbers, not on what else is in the batch.

Axes: B requests, G answers to each, N = B G, K those of them that are still written, T tokens, S
states read, D width, C sets (32), O outcomes (6), V vocabulary, U uniform numbers.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from embervlm.data.sample import robots_of
from embervlm.models.language import DecoderCache, KeysValues
from embervlm.models.modeling import EmberNetwork
from embervlm.prompts import END, reasoning_prefix
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import encode

# The longest lines of an author take 46 tokens.
MAX_OWN = 56


@dataclass(frozen=True)
class Read:
    """What the network makes of requests before it writes: the reader's states, the token that each
    was read from (-1: not to be copied), and the log-probabilities of the sets (B, C).

    A network that reasons in steps also says whom it would send first, log-probabilities (B, O),
    and what it thinks its answer is worth (B,), 0 to 1; of others both are None.
    """

    states_BSD: Tensor
    mask_BS: Tensor
    source_BS: Tensor
    sets_BC: Tensor
    first_BO: Tensor | None = None
    value_B: Tensor | None = None

    def repeated(self, times: int) -> Read:
        """Return what the words are written from, with each request `times` in a row."""
        parts = (self.states_BSD, self.mask_BS, self.source_BS, self.sets_BC)
        return Read(*(part.repeat_interleave(times, dim=0) for part in parts))


@dataclass(frozen=True)
class Drawn:
    """Answers: the number of each set, all tokens (0 behind the end), which are the decoder's own,
    which is those behind the prefix up to the end, and the outcome to send first, if it is drawn.
    """

    sets_BG: Tensor
    written_NT: Tensor
    own_NT: Tensor
    first_BG: Tensor | None = None

    def texts(self, tokenizer: Tokenizer) -> list[str]:
        """Return the marked text of each answer."""
        told = []
        for row, own in zip(self.written_NT.tolist(), self.own_NT.tolist(), strict=True):
            last = max(i for i, is_own in enumerate(own) if is_own)
            told.append(tokenizer.decode(row[: last + 1]))
        return told


def read(network: EmberNetwork, batch: dict[str, Tensor], temperature: float = 1.0) -> Read:
    """Read a batch of requests; `batch["ngrams"]` (B, C) is added to the sets' logits."""
    encoded = encode(network, batch)
    logits = network.decide(encoded, None)
    logits_BC = logits["subsets"].float() + batch["ngrams"]
    tokens_BT, mask_BT = batch["tokens"], batch["mask"]
    images_BN = tokens_BT.new_full((len(tokens_BT), network.config.image_tokens), -1)
    source_BS = torch.cat([images_BN, tokens_BT.masked_fill(~mask_BT, -1)], dim=1)
    sets_BC = (logits_BC / temperature).log_softmax(-1)
    found = Read(encoded.states_BSD, encoded.mask_BS, source_BS, sets_BC)
    if network.reasoning is None:
        return found
    first_BO = (logits["primary"].float() / temperature).log_softmax(-1)
    return replace(found, first_BO=first_BO, value_B=logits["value"].float().sigmoid())


def log_chances(
    network: EmberNetwork,
    found: Read,
    written_NT: Tensor,
    own_NT: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Return the log-probability (N, T - 1) of each own token behind those before it, else 0."""
    return network.decoder.chosen(
        written_NT,
        found.states_BSD,
        found.mask_BS,
        found.source_BS,
        network.text.embed.weight,
        own_NT,
        temperature,
    )


@torch.no_grad()
def draw(
    network: EmberNetwork,
    found: Read,
    tokenizer: Tokenizer,
    uniform_BGU: Tensor | None,
    temperature: float = 1.0,
) -> Drawn:
    """Draw G answers to each request, or with None the likeliest one, token by token.

    `found` was read at the same temperature; `uniform_BGU` is what `uniform` gives.
    """
    first_BG = None
    if uniform_BGU is None:
        sets_BG = found.sets_BC.argmax(-1, keepdim=True)
        if found.first_BO is not None:
            first_BG = found.first_BO.argmax(-1, keepdim=True)
    else:
        sets_BG = _inverted(found.sets_BC, uniform_BGU[..., 0])
        if found.first_BO is not None:
            first_BG = _inverted(found.first_BO, uniform_BGU[..., -1])
    G = sets_BG.shape[1]
    found = found.repeated(G)
    prefixes = _prefixes(sets_BG.flatten().tolist(), tokenizer)
    told_N = torch.tensor([len(prefix) for prefix in prefixes], device=sets_BG.device)
    T = min(int(told_N.max()) + MAX_OWN, network.config.decoder_positions)
    written_NT = torch.zeros(len(prefixes), T, dtype=torch.int64)
    for row, prefix in zip(written_NT, prefixes, strict=True):
        row[: len(prefix)] = torch.tensor(prefix)
    written_NT = written_NT.to(sets_BG.device)
    own_NT = torch.zeros_like(written_NT, dtype=torch.bool)
    cache = network.decoder.begin(found.states_BSD, found.mask_BS, found.source_BS)
    going = torch.arange(len(prefixes), device=sets_BG.device)  # rows that have not ended
    for t in range(1, T):
        log_p_KV = network.decoder.step(
            written_NT[going, t - 1 : t], cache, network.text.embed.weight, temperature
        )
        if uniform_BGU is None:
            next_K = log_p_KV.argmax(-1)
        else:
            next_K = _inverted(log_p_KV, uniform_BGU[..., t].reshape(-1, 1)[going])[:, 0]
        own_K = told_N[going] <= t
        own_NT[going, t] = own_K
        written_NT[going, t] = torch.where(own_K, next_K, written_NT[going, t])
        goes_on_K = ~own_K | (next_K != tokenizer.specials[END])
        goes_on_K &= t + 1 < told_N[going] + MAX_OWN
        if not goes_on_K.all():
            going, cache = going[goes_on_K], _rows_of(cache, goes_on_K)
            if not len(going):
                break
    T = t + 1
    return Drawn(sets_BG, written_NT[:, :T], own_NT[:, :T], first_BG)


def numbers_for(network: EmberNetwork) -> int:
    """Return how many uniform numbers an answer takes: the set's, one for each token behind the
    first, and behind those that of whom to send first, where it is drawn."""
    return network.config.decoder_positions + (network.reasoning is not None)


def uniform(seed: int, keys: Sequence[Hashable], group: int, numbers: int) -> Tensor:
    """Return numbers (B, G, U) from 0 to below 1, those of a request from its key and the seed
    alone; U is what `numbers_for` says."""
    rows = []
    for key in keys:
        generator = torch.Generator().manual_seed(random.Random(f"{seed} {key}").getrandbits(62))
        rows.append(torch.rand(group, numbers, generator=generator))
    return torch.stack(rows)


def _inverted(log_p_BV: Tensor, uniform_BG: Tensor) -> Tensor:
    """Return where the cumulative chances pass each uniform number."""
    summed_BV = log_p_BV.exp().cumsum(-1, dtype=torch.float64)
    goal_BG = uniform_BG.to(summed_BV) * summed_BV[:, -1:]
    found_BG = torch.searchsorted(summed_BV, goal_BG, right=True)
    return found_BG.clamp(max=log_p_BV.shape[-1] - 1)


def _rows_of(cache: DecoderCache, kept_N: Tensor) -> DecoderCache:
    def kept(pairs: Sequence[KeysValues]) -> list[KeysValues]:
        return [(keys[kept_N], values[kept_N]) for keys, values in pairs]

    return DecoderCache(
        cache.states_BSD[kept_N],
        cache.mask_BS[kept_N],
        cache.source_BS[kept_N],
        kept(cache.cross),
        kept(cache.past),
    )


def _prefixes(sets: Sequence[int], tokenizer: Tokenizer) -> list[list[int]]:
    known = {number: reasoning_prefix(robots_of(number), tokenizer) for number in set(sets)}
    return [known[number] for number in sets]
