"""Teach a model to split a job into steps, behind a reader that stays as it is.

    python -m embervlm.training.plan_steps --model MODEL.gguf --out build/plan
    # build/plan/plan.safetensors, metrics.jsonl; python -m embervlm.export.plan_steps adds it

What its own layers read of all requests is read once; then `models/plan_steps.py` learns, from the
plans that people wrote and from requests joined by `data/generate.py` (`plan_examples.py`). Its own
layers begin as copies of those of the reader that they stand for.

Axes: B batch, K steps, L labels of a step.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from embervlm.backends.native import NativeBackend
from embervlm.checkpoint import SHIPPED, load_checkpoint
from embervlm.models.configuration import EmberConfig, config_of
from embervlm.models.heads import ROBOTS
from embervlm.models.plan_steps import MAX_STEPS, PlanSteps
from embervlm.models.precision import autocast
from embervlm.scoring import exact, jaccard
from embervlm.training.moving_average import MovingAverage
from embervlm.training.plan_examples import (
    IGNORED,
    Before,
    Example,
    batches,
    collate,
    continued_examples,
    joined_examples,
    single_examples,
    written_examples,
)
from embervlm.training.rounding import keep_rounded, round_weights


@dataclass(frozen=True)
class Settings:
    """How it is trained; `jobs` are drawn once, each written plan comes `written` times an epoch,
    and once for each of `continued` requests that are put behind it. `singles` is the share of the
    requests that are not for a team, each as a job of one step.

    `forget` is how often a step is not told what the one before it was, `blank` how often a word is
    not seen at all. `average` is the decay of the moving average that the result is. `point` weighs
    the loss of the pointer. `plan_readers` layers, which know the language already, learn at
    `reader_rate`.
    """

    seed: int = 1
    plan_width: int = 192
    plan_layers: int = 2
    plan_readers: int = 4
    dropout: float = 0.15
    jobs: int = 2500
    written: int = 1
    continued: int = 1
    singles: float = 0.2
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    reader_rate: float = 2e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    forget: float = 0.15
    blank: float = 0.0
    average: float = 0.0
    point: float = 0.3


def losses(
    out: Mapping[str, Tensor], batch: Mapping[str, Tensor], point: float
) -> dict[str, Tensor]:
    """Return the parts of the loss: each a mean over the steps that there are."""
    K = MAX_STEPS + 1
    count_B1 = batch["count_B"][:, None]
    live_BK = (torch.arange(K) < count_B1).float()
    asked_BK = (torch.arange(K) <= count_B1).float()
    steps = live_BK.sum()

    def binary(name: str, wanted: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(out[name], wanted, reduction="none")

    more_BK = binary("more", live_BK[..., None])[..., 0] * asked_BK
    robots_BK = -(batch["robots_KO"] * out["robots"].log_softmax(-1)).sum(-1)
    pairs_BKK = (1 - torch.eye(K)) * live_BK[..., None] * live_BK[:, None]
    parts = {
        "more": more_BK.sum() / asked_BK.sum(),
        "robots": (robots_BK * live_BK).sum() / steps,
        "actions": 3 * (binary("actions", batch["actions_KA"]).mean(-1) * live_BK).sum() / steps,
        "flags": 3 * (binary("flags", batch["flags_KF"]).mean(-1) * live_BK).sum() / steps,
        "after": 8
        * (binary("after", batch["after_KK"]) * pairs_BKK).sum()
        / pairs_BKK.sum().clamp(1),
    }
    environment_N = batch["environment_K"].flatten()
    if (environment_N != IGNORED).any():
        parts["environment"] = 0.5 * F.cross_entropy(
            out["environment"].flatten(0, 1), environment_N
        )
    marked_BK = batch["pointer_KT"].sum(-1) > 0
    if marked_BK.any():
        log_BKT = out["pointer"].log_softmax(-1).clamp(min=-30)
        parts["pointer"] = -point * (batch["pointer_KT"] * log_BKT).sum(-1)[marked_BK].mean()
    return parts


def measure(network: PlanSteps, examples: Sequence[Example]) -> dict[str, float]:
    """Return the shares of jobs with the right team and number of steps, the mean overlap of teams,
    and F1 of what waits for what, step by step in the order of writing."""
    network.eval()
    right, overlap, counted, common, links = 0, 0.0, 0, 0, 0
    for at in range(0, len(examples), 32):
        some = examples[at : at + 32]
        batch = collate(some)
        out, count_B = network.write(batch["states_TD"], batch["tokens_T"], batch["mask_BT"])
        robot_BK = out["robots"][..., :ROBOTS].argmax(-1)
        for b, (example, count) in enumerate(zip(some, count_B.tolist(), strict=True)):
            team = {str(robot) for robot in robot_BK[b, :count].tolist()}
            robots_KR = example.robots_KO[: example.count, :ROBOTS]
            true = {str(robot) for robot in robots_KR.argmax(-1).tolist()}
            said_KK = out["after"][b] > 0
            said_KK[count:] = said_KK[:, count:] = False
            said_KK.fill_diagonal_(False)
            true_KK = example.after_KK > 0
            right += exact(team, true)
            overlap += jaccard(team, true)
            counted += count == example.count
            common += int((said_KK & true_KK).sum())
            links += int(said_KK.sum() + true_KK.sum())
    n = len(examples)
    return {
        "team": round(right / n, 4),
        "jaccard": round(overlap / n, 4),
        "count": round(counted / n, 4),
        "after_f1": round(2 * common / max(1, links), 4),
    }


def train(
    settings: Settings,
    joined: Sequence[Example],
    written: Sequence[Example],
    held_out: Sequence[Example],
    config: EmberConfig,
    reader: Mapping[str, Tensor],
    log: Path,
    start: Mapping[str, Tensor] | None = None,
) -> PlanSteps:
    """Return the trained part; each epoch adds a line to `log`, and is kept beside it as
    `checkpoint.pt`, from which a run that was stopped goes on.

    `config` and `reader` are the model's sizes and its weights, of which those of the reader's last
    layers (`text.layers.I.`) are the start of the part's own, unless a trained part is the `start`,
    of which layers may be missing that came later.
    """
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    network = PlanSteps(replace(config, **sizes_of(settings), dropout=settings.dropout))
    if start is None:
        _begin(network, config, reader)
    else:
        unknown = network.load_state_dict(start, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"The start has {unknown[0]}, which this version does not know.")
    round_weights(network)
    mean = MovingAverage(network, settings.average)
    rates = {True: settings.reader_rate, False: settings.learning_rate}
    groups = [
        {"params": [p for name, p in network.named_parameters() if _is_reader(name) is which]}
        for which in rates
    ]
    optimizer = torch.optim.AdamW(
        groups, settings.learning_rate, weight_decay=settings.weight_decay
    )
    epoch = [*joined, *list(written) * settings.written]
    steps = settings.epochs * math.ceil(len(epoch) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, list(rates.values()), steps, pct_start=settings.warmup
    )
    run = Run(settings, network, optimizer, schedule, mean, rng)
    checkpoint = log.with_name("checkpoint.pt")
    begun = run.load(checkpoint)
    step = begun * (steps // settings.epochs)
    for number in range(begun + 1, settings.epochs + 1):
        network.train()
        sums = Counter[str]()
        drawn = batches(epoch, settings.batch_size, rng)
        for examples in track(drawn, f"epoch {number}", console=Console(stderr=True)):
            batch = collate(examples)
            told_BKL = batch["told_KL"]
            kept_BK1 = (torch.rand(*told_BKL.shape[:2], 1) >= settings.forget).float()
            # Its fused attention goes backwards in bfloat16 more slowly than its parts do.
            with autocast(), sdpa_kernel(SDPBackend.MATH):
                out = network(
                    batch["states_TD"],
                    batch["tokens_T"],
                    batch["mask_BT"],
                    told_BKL * kept_BK1,
                    batch["count_B"],
                )
            out = {name: logits.float() for name, logits in out.items()}
            parts = losses(out, batch, settings.point)
            optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            mean.follow(step)
            schedule.step()
            for name, part in parts.items():
                sums[name] += part.item() / len(drawn)  # type: ignore[assignment]
        held = mean.exchange()
        line = {
            "epoch": number,
            **{f"loss_{name}": round(value, 4) for name, value in sums.items()},
            **{f"validation_{name}": x for name, x in measure(network, held_out).items()},
        }
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        mean.put(held)
        run.save(checkpoint, number)
    checkpoint.unlink(missing_ok=True)
    mean.exchange()
    keep_rounded(network)
    return network.eval()


@dataclass(frozen=True)
class Run:
    """All that a run goes on from: what learns, how far it is, and what draws its batches."""

    settings: Settings
    network: PlanSteps
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    mean: MovingAverage
    rng: random.Random

    def save(self, path: Path, epoch: int) -> None:
        """Write the run as it is behind an epoch; a stop meanwhile leaves the file before."""
        state = {
            "settings": asdict(self.settings),
            "epoch": epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "mean": self.mean.whole(),
            "torch": torch.get_rng_state(),
            "random": self.rng.getstate(),
        }
        new = path.with_suffix(".new")
        torch.save(state, new)
        new.replace(path)

    def load(self, path: Path) -> int:
        """Take back what `save` wrote, and return its epoch; 0 where there is no file.

        Raises:
            ValueError: the file is of a run with other settings.
        """
        if not path.is_file():
            return 0
        state = torch.load(path, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(
                f"{path} is of a run with other settings; delete it, or write to another folder."
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.mean.load(state["mean"])
        torch.set_rng_state(state["torch"])
        self.rng.setstate(state["random"])
        return int(state["epoch"])


def sizes_of(settings: Settings) -> dict[str, Any]:
    """Return the fields of a configuration that say how large the part is."""
    return {
        "plan_width": settings.plan_width,
        "plan_layers": settings.plan_layers,
        "plan_readers": settings.plan_readers,
    }


def _is_reader(name: str) -> bool:
    return name.startswith("readers.")


def _begin(network: PlanSteps, config: EmberConfig, reader: Mapping[str, Tensor]) -> None:
    """Copy the reader's last layers into the part's own ones."""
    first = config.text_layers - len(network.readers)
    if first < 0:
        raise ValueError(
            f"plan_readers is {len(network.readers)}, and the model's reader has "
            f"{config.text_layers} layers; ask for that many at most."
        )
    for i, layer in enumerate(network.readers, first):
        start = f"text.layers.{i}."
        found = {name[len(start) :]: w for name, w in reader.items() if name.startswith(start)}
        layer.load_state_dict(found)


def _part(path: Path, settings: Settings) -> dict[str, Tensor]:
    """Return a part that this module wrote; ends the command where it is none, or another's."""
    try:
        with safe_open(path, "pt") as file:
            sizes = json.loads((file.metadata() or {})["config"])
        found = {name.removeprefix("plan."): value for name, value in load_file(path).items()}
        _ = found["waits.weight"]
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise SystemExit(
            f"{path} holds no part to go on from ({error}); give a plan.safetensors that this "
            "version wrote."
        ) from error
    if sizes != sizes_of(settings):
        raise SystemExit(f"{path} has sizes {sizes}, expected {sizes_of(settings)}; ask for these.")
    return found


def main() -> None:
    """Read the flags, read all requests, train, and write the part and its curve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a model file; without it, the one that ships")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start",
        type=Path,
        help="a part trained behind this very reader, to go on from; what it lacks begins anew",
    )
    parser.add_argument("--scenarios", default="", help="folder of one's own requests and plans")
    parser.add_argument(
        "--judge-by", default="", metavar="IDS",
        help="training plans whose ids begin so are not learnt, and judged beside validation's",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    settings = Settings(**{name: options[name] for name in asdict(Settings())})
    torch.set_num_threads(options["threads"])
    backend = NativeBackend.load(options["model"], threads=options["threads"])
    out: Path = options["out"]
    out.mkdir(parents=True, exist_ok=True)
    seed, own = settings.seed, options["scenarios"]
    before = Before(backend, settings.plan_readers)
    judges = options["judge_by"]

    def learnt(row_id: str) -> bool:
        return not (judges and row_id.startswith(judges))

    joined = joined_examples(settings.jobs, seed, before, own, learnt)
    joined += continued_examples(settings.continued, seed + 1, before, own, learnt)
    joined += single_examples(settings.singles, seed + 2, before, own)
    written = written_examples("train", before, own, learnt)
    held_out = written_examples("validation", before, own)
    held_out += written_examples("train", before, own, lambda row_id: not learnt(row_id))
    checkpoint = load_checkpoint(options["model"] or SHIPPED)
    config = config_of(checkpoint.config)
    assert isinstance(config, EmberConfig), "ember-37m has no GGUF file"
    reader = {name: torch.tensor(w) for name, w in checkpoint.weights.items() if "text." in name}
    log = out / "metrics.jsonl"
    start = _part(options["start"], settings) if options["start"] else None
    network = train(settings, joined, written, held_out, config, reader, log, start)
    weights = {f"plan.{name}": value for name, value in network.state_dict().items()}
    save_file(weights, out / "plan.safetensors", {"config": json.dumps(sizes_of(settings))})


if __name__ == "__main__":
    main()
