"""What the stages of `ember-37m` learn from: the rows of `stage_data.py` and `public_data.py`, with
photos as pixels, and what is read and what is written in one row of tokens.

    reading: image tokens, request | tokens: the first `given` are told, the rest is learnt

As there, what an epoch holds depends on the seed and its number alone, and what a batch draws on
its places alone.

Axes: B batch, T tokens, P photos, S side.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from embervlm.backends.base import MAX_TASK_TOKENS
from embervlm.data.sample import Sample, from_photo_request
from embervlm.data.scenarios import DATA_DIR, Row, is_addition, load_own
from embervlm.fleet import ENVIRONMENTS
from embervlm.models.configuration import PrefixConfig
from embervlm.models.ember_37m import Ember37M
from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer
from embervlm.models.prefix_formats import caption, exchange, read_request, reasons
from embervlm.prompts import Reading
from embervlm.training.decisions import (
    BLANK,
    Item,
    Settings,
    base_samples,
    pad,
    targets_of,
    with_typo,
)
from embervlm.training.prefix_photos import PhotoFolder
from embervlm.training.prefix_stages import decided, image_tokens
from embervlm.training.redrawing import mentions_of, redrawn, times
from embervlm.training.stage_data import MAX_WRITTEN, Said, Written, reasoned, reasoning_of
from embervlm.training.stages import Batch
from embervlm.training.teacher_scores import Scores, score_batch
from embervlm.training.top_logits import as_written, top_batch
from embervlm.training.vision import Pixels

_EVALUATED = 32  # requests at a time


def collate(items: Sequence[Written], pictures: Sequence[Pixels | None]) -> Batch:
    """Turn items and their photos, uint8 (S, S, 3), into tensors.

    Of B rows of tokens `request` is True where they are read and `learnt` 1 where they are to be
    written; `photos` (P, S, S, 3) belong to `photo_rows`. The rest is `decisions.targets_of`.
    """
    tokens_BT, mask_BT = pad([one.item.reading.tokens + one.tokens for one in items])
    request_BT, learnt_BT = torch.zeros_like(mask_BT), torch.zeros(mask_BT.shape)
    for i, one in enumerate(items):
        read = len(one.item.reading.tokens)
        request_BT[i, :read] = True
        learnt_BT[i, read + one.given : read + len(one.tokens)] = 1.0
    seen = [(i, picture) for i, picture in enumerate(pictures) if picture is not None]
    batch = {
        "tokens": tokens_BT, "mask": mask_BT, "request": request_BT, "learnt": learnt_BT,
        **targets_of([one.item for one in items], [p is not None for p in pictures]),
    }  # fmt: skip
    if seen:
        batch["photos"] = torch.from_numpy(np.stack([picture for _, picture in seen]))
        batch["photo_rows"] = torch.tensor([i for i, _ in seen])
    return batch


@dataclass(frozen=True)
class PrefixForm:
    """How captions, or questions and answers, become items; see `public_data.Form`."""

    config: PrefixConfig
    tokenizer: Gpt2Tokenizer
    captions: bool

    @property
    def image_size(self) -> int:
        """The side of a photo, in pixels."""
        return self.config.image_size

    def item(
        self,
        question: str | None,
        answer: str,
        *,
        has_picture: bool,
        logits: Mapping[str, Any] | None = None,
    ) -> Written:
        """Return an item; without a question it is a caption. See `public_data.Form.item`."""
        count, top = self.config.image_tokens if has_picture else 0, None
        if question is None:
            told, learnt = caption(answer, self.tokenizer, MAX_WRITTEN, count)
        else:
            told, learnt = exchange(question, answer, self.tokenizer, MAX_WRITTEN, count)
        if logits is not None:
            specials = set(self.tokenizer.specials.values())
            end, most = learnt[-1], MAX_WRITTEN - 1
            words, top = as_written(logits, answer, self.tokenizer.decode, specials, end, most)
            learnt = (*words, end)
        return Written(Item(BLANK, Reading(told)), learnt, 0, top)

    def top(self, items: Sequence[Written], batch: Batch) -> Batch:
        """Return the teacher's logits of some items; see `public_data.Form.top`."""
        begins = [len(one.item.reading.tokens) + one.given for one in items]
        return top_batch([one.top for one in items], begins, batch["tokens"].shape[1])

    def batch(
        self, items: Sequence[Written], pictures: Sequence[Pixels | None], rng: random.Random
    ) -> Batch:
        """Return the tensors of `collate`; for captions also the words alone, for the contrast."""
        batch = collate(items, pictures)
        if self.captions:
            words = pad([one.tokens[:-1] for one in items])
            batch["caption_tokens"], batch["caption_mask"] = words
        return batch


class PrefixAnswers:
    """`align`, `instruct`: what is said about our own photos."""

    def __init__(
        self, form: PrefixForm, photos: PhotoFolder, said: Sequence[Said], seed: int
    ) -> None:
        """Take what is said.

        Raises:
            ValueError: nothing is.
        """
        if not said:
            raise ValueError("There is nothing to learn from: no captions, or no answers.")
        self.form, self.photos, self.seed = form, photos, seed
        self._all = [
            replace(found, item=replace(found.item, photo=one.photo))
            for one in said
            for found in [form.item(one.question, one.answer, has_picture=one.photo is not None)]
        ]

    def items(self, epoch: int) -> Sequence[Written]:
        """Return all of them in the epoch's order."""
        return random.Random(f"{self.seed} {epoch}").sample(self._all, len(self._all))

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the tensors of some."""
        size = self.form.image_size
        return self.form.batch(items, pictures_of(items, self.photos, size, None), rng)


class PrefixDecisions:
    """`select`: requests, some with a photo of their place; photo requests; photos alone.

    Drawn as `decisions.Mixture` draws, but for what needs a reader of features: a place of which
    there is no photo is not simulated, so photo requests are asked of places with photos alone. A
    split that is held out is a fixed list: its requests as they are, and its photo requests with
    one photo for each place. `scores` are a teacher's (`teacher_scores.py`).
    """

    def __init__(
        self,
        config: PrefixConfig,
        tokenizer: Gpt2Tokenizer,
        photos: PhotoFolder | None,
        settings: Settings,
        held_out: str | None = None,
        scores: Scores | None = None,
    ) -> None:
        self.config, self.tokenizer, self.photos = config, tokenizer, photos
        self.scores = scores
        self.settings, self.held_out = settings, held_out
        split = held_out or "train"
        self._places = {place: rows for (place, of), rows in _rows(photos).items() if of == split}
        self._requests = base_samples(split, settings.scenarios)
        self._with_numbers = [sample for sample in self._requests if mentions_of(sample)]
        self._photo_requests = [
            (row, places)
            for row in load_own("photo_requests", split, settings.scenarios)
            if (places := [place for place in row["by_environment"] if place in self._places])
        ]
        if not held_out and not self._requests and not self._photo_requests:
            raise ValueError(f"{settings.scenarios or DATA_DIR} has no row of the split train.")
        self._fixed = self._held_out_items() if held_out else []

    def items(self, epoch: int) -> Sequence[Written]:
        """Return the epoch's items in its order, as many in each."""
        if self.held_out:
            return self._fixed
        s, rng = self.settings, random.Random(f"{self.settings.seed} {epoch}")
        authored = [sample for sample in self._requests if not is_addition(sample.id)]
        again = rng.sample(authored, round(s.authors_again * len(authored)))
        items = []
        for sample in (*self._requests, *again):
            assert sample.environment is not None
            place = ENVIRONMENTS[sample.environment]
            attached = place in self._places and rng.random() < s.attach_photo
            items.append(self._item(sample, self._photo(place, rng) if attached else None, rng))
        for row, places in self._photo_requests:
            for place in rng.sample(places, min(s.places_per_photo_request, len(places))):
                sample = from_photo_request(row, place, None)
                items.append(self._item(sample, self._photo(place, rng), rng))
        for _ in range(s.photos_alone if self._photo_requests else 0):
            row, places = rng.choice(self._photo_requests)
            place = rng.choice(places)
            sample = replace(
                from_photo_request(row, place, None), task=None, actions=None, flags=None, limits={}
            )
            items.append(self._item(sample, self._photo(place, rng), rng))
        items += [self._redrawn(sample, rng) for sample in times(s.redraw, self._with_numbers, rng)]
        rng.shuffle(items)
        return items

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the tensors of some; in training each photo is another view."""
        views = None if self.held_out else np.random.default_rng(rng.getrandbits(64))
        batch = collate(items, pictures_of(items, self.photos, self.config.image_size, views))
        if self.scores is not None:
            batch |= score_batch([one.item.sample for one in items], self.scores)
        return batch

    def groups(self) -> dict[str, list[Item]]:
        """Return the fixed items: `requests`, and those with a photo under `photo`."""
        items = [one.item for one in self._fixed]
        return {
            "requests": [item for item in items if item.photo is None],
            "photo": [item for item in items if item.photo is not None],
        }

    @torch.no_grad()
    def predict(self, network: Ember37M, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Return the logits of set, first robot and place of some items."""
        device = next(network.parameters()).device
        found = []
        for i in range(0, len(items), _EVALUATED):
            part = [Written(item) for item in items[i : i + _EVALUATED]]
            batch = self.batch(part, random.Random(0))
            batch = {name: value.to(device) for name, value in batch.items()}
            logits, _ = decided(network, batch, image_tokens(network, batch))
            found.append({name: value.float().cpu() for name, value in logits.items()})
        names = ("subsets", "primary", "environment")
        return {name: torch.cat([logits[name] for logits in found]) for name in names}

    def _held_out_items(self) -> list[Written]:
        rng = random.Random(f"{self.held_out} photos")
        found = [self._read(sample, sample.task, None) for sample in self._requests]
        for row, places in self._photo_requests:
            for place in places:
                sample = from_photo_request(row, place, None)
                found.append(self._read(sample, sample.task, self._photo(place, rng)))
        return found

    def _photo(self, place: str, rng: random.Random) -> int:
        return rng.choice(self._places[place])

    def _item(self, sample: Sample, photo: int | None, rng: random.Random) -> Written:
        task = sample.task
        if task and rng.random() < self.settings.typo:
            task = with_typo(task, rng)
        return self._read(sample, task, photo)

    def _redrawn(self, sample: Sample, rng: random.Random) -> Written:
        known = sample.task or "", [role for _, role in mentions_of(sample)]
        task, roles = redrawn(sample, rng) or known
        found = self._read(replace(BLANK, task=task), task, None)
        # A long request loses words, and with them numbers.
        kept = tuple(roles) if len(roles) == len(found.item.reading.marks) else None
        return replace(found, item=replace(found.item, roles=kept))

    def _read(self, sample: Sample, task: str | None, photo: int | None) -> Written:
        count = 0 if photo is None else self.config.image_tokens
        reading = read_request(task, self.tokenizer, MAX_TASK_TOKENS, count)
        return Written(Item(sample, reading, photo))


class PrefixReasons:
    """`reason`: the requests of a split whose authors wrote why, with decision and reasons."""

    def __init__(
        self, tokenizer: Gpt2Tokenizer, seed: int, split: str = "train", scenarios: str = ""
    ) -> None:
        self.seed = seed
        self._all = [
            reasons_item(row, sample, tokenizer) for row, sample in reasoned(split, scenarios)
        ]

    def items(self, epoch: int) -> Sequence[Written]:
        """Return all of them in the epoch's order."""
        return random.Random(f"{self.seed} {epoch}").sample(self._all, len(self._all))

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the tensors of some."""
        return collate(items, [None] * len(items))


def reasons_item(row: Row, sample: Sample, tokenizer: Gpt2Tokenizer) -> Written:
    """Return a request, and behind it the decision, which is told, and its reasons."""
    told, learnt = reasons(reasoning_of(row), tokenizer)
    reading = read_request(sample.task, tokenizer, MAX_TASK_TOKENS, 0)
    return Written(Item(sample, reading), (*told, *learnt)[:MAX_WRITTEN], len(told))


def pictures_of(
    items: Sequence[Written], photos: PhotoFolder | None, size: int, views: Any
) -> list[Pixels | None]:
    """Return the photo of each item, None where it has none; see `PhotoFolder.picture`."""
    found: list[Pixels | None] = []
    for one in items:
        if one.item.photo is None:
            found.append(None)
        else:
            assert photos is not None
            found.append(photos.picture(one.item.photo, size, views))
    return found


def _rows(photos: PhotoFolder | None) -> dict[tuple[str, str], list[int]]:
    return photos.by_environment if photos else {}
