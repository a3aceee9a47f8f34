"""Recipes: what is not known is refused, and what is known changes something."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from embervlm.training.recipe import Recipe, parse

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_sound(path: Path) -> None:
    others = {"words": "instruct", "pretrain": "align"}
    others |= dict.fromkeys(("compress", "steady", "roles", "robot"), "select")
    stage = others.get(path.stem, path.stem)
    assert Recipe.from_yaml(path).stage == stage


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("stage: align\nlearning_rate: 1e-3\nbatch_size: 7\n", "utf-8")
    (found,) = parse(["--recipe", str(file), "--batch-size", "9", "--no-resume"])
    assert (found.stage, found.learning_rate, found.batch_size) == ("align", 1e-3, 9)
    assert not found.resume


def test_all_goes_from_stage_to_stage_in_order(tmp_path: Path) -> None:
    files = []
    for stage in ("select", "align"):
        files.append(str(tmp_path / f"{stage}.yaml"))
        Path(files[-1]).write_text(f"stage: {stage}\nmodel: m\noutput_dir: {stage}\n", "utf-8")
    align, select = parse(["--stage", "all", "--recipe", *files, "--epochs", "2"])
    assert (align.stage, align.model, align.epochs) == ("align", "m", 2)
    assert (select.stage, select.model) == ("select", "align/network.safetensors")
    _, select = parse(["--stage", "all", "--recipe", *files, "--output-dir", "out"])
    assert (select.output_dir, select.model) == ("out/select", "out/align/network.safetensors")
    twice = tmp_path / "again.yaml"
    twice.write_text("stage: align\n", "utf-8")
    with pytest.raises(ValueError, match="Two recipes are for align"):
        parse(["--stage", "all", "--recipe", *files, str(twice)])
    with pytest.raises(ValueError, match="more than one need --stage all"):
        parse(["--recipe", *files])
    with pytest.raises(ValueError, match="--stage all needs --recipe"):
        parse(["--stage", "all"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("rounding: q8", "rounding is 'q8'; there are none, q4_0"),
        ("redraw: -1", "redraw is -1.0; it must be 0 or more"),
        ("stage: selct", "stage is 'selct'; there are align"),
        ("learning_rat: 1", "Unknown keys in .*learning_rat; known: stage"),
        ("batch_size: 0", "batch_size is 0; it must be 1 or more"),
        ("batch_size: many", "batch_size is 'many'; expected int"),
        ("average: 1.0", "average is 1.0; it must be 0 or more, below 1"),
        ("epochs: 0", "epochs is 0.0; it must be above 0"),
        ("resume: 1", "resume is 1; expected bool"),
        ("learning_rate: .nan", "learning_rate is nan; it must be 0 or more"),
        ("- stage", "holds no keys"),
        ("stage: [", "is not YAML"),
    ],
)
def test_a_wrong_recipe_gets_a_sentence(content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=says):
        Recipe.from_yaml(file)


def test_a_missing_recipe_and_an_unknown_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Recipe.from_yaml(tmp_path / "none.yaml")
    with pytest.raises(SystemExit) as stopped:
        parse(["--batch", "3"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --batch" in capsys.readouterr().err


def test_every_field_says_what_it_means() -> None:
    assert all(len(f.metadata["help"]) > 10 for f in fields(Recipe))
