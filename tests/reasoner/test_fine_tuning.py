"""A tiny Qwen2.5 learns to review: loss falls, LoRA alone moves, and the folder is a manager."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402
from tiny_qwen import save_qwen  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from embervlm.reasoner.fine_tuning import (  # noqa: E402
    IGNORED,
    SUMMARY,
    Padding,
    Tuned,
    TuningSettings,
    encode,
    fine_tune,
    read_rows,
)
from embervlm.reasoner.managers import Attempt  # noqa: E402
from embervlm.reasoner.memory_manager import ReasoningMemoryManager  # noqa: E402
from embervlm.reasoner.models import open_model  # noqa: E402
from embervlm.reasoner.problems import Problem  # noqa: E402
from embervlm.reasoner.simulation import simulate  # noqa: E402
from embervlm.training.teacher_prompts import Prompt  # noqa: E402
from embervlm.training.teachers import TeacherSettings  # noqa: E402


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sim") / "sim"
    simulate(folder, rows=60, seed=0, problems=1)
    return folder


@pytest.fixture(scope="module")
def qwen(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [" ".join(row.values()) for row in read_rows(simulated / "train.jsonl")]
    return save_qwen(tmp_path_factory.mktemp("qwen"), texts)


@pytest.fixture(scope="module")
def settings(
    simulated: Path, qwen: Path, tmp_path_factory: pytest.TempPathFactory
) -> TuningSettings:
    out = tmp_path_factory.mktemp("runs") / "rmm"
    return TuningSettings(
        str(qwen), simulated, out, steps=40, batch=4, learning_rate=1e-2, rank=4, save_steps=20
    )


@pytest.fixture(scope="module")
def tuned(settings: TuningSettings) -> Tuned:
    return fine_tune(settings)


def test_the_loss_falls_and_the_summary_says_so(tuned: Tuned, settings: TuningSettings) -> None:
    assert (tuned.rows, tuned.left_out, tuned.steps) == (54, 0, 40)
    assert tuned.loss_after < tuned.loss_before - 0.5
    assert tuned.trainable < tuned.parameters / 4
    summary = json.loads((settings.out / SUMMARY).read_text())
    assert summary["loss_after"] == tuned.loss_after
    assert summary["settings"]["rank"] == 4


def test_only_lora_moves_and_all_of_it(tuned: Tuned, settings: TuningSettings, qwen: Path) -> None:
    adapter = load_file(settings.out / "adapter_model.safetensors")
    assert adapter
    assert all("lora_" in name for name in adapter)
    assert all(bool(value.abs().max() > 0) for value in adapter.values()), "each B was zero"
    loaded = AutoModelForCausalLM.from_pretrained(settings.out).state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained(qwen).state_dict().items():
        kept = loaded.get(name, loaded.get(name.replace(".weight", ".base_layer.weight")))
        if kept is None:
            kept = loaded[name.replace(".bias", ".base_layer.bias")]
        assert torch.equal(kept, value), name


def test_the_folder_is_a_manager_and_answers_as_it_was_trained(
    tuned: Tuned, settings: TuningSettings, qwen: Path
) -> None:
    short = TeacherSettings(max_tokens=40)
    model = open_model(f"local:{settings.out}", short)
    manager = ReasoningMemoryManager(model)
    problem = Problem(
        "p", "9 boxes hold 8 sweets each. 3 children share all sweets equally. How many?"
    )
    made = manager.review(problem, [Attempt("9 * 8 = 72\nAnswer: 72", "72")], [], None)
    plain = open_model(f"local:{qwen}", short)
    assert made.said.startswith("VERDICT"), "the steps teach the form's beginning"
    prompt = Prompt(*made.asked.split("\n\n", 1))
    assert plain.ask(prompt, None, seed=0).text != made.said, "the adapter changes the answer"


@pytest.mark.parametrize("template", [True, False])
def test_a_row_is_asked_as_the_manager_will_be(
    template: bool, simulated: Path, qwen: Path, tmp_path: Path
) -> None:
    row = read_rows(simulated / "train.jsonl")[0]
    place = qwen
    if not template:
        place = save_qwen(tmp_path / "bare", [" ".join(row.values())], template=None)
    tokenizer = AutoTokenizer.from_pretrained(place)
    example = encode(tokenizer, row)
    answer = [token for token in example["labels"] if token != IGNORED]
    model = open_model(f"local:{place}")
    asked = model._inputs(Prompt(row["system"], row["words"]), None)["input_ids"][0]  # type: ignore[attr-defined]
    assert example["input_ids"] == [*asked.tolist(), *answer]
    assert tokenizer.decode(answer, skip_special_tokens=True) == row["completion"]
    assert answer[-1] == tokenizer.eos_token_id
    batch = Padding(0)([example, {"input_ids": [5], "labels": [IGNORED]}])
    assert batch["attention_mask"].sum(1).tolist() == [len(example["input_ids"]), 1]
    assert (batch["labels"][1] == IGNORED).all()


def test_a_run_goes_on_where_it_was(tuned: Tuned, settings: TuningSettings) -> None:
    more = fine_tune(replace(settings, steps=50, resume=True))
    assert more.steps == 50
    assert more.loss_before == pytest.approx(tuned.loss_before), "before: without the adapter"
    assert more.loss_after < tuned.loss_after + 0.1


def test_mistakes_get_a_sentence(
    settings: TuningSettings, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    new = replace(settings, out=tmp_path / "new")
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("x")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train.jsonl").write_text('{"system": 1}\n')
    for wrong, says in (
        (replace(new, data=tmp_path), "train.jsonl is not there; write it with"),
        (replace(new, data=broken), "line 1, is no simulated review"),
        (replace(new, out=full), "is not empty; give a new folder, or --resume"),
        (replace(new, resume=True), "has no checkpoint to go on from"),
        (replace(new, model=str(full)), "cannot be loaded .*check the folder"),
        (replace(new, model="nobody/nothing"), "cannot be loaded .*check the name"),
        (replace(new, max_tokens=5), "is longer than 5 tokens"),
    ):
        with pytest.raises(ValueError, match=says):
            fine_tune(wrong)
    for name in ("rank", "batch", "epochs"):
        with pytest.raises(ValueError, match=f"{name} is 0; it must be above 0"):
            replace(new, **{name: 0})
    with pytest.raises(ValueError, match="steps is 0"):
        replace(new, steps=0)


def test_a_bad_adapter_gets_a_sentence(tmp_path: Path) -> None:
    def adapter(name: str, about: object, *files: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(about))
        for file in files:
            (folder / file).write_text("{}")
        return f"local:{folder}"

    weights, gone = "adapter_model.safetensors", {"base_model_name_or_path": "/not/there"}
    for name, says in (
        (adapter("a", {}), "does not say which model the adapter is for"),
        (adapter("b", gone), "has no adapter_model.safetensors; is its training finished"),
        (adapter("c", gone, weights), "is for /not/there, which is not there"),
    ):
        with pytest.raises(ValueError, match=says):
            open_model(name)
