"""Train our network on part of somebody else's tasks, from the weights of a model folder.

Reader and set head learn, with the cross-entropy of the set alone; the photo side is frozen and not
used, nor is the n-gram table. Some 200 tasks leave much to chance, so three networks learn, each
with its own seed, and the mean of their chances answers: the likeliest set, without the hard rules,
which are our policy and not that of the labels.

Axes: B batch, T tokens, S sets.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from embervlm.backends.base import MAX_TASK_TOKENS
from embervlm.backends.pytorch import PyTorchBackend
from embervlm.checkpoint import load_checkpoint
from embervlm.data.sample import robots_of, subset_of
from embervlm.evaluation.embervlm_tasks import MAX_EPOCHS, SEED, Learner, inner_split
from embervlm.evaluation.metrics import Answer, Truth
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.models.heads import SUBSETS_SR
from embervlm.models.modeling import EmberNetwork
from embervlm.models.precision import autocast
from embervlm.prompts import read_task
from embervlm.scoring import exact
from embervlm.tokenizer import Tokenizer

BATCH = 16
RATE = 5e-5
WARMUP_STEPS = 10
NETWORKS = 3
_NAMES = Fleet.default().names


def learner_from(folder: Path | None, max_epochs: int = MAX_EPOCHS) -> Learner:
    """Return what trains a model folder's network (None: the shipped one) and answers with it."""
    start = PyTorchBackend.load(folder).network
    tokenizer = load_checkpoint(folder).tokenizer

    def learn(train: Sequence[Truth], tasks: Sequence[str]) -> list[Answer]:
        fitted, chosen_on = inner_split(train)
        _, shares = fine_tune(start, tokenizer, fitted, max_epochs, chosen_on)
        epochs = 1 + shares.index(max(shares))
        chances = []
        for seed in range(SEED, SEED + NETWORKS):
            network, _ = fine_tune(start, tokenizer, train, epochs, seed=seed)
            chances.append(set_chances(network, tokenizer, tasks))
        return to_answers(torch.stack(chances).mean(0))

    return learn


def fine_tune(
    start: EmberNetwork,
    tokenizer: Tokenizer,
    train: Sequence[Truth],
    epochs: int,
    chosen_on: Sequence[Truth] = (),
    *,
    seed: int = SEED,
) -> tuple[EmberNetwork, list[float]]:
    """Return a trained copy of `start`, and the exact-set share on `chosen_on` after each epoch."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    network = copy.deepcopy(start).requires_grad_(False)
    learning = [*network.text.parameters(), *network.heads.subset_features.parameters()]
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.01)
    order, shares, step = list(train), [], 0
    for _ in range(epochs):
        network.train()
        rng.shuffle(order)
        for i in range(0, len(order), BATCH):
            step += 1
            optimizer.param_groups[0]["lr"] = RATE * min(1.0, step / WARMUP_STEPS)
            batch = order[i : i + BATCH]
            goal_B = torch.tensor([subset_of(truth.robots) for truth in batch])
            with autocast():
                logits_BS = _set_logits(network, tokenizer, [truth.task for truth in batch])
            loss = F.cross_entropy(logits_BS.float(), goal_B)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
        if chosen_on:
            found = to_answers(set_chances(network, tokenizer, [t.task for t in chosen_on]))
            pairs = zip(found, chosen_on, strict=True)
            shares.append(sum(exact(a.robots, t.robots) for a, t in pairs) / len(chosen_on))
    return network, shares


@torch.no_grad()
def set_chances(network: EmberNetwork, tokenizer: Tokenizer, tasks: Sequence[str]) -> Tensor:
    """Return the chance of each set, (B, S)."""
    network.eval()
    parts = [
        _set_logits(network, tokenizer, tasks[i : i + 64]).softmax(-1)
        for i in range(0, len(tasks), 64)
    ]
    return torch.cat(parts)


def to_answers(chances_BS: Tensor) -> list[Answer]:
    """Return the likeliest set of each row; its first robot is the likeliest one of the set."""
    answers = []
    chances_BR = chances_BS @ SUBSETS_SR
    for best, chance_R in zip(chances_BS.argmax(-1), chances_BR, strict=True):
        order = [_NAMES[r] for r in chance_R.argsort(descending=True).tolist()]
        robots = sorted(robots_of(int(best)), key=[*order, NO_ROBOT].index)
        answers.append(Answer(tuple(robots), robots[0]))
    return answers


def _set_logits(network: EmberNetwork, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    rows = [read_task(text, tokenizer, MAX_TASK_TOKENS).tokens for text in texts]
    B, T = len(rows), max(len(row) for row in rows)
    absent_B = torch.zeros(B, dtype=torch.bool)
    encoded = network.encode(
        torch.tensor([[*row, *[0] * (T - len(row))] for row in rows]),
        torch.tensor([[i < len(row) for i in range(T)] for row in rows]),
        torch.zeros(B, *network.config.features_shape),
        torch.zeros(B, network.image.scene.out_features),
        absent_B,
        absent_B,
    )
    logits_BS: Tensor = network.decide(encoded, None)["subsets"]
    return logits_BS
