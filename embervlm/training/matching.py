"""Teach a finished network how near photos are to what is said of them, and nothing else.

BitMar's documents ask for a cosine above 0.75 of a photo with its own captions and below 0.35 with
those of others. In the space of the reader that fails twice: few photos have captions, and the
reader moves on while it learns to decide. So the space of `models/matching.py` is learnt last: the
network reads all captions once, and two projections are fitted to what it made of them. No other
weight changes, so no decision does.

    python -m embervlm.training.matching --model build/bitmar/reason/network.safetensors
    --vision build/nano/vision --tokenizer build/nano/tokenizer.json --out build/bitmar/match

The loss is what the documents ask for, with the contrast of `stages.py` beside it, which keeps
photos of a kind apart:

    nearness * (mean(1 - own cosine) + CEILING_WEIGHT * max(0, mean(others' cosines) - ceiling))
        + contrast * InfoNCE

Each step takes one caption of each of its photos and leaves out a share of what either side reads;
without that it knows the training photos by heart. Cosines of this size cost some of the order:
the contrast alone has smaller ones and finds the right photo more often
(`benchmarks/bitmar_matching.json`). `matching.json` has the figures of validation, those of the
space of the reader beside them.

Axes: N photos, C captions, D width of what is read, M width of the space, B photos of a step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embervlm.data.photos import TABLE, load_captions, load_photos
from embervlm.models.matching import photo_inputs, word_inputs
from embervlm.models.modeling import EmberNetwork, load_network, save_network
from embervlm.prompts import read_task
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import pad
from embervlm.training.stages import contrast_sum, cosines

# How much a mean above the ceiling counts against the mean of the own.
CEILING_WEIGHT = 8.0
NEAREST = (1, 5)
MAX_TOKENS = 96


@dataclass(frozen=True)
class Settings:
    """How the space is learnt; the rate falls from `rate` to 0 in a straight line.

    `shared` is the length of a part that all vectors begin with; how large it stays is learnt.
    """

    width: int = 32
    steps: int = 300
    batch: int = 384
    rate: float = 2e-3
    weight_decay: float = 0.3
    dropout: float = 0.5
    nearness: float = 1.0
    contrast: float = 0.03
    ceiling: float = 0.3
    shared: float = 2.0
    average: float = 0.98
    seed: int = 1


@dataclass(frozen=True)
class Captioned:
    """Photos of a split and their captions: what the projections read of them, and the number of
    the photo that each caption is of."""

    photos_ND: Tensor
    words_CD: Tensor
    photo_C: Tensor
    # Where both lie in the space that the network has now.
    seen_NM: Tensor
    read_CM: Tensor


@torch.no_grad()
def read_split(
    network: EmberNetwork, tokenizer: Tokenizer, vision: Path, shared: Path, split: str
) -> Captioned:
    """Return what a network makes of a split's photos and captions.

    Raises:
        ValueError: no photo of the split has a caption.
    """
    network.eval()
    texts = load_captions(shared / "photos")
    files = [p.file for p in load_photos(TABLE) if p.split == split and p.file in texts]
    if not files:
        raise ValueError(f"No photo of the split {split} has a caption in {shared / 'photos'}.")
    with np.load(vision / "features.npz", allow_pickle=False) as content:
        row_of = {str(name): i for i, name in enumerate(content["files"])}
        features = content["features"][[row_of[file] for file in files]].astype(np.float32)
    features_NC = torch.from_numpy(features)
    said = [(n, text) for n, file in enumerate(files) for text in texts[file]]
    tokens = [read_task(text, tokenizer, MAX_TOKENS).tokens for _, text in said]
    words_CD, read_CM = _read(network, tokens)
    return Captioned(
        photo_inputs(features_NC),
        words_CD,
        torch.tensor([n for n, _ in said]),
        network.place_photo(features_NC),
        read_CM,
    )


def _read(network: EmberNetwork, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return what the projection reads of each text, and where the text lies now; in the order of
    the texts."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    inputs, places = [], []
    for at in range(0, len(order), 64):
        read = network.read_alone(*pad([tokens[i] for i in order[at : at + 64]]))
        inputs.append(word_inputs(*read))
        places.append(network.place_words(*read))
    back = torch.tensor(order).argsort()
    return torch.cat(inputs)[back], torch.cat(places)[back]


def fit(data: Captioned, settings: Settings) -> tuple[nn.Linear, nn.Linear]:
    """Return the projections of photos and words, fitted to a split."""
    drawn = torch.Generator().manual_seed(settings.seed)
    photos_ND, photo_shift = _standard(data.photos_ND)
    words_CD, word_shift = _standard(data.words_CD)
    sides = [_projection(x.shape[1], settings, drawn) for x in (photos_ND, words_CD)]
    weights = [weight for side in sides for weight in side.parameters()]
    mean = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, settings.rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / settings.steps)
    # Each photo's captions stand together.
    count_N = torch.bincount(data.photo_C, minlength=len(photos_ND))
    begin_N = count_N.cumsum(0) - count_N
    for _ in range(settings.steps):
        photo_B = torch.randperm(len(photos_ND), generator=drawn)[: settings.batch]
        at_B = (torch.rand(len(photo_B), generator=drawn) * count_N[photo_B]).long()
        caption_B = begin_N[photo_B] + at_B
        kept = [
            _without_some(x_BD, settings.dropout, drawn)
            for x_BD in (photos_ND[photo_B], words_CD[caption_B])
        ]
        loss = nearness_loss(sides[0](kept[0]), sides[1](kept[1]), settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for old, new in zip(mean, weights, strict=True):
            old.lerp_(new.detach(), 1 - settings.average)
    for old, new in zip(mean, weights, strict=True):
        new.data.copy_(old)
    return _folded(sides[0], *photo_shift), _folded(sides[1], *word_shift)


def nearness_loss(seen_BM: Tensor, read_BM: Tensor, settings: Settings) -> Tensor:
    """Return the loss at the head of this file, of photos and a caption of each."""
    cosine_BB = cosines(seen_BM, read_BM)
    own_B = cosine_BB.diagonal()
    B = len(own_B)
    others = (cosine_BB.sum() - own_B.sum()) / (B * (B - 1))
    nearness = (1 - own_B).mean() + CEILING_WEIGHT * F.relu(others - settings.ceiling)
    return settings.nearness * nearness + settings.contrast * contrast_sum(seen_BM, read_BM) / B


def figures(seen_NM: Tensor, read_CM: Tensor, photo_C: Tensor) -> dict[str, float]:
    """Return how near photos are to what is said of them.

    `cosine_matched` and `cosine_mismatched` are the means over all pairs of a photo with its own
    captions and with those of others; `centred_matched` is the first where the mean of all photos
    and that of all captions are taken away before, so that what all share counts for nothing.
    `recall_1` and `recall_5` are the shares of captions whose photo is among the so many nearest
    of all N; `chance_1` and `chance_5` what guessing would have.
    """
    cosine_NC = cosines(seen_NM, read_CM)
    own_C = cosine_NC[photo_C, torch.arange(len(photo_C))]
    centred_NC = cosines(
        F.normalize(seen_NM, dim=-1) - F.normalize(seen_NM, dim=-1).mean(0),
        F.normalize(read_CM, dim=-1) - F.normalize(read_CM, dim=-1).mean(0),
    )
    N = len(seen_NM)
    nearer_C = (cosine_NC >= own_C).sum(0)  # itself is among them
    found = {
        "cosine_matched": float(own_C.mean()),
        "cosine_mismatched": float((cosine_NC.sum() - own_C.sum()) / (len(own_C) * (N - 1))),
        "centred_matched": float(centred_NC[photo_C, torch.arange(len(photo_C))].mean()),
        **{f"recall_{k}": float((nearer_C <= k).float().mean()) for k in NEAREST},
        **{f"chance_{k}": k / N for k in NEAREST},
    }
    counts = {"photos": N, "captions": len(photo_C)}
    return {**{name: round(value, 4) for name, value in found.items()}, **counts}


def with_match(network: EmberNetwork, photo: nn.Linear, words: nn.Linear) -> EmberNetwork:
    """Return the network with these projections, all else as it is."""
    config = replace(network.config, match_width=photo.out_features)
    found = EmberNetwork(config)
    assert found.match is not None
    found.match.photo, found.match.words = photo, words
    match = {f"match.{name}": value for name, value in found.match.state_dict().items()}
    found.load_state_dict(network.state_dict() | match)
    return found


def _projection(inputs: int, settings: Settings, drawn: torch.Generator) -> nn.Linear:
    """Return a linear layer that begins at random beside the shared part."""
    layer = nn.Linear(inputs, settings.width)
    with torch.no_grad():
        layer.weight.uniform_(-(inputs**-0.5), inputs**-0.5, generator=drawn)
        layer.bias.fill_(settings.shared / settings.width**0.5)
    return layer


def _standard(x_ND: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return rows with mean 0 and spread 1 in each column, and the means and spreads they had."""
    mean_D, spread_D = x_ND.mean(0), x_ND.std(0).clamp(min=1e-6)
    return (x_ND - mean_D) / spread_D, (mean_D, spread_D)


def _folded(layer: nn.Linear, mean_D: Tensor, spread_D: Tensor) -> nn.Linear:
    """Return the layer that gives of x what this one gives of (x - mean) / spread."""
    folded = nn.Linear(layer.in_features, layer.out_features)
    with torch.no_grad():
        folded.weight.copy_(layer.weight / spread_D)
        folded.bias.copy_(layer.bias - folded.weight @ mean_D)
    return folded


def _without_some(x_BD: Tensor, share: float, drawn: torch.Generator) -> Tensor:
    """Return values, a share of them zero, the others larger by as much (dropout)."""
    kept_BD = torch.rand(x_BD.shape, generator=drawn) >= share
    return x_BD * kept_BD / (1 - share)


def main() -> None:
    """Read the flags, fit the space, write the network with it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a network that learns no more")
    parser.add_argument("--vision", type=Path, required=True, help="folder of its vision run")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=Settings.width)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    network = load_network(options.model)
    learnt, held = (
        read_split(network, tokenizer, options.vision, options.shared, split)
        for split in ("train", "validation")
    )
    photo, words = fit(learnt, Settings(width=options.width, seed=options.seed))
    with torch.no_grad():
        after = figures(photo(held.photos_ND), words(held.words_CD), held.photo_C)
    told = {
        "split": "validation",
        "before": figures(held.seen_NM, held.read_CM, held.photo_C),
        "after": after,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    save_network(with_match(network, photo, words), options.out / "network.safetensors")
    text = json.dumps(told, indent=2) + "\n"
    (options.out / "matching.json").write_text(text, "utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
