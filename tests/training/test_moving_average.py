"""The mean of the weights is the sum it says, whole or cut among processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from embervlm.training.moving_average import MovingAverage  # noqa: E402

PROGRAM = Path(__file__).with_name("sharded_run.py")


def test_the_mean_is_that_of_the_formula() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = MovingAverage(module, 0.5)
    expected = 0.0
    for step in range(1, 40):
        module.weight.data.fill_(float(step))
        average.follow(step)
        keep = min(0.5, step / (step + 10))
        expected = keep * expected + (1 - keep) * step
        assert average.mean["weight"].item() == pytest.approx(expected, rel=1e-5)
    held = average.exchange()
    assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    average.put(held)
    assert module.weight.item() == 39


def test_a_memory_of_zero_keeps_nothing() -> None:
    module = torch.nn.Linear(2, 2)
    average = MovingAverage(module, 0.0)
    average.follow(1)
    assert average.whole() == {} == average.exchange()


def test_cut_among_processes_it_is_the_same(tokenizer_file: Path, tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    found = []
    for number, start in enumerate(([], launcher)):
        out = tmp_path / f"{number}.safetensors"
        run = subprocess.run(
            [sys.executable, *start, str(PROGRAM), str(tokenizer_file), str(out)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr[-2000:]
        found.append(load_file(out))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=1e-5)
