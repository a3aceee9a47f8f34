"""The steps that NumPy, ONNX's folder and the engine write are those of PyTorch."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from embervlm.backends import load_backend
from embervlm.backends.base import StepScores
from embervlm.backends.plan_writer import MAX_STEPS, PlanWriter
from embervlm.models import plan_steps

TASKS = ("map the flood, then carry the 8 kg pump up the stairs", "look", None)


def steps_of(kind: str, path: Path, task: str | None) -> tuple[StepScores, ...]:
    backend = load_backend(kind, path)
    return backend.split(backend.propose(task, None))


@pytest.mark.parametrize("kind", ["reference", "native", "onnx"])
def test_every_backend_writes_the_steps_that_pytorch_writes(kind: str, tiny_model: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    for task in TASKS:
        wanted = steps_of("pytorch", tiny_model, task)
        found = steps_of(kind, tiny_model, task)
        assert len(found) == len(wanted) >= 1
        for one, other in zip(found, wanted, strict=True):
            for name in ("robots", "actions", "flags", "environment", "after", "pointer"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-3), name
            assert one.more == pytest.approx(other.more, abs=1e-3)


def test_an_exported_onnx_folder_keeps_the_part(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export = pytest.importorskip("embervlm.export.onnx")
    export.export(tiny_model, tmp_path / "folder", 32)
    (wanted, *_), (found, *_) = (
        steps_of("onnx", path, TASKS[0]) for path in (tiny_model, tmp_path / "folder")
    )
    assert found.robots == pytest.approx(wanted.robots, abs=0.05)


def test_the_steps_keep_their_grammar(tiny_model: Path) -> None:
    for task in TASKS:
        steps = steps_of("reference", tiny_model, task)
        assert 1 <= len(steps) <= MAX_STEPS == plan_steps.MAX_STEPS
        for step in steps:
            assert len(step.after) == len(steps)
            assert step.pointer.sum() == pytest.approx(1, abs=1e-5)


def test_a_model_without_the_part_writes_no_steps() -> None:
    writer = PlanWriter({}, lambda name, x: x, lambda name: np.zeros(1, np.float32))
    assert writer.write(np.zeros((3, 8), np.float32), np.zeros(3, np.int64)) == ()


def test_a_damaged_part_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"plan.step.weight has 1 values, expected 56"):
        PlanWriter(
            {"plan_width": 8, "plan_layers": 1},
            lambda name, x: x,
            lambda name: np.zeros(1, np.float32),
        )
