"""What a run shows of itself: answers at each evaluation, and an account of itself at the end.

    OUT/evaluations/step-400/   metrics.json, examples.md, and for `requests` and `photo` each
                                *-first.png, *-presence.png, *-reliability.png; memory.png and
                                ternary.png of a network that has them
    OUT/metrics.jsonl           each line of the log: losses, rates, evaluations
    OUT/summary.json            steps, seconds, examples and tokens a second, best, memory, energy
    OUT/curves.png              losses and exact sets over the steps

A callback holds nothing that a kill loses: what it writes comes from the trainer's state, which
checkpoints hold, or lies in `OUT/sessions.json`, one entry for each time that the run was started,
brought up to date with each checkpoint. Only the main process writes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

from embervlm.data.sample import robots_of
from embervlm.data.scenarios import load_own
from embervlm.evaluation.looking import draw_inside
from embervlm.evaluation.metrics import (
    Answer,
    Figure,
    Truth,
    calibration_bins,
    expected_calibration_error,
    first_robot_confusion,
    measure,
    presence_confusion,
)
from embervlm.evaluation.plots import draw_log
from embervlm.fleet import ENVIRONMENTS, Fleet
from embervlm.scoring import exact
from embervlm.training.decisions import Item, Photos, accuracy, predict
from embervlm.training.energy import Meter, open_meter

if TYPE_CHECKING:
    from embervlm.training.trainer import EmberTrainer

# A network and some items -> their logits.
Answering = Callable[[Any, Sequence[Item]], dict[str, Tensor]]
OUTCOMES = Fleet.default().outcomes
SESSIONS, SUMMARY, CURVES = "sessions.json", "summary.json", "curves.png"
LOG = "metrics.jsonl"
EXAMPLES_SHOWN = 20
_TASK_CHARACTERS = 160


# --- evaluations ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examined:
    """What the network answered in one group of validation, and how good that is."""

    answers: Sequence[Answer]
    truths: Sequence[Truth]
    figures: Mapping[str, Figure]


class Examination:
    """Has the network answer validation. A call returns what is logged; `found` keeps the rest.

    The answers are the network's own, from its most likely set, without the fleet's rules, and the
    confidence is that set's chance before any calibration.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[Item]],
        photos: Photos | None,
        pairs: Mapping[str, str] | None = None,
        answer: Answering | None = None,
    ) -> None:
        """Prepare the groups, of which `requests` is the first; `pairs` names contrast pairs by the
        request's id. `answer` returns the logits of some items, without it `decisions.predict`."""
        self.groups = {name: list(items) for name, items in groups.items() if items}
        self.answer = answer or partial(predict, photos=photos)
        self.pairs = pairs or {}
        self.found: dict[str, Examined] = {}

    def __call__(self, network: Any) -> dict[str, float]:
        """Return exact set and its like, the photo group's under `photo_`, and of `requests` each
        outcome's precision, recall and F1."""
        logged: dict[str, float] = {}
        for group, items in self.groups.items():
            logits = self.answer(network, items)
            truths = [_truth(item, self.pairs) for item in items]
            answers = answers_of(logits)
            figures = measure(answers, truths, outcomes=OUTCOMES)
            self.found[group] = Examined(answers, truths, figures)
            before = "" if group == "requests" else f"{group}_"
            logged |= {f"{before}{name}": value for name, value in accuracy(logits, items).items()}
            logged |= {
                f"{before}{name}": figures[name].value for name in ("macro_f1", "calibration_error")
            }
            if group == "requests":
                logged |= {
                    f"robot_{outcome.lower().replace(' ', '_')}_{figure}": figures[
                        f"{figure} {outcome}"
                    ].value
                    for outcome in OUTCOMES
                    for figure in ("precision", "recall", "f1")
                }
        return {name: round(value, 4) for name, value in logged.items() if not np.isnan(value)}


def examination_of(
    groups: Mapping[str, Sequence[Item]],
    photos: Photos | None,
    scenarios: str = "",
    answer: Answering | None = None,
) -> Examination:
    """Return the examination of the validation split's groups, its contrast pairs known."""
    rows = load_own("scenarios", "validation", scenarios)
    pairs = {row["id"]: row["pair"] for row in rows if row.get("pair")}
    return Examination(groups, photos, pairs, answer)


def answers_of(logits: Mapping[str, Tensor]) -> list[Answer]:
    """Return the answers that the logits of some requests mean."""
    p_BS = logits["subsets"].double().softmax(-1)
    sure_B, best_B = p_BS.max(-1)
    first_BR = logits["primary"].double().softmax(-1)
    place_B = logits["environment"].argmax(-1)
    return [
        Answer(
            tuple(robots_of(int(best_B[i]))),
            OUTCOMES[int(first_BR[i].argmax())],
            ENVIRONMENTS[int(place_B[i])],
            float(sure_B[i]),
            dict(zip(OUTCOMES, first_BR[i].tolist(), strict=True)),
        )
        for i in range(len(best_B))
    ]


class EvaluationFiles(TrainerCallback):
    """Writes what an examination found into `evaluations/step-N`, and into TensorBoard."""

    def __init__(self, trainer: EmberTrainer, examination: Examination) -> None:
        self.trainer, self.examination = trainer, examination

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the files.

        Raises:
            ValueError: they cannot be written.
        """
        if not state.is_world_process_zero or not self.examination.found:
            return
        folder = Path(args.output_dir) / "evaluations" / f"step-{state.global_step}"
        try:
            network = self.trainer.module.network
            pictures = write_evaluation(self.examination.found, folder, network)
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be written ({error.strerror or error}). Make room and start "
                "again."
            ) from error
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                _show(callback.tb_writer, folder, pictures, state.global_step)
            elif isinstance(callback, WandbCallback):
                _show_in_wandb(callback, pictures)


def write_evaluation(
    found: Mapping[str, Examined], folder: Path, network: Any = None
) -> list[Path]:
    """Write metrics, examples and pictures of all groups and of the inside of a network (None:
    none); return the pictures' paths."""
    from embervlm.evaluation.pictures import draw_confusion, draw_presence, draw_reliability

    folder.mkdir(parents=True, exist_ok=True)
    metrics, tables, pictures = {}, [], []
    for group, one in found.items():
        metrics[group] = {name: figure.to_dict() for name, figure in one.figures.items()}
        tables.append(f"## {group}\n\n{example_table(one.answers, one.truths)}")
        of = f"{len(one.truths):,} of validation, {group}"
        first, presence, reliability = (
            folder / f"{group}-{kind}.png" for kind in ("first", "presence", "reliability")
        )
        both = (one.answers, one.truths, OUTCOMES)
        draw_confusion(first_robot_confusion(*both), OUTCOMES, first, f"First robot: {of}")
        draw_presence(presence_confusion(*both), OUTCOMES, presence, f"Robots in the set: {of}")
        confidence_N = np.array([answer.confidence for answer in one.answers], dtype=np.float64)
        right_N = np.array(
            [exact(a.robots, t.robots) for a, t in zip(one.answers, one.truths, strict=True)],
            dtype=np.float64,
        )
        draw_reliability(
            calibration_bins(confidence_N, right_N),
            expected_calibration_error(confidence_N, right_N),
            reliability,
            "How sure, how often right",
        )
        pictures += [first, presence, reliability]
    if network is not None:
        pictures += draw_inside(network, folder).drawn
    _write(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    _write(folder / "examples.md", "\n".join(tables))
    return pictures


def example_table(
    answers: Sequence[Answer], truths: Sequence[Truth], count: int = EXAMPLES_SHOWN
) -> str:
    """Return a Markdown table: wrong answers first, the surest of them on top; then right ones, the
    least sure on top."""

    def place(i: int) -> tuple[bool, float]:
        right, sure = exact(answers[i].robots, truths[i].robots), answers[i].confidence or 0.0
        return right, sure if right else -sure

    lines = ["| request | place | right set | answer | sure | |", "|---|---|---|---|---|---|"]
    for i in sorted(range(len(answers)), key=place)[:count]:
        answer, truth = answers[i], truths[i]
        task = " ".join(truth.task.split()).replace("|", "\\|")
        if len(task) > _TASK_CHARACTERS:
            task = f"{task[:_TASK_CHARACTERS].rsplit(' ', 1)[0]} ..."
        verdict = "right" if exact(answer.robots, truth.robots) else "wrong"
        lines.append(
            f"| {task} | {truth.environment or ''} | {', '.join(truth.robots)} "
            f"| {', '.join(answer.robots)} | {answer.confidence or 0:.0%} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _truth(item: Item, pairs: Mapping[str, str]) -> Truth:
    sample = item.sample
    assert sample.subset is not None
    assert sample.primary is not None
    return Truth(
        sample.id,
        sample.task or "",
        tuple(robots_of(sample.subset)),
        OUTCOMES[sample.primary],
        None if sample.environment is None else ENVIRONMENTS[sample.environment],
        pairs.get(sample.id),
    )


def _show(writer: Any, folder: Path, pictures: Sequence[Path], step: int) -> None:
    from PIL import Image

    for path in pictures:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        writer.add_image(f"evaluation/{path.stem}", pixels, step, dataformats="HWC")
    writer.add_text("evaluation/examples", (folder / "examples.md").read_text("utf-8"), step)
    writer.flush()


def _show_in_wandb(callback: Any, pictures: Sequence[Path]) -> None:
    """Log pictures beside the figures of the same evaluation, which W&B's callback logs."""
    wandb = callback._wandb
    if wandb is not None and wandb.run is not None:
        shown = {f"evaluation/{path.stem}": wandb.Image(str(path)) for path in pictures}
        wandb.log(shown, commit=False)


# --- the account of a run -------------------------------------------------------------------------


class Account(TrainerCallback):
    """Keeps sessions and log, and writes summary and curves when the phase is over."""

    def __init__(self, trainer: EmberTrainer) -> None:
        self.trainer = trainer
        self.meter: Meter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and the meter."""
        self.begun, self.from_step = time.monotonic(), state.global_step
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        path = self.trainer.place / SESSIONS
        fresh = self.from_step == 0 or not path.is_file()
        self.earlier: list[dict[str, Any]] = [] if fresh else json.loads(path.read_text("utf-8"))
        if state.is_world_process_zero:
            if self.from_step == 0:  # what an earlier run in this folder was best at is not ours
                (self.trainer.place / "best.json").unlink(missing_ok=True)
            recipe = self.trainer.recipe
            self.meter = open_meter(
                uses_codecarbon="codecarbon" in recipe.reports, country=recipe.country
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the meter's counters."""
        if self.meter is not None:
            self.meter.read()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Bring the sessions and the log up to date."""
        if state.is_world_process_zero:
            self._keep(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write summary and curves, and say the summary in three lines."""
        if not state.is_world_process_zero:
            return
        assert self.meter is not None
        self.meter.stop()
        sessions, folder = self._keep(state), self.trainer.place
        summary = summary_of(self.trainer.stage.name, folder, sessions)
        _write(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        draw_log(state.log_history, folder / CURVES, self.trainer.stage.name)
        tqdm.write("\n".join(closing_lines(summary)), file=sys.stderr)

    def _keep(self, state: Any) -> list[dict[str, Any]]:
        assert self.meter is not None
        examples, tokens = self.trainer.read_2.tolist()
        session = {
            "started": self.started,
            "from_step": self.from_step,
            "to_step": state.global_step,
            "processes": self.trainer.args.world_size,
            "seconds": round(time.monotonic() - self.begun, 3),
            "seconds_evaluating": round(self.trainer.seconds_evaluating, 3),
            "examples": int(examples),
            "tokens": int(tokens),
            "peak_memory_bytes": _peak_bytes(),
            "peak_gpu_memory_bytes": (
                torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
            ),
            "energy_kwh": self.meter.energy_kwh(),
            "co2e_g": self.meter.co2e_g(),
            "energy_found": self.meter.found,
        }
        done = state.global_step > self.from_step
        sessions = [*self.earlier, session] if done or not self.earlier else self.earlier
        _write(self.trainer.place / SESSIONS, json.dumps(sessions, indent=1) + "\n")
        lines = (json.dumps(line) + "\n" for line in state.log_history)
        _write(self.trainer.place / LOG, "".join(lines))
        return sessions


def summary_of(stage: str, folder: Path, sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the account of a run that was started as often as there are sessions.

    Steps that a kill undid are in nobody's account: a session counts until its last checkpoint.
    Rates leave the time of evaluations out. A figure that one session does not know is None.
    """

    def total(name: str) -> Any:
        values = [session[name] for session in sessions]
        return None if None in values else sum(values)

    def highest(name: str) -> int | None:
        return max((session[name] for session in sessions if session[name]), default=None)

    training = max(total("seconds") - total("seconds_evaluating"), 1e-9)
    kwh, co2e_g = total("energy_kwh"), total("co2e_g")
    best = folder / "best.json"
    return {
        "stage": stage,
        "steps": max(session["to_step"] for session in sessions),
        "sessions": len(sessions),
        "processes": max(session["processes"] for session in sessions),
        "seconds": round(total("seconds"), 1),
        "seconds_evaluating": round(total("seconds_evaluating"), 1),
        "examples": total("examples"),
        "tokens": total("tokens"),
        "examples_per_s": round(total("examples") / training, 2),
        "tokens_per_s": round(total("tokens") / training, 1),
        "best": json.loads(best.read_text("utf-8")) if best.is_file() else None,
        "peak_memory_bytes": highest("peak_memory_bytes"),
        "peak_gpu_memory_bytes": highest("peak_gpu_memory_bytes"),
        "energy": None if kwh is None else {"kwh": kwh, "co2e_g": co2e_g},
        "energy_found": "; ".join(dict.fromkeys(s["energy_found"] for s in sessions)),
    }


def summarise_phases(stage: str, out: Path, folders: Sequence[Path]) -> None:
    """Write the account of a stage whose phases have each a folder and sessions of their own."""
    found = [folder / SESSIONS for folder in folders if (folder / SESSIONS).is_file()]
    parts = [json.loads(path.read_text("utf-8")) for path in found]
    if parts:
        summary = summary_of(stage, out, [session for part in parts for session in part])
        summary["steps"] = sum(max(session["to_step"] for session in part) for part in parts)
        bests = [
            json.loads(path.read_text("utf-8")) | {"phase": path.parent.name}
            for folder in folders
            if (path := folder / "best.json").is_file()
        ]
        summary["best"] = max(bests, key=lambda best: best["exact"], default=None)
        _write(out / SUMMARY, json.dumps(summary, indent=2) + "\n")


def closing_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the three lines that a run ends with."""
    best, energy = summary["best"], summary["energy"]
    memory = f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB"
    if summary["peak_gpu_memory_bytes"]:
        memory += f", on the graphics card {summary['peak_gpu_memory_bytes'] / 2**20:,.0f} MiB"
    used = "not known"
    if energy is not None:
        used = f"{energy['kwh']:.3g} kWh"
        if energy["co2e_g"] is not None:
            used += f", {energy['co2e_g']:.3g} g CO2e"
    return [
        f"{summary['stage']}: {summary['steps']:,} steps in {summary['seconds']:,.1f} s, "
        f"{summary['seconds_evaluating']:,.1f} s of them for evaluations; "
        f"{summary['examples_per_s']:,.1f} examples and {summary['tokens_per_s']:,.0f} tokens a "
        "second",
        (f"best validation exact {best['exact']} at step {best['step']}" if best else
         "no exact sets were looked at") + f"; peak memory {memory}",
        f"energy {used} ({summary['energy_found']})",
    ]  # fmt: skip


def _peak_bytes() -> int:
    """Return the most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _write(path: Path, text: str) -> None:
    """Write a file beside its place and move it there when it is whole."""
    whole = path.with_name(f"{path.name}.unfinished")
    whole.write_text(text, "utf-8")
    os.replace(whole, path)
