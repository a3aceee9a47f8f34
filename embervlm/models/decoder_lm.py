"""The decoder of `ember-37m`: GPT-2's shape, with image tokens among the words.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": pre-norm, learnt
positions, one table for reading and writing words. Parameter names are those of Hugging Face's
GPT-2 checkpoints, so that TinyLLM's 30 M model (`tinyllm/30M-0.4`) loads, or GPT-2 itself. It
stands apart from `language.py`, whose decoder reads another network's states through
cross-attention and copies words: the two share an idea and not one layer.

A photo is a run of `<|image|>` tokens, one for each image token; `image_slots` alone says which
takes the place of which. Everything else about them is as for words: they are causal and have
positions.

    decoder = DecoderLM(PrefixConfig())
    load_gpt2(decoder, load_published("tinyllm/30M-0.4"))
    states_BTD, cache = decoder(tokens_BT, image_BND=image_BND)
    logits_BTV = decoder.logits(states_BTD)

Axes: B batch, T tokens fed, S tokens seen so far (T and those in the cache), N image tokens, D
width, H heads, V vocabulary, K tokens to be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embervlm.models.configuration import PrefixConfig
from embervlm.models.published import LoadReport, Published, fill

NORM_EPS = 1e-5
INITIAL_STD = 0.02
# New rows of the embedding table: the mean row and this much of each column's deviation as noise.
NEW_ROW_NOISE = 0.01
TABLE = "transformer.wte.weight"

# Each (B, H, S, D / H).
KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Cache:
    """What has been fed: which of it counts, True or False (B, S), and each layer's keys and
    values."""

    mask_BS: Tensor
    layers: tuple[KeysValues, ...]


class Conv1D(nn.Module):
    """A linear layer whose weight lies the other way round, (in, out), as in GPT-2's files."""

    def __init__(self, in_features: int, out_features: int, std: float = INITIAL_STD) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.normal_(self.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight + bias."""
        return F.linear(x, self.weight.T, self.bias)


class Attention(nn.Module):
    """Each token reads those before it and itself."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        width = config.text_width
        self.heads = config.text_heads
        self.dropout = config.dropout
        self.c_attn = Conv1D(width, 3 * width)
        self.c_proj = Conv1D(width, width, std=_residual_std(config))

    def forward(
        self, x_BTD: Tensor, allowed_B1TS: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """Return what is added to the tokens, and the keys and values of all tokens so far.

        `allowed_B1TS` is True where a token may read; `past` is None where the first token is fed.
        """
        B, T, D = x_BTD.shape
        qkv = self.c_attn(x_BTD).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        drop = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed_B1TS, dropout_p=drop)
        added_BTD = self.c_proj(read.transpose(1, 2).reshape(B, T, D))
        return F.dropout(added_BTD, drop), (k, v)


class FeedForward(nn.Module):
    """Widen, GELU (its tanh approximation, with which GPT-2 was trained), narrow."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = Conv1D(config.text_width, config.text_hidden)
        self.c_proj = Conv1D(config.text_hidden, config.text_width, std=_residual_std(config))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the tokens."""
        added_BTD = self.c_proj(F.gelu(self.c_fc(x_BTD), approximate="tanh"))
        return F.dropout(added_BTD, self.dropout, self.training)


class Layer(nn.Module):
    """Attention, then feed-forward; a norm before each."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.text_width, eps=NORM_EPS)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.text_width, eps=NORM_EPS)
        self.mlp = FeedForward(config)

    def forward(
        self, x_BTD: Tensor, allowed_B1TS: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """Return the tokens, and the keys and values; see `Attention.forward`."""
        added_BTD, present = self.attn(self.ln_1(x_BTD), allowed_B1TS, past)
        x_BTD = x_BTD + added_BTD
        return x_BTD + self.mlp(self.ln_2(x_BTD)), present


class Transformer(nn.Module):
    """Holds the parts under GPT-2's names; `DecoderLM` runs them."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocabulary_size, config.text_width)
        self.wpe = nn.Embedding(config.text_positions, config.text_width)
        self.h = nn.ModuleList(Layer(config) for _ in range(config.text_layers))
        self.ln_f = nn.LayerNorm(config.text_width, eps=NORM_EPS)
        nn.init.normal_(self.wte.weight, std=INITIAL_STD)
        nn.init.normal_(self.wpe.weight, std=INITIAL_STD)


class DecoderLM(nn.Module):
    """Predicts each token from those before it, words and image tokens."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.config = config
        # Whether training computes a layer's inside twice instead of keeping it.
        self.checkpointed = False
        self.transformer = Transformer(config)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        mask_BT: Tensor | None = None,
        image_BND: Tensor | None = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Cache]:
        """Read tokens, int64; return states (B, T, D) behind the last norm, and the cache grown.

        Args:
            tokens_BT: words, and `<|image|>` where an image token stands; the ones after those in
                `cache`.
            mask_BT: False at padding, which may stand before or behind; None: no padding. A
                token's position is how many that count stand before it.
            image_BND: image tokens; a row without `<|image|>` ignores its own. None: no photos.
            cache: what an earlier call returned; None: these are the first tokens.

        Raises:
            ValueError: more tokens than positions, or `<|image|>` does not fit `image_BND`.
        """
        if mask_BT is None:
            mask_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
        mask_BS = mask_BT if cache is None else torch.cat([cache.mask_BS, mask_BT], dim=1)
        T, limit = tokens_BT.shape[1], self.config.text_positions
        if mask_BS.shape[1] > limit:
            raise ValueError(
                f"got {mask_BS.shape[1]} tokens, image tokens and padding included, expected at "
                f"most {limit}; shorten the text."
            )
        positions_BT = (mask_BS.cumsum(1) - 1).clamp(min=0)[:, -T:]
        x_BTD = self.embed(tokens_BT, image_BND) + self.transformer.wpe(positions_BT)
        x_BTD = F.dropout(x_BTD, self.config.dropout, self.training)
        allowed_B1TS = _allowed(mask_BS, T)[:, None]
        layers = []
        for i, layer in enumerate(self.transformer.h):
            past = cache.layers[i] if cache else None
            if self.checkpointed and self.training:
                x_BTD, present = checkpoint(layer, x_BTD, allowed_B1TS, past, use_reentrant=False)
            else:
                x_BTD, present = layer(x_BTD, allowed_B1TS, past)
            layers.append(present)
        return self.transformer.ln_f(x_BTD), Cache(mask_BS, tuple(layers))

    def embed(self, tokens_BT: Tensor, image_BND: Tensor | None) -> Tensor:
        """Return embeddings (B, T, D), image tokens in their slots; see `image_slots`."""
        x_BTD = self.transformer.wte(tokens_BT)
        N = 0 if image_BND is None else image_BND.shape[1]
        slots_BT = image_slots(tokens_BT, self.config.image_token, N)
        if image_BND is None:
            return x_BTD
        index_BTD = slots_BT.clamp(min=0)[:, :, None].expand_as(x_BTD)
        seen_BTD = image_BND.to(x_BTD.dtype).gather(1, index_BTD)
        return torch.where(slots_BT[:, :, None] >= 0, seen_BTD, x_BTD)

    def logits(self, states: Tensor) -> Tensor:
        """Return the scores of each next token, (..., V), of states (..., D)."""
        return F.linear(states, self.transformer.wte.weight)

    def loss(self, states_BTD: Tensor, tokens_BT: Tensor, learnt_BT: Tensor) -> Tensor:
        """Return the mean -log p of each token where `learnt_BT` is True, given those before it.

        The first token of a row has none before it and never counts. Scores are computed only where
        they are asked for: 50,262 numbers a token are most of the memory. 0 where nothing is asked.
        """
        asked_BT = learnt_BT[:, 1:]
        logits_KV = self.logits(states_BTD[:, :-1][asked_BT]).float()
        sum_ = F.cross_entropy(logits_KV, tokens_BT[:, 1:][asked_BT], reduction="sum")
        return sum_ / max(len(logits_KV), 1)

    @torch.inference_mode()
    def write(
        self,
        tokens_BT: Tensor,
        stop_token: int,
        *,
        mask_BT: Tensor | None = None,
        image_BND: Tensor | None = None,
        max_tokens: int = 64,
    ) -> list[list[int]]:
        """Return for each row the likeliest tokens one by one, up to and without `stop_token`.

        With `mask_BT`, padding stands before the words, so that all rows go on from the last
        column. See `forward` for the rest.
        """
        states_BTD, cache = self(tokens_BT, mask_BT=mask_BT, image_BND=image_BND)
        written: list[Tensor] = []
        has_stopped_B = torch.zeros(len(tokens_BT), dtype=torch.bool, device=tokens_BT.device)
        while len(written) < max_tokens:
            logits_BV = self.logits(states_BTD[:, -1])
            logits_BV[:, self.config.image_token] = -torch.inf  # is only ever read
            written.append(logits_BV.argmax(-1))
            has_stopped_B |= written[-1] == stop_token
            if has_stopped_B.all() or len(written) == max_tokens:
                break
            states_BTD, cache = self(written[-1][:, None], cache=cache)
        rows = torch.stack(written, dim=1).tolist() if written else [[] for _ in tokens_BT]
        return [row[: row.index(stop_token)] if stop_token in row else row for row in rows]


def image_slots(tokens_BT: Tensor, image_token: int, image_tokens: int) -> Tensor:
    """Return which image token stands at each place, counted from 0 in each row; -1 at words.

        tokens [7, <|image|>, <|image|>, 9] -> slots [-1, 0, 1, -1]

    Raises:
        ValueError: a row has neither none nor exactly `image_tokens` of them.
    """
    is_image_BT = tokens_BT == image_token
    count_B = is_image_BT.sum(1)
    if ((count_B != 0) & (count_B != image_tokens)).any():
        raise ValueError(
            f"got rows with {sorted(set(count_B.tolist()))} <|image|> tokens, expected 0 or "
            f"{image_tokens}, one for each image token; write them in full."
        )
    return torch.where(is_image_BT, is_image_BT.cumsum(1) - 1, -1)


def load_gpt2(decoder: DecoderLM, published: Published, *, seed: int = 0) -> LoadReport:
    """Fill `decoder` with a GPT-2 checkpoint, its table grown by the special tokens (`grow_table`).

    Names may come with or without "transformer."; an `lm_head.weight` equal to the table and old
    files' causal masks (`attn.bias`, `attn.masked_bias`) are dropped.

    Raises:
        ValueError: config.json names another network, or the names or shapes are not those of
            `decoder`.
    """
    config, source = decoder.config, published.source
    _check_config(config, published)
    tensors: dict[str, Tensor] = {}
    dropped = []
    for name, value in published.tensors.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            dropped.append(name)
        elif name.startswith(("transformer.", "lm_head.")):
            tensors[name] = value
        else:
            tensors[f"transformer.{name}"] = value
    table_VD = tensors.get(TABLE)
    if table_VD is None or table_VD.ndim != 2 or len(table_VD) < config.published_vocabulary:
        shape = None if table_VD is None else tuple(table_VD.shape)
        raise ValueError(
            f"{source} has {TABLE} of shape {shape}, expected at least "
            f"{config.published_vocabulary} rows; give a checkpoint with GPT-2's vocabulary."
        )
    if (head_VD := tensors.pop("lm_head.weight", None)) is not None:
        if not torch.equal(head_VD, table_VD):
            raise ValueError(
                f"{source} has an lm_head that is not its table; give a checkpoint with tied ones."
            )
        dropped.append("lm_head.weight")
    kept, rows = config.published_vocabulary, config.vocabulary_size
    if len(table_VD) > kept:  # some files are padded to a round number
        dropped.append(f"{TABLE}[{kept}:{len(table_VD)}]")
    tensors[TABLE] = grow_table(table_VD[:kept].float(), rows, seed=seed)
    new = [f"{TABLE}[{kept}:{rows}]"]
    return fill(decoder, tensors, source=source, new=new, dropped=sorted(dropped))


def grow_table(table_VD: Tensor, rows: int, *, seed: int) -> Tensor:
    """Return the table with new rows behind: the mean of the old and a little noise.

    The mean keeps a new token as likely as an average one at most (Hewitt 2021, "Initializing New
    Word Embeddings for Pretrained Language Models"); the noise tells the new ones apart.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows - len(table_VD), table_VD.shape[1], generator=generator)
    new = table_VD.mean(0) + NEW_ROW_NOISE * table_VD.std(0) * noise.to(table_VD)
    return torch.cat([table_VD, new])


def _check_config(config: PrefixConfig, published: Published) -> None:
    """Refuse what the shapes do not show: the heads, the activation, how attention is scaled."""
    expected = {
        "model_type": ("gpt2",),
        "n_head": (config.text_heads,),
        "n_layer": (config.text_layers,),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", None),
        "layer_norm_epsilon": (NORM_EPS, None),
        "scale_attn_weights": (True, None),
        "scale_attn_by_inverse_layer_idx": (False, None),
        "add_cross_attention": (False, None),
    }
    for key, allowed in expected.items():
        if (value := published.config.get(key)) not in allowed:
            raise ValueError(
                f"{published.source} has {key} {value!r} in config.json, expected {allowed[0]!r}; "
                "give a checkpoint of this shape."
            )


def _allowed(mask_BS: Tensor, fed: int) -> Tensor:
    """Return where each of the last `fed` tokens may read, (B, T, S): no padding, not ahead.

    Padding may read itself, for a row of attention must not be empty.
    """
    S = mask_BS.shape[1]
    seen = torch.arange(S, device=mask_BS.device)
    reads_T1 = seen[S - fed :, None]
    return ((seen <= reads_T1) & mask_BS[:, None, :]) | (seen == reads_T1)


def _residual_std(config: PrefixConfig) -> float:
    """Return the deviation that keeps the sum over all layers as large as one (GPT-2, 2.3)."""
    return INITIAL_STD / (2 * config.text_layers) ** 0.5
