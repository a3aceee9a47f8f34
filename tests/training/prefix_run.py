"""A tiny `ember-37m` and a few rows for each of its stages: for the tests, and as a program that
they start, kill and start again (`python prefix_run.py FOLDER TOKENIZER KEY=VALUE ...`)."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_run import recipe_of

from embervlm.backends.base import MAX_TASK_TOKENS
from embervlm.data.sample import from_scenario
from embervlm.data.scenarios import load
from embervlm.models.configuration import PrefixConfig
from embervlm.models.ember_37m import Ember37M
from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer
from embervlm.models.prefix_formats import read_request
from embervlm.prompts import Reading
from embervlm.training.decisions import Item
from embervlm.training.prefix_data import PrefixForm, collate, reasons_item
from embervlm.training.prefix_stages import PREFIX_STAGES
from embervlm.training.recipe import NETWORK, Recipe
from embervlm.training.run import _save
from embervlm.training.stage_data import Written
from embervlm.training.stages import Batch, StageModule
from embervlm.training.trainer import EmberTrainer, checkpoints

COUNT = 8
SIDE = 32


def config_of(tokenizer: Gpt2Tokenizer, **more: Any) -> PrefixConfig:
    """Return the sizes of a tiny network without dropout."""
    sizes: dict[str, Any] = {
        "vocabulary_size": len(tokenizer), "text_layers": 2, "text_width": 64, "text_heads": 2,
        "text_hidden": 128, "text_positions": 400, "image_size": SIDE, "image_tokens": 1,
        "image_widths": (8, 8, 16, 16), "image_depths": (1, 1, 1, 1), "dropout": 0.0,
    }  # fmt: skip
    return PrefixConfig(**{**sizes, **more})


def network_of(tokenizer: Gpt2Tokenizer, **more: Any) -> Ember37M:
    """Return a tiny random network; its vision has the statistics of our pictures, as a trained one
    would: with those of a fresh one, all photos look alike."""
    torch.manual_seed(0)
    network = Ember37M(config_of(tokenizer, **more))
    for name, parameter in network.vision.named_parameters():
        if name.endswith("conv2.bn.weight"):  # zero in a fresh block, which is the identity
            torch.nn.init.ones_(parameter)
    side = network.config.image_size
    pixels = torch.from_numpy(np.stack([noise(i, side) for i in range(8)])).permute(0, 3, 1, 2)
    for part in network.vision.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0  # all of the statistics from one look
    with torch.no_grad():
        network.vision.train()((pixels.float() - 128) / 128)
    return network


class Rows:
    """A few rows of a stage, in another order each epoch."""

    def __init__(self, stage: str, tokenizer: Gpt2Tokenizer, count: int = COUNT) -> None:
        config = config_of(tokenizer)
        self.form = PrefixForm(config, tokenizer, captions=stage == "align")
        rows = [row for row in load("scenarios", "train") if "reasoning" in row]
        # Short ones: so small a vocabulary has many tokens a word.
        chosen = sorted(rows, key=lambda row: len(row["task"]))[:count]
        self._all = [self._item(stage, i, row) for i, row in enumerate(chosen)]

    def _item(self, stage: str, i: int, row: dict[str, Any]) -> Written:
        tokenizer, has_photo = self.form.tokenizer, stage == "align" or i % 2 == 0
        if stage == "reason":
            found = reasons_item(row, from_scenario(row), tokenizer)
            return Written(found.item, found.tokens[: found.given + 20], found.given)
        if stage == "select":
            images = self.form.config.image_tokens if has_photo else 0
            reading = read_request(row["task"], tokenizer, MAX_TASK_TOKENS, images)
            return Written(Item(from_scenario(row), reading, i if has_photo else None))
        question = None if stage == "align" else f"which {i}"
        said = self.form.item(question, row["task"][:24], has_picture=has_photo)
        item = Item(said.item.sample, Reading(said.item.reading.tokens), i if has_photo else None)
        return Written(item, said.tokens, said.given)

    def items(self, epoch: int) -> Sequence[Written]:
        """Return them in the epoch's order."""
        return random.Random(epoch).sample(self._all, len(self._all))

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the tensors of some, each photo another noise."""
        pictures = [None if one.item.photo is None else noise(one.item.photo) for one in items]
        if items[0].item.sample.task is None:
            return self.form.batch(items, pictures, rng)
        return collate(items, pictures)


def noise(number: int, side: int = SIDE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a picture unlike the others: four by four coloured squares."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return coarse.repeat(side // 4, axis=0).repeat(side // 4, axis=1)


def trainer_of(recipe: Recipe, tokenizer: Gpt2Tokenizer, **more: Any) -> EmberTrainer:
    """Return the trainer of a stage's last phase."""
    torch.set_num_threads(recipe.threads)
    stage = PREFIX_STAGES[recipe.stage]
    network = more.pop("network", None) or network_of(tokenizer)
    return EmberTrainer(
        StageModule(network, stage),
        more.pop("phase", stage.phases[-1]),
        recipe,
        more.pop("data", None) or Rows(recipe.stage, tokenizer),
        None,
        folder=Path(recipe.output_dir),
        epochs=recipe.epochs,
        **more,
    )


def main() -> None:
    """Train `select` as told, going on where a killed run stopped."""
    folder, tokenizer = Path(sys.argv[1]), Gpt2Tokenizer.from_file(sys.argv[2])
    given = dict(word.split("=") for word in sys.argv[3:])
    recipe = recipe_of(folder, **{name: int(value) for name, value in given.items()})
    trainer = trainer_of(recipe, tokenizer)
    found = checkpoints(folder)
    trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    trainer.finish()
    _save(trainer.module.network, folder / NETWORK)


if __name__ == "__main__":
    main()
