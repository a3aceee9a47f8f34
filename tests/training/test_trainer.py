"""The trainer: the same however a step is cut up, wherever it is killed; only what should moves."""

from __future__ import annotations

import ast
import errno
import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from small_run import data_of, network_of, recipe_of, trainer_of  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import stages, trainer  # noqa: E402
from embervlm.training.recipe import NETWORK  # noqa: E402
from embervlm.training.stage_data import EpochBatches  # noqa: E402
from embervlm.training.stages import STAGES, begins_with  # noqa: E402

PROGRAM = Path(__file__).with_name("small_run.py")
KILLS = int(os.environ.get("EMBERVLM_KILLS", "2"))


class Gradients(TrainerCallback):
    """Keeps the gradients that the optimiser gets: its first step would show little but signs."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        moving = kwargs["model"].named_parameters()
        self.found = {name: p.grad.clone() for name, p in moving if p.grad is not None}


def weights(run: trainer.EmberTrainer) -> dict[str, Any]:
    return {k: v.detach().clone() for k, v in run.module.network.state_dict().items()}


@pytest.mark.parametrize("stage", ["select", "instruct", "reason"])
def test_eight_at_once_are_eight_times_one(
    stage: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    found = []
    for size, times in ((8, 1), (1, 8)):
        recipe = recipe_of(
            tmp_path / f"{size}", stage=stage, batch_size=size, gradient_accumulation=times
        )
        config = network_of(tokenizer).config
        run = trainer_of(recipe, tokenizer, data=data_of(stage, config, tokenizer, 8))
        gradients = Gradients()
        run.add_callback(gradients)
        run.train()
        assert run.state.global_step == 1
        found.append((gradients.found, run.state.log_history[0]["loss"]))
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], atol=1e-6, rtol=1e-3, msg=name)


def test_two_processes_are_one(tokenizer_file: Path, tmp_path: Path) -> None:
    told = []
    for processes, times in ((1, 2), (2, 1)):
        folder = tmp_path / f"{processes}"
        begin = ["torchrun", f"--nproc_per_node={processes}", "--master_port=0"]
        start = [sys.executable, "-m", "torch.distributed.run", *begin[1:], "--standalone"]
        words = [str(PROGRAM), str(folder), str(tokenizer_file), f"gradient_accumulation={times}"]
        run = subprocess.run(
            [*(start if processes > 1 else [sys.executable]), *words],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr[-2000:]
        line = next(x for x in run.stdout.splitlines() if x.startswith("[") and "." in x)
        told.append([float(x) for x in ast.literal_eval(line)])
    assert len(told[0]) == 3
    assert told[0] == pytest.approx(told[1], abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "number"), [("select", 0), ("instruct", 0), ("reason", 0), ("reason", 1)]
)
def test_only_what_a_phase_moves_changes(
    stage: str, number: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    phase = STAGES[stage].phases[number]
    run = trainer_of(recipe_of(tmp_path, stage=stage, epochs=2.0), tokenizer, phase=phase)
    before = weights(run)
    run.train()
    after = weights(run)
    moving = {n for n, p in run.module.network.named_parameters() if begins_with(n, phase.moves)}
    assert moving
    for name, value in before.items():
        same = torch.equal(value, after[name])
        if name not in moving:
            assert same, f"{name} is frozen"
        elif "positions" not in name and ".embed." not in name:
            assert not same, f"{name} is trained"


@pytest.mark.parametrize("stage", ["align", "instruct", "select", "reason"])
def test_over_fits_eight_examples(
    stage: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_SET_SMOOTHING", 0.0)
    recipe = recipe_of(
        tmp_path, stage=stage, batch_size=8, epochs=600.0, learning_rate=3e-3,
        head_learning_rate=6e-3, weight_decay=0.0, log_steps=20,
    )  # fmt: skip
    config = network_of(tokenizer).config
    phase = STAGES[stage].phases[-1]
    if stage == "align":  # all of the language layers, where the real stage adds low ranks
        phase = stages.Phase(("image.", "text.", "decoder."), ("image.",))
    run = trainer_of(recipe, tokenizer, data=data_of(stage, config, tokenizer, 8), phase=phase)
    run.train()
    assert run.state.log_history[-2]["loss"] < 0.05


def test_a_run_that_is_killed_ends_with_the_same_weights(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    settings = ["save_steps=1", f"epochs={max(2, KILLS)}"]

    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, str(PROGRAM), str(folder), str(tokenizer_file), *settings]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    drawn, kills, folder = random.Random(4), 0, tmp_path / "killed"
    while True:
        known = len(list(folder.glob("checkpoint-*"))) if folder.is_dir() else 0
        process = start(folder)
        if kills >= KILLS:
            assert process.wait() == 0
            break
        # Wait until it trains, then strike at a moment that may lie within a save.
        while process.poll() is None:
            if (folder / "unfinished").is_dir() or len(list(folder.glob("checkpoint-*"))) > known:
                break
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.3))
        assert process.poll() is None, "the run was over before it was killed often enough"
        process.kill()
        process.wait()
        kills += 1
    digests = {
        hashlib.sha256((tmp_path / name / NETWORK).read_bytes()).hexdigest()
        for name in ("whole", "killed")
    }
    assert len(digests) == 1


def test_a_loss_that_is_no_number_ends_with_a_sentence(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer_of(recipe_of(tmp_path, save_steps=1), tokenizer)
    whole = run.module.forward

    def forward(batch: Any) -> Any:
        return whole(batch) * (float("nan") if run.state.global_step == 2 else 1)

    monkeypatch.setattr(run.module, "forward", forward)
    with pytest.raises(ValueError, match=r"became nan at step 3; .*checkpoint-2\. Lower"):
        run.train()
    assert [path.name for path in trainer.checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-2"]


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer_of(recipe_of(tmp_path, save_steps=1), tokenizer)
    whole = trainer.save_file

    def full(*words: Any) -> None:
        if run.state.global_step == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(*words)

    monkeypatch.setattr(trainer, "save_file", full)
    with pytest.raises(ValueError, match=r"No space left on device\); .*checkpoint-1\. Make room"):
        run.train()
    assert [path.name for path in trainer.checkpoints(tmp_path)] == ["checkpoint-1"]
    assert not (tmp_path / "unfinished").exists()


def test_processes_share_the_batches_and_epochs_differ(tokenizer: Tokenizer) -> None:
    data = data_of("select", network_of(tokenizer).config, tokenizer, 22)
    whole = EpochBatches(data, 4, 1)
    parts = [EpochBatches(data, 4, 1, rank=rank, count=2) for rank in range(2)]
    read = [batch for part in parts for batch in part]
    assert sorted(read) == sorted(whole)
    assert len(whole) == 6
    assert sorted(at for batch in whole for _, at in batch) == list(range(22))
    first = [[at for _, at in batch] for batch in whole]
    whole.set_epoch(1)
    assert first != [[at for _, at in batch] for batch in whole]
