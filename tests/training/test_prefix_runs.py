"""`embervlm train` with `ember-37m`: all four stages from published files, then a decision."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_run  # noqa: E402
from gpt2 import write_gpt2_tokenizer  # noqa: E402
from prefix_run import config_of, network_of  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from embervlm.backends import load_backend  # noqa: E402
from embervlm.checkpoint import update_calibration  # noqa: E402
from embervlm.data.photos import load_photos  # noqa: E402
from embervlm.data.scenarios import DATA_DIR  # noqa: E402
from embervlm.models import configuration, presets  # noqa: E402
from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer  # noqa: E402
from embervlm.models.modeling import load_network, save_network  # noqa: E402
from embervlm.prompts import parse_reasoning  # noqa: E402
from embervlm.scenario import Scenario  # noqa: E402
from embervlm.selector import Selector  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training.run import run  # noqa: E402

QUIET = [
    "--report-to", "none", "--warmup-steps", "0", "--threads", "1", "--mixed-precision", "none",
    "--log-steps", "1", "--dropout", "0", "--max-steps", "2", "--batch-size", "4",
]  # fmt: skip


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with both checkpoints in their published layout, tiny, as the preset is."""
    hub = tmp_path / "hub"
    language, vision = hub / "tinyllm/30M-0.4", hub / "timm/repvit_m0_9.dist_450e_in1k"
    write_gpt2_tokenizer(language)
    network = network_of(Gpt2Tokenizer.from_published(language))
    config = network.config
    monkeypatch.setitem(configuration.PRESETS, "ember-37m", config)
    words = {name: value.clone() for name, value in network.decoder.state_dict().items()}
    table = "transformer.wte.weight"
    words[table] = words[table][: config.published_vocabulary].clone()
    save_file(words, language / "model.safetensors")
    shape = {"model_type": "gpt2", "n_layer": config.text_layers, "n_head": config.text_heads}
    (language / "config.json").write_text(json.dumps(shape), "utf-8")
    vision.mkdir(parents=True)
    heads = {"head.head.l.weight": torch.zeros(10, 16)}
    save_file({**network.vision.state_dict(), **heads}, vision / "model.safetensors")
    (vision / "config.json").write_text(json.dumps({"architecture": "repvit_m0_9"}), "utf-8")
    return hub


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a folder with a few photos of our table, half of them held out."""
    folder = tmp_path / "shared"
    photos, rows = folder / "photos", []
    for split in ("train", "validation"):
        of_split = [
            photo for photo in load_photos(DATA_DIR / "photos.jsonl") if photo.split == split
        ]
        for number, photo in enumerate(of_split[:3]):
            noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
            (photos / photo.file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).resize((64, 48)).save(photos / photo.file)
            rows.append({"file": photo.file, "captions": [f"a place, number {number}"]})
    (photos / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder


@pytest.fixture
def questions(shared: Path, tmp_path: Path) -> dict[str, Any]:
    """Return questions in LLaVA-Instruct's layout, every second one about a photo."""
    image = str(next((shared / "photos").rglob("*.jpg")).relative_to(shared))
    rows = [
        {
            "id": f"{i}",
            **({"image": image} if i % 2 else {}),
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is to be seen?" if i % 2 else "Why?"},
                {"from": "gpt", "value": f"Road {i} and nobody on it."},
            ],
        }
        for i in range(8)
    ]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(rows), "utf-8")
    return {"set": "llava_instruct", "conversations": str(path), "images": str(shared)}


def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a dozen rows of each of our sets: reading all of them is another test's work."""
    for name in ("prefix_data", "stage_data", "decisions"):
        module = sys.modules[f"embervlm.training.{name}"]
        whole = module.load_own
        monkeypatch.setattr(module, "load_own", lambda *words, whole=whole: whole(*words)[:12])


def test_all_stages_then_a_decision(
    published: Path,
    shared: Path,
    questions: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few(monkeypatch)
    begin = f"{published}/timm/repvit_m0_9.dist_450e_in1k,{published}/tinyllm/30M-0.4"

    def stage(name: str, *flags: str) -> Path:
        out = ["--stage", name, "--output-dir", str(tmp_path / name), "--shared", str(shared)]
        return run([*out, *flags, *QUIET])

    aligned = stage("align", "--preset", "ember-37m", "--published", begin)
    told = capsys.readouterr().err
    assert "dropped: head.head.l.weight" in told
    assert "new: transformer.wte.weight[" in told
    first = presets.load(aligned)
    answered = stage(
        "instruct", "--model", str(aligned), "--data", json.dumps([questions]), "--examples", "8",
        "--teacher", str(aligned), "--gradient-checkpointing",
    )  # fmt: skip
    told = capsys.readouterr()
    names = len(first.state_dict())
    assert f"{names} tensors loaded, 0 new, 0 left" in told.err
    assert "'loss_teacher'" in told.out
    selected = stage("select", "--model", str(answered), "--teacher", str(answered))
    told = capsys.readouterr()
    assert f"{names} tensors loaded, 0 new, 0 left" in told.err
    assert "'eval_photo_exact'" in told.out
    assert "'loss_states'" in told.out
    reasoned = stage("reason", "--model", str(selected))
    last = presets.load(reasoned)
    for name, value in first.state_dict().items():
        if "running_" in name:
            assert torch.equal(value, last.state_dict()[name])
    assert (reasoned.parent / "tokenizer.json").is_file()
    with pytest.raises(ValueError, match="is of the family ember-37m; this needs ember-nano"):
        load_network(reasoned)

    selector = Selector(load_backend("pytorch", reasoned), own_words=True)
    photo = next((shared / "photos").rglob("*.jpg"))
    for scenario in (
        Scenario("carry the 16 kg pump 300 m", photo),
        Scenario("carry the 16 kg pump 300 m"),
        Scenario(image=photo),
    ):
        proposal = selector.propose(scenario)
        assert proposal.roles.shape[0] == len(proposal.mentions) == (2 if scenario.task else 0)
        assert (proposal.scene is None) == (scenario.image is None)
        decision = selector.answer(proposal, scenario)
        assert decision.robots and len(decision.reasoning) == 4
        written = parse_reasoning(selector.backend.write(proposal, decision.robots))
        assert written is not None and written.robots == decision.robots
    update_calibration(reasoned, {"temperature": 2.0, "ask_below": 0.25})
    update_calibration(reasoned, {"temperature": 3.0})
    assert load_backend("pytorch", reasoned).calibration == {"temperature": 3.0, "ask_below": 0.25}


def test_words_alone_need_no_photos(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    gpt2 = Gpt2Tokenizer.from_published(published / "tinyllm/30M-0.4")
    save_network(network_of(gpt2), tmp_path / "start.safetensors")
    words = ["--shared", "", "--model", str(tmp_path / "start.safetensors"), "--tokenizer",
             str(published / "tinyllm/30M-0.4"), "--output-dir", str(tmp_path / "out")]  # fmt: skip
    assert run([*words, *QUIET]).is_file()


def test_a_network_of_the_other_family_decides_as_it_was_trained(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(tokenizer_file)
    save_network(small_run.network_of(tokenizer), tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="is not a tokenizer file"):
        load_backend("pytorch", tmp_path / "network.safetensors")
    tokenizer.save(tmp_path / "tokenizer.json")
    selector = Selector(load_backend("pytorch", tmp_path / "network.safetensors"))
    assert selector.decide(Scenario("carry the pump")).robots


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--preset", "ember-38m"], "preset is 'ember-38m'; there are ember-nano, ember-37m"),
        (["--published", "a,b"], "published is a,b, and the network sees with mobilenet-v2"),
        (["--preset", "ember-37m"], "needs a tokenizer of GPT-2's kind"),
        (["--preset", "ember-37m", "--published", "one"], "expected two checkpoints"),
        (["--preset", "ember-37m", "--published", "a,nowhere"], "neither a directory nor a hub"),
        (["--preset", "ember-37m", "--vision", "v"], "has no use for"),
        (["--preset", "ember-37m", "--rounding", "q4_0"], "has no file of four bits yet"),
        (["--preset", "ember-37m", "--stage", "reason", "--teacher", "t"], "reason takes no teach"),
        (["--preset", "ember-37m", "--model", "nowhere"], "nowhere cannot be read"),
        (["--model", "{model}", "--published", "a,b"], "begins with one of them"),
        (["--model", "{model}", "--tokenizer", "{large}"], "they must belong together"),
        (["--model", "{model}", "--shared", "nowhere"], "give the folder that holds photos/"),
        (["--model", "{model}", "--stage", "instruct"], "instruct needs data"),
        (
            ["--model", "{model}", "--stage", "instruct", "--teacher", "{other}"],
            "has image_size 64, the network 32",
        ),
    ],
)
def test_a_wrong_start_gets_a_sentence(flags: list[str], says: str, tmp_path: Path) -> None:
    write_gpt2_tokenizer(tmp_path)
    gpt2 = Gpt2Tokenizer.from_published(tmp_path)
    write_gpt2_tokenizer(tmp_path / "large", size=290)
    names = {"model": tmp_path / "network.safetensors", "large": tmp_path / "large"}
    names["other"] = tmp_path / "other.safetensors"
    save_network(network_of(gpt2), names["model"])
    save_network(presets.network_of(config_of(gpt2, image_size=64)), names["other"])
    words = [flag.format(**names) for flag in flags]
    with pytest.raises(ValueError, match=says):
        run([*words, "--output-dir", str(tmp_path / "out"), *QUIET])
