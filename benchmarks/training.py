"""How fast stages train through our trainer, beside a plain PyTorch loop over the same batches.

    python benchmarks/training.py --json benchmarks/training.json       # minutes on two cores
    python benchmarks/training.py --stages select --steps 2 --rounds 1  # does it run?

Both start from the weights that ship and see the same batches, `select` of the real training
requests, `align` of synthetic photos (640 x 480 JPEG) with captions in COCO's layout. The plain
loop is what one would write by hand: batches that were made beforehand, forward, backward,
clipping, AdamW, a linear rate; no averaging, no log, no checks. The trainer makes its batches as it
goes, averages weights, watches for losses that are no number and logs each step. Rounds alternate,
so that a change of the machine's speed meets both; the ratio is taken within a round.

    ratio               trainer's steps a second over the plain loop's, median of the rounds
    waiting             share of the trainer's time in which it waits for a batch
    drawing_s           seconds that drawing an epoch's items takes, and its share of an epoch
    loss_difference     largest difference of a step's loss between the two: they do the same work

Evaluations and checkpoints are left out on both sides.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import version
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from embervlm.evaluation.bench import processor_name
from embervlm.training.family import Prepared
from embervlm.training.low_rank import add_low_rank
from embervlm.training.recipe import Recipe
from embervlm.training.requirements import precision
from embervlm.training.run import family_of
from embervlm.training.stage_data import Collator, EpochBatches, Placed, items_of
from embervlm.training.stages import Batch, Stage, StageModule
from embervlm.training.trainer import EmberTrainer

SHIPPED = Path(__file__).parents[1] / "embervlm/weights/ember-nano.gguf"
PHOTOS = 256
WARM_STEPS = 2
SEED = 7


@dataclass
class Timed:
    """Seconds and losses of a round's steps, those that warm up left out of the seconds."""

    seconds: float = 0.0
    waited: float = 0.0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """A stage with its data, and the batches that a round sees."""

    recipe: Recipe
    stage: Stage
    prepared: Prepared
    batches: list[Batch]
    drawing_s: float
    steps_an_epoch: int


class TimedTrainer(EmberTrainer):
    """Our trainer, with a timer around what fetches the batches."""

    timed: Timed

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch a step's batches."""
        begun = time.perf_counter()
        found = super().get_batch_samples(*args, **kwargs)
        if self.state.global_step >= WARM_STEPS:
            self.timed.waited += time.perf_counter() - begun
        return found


class Clock(TrainerCallback):
    """Starts the clock behind the steps that warm up, and draws dropout as the plain loop does."""

    def __init__(self, timed: Timed) -> None:
        self.timed = timed

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed the first step."""
        if state.global_step == 0:
            torch.manual_seed(SEED)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the clock."""
        _settle()
        if state.global_step == WARM_STEPS:
            self.begun = time.perf_counter()
        if state.global_step == state.max_steps:
            self.timed.seconds = time.perf_counter() - self.begun


def prepare(recipe: Recipe, steps: int) -> Work:
    """Draw an epoch, and make the batches of its first steps."""
    family = family_of(recipe)
    stage, prepared = family.stages[recipe.stage], family.prepare(recipe)
    data = prepared.data
    begun = time.perf_counter()
    items_of(data, 0)
    drawing_s = time.perf_counter() - begun
    batches = EpochBatches(data, recipe.batch_size, recipe.seed, most=recipe.examples)
    collate = Collator(data, stage, recipe.seed)
    placed = Placed(data)
    made = [
        collate([placed[place] for place in places])
        for places in islice(batches, WARM_STEPS + steps)
    ]
    if len(made) < WARM_STEPS + steps:
        raise ValueError(f"An epoch of {recipe.stage} has {len(made)} batches; lower --steps.")
    return Work(recipe, stage, prepared, made, drawing_s, len(batches))


def through_our_trainer(work: Work, folder: Path) -> Timed:
    """Train one round through `EmberTrainer`."""
    timed = Timed()
    recipe, (module, phase) = work.recipe, _module(work)
    trainer = TimedTrainer(
        module, phase, recipe, work.prepared.data, None, folder=folder, epochs=1.0
    )
    trainer.timed = timed
    trainer.add_callback(Clock(timed))
    for silent in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(silent)
    trainer.train()
    timed.losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return timed


def through_a_plain_loop(work: Work) -> Timed:
    """Train one round by hand."""
    timed = Timed()
    recipe, (module, phase) = work.recipe, _module(work)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device).train()
    moving = {}
    for name, parameter in module.named_parameters():
        moves = name.removeprefix("network.").startswith(phase.moves) or "lora_" in name
        parameter.requires_grad_(moves)
        if moves:
            moving[name.removeprefix("network.")] = parameter
    fresh = [p for name, p in moving.items() if name.startswith(phase.fresh)]
    rest = [p for name, p in moving.items() if not name.startswith(phase.fresh)]
    optimizer = torch.optim.AdamW(
        [
            {"params": rest, "lr": recipe.learning_rate},
            {"params": fresh, "lr": recipe.head_learning_rate},
        ],
        weight_decay=recipe.weight_decay,
    )
    steps = len(work.batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (steps - step) / steps)
    weights_K = torch.tensor(list(module.stage.losses.values()), device=device)
    kind = precision(recipe)
    losses = []
    torch.manual_seed(SEED)
    for number, cpu_batch in enumerate(work.batches):
        if number == WARM_STEPS:
            _settle()
            begun = time.perf_counter()
        batch = {name: value.to(device) for name, value in cpu_batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
            sums_K = module(batch)
        loss = (weights_K * sums_K / batch["counts"].clamp(min=1)).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving.values(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    _settle()
    timed.seconds = time.perf_counter() - begun
    timed.losses = [loss.item() for loss in losses]
    return timed


def compare(work: Work, rounds: int, folder: Path) -> dict[str, Any]:
    """Alternate the two, and return the figures that the docstring names."""
    pairs = []
    for number in range(rounds):
        sides = [lambda: through_our_trainer(work, folder), lambda: through_a_plain_loop(work)]
        order = (0, 1) if number % 2 == 0 else (1, 0)
        found: dict[int, Timed] = {}
        for side in order:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                found[side] = sides[side]()
        pairs.append((found[0], found[1]))
        sys.stderr.write(
            f"{work.recipe.stage}, round {number + 1}: trainer {found[0].seconds:.2f} s, "
            f"plain loop {found[1].seconds:.2f} s\n"
        )
    kept = work.batches[WARM_STEPS:]
    amounts = {
        "examples": sum(len(batch["tokens"]) for batch in kept),
        "tokens": sum(_tokens(batch) for batch in kept),
        "images": sum(len(batch["pixels"]) for batch in kept if "pixels" in batch),
    }
    ours = statistics.median(a.seconds for a, _ in pairs)
    plain = statistics.median(b.seconds for _, b in pairs)
    ratios = sorted(b.seconds / a.seconds for a, b in pairs)
    epoch_s = ours / len(kept) * work.steps_an_epoch
    return {
        "stage": work.recipe.stage,
        "steps": len(kept),
        "batch_size": work.recipe.batch_size,
        "workers": work.recipe.workers,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_of_rounds": [round(ratio, 3) for ratio in ratios],
        **{
            f"{name}_per_s": {"trainer": round(n / ours, 1), "plain": round(n / plain, 1)}
            for name, n in amounts.items()
            if n
        },
        "waiting": round(statistics.median(a.waited / a.seconds for a, _ in pairs), 4),
        "drawing_s": round(work.drawing_s, 2),
        "drawing_share_of_an_epoch": round(work.drawing_s / (epoch_s + work.drawing_s), 4),
        "loss_difference": max(
            abs(x - y) for a, b in pairs for x, y in zip(a.losses, b.losses, strict=True)
        ),
    }


def recipe_of(stage: str, folder: Path, options: argparse.Namespace) -> Recipe:
    """Return the stage's recipe for this benchmark; `align` gets photos written into the folder."""
    keys: dict[str, Any] = {
        "stage": stage, "model": str(SHIPPED), "output_dir": str(folder / stage),
        "batch_size": options.batch_size, "max_steps": WARM_STEPS + options.steps,
        "threads": options.threads, "workers": options.workers, "warmup_steps": 0,
        "report_to": "none", "mixed_precision": options.mixed_precision, "log_steps": 1,
        "save_steps": 10**6,
    }  # fmt: skip
    if stage == "align":
        keys["data"] = [write_captions(folder)]
        keys["examples"] = options.batch_size * (WARM_STEPS + options.steps)
    return Recipe.from_dict(keys)


def write_captions(folder: Path) -> dict[str, str]:
    """Write photos of coloured noise, smooth enough to be pictures, with captions; return them as a
    recipe names a set."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for i in range(PHOTOS):
        noise = np.random.default_rng(i).integers(0, 256, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(
            images / f"{i:012d}.jpg", quality=90
        )
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(PHOTOS)],
        "annotations": [
            {"id": i, "image_id": i, "caption": f"A man rides horse number {i} along a beach."}
            for i in range(PHOTOS)
        ],
    }
    path = folder / "captions.json"
    path.write_text(json.dumps(content), "utf-8")
    return {"set": "coco_captions", "annotations": str(path), "images": str(images)}


def provenance() -> dict[str, Any]:
    """Return command, commit, machine and versions."""

    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True).stdout

    machine = processor_name()
    if torch.cuda.is_available():
        machine = f"{machine}, {torch.cuda.get_device_name()}"
    return {
        "command": shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD").strip(),
        "uncommitted changes": bool(git("status", "--porcelain", "--untracked-files=no").strip()),
        "machine": machine,
        "cores": torch.multiprocessing.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "accelerate")},
    }


def _module(work: Work) -> tuple[StageModule, Any]:
    recipe = work.recipe
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    network, phase = copy.deepcopy(work.prepared.network), work.stage.phases[-1]
    if phase.low_rank:
        add_low_rank(network, phase, recipe)
    return StageModule(network, work.stage), phase


def _tokens(batch: Mapping[str, torch.Tensor]) -> int:
    written = batch["learnt"][:, 1:].sum() if "learnt" in batch else 0
    return int(batch["mask"].sum() + written)


def _settle() -> None:
    """Wait for the card, whose work goes on behind a step that has returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the stages, print a line each, and write all into a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stages", nargs="+", choices=("select", "align"),
                        default=["select", "align"])  # fmt: skip
    parser.add_argument("--steps", type=int, default=20, help="of a round, those timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--mixed-precision", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    results = []
    with tempfile.TemporaryDirectory() as name:
        for stage in options.stages:
            recipe = recipe_of(stage, Path(name), options)
            torch.set_num_threads(options.threads)
            with redirect_stderr(StringIO()):
                work = prepare(recipe, options.steps)
            results.append(compare(work, options.rounds, Path(recipe.output_dir)))
            sys.stdout.write(json.dumps(results[-1]) + "\n")
    if options.json is not None:
        kind = precision(recipe)
        report = {**provenance(), "threads": options.threads, "precision": kind, "rounds":
                  options.rounds, "results": results}  # fmt: skip
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
