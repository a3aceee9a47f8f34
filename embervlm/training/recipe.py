"""What one run of a stage is made of: a YAML file, and flags that go before it.

    embervlm train --stage select --recipe recipes/ember/select.yaml --learning-rate 1e-4
    torchrun --nproc_per_node 4 -m embervlm.training.run --recipe recipes/ember/select.yaml
    embervlm train --stage all --recipe recipes/ember/*.yaml --output-dir build/ember
    embervlm train --recipe recipes/bitmar/unified.yaml --skip-pretrain

Every key of the file is a field of `Recipe` and a flag; one that is not known is an error.
"""

from __future__ import annotations

import argparse
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from embervlm.models.configuration import PRESETS

PRECISIONS = ("auto", "bf16", "fp16", "none")
REPORTS = ("tensorboard", "wandb", "mlflow", "codecarbon")
ROUNDINGS = ("none", "q4_0")
BASELINES = ("group", "value")
STAGES = ("align", "instruct", "select", "reason", "grpo")
# What a run leaves in its folder, and the next one goes on with.
NETWORK = "network.safetensors"
# The only key of a file that names other recipes.
STEPS = "steps"


def _field(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Recipe:
    """A stage and its settings; the defaults suit `ember-nano` on two cores."""

    stage: str = _field("select", f"one of {', '.join(STAGES)}; all: see --recipe")
    preset: str = _field("ember-nano", f"one of {', '.join(PRESETS)}; a model brings its own")
    switches: dict[str, Any] = _field(
        (),
        "fields of a preset that a new network has otherwise, such as linear (a flag takes JSON)",
    )
    model: str = _field(
        "", "network.safetensors or GGUF model to go on with; without it, random weights"
    )
    published: str = _field(
        "", "ember-37m: vision and language weights to begin with, folders or hub names, a comma"
    )
    tokenizer: str = _field("", "tokenizer.json; without it, that of the model")
    shared: str = _field("../shared", "folder that holds photos/ and text/")
    vision: str = _field("", "folder of a vision run (features.npz); without it, words alone")
    scenarios: str = _field(
        "", "folder of your own scenarios.jsonl, in the form of data/; without it, the repository's"
    )
    data: list[Any] = _field(
        (), "align, instruct: public sets, each with set, weight and its paths (a flag takes JSON)"
    )
    validation_data: list[Any] = _field((), "the same, to look at validation")
    teacher: str = _field(
        "", "instruct, select: network.safetensors or GGUF model that is imitated"
    )
    teacher_scores: str = _field(
        "", "select: robots.jsonl of 'embervlm distill', whose scores are a soft target too"
    )
    freeze: str = _field(
        "", "parts that stay though the stage would move them: text., heads.primary, text.layers.0."
    )
    rounding: str = _field("none", f"{' or '.join(ROUNDINGS)}: what moves is trained in four bits")
    plans: bool = _field(
        True, "select: written plans too; the plans' part learns best of a reader that has not"
    )
    redraw: float = _field(0.25, "select: how often requests are read again with other numbers")
    drop_digits: float = _field(
        0.3, "select: share of requests read without their digits, by the marks behind them alone"
    )
    drop_numbers: float = _field(
        0.0, "select: share of requests read without their numbers and units, by the marks alone"
    )
    vary: float = _field(
        0.0, "select: share of requests with numbers read with others between the same thresholds"
    )
    lose_words: float = _field(
        0.0, "select: share of requests read with a tenth of their plain words left out"
    )
    authors_again: float = _field(
        0.5, "select: how often an epoch reads the first authors' requests once more"
    )
    two_views: float = _field(
        0.0, "select: share of photos seen in two views, whose decisions are drawn together"
    )
    output_dir: str = _field("build/train", "where checkpoints and the network go")
    epochs: float = _field(1.0, "passes over the data; parts of one are allowed")
    max_steps: int = _field(-1, "steps of the optimiser at most; -1: as the epochs say")
    examples: int = _field(0, "examples of an epoch at most; 0: all")
    batch_size: int = _field(32, "examples a process and a step forward")
    gradient_accumulation: int = _field(1, "steps forward for one of the optimiser")
    learning_rate: float = _field(2e-4, "peak rate of what was trained before")
    head_learning_rate: float = _field(1e-3, "peak rate of heads and image tokens")
    warmup_steps: int = _field(50, "steps until the peak; from there the rate falls to zero")
    weight_decay: float = _field(0.02, "pull of the weights towards zero, by AdamW")
    max_grad_norm: float = _field(1.0, "longer gradients are cut to this length; 0: never")
    average: float = _field(0.995, "weights are averaged over steps with this memory; 0: not")
    mixed_precision: str = _field("auto", f"one of {', '.join(PRECISIONS)}; auto: bf16 where fast")
    gradient_checkpointing: bool = _field(False, "compute twice what would be kept: less memory")
    dropout: float = _field(
        0.1, "share of activations that a step leaves out; none in grpo, which trains what it draws"
    )
    lora_rank: int = _field(16, "align: rank of what is added to the language layers' matrices")
    group: int = _field(8, "grpo: answers drawn to each request")
    pool: int = _field(1, "grpo: requests read for one that is answered; the least sure is")
    iterations: int = _field(2, "grpo: steps of the optimiser on the same answers")
    temperature: float = _field(1.0, "grpo: above 1 the draws differ more, below 1 less")
    clip: float = _field(0.2, "grpo: how far from 1 a ratio of chances still counts")
    kl: float = _field(0.04, "grpo: weight of the distance from the network it began with")
    rewards: str = _field(
        "set,format,faithfulness,brevity", "grpo: what counts of an answer, with commas"
    )
    baseline: str = _field(
        "group",
        f"grpo: {' or '.join(BASELINES)}: an answer is held against others, or what bitmar expects",
    )
    log_steps: int = _field(20, "steps between two lines of the log")
    eval_steps: int = _field(0, "steps between two looks at validation; 0: once an epoch")
    save_steps: int = _field(0, "steps between two checkpoints; 0: once an epoch")
    keep: int = _field(2, "how many checkpoints stay")
    resume: bool = _field(True, "go on from the newest whole checkpoint in output_dir")
    seed: int = _field(1, "of all that is drawn")
    threads: int = _field(2, "of PyTorch, on the processor")
    workers: int = _field(0, "processes that make batches ahead of a fast card; 0: none")
    report_to: str = _field(
        "tensorboard", "with commas: tensorboard, wandb, mlflow, codecarbon; none"
    )
    country: str = _field(
        "", "three-letter code of where the machine stands, for codecarbon's CO2e; else world mean"
    )
    push_to_hub: str = _field("", "repository of the Hugging Face hub that gets the network")

    def __post_init__(self) -> None:
        """Refuse values that no run can have.

        Raises:
            ValueError: which, and what was expected.
        """
        choices = (
            ("preset", PRESETS), ("stage", STAGES), ("mixed_precision", PRECISIONS),
            ("rounding", ROUNDINGS), ("baseline", BASELINES),
        )  # fmt: skip
        for name, allowed in choices:
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}; there are {', '.join(allowed)}.")
        if self.switches and self.model:
            raise ValueError(
                f"switches are of a new network, and {self.model} brings its own; leave one out."
            )
        if self.teacher_scores and self.stage != "select":
            raise ValueError(f"teacher_scores are for the stage select, and stage is {self.stage}.")
        at_least = {
            "batch_size": 1, "gradient_accumulation": 1, "warmup_steps": 0, "weight_decay": 0,
            "max_grad_norm": 0, "learning_rate": 0, "head_learning_rate": 0, "log_steps": 1,
            "eval_steps": 0, "save_steps": 0, "keep": 1, "threads": 1, "examples": 0,
            "lora_rank": 1, "workers": 0, "group": 2, "pool": 1, "iterations": 1, "kl": 0,
            "redraw": 0, "drop_digits": 0, "drop_numbers": 0,
            "vary": 0, "lose_words": 0, "two_views": 0, "authors_again": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more.")
        for name in ("average", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more, below 1.")
        for name in ("drop_digits", "drop_numbers", "vary", "lose_words", "two_views"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        for name in ("temperature", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.stage == "grpo" and self.save_steps % self.iterations:
            raise ValueError(
                f"save_steps is {self.save_steps}; it must be a multiple of iterations, "
                f"{self.iterations}: answers that are still in use are not saved."
            )
        if not self.epochs > 0 and self.max_steps < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be above 0, or give max_steps.")

        if unknown := set(self.reports) - set(REPORTS):
            raise ValueError(
                f"report_to names {', '.join(sorted(unknown))}; there are {', '.join(REPORTS)} and "
                "none."
            )
        if self.country and "codecarbon" not in self.reports:
            raise ValueError(
                f"country is {self.country!r}, which only codecarbon reads; add it to report_to."
            )

    @property
    def reports(self) -> tuple[str, ...]:
        """What `report_to` names, without none."""
        names = (name.strip() for name in self.report_to.split(","))
        return tuple(name for name in names if name not in ("", "none"))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the recipe") -> Recipe:
        """Build from plain values.

        Raises:
            ValueError: an unknown key, or a value of another kind than its field.
        """
        kinds = get_type_hints(cls)
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise ValueError(
                f"Unknown keys in {where}: {', '.join(sorted(map(str, unknown)))}; "
                f"known: {', '.join(f.name for f in fields(cls))}."
            )
        return cls(**{name: _of_kind(name, value, kinds[name]) for name, value in values.items()})

    @classmethod
    def from_yaml(cls, path: str | Path) -> Recipe:
        """Read a recipe file.

        Raises:
            ValueError: it is missing, no YAML, or `from_dict` refuses what it says.
        """
        return cls.from_dict(_read(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as a YAML file holds them."""
        return asdict(self)


def parse(arguments: Sequence[str]) -> list[Recipe]:
    """Return the recipes that flags name: `--recipe FILE ...`, then a flag for each field.

    With `--stage all` there is one for each file, in the order of STAGES; with a file that holds
    `steps`, the names of recipes beside it, one for each step, in its order. Each then has the
    network before it as `model`, and a folder of its own in `output_dir` if that flag is given.
    `--skip-pretrain` leaves out all that are for align; what follows begins as they would have.
    Else there is one recipe.

    Raises:
        SystemExit: `--help`, or flags that argparse refuses (code 2).
        ValueError: nothing is given, or a file or a value is wrong.
    """
    if not arguments:
        raise ValueError(
            "Nothing says what to train: give a recipe, such as --recipe "
            "recipes/ember/select.yaml; --help lists its keys."
        )
    given = vars(_parser().parse_args(list(arguments)))
    files, skips = given.pop("recipe") or [], given.pop("skip_pretrain")
    del given["test_only"]
    values = {name: value for name, value in given.items() if value is not None}
    if values.get("stage") == "all":
        found = _by_stage(files, values)
    elif len(files) > 1:
        raise ValueError(f"{len(files)} recipes were given; more than one need --stage all.")
    elif files and STEPS in (content := _read(files[0])):
        found = _by_steps(files[0], content, values)
    else:
        content = _read(files[0]) if files else {}
        found = {"": Recipe.from_dict(content | values, files[0] if files else "the flags")}
    return _one_after_the_other(found, values, skips_pretrain=skips)


def asks_for_test_only(arguments: Sequence[str]) -> bool:
    """Return whether `--test-only` is among the flags: nothing is to be trained."""
    return bool(_parser().parse_args(list(arguments)).test_only)


def _by_stage(files: Sequence[str], values: dict[str, Any]) -> dict[str, Recipe]:
    """Return the recipes of files in the order of their stages, by stage."""
    if not files:
        raise ValueError("--stage all needs --recipe with a file for each stage to be run.")
    del values["stage"]
    read = [Recipe.from_dict(_read(file) | values, file) for file in files]
    stages = [recipe.stage for recipe in read]
    if twice := sorted({stage for stage in stages if stages.count(stage) > 1}):
        raise ValueError(f"Two recipes are for {', '.join(twice)}; give one for each stage.")
    return {one.stage: one for one in sorted(read, key=lambda one: STAGES.index(one.stage))}


def _by_steps(file: str, content: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Recipe]:
    """Return the recipes that a file of steps names, by the names of their files."""
    steps = content[STEPS]
    if "stage" in values:
        raise ValueError(f"{file} holds steps, each with its stage; leave --stage out.")
    if set(content) != {STEPS}:
        others = ", ".join(sorted(map(str, set(content) - {STEPS})))
        raise ValueError(f"{file} holds steps and {others}; the recipes it names hold all else.")
    if not isinstance(steps, list) or not steps or not all(isinstance(x, str) for x in steps):
        raise ValueError(f"{file}: steps is {steps!r}; expected names of recipes beside it.")
    found: dict[str, Recipe] = {}
    for step in steps:
        path = Path(file).parent / step
        if STEPS in (own := _read(path)):
            raise ValueError(f"{file}: {step} holds steps itself; name the recipes it names.")
        if path.stem in found:
            raise ValueError(f"{file}: {path.stem} stands among the steps twice.")
        found[path.stem] = Recipe.from_dict(own | values, str(path))
    return found


def _one_after_the_other(
    recipes: Mapping[str, Recipe], values: Mapping[str, Any], *, skips_pretrain: bool
) -> list[Recipe]:
    """Return recipes that each begin where the one before ended; a skipped one has ended where it
    would have begun."""
    skipped = [name for name, one in recipes.items() if skips_pretrain and one.stage == "align"]
    if skips_pretrain and not skipped:
        raise ValueError("No recipe is for align; there is nothing for --skip-pretrain to skip.")
    if len(skipped) == len(recipes):
        raise ValueError("Every recipe is for align; --skip-pretrain leaves nothing to train.")
    found: list[Recipe] = []
    start = next(iter(recipes.values())).model
    for name, one in recipes.items():
        if name in skipped:
            continue
        if name and "output_dir" in values:
            one = replace(one, output_dir=f"{one.output_dir}/{name}")
        if any(one.output_dir == before.output_dir for before in found):
            raise ValueError(f"Two recipes write to {one.output_dir}; give each its output_dir.")
        found.append(replace(one, model=start))
        start = f"{one.output_dir}/{NETWORK}"
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embervlm train",
        description=f"Train a stage: {', '.join(STAGES)}; or all that have a recipe.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--recipe", metavar="FILE", nargs="+", help="YAML; flags go before what it says"
    )
    parser.add_argument(
        "--skip-pretrain",
        action="store_true",
        help="of several recipes: leave out those for align; the next begins as they would have",
    )
    parser.add_argument(
        "--test-only",
        action="store_true",
        help="train nothing; evaluate what the (last) recipe has left on the test split",
    )
    kinds = get_type_hints(Recipe)
    for f in fields(Recipe):
        kind: dict[str, Any] = {"type": kinds[f.name]}
        if kinds[f.name] is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        elif kinds[f.name] in (list[Any], dict[str, Any]):
            kind = {"type": json.loads, "metavar": "JSON"}
        default = "none" if f.default in ("", ()) else f.default
        text = f"{f.metadata['help']} [{default}]"
        parser.add_argument(f"--{f.name.replace('_', '-')}", default=None, help=text, **kind)
    return parser


def _read(path: str | Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML ({error}).".replace("\n", " ")) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no keys; expected lines such as 'stage: select'.")
    return values


def _of_kind(name: str, value: Any, kind: type | types.UnionType) -> Any:
    """Return the value, a whole number as float where a float is due."""
    if kind == list[Any]:
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise ValueError(f"{name} is {value!r}; expected a list of sets, each with its keys.")
        return value
    if kind == dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {value!r}; expected fields and their values.")
        return value
    kinds = get_args(kind) or (kind,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if float in kinds and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(k.__name__ for k in kinds)}.")
    return value
