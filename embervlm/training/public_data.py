"""What `align` and `instruct` learn from public sets: a mixture, cut into epochs.

Pictures are decoded when a batch is made, and seen by the network in its forward pass. One that
cannot be decoded is counted in the report, and its example is left out of the batch.

Axes: B batch, P pictures, S side.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from embervlm.data.example import Example, Report, Turn, UnusableError
from embervlm.data.mixture import Mixture, Source
from embervlm.data.public import open_set
from embervlm.imaging import crop_square, load_image
from embervlm.models.configuration import EmberConfig
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import collate
from embervlm.training.stage_data import Written, said_item, with_written
from embervlm.training.stages import Batch
from embervlm.training.top_logits import top_batch
from embervlm.training.vision import Pixels

_ANSWERS = "teacher_answers"
# How many broken pictures a process names.
_SAID = 20


def sources_of(entries: Sequence[Mapping[str, Any]]) -> list[Source]:
    """Return the sets that a recipe names: each has `set`, maybe `weight`, and what the set takes.

    Raises:
        ValueError: an entry names no set, or `data.public` refuses it.
    """
    found = []
    for number, entry in enumerate(entries, start=1):
        given = dict(entry)
        name, weight = given.pop("set", None), given.pop("weight", 1.0)
        if not isinstance(name, str) or not isinstance(weight, int | float):
            raise ValueError(f"Entry {number} of data is {dict(entry)}; it needs 'set: NAME'.")
        # Opened once and let go, so that what is wrong with it is said before the training.
        next(open_set(name, **given), None)
        found.append(Source(f"{name} {number}", float(weight), partial(open_set, name, **given)))
    return found


def keeps_logits(entries: Sequence[Mapping[str, Any]], stage: str, teacher: str) -> bool:
    """Say whether answers may bring a teacher's logits that count: in `instruct`, where no network
    is asked for its own."""
    return stage == "instruct" and not teacher and any(e["set"] == _ANSWERS for e in entries)


@dataclass(frozen=True)
class Seen(Written):
    """An item with the picture that it speaks of."""

    example: Example | None = None


class Form(Protocol):
    """How a family of networks reads and writes what an example says."""

    @property
    def captions(self) -> bool:
        """Whether answers are captions: an example needs a picture, and questions are left out."""

    @property
    def image_size(self) -> int:
        """The side of a picture, in pixels."""

    def item(
        self,
        question: str | None,
        answer: str,
        *,
        has_picture: bool,
        logits: Mapping[str, Any] | None = None,
    ) -> Written:
        """Return the item of one exchange; a caption has no question. With a teacher's logits it is
        written in that teacher's tokens.

        Raises:
            ValueError: the logits are damaged, or of another vocabulary.
        """

    def batch(
        self, items: Sequence[Written], pictures: Sequence[Pixels | None], rng: random.Random
    ) -> Batch:
        """Return the tensors of some items with their pictures."""

    def top(self, items: Sequence[Written], batch: Batch) -> Batch:
        """Return what `top_logits_sum` takes of the items of a batch."""


@dataclass(frozen=True)
class EmberForm:
    """The form of `ember-nano`: a caption is read by the contrast and written from the picture
    alone; the pictures are `pixels` (P, S, S, 3) uint8, of the rows `pixel_rows`."""

    config: EmberConfig
    tokenizer: Tokenizer
    captions: bool

    @property
    def image_size(self) -> int:
        """The side of a picture, in pixels."""
        return self.config.image_size

    def item(
        self,
        question: str | None,
        answer: str,
        *,
        has_picture: bool,
        logits: Mapping[str, Any] | None = None,
    ) -> Written:
        """Return an item; see `Form.item`."""
        return said_item(self.tokenizer, answer if self.captions else question, answer, logits)

    def top(self, items: Sequence[Written], batch: Batch) -> Batch:
        """Return the teacher's logits of some; see `Form.top`."""
        length = batch["written"].shape[1]
        return top_batch([one.top for one in items], [one.given for one in items], length)

    def batch(
        self, items: Sequence[Written], pictures: Sequence[Pixels | None], rng: random.Random
    ) -> Batch:
        """Return the tensors of some; see `Form.batch`."""
        batch = collate([one.item for one in items], None, self.config, rng)
        seen = [(i, picture) for i, picture in enumerate(pictures) if picture is not None]
        if seen:
            batch["pixels"] = torch.from_numpy(np.stack([picture for _, picture in seen]))
            batch["pixel_rows"] = torch.tensor([i for i, _ in seen])
        return with_written(batch, items, self.tokenizer if self.captions else None)


class Examples:
    """Epochs of `count` examples each, drawn from a mixture one behind the other.

    Of each example one exchange is asked and answered, or one caption taken. With `logits` those of
    a teacher, where an answer has some, are in the batches too.
    """

    def __init__(
        self,
        form: Form,
        sources: Sequence[Source],
        *,
        seed: int,
        count: int,
        logits: bool = False,
    ) -> None:
        if count < 1:
            raise ValueError("With data, give examples: how many of them are an epoch.")
        self.form, self.logits = form, logits
        self.seed, self.count, self.report = seed, count, Report("all sets")
        self._mixture = Mixture(sources, seed=seed)
        # Where the mixture stood when each epoch began.
        self._states = [self._mixture.state_dict()]

    def left_out(self) -> list[str]:
        """Return a line for each set of which records were left out, and one for what this stage
        could not use of them. Pictures that a worker could not read are counted there."""
        reports = [*self._mixture.reports.values(), self.report]
        return [report.summary() for report in reports if report.left_out]

    def items(self, epoch: int) -> Sequence[Written]:
        """Return the examples of an epoch; those before it are drawn first, if they were not."""
        while len(self._states) <= epoch:
            self._draw(len(self._states) - 1)
        return self._draw(epoch)

    def _draw(self, epoch: int) -> list[Seen]:
        self._mixture.load_state_dict(self._states[epoch])
        drawn: list[Seen] = []
        refused = 0
        for example in self._mixture:
            turn = random.Random(f"{self.seed} {epoch} {len(drawn)}").choice(example.turns)
            try:
                item = self._item(example, turn)
            except UnusableError as fault:
                self.report.leave_out(fault)
                refused += 1
                if refused > 100 * self.count:
                    break
                continue
            drawn.append(Seen(**vars(item), example=example))
            if len(drawn) == self.count:
                break
        if len(drawn) < self.count:
            raise ValueError(
                f"The sets have {len(drawn):,} examples that this stage can use, fewer than the "
                f"{self.count:,} of an epoch; lower examples. {self.report.summary()}"
            )
        if len(self._states) == epoch + 1:
            self._states.append(self._mixture.state_dict())
        return drawn

    def _item(self, example: Example, turn: Turn) -> Written:
        if self.form.captions and example.image is None:
            raise UnusableError("no picture", example.id)
        try:
            return self.form.item(
                None if self.form.captions else turn.question,
                turn.answer,
                has_picture=example.image is not None,
                logits=example.logits if self.logits else None,
            )
        except ValueError as error:
            raise UnusableError("unusable logits", f"{example.id}: {error}") from error

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the tensors of those whose picture can be read."""
        kept: list[Written] = []
        pictures: list[Pixels | None] = []
        for item in items:
            assert isinstance(item, Seen)
            assert item.example is not None
            try:
                picture = self._picture(item.example)
            except ValueError as error:
                fault = UnusableError("broken picture", f"{item.example.id}: {error}")
                # Said at once: a worker's counts end with it.
                if self.report.left_out[fault.reason] < _SAID:
                    sys.stderr.write(f"left out: {fault}\n")
                self.report.leave_out(fault)
                continue
            pictures.append(picture)
            kept.append(item)
            self.report.kept += 1
        if not kept:
            raise ValueError(f"No picture of a batch could be read. {self.report.summary()}")
        batch = self.form.batch(kept, pictures, rng)
        return {**batch, **self.form.top(kept, batch)} if self.logits else batch

    def _picture(self, example: Example) -> Pixels | None:
        if example.image is None:
            return None
        size = self.form.image_size
        return crop_square(load_image(example.image, shortest_px=4 * size), size)
