"""Fine-tunes a small model as the manager: LoRA on simulated reviews, loss on the reviews alone.

    fine_tune(TuningSettings(model="Qwen/Qwen2.5-0.5B-Instruct", data=Path("build/sim"),
                             out=Path("build/rmm")))

As in VITA-RMM the model is Qwen2.5, by its name on the hub or from a folder; any causal model of
transformers will do. LoRA (Hu et al. 2022) stands beside every linear layer (peft's "all-linear");
nothing else moves. A prompt is written exactly as `training.local_teacher` writes it when the
manager is asked later: one message of the chat template, or the plain text without one.

`out` gets the adapter, which names the model that it is for, and the tokenizer, so that `local:OUT`
is a model like any other; `rmm.json` says what was done, and the losses before and after.
`checkpoint-*` are for `resume`.

Axes: B batch, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from embervlm.json_lines import json_lines
from embervlm.reasoner.simulation import FILES

IGNORED = -100
SUMMARY = "rmm.json"


@dataclass(frozen=True)
class TuningSettings:
    """How a manager is trained.

    `data` is a folder of `embervlm rmm simulate`. `steps` None goes `epochs` times through it. A
    row of more than `max_tokens` is left out, and counted.
    """

    model: str
    data: Path
    out: Path
    epochs: float = 2.0
    steps: int | None = None
    batch: int = 8
    learning_rate: float = 2e-4
    rank: int = 16
    max_tokens: int = 1024
    save_steps: int = 200
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            ValueError: which, and what was expected.
        """
        for name in ("epochs", "batch", "learning_rate", "rank", "max_tokens", "save_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be 1 or more.")


@dataclass(frozen=True)
class Tuned:
    """What a run did: rows learnt from and left out, steps, and validation losses."""

    rows: int
    left_out: int
    steps: int
    trainable: int
    parameters: int
    loss_before: float
    loss_after: float

    def sentence(self) -> str:
        """Say it in one line."""
        return (
            f"{self.steps:,} steps on {self.rows:,} rows ({self.left_out:,} too long were left "
            f"out), {self.trainable:,} of {self.parameters:,} parameters moved; validation loss "
            f"{self.loss_before:.4f} before, {self.loss_after:.4f} after."
        )


def fine_tune(settings: TuningSettings) -> Tuned:
    """Train an adapter and write it to `settings.out`.

    Raises:
        ValueError: model, data or folder are not what they should be.
    """
    rows = read_rows(settings.data / FILES[0])
    validation = read_rows(settings.data / FILES[1])
    checkpoint = _checkpoint(settings)
    tokenizer = _load(AutoTokenizer, settings.model)
    set_seed(settings.seed)
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu and torch.cuda.is_bf16_supported() else torch.float32
    base = _load(AutoModelForCausalLM, settings.model, dtype=dtype)
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model: Any = get_peft_model(base, lora)
    place = Path(settings.model)
    # The adapter finds its model again, from wherever it is loaded.
    name = str(place.resolve()) if place.is_dir() else settings.model
    model.peft_config["default"].base_model_name_or_path = name
    examples = [encode(tokenizer, row) for row in rows]
    kept = [one for one in examples if len(one["input_ids"]) <= settings.max_tokens]
    held_out = [encode(tokenizer, row) for row in validation]
    held_out = [one for one in held_out if len(one["input_ids"]) <= settings.max_tokens]
    if not kept or not held_out:
        raise ValueError(
            f"Every row of {settings.data} is longer than {settings.max_tokens} tokens; give a "
            "larger --max-tokens."
        )
    trainer = Trainer(
        model=model,
        args=_arguments(settings, gpu, dtype),
        # A list is a data set to the Trainer, though not to its types.
        train_dataset=kept,  # type: ignore[arg-type]
        eval_dataset=held_out,  # type: ignore[arg-type]
        data_collator=Padding(_pad(tokenizer)),
    )
    before = float(trainer.evaluate()["eval_loss"])
    trainer.train(resume_from_checkpoint=checkpoint)
    after = float(trainer.evaluate()["eval_loss"])
    trainable, parameters = model.get_nb_trainable_parameters()
    tuned = Tuned(
        len(kept),
        len(examples) - len(kept),
        trainer.state.global_step,
        trainable,
        parameters,
        before,
        after,
    )
    model.save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    losses = [row for row in trainer.state.log_history if "loss" in row]
    stated = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(settings).items()}
    summary = {"settings": stated, **asdict(tuned), "losses": losses}
    (settings.out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    return tuned


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the system's words, the words and the completion of simulated rows.

    Raises:
        ValueError: the file is missing, empty, or of another layout.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there; write it with 'embervlm rmm simulate'.")
    rows = []
    for number, line in json_lines(path, "replace"):
        try:
            found = json.loads(line)
            row = {key: found[key] for key in ("system", "words", "completion")}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number}, is no simulated review; write the file with 'embervlm rmm "
                "simulate'."
            ) from error
        if not all(isinstance(text, str) for text in row.values()):
            raise ValueError(f"{path}, line {number}, holds something else than texts.")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty; write it with 'embervlm rmm simulate'.")
    return rows


def encode(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """Return the tokens of a prompt and its review, and as labels those of the review alone."""
    asked = f"{row['system']}\n\n{row['words']}"
    if getattr(tokenizer, "chat_template", None) is not None:
        message = [{"role": "user", "content": asked}]
        prompt = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_dict=True
        )["input_ids"]
    else:
        prompt = tokenizer(f"{asked}\n")["input_ids"]
    answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id is not None:
        answer = [*answer, tokenizer.eos_token_id]
    return {
        "input_ids": [*prompt, *answer],
        "labels": [IGNORED] * len(prompt) + answer,
    }


@dataclass(frozen=True)
class Padding:
    """Makes a batch of examples: padded on the right, where nothing is attended or learnt."""

    pad: int

    def __call__(self, examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Return tokens, mask and labels (B, T)."""
        longest = max(len(one["input_ids"]) for one in examples)

        def padded(key: str, filler: int) -> torch.Tensor:
            return torch.tensor(
                [one[key] + [filler] * (longest - len(one[key])) for one in examples]
            )

        mask_BT = torch.tensor(
            [
                [1] * len(one["input_ids"]) + [0] * (longest - len(one["input_ids"]))
                for one in examples
            ]
        )
        return {
            "input_ids": padded("input_ids", self.pad),
            "attention_mask": mask_BT,
            "labels": padded("labels", IGNORED),
        }


def _arguments(settings: TuningSettings, gpu: bool, dtype: torch.dtype) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(settings.out),
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        logging_steps=10,
        save_steps=settings.save_steps,
        save_total_limit=2,
        seed=settings.seed,
        use_cpu=not gpu,
        bf16=gpu and dtype == torch.bfloat16,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _checkpoint(settings: TuningSettings) -> str | None:
    """Return what to go on from; None to begin.

    Raises:
        ValueError: there is nothing to go on from, or something that would be lost.
    """
    out = settings.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the adapter.")
    found = get_last_checkpoint(str(out)) if out.is_dir() else None
    if settings.resume:
        if found is None:
            raise ValueError(f"{out} has no checkpoint to go on from; leave out --resume.")
        return str(found)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; give a new folder, or --resume to go on in it.")
    return None


def _pad(tokenizer: Any) -> int:
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return 0 if found is None else int(found)


def _load(kind: Any, place: str, **more: Any) -> Any:
    """Return what transformers makes of a folder or name.

    Raises:
        ValueError: it cannot.
    """
    try:
        return kind.from_pretrained(place, **more)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        what = "the folder" if Path(place).is_dir() else "the name, and that its files are here"
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{place} cannot be loaded ({reason}); check {what}.") from error
