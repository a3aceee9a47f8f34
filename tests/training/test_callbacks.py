"""What a run shows of itself is what the formulas say, and survives a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from small_run import Requests, network_of, photos, recipe_of, trainer_of  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from embervlm.evaluation.metrics import (  # noqa: E402
    Answer,
    Truth,
    calibration_bins,
    expected_calibration_error,
    first_robot_confusion,
    presence_confusion,
)
from embervlm.fleet import Fleet  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training.callbacks import (  # noqa: E402
    CURVES,
    LOG,
    SESSIONS,
    SUMMARY,
    Examination,
    closing_lines,
    example_table,
    summarise_phases,
)
from embervlm.training.decisions import accuracy, predict  # noqa: E402
from embervlm.training.trainer import EmberTrainer, checkpoints  # noqa: E402

OUTCOMES = Fleet.default().outcomes
STEPS = 6


class StruckError(Exception):
    pass


class Struck(TrainerCallback):
    """Breaks the run off between two checkpoints."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise StruckError


def examined(
    tokenizer: Tokenizer, folder: Path, *, with_photos: bool = False, **more: Any
) -> EmberTrainer:
    """Return a trainer of `select` whose evaluations look at a few requests."""
    given = {"save_steps": 2, "eval_steps": 3, **more}
    network = network_of(tokenizer)
    held = Requests(network.config, tokenizer, 16)
    items = [one.item for one in held._all]
    groups = {
        "requests": [one for one in items if one.photo is None],
        "photo": [one for one in items if one.photo is not None and with_photos],
    }
    measure = Examination(groups, photos())
    return trainer_of(recipe_of(folder, **given), tokenizer, validation=held, measure=measure)


def test_an_evaluation_leaves_figures_pictures_and_examples(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    run = examined(tokenizer, tmp_path, with_photos=True, report_to="tensorboard", max_steps=3)
    run.train()
    folder = tmp_path / "evaluations" / "step-3"
    groups = ("requests", "photo")
    names = {
        f"{group}-{kind}.png" for group in groups for kind in ("first", "presence", "reliability")
    }
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "examples.md", *names}
    for name in names:
        with Image.open(folder / name) as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 400
        assert pixels.std() > 5, "something is drawn"
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    logged = next(
        line for line in run.state.log_history if line["step"] == 3 and "eval_loss" in line
    )
    assert logged["eval_exact"] == pytest.approx(
        metrics["requests"]["exact_set"]["value"], abs=1e-4
    )
    assert logged["eval_photo_exact"] == pytest.approx(
        metrics["photo"]["exact_set"]["value"], abs=1e-4
    )
    for outcome in OUTCOMES:
        for figure in ("precision", "recall", "f1"):
            name = f"eval_robot_{outcome.lower().replace(' ', '_')}_{figure}"
            value = metrics["requests"][f"{figure} {outcome}"]["value"]
            assert logged.get(name) == (None if value is None else pytest.approx(value, abs=1e-4))
    assert "## photo" in (folder / "examples.md").read_text("utf-8")
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    tags = events.Reload().Tags()
    assert {"eval/robot_drone_recall", "eval/exact", "train/loss_subsets"} <= set(tags["scalars"])
    assert set(tags["images"]) == {f"evaluation/{name.removesuffix('.png')}" for name in names}
    assert "evaluation/examples/text_summary" in tags["tensors"]


def test_the_examination_agrees_with_accuracy_and_changes_nothing(tokenizer: Tokenizer) -> None:
    network = network_of(tokenizer)
    items = [one.item for one in Requests(network.config, tokenizer, 24)._all]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    look = Examination({"requests": items, "photo": []}, photos())
    told = look(network)
    expected = accuracy(predict(network, items, photos()), items)
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert list(look.found) == ["requests"]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_confusions_and_bins_add_up() -> None:
    truths = [
        Truth("a", "", ("Drone",), "Drone"),
        Truth("b", "", ("Drone", "Humanoid"), "Humanoid"),
        Truth("c", "", ("No Robot",), "No Robot"),
    ]
    answers = [
        Answer(("Drone",), "Drone", confidence=0.9),
        Answer(("Drone",), "Drone", confidence=0.7),
        Answer(("Drone",), "Drone", confidence=0.4),
    ]
    first_OO = first_robot_confusion(answers, truths, OUTCOMES)
    drone, humanoid, nobody = (OUTCOMES.index(n) for n in ("Drone", "Humanoid", "No Robot"))
    assert first_OO.sum() == 3
    assert [first_OO[row, drone] for row in (drone, humanoid, nobody)] == [1, 1, 1]
    presence = presence_confusion(answers, truths, OUTCOMES)
    assert presence[drone].tolist() == [[0, 1], [0, 2]]
    assert presence[humanoid].tolist() == [[2, 0], [1, 0]]
    drawn = np.random.default_rng(0)
    sure_N, right_N = drawn.random(50), (drawn.random(50) < 0.6).astype(float)
    bins = calibration_bins(sure_N, right_N, 7)
    assert sum(one.n for one in bins) == 50
    error = sum(one.n * abs(one.confidence - one.right) for one in bins) / 50
    assert error == pytest.approx(expected_calibration_error(sure_N, right_N, 7))


def test_the_surest_wrong_answer_stands_on_top() -> None:
    said = [(0.2, "Drone"), (0.9, "Humanoid"), (0.6, "Humanoid"), (0.8, "Drone")]
    answers = [Answer((robot,), robot, confidence=sure) for sure, robot in said]
    truths = [Truth(str(i), f"task {i}\n| here", ("Drone",), "Drone", "rough") for i in range(4)]
    rows = example_table(answers, truths).splitlines()[2:]
    assert [row.split("|")[1].split()[1] for row in rows] == ["1", "2", "0", "3"]
    assert rows[0] == "| task 1 \\| here | rough | Drone | Humanoid | 90% | wrong |"
    assert len(example_table(answers * 20, truths * 20).splitlines()) == 22
    long = Truth("x", "word " * 100, ("Drone",), "Drone")
    assert "word ... |" in example_table(answers[:1], [long])


def test_a_run_that_is_broken_off_accounts_for_all_of_it(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = examined(tokenizer, tmp_path / "whole")
    whole.train()
    broken = examined(tokenizer, tmp_path / "broken")
    broken.add_callback(Struck())
    with pytest.raises(StruckError):
        broken.train()
    again = examined(tokenizer, tmp_path / "broken")
    again.train(resume_from_checkpoint=str(checkpoints(tmp_path / "broken")[-1]))
    expected, found = (
        json.loads((tmp_path / name / SUMMARY).read_text("utf-8")) for name in ("whole", "broken")
    )
    assert (found["steps"], expected["sessions"], found["sessions"]) == (STEPS, 1, 2)
    for name in ("examples", "tokens", "stage", "best"):
        assert found[name] == expected[name], name
    assert found["examples"] == 24
    assert found["best"]["step"] in (3, 6)
    assert found["peak_memory_bytes"] > 2**26
    sessions = json.loads((tmp_path / "broken" / SESSIONS).read_text("utf-8"))
    # From the sessions' own milliseconds: the summary tells tenths of a second.
    training = sum(one["seconds"] - one["seconds_evaluating"] for one in sessions)
    assert found["examples_per_s"] == pytest.approx(24 / training, abs=0.01)
    assert [(one["from_step"], one["to_step"]) for one in sessions] == [(0, 4), (4, 6)]
    lines = [
        [json.loads(line) for line in (tmp_path / name / LOG).open(encoding="utf-8")]
        for name in ("whole", "broken")
    ]
    steps, again_steps = ([line["step"] for line in one] for one in lines)
    assert steps == again_steps == sorted(steps)
    assert [line.get("loss") for line in lines[0]] == [line.get("loss") for line in lines[1]]
    assert (tmp_path / "broken" / CURVES).stat().st_size > 10_000
    told = capsys.readouterr().err
    for beginning in ("select: 6 steps in ", "best validation exact ", "energy not known (not "):
        assert told.count(beginning) == 2, beginning
    for name, value in whole.module.network.state_dict().items():
        assert torch.equal(value, again.module.network.state_dict()[name]), name


def test_phases_are_summed_up(tmp_path: Path) -> None:
    session = {
        "from_step": 0, "processes": 1, "seconds": 10.0, "seconds_evaluating": 2.0, "examples": 24,
        "tokens": 400, "peak_memory_bytes": 7, "peak_gpu_memory_bytes": None, "energy_kwh": 0.5,
        "co2e_g": None, "energy_found": "counted",
    }  # fmt: skip
    for number, exact in ((1, 0.25), (2, 0.25)):
        folder = tmp_path / f"phase-{number}"
        folder.mkdir()
        (folder / SESSIONS).write_text(json.dumps([{**session, "to_step": STEPS * number}]))
        (folder / "best.json").write_text(json.dumps({"exact": exact, "step": 3}))
    summarise_phases("reason", tmp_path, [tmp_path / f"phase-{number}" for number in (1, 2, 3)])
    summary = json.loads((tmp_path / SUMMARY).read_text("utf-8"))
    assert (summary["stage"], summary["steps"], summary["sessions"]) == ("reason", 3 * STEPS, 2)
    assert (summary["examples_per_s"], summary["tokens_per_s"]) == (3.0, 50.0)
    assert summary["best"] == {"exact": 0.25, "step": 3, "phase": "phase-1"}, "of equals the first"
    assert summary["energy"] == {"kwh": 1.0, "co2e_g": None}
    assert summary["energy_found"] == "counted"
    assert closing_lines(summary)[-1] == "energy 1 kWh (counted)"


def test_a_full_disk_at_an_evaluation_ends_with_a_sentence(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "evaluations").write_text("in the way", "utf-8")
    with pytest.raises(ValueError, match=r"step-3 cannot be written \(.*\)\. Make room"):
        examined(tokenizer, tmp_path).train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
