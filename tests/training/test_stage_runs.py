"""A stage from a recipe to a network: stages follow each other, on sets as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from small_run import network_of  # noqa: E402

from embervlm.data.scenarios import load  # noqa: E402
from embervlm.models.modeling import EmberNetwork, load_network, save_network  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training.recipe import Recipe  # noqa: E402
from embervlm.training.rounding import round_q4_0  # noqa: E402
from embervlm.training.run import add_low_rank, run, without_low_rank  # noqa: E402
from embervlm.training.stages import STAGES  # noqa: E402
from embervlm.training.trainer import checkpoints  # noqa: E402

QUIET = [
    "--report-to",
    "none",
    "--warmup-steps",
    "0",
    "--threads",
    "1",
    "--mixed-precision",
    "none",
    "--log-steps",
    "1",
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of eight pictures, one of them broken."""
    folder = tmp_path / "val2017"
    folder.mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 48)).save(folder / f"{i:012d}.jpg")
    (folder / f"{7:012d}.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture
def captions(images: Path, tmp_path: Path) -> dict[str, Any]:
    """Return COCO's captions of them, as a recipe names the set."""
    path = tmp_path / "captions_val2017.json"
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(8)],
        "annotations": [
            {"id": i, "image_id": i, "caption": f"a photo of a road number {i}"} for i in range(8)
        ],
    }
    path.write_text(json.dumps(content), "utf-8")
    return {"set": "coco_captions", "annotations": str(path), "images": str(images)}


@pytest.fixture
def questions(images: Path, tmp_path: Path) -> dict[str, Any]:
    """Return questions about them in LLaVA-Instruct's layout."""
    path = tmp_path / "llava_instruct_150k.json"
    rows = [
        {
            "id": f"{i:012d}",
            "image": f"{i:012d}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is to be seen?"},
                {"from": "gpt", "value": f"Road {i} and nobody on it."},
            ],
        }
        for i in range(6)
    ]
    path.write_text(json.dumps(rows), "utf-8")
    return {"set": "llava_instruct", "conversations": str(path), "images": str(images)}


@pytest.fixture
def start(tokenizer: Tokenizer, tokenizer_file: Path, tmp_path: Path) -> list[str]:
    """Return the flags that begin with a tiny network."""
    save_network(network_of(tokenizer), tmp_path / "start.safetensors")
    return ["--model", str(tmp_path / "start.safetensors"), "--tokenizer", str(tokenizer_file)]


def test_align_then_instruct(
    captions: dict[str, Any],
    questions: dict[str, Any],
    start: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    epoch = ["--examples", "8", "--batch-size", "4", "--dropout", "0"]
    aligned = run(
        ["--stage", "align", "--data", json.dumps([captions]), "--validation-data",
         json.dumps([captions]), "--output-dir", str(tmp_path / "align"), *epoch, *start, *QUIET]
    )  # fmt: skip
    before, after = load_network(tmp_path / "start.safetensors"), load_network(aligned)
    same = {
        name: torch.equal(value, after.state_dict()[name])
        for name, value in before.state_dict().items()
    }
    assert all(same[name] for name in same if name.startswith(("vision.", "heads.", "text.embed.")))
    assert not same["text.layers.0.qkv.weight"], "the low-rank addition was added up"
    assert not same["image.view.weight"]
    answered = run(
        ["--stage", "instruct", "--data", json.dumps([questions]), "--model", str(aligned),
         "--teacher", str(aligned), "--output-dir", str(tmp_path / "instruct"), *epoch,
         *start[2:], *QUIET]
    )  # fmt: skip
    told = capsys.readouterr()
    assert f"{len(same)} tensors loaded, 0 new, 0 left" in told.err
    assert "left out: broken picture" in told.err
    assert "examples; left out: 1 broken picture" in told.err
    assert "'loss_teacher'" in told.out
    assert not torch.equal(load_network(answered).decoder.norm.weight, after.decoder.norm.weight)


def test_reason_has_two_phases_and_goes_on(start: list[str], tmp_path: Path) -> None:
    short = ["--examples", "8", "--batch-size", "8", "--epochs", "2", "--dropout", "0"]
    words = ["--stage", "reason", "--output-dir", str(tmp_path / "reason"), *short, *start, *QUIET]
    found = run(words)
    assert sorted(path.name for path in found.parent.glob("phase-*")) == ["phase-1", "phase-2"]
    first = load_network(found.parent / "phase-1" / "network.safetensors")
    begun, last = load_network(tmp_path / "start.safetensors"), load_network(found)
    name = "text.layers.0.qkv.weight"
    assert torch.equal(first.state_dict()[name], begun.state_dict()[name])
    assert not torch.equal(last.state_dict()[name], begun.state_dict()[name])
    digest = found.read_bytes()
    assert run(words).read_bytes() == digest, "a finished run stays as it is"


def test_select_in_four_bits_is_taught_and_keeps_what_is_frozen(
    start: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--examples", "16", "--batch-size", "8", "--dropout", "0", "--teacher", start[1]]
    found = run(
        ["--stage", "select", "--rounding", "q4_0", "--freeze", "heads.", *short, *start, *QUIET,
         "--output-dir", str(tmp_path / "select")]
    )  # fmt: skip
    begun, ended = load_network(tmp_path / "start.safetensors"), load_network(found)
    weight = ended.text.layers[0].up.weight
    torch.testing.assert_close(round_q4_0(weight), weight)
    assert not torch.equal(weight, begun.text.layers[0].up.weight)
    assert torch.equal(ended.heads.roles.weight, begun.heads.roles.weight)
    best = load_network(found.parent / "best.safetensors").text.layers[0].up.weight
    torch.testing.assert_close(round_q4_0(best), best)
    assert "'loss_teacher'" in capsys.readouterr().out


def test_select_keeps_a_part_of_what_moves(start: list[str], tmp_path: Path) -> None:
    found = run(
        ["--stage", "select", "--freeze", "heads.subset_features, text.layers.0.",
         "--examples", "16", "--batch-size", "8", *start, *QUIET,
         "--output-dir", str(tmp_path / "select")]
    )  # fmt: skip
    begun, ended = load_network(tmp_path / "start.safetensors"), load_network(found)
    before, after = begun.state_dict(), ended.state_dict()
    stay = [n for n in before if n.startswith(("heads.subset_features", "text.layers.0."))]
    assert all(torch.equal(before[name], after[name]) for name in stay)
    for name in ("heads.roles.weight", "text.embed.weight"):
        assert not torch.equal(before[name], after[name])


def test_all_stages_follow_each_other(
    captions: dict[str, Any], questions: dict[str, Any], start: list[str], tmp_path: Path
) -> None:
    data = {"align": [captions], "instruct": [questions], "select": [], "reason": []}
    recipes = []
    for stage, sets in data.items():
        recipes.append(tmp_path / f"{stage}.yaml")
        recipes[-1].write_text(json.dumps({"stage": stage, "data": sets}), "utf-8")
    found = run(
        ["--stage", "all", "--recipe", *map(str, recipes), "--output-dir", str(tmp_path / "all"),
         "--examples", "8", "--batch-size", "8", "--dropout", "0", *start, *QUIET]
    )  # fmt: skip
    assert found == tmp_path / "all" / "reason" / "network.safetensors"
    told = json.loads((found.parent / "recipe.json").read_text("utf-8"))
    assert told["model"] == str(tmp_path / "all" / "select" / "network.safetensors")


def test_select_learns_from_a_folder_of_ones_own(start: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    rows = [*load("scenarios", "train")[:16], *load("scenarios", "validation")[:4]]

    def train(**changed: Any) -> Path:
        text = "\n".join(json.dumps({**row, **changed}) for row in rows)
        (mine / "scenarios.jsonl").write_text(text, "utf-8")
        return run(
            ["--stage", "select", "--scenarios", str(mine), "--batch-size", "8", *start, *QUIET,
             "--output-dir", str(tmp_path / "out")]
        )  # fmt: skip

    state = json.loads((train().parent / "best.json").read_text("utf-8"))
    assert state["step"] == 4, "16 requests, 8 once more, 6 with other numbers, by eights"
    with pytest.raises(ValueError, match=r"unknown robot \['Tank'\]. \(40 faults in all"):
        train(suited=["Tank"])
    with pytest.raises(ValueError, match=r"mine has no row of the split train\."):
        train(split="validation")
    with pytest.raises(ValueError, match=r"limits is missing. \(20 faults in all"):
        rows = [{k: v for k, v in row.items() if k != "limits"} for row in rows]
        train()


def test_a_folder_goes_on_with_its_own_run_alone(start: list[str], tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    rows = [json.dumps(row) for row in load("scenarios", "train")[:16]]
    (mine / "scenarios.jsonl").write_text("\n".join(rows), "utf-8")
    words = ["--stage", "select", "--scenarios", str(mine), "--batch-size", "8", "--save-steps",
             "1", "--max-steps", "2", *start, *QUIET, "--output-dir", str(out)]  # fmt: skip
    weights = run(words).read_bytes()
    told = (out / "recipe.json").read_text("utf-8")
    assert run([*words, "--keep", "1"]).read_bytes() == weights, "no step beyond the last one"
    assert [path.name for path in checkpoints(out)] == ["checkpoint-1", "checkpoint-2"]
    changed = [*words, "--learning-rate", "0.1", "--max-steps", "1", "--save-steps", "1"]
    with pytest.raises(ValueError, match=r"other max_steps, learning_rate; give another --output"):
        run(changed)
    (mine / "scenarios.jsonl").write_text("\n".join(rows[:8]), "utf-8")
    with pytest.raises(ValueError, match="holds a run with other rows of scenarios; give another"):
        run(words)
    assert json.loads((out / "recipe.json").read_text("utf-8")) == {**json.loads(told), "keep": 1}
    assert run([*changed, "--no-resume"]).read_bytes() != weights
    assert [path.name for path in checkpoints(out)] == ["checkpoint-1"], "its own, none of before"
    (out / "recipe.json").write_text("{", "utf-8")
    with pytest.raises(ValueError, match=r"recipe.json is not whole; give another --output-dir"):
        run(words)


def test_a_low_rank_addition_merges_to_the_same_network(tokenizer: Tokenizer) -> None:
    network = network_of(tokenizer)
    phase = STAGES["align"].phases[0]
    layers = add_low_rank(network, phase, Recipe())
    assert layers
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    tokens_BT = torch.randint(0, 300, (2, 9))
    mask_BT = torch.ones(2, 9, dtype=torch.bool)
    with torch.no_grad():
        apart = network.text(tokens_BT, mask_BT)
        for layer in layers:
            layer.merge()
        plain: EmberNetwork = without_low_rank(network)
        torch.testing.assert_close(plain.text(tokens_BT, mask_BT), apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--stage", "instruct"], "instruct needs data, a list of public sets"),
        (["--stage", "align", "--data", '[{"set": "coco"}]'], "There is no set 'coco'"),
        (["--stage", "align", "--data", '[{"weight": 1}]'], "it needs 'set: NAME'"),
        (["--stage", "align", "--data", '[{"set": "gqa"}]'], "gqa takes questions, images"),
        (["--freeze", "text., heads., image."], "nothing of select is left to train"),
        (["--stage", "align", "--rounding", "q4_0"], "round in a later stage"),
        (["--vision", "nowhere"], "vision is nowhere, shared is .*give the folder"),
        (["--model", "nowhere"], "nowhere cannot be read"),
    ],
)
def test_a_wrong_start_gets_a_sentence(flags: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        run([*flags, "--output-dir", str(tmp_path / "out"), *QUIET])
