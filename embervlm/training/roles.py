"""Teach the roles head again with numbers re-drawn, so that a number's size does not say its role.

In what people write, 420 m is nearly always a distance, so a network trained on that reads "420 m
to the floor of the cistern" as one. Here the numbers of the training requests are drawn anew over
their whole range while their roles stay, and the linear head that tells the roles is fitted to
both; the rest of the network stays as it is.

    python -m embervlm.training.roles --tokenizer T.json --model NETWORK.safetensors --out DIR

Axes: N mentions, D width.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from embervlm.data.sample import Sample, role_of
from embervlm.evaluation.counterfactual import with_number
from embervlm.models.modeling import EmberNetwork, load_network, save_network
from embervlm.models.precision import autocast
from embervlm.prompts import Reading, read_task
from embervlm.quantities import Mention, find_quantities
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import Item, base_samples, collate, encode

MAX_TOKENS = 128
# From where to where numbers are drawn, evenly over their logarithms.
RANGES = {
    "mass_kg": (0.5, 1500.0),
    "length_m": (0.1, 2500.0),
    "speed_kmh": (3.0, 130.0),
    "hours": (0.1, 30.0),
}
COPIES = 3
EPOCHS = 30
SEED = 1


def mentions_of(sample: Sample) -> list[tuple[Mention, int]]:
    """Return the quantities of a request with their roles."""
    assert sample.limits is not None
    found = find_quantities(sample.task or "")
    return [(mention, role_of(mention, sample.limits)) for mention in found]


def redrawn(sample: Sample, rng: random.Random) -> tuple[str, list[int]] | None:
    """Return the request with every number drawn anew, and the roles; None: a number was lost."""
    task, told = sample.task or "", mentions_of(sample)
    for mention, _ in reversed(told):
        low, high = RANGES[mention.kind]
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        task = with_number(task, mention, value)
    kinds = [mention.kind for mention in find_quantities(task)]
    if kinds != [mention.kind for mention, _ in told]:
        return None
    return task, [role for _, role in told]


@torch.no_grad()
def mark_states(
    network: EmberNetwork, tokenizer: Tokenizer, rows: Sequence[tuple[str, list[int]]]
) -> tuple[Tensor, Tensor]:
    """Return the state (N, D) of each quantity's mark, and its role (N,)."""
    network.eval()
    blank = Sample("", None, None, None, None, None, None, None, None)
    pairs: list[tuple[Reading, list[int]]] = []
    for task, roles in rows:
        reading = read_task(task, tokenizer, MAX_TOKENS)
        if len(reading.marks) == len(roles):
            pairs.append((reading, roles))
    pairs.sort(key=lambda pair: len(pair[0].tokens))
    states, goals = [], []
    for i in tqdm(range(0, len(pairs), 64), desc="read", mininterval=5):
        part = pairs[i : i + 64]
        items = [Item(replace(blank, task="x"), reading) for reading, _ in part]
        batch = collate(items, None, network.config, random.Random(0))
        with autocast():
            encoded = encode(network, batch)
        for b, (reading, roles) in enumerate(part):
            at = torch.tensor(reading.marks) + network.config.image_tokens
            states.append(encoded.states_BSD[b, at].float())
            goals += roles
    return torch.cat(states), torch.tensor(goals)


def fit(head: nn.Linear, states_ND: Tensor, roles_N: Tensor) -> None:
    """Fit the head by AdamW, from where it stands."""
    torch.manual_seed(SEED)
    head.requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.01)
    steps = EPOCHS * math.ceil(len(roles_N) / 256)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(roles_N)).split(256):
            loss = F.cross_entropy(head(states_ND[chosen]), roles_N[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    """Read the flags, fit the head, write the network and what was gained."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    network = load_network(options.model)
    rng = random.Random(SEED)
    sets: dict[str, list[tuple[str, list[int]]]] = {}
    for split, copies in (("train", COPIES), ("validation", 1)):
        samples = [sample for sample in base_samples(split) if mentions_of(sample)]
        sets[split] = [(s.task or "", [role for _, role in mentions_of(s)]) for s in samples]
        drawn = [redrawn(sample, rng) for sample in samples for _ in range(copies)]
        sets[f"{split}, redrawn"] = [row for row in drawn if row is not None]
    states = {name: mark_states(network, tokenizer, rows) for name, rows in sets.items()}
    head = network.heads.roles

    @torch.no_grad()
    def right(name: str) -> float:
        found, roles = states[name]
        return round((head(found).argmax(-1) == roles).float().mean().item(), 4)

    shown = ("validation", "validation, redrawn")
    report: dict[str, float] = {f"{name}, before": right(name) for name in shown}
    known, drawn_states = states["train"], states["train, redrawn"]
    fit(head, torch.cat([known[0], drawn_states[0]]), torch.cat([known[1], drawn_states[1]]))
    report |= {f"{name}, after": right(name) for name in shown}
    report["mentions"] = len(known[1]) + len(drawn_states[1])
    options.out.mkdir(parents=True, exist_ok=True)
    save_network(network, options.out / "network.safetensors")
    (options.out / "roles.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
