"""The stages of `ember-37m`: they learn, move what they should, and are the same however cut up."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from gpt2 import write_gpt2_tokenizer  # noqa: E402
from prefix_run import Rows, network_of, recipe_of, trainer_of  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer  # noqa: E402
from embervlm.training import stages  # noqa: E402
from embervlm.training.low_rank import add_low_rank, without_low_rank  # noqa: E402
from embervlm.training.prefix_stages import PREFIX_STAGES  # noqa: E402
from embervlm.training.recipe import NETWORK, Recipe  # noqa: E402
from embervlm.training.stages import STAGES, begins_with  # noqa: E402

PROGRAM = Path(__file__).with_name("prefix_run.py")


@pytest.fixture(scope="module")
def gpt2_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    write_gpt2_tokenizer(folder)
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def gpt2(gpt2_file: Path) -> Gpt2Tokenizer:
    return Gpt2Tokenizer.from_file(gpt2_file)


class Gradients(TrainerCallback):
    """Keeps the gradients that the optimiser gets: its first step would show little but signs."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        moving = kwargs["model"].named_parameters()
        self.found = {name: p.grad.clone() for name, p in moving if p.grad is not None}


def weights(run: Any) -> dict[str, Any]:
    return {k: v.detach().clone() for k, v in run.module.network.state_dict().items()}


def test_the_table_is_that_of_the_other_family() -> None:
    assert list(PREFIX_STAGES) == [name for name in STAGES if name != "grpo"]
    for name, stage in PREFIX_STAGES.items():
        shared = {key: STAGES[name].losses[key] for key in stage.losses}
        assert stage.losses == shared
        assert len(stage.phases) == len(STAGES[name].phases)


@pytest.mark.parametrize(
    ("stage", "steps"), [("align", 160), ("instruct", 100), ("select", 90), ("reason", 100)]
)
def test_over_fits_eight_examples(
    stage: str, steps: int, gpt2: Gpt2Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_SET_SMOOTHING", 0.0)
    recipe = recipe_of(
        tmp_path, stage=stage, batch_size=8, epochs=float(steps), learning_rate=6e-3,
        head_learning_rate=6e-3, weight_decay=0.0, log_steps=10, save_steps=1000, average=0.0,
    )  # fmt: skip
    phase = replace(PREFIX_STAGES[stage].phases[-1], rate=1.0)
    if stage == "align":  # all of the decoder, where the real stage adds low ranks
        phase = stages.Phase(("projector.", "decoder."))
    run = trainer_of(recipe, gpt2, phase=phase)
    run.train()
    assert run.state.log_history[-2]["loss"] < 0.05


@pytest.mark.parametrize("stage", ["instruct", "select", "reason"])
def test_eight_at_once_are_eight_times_one(stage: str, gpt2: Gpt2Tokenizer, tmp_path: Path) -> None:
    found = []
    for size, times in ((8, 1), (1, 8)):
        recipe = recipe_of(
            tmp_path / f"{size}", stage=stage, batch_size=size, gradient_accumulation=times,
            save_steps=1000,
        )  # fmt: skip
        run = trainer_of(recipe, gpt2)
        gradients = Gradients()
        run.add_callback(gradients)
        run.train()
        assert run.state.global_step == 1
        found.append((gradients.found, run.state.log_history[0]["loss"]))
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)
    assert found[0][0].keys() == found[1][0].keys()
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("stage", "number"),
    [("align", 0), ("instruct", 0), ("select", 0), ("reason", 0), ("reason", 1)],
)
def test_only_what_a_phase_moves_changes(
    stage: str, number: int, gpt2: Gpt2Tokenizer, tmp_path: Path
) -> None:
    phase = PREFIX_STAGES[stage].phases[number]
    recipe = recipe_of(tmp_path, stage=stage, epochs=2.0, save_steps=1000)
    network = network_of(gpt2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    added = add_low_rank(network, phase, recipe) if phase.low_rank else []
    run = trainer_of(recipe, gpt2, phase=phase, network=network)
    run.train()
    for layer in added:
        layer.merge()
    after = (without_low_rank(network) if added else network).state_dict()
    moving = {name for name, _ in network.named_parameters() if begins_with(name, phase.moves)}
    assert moving
    for name, value in before.items():
        same = torch.equal(value, after[name])
        is_matrix = (
            value.ndim == 2 and begins_with(name, phase.low_rank) and "transformer.h" in name
        )
        if is_matrix or name in moving:
            assert not same, f"{name} is trained"
        else:
            assert same, f"{name} is frozen"
    assert any("running_mean" in name for name in before), "statistics are among what stays"


def test_a_low_rank_addition_merges_to_the_same_network(gpt2: Gpt2Tokenizer) -> None:
    network = network_of(gpt2)
    layers = add_low_rank(network, PREFIX_STAGES["align"].phases[0], Recipe())
    assert len(layers) == 2 * 4
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    tokens_BT = torch.randint(0, 200, (2, 9))
    with torch.no_grad():
        apart = network.decoder(tokens_BT)[0]
        for layer in layers:
            layer.merge()
        plain = without_low_rank(network)
        torch.testing.assert_close(plain.decoder(tokens_BT)[0], apart, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_keeps_less_and_changes_nothing(gpt2: Gpt2Tokenizer) -> None:
    found = []
    for checkpointed in (False, True):
        network, kept = network_of(gpt2).train(), []
        network.decoder.checkpointed = checkpointed
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            states_BTD, _ = network.decoder(torch.arange(60).reshape(2, 30))
        states_BTD.square().sum().backward()
        found.append((sum(kept), network.decoder.transformer.wte.weight.grad))
    assert found[1][0] < found[0][0] / 2
    torch.testing.assert_close(found[1][1], found[0][1])


def test_a_teacher_pulls_the_answers_to_its_own(gpt2: Gpt2Tokenizer) -> None:
    network, teacher = network_of(gpt2), network_of(gpt2)
    rows = Rows("instruct", gpt2)
    batch = rows.batch(rows.items(0), None)
    stage = PREFIX_STAGES["instruct"]
    with torch.no_grad():
        alike = stages.StageModule(network, stage, teacher)(dict(batch))
        teacher.decoder.transformer.wte.weight.mul_(3)
        unlike = stages.StageModule(network, stage, teacher)(dict(batch))
    at = list(stage.losses).index("teacher")
    assert alike[at] == pytest.approx(0, abs=1e-4)
    assert unlike[at] > 0.1


def test_a_run_that_is_killed_ends_with_the_same_weights(gpt2_file: Path, tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, str(PROGRAM), str(folder), str(gpt2_file)]
        return subprocess.Popen(
            [*words, "save_steps=1", "epochs=2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole").wait() == 0
    process, folder = start(tmp_path / "killed"), tmp_path / "killed"
    while process.poll() is None and not list(folder.glob("checkpoint-*")):
        time.sleep(0.01)
    assert process.poll() is None, "the run was over before it was killed"
    process.kill()
    process.wait()
    assert start(folder).wait() == 0
    digests = {
        hashlib.sha256((tmp_path / name / NETWORK).read_bytes()).hexdigest()
        for name in ("whole", "killed")
    }
    assert len(digests) == 1
