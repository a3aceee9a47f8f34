"""Prepare a stage of `ember-37m` as its recipe says; `run.py` runs it.

The network comes from `model`, the network of a former stage; or from `published`, a vision and a
language checkpoint; or it is begun at random. The tokenizer is that of the model's folder, or of
the language checkpoint, or what `tokenizer` names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embervlm.models import presets
from embervlm.models.configuration import PRESETS, PrefixConfig
from embervlm.models.ember_37m import Ember37M, start_from_published
from embervlm.models.gpt2_tokenizer import TOKENIZER, Gpt2Tokenizer
from embervlm.training.callbacks import examination_of
from embervlm.training.carry_over import load_start, read_config
from embervlm.training.decisions import Settings
from embervlm.training.family import Family, Prepared
from embervlm.training.prefix_data import (
    PrefixAnswers,
    PrefixDecisions,
    PrefixForm,
    PrefixReasons,
)
from embervlm.training.prefix_photos import PhotoFolder
from embervlm.training.prefix_stages import PREFIX_STAGES
from embervlm.training.public_data import Examples, keeps_logits, sources_of
from embervlm.training.recipe import Recipe
from embervlm.training.stage_data import Epochs, captions_of
from embervlm.training.teacher_scores import read_scores

PRESET = PrefixConfig.family


def prepare(recipe: Recipe) -> Prepared:
    """Return the stage's network, tokenizer and data.

    Raises:
        ValueError: something that the recipe names is missing or does not fit.
    """
    if recipe.vision:
        raise ValueError(f"vision is {recipe.vision}, which {PRESET} has no use for; leave it out.")
    if recipe.rounding != "none":
        raise ValueError(f"rounding is {recipe.rounding}; {PRESET} has no file of four bits yet.")
    for name in (
        "drop_digits", "drop_numbers", "vary", "lose_words", "two_views", "authors_again",
    ):  # fmt: skip
        if (value := getattr(recipe, name)) != getattr(Recipe, name):
            raise ValueError(f"{name} is {value}; {PRESET} reads requests as they stand.")
    if recipe.teacher and recipe.stage not in ("instruct", "select"):
        raise ValueError(f"{recipe.stage} takes no teacher; instruct and select of {PRESET} do.")
    published = _published(recipe)
    tokenizer = _tokenizer(recipe, published)
    network = _network(recipe, tokenizer, published)
    teacher = _teacher(recipe, network.config)
    data, validation = _data(recipe, network.config, tokenizer)
    return Prepared(
        network=network,
        tokenizer=tokenizer,
        teacher=teacher,
        data=data,
        validation=validation,
        measure=(
            examination_of(validation.groups(), None, recipe.scenarios, validation.predict)
            if isinstance(validation, PrefixDecisions)
            else None
        ),
    )


PREFIX = Family(PREFIX_STAGES, prepare)


def _published(recipe: Recipe) -> tuple[str, str] | None:
    """Return the names or folders of the vision and the language checkpoint."""
    if not recipe.published:
        return None
    if recipe.model:
        raise ValueError(
            f"model is {recipe.model} and published is {recipe.published}; a network begins with "
            "one of them."
        )
    names = [name.strip() for name in recipe.published.split(",")]
    if len(names) != 2 or not all(names):
        raise ValueError(
            f"published is {recipe.published!r}; expected two checkpoints with a comma between "
            "them, vision and language, each a folder or a hub name."
        )
    return names[0], names[1]


def _tokenizer(recipe: Recipe, published: tuple[str, str] | None) -> Gpt2Tokenizer:
    if recipe.tokenizer:
        return Gpt2Tokenizer.from_published(recipe.tokenizer)
    if published:
        return Gpt2Tokenizer.from_published(published[1])
    if recipe.model:
        return Gpt2Tokenizer.from_published(Path(recipe.model).parent / TOKENIZER)
    raise ValueError(
        f"{PRESET} needs a tokenizer of GPT-2's kind; give tokenizer, the folder or hub name of a "
        "checkpoint with one, or published or model, which bring theirs."
    )


def _network(
    recipe: Recipe, tokenizer: Gpt2Tokenizer, published: tuple[str, str] | None
) -> Ember37M:
    path = Path(recipe.model) if recipe.model else None
    config = PRESETS[PRESET] if path is None else read_config(path)
    assert isinstance(config, PrefixConfig), "the file names the family"
    if config.vocabulary_size != len(tokenizer):
        raise ValueError(
            f"{path or PRESET} has {config.vocabulary_size} tokens, the tokenizer "
            f"{len(tokenizer)}, special tokens included; they must belong together."
        )
    network = Ember37M(replace(config, dropout=recipe.dropout))
    if path is not None:
        sys.stderr.write(f"{path}: {load_start(network, path).summary()}\n")
    if published is not None:
        reports = start_from_published(
            network, vision=published[0], language=published[1], seed=recipe.seed
        )
        sys.stderr.write("".join(f"{report}\n" for report in reports))
    network.decoder.checkpointed = recipe.gradient_checkpointing
    return network


def _teacher(recipe: Recipe, config: PrefixConfig) -> Ember37M | None:
    if not recipe.teacher:
        return None
    teacher = presets.load(Path(recipe.teacher))
    names = ("vocabulary_size", "image_tokens", "image_size", "text_width")
    if not isinstance(teacher, Ember37M):
        raise ValueError(f"The teacher {recipe.teacher} is none of {PRESET}, and reads otherwise.")
    for name in names:
        if (theirs := getattr(teacher.config, name)) != (ours := getattr(config, name)):
            raise ValueError(
                f"The teacher {recipe.teacher} has {name} {theirs}, the network {ours}; only one "
                "with the same can be imitated."
            )
    return teacher.eval().requires_grad_(False)


def _data(
    recipe: Recipe, config: PrefixConfig, tokenizer: Gpt2Tokenizer
) -> tuple[Epochs, Epochs | None]:
    if recipe.stage == "select":
        photos = PhotoFolder.load(Path(recipe.shared)) if recipe.shared else None
        settings = Settings(
            seed=recipe.seed,
            redraw=recipe.redraw,
            scenarios=recipe.scenarios,
        )
        scores = read_scores(recipe.teacher_scores) if recipe.teacher_scores else None
        return (
            PrefixDecisions(config, tokenizer, photos, settings, scores=scores),
            PrefixDecisions(config, tokenizer, photos, settings, "validation"),
        )
    if recipe.stage == "reason":
        return (
            PrefixReasons(tokenizer, recipe.seed, scenarios=recipe.scenarios),
            PrefixReasons(tokenizer, recipe.seed, "validation", recipe.scenarios),
        )
    form = PrefixForm(config, tokenizer, captions=recipe.stage == "align")
    if recipe.data:
        held = recipe.validation_data
        return (
            _examples(recipe, form, recipe.data, recipe.examples),
            _examples(recipe, form, held, min(256, recipe.examples)) if held else None,
        )
    if recipe.stage == "instruct" or not recipe.shared:
        raise ValueError(f"{recipe.stage} needs data, a list of public sets (see data/public.py).")
    photos = PhotoFolder.load(Path(recipe.shared))
    said = captions_of(photos)
    held_out = {one.photo for one in said[: max(1, len(said) // 50)]}
    return (
        PrefixAnswers(form, photos, [s for s in said if s.photo not in held_out], recipe.seed),
        PrefixAnswers(form, photos, [s for s in said if s.photo in held_out], recipe.seed),
    )


def _examples(
    recipe: Recipe, form: PrefixForm, entries: Sequence[Mapping[str, Any]], count: int
) -> Examples:
    sources = sources_of(entries)
    logits = keeps_logits(entries, recipe.stage, recipe.teacher)
    return Examples(form, sources, seed=recipe.seed, count=count, logits=logits)
