"""The Hugging Face Trainer, with what our stages need and it does not do.

- losses are sums over counts of the whole step (`stages.py`), each also logged apart;
- weights are averaged over steps, and validation and what is kept use the average;
- a checkpoint is written beside its place and moved there when it is whole: a run that is killed at
  any moment goes on from the last whole one, to the same weights as if it had not been killed;
- a loss that is no number ends the run with a sentence.

`transformers.Trainer` brings the rest: DDP and FSDP under torchrun or accelerate, accumulation,
mixed precision, clipping, reports. FSDP takes cards, so only its parts are tested: losses and the
moving average with weights cut among two processes.

Axes: K losses.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from embervlm.models.modeling import EmberNetwork, save_network
from embervlm.training.callbacks import Account, EvaluationFiles, Examination
from embervlm.training.moving_average import MovingAverage, whole
from embervlm.training.recipe import Recipe
from embervlm.training.requirements import precision
from embervlm.training.rounding import as_rounded
from embervlm.training.stage_data import Collator, EpochBatches, Epochs, Placed
from embervlm.training.stages import Phase, StageModule, begins_with

AVERAGE = "average.safetensors"
BEST = "best.safetensors"


class EmberTrainer(Trainer):
    """Trains one phase of a stage; `module.network` holds the averaged weights afterwards."""

    def __init__(
        self,
        module: StageModule,
        phase: Phase,
        recipe: Recipe,
        data: Epochs,
        validation: Epochs | None,
        *,
        folder: Path,
        epochs: float,
        measure: Callable[[EmberNetwork], dict[str, float]] | None = None,
    ) -> None:
        """Prepare a phase.

        `measure` gives more figures of validation; where `exact` is one of them, the network that
        had the highest stays in `folder` as `best.safetensors`.
        """
        self.stage, self.phase, self.recipe = module.stage, phase, recipe
        self.data, self.validation, self.measure = data, validation, measure
        self.sums_K = torch.zeros(len(self.stage.losses))
        self.counts_K = torch.zeros(len(self.stage.losses))
        # Examples and tokens that were trained on, in all processes, since this trainer was made.
        self.read_2 = torch.zeros(2, dtype=torch.float64)
        self.seconds_evaluating = 0.0
        self._folder: Path | None = None
        for name, parameter in module.network.named_parameters():
            parameter.requires_grad_(phase.is_moved(name) or "lora_" in name)
        self._average: MovingAverage | None = None
        super().__init__(
            module,
            _arguments(recipe, folder, epochs, validation is not None),
            train_dataset=Placed(data),
            eval_dataset=None if validation is None else Placed(validation),
            callbacks=[
                _Average(self),
                Account(self),
                *([EvaluationFiles(self, measure)] if isinstance(measure, Examination) else []),
            ],
        )
        # Sums over the counts of all accumulated batches: nothing is left for the Trainer to scale.
        self.loss_is_scaled_for_ga = True

    @property
    def module(self) -> StageModule:
        """The stage's module, out of what processes wrap it in."""
        return cast(StageModule, self.accelerator.unwrap_model(self.model))

    @property
    def place(self) -> Path:
        """The folder of this phase."""
        return Path(cast(str, self.args.output_dir))

    @property
    def average(self) -> MovingAverage:
        """The moving average of the weights; begun when it is first asked for, once the module is
        where and how it will be trained."""
        if self._average is None:
            self._average = MovingAverage(self.module, self.recipe.average)
        return self._average

    # --- data -------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's batches."""
        batches = EpochBatches(
            self.data,
            self.recipe.batch_size,
            self.recipe.seed,
            most=self.recipe.examples,
            rank=self.args.process_index,
            count=self.args.world_size,
        )
        return EpochLoader(
            Placed(self.data),
            batch_sampler=batches,
            collate_fn=Collator(self.data, self.stage, self.recipe.seed),
            num_workers=self.recipe.workers,
            prefetch_factor=4 if self.recipe.workers else None,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return all of validation, in every process."""
        assert self.validation is not None
        return DataLoader(
            Placed(self.validation),
            batch_sampler=EpochBatches(self.validation, 64, 0),
            collate_fn=Collator(self.validation, self.stage, 0),
        )

    # --- loss -------------------------------------------------------------------------------------

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Return over how many targets each loss of this step goes (K,), in all processes."""
        if not batch_samples:
            return None
        counts_K = torch.stack([batch["counts"] for batch in batch_samples]).sum(0)
        told = torch.cat([counts_K, *(_size_2(batch) for batch in batch_samples)]).to(device)
        if self.args.world_size > 1:
            told = self.accelerator.reduce(told, "sum")
        K = len(counts_K)
        self.read_2 = self.read_2.to(device) + told[K:].view(-1, 2).sum(0)
        return told[:K]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the weighted losses of a batch, each a share of the step's mean."""
        sums_K = model(dict(inputs))
        counts_K = inputs["counts"] if num_items_in_batch is None else num_items_in_batch
        weights_K = torch.tensor(list(self.stage.losses.values()), device=sums_K.device)
        loss = (weights_K * sums_K / counts_K.clamp(min=1)).sum()
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1}; "
                f"{self._last_good()}. Lower learning_rate, or set mixed_precision: none."
            )
        self.sums_K += sums_K.detach().cpu()
        self.counts_K += inputs["counts"].cpu()
        # Processes' gradients are averaged afterwards; the counts are those of all.
        share = loss * self.args.world_size if num_items_in_batch is not None else loss
        return (share, sums_K) if return_outputs else share

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each loss since the last line."""
        if "loss" in logs:
            for name, total, count in zip(
                self.stage.losses, self.sums_K.tolist(), self.counts_K.tolist(), strict=True
            ):
                if count:
                    logs[f"loss_{name}"] = round(total / count, 4)
            self.sums_K.zero_(), self.counts_K.zero_()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and add to the seconds that evaluations took."""
        begun = time.monotonic()
        found: dict[str, float] = super().evaluate(*args, **kwargs)
        self.seconds_evaluating += time.monotonic() - begun
        return found

    @torch.no_grad()
    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> Any:
        """Return the mean losses of validation under the averaged weights."""
        from transformers.trainer_utils import EvalLoopOutput

        prefix = kwargs.get("metric_key_prefix", "eval")
        held = self.average.exchange()
        self.module.eval()
        sums_K = counts_K = torch.zeros(len(self.stage.losses))
        for batch in dataloader:
            batch = self._prepare_inputs(batch)
            sums_K = sums_K + self.module(batch).cpu()
            counts_K = counts_K + batch["counts"].cpu()
        network = self.module.network
        with whole(self.module):
            measured = self.measure(network) if self.measure else {}
            if "exact" in measured and self.args.should_save:
                self._keep_best(measured["exact"])
            if self.stage.figures is not None:
                measured = {**measured, **self.stage.figures(network, batch)}
        self.average.put(held)
        means_K = sums_K / counts_K.clamp(min=1)
        weights_K = torch.tensor(list(self.stage.losses.values()))
        found = {f"{prefix}_loss": float((weights_K * means_K).sum())}
        for name, mean in zip(self.stage.losses, means_K.tolist(), strict=True):
            found[f"{prefix}_loss_{name}"] = round(mean, 4)
        found |= {f"{prefix}_{name}": value for name, value in measured.items()}
        return EvalLoopOutput(cast(Any, None), None, found, int(counts_K.max()))

    def _keep_best(self, exact: float) -> None:
        folder = self.place
        record = folder / "best.json"
        before = json.loads(record.read_text("utf-8")) if record.is_file() else {"exact": -1.0}
        if exact > before["exact"]:
            save_network(as_rounded(self.module.network), folder / BEST)
            record.write_text(
                json.dumps({"exact": exact, "step": self.state.global_step}) + "\n", "utf-8"
            )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch's steps, and none where the checkpoint is that of the last one."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    # --- weights ----------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return AdamW with two rates: that of the recipe, and the head rate for what is fresh."""
        if self.optimizer is None:
            groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
            for name, parameter in (model or self.module).named_parameters():
                if parameter.requires_grad:
                    fresh = begins_with(name.removeprefix("network."), self.phase.fresh)
                    groups[fresh].append(parameter)
            rates = {False: self.recipe.learning_rate, True: self.recipe.head_learning_rate}
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": found, "lr": rates[fresh] * self.phase.rate}
                    for fresh, found in groups.items()
                    if found
                ],
                weight_decay=self.recipe.weight_decay,
                fused=True,  # one pass over the weights in place of seven
            )
        return self.optimizer

    def finish(self) -> None:
        """Put the average into the network."""
        self.average.exchange()

    # --- checkpoints ------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._folder or self.place)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint beside its place, then move it there, then let old ones go."""
        place = self.place
        self._folder = place / "unfinished"
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            if self.args.should_save:
                shutil.rmtree(self._folder, ignore_errors=True)
                (self._folder / name).mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                _fsync(self._folder / name)
                shutil.rmtree(place / name, ignore_errors=True)
                (self._folder / name).rename(place / name)
                for old in checkpoints(place)[: -self.recipe.keep]:
                    shutil.rmtree(old)
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise ValueError(
                f"The checkpoint cannot be written ({error.strerror or error}); "
                f"{self._last_good()}. Make room and start again."
            ) from error
        finally:
            self._folder = None

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        mean = self.average.whole()
        if self.args.should_save and mean:
            save_file(mean, Path(output_dir) / AVERAGE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.recipe.average:
            self.average.load(load_file(Path(checkpoint) / AVERAGE))

    def _last_good(self) -> str:
        found = checkpoints(self.place)
        return f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was written"


class _Average(TrainerCallback):
    """Has the average follow each step of the optimiser."""

    def __init__(self, trainer: EmberTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the weights as they are, unless a checkpoint has brought an average."""
        _ = self.trainer.average

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average."""
        self.trainer.average.follow(state.global_step)


class EpochLoader(DataLoader[Any]):
    """A loader whose sampler learns which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler, as the Trainer tells it of its own loaders."""
        assert isinstance(self.batch_sampler, EpochBatches)
        self.batch_sampler.set_epoch(epoch)


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a folder, the oldest first."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _arguments(recipe: Recipe, folder: Path, epochs: float, evaluates: bool) -> TrainingArguments:
    kind = precision(recipe)
    # CodeCarbon's callback asks a server where the machine stands; `Account` runs it offline.
    reports = [name for name in recipe.reports if name != "codecarbon"]
    if "tensorboard" in reports:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=kind == "bf16",
        fp16=kind == "fp16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=recipe.log_steps,
        logging_nan_inf_filter=False,
        eval_strategy=("steps" if recipe.eval_steps else "epoch") if evaluates else "no",
        eval_steps=recipe.eval_steps or None,
        save_strategy="steps" if recipe.save_steps else "epoch",
        save_steps=recipe.save_steps or 500,
        save_total_limit=None,
        seed=recipe.seed,
        data_seed=recipe.seed,
        report_to=reports,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        disable_tqdm=None,
        label_names=[],
    )


def _size_2(batch: Mapping[str, Tensor]) -> Tensor:
    """Return how many examples a batch has, and how many tokens are read and written in it."""
    tokens = batch["mask"].sum() + (batch["learnt"][:, 1:].sum() if "learnt" in batch else 0)
    return torch.stack([torch.tensor(float(len(batch["mask"]))), tokens.float()])


def _fsync(folder: Path) -> None:
    """Have a folder's files on the disk before they get their name."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
