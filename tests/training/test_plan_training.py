"""A tiny part learns plans by heart; its targets are what the rows say."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")
from safetensors.torch import load_file  # noqa: E402

from embervlm.backends.native import NativeBackend  # noqa: E402
from embervlm.checkpoint import load_checkpoint  # noqa: E402
from embervlm.data.scenarios import load_own  # noqa: E402
from embervlm.models.configuration import EmberConfig, config_of  # noqa: E402
from embervlm.models.heads import ROBOTS  # noqa: E402
from embervlm.models.plan_steps import MAX_STEPS  # noqa: E402
from embervlm.training.plan_examples import (  # noqa: E402
    Before,
    batches,
    collate,
    continued_examples,
    joined_examples,
    single_examples,
    written_examples,
)
from embervlm.training.plan_steps import Run, Settings, measure, train  # noqa: E402

ROWS = [
    {
        "id": f"p-{i}",
        "task": f"map the {place} from above, then carry the {load} kg pump there",
        "split": split,
        "suited": ["Drone", "Robot with Legs"],
        "environment": "rough",
        "plan": [
            {"subtask": f"Map the {place}", "robot": "Drone", "after": [], "actions": ["map"],
             "limits": {"height": True}},
            {"subtask": "Carry the pump", "robot": "Robot with Legs", "after": [0],
             "actions": ["carry"], "limits": {"load_kg": load}},
        ],
    }
    for i, (place, load, split) in enumerate(
        [("lake", 6, "train"), ("wood", 7, "train"), ("hill", 8, "validation")]
    )
]  # fmt: skip
REQUEST = {
    "id": "s-1", "task": "look at the roof", "split": "train", "suited": ["Drone"],
    "primary": "Drone", "environment": "airborne", "actions": ["look"],
    "limits": {"height": True}, "kind": "choice",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("own")
    requests = [
        {**REQUEST, "id": f"s-{i}", "task": f"look at the {thing}"}
        for i, thing in enumerate(("roof", "mast", "dam", "bell", "barn", "gate"))
    ]
    for name, rows in (("plans", ROWS), ("scenarios", requests)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (place / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    return str(place)


@pytest.fixture(scope="module")
def reader(tiny_model: Path) -> Before:
    return Before(NativeBackend.load(tiny_model), last=1)


def test_targets_are_what_a_row_says(folder: str, reader: Before) -> None:
    one, _ = written_examples("train", reader, folder)
    assert one.count == 2
    assert one.robots_KO[:2].argmax(-1).tolist() == [0, 4]
    assert one.after_KK.nonzero().tolist() == [[1, 0]]
    assert one.told_KL[:2, :ROBOTS].sum(-1).tolist() == [1, 1]
    assert one.pointer_KT.shape == (MAX_STEPS + 1, len(one.states_TD))
    assert one.pointer_KT.sum(-1)[:2].tolist() == pytest.approx([1, 1])
    # The two steps stand in different words, the first one in front.
    middle_K = (one.pointer_KT * torch.arange(len(one.states_TD))).sum(-1)
    assert middle_K[0] < middle_K[1]


def test_what_must_be_finished_before_counts_near_and_far(reader: Before, tmp_path: Path) -> None:
    told = {"the roof": [], "the dam": [0], "the mill": [1]}
    one = ROWS[0]["plan"][0]
    steps = [{**one, "subtask": f"Map {place}", "after": after} for place, after in told.items()]
    row = {**ROWS[0], "task": "Map the roof, then the dam, then the mill.", "plan": steps}
    (tmp_path / "plans.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    (only,) = written_examples("train", reader, str(tmp_path))
    assert only.after_KK.nonzero().tolist() == [[1, 0], [2, 0], [2, 1]]


def test_continued_plans_have_one_step_more(folder: str, reader: Before) -> None:
    found = continued_examples(2, 1, reader, folder)
    assert [example.count for example in found] == [3] * 4
    assert all(example.pointer_KT[2].sum() == pytest.approx(1) for example in found)


def test_single_requests_are_jobs_of_one_step(folder: str, reader: Before) -> None:
    found = single_examples(0.5, 1, reader, folder)
    assert [example.count for example in found] == [1] * 3
    assert all(example.robots_KO[0].argmax() == 0 for example in found)
    assert all(example.environment_K[0] >= 0 for example in found)
    assert all(example.after_KK.sum() == 0 for example in found)


def test_batches_hold_every_example_once(folder: str, reader: Before) -> None:
    examples = joined_examples(11, 1, reader, folder)
    found = batches(examples, 4, random.Random(1))
    assert sorted(map(len, found)) == [3, 4, 4]
    assert {id(e) for batch in found for e in batch} == {id(e) for e in examples}
    batch = collate(found[0])
    assert batch["states_TD"].shape[:2] == batch["mask_BT"].shape
    assert batch["mask_BT"].sum() == sum(len(e.states_TD) for e in found[0])


def test_it_learns_plans_by_heart(
    folder: str, reader: Before, tiny_model: Path, tmp_path: Path
) -> None:
    written = written_examples("train", reader, folder)
    settings = Settings(
        plan_width=32, plan_layers=1, plan_readers=1, dropout=0, epochs=30, written=8,
        batch_size=8, forget=0, blank=0, average=0.5, learning_rate=3e-3,
    )  # fmt: skip
    log = tmp_path / "metrics.jsonl"
    network = train(settings, [], written, written, *model_of(tiny_model), log)
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    curve = [json.loads(line) for line in lines]
    assert len(curve) == 30
    assert curve[-1]["loss_robots"] < 0.1 * curve[0]["loss_robots"]
    assert measure(network, written) == {"team": 1, "jaccard": 1, "count": 1, "after_f1": 1}


def model_of(path: Path) -> tuple[EmberConfig, dict[str, torch.Tensor]]:
    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint.config)
    assert isinstance(config, EmberConfig)
    return config, {name: torch.tensor(w) for name, w in checkpoint.weights.items()}


# An epoch in which nothing moves.
STILL = Settings(
    plan_width=32, plan_layers=1, plan_readers=1, epochs=1, learning_rate=0, reader_rate=0
)


def test_its_own_layers_begin_as_the_reader_s_last_ones(
    folder: str, reader: Before, tiny_model: Path, tmp_path: Path
) -> None:
    config, weights = model_of(tiny_model)
    written = written_examples("train", reader, folder)
    network = train(STILL, [], written, written, config, weights, tmp_path / "metrics.jsonl")
    last = f"text.layers.{config.text_layers - 1}."
    for name, value in network.readers[0].state_dict().items():
        # Matrices come back as four bits keep them.
        off = (value - weights[last + name]).norm()
        assert off <= 0.15 * weights[last + name].norm(), name
    many = Settings(plan_readers=config.text_layers + 1)
    with pytest.raises(ValueError, match="ask for that many at most"):
        train(many, [], [], [], config, weights, tmp_path / "metrics.jsonl")


def test_a_start_may_lack_later_layers_and_has_none_that_are_unknown(
    folder: str, reader: Before, tiny_model: Path, tmp_path: Path
) -> None:
    config, weights = model_of(tiny_model)
    written = written_examples("train", reader, folder)
    whole = train(STILL, [], written, written, config, weights, tmp_path / "one.jsonl")
    older = {name: w for name, w in whole.state_dict().items() if not name.startswith("marked")}
    again = train(STILL, [], written, written, config, weights, tmp_path / "two.jsonl", start=older)
    assert torch.allclose(again.narrow.weight, whole.narrow.weight, atol=1e-3)
    other = {**older, "ears.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"has ears.weight, which this version does not know"):
        train(STILL, [], [], [], config, weights, tmp_path / "three.jsonl", start=other)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    folder: str,
    reader: Before,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = written_examples("train", reader, folder)
    settings = Settings(
        plan_width=32, plan_layers=1, plan_readers=1, epochs=3, batch_size=4, average=0.5
    )
    start = model_of(tiny_model)
    wanted = train(settings, [], written, written, *start, tmp_path / "whole.jsonl")
    assert not (tmp_path / "checkpoint.pt").exists()

    def stop(run: Run, path: Path, epoch: int) -> None:
        save(run, path, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    save = Run.save
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "save", stop)
        train(settings, [], written, written, *start, tmp_path / "metrics.jsonl")
    other = replace(settings, forget=0.5)
    with pytest.raises(ValueError, match="is of a run with other settings"):
        train(other, [], written, written, *start, tmp_path / "metrics.jsonl")
    found = train(settings, [], written, written, *start, tmp_path / "metrics.jsonl")
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert lines == (tmp_path / "whole.jsonl").read_text("utf-8").splitlines()


def test_plans_to_judge_by_are_not_learnt(folder: str, reader: Before) -> None:
    every = written_examples("train", reader, folder)
    first = load_own("plans", "train", folder)[0]["id"]
    rest = written_examples("train", reader, folder, lambda row_id: row_id != first)
    assert len(rest) == len(every) - 1
    assert len(continued_examples(1, 1, reader, folder, lambda row_id: row_id != first)) == len(
        rest
    )


def test_the_command_writes_the_part(folder: str, tiny_model: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "embervlm.training.plan_steps", "--model", str(tiny_model),
        "--out", str(tmp_path / "plan"), "--scenarios", folder, "--threads", "1",
        "--plan-width", "32", "--plan-layers", "1", "--plan-readers", "1",
        "--jobs", "4", "--continued", "1",
        "--written", "1", "--epochs", "1", "--batch-size", "4",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plan" / "plan.safetensors").is_file()
    assert json.loads((tmp_path / "plan" / "metrics.jsonl").read_text("utf-8"))["epoch"] == 1
    first = load_file(tmp_path / "plan" / "plan.safetensors")
    still = ["--start", str(tmp_path / "plan" / "plan.safetensors"), "--singles", "1"]
    still += ["--learning-rate", "0", "--reader-rate", "0", "--out", str(tmp_path / "again")]
    done = subprocess.run([*command, *still], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    again = load_file(tmp_path / "again" / "plan.safetensors")
    # What four bits keep they keep again, but for the last digits of each block's scale.
    assert all(torch.allclose(again[name], value, atol=1e-3) for name, value in first.items())
    wider = subprocess.run(
        [*command, *still, "--plan-width", "64"], capture_output=True, text=True, timeout=300
    )
    assert wider.returncode == 1
    assert "ask for these" in wider.stderr
    still[1] = str(tmp_path / "plan" / "metrics.jsonl")
    none = subprocess.run([*command, *still], capture_output=True, text=True, timeout=300)
    assert none.returncode == 1
    assert "holds no part to go on from" in none.stderr.splitlines()[-1]
