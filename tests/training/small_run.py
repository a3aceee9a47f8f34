"""A run of a few steps with a tiny network: for the tests, and as a program that they start, kill
and start again (`python small_run.py FOLDER TOKENIZER KEY=VALUE ...`)."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from embervlm.data.sample import from_scenario
from embervlm.data.scenarios import load
from embervlm.models.configuration import PRESETS, EmberConfig
from embervlm.models.modeling import EmberNetwork
from embervlm.prompts import read_task
from embervlm.tokenizer import Tokenizer
from embervlm.training.bitmar import BITMAR_STAGES
from embervlm.training.decisions import Item, Photos, collate
from embervlm.training.grpo_trainer import GrpoTrainer
from embervlm.training.grpo_trainer import Requests as AskedRequests
from embervlm.training.recipe import NETWORK, Recipe
from embervlm.training.run import _save
from embervlm.training.stage_data import Answers, Epochs, Reasons, Said, Written
from embervlm.training.stages import STAGES, Batch, StageModule
from embervlm.training.trainer import EmberTrainer, checkpoints

COUNT = 24


def network_of(tokenizer: Tokenizer, preset: str = "ember-nano") -> EmberNetwork:
    """Return a tiny random network without dropout."""
    torch.manual_seed(0)
    more: dict[str, Any] = {}
    if preset == "bitmar":
        more = {
            "embed_width": 32, "fusion_layers": 1, "fusion_width": 32, "fusion_heads": 2,
            "image_grid": 2, "image_tokens": 5, "memory_slots": 4, "memory_width": 32,
            "reasoning_width": 32,
        }  # fmt: skip
    config = type(PRESETS[preset])(
        **more,
        vocabulary_size=len(tokenizer),
        text_layers=2,
        text_width=32,
        text_heads=4,
        text_hidden=64,
        text_positions=400,
        decoder_layers=1,
        decoder_width=32,
        decoder_heads=2,
        decoder_hidden=64,
        dropout=0.0,
    )
    return EmberNetwork(config)


class Requests:
    """A few of the scenarios, as `stage_data.Decisions` gives them."""

    def __init__(self, config: EmberConfig, tokenizer: Tokenizer, count: int = COUNT) -> None:
        self.config = config
        rows = load("scenarios", "train")[:count]
        # Every second one has a photo.
        self._all = [
            Written(
                Item(
                    from_scenario(row),
                    read_task(row["task"], tokenizer, 96),
                    None if i % 2 else i // 2 % 8,
                )
            )
            for i, row in enumerate(rows)
        ]

    def items(self, epoch: int) -> Sequence[Written]:
        """Return them in the epoch's order."""
        return random.Random(epoch).sample(self._all, len(self._all))

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the tensors of some."""
        return collate([one.item for one in items], photos(), self.config, rng)


def photos() -> Photos:
    """Return eight photos' features, random and unlike each other."""
    drawn = torch.Generator().manual_seed(3)
    features_PC = torch.randn(8, 320, generator=drawn)
    return Photos(features_PC, torch.rand(8, 10, generator=drawn).softmax(-1), {}, {})


def data_of(stage: str, config: EmberConfig, tokenizer: Tokenizer, count: int = COUNT) -> Epochs:
    """Return a few items for a stage."""
    if stage == "select":
        return Requests(config, tokenizer, count)
    if stage == "reason":
        reasons = Reasons(config, tokenizer, 1)
        reasons._all = [replace(one, tokens=one.tokens[:40]) for one in reasons._all[:count]]
        return reasons
    if stage == "grpo":
        asked = AskedRequests(config, tokenizer, 1, "validation")
        asked.samples = [one for one in asked.samples if len(one.task or "") < 120][:count]
        return asked
    words = [row["task"][:30] for row in load("scenarios", "train")[:8]]
    # A caption has its photo; every second question has none.
    said = [
        Said(f"which {i}", words[i % 8], None if i % 2 and stage == "instruct" else i % 8)
        for i in range(count)
    ]
    return Answers(config, tokenizer, photos(), said, 1, captions=stage == "align")


def trainer_of(recipe: Recipe, tokenizer: Tokenizer, **more: Any) -> EmberTrainer:
    """Return the trainer of a stage's last phase."""
    # Threads cost such small matrices more than they bring.
    torch.set_num_threads(recipe.threads)
    stages = BITMAR_STAGES if recipe.preset == "bitmar" else STAGES
    stage, network = stages[recipe.stage], network_of(tokenizer, recipe.preset)
    return (GrpoTrainer if recipe.stage == "grpo" else EmberTrainer)(
        StageModule(network, stage),
        more.pop("phase", stage.phases[-1]),
        recipe,
        more.pop("data", None) or data_of(recipe.stage, network.config, tokenizer),
        more.pop("validation", None),
        folder=Path(recipe.output_dir),
        epochs=recipe.epochs,
        **more,
    )


def recipe_of(folder: Path, **more: Any) -> Recipe:
    """Return a recipe for a short run in float32."""
    given: dict[str, Any] = {
        "output_dir": str(folder), "mixed_precision": "none", "report_to": "none", "threads": 1,
        "batch_size": 4, "warmup_steps": 0, "epochs": 1.0, "log_steps": 1,
    }  # fmt: skip
    return Recipe.from_dict({**given, **more})


def main() -> None:
    """Train `select`, or the stage that is told, going on where a killed run stopped."""
    folder, tokenizer = Path(sys.argv[1]), Tokenizer.from_file(Path(sys.argv[2]))
    given = dict(word.split("=") for word in sys.argv[3:])
    recipe = recipe_of(
        folder, **{name: int(value) if value.isdigit() else value for name, value in given.items()}
    )
    trainer = trainer_of(recipe, tokenizer)
    found = checkpoints(folder)
    trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    trainer.finish()
    if trainer.args.should_save:
        _save(trainer.module.network, folder / NETWORK)
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        sys.stdout.write(f"{losses}\n")


if __name__ == "__main__":
    main()
