"""A file of steps, run: each goes on with the network before it, and the last one is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from small_run import network_of  # noqa: E402

from embervlm.data.scenarios import load, load_own  # noqa: E402
from embervlm.evaluation import run as evaluation  # noqa: E402
from embervlm.evaluation.cases import text_cases  # noqa: E402
from embervlm.models.modeling import load_network, save_network  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import callbacks, decisions, sampling  # noqa: E402
from embervlm.training.run import run  # noqa: E402

FLAGS = ["--examples", "8", "--batch-size", "4", "--max-steps", "1", "--report-to", "none",
         "--warmup-steps", "0", "--threads", "1", "--mixed-precision", "none"]  # fmt: skip
STEPS = {
    "pretrain": {"stage": "align", "data": [{"set": "nowhere"}]},
    "robot": {"stage": "select"},
    "again": {"stage": "select", "seed": 2},
    "answers": {"stage": "grpo", "group": 2, "baseline": "value", "iterations": 1},
}


@pytest.fixture
def chain(
    tokenizer: Tokenizer, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a file of four steps, the first of which cannot run, for a tiny bitmar."""
    monkeypatch.setattr(sampling, "MAX_OWN", 4)
    monkeypatch.setattr(
        decisions, "load_own", lambda name, split, folder: load_own(name, split, folder)[:12]
    )
    monkeypatch.setattr(callbacks, "draw_log", lambda *_: None)
    monkeypatch.setattr(callbacks, "write_evaluation", lambda *_: [])
    save_network(network_of(tokenizer, "bitmar"), tmp_path / "start.safetensors")
    for name, keys in STEPS.items():
        own = {
            **keys, "preset": "bitmar", "shared": "", "model": str(tmp_path / "start.safetensors"),
            "tokenizer": str(tokenizer_file), "output_dir": str(tmp_path / "elsewhere" / name),
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(json.dumps(own), "utf-8")
    file = tmp_path / "unified.yaml"
    file.write_text(json.dumps({"steps": [f"{name}.yaml" for name in STEPS]}), "utf-8")
    return file


def test_steps_are_run_and_what_they_leave_is_measured(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--recipe", str(chain), "--output-dir", str(tmp_path / "out"), *FLAGS]
    with pytest.raises(ValueError, match=r"answers/network.safetensors is not there; train first"):
        run([*words, "--test-only"])
    assert not (tmp_path / "out").exists()
    found = run([*words, "--skip-pretrain"])
    assert found == tmp_path / "out" / "answers" / "network.safetensors"
    assert not (tmp_path / "out" / "pretrain").exists()
    before, moved = tmp_path / "start.safetensors", []
    for name in list(STEPS)[1:]:
        folder = tmp_path / "out" / name
        assert json.loads((folder / "recipe.json").read_text("utf-8"))["model"] == str(before)
        first, last = (load_network(x).state_dict() for x in (before, folder / found.name))
        moved.append({part for part in first if not torch.equal(first[part], last[part])})
        before = folder / found.name
    assert "heads.environment.weight" in moved[0] & moved[1]
    assert "heads.value.weight" in moved[2]
    assert "heads.environment.weight" not in moved[2]

    monkeypatch.setattr(evaluation, "text_cases", lambda *asked: text_cases(*asked)[:6])
    monkeypatch.setattr(evaluation, "load", lambda *asked: load(*asked)[:6])
    monkeypatch.setattr(evaluation, "load_own", lambda *asked: load_own(*asked)[:6])
    weights = found.read_bytes()
    report = run([*words, "--test-only"])
    assert report == found.with_name("test.json")
    told = json.loads(report.read_text("utf-8"))
    assert told["about"]["split"] == "test"
    assert told["about"]["backend"] == "pytorch"
    assert told["tables"]["requests and plans"]["embervlm"]["exact_set"]["n"] == 6
    assert "photos" in told["not measured"]
    assert found.read_bytes() == weights

    (tmp_path / "mine").mkdir()
    mine = [json.dumps(row) for row in load("scenarios", "test")[:3]]
    (tmp_path / "mine" / "scenarios.jsonl").write_text("\n".join(mine), "utf-8")
    report = run([*words, "--scenarios", str(tmp_path / "mine"), "--test-only"])
    own = json.loads(report.read_text("utf-8"))
    assert own["tables"]["requests and plans"]["embervlm"]["exact_set"]["n"] == 3
