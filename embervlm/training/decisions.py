"""What a decision is learnt from: requests, other photos beside them in each epoch, and batches.

`Mixture` draws an epoch, `collate` makes tensors of it, `held_out_items` and `accuracy` look
at validation. A photo enters through features that `training/vision.py` computed once.

Axes: B batch, T tokens, M mentions, S subsets, P photos, E environments, C image channels.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embervlm.data.photos import load_captions, load_photos
from embervlm.data.sample import (
    Sample,
    from_photo_request,
    from_plan,
    from_scenario,
    role_of,
)
from embervlm.data.scenarios import DATA_DIR, is_addition, load_own
from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.models.configuration import EmberConfig
from embervlm.models.modeling import EmberNetwork, Encoded
from embervlm.models.precision import autocast
from embervlm.prompts import Reading, read_task
from embervlm.scenario import FLAGS
from embervlm.tokenizer import Tokenizer
from embervlm.training.redrawing import mentions_of, redrawn, times, varied

IGNORED = -100


@dataclass(frozen=True)
class Settings:
    """How an epoch is drawn; shares are probabilities.

    `authors_again` is how often an epoch reads the first authors' requests once more: what held-out
    requests are like, theirs say best. `two_views` is the share of the photos that come as another
    view shows them too; the two are to be decided alike. `redraw` is how often the requests with
    numbers come once more with other numbers, for the roles alone.
    """

    seed: int = 1
    max_tokens: int = 128
    scenarios: str = ""  # folder of one's own requests; without it, the repository's
    plans: bool = True  # written plans too, as requests for their team
    # photos
    attach_photo: float = 0.25
    drop_view: float = 0.4
    simulate_scene: float = 0.3
    places_per_photo_request: int = 3
    photos_alone: int = 400
    two_views: float = 0.0
    # words
    authors_again: float = 0.5
    redraw: float = 0.25
    drop_digits: float = 0.3
    drop_numbers: float = 0.0
    vary: float = 0.0
    lose_words: float = 0.0
    typo: float = 0.15


@dataclass(frozen=True)
class Photos:
    """The photo set, computed once: features (P, C) or those of a grid (P, G x G, C), place
    probabilities (P, E), rows by place and split."""

    features_PC: Tensor
    scenes_PE: Tensor
    by_environment: dict[tuple[str, str], list[int]]
    captions: dict[int, tuple[str, ...]]
    # Of a row that has other views of its photo: those; see `photo_features.py`.
    other_views: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, shared: Path, grid: int = 0) -> Photos:
        """Read `features.npz` of a vision run, the table of photos, and the captions.

        Other views of training photos (`photo_features.py`) are rows of their own. With `grid` the
        features are those of so many places a side, which `photo_grid` wrote, without other views.
        """
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
        features, logits = content["features"].astype(np.float32), content["environment_logits"]
        views_of: dict[int, list[int]] = defaultdict(list)
        if grid:
            # Half precision: a batch's features become floats when it is made.
            features = np.load(folder / f"grid-{grid}.npy", allow_pickle=False)
        elif "view_of" in content:
            for row, whole in enumerate(content["view_of"].tolist(), len(features)):
                views_of[whole].append(row)
            for found in by_environment.values():
                found += [view for row in found for view in views_of[row]]
            features = np.concatenate([features, content["view_features"].astype(np.float32)])
            logits = np.concatenate([logits, content["view_logits"]])
        return cls(
            torch.from_numpy(features),
            torch.from_numpy(logits.astype(np.float32)).softmax(-1),
            dict(by_environment),
            captions,
            {
                row: [other for other in family if other != row]
                for whole, views in views_of.items()
                for family in [[whole, *views]]
                for row in family
            },
        )


@dataclass(frozen=True)
class Item:
    """A sample ready for a batch: its reading, and the photo row or simulated scene that goes with
    it. `roles` are those of its numbers, where they are known without its limits."""

    sample: Sample
    reading: Reading
    photo: int | None = None
    scene: str | None = None
    roles: tuple[int, ...] | None = None


def base_samples(split: str, scenarios: str = "", plans: bool = True) -> list[Sample]:
    """Return the samples of the requests of a split, and of its plans; see `load_own`."""
    return [
        *(from_scenario(row) for row in load_own("scenarios", split, scenarios)),
        *(from_plan(row) for row in (load_own("plans", split, scenarios) if plans else ())),
    ]


class Mixture:
    """Draws the items of an epoch: requests, photo requests with photos, photos alone."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer, photos: Photos | None) -> None:
        self.settings, self.tokenizer, self.photos = settings, tokenizer, photos
        self.requests = base_samples("train", settings.scenarios, settings.plans)
        self.with_numbers = [sample for sample in self.requests if mentions_of(sample)]
        self.photo_rows = load_own("photo_requests", "train", settings.scenarios)
        if not self.requests and not self.photo_rows:
            raise ValueError(f"{settings.scenarios or DATA_DIR} has no row of the split train.")
        # Of the requests as they stand, which each epoch reads again.
        self.readings: dict[str | None, Reading] = {}
        self.digits = {tokenizer.encode(f"{space}{d}")[0] for d in range(10) for space in ("", " ")}

    def epoch(self, rng: random.Random) -> list[Item]:
        """Return the shuffled items of one epoch."""
        s, items = self.settings, []
        authored = [sample for sample in self.requests if not is_addition(sample.id)]
        # As many in every epoch, so that the number of steps is known.
        again = times(s.authors_again, authored, rng)
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
        for _ in range(s.photos_alone if self.photo_rows else 0):
            row = rng.choice(self.photo_rows)
            place = rng.choice(list(row["by_environment"]))
            sample = replace(
                from_photo_request(row, place, None), task=None, actions=None, flags=None, limits={}
            )
            items.append(self._item(sample, *self._photo(place, rng, always=True), rng))
        items += [self._redrawn(sample, rng) for sample in times(s.redraw, self.with_numbers, rng)]
        rng.shuffle(items)
        return items

    def _redrawn(self, sample: Sample, rng: random.Random) -> Item:
        known = sample.task or "", [role for _, role in mentions_of(sample)]
        task, roles = redrawn(sample, rng) or known
        reading = read_task(task, self.tokenizer, self.settings.max_tokens)
        # A long request loses words, and with them numbers.
        kept = tuple(roles) if len(roles) == len(reading.marks) else None
        return Item(replace(BLANK, task=task), reading, roles=kept)

    def _read(self, task: str | None, rng: random.Random) -> Reading:
        """Read a request, some of them without their numbers."""
        share = self.settings.drop_numbers
        numbers = not (share and rng.random() < share)
        return read_task(task, self.tokenizer, self.settings.max_tokens, numbers=numbers)

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
        if task and self.settings.lose_words and rng.random() < self.settings.lose_words:
            return Item(sample, self._read(with_words_lost(task, rng), rng), photo, scene)
        if (
            self.settings.vary
            and rng.random() < self.settings.vary
            and (drawn := varied(sample, rng) if sample.limits is not None else None)
        ):
            reading = self._read(drawn[0], rng)
            kept = tuple(drawn[1]) if len(drawn[1]) == len(reading.marks) else None
            return Item(sample, reading, photo, scene, kept)
        if task and rng.random() < self.settings.typo:
            reading = self._read(with_typo(task, rng), rng)
        elif self.settings.drop_numbers:
            reading = self._read(task, rng)
        else:
            if task not in self.readings:
                self.readings[task] = self._read(task, rng)
            reading = self.readings[task]
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


# Left out, these turn a request around.
_KEPT_WORDS = frozenset(
    "not no never without only nobody nothing none except but if unless until than out off up down "
    "under above below behind inside outside over too more less".split()
)


def with_words_lost(task: str, rng: random.Random) -> str:
    """Return the text with about a tenth of its words left out: none with a digit, none beside one,
    and none that turns a sentence around."""
    words = task.split()
    has_digit = [any(map(str.isdigit, word)) for word in words]
    kept = []
    for i, word in enumerate(words):
        is_plain = word.strip(".,;:!?\"'()").lower() not in _KEPT_WORDS and "n't" not in word
        if any(has_digit[max(0, i - 1) : i + 2]) or not is_plain or rng.random() >= 0.1:
            kept.append(word)
    return " ".join(kept or words)


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


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return tokens (B, T) padded with 0 and their mask (B, T), True where there is a token."""
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return tokens, mask


def collate(
    items: Sequence[Item],
    photos: Photos | None,
    config: EmberConfig,
    rng: random.Random,
    drop_view: float = 0.0,
    two_views: float = 0.0,
) -> dict[str, Tensor]:
    """Turn items into tensors; absent targets are IGNORED or masked by a weight of 0.

    With `two_views`, that share of the photos comes a second time as another view shows it:
    `other_features` and `other_scene` of the rows `other_rows`.
    """
    B = len(items)
    T = max(len(item.reading.tokens) for item in items)
    batch: dict[str, Tensor] = {
        "tokens": torch.zeros(B, T, dtype=torch.int64),
        "mask": torch.zeros(B, T, dtype=torch.bool),
        "features": torch.zeros(B, *config.features_shape),
        "scene": torch.zeros(B, len(ENVIRONMENTS)),
        "has_photo": torch.zeros(B, dtype=torch.bool),
        "has_view": torch.zeros(B, dtype=torch.bool),
    }
    for i, item in enumerate(items):
        reading = item.reading
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
    if two_views and photos is not None:
        batch |= _other_views(items, photos, rng, two_views)
    return {**batch, **targets_of(items, batch["has_photo"].tolist())}


def _other_views(
    items: Sequence[Item], photos: Photos, rng: random.Random, share: float
) -> dict[str, Tensor]:
    others = {
        i: rng.choice(photos.other_views[item.photo])
        for i, item in enumerate(items)
        if item.photo in photos.other_views and rng.random() < share
    }
    seen = list(others.values())
    return {
        "other_rows": torch.tensor(list(others), dtype=torch.int64),
        "other_features": photos.features_PC[seen].float(),
        "other_scene": photos.scenes_PE[seen],
    }


def targets_of(items: Sequence[Item], has_photo: Sequence[bool]) -> dict[str, Tensor]:
    """Return what is to be said of items; absent targets are IGNORED or masked by a weight of 0."""
    B = len(items)
    M = max(1, *(len(item.reading.marks) for item in items))
    batch: dict[str, Tensor] = {
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
        # A photo that merely goes along must not spare the reader to find the place in the words.
        known_place = has_photo[i] and sample.photo_environment is None
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
            if item.roles is not None:
                batch["roles"][i, m] = item.roles[m]
            elif sample.limits is not None:
                batch["roles"][i, m] = role_of(mention, sample.limits)
    return batch


def encode(network: EmberNetwork, batch: dict[str, Tensor]) -> Encoded:
    """Return what the reader makes of a batch; one that knows no places gets their mean."""
    features = batch["features"]
    if features.dim() > 2 and not network.config.image_grid:
        features = features.mean(1)
    inputs = ("scene", "has_photo", "has_view")
    return network.encode(
        batch["tokens"], batch["mask"], features, *(batch[name] for name in inputs)
    )


def forward(network: EmberNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return all logits of a batch, `roles` included."""
    return logits_of(network, encode(network, batch), batch)


def logits_of(
    network: EmberNetwork, encoded: Encoded, batch: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return all logits from what the reader made of a batch."""
    logits = network.heads(encoded.pooled_BD, encoded.thoughts_BKD)
    return {**logits, "roles": network.roles(encoded, batch["marks"])}


BLANK = Sample("", None, None, None, None, None, None, None, None)


def held_out_items(
    split: str,
    tokenizer: Tokenizer,
    photos: Photos | None,
    max_tokens: int,
    scenarios: str = "",
) -> dict[str, list[Item]]:
    """Return the fixed evaluation items: `requests` as they are, `photo` requests with photos of
    the split.

    Each photo request meets one photo for each of its environments that has photos.
    """
    requests = [
        Item(sample, read_task(sample.task, tokenizer, max_tokens))
        for sample in base_samples(split, scenarios)
    ]
    rng = random.Random(f"{split} photos")
    pictures = []
    for row in load_own("photo_requests", split, scenarios):
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
    device = next(network.parameters()).device
    order = sorted(range(len(items)), key=lambda i: len(items[i].reading.tokens))
    found: dict[str, list[Tensor]] = defaultdict(list)
    rng = random.Random(0)
    for i in range(0, len(order), 64):
        batch = collate([items[j] for j in order[i : i + 64]], photos, network.config, rng)
        batch = {name: value.to(device) for name, value in batch.items()}
        with autocast():
            logits = forward(network, batch)
        for name, value in logits.items():
            if name != "roles":
                found[name].append(value.float().cpu())
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
