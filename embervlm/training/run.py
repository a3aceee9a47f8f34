"""Run one stage from its recipe: `embervlm train`, or under torchrun / accelerate launch

    torchrun --nproc_per_node 2 -m embervlm.training.run --recipe recipes/ember/select.yaml

The network comes from `model` (or is begun at random), the stage's phases are trained one after the
other, and `output_dir/network.safetensors` is what the next stage goes on with. A folder that holds
a run goes on with that run alone: the same recipe (`APART` may differ), the same rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embervlm.checkpoint import load_checkpoint
from embervlm.data.scenarios import DATA_DIR, FILES
from embervlm.models.configuration import PRESETS, EmberConfig, config_of
from embervlm.models.modeling import EmberNetwork, save_network
from embervlm.tokenizer import Tokenizer
from embervlm.training.bitmar import BITMAR_STAGES
from embervlm.training.callbacks import (
    LOG,
    SESSIONS,
    Examination,
    examination_of,
    summarise_phases,
)
from embervlm.training.carry_over import load_start, read_config
from embervlm.training.decisions import Photos, Settings, held_out_items
from embervlm.training.family import Family, Prepared
from embervlm.training.grpo_trainer import GrpoTrainer, Requests
from embervlm.training.low_rank import add_low_rank, without_low_rank
from embervlm.training.moving_average import whole
from embervlm.training.public_data import EmberForm, Examples, keeps_logits, sources_of
from embervlm.training.recipe import NETWORK, Recipe, asks_for_test_only, parse
from embervlm.training.requirements import check_machine
from embervlm.training.rounding import keep_rounded, round_parts
from embervlm.training.stage_data import Answers, Decisions, Epochs, Reasons, captions_of
from embervlm.training.stages import STAGES, Phase, StageModule, begins_with
from embervlm.training.start import new_network, with_vision
from embervlm.training.teacher_scores import read_scores
from embervlm.training.trainer import EmberTrainer, checkpoints

RECIPE, ROWS = "recipe.json", "rows.sha256"
# What a run that goes on may have otherwise: its weights do not depend on it.
APART = frozenset(
    ("output_dir", "resume", "report_to", "log_steps", "threads", "workers", "keep", "push_to_hub",
     "country")
)  # fmt: skip


def train(recipe: Recipe) -> Path:
    """Train the recipe's stage, with the recipe written beside; return the path of its network.

    Raises:
        ValueError: something that the recipe names is missing or does not fit, the folder holds
            another run, the loss became no number, or the disk is full; the last good checkpoint
            stays.
    """
    check_machine(recipe)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    family, out = family_of(recipe), Path(recipe.output_dir)
    stage = family.stages.get(recipe.stage)
    if stage is None:
        there_are = ", ".join(family.stages)
        raise ValueError(f"This family has no stage {recipe.stage}; there are {there_are}.")
    phases = [_without(phase, recipe) for phase in stage.phases]
    prepared = family.prepare(recipe)
    network = prepared.network
    if trainer_writes():
        _begin(recipe, out)
        prepared.tokenizer.save(out / "tokenizer.json")
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
            StageModule(network, stage, prepared.teacher),
            phase,
            recipe,
            prepared.data,
            prepared.validation,
            folder=folder,
            epochs=recipe.epochs / len(phases),
            measure=prepared.measure,
        )
        found = checkpoints(folder) if recipe.resume else []
        trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
        trainer.finish()
        with whole(trainer.module):
            keep_rounded(network)
            for layer in added:
                layer.merge()
            if trainer.args.should_save:
                _save(without_low_rank(network) if added else network, finished)
        trainer.accelerator.wait_for_everyone()
        if added:
            network = without_low_rank(network)
    if trainer_writes() and isinstance(prepared.data, Examples):
        sys.stderr.write("".join(f"{line}\n" for line in prepared.data.left_out()))
    if trainer_writes() and len(phases) > 1:
        shutil.copyfile(finished, out / NETWORK)
        folders = [out / f"phase-{number}" for number in range(1, len(phases) + 1)]
        summarise_phases(stage.name, out, folders)
    if recipe.push_to_hub and trainer_writes():
        push(out, recipe.push_to_hub)
    return out / NETWORK


def _begin(recipe: Recipe, out: Path) -> None:
    """Write the recipe and the hash of its rows, if the folder's run is this one or is dropped.

    Raises:
        ValueError: the folder holds a run with other settings or rows, and is to be gone on with.
    """
    told: dict[str, Any] = json.loads(json.dumps(recipe.to_dict()))
    rows, folders = _rows_hash(recipe), [out, *out.glob("phase-*")]
    if not recipe.resume:
        for folder in folders:
            _drop(folder, with_network=folder != out)
    elif any(
        checkpoints(folder) or (folder != out and (folder / NETWORK).is_file())
        for folder in folders
    ):
        # A key that a later version has brought was its default.
        before = json.loads(json.dumps(Recipe().to_dict())) | _read_recipe(out / RECIPE, told)
        other = [name for name in before if name not in APART and before[name] != told.get(name)]
        if (out / ROWS).is_file() and (out / ROWS).read_text("utf-8").strip() != rows:
            other.append("rows of scenarios")
        if other:
            raise ValueError(
                f"{out} holds a run with other {', '.join(other)}; give another --output-dir, or "
                "--no-resume to begin anew."
            )
    out.mkdir(parents=True, exist_ok=True)
    (out / RECIPE).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    (out / ROWS).write_text(rows + "\n", "utf-8")


def _read_recipe(path: Path, or_else: dict[str, Any]) -> dict[str, Any]:
    """Return what a run's recipe says; `or_else` where there is none."""
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else or_else
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is not whole; give another --output-dir, or --no-resume to begin anew."
        )
    return found


def _rows_hash(recipe: Recipe) -> str:
    """Return the SHA-256 over the files of rows that the stage learns from."""
    digest = hashlib.sha256()
    for name in FILES if recipe.stage in ("select", "reason", "grpo") else ():
        path = Path(recipe.scenarios or DATA_DIR) / f"{name}.jsonl"
        digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return digest.hexdigest()


def _drop(folder: Path, *, with_network: bool) -> None:
    """Remove what a run has left in a folder and the next would take for its own."""
    for path in checkpoints(folder):
        shutil.rmtree(path)
    names = [LOG, SESSIONS, *([NETWORK] if with_network else [])]
    for path in (*folder.glob("best.*"), *(folder / name for name in names)):
        path.unlink(missing_ok=True)


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
            allow_patterns=[NETWORK, RECIPE, "tokenizer.json"],
        )
    except (OSError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{repository} was not uploaded ({reason}); {folder / NETWORK} is whole, and "
            f"'hf upload {repository} {folder / NETWORK}' can be tried by hand."
        ) from error


def family_of(recipe: Recipe) -> Family:
    """Return the family of the model that the recipe goes on with, else of its preset.

    Raises:
        ValueError: there is no such preset, or the model is of another one.
    """
    from embervlm.training.prefix import PREFIX

    families = {
        "ember-nano": Family(STAGES, prepare),
        "bitmar": Family(BITMAR_STAGES, prepare),
        "ember-37m": PREFIX,
    }
    name = read_config(Path(recipe.model)).family if recipe.model else recipe.preset
    if recipe.preset not in (name, Recipe.preset):
        raise ValueError(f"{recipe.model} is of the family {name}; preset is {recipe.preset}.")
    return families[name]


def prepare(recipe: Recipe) -> Prepared:
    """Return what a stage of `ember-nano` or `bitmar` begins with.

    Raises:
        ValueError: something that the recipe names is missing or does not fit.
    """
    tokenizer = _tokenizer(recipe)
    network = _network(recipe, tokenizer)
    if recipe.published:
        _see_as_published(network, recipe.published)
    photos = _photos(recipe, network.config.image_grid)
    data, validation = _data(recipe, network.config, tokenizer, photos)
    return Prepared(
        network=network,
        tokenizer=tokenizer,
        teacher=_teacher(recipe, network.config),
        data=data,
        validation=validation,
        measure=_measure(recipe, tokenizer, photos),
    )


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
    return replace(phase, moves=moves, fresh=fresh, low_rank=low_rank, stays=frozen)


def _data(
    recipe: Recipe, config: EmberConfig, tokenizer: Tokenizer, photos: Photos | None
) -> tuple[Epochs, Epochs | None]:
    settings = Settings(
        seed=recipe.seed,
        redraw=recipe.redraw,
        drop_digits=recipe.drop_digits,
        drop_numbers=recipe.drop_numbers,
        vary=recipe.vary,
        lose_words=recipe.lose_words,
        two_views=recipe.two_views,
        authors_again=recipe.authors_again,
        scenarios=recipe.scenarios,
        plans=recipe.plans,
    )
    if recipe.stage == "select":
        scores = read_scores(recipe.teacher_scores) if recipe.teacher_scores else None
        return (
            Decisions(config, tokenizer, photos, settings, scores=scores),
            Decisions(config, tokenizer, photos, settings, "validation"),
        )
    if recipe.stage == "reason":
        return (
            Reasons(config, tokenizer, recipe.seed, scenarios=recipe.scenarios),
            Reasons(config, tokenizer, recipe.seed, "validation", recipe.scenarios),
        )
    if recipe.stage == "grpo":
        return (
            Requests(config, tokenizer, recipe.seed, scenarios=recipe.scenarios),
            Requests(
                config, tokenizer, 0, "validation", recipe.examples, scenarios=recipe.scenarios
            ),
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
    form = EmberForm(config, tokenizer, captions=recipe.stage == "align")
    sources = sources_of(entries)
    logits = keeps_logits(entries, recipe.stage, recipe.teacher)
    return Examples(form, sources, seed=recipe.seed, count=count, logits=logits)


def _measure(recipe: Recipe, tokenizer: Tokenizer, photos: Photos | None) -> Examination | None:
    """Return what looks at the answers to validation, where the stage's network decides."""
    if "subsets" not in STAGES[recipe.stage].losses:
        return None
    own, length = recipe.scenarios, Settings().max_tokens
    return examination_of(held_out_items("validation", tokenizer, photos, length, own), photos, own)


def _network(recipe: Recipe, tokenizer: Tokenizer) -> EmberNetwork:
    path = Path(recipe.model) if recipe.model else None
    config = PRESETS[recipe.preset] if path is None else read_config(path)
    assert isinstance(config, EmberConfig), "the file names the family"
    if path is None:
        config = config_of(
            {
                **config.to_dict(),
                "family": config.family,
                "vocabulary_size": len(tokenizer),
                **dict(recipe.switches),
            }
        )
        assert isinstance(config, EmberConfig), "a preset of this family"
    # GRPO trains the very network that it draws from.
    config = replace(config, dropout=0.0 if recipe.stage == "grpo" else recipe.dropout)
    if config.vocabulary_size != len(tokenizer):
        raise ValueError(
            f"{path} has {config.vocabulary_size} tokens, the tokenizer {len(tokenizer)}; they "
            "must be of one run."
        )
    network = new_network(config)
    if recipe.vision:
        with_vision(network, Path(recipe.vision))
    if path is not None:
        sys.stderr.write(f"{path}: {load_start(network, path).summary()}\n")
    network.text.checkpointed = recipe.gradient_checkpointing
    return network


def _see_as_published(network: EmberNetwork, name: str) -> None:
    """Put DINOv2's published weights into a network that sees with it.

    Raises:
        ValueError: the network sees with another eye, or the weights are not to be had.
    """
    from embervlm.models.dinov2 import Dinov2Vision

    config = network.config
    if not config.vision.startswith("dinov2"):
        raise ValueError(
            f"published is {name}, and the network sees with {config.vision}; only dinov2-small "
            'and dinov2-base have published weights (switches: {"vision": "dinov2-small", ...}).'
        )
    found = Dinov2Vision.from_pretrained(name)
    if found.channels != config.image_width:
        raise ValueError(
            f"{name} gives {found.channels} features and image_width is {config.image_width}; "
            "make them the same."
        )
    network.vision = found


def _teacher(recipe: Recipe, config: EmberConfig) -> EmberNetwork | None:
    if not recipe.teacher:
        return None
    path = Path(recipe.teacher)
    theirs = read_config(path)
    if not isinstance(theirs, EmberConfig):
        raise ValueError(
            f"The teacher {path} is of the family {theirs.family}, not ember-nano or bitmar."
        )
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


def _photos(recipe: Recipe, grid: int) -> Photos | None:
    if not recipe.vision:
        return None
    try:
        return Photos.load(Path(recipe.vision), Path(recipe.shared), grid)
    except (OSError, KeyError) as error:
        raise ValueError(
            f"vision is {recipe.vision}, shared is {recipe.shared}, and {error} is not there; give "
            "the folder of a vision run and the one that holds photos/."
        ) from error


def _save(network: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(network, path)


def test(recipe: Recipe) -> Path:
    """Evaluate what the recipe has left on the test split; return the path of the report.

    Photos and external sets are part of it where the recipe's `shared` folder has them. With
    `scenarios` it is the test split of those, and they alone are measured.

    Raises:
        ValueError: the recipe has left no network.
    """
    from embervlm.evaluation.run import run as evaluate

    network, shared = Path(recipe.output_dir) / NETWORK, Path(recipe.shared)
    if not network.is_file():
        raise ValueError(f"{network} is not there; train first, without --test-only.")
    has_sets = bool(recipe.shared) and all((shared / x).is_dir() for x in ("photos", "public"))
    report = network.with_name("test.json")
    evaluate(
        "test", network, "pytorch", shared if has_sets else None, report, False, None,
        scenarios=recipe.scenarios,
    )  # fmt: skip
    return report


def run(arguments: Sequence[str]) -> Path:
    """Train as the flags say; return the last network, or with `--test-only` the report on the one
    that is there.

    Raises:
        ValueError: see `recipe.parse`, `train` and `test`.
    """
    recipes, path = parse(arguments), Path()
    if asks_for_test_only(arguments):
        return test(recipes[-1])
    for recipe in recipes:
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
