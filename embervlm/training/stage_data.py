"""The examples of each stage, drawn anew for every epoch, and the batches that are made of them.

What an epoch holds, its order and all that is drawn on the way depend on the seed, the number of
the epoch and the place in it alone: not on how many processes or workers read it, nor on whether a
run was broken off. `EpochBatches` yields places (epoch, index); a data set answers with the item.

Axes: B batch, T tokens, C image channels, E environments.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import torch

from embervlm.data.sample import Sample, from_plan, from_scenario
from embervlm.data.scenarios import Row, load_own
from embervlm.models.configuration import EmberConfig
from embervlm.prompts import (
    END,
    TASK,
    Reasoning,
    encode_marked,
    read_task,
    reasoning_prefix,
    write_reasoning,
)
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import (
    BLANK,
    Item,
    Mixture,
    Photos,
    Settings,
    collate,
    held_out_items,
    pad,
)
from embervlm.training.stages import Batch, Stage
from embervlm.training.teacher_scores import Scores, score_batch
from embervlm.training.top_logits import TopLogits, as_written

MAX_WRITTEN = 120
Place = tuple[int, int]
T = TypeVar("T")


class Epochs(Protocol):
    """What a stage learns from."""

    def __hash__(self) -> int:
        """Return the same for the same object."""

    def items(self, epoch: int) -> Sequence[Written]:
        """Return the items of an epoch, as many for each, in the order they are read in."""

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return tensors of some items; what is drawn comes from `rng`."""


@dataclass(frozen=True)
class Written:
    """An item of a decision, and what is written about it: the first `given` tokens are told, the
    rest is learnt. Nothing is written where `tokens` is empty. `top` holds the logits of a teacher
    before each token that is learnt."""

    item: Item
    tokens: tuple[int, ...] = ()
    given: int = 0
    top: TopLogits | None = None


class Decisions:
    """`select`: what `decisions.Mixture` draws; or a fixed list, to look at validation.

    `scores` are a teacher's of the requests that are drawn (`teacher_scores.py`).
    """

    def __init__(
        self,
        config: EmberConfig,
        tokenizer: Tokenizer,
        photos: Photos | None,
        settings: Settings,
        held_out: str | None = None,
        scores: Scores | None = None,
    ) -> None:
        self.config, self.tokenizer, self.photos, self.settings = (
            config, tokenizer, photos, settings,
        )  # fmt: skip
        self.scores = scores
        self._mixture = None if held_out else Mixture(settings, tokenizer, photos)
        if held_out:
            found = held_out_items(
                held_out, tokenizer, photos, settings.max_tokens, settings.scenarios
            )
            self._fixed = [Written(item) for items in found.values() for item in items]

    def items(self, epoch: int) -> Sequence[Written]:
        """Return the epoch's requests, photo requests with photos, and photos alone."""
        if self._mixture is None:
            return self._fixed
        return [Written(item) for item in self._mixture.epoch(_rng(self.settings.seed, epoch))]

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the tensors of `decisions.collate`, and a teacher's scores where it has some."""
        s = self.settings
        drop, two = (s.drop_view, s.two_views) if self._mixture else (0.0, 0.0)
        batch = collate([one.item for one in items], self.photos, self.config, rng, drop, two)
        if self.scores is not None:
            batch |= score_batch([one.item.sample for one in items], self.scores)
        return batch


class Reasons:
    """`reason`: the requests of a split whose authors wrote why, and their decision."""

    def __init__(
        self,
        config: EmberConfig,
        tokenizer: Tokenizer,
        seed: int,
        split: str = "train",
        scenarios: str = "",
    ) -> None:
        self.config, self.seed = config, seed
        self._all = []
        for row, sample in reasoned(split, scenarios):
            tokens = encode_marked(write_reasoning(reasoning_of(row)), tokenizer)
            told = len(reasoning_prefix(row["suited"], tokenizer))
            item = Item(sample, read_task(sample.task, tokenizer, 96))
            self._all.append(Written(item, tuple(tokens[:MAX_WRITTEN]), told))

    def items(self, epoch: int) -> Sequence[Written]:
        """Return all of them in the epoch's order."""
        return _shuffled(self._all, self.seed, epoch)

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the request's tensors, and those of what is written."""
        batch = collate([one.item for one in items], None, self.config, rng)
        return {**batch, **_written(items)}


def reasoned(split: str, scenarios: str = "") -> list[tuple[Row, Sample]]:
    """Return the requests and plans of a split that have reasons.

    Raises:
        ValueError: there are none, or see `load_own`.
    """
    forms = (("scenarios", from_scenario), ("plans", from_plan))
    rows = [(row, form(row)) for name, form in forms for row in load_own(name, split, scenarios)]
    found = [(row, sample) for row, sample in rows if "reasoning" in row]
    if not found:
        raise ValueError(f"No row of {scenarios or 'data'} has reasoning in the split {split}.")
    return found


def reasoning_of(row: Row) -> Reasoning:
    """Return the authors' reasoning of a request, in lower case as requests are read."""
    lines = {
        key: _uncapitalised(row["reasoning"][key]) for key in ("task", "environment", "decision")
    }
    return Reasoning(tuple(row["suited"]), **lines)


def _uncapitalised(line: str) -> str:
    """Return the line as it would stand inside a sentence: requests are read in lower case too."""
    return line[:1].lower() + line[1:] if line[1:2].islower() else line


class Captioned(Protocol):
    """Photos with captions, by their rows."""

    @property
    def captions(self) -> Mapping[int, Sequence[str]]:
        """The captions of the rows that have some."""


@dataclass(frozen=True)
class Said:
    """What is said about a photo (its row; None: without one). Captions answer no question."""

    question: str | None
    answer: str
    photo: int | None = None


class Answers:
    """`align` and `instruct`: captions, and answers to questions."""

    def __init__(
        self,
        config: EmberConfig,
        tokenizer: Tokenizer,
        photos: Photos | None,
        said: Sequence[Said],
        seed: int,
        *,
        captions: bool,
    ) -> None:
        if not said:
            raise ValueError("There is nothing to learn from: no captions, or no answers.")
        self.config, self.tokenizer, self.photos = config, tokenizer, photos
        self.seed, self.said, self.captions = seed, list(said), captions

    def items(self, epoch: int) -> Sequence[Written]:
        """Return all of them in the epoch's order."""
        return [self._item(one) for one in _shuffled(self.said, self.seed, epoch)]

    def _item(self, said: Said) -> Written:
        read = said.answer if self.captions else said.question
        found = said_item(self.tokenizer, read, said.answer)
        return replace(found, item=replace(found.item, photo=said.photo))

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the question's or caption's tensors, those of what is written, and for captions an
        empty request beside each photo."""
        batch = collate([one.item for one in items], self.photos, self.config, rng)
        return with_written(batch, items, self.tokenizer if self.captions else None)


def said_item(
    tokenizer: Tokenizer, read: str | None, answer: str, logits: Mapping[str, Any] | None = None
) -> Written:
    """Return an item that reads some words, or none, and writes an answer; with a teacher's logits
    in that teacher's tokens.

    Raises:
        ValueError: see `top_logits.as_written`.
    """
    begin, end = tokenizer.specials[TASK], tokenizer.specials[END]
    words, top = tuple(tokenizer.encode(" " + " ".join(answer.split()))[: MAX_WRITTEN - 2]), None
    if logits is not None:
        specials = set(tokenizer.specials.values())
        most = MAX_WRITTEN - 2
        words, top = as_written(logits, answer, tokenizer.decode, specials, end, most)
    item = Item(replace(BLANK, task=read), read_task(read, tokenizer, 96))
    return Written(item, (begin, *words, end), 1, top)


def with_written(batch: Batch, items: Sequence[Written], blank: Tokenizer | None) -> Batch:
    """Return the batch with what is written; given a tokenizer, with an empty request a row."""
    if blank is not None:
        empty = read_task(None, blank, 96).tokens
        batch["blank_tokens"], batch["blank_mask"] = pad([empty] * len(items))
    return {**batch, **_written(items)}


def captions_of(photos: Captioned) -> list[Said]:
    """Return the captions of the photos that have some."""
    return [
        Said(None, text, row) for row, texts in sorted(photos.captions.items()) for text in texts
    ]


class EpochBatches(torch.utils.data.Sampler[list[Place]]):
    """The batches of an epoch, each of items of like length, as places (epoch, index).

    Of `count` processes each gets every `count`-th batch from `rank` on, and all get as many: up to
    `count` - 1 batches of an epoch go unread, others in the next one. The last batch of the items
    may be smaller. With `most` an epoch has no more items than that.
    """

    def __init__(
        self, data: Epochs, size: int, seed: int, *, most: int = 0, rank: int = 0, count: int = 1
    ) -> None:
        self.data, self.size, self.seed, self.most = data, size, seed, most
        self.rank, self.count, self.epoch = rank, count, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next, and draw its items: workers that are forked
        afterwards have them."""
        self.epoch = epoch
        items_of(self.data, epoch)

    def __len__(self) -> int:
        """Return the number of batches of one process, the same in every epoch."""
        return -(-self._items(0) // self.size) // self.count

    def __iter__(self) -> Iterator[list[Place]]:
        """Yield this process's batches in the epoch's order."""
        items, count = items_of(self.data, self.epoch), self._items(self.epoch)
        batches = []
        for i in range(0, count, self.size * 32):
            chunk = range(i, min(count, i + self.size * 32))
            order = sorted(chunk, key=lambda at: _length(items[at]))
            batches += [order[j : j + self.size] for j in range(0, len(order), self.size)]
        _rng(self.seed, self.epoch).shuffle(batches)
        shared = len(batches) // self.count * self.count
        for batch in batches[self.rank : shared : self.count]:
            yield [(self.epoch, at) for at in batch]

    def _items(self, epoch: int) -> int:
        found = len(items_of(self.data, epoch))
        return min(found, self.most) if self.most else found


class Placed(torch.utils.data.Dataset[tuple[Place, Written]]):
    """Answers places of `EpochBatches` with the items that stand there."""

    def __init__(self, data: Epochs) -> None:
        self.data = data

    def __len__(self) -> int:
        """Return the number of items of an epoch."""
        return len(items_of(self.data, 0))

    def __getitem__(self, place: Place) -> tuple[Place, Written]:
        """Return the place and its item."""
        epoch, at = place
        return place, items_of(self.data, epoch)[at]


@dataclass(frozen=True)
class Collator:
    """Makes the batch of some placed items; its draws depend on their places alone.

    The batch holds `counts` (K,): over how many targets each loss of the stage goes.
    """

    data: Epochs
    stage: Stage
    seed: int

    def __call__(self, placed: Sequence[tuple[Place, Written]]) -> Batch:
        """Return the tensors of the batch."""
        places = [place for place, _ in placed]
        batch = self.data.batch(
            [item for _, item in placed], random.Random(f"{self.seed} {places}")
        )
        counts = self.stage.counts(batch)
        batch["counts"] = torch.stack([counts[name].float() for name in self.stage.losses])
        return batch


@lru_cache(maxsize=2)
def items_of(data: Epochs, epoch: int) -> Sequence[Written]:
    """Return the items of an epoch; the last two epochs asked for are kept."""
    return data.items(epoch)


def _written(items: Sequence[Written]) -> Batch:
    written_BT, mask_BT = pad([one.tokens for one in items])
    learnt_BT = mask_BT.float()
    for i, one in enumerate(items):
        learnt_BT[i, : one.given] = 0
    return {"written": written_BT, "learnt": learnt_BT}


def _length(one: Written) -> int:
    return len(one.item.reading.tokens) + len(one.tokens)


def _rng(seed: int, epoch: int) -> random.Random:
    return random.Random(f"{seed} {epoch}")


def _shuffled(all_of_them: Sequence[T], seed: int, epoch: int) -> list[T]:
    drawn = list(all_of_them)
    _rng(seed, epoch).shuffle(drawn)
    return drawn
