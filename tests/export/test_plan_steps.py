"""The part that splits jobs is added to a file whose other bytes stay; unsound ones are refused."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")
safetensors = pytest.importorskip("safetensors.torch")

from embervlm.backends import load_backend  # noqa: E402
from embervlm.checkpoint import load_checkpoint  # noqa: E402
from embervlm.export.plan_steps import add_plan  # noqa: E402
from embervlm.models.configuration import EmberConfig  # noqa: E402
from embervlm.models.plan_steps import PlanSteps  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402

SIZES = '{"plan_width": 64, "plan_layers": 1}'


@pytest.fixture
def plan(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    torch.manual_seed(3)
    vocabulary = len(tokenizer)
    part = PlanSteps(EmberConfig(vocabulary, text_width=32, plan_width=64, plan_layers=1))
    weights = {f"plan.{name}": value for name, value in part.state_dict().items()}
    safetensors.save_file(weights, tmp_path / "plan.safetensors", {"config": SIZES})
    return tmp_path / "plan.safetensors"


def test_all_else_stays_and_the_part_is_the_new_one(
    tiny_model: Path, plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "with.gguf"
    add_plan(tiny_model, plan, out)
    before, after = load_checkpoint(tiny_model), load_checkpoint(out)
    assert after.config == {**before.config, "plan_width": 64, "plan_layers": 1, "plan_readers": 0}
    assert after.calibration == before.calibration
    others = {name for name in before.weights if not name.startswith("plan.")}
    assert {name for name in after.weights if not name.startswith("plan.")} == others
    assert all(np.array_equal(after.weights[name], before.weights[name]) for name in others)
    assert "plan.layers.1.qkv.weight" not in after.weights
    old, new = load_backend("native", tiny_model), load_backend("native", out)
    task = "map it, then carry 8 kg"
    one, other = old.propose(task, None), new.propose(task, None)
    assert np.array_equal(one.subsets, other.subsets)
    assert len(new.split(other)) >= 1
    assert out.read_bytes() != tiny_model.read_bytes()


def test_the_same_file_may_be_the_result(tiny_model: Path, plan: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.gguf", tmp_path / "twice.gguf"
    add_plan(tiny_model, plan, once)
    twice.write_bytes(once.read_bytes())
    add_plan(twice, plan, twice)
    assert twice.read_bytes() == once.read_bytes()


def test_something_else_is_refused_with_a_sentence(tiny_model: Path, tmp_path: Path) -> None:
    safetensors.save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("other.safetensors", "missing.safetensors"):
        with pytest.raises(ValueError, match="holds no part that splits a job"):
            add_plan(tiny_model, tmp_path / name, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_part_for_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    part = PlanSteps(EmberConfig(100, text_width=32, plan_width=64, plan_layers=1))
    weights = {f"plan.{name}": value for name, value in part.state_dict().items()}
    safetensors.save_file(weights, tmp_path / "plan.safetensors", {"config": SIZES})
    with pytest.raises(ValueError, match="was trained for a model with 100 tokens"):
        add_plan(tiny_model, tmp_path / "plan.safetensors", tmp_path / "out.gguf")


def test_of_several_parts_the_mean_is_taken(tiny_model: Path, plan: Path, tmp_path: Path) -> None:
    weights = safetensors.load_file(plan)
    other = tmp_path / "other.safetensors"
    moved = {**weights, "plan.narrow.bias": weights["plan.narrow.bias"] + 2}
    safetensors.save_file(moved, other, {"config": SIZES})
    safetensors.save_file(
        weights, tmp_path / "wide.safetensors", {"config": SIZES.replace("64", "96")}
    )
    add_plan(tiny_model, [plan, other], tmp_path / "out.gguf")
    found = load_checkpoint(tmp_path / "out.gguf").weights["plan.narrow.bias"]
    assert found == pytest.approx(weights["plan.narrow.bias"].numpy() + 1, abs=1e-6)
    safetensors.save_file(
        {name: value for name, value in weights.items() if "mark" not in name},
        tmp_path / "old.safetensors",
        {"config": SIZES},
    )
    for name in ("wide", "old"):
        with pytest.raises(ValueError, match=rf"{name}.safetensors has sizes .* went on from"):
            add_plan(tiny_model, [plan, tmp_path / f"{name}.safetensors"], tmp_path / "none.gguf")
