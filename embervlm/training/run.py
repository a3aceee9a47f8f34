"""Run one stage from its recipe: `embervlm train`, or under torchrun / accelerate launch

    torchrun --nproc_per_node 2 -m embervlm.training.run --recipe recipes/ember/select.yaml

The network comes from `model` (or is begun at random), the stage's phases are trained one after the
other, and `output_dir/network.safetensors` is what the next stage goes on with.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from embervlm.checkpoint import load_checkpoint
from embervlm.models.configuration import EmberConfig
from embervlm.models.modeling import EmberNetwork, save_network
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import Photos, Settings, accuracy, held_out_items, predict
from embervlm.training.grpo_trainer import GrpoTrainer, Requests
from embervlm.training.public_data import Examples, sources_of
from embervlm.training.recipe import NETWORK, Recipe, parse
from embervlm.training.rounding import keep_rounded, round_parts
from embervlm.training.stage_data import Answers, Decisions, Epochs, Reasons, captions_of
from embervlm.training.stages import STAGES, Phase, StageModule, begins_with
from embervlm.training.start import new_network, with_vision
from embervlm.training.trainer import EmberTrainer, checkpoints


@dataclass(frozen=True)
class Loaded:
    """What a network took from a file: names that were loaded, stayed new, or were left."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def summary(self) -> str:
        """Return the numbers, and the parts that stayed new or were left."""

        def parts(names: Sequence[str]) -> str:
            found = sorted({name.split(".")[0] for name in names})
            return f" ({', '.join(found)})" if found else ""

        return (
            f"{len(self.loaded)} tensors loaded, {len(self.new)} new{parts(self.new)}, "
            f"{len(self.dropped)} left{parts(self.dropped)}"
        )


def read_start(path: Path) -> tuple[EmberConfig, dict[str, Tensor]]:
    """Return configuration and weights of a run's network, or of a GGUF model, in floats.

    Raises:
        ValueError: it is neither.
    """
    if path.suffix == ".gguf":
        model = load_checkpoint(path)
        weights = {name: torch.from_numpy(value) for name, value in model.weights.items()}
        return EmberConfig.from_dict(model.config), weights
    try:
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get("config")
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); give the network.safetensors of a run, or a GGUF "
            "model."
        ) from error
    if told is None:
        raise ValueError(f"{path} has no configuration; it is not a network of this project.")
    return EmberConfig.from_dict(json.loads(told)), weights


def load_start(network: EmberNetwork, path: Path) -> Loaded:
    """Take from a network's file what has the same name and shape.

    Raises:
        ValueError: see `read_start`; or nothing in the file fits.
    """
    found = read_start(path)[1]
    ours = network.state_dict()
    fits = {k: v for k, v in found.items() if k in ours and ours[k].shape == v.shape}
    if not fits:
        raise ValueError(f"Nothing in {path} fits this network; give one of this project.")
    network.load_state_dict(fits, strict=False)
    return Loaded(tuple(fits), tuple(set(ours) - set(fits)), tuple(set(found) - set(fits)))


def train(recipe: Recipe) -> Path:
    """Train the recipe's stage; return the path of its network.

    Raises:
        ValueError: something that the recipe names is missing or does not fit, the loss became no
            number, or the disk is full; the last good checkpoint stays.
    """
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    stage, out = STAGES[recipe.stage], Path(recipe.output_dir)
    phases = [_without(phase, recipe) for phase in stage.phases]
    tokenizer = _tokenizer(recipe)
    photos = _photos(recipe)
    network = _network(recipe, tokenizer)
    if trainer_writes():
        out.mkdir(parents=True, exist_ok=True)
        tokenizer.save(out / "tokenizer.json")
    teacher = _teacher(recipe, network.config)
    data, validation = _data(recipe, network.config, tokenizer, photos)
    for number, phase in enumerate(phases, start=1):
        folder = out / f"phase-{number}" if len(phases) > 1 else out
        finished = folder / NETWORK
        if recipe.resume and len(phases) > 1 and finished.is_file():
            load_start(network, finished)
            continue
        added = add_low_rank(network, phase, recipe) if phase.low_rank else []
        if recipe.rounding != "none":
            round_parts(network, phase.moves)
        trainer = (GrpoTrainer if recipe.stage == "grpo" else EmberTrainer)(
            StageModule(network, stage, teacher),
            phase,
            recipe,
            data,
            validation,
            folder=folder,
            epochs=recipe.epochs / len(phases),
            measure=_measure(recipe, tokenizer, photos),
        )
        found = checkpoints(folder) if recipe.resume else []
        trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
        trainer.finish()
        keep_rounded(network)
        for layer in added:
            layer.merge()
        if trainer.args.should_save:
            _save(without_low_rank(network) if added else network, finished)
        trainer.accelerator.wait_for_everyone()
        if added:
            network = without_low_rank(network)
    if trainer_writes() and len(phases) > 1:
        _save(network, out / NETWORK)
    if recipe.push_to_hub and trainer_writes():
        push(out, recipe.push_to_hub)
    return out / NETWORK


def trainer_writes() -> bool:
    """Return whether this is the process that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def push(folder: Path, repository: str) -> None:
    """Upload a run's network and recipe to the Hugging Face hub.

    Raises:
        ValueError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            allow_patterns=[NETWORK, "recipe.json"],
        )
    except (OSError, HfHubHTTPError) as error:
        raise ValueError(
            f"{repository} was not uploaded ({error}); {folder / NETWORK} is whole, and "
            "'huggingface-cli upload' can be tried by hand."
        ) from error


def add_low_rank(network: EmberNetwork, phase: Phase, recipe: Recipe) -> list[Any]:
    """Give the matrices that the phase names a low-rank addition; return the layers with one."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    names = [
        name
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear) and begins_with(name, phase.low_rank)
    ]
    rank = recipe.lora_rank
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names)
    inject_adapter_in_model(config, network)
    return [part for part in network.modules() if isinstance(part, LoraLayer)]


def without_low_rank(network: EmberNetwork) -> EmberNetwork:
    """Return a network with the merged matrices under their own names."""
    plain = EmberNetwork(network.config)
    state = {
        name.replace(".base_layer.", "."): value
        for name, value in network.state_dict().items()
        if "lora_" not in name
    }
    plain.load_state_dict(state)
    return plain


def _without(phase: Phase, recipe: Recipe) -> Phase:
    """Return the phase without the parts that the recipe freezes.

    Raises:
        ValueError: nothing is left, or the recipe asks to round what gets low-rank additions.
    """
    frozen = tuple(part.strip() for part in recipe.freeze.split(",") if part.strip())
    moves, fresh, low_rank = (
        tuple(part for part in parts if not begins_with(part, frozen))
        for parts in (phase.moves, phase.fresh, phase.low_rank)
    )
    if not moves and not low_rank:
        raise ValueError(f"freeze is {recipe.freeze}; nothing of {recipe.stage} is left to train.")
    if low_rank and recipe.rounding != "none":
        raise ValueError(
            f"rounding is {recipe.rounding}, but {recipe.stage} adds to matrices that stay as they "
            "are; round in a later stage."
        )
    return replace(phase, moves=moves, fresh=fresh, low_rank=low_rank)


def _data(
    recipe: Recipe, config: EmberConfig, tokenizer: Tokenizer, photos: Photos | None
) -> tuple[Epochs, Epochs | None]:
    settings = Settings(seed=recipe.seed, redraw=recipe.redraw)
    if recipe.stage == "select":
        return (
            Decisions(config, tokenizer, photos, settings),
            Decisions(config, tokenizer, photos, settings, "validation"),
        )
    if recipe.stage == "reason":
        return (
            Reasons(config, tokenizer, recipe.seed),
            Reasons(config, tokenizer, recipe.seed, "validation"),
        )
    if recipe.stage == "grpo":
        return (
            Requests(config, tokenizer, recipe.seed),
            Requests(config, tokenizer, 0, "validation", recipe.examples),
        )
    captions = recipe.stage == "align"
    if recipe.data:
        return (
            _examples(recipe, recipe.data, config, tokenizer, recipe.examples),
            _examples(recipe, recipe.validation_data, config, tokenizer, min(256, recipe.examples))
            if recipe.validation_data
            else None,
        )
    if photos is None or not captions:
        or_else = (
            ", or vision, the folder of a vision run, for our own captions" if captions else ""
        )
        raise ValueError(
            f"{recipe.stage} needs data, a list of public sets (see data/public.py){or_else}."
        )
    said = captions_of(photos)
    held = said[: max(1, len(said) // 50)]
    kept = [one for one in said if one.photo not in {h.photo for h in held}]
    return (
        Answers(config, tokenizer, photos, kept, recipe.seed, captions=captions),
        Answers(config, tokenizer, photos, held, recipe.seed, captions=captions),
    )


def _examples(
    recipe: Recipe,
    entries: Sequence[Mapping[str, Any]],
    config: EmberConfig,
    tokenizer: Tokenizer,
    count: int,
) -> Examples:
    return Examples(
        config,
        tokenizer,
        sources_of(entries),
        seed=recipe.seed,
        count=count,
        captions=recipe.stage == "align",
    )


def _measure(recipe: Recipe, tokenizer: Tokenizer, photos: Photos | None) -> Any:
    if recipe.stage != "select":
        return None
    items = held_out_items("validation", tokenizer, photos, Settings().max_tokens)

    def measure(network: EmberNetwork) -> dict[str, float]:
        found = accuracy(predict(network, items["requests"], photos), items["requests"])
        if items["photo"]:
            photo = accuracy(predict(network, items["photo"], photos), items["photo"])
            found |= {f"photo_{name}": value for name, value in photo.items()}
        return {name: round(value, 4) for name, value in found.items()}

    return measure


def _network(recipe: Recipe, tokenizer: Tokenizer) -> EmberNetwork:
    path = Path(recipe.model) if recipe.model else None
    config = EmberConfig(vocabulary_size=len(tokenizer)) if path is None else read_start(path)[0]
    # GRPO trains the very network that it draws from.
    config = replace(config, dropout=0.0 if recipe.stage == "grpo" else recipe.dropout)
    if config.vocabulary_size != len(tokenizer):
        raise ValueError(
            f"{path} has {config.vocabulary_size} tokens, the tokenizer {len(tokenizer)}; they "
            "must be of one run."
        )
    network = new_network(config)
    if recipe.vision and (Path(recipe.vision) / "vision.safetensors").is_file():
        with_vision(network, Path(recipe.vision))
    if path is not None:
        sys.stderr.write(f"{path}: {load_start(network, path).summary()}\n")
    network.text.checkpointed = recipe.gradient_checkpointing
    return network


def _teacher(recipe: Recipe, config: EmberConfig) -> EmberNetwork | None:
    if not recipe.teacher:
        return None
    path = Path(recipe.teacher)
    theirs = read_start(path)[0]
    if theirs.vocabulary_size != config.vocabulary_size:
        raise ValueError(
            f"The teacher has {theirs.vocabulary_size} tokens, the network "
            f"{config.vocabulary_size}: only one with the same vocabulary can be imitated so."
        )
    teacher = EmberNetwork(theirs)
    load_start(teacher, path)
    return teacher.eval().requires_grad_(False)


def _tokenizer(recipe: Recipe) -> Tokenizer:
    """Return the recipe's tokenizer, or the one that belongs to its model."""
    if recipe.tokenizer:
        return Tokenizer.from_file(Path(recipe.tokenizer))
    model = Path(recipe.model)
    if model.suffix == ".gguf" and model.is_file():
        return load_checkpoint(model).tokenizer
    beside = model.parent / "tokenizer.json"
    return Tokenizer.from_file(beside) if beside.is_file() else load_checkpoint().tokenizer


def _photos(recipe: Recipe) -> Photos | None:
    if not recipe.vision:
        return None
    try:
        return Photos.load(Path(recipe.vision), Path(recipe.shared))
    except (OSError, KeyError) as error:
        raise ValueError(
            f"vision is {recipe.vision}, shared is {recipe.shared}, and {error} is not there; give "
            "the folder of a vision run and the one that holds photos/."
        ) from error


def _save(network: EmberNetwork, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(network, path)


def run(arguments: Sequence[str]) -> Path:
    """Train as the flags say, with each recipe written beside its run; return the last network.

    Raises:
        ValueError: see `recipe.parse` and `train`.
    """
    path = Path()
    for recipe in parse(arguments):
        if trainer_writes():
            out = Path(recipe.output_dir)
            out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(recipe.to_dict(), indent=2) + "\n"
            (out / "recipe.json").write_text(text, "utf-8")
        path = train(recipe)
    return path


def main() -> None:
    """Train as the flags of this program say; the user's mistakes are one sentence and code 2."""
    try:
        path = run(sys.argv[1:])
    except ValueError as error:
        sys.stderr.write(f"embervlm: {error}\n")
        sys.exit(2)
    if trainer_writes():
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
