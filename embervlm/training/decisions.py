"""Teach the network to decide: set, first robot, place, needs, and what each stated number is for.

All layers of the reader are trained; the photo side enters through features that
`training/vision.py` computed once (its own layers are fine-tuned there). Each epoch pairs requests
with other photos.

    python -m embervlm.training.decisions --vision DIR --encoder E.safetensors --tokenizer T.json
    --out DIR

Axes: B batch, T tokens, M mentions, S subsets, E environments, C image channels.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from embervlm.data.photos import load_captions, load_photos
from embervlm.data.sample import (
    Sample,
    from_photo_request,
    from_plan,
    from_scenario,
    role_of,
)
from embervlm.data.scenarios import DATA_DIR, is_addition, load
from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.models.configuration import EmberConfig
from embervlm.models.modeling import EmberNetwork, Encoded, save_network
from embervlm.models.precision import autocast
from embervlm.prompts import Reading, read_task
from embervlm.scenario import FLAGS
from embervlm.tokenizer import Tokenizer

IGNORED = -100


@dataclass(frozen=True)
class Settings:
    """What one run of this stage is made of.

    A rate is per step of AdamW; shares are probabilities. Runs that are to be averaged have one
    `start_seed`, for the heads they begin with, and each its own `seed`. `authors_again` is the
    share of the first authors' requests that are read a second time in an epoch: what held-out
    requests are like, theirs say best.
    """

    epochs: int = 6
    batch: int = 32
    rate: float = 2e-4
    head_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.06
    seed: int = 1
    start_seed: int = 0
    max_tokens: int = 128
    # photos
    attach_photo: float = 0.25
    drop_view: float = 0.4
    simulate_scene: float = 0.3
    places_per_photo_request: int = 3
    photos_alone: int = 400
    # words
    authors_again: float = 0.5
    drop_digits: float = 0.3
    typo: float = 0.15
    # losses
    set_smoothing: float = 0.03
    primary_weight: float = 0.3
    environment_weight: float = 1.0
    needs_weight: float = 0.5
    roles_weight: float = 0.3
    contrast_weight: float = 0.1
    # averaging of weights over steps
    ema: float = 0.995


@dataclass(frozen=True)
class Photos:
    """The photo set, computed once: features (P, C), place probabilities (P, E), rows by place and
    split."""

    features_PC: Tensor
    scenes_PE: Tensor
    by_environment: dict[tuple[str, str], list[int]]
    captions: dict[int, tuple[str, ...]]

    @classmethod
    def load(cls, folder: Path, shared: Path) -> Photos:
        """Read `features.npz` of a vision run, the table of photos, and the captions."""
        content = np.load(folder / "features.npz", allow_pickle=False)
        rows = {str(name): i for i, name in enumerate(content["files"])}
        by_environment: dict[tuple[str, str], list[int]] = defaultdict(list)
        captions = {}
        texts = load_captions(shared / "photos")
        for photo in load_photos(DATA_DIR / "photos.jsonl"):
            row = rows[photo.file]
            if photo.environment:
                by_environment[photo.environment, photo.split].append(row)
            if photo.split == "train" and photo.file in texts:
                captions[row] = texts[photo.file]
        return cls(
            torch.from_numpy(content["features"].astype(np.float32)),
            torch.from_numpy(content["environment_logits"].astype(np.float32)).softmax(-1),
            dict(by_environment),
            captions,
        )


@dataclass(frozen=True)
class Item:
    """A sample ready for a batch: its reading, and the photo row or simulated scene that goes with
    it."""

    sample: Sample
    reading: Reading
    photo: int | None = None
    scene: str | None = None


def base_samples(split: str) -> list[Sample]:
    """Return the samples of the requests and plans of a split."""
    return [
        *(from_scenario(row) for row in load("scenarios", split)),
        *(from_plan(row) for row in load("plans", split)),
    ]


class Mixture:
    """Draws the items of an epoch: requests, photo requests with photos, photos alone."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer, photos: Photos | None) -> None:
        self.settings, self.tokenizer, self.photos = settings, tokenizer, photos
        self.requests = base_samples("train")
        self.photo_rows = load("photo_requests", "train")
        self.digits = {tokenizer.encode(f"{space}{d}")[0] for d in range(10) for space in ("", " ")}

    def epoch(self, rng: random.Random) -> list[Item]:
        """Return the shuffled items of one epoch."""
        s, items = self.settings, []
        authored = [sample for sample in self.requests if not is_addition(sample.id)]
        # As many in every epoch, so that the number of steps is known.
        again = rng.sample(authored, round(s.authors_again * len(authored)))
        for sample in (*self.requests, *again):
            assert sample.environment is not None
            place = ENVIRONMENTS[sample.environment]
            seen = self._photo(place, rng) if rng.random() < s.attach_photo else (None, None)
            items.append(self._item(sample, *seen, rng))
        for row in self.photo_rows:
            places = list(row["by_environment"])
            for place in rng.sample(places, min(s.places_per_photo_request, len(places))):
                sample = from_photo_request(row, place, None)
                items.append(self._item(sample, *self._photo(place, rng, always=True), rng))
        for _ in range(s.photos_alone):
            row = rng.choice(self.photo_rows)
            place = rng.choice(list(row["by_environment"]))
            sample = replace(
                from_photo_request(row, place, None), task=None, actions=None, flags=None, limits={}
            )
            items.append(self._item(sample, *self._photo(place, rng, always=True), rng))
        rng.shuffle(items)
        return items

    def _photo(
        self, place: str, rng: random.Random, *, always: bool = False
    ) -> tuple[int | None, str | None]:
        found = self.photos.by_environment.get((place, "train"), []) if self.photos else []
        if found and rng.random() > self.settings.simulate_scene:
            return rng.choice(found), None
        return (None, place) if always or place != "none" else (None, None)

    def _item(
        self, sample: Sample, photo: int | None, scene: str | None, rng: random.Random
    ) -> Item:
        task = sample.task
        if task and rng.random() < self.settings.typo:
            task = with_typo(task, rng)
        reading = read_task(task, self.tokenizer, self.settings.max_tokens)
        if reading.marks and rng.random() < self.settings.drop_digits:
            reading = without_digits(reading, self.digits)
        return Item(sample, reading, photo, scene)


def with_typo(task: str, rng: random.Random) -> str:
    """Return the text with two letters of one word swapped or one letter lost; numbers stay."""
    words = task.split()
    places = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not places:
        return task
    i = rng.choice(places)
    word, at = words[i], rng.randrange(1, len(words[i]) - 2)
    if rng.random() < 0.5:
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    else:
        words[i] = word[:at] + word[at + 1 :]
    return " ".join(words)


def without_digits(reading: Reading, digits: set[int]) -> Reading:
    """Return the reading without the digits in front of each mark: the mark alone must do."""
    lost = {
        i
        for mark in reading.marks
        for i in range(max(1, mark - 7), mark)
        if reading.tokens[i] in digits
    }
    kept = [i for i in range(len(reading.tokens)) if i not in lost]
    position = {old: new for new, old in enumerate(kept)}
    return Reading(
        tuple(reading.tokens[i] for i in kept),
        reading.mentions,
        tuple(position[mark] for mark in reading.marks),
    )


def simulated_scene(place: str, rng: random.Random) -> list[float]:
    """Return place probabilities as an unsure photo encoder might give them, the true place
    leading."""
    sure = rng.uniform(0.55, 0.99)
    noise = [rng.random() ** 4 for _ in ENVIRONMENTS]
    total = sum(noise)
    shares = [(1 - sure) * n / total for n in noise]
    shares[ENVIRONMENTS.index(place)] += sure
    return shares


def collate(
    items: Sequence[Item],
    photos: Photos | None,
    config: EmberConfig,
    rng: random.Random,
    drop_view: float = 0.0,
) -> dict[str, Tensor]:
    """Turn items into tensors; absent targets are IGNORED or masked by a weight of 0."""
    B = len(items)
    T = max(len(item.reading.tokens) for item in items)
    M = max(1, *(len(item.reading.marks) for item in items))
    batch: dict[str, Tensor] = {
        "tokens": torch.zeros(B, T, dtype=torch.int64),
        "mask": torch.zeros(B, T, dtype=torch.bool),
        "features": torch.zeros(B, config.image_width),
        "scene": torch.zeros(B, len(ENVIRONMENTS)),
        "has_photo": torch.zeros(B, dtype=torch.bool),
        "has_view": torch.zeros(B, dtype=torch.bool),
        "marks": torch.zeros(B, M, dtype=torch.int64),
        "roles": torch.full((B, M), IGNORED),
        "subset": torch.full((B,), IGNORED),
        "primary": torch.full((B,), IGNORED),
        "environment": torch.full((B,), IGNORED),
        "actions": torch.zeros(B, len(ACTIONS)),
        "flags": torch.zeros(B, len(FLAGS)),
        "team": torch.zeros(B),
        "has_needs": torch.zeros(B),
    }
    for i, item in enumerate(items):
        sample, reading = item.sample, item.reading
        batch["tokens"][i, : len(reading.tokens)] = torch.tensor(reading.tokens)
        batch["mask"][i, : len(reading.tokens)] = True
        if item.photo is not None:
            assert photos is not None
            batch["features"][i] = photos.features_PC[item.photo]
            batch["scene"][i] = photos.scenes_PE[item.photo]
            batch["has_view"][i] = rng.random() >= drop_view
        elif item.scene is not None:
            batch["scene"][i] = torch.tensor(simulated_scene(item.scene, rng))
        batch["has_photo"][i] = item.photo is not None or item.scene is not None
        # A photo that merely goes along must not spare the reader to find the place in the words.
        known_place = batch["has_photo"][i] and sample.photo_environment is None
        for key in ("subset", "primary", *(() if known_place else ("environment",))):
            if (value := getattr(sample, key)) is not None:
                batch[key][i] = value
        if sample.actions is not None and sample.flags is not None:
            batch["actions"][i, list(sample.actions)] = 1.0
            batch["flags"][i, list(sample.flags)] = 1.0
            batch["team"][i] = float(bool(sample.team))
            batch["has_needs"][i] = 1.0
        for m, (mark, mention) in enumerate(zip(reading.marks, reading.mentions, strict=True)):
            batch["marks"][i, m] = mark
            if sample.limits is not None:
                batch["roles"][i, m] = role_of(mention, sample.limits)
    return batch


def encode(network: EmberNetwork, batch: dict[str, Tensor]) -> Encoded:
    """Return what the reader makes of a batch."""
    inputs = ("tokens", "mask", "features", "scene", "has_photo", "has_view")
    return network.encode(*(batch[name] for name in inputs))


def forward(network: EmberNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return all logits of a batch, `roles` included."""
    return logits_of(network, encode(network, batch), batch)


def logits_of(
    network: EmberNetwork, encoded: Encoded, batch: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return all logits from what the reader made of a batch."""
    return {**network.heads(encoded.pooled_BD), "roles": network.roles(encoded, batch["marks"])}


def loss_of(logits: dict[str, Tensor], batch: dict[str, Tensor], s: Settings) -> Tensor:
    """Return the weighted sum of the losses of a batch."""

    def choice(name: str, target: str, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(
            logits[name].float(), batch[target], ignore_index=IGNORED, label_smoothing=smoothing
        )

    def several(name: str) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(
            logits[name].float(), batch[name], reduction="none"
        )
        loss = loss.flatten(1).mean(1) if loss.dim() > 1 else loss
        return (loss * batch["has_needs"]).sum() / batch["has_needs"].sum().clamp(min=1)

    total = choice("subsets", "subset", s.set_smoothing)
    total = total + s.primary_weight * choice("primary", "primary")
    total = total + s.environment_weight * choice("environment", "environment")
    needs = 3 * several("actions") + 3 * several("flags") + several("team")
    total = total + s.needs_weight * needs
    if (batch["roles"] != IGNORED).any():
        roles = F.cross_entropy(
            logits["roles"].float().flatten(0, 1), batch["roles"].flatten(), ignore_index=IGNORED
        )
        total = total + s.roles_weight * roles
    return total


def contrast_loss(
    network: EmberNetwork, photos: Photos, tokenizer: Tokenizer, rng: random.Random, size: int = 24
) -> Tensor:
    """Return the symmetric InfoNCE loss of `size` captioned photos and their captions (CLIP,
    2021)."""
    rows = rng.sample(sorted(photos.captions), size)
    readings = [read_task(rng.choice(photos.captions[row]), tokenizer, 48) for row in rows]
    items = [Item(BLANK, reading) for reading in readings]
    batch = collate(items, None, network.config, rng)
    encoded = encode(network, batch)
    seen = F.normalize(network.image.norm(network.image.view(photos.features_PC[rows])), dim=-1)
    read = F.normalize(encoded.pooled_BD.float(), dim=-1)
    logits = seen.float() @ read.T / 0.07
    target = torch.arange(size)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


BLANK = Sample("", None, None, None, None, None, None, None, None)


def batches(items: Sequence[Item], size: int, rng: random.Random) -> Iterator[list[Item]]:
    """Yield batches of similar lengths, in random order."""
    chunks = []
    for i in range(0, len(items), size * 32):
        chunk = sorted(items[i : i + size * 32], key=lambda item: len(item.reading.tokens))
        chunks += [chunk[j : j + size] for j in range(0, len(chunk), size)]
    rng.shuffle(chunks)
    yield from chunks


def held_out_items(
    split: str, tokenizer: Tokenizer, photos: Photos | None, max_tokens: int
) -> dict[str, list[Item]]:
    """Return the fixed evaluation items: `requests` as they are, `photo` requests with photos of
    the split.

    Each photo request meets one photo for each of its environments that has photos.
    """
    requests = [
        Item(sample, read_task(sample.task, tokenizer, max_tokens))
        for sample in base_samples(split)
    ]
    rng = random.Random(f"{split} photos")
    pictures = []
    for row in load("photo_requests", split):
        for place in row["by_environment"]:
            found = photos.by_environment.get((place, split), []) if photos else []
            if found:
                sample = from_photo_request(row, place, None)
                reading = read_task(sample.task, tokenizer, max_tokens)
                pictures.append(Item(sample, reading, rng.choice(found)))
    return {"requests": requests, "photo": pictures}


@torch.no_grad()
def predict(
    network: EmberNetwork, items: Sequence[Item], photos: Photos | None
) -> dict[str, Tensor]:
    """Return the logits of all items in order (roles left out)."""
    network.eval()
    order = sorted(range(len(items)), key=lambda i: len(items[i].reading.tokens))
    found: dict[str, list[Tensor]] = defaultdict(list)
    rng = random.Random(0)
    for i in range(0, len(order), 64):
        batch = collate([items[j] for j in order[i : i + 64]], photos, network.config, rng)
        with autocast():
            logits = forward(network, batch)
        for name, value in logits.items():
            if name != "roles":
                found[name].append(value.float())
    back = torch.tensor(sorted(range(len(order)), key=lambda j: order[j]))
    return {name: torch.cat(values)[back] for name, values in found.items()}


def accuracy(logits: dict[str, Tensor], items: Sequence[Item]) -> dict[str, float]:
    """Return exact set, top-1 in set, No Robot recall and precision, and environment accuracy."""
    truth = torch.tensor([item.sample.subset for item in items])
    place = torch.tensor([item.sample.environment for item in items])
    p_S = logits["subsets"].softmax(-1)
    best = p_S.argmax(-1)
    first = logits["primary"].argmax(-1)
    inside = torch.where(first == 5, truth == 0, (truth >> first.clamp(max=4)) & 1 == 1)
    none_right = ((best == 0) & (truth == 0)).sum()
    return {
        "exact": (best == truth).float().mean().item(),
        "top1": inside.float().mean().item(),
        "none_recall": (none_right / (truth == 0).sum().clamp(min=1)).item(),
        "none_precision": (none_right / (best == 0).sum().clamp(min=1)).item(),
        "environment": (logits["environment"].argmax(-1) == place).float().mean().item(),
    }


def start_network(encoder: Path | None, config: EmberConfig, vision: Path | None) -> EmberNetwork:
    """Return a network with the distilled encoder's and the vision run's weights loaded."""
    network = EmberNetwork(config)
    if encoder is not None:
        network.text.load_state_dict(load_file(encoder))
    if vision is not None and (vision / "vision.safetensors").is_file():
        weights = load_file(vision / "vision.safetensors")
        for part, module in (
            ("vision.", network.vision),
            ("scene.", network.image.scene),
        ):
            found = {k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)}
            module.load_state_dict(found)
    torch.nn.init.normal_(network.image.scene_table.weight, std=0.3)
    torch.nn.init.normal_(network.image.no_photo, std=0.3)
    return network


# What a teacher adds to the loss: batch, what the reader made of it, logits -> loss.
ExtraLoss = Callable[[dict[str, Tensor], Encoded, dict[str, Tensor]], Tensor]


def train(
    network: EmberNetwork,
    mixture: Mixture,
    settings: Settings,
    out: Path,
    photos: Photos | None,
    *,
    extra_loss: ExtraLoss | None = None,
) -> EmberNetwork:
    """Train, writing the averaged weights and a log line after each epoch; resume if `out` holds a
    run."""
    s = settings
    rng = random.Random(s.seed)
    torch.manual_seed(s.seed)
    for part in (network.vision, network.image.scene, network.decoder, network.ngrams):
        part.requires_grad_(False)
    fresh = [*network.heads.parameters(), *network.image.parameters()]
    fresh_ids = {id(p) for p in fresh}
    rest = [p for p in network.text.parameters() if id(p) not in fresh_ids]
    groups = [
        {"params": rest, "lr": s.rate},
        {"params": [p for p in fresh if p.requires_grad], "lr": s.head_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=s.weight_decay, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in trained.items()}
    out.mkdir(parents=True, exist_ok=True)
    state_file = out / "resume.pt"
    begin_epoch, step = 0, 0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
        begin_epoch, step = state["epoch"], state["step"]
    validation = held_out_items("validation", mixture.tokenizer, photos, s.max_tokens)
    total_steps = s.epochs * math.ceil(len(mixture.epoch(random.Random(0))) / s.batch)
    begun = time.monotonic()
    for epoch in range(begin_epoch, s.epochs):
        rng.seed(f"{s.seed} {epoch}")
        network.train()
        losses = []
        bar = tqdm(
            list(batches(mixture.epoch(rng), s.batch, rng)),
            desc=f"epoch {epoch + 1}",
            mininterval=15,
        )
        for items in bar:
            step += 1
            share = step / total_steps
            factor = min(share / s.warmup, max(0.0, (1 - share) / (1 - s.warmup)))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * max(factor, 0.01)
            batch = collate(items, photos, network.config, rng, s.drop_view)
            with autocast():
                encoded = encode(network, batch)
                logits = logits_of(network, encoded, batch)
                loss = loss_of(logits, batch, s)
                if extra_loss is not None:
                    loss = loss + extra_loss(batch, encoded, logits)
                if photos and photos.captions and s.contrast_weight and step % 4 == 0:
                    loss = loss + 4 * s.contrast_weight * contrast_loss(
                        network, photos, mixture.tokenizer, rng
                    )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
            optimizer.step()
            keep = min(s.ema, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.values()), list(trained.values()), 1 - keep)
            losses.append(loss.item())
        held = {name: p.detach().clone() for name, p in trained.items()}
        network.load_state_dict(average, strict=False)
        scores = {
            name: {
                k: round(v, 4) for k, v in accuracy(predict(network, items, photos), items).items()
            }
            for name, items in validation.items()
            if items
        }
        save_network(network, out / "network.safetensors")
        network.load_state_dict(held, strict=False)
        torch.save(
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "epoch": epoch + 1,
                "step": step,
            },
            state_file,
        )
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "loss": round(sum(losses) / len(losses), 4),
            "minutes": round((time.monotonic() - begun) / 60, 2),
            **scores,
        }
        with (out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))
    network.load_state_dict(average, strict=False)
    return network


def main() -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vision", type=Path, help="folder of a vision run; none: no photos")
    parser.add_argument("--shared", type=Path, help="folder that holds photos/")
    parser.add_argument("--encoder", type=Path, help="distilled encoder; none: random start")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    torch.set_num_threads(options["threads"])
    settings = Settings(**{name: options[name] for name in asdict(Settings())})
    tokenizer = Tokenizer.from_file(options["tokenizer"])
    photos = Photos.load(options["vision"], options["shared"]) if options["vision"] else None
    torch.manual_seed(settings.start_seed)
    network = start_network(
        options["encoder"], EmberConfig.uncompressed(len(tokenizer)), options["vision"]
    )
    train(network, Mixture(settings, tokenizer, photos), settings, options["out"], photos)


if __name__ == "__main__":
    main()
