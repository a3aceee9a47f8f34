"""Recipes: what is not known is refused, and what is known changes something."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embervlm import cli
from embervlm.training.recipe import Recipe, parse

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_sound(path: Path) -> None:
    others = {"words": "instruct", "pretrain": "align"}
    others |= dict.fromkeys(("compress", "roles", "robot", "more", "top"), "select")
    if path.stem == "unified":
        stages = ("align", "select", "instruct", "reason", "grpo")
        assert tuple(one.stage for one in parse(["--recipe", str(path)])) == stages
    else:
        assert Recipe.from_yaml(path).stage == others.get(path.stem, path.stem)


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


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Return a file of four steps, two of them for the same stage."""
    stages = {"first": "align", "robot": "select", "again": "select", "last": "reason"}
    for name, stage in stages.items():
        text = f"stage: {stage}\nmodel: {name}.gguf\noutput_dir: build/{name}\nepochs: 4\n"
        (tmp_path / f"{name}.yaml").write_text(text, "utf-8")
    file = tmp_path / "all.yaml"
    file.write_text("steps: [first.yaml, robot.yaml, again.yaml, last.yaml]\n", "utf-8")
    return file


def test_steps_go_one_after_the_other_in_the_order_of_the_file(chain: Path) -> None:
    found = parse(["--recipe", str(chain), "--epochs", "2"])
    assert [one.stage for one in found] == ["align", "select", "select", "reason"]
    assert [one.output_dir for one in found] == [
        f"build/{name}" for name in ("first", "robot", "again", "last")
    ]
    assert [one.model for one in found] == [
        "first.gguf", *(f"{one.output_dir}/network.safetensors" for one in found[:-1]),
    ]  # fmt: skip
    assert {one.epochs for one in found} == {2}
    found = parse(["--recipe", str(chain), "--output-dir", "out", "--model", "mine.gguf"])
    assert [one.output_dir for one in found] == ["out/first", "out/robot", "out/again", "out/last"]
    assert [one.model for one in found[:2]] == ["mine.gguf", "out/first/network.safetensors"]


def test_without_pretraining_the_next_step_begins_where_that_would_have(chain: Path) -> None:
    found = parse(["--recipe", str(chain), "--skip-pretrain"])
    assert [one.stage for one in found] == ["select", "select", "reason"]
    assert [one.model for one in found[:2]] == ["first.gguf", "build/robot/network.safetensors"]
    # In the middle too: the next step goes on with what is before it.
    chain.write_text("steps: [robot.yaml, first.yaml, last.yaml]\n", "utf-8")
    robot, last = parse(["--recipe", str(chain), "--skip-pretrain"])
    assert (robot.model, last.model) == ("robot.gguf", "build/robot/network.safetensors")
    files = [str(chain.parent / f"{name}.yaml") for name in ("robot", "first")]
    (robot,) = parse(["--stage", "all", "--recipe", *files, "--skip-pretrain"])
    assert robot.model == "first.gguf"
    with pytest.raises(ValueError, match="No recipe is for align; there is nothing for"):
        parse(["--recipe", files[0], "--skip-pretrain"])
    with pytest.raises(ValueError, match="Every recipe is for align"):
        parse(["--recipe", files[1], "--skip-pretrain"])


@pytest.mark.parametrize(
    ("content", "flags", "says"),
    [
        ("steps: []", [], "steps is .*; expected names of recipes beside it"),
        ("steps: robot.yaml", [], "steps is 'robot.yaml'; expected names"),
        ("steps: [robot.yaml, 3]", [], "expected names of recipes beside it"),
        ("steps: [nowhere.yaml]", [], "nowhere.yaml cannot be read"),
        ("steps: [robot.yaml, all.yaml]", [], "all.yaml holds steps itself"),
        ("steps: [robot.yaml, robot.yaml]", [], "robot stands among the steps twice"),
        ("steps: [robot.yaml]\nepochs: 2", [], "holds steps and epochs; the recipes it names"),
        ("steps: [robot.yaml]", ["--stage", "select"], "leave --stage out"),
        ("steps: [robot.yaml]", ["--stage", "all"], "Unknown keys in .*steps"),
        ("steps: [robot.yaml, twin.yaml]", [], "Two recipes write to build/robot; give each"),
    ],
)
def test_wrong_steps_get_a_sentence(content: str, flags: list[str], says: str, chain: Path) -> None:
    twin = (chain.parent / "robot.yaml").read_text("utf-8")
    (chain.parent / "twin.yaml").write_text(twin, "utf-8")
    chain.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=says):
        parse(["--recipe", str(chain), *flags])


def test_the_steps_of_bitmar_follow_each_other_as_they_stand() -> None:
    found = parse(["--recipe", str(RECIPES / "bitmar" / "unified.yaml")])
    assert {one.preset for one in found} == {"bitmar"}
    assert found[0].model == "build/bitmar/start/network.safetensors"
    assert found[-1].output_dir == "build/bitmar/grpo"


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


def test_a_run_is_not_begun_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["train"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Nothing says what to train: give a recipe" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_field_says_what_it_means() -> None:
    assert all(len(f.metadata["help"]) > 10 for f in fields(Recipe))
