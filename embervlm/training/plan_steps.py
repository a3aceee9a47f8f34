"""Teach a model to split a job into steps, behind a reader that stays as it is.

    python -m embervlm.training.plan_steps --model MODEL.gguf --out build/plan
    # build/plan/plan.safetensors, metrics.jsonl; python -m embervlm.export.plan_steps adds it

The states of all requests are read once; then `models/plan_steps.py` learns on them, from the
plans that people wrote and from requests joined by `data/generate.py`. Where in a written plan's
request a step stands nobody has marked: there the pieces that have most of the rare words of the
step's short form count.

Axes: B batch, T tokens, K steps, L labels of a step, P pieces.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from embervlm.backends.base import MAX_TASK_TOKENS
from embervlm.backends.native import NativeBackend
from embervlm.data.generate import JoinedStep, compose, continued, parts_of
from embervlm.data.sample import outcome_index
from embervlm.data.scenarios import load_own
from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.models.configuration import EmberConfig
from embervlm.models.heads import ROBOTS
from embervlm.models.plan_steps import LABELS, MAX_STEPS, PlanSteps
from embervlm.prompts import one_line, token_spans
from embervlm.scenario import FLAGS
from embervlm.scoring import exact, jaccard
from embervlm.splitting import pieces_of
from embervlm.training.moving_average import MovingAverage
from embervlm.training.rounding import keep_rounded, round_weights
from embervlm.waiting import stems

_IGNORED = -100
_UNUSED = LABELS - ROBOTS - len(ACTIONS)


@dataclass(frozen=True)
class Settings:
    """How it is trained; `jobs` are drawn once, each written plan comes `written` times an epoch,
    and once for each of `continued` requests that are put behind it.

    `forget` is how often a step is not told what the one before it was, `blank` how often a word is
    not seen at all. `average` is the decay of the moving average that the result is. `point` weighs
    the loss of the pointer.
    """

    seed: int = 1
    plan_width: int = 192
    plan_layers: int = 2
    dropout: float = 0.15
    jobs: int = 4000
    written: int = 4
    continued: int = 2
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    forget: float = 0.15
    blank: float = 0.0
    average: float = 0.0
    point: float = 0.3


@dataclass(frozen=True)
class Example:
    """A request as the reader has it (T, D), half precision, its tokens, and its steps as targets
    for K = `MAX_STEPS` + 1 places: labels told to the next step, and what `ANSWERS`, `after` and
    `pointer` are to be."""

    states_TD: Tensor
    tokens_T: Tensor
    count: int
    told_KL: Tensor
    robots_KO: Tensor
    actions_KA: Tensor
    flags_KF: Tensor
    environment_K: Tensor
    after_KK: Tensor
    pointer_KT: Tensor


def written_examples(split: str, backend: NativeBackend, folder: str = "") -> list[Example]:
    """Return the plans of a split that people wrote."""
    rows = load_own("plans", split, folder)
    seen = Counter(word for row in rows for word in set(stems(row["task"])))
    return [
        _example(*_as_steps(row), _written_pointer(row, row["task"], backend, seen), backend)
        for row in track(rows, f"plans, {split}", console=Console(stderr=True))
    ]


def continued_examples(
    settings: Settings, backend: NativeBackend, folder: str = ""
) -> list[Example]:
    """Return the written plans of the training split, each with a request more at its end, as often
    as `continued` says."""
    rows, parts = load_own("plans", "train", folder), parts_of("train", folder)
    rows = [row for row in rows if len(row["plan"]) < MAX_STEPS]
    seen = Counter(word for row in rows for word in set(stems(row["task"])))
    rng, examples = random.Random(settings.seed + 1), []
    for row in track(rows * settings.continued, "continued plans", console=Console(stderr=True)):
        task, steps = _as_steps(row)
        after = [tuple(step["after"]) for step in steps]
        longer, last = continued(one_line(task), after, rng.choice(parts), rng)
        pointer_KT = _written_pointer(row, longer, backend, seen)
        own_KT = _span_pointer([last.span], longer, backend)
        steps.append(_joined_step(last))
        examples.append(_example(longer, steps, np.concatenate([pointer_KT, own_KT]), backend))
    return examples


def _as_steps(row: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return a written plan's request and its steps, whose place is not known."""
    steps = [{**step, "robots": [step["robot"]], "environment": None} for step in row["plan"]]
    return row["task"], steps


def _written_pointer(
    row: Mapping[str, Any], task: str, backend: NativeBackend, seen: Counter[str]
) -> NDArray[np.float32]:
    spans = token_spans(task, backend.tokenizer, MAX_TASK_TOKENS)
    return _likeliest_words(one_line(task), [step["subtask"] for step in row["plan"]], spans, seen)


def _span_pointer(
    spans_K: Sequence[tuple[int, int]], task: str, backend: NativeBackend
) -> NDArray[np.float32]:
    spans_T = token_spans(task, backend.tokenizer, MAX_TASK_TOKENS)
    inside_KT = [[a >= begin and b <= end for a, b in spans_T] for begin, end in spans_K]
    return np.array(inside_KT, np.float32)


def _joined_step(step: JoinedStep) -> dict[str, Any]:
    part = step.part
    return {
        "robots": part.robots,
        "actions": part.actions,
        "limits": part.limits,
        "environment": part.environment,
        "after": step.after,
    }


def joined_examples(settings: Settings, backend: NativeBackend, folder: str = "") -> list[Example]:
    """Return jobs that are joined from requests of the training split."""
    rng, parts, examples = random.Random(settings.seed), parts_of("train", folder), []
    for _ in track(range(settings.jobs), "joined requests", console=Console(stderr=True)):
        job = compose(parts, rng)
        pointer_KT = _span_pointer([step.span for step in job.steps], job.task, backend)
        examples.append(_example(job.task, list(map(_joined_step, job.steps)), pointer_KT, backend))
    return examples


def _example(
    task: str,
    steps: Sequence[Mapping[str, Any]],
    pointer_KT: NDArray[np.float32],
    backend: NativeBackend,
) -> Example:
    states_SD, tokens_S = backend.propose(task, None).states
    K, n = MAX_STEPS + 1, len(steps)
    robots_KO, actions_KA = torch.zeros(K, ROBOTS + 1), torch.zeros(K, len(ACTIONS))
    flags_KF, after_KK = torch.zeros(K, len(FLAGS)), torch.zeros(K, K)
    environment_K = torch.full((K,), _IGNORED)
    for k, step in enumerate(steps):
        for name in step["robots"]:
            robots_KO[k, outcome_index(name)] = 1 / len(step["robots"])
        actions_KA[k, [ACTIONS.index(name) for name in step["actions"] if name in ACTIONS]] = 1
        flags_KF[k, [i for i, flag in enumerate(FLAGS) if step["limits"].get(flag) is True]] = 1
        after_KK[k, list(step["after"])] = 1
        if step["environment"] is not None:
            environment_K[k] = ENVIRONMENTS.index(step["environment"])
    told_KL = F.pad(torch.cat([(robots_KO[:, :ROBOTS] > 0).float(), actions_KA], -1), (0, _UNUSED))
    states_TD = torch.from_numpy(states_SD[tokens_S >= 0]).half()
    wanted_KT = torch.zeros(K, len(states_TD))
    wanted_KT[:n] = torch.from_numpy(pointer_KT)
    wanted_KT /= wanted_KT.sum(-1, keepdim=True).clamp(min=1e-6)
    tokens_T = torch.from_numpy(tokens_S[tokens_S >= 0])
    return Example(
        states_TD,
        tokens_T,
        n,
        told_KL,
        robots_KO,
        actions_KA,
        flags_KF,
        environment_K,
        after_KK,
        wanted_KT,
    )


def _likeliest_words(
    task: str, texts: Sequence[str], spans: Sequence[tuple[int, int]], seen: Counter[str]
) -> NDArray[np.float32]:
    """Return where each step may stand, (K, T): the pieces that have its rarer words more than
    those of any other step."""
    pieces = pieces_of(task)
    score_KP = np.zeros((len(texts), len(pieces)), np.float32)
    found_P = [set(stems(task[slice(*piece)])) for piece in pieces]
    for k, text in enumerate(texts):
        for p, found in enumerate(found_P):
            common = found & set(stems(text))
            score_KP[k, p] = sum(math.log(300 / seen[word]) for word in common if seen[word])
    score_KP *= score_KP >= score_KP.max(0) - 1e-6
    pointer_KT = np.zeros((len(texts), len(spans)), np.float32)
    for t, (a, b) in enumerate(spans):
        for p, (begin, end) in enumerate(pieces):
            if begin <= a and b <= end and b > a:
                pointer_KT[:, t] = score_KP[:, p]
    return pointer_KT


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Return the examples in batches of like length, in random order."""
    by_length = sorted(examples, key=lambda e: len(e.states_TD) + rng.random() * 8)
    found = [list(by_length[at : at + size]) for at in range(0, len(by_length), size)]
    rng.shuffle(found)
    return found


def collate(batch: Sequence[Example]) -> dict[str, Tensor]:
    """Return a batch as tensors by the names of `Example`'s fields, and `mask_BT`."""
    T = max(len(example.states_TD) for example in batch)

    def padded(name: str, *pads: int) -> Tensor:
        return torch.stack(
            [F.pad(getattr(e, name), [p * (T - len(e.tokens_T)) for p in pads]) for e in batch]
        )

    fixed = ("told_KL", "robots_KO", "actions_KA", "flags_KF", "environment_K", "after_KK")
    return {
        **{name: torch.stack([getattr(e, name) for e in batch]) for name in fixed},
        "states_TD": padded("states_TD", 0, 0, 0, 1).float(),
        "tokens_T": padded("tokens_T", 0, 1),
        "pointer_KT": padded("pointer_KT", 0, 1),
        "mask_BT": torch.arange(T) < torch.tensor([[len(e.states_TD)] for e in batch]),
        "count_B": torch.tensor([e.count for e in batch]),
    }


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
    pairs_BKK = torch.ones(K, K).tril(-1) * live_BK[..., None]
    parts = {
        "more": more_BK.sum() / asked_BK.sum(),
        "robots": (robots_BK * live_BK).sum() / steps,
        "actions": 3 * (binary("actions", batch["actions_KA"]).mean(-1) * live_BK).sum() / steps,
        "flags": 3 * (binary("flags", batch["flags_KF"]).mean(-1) * live_BK).sum() / steps,
        "after": 2
        * (binary("after", batch["after_KK"]) * pairs_BKK).sum()
        / pairs_BKK.sum().clamp(1),
    }
    environment_N = batch["environment_K"].flatten()
    if (environment_N != _IGNORED).any():
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
            said_KK = (out["after"][b] > 0).tril(-1)
            said_KK[count:] = False
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
    width: int,
    vocabulary: int,
    log: Path,
) -> PlanSteps:
    """Return the trained part; each epoch adds a line to `log`."""
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    config = EmberConfig(
        vocabulary_size=vocabulary,
        text_width=width,
        dropout=settings.dropout,
        plan_width=settings.plan_width,
        plan_layers=settings.plan_layers,
    )
    network = PlanSteps(config)
    round_weights(network)
    mean = MovingAverage(network, settings.average)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    epoch = [*joined, *list(written) * settings.written]
    steps = settings.epochs * math.ceil(len(epoch) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, steps, pct_start=settings.warmup
    )
    step = 0
    for number in range(1, settings.epochs + 1):
        network.train()
        sums = Counter[str]()
        drawn = batches(epoch, settings.batch_size, rng)
        for examples in track(drawn, f"epoch {number}", console=Console(stderr=True)):
            batch = collate(examples)
            told_BKL = batch["told_KL"]
            kept_BK1 = (torch.rand(*told_BKL.shape[:2], 1) >= settings.forget).float()
            out = network(
                batch["states_TD"], batch["tokens_T"], batch["mask_BT"], told_BKL * kept_BK1
            )
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
    mean.exchange()
    keep_rounded(network)
    return network.eval()


def main() -> None:
    """Read the flags, read all requests, train, and write the part and its curve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a model file; without it, the one that ships")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenarios", default="", help="folder of one's own requests and plans")
    parser.add_argument("--threads", type=int, default=2)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    settings = Settings(**{name: options[name] for name in asdict(Settings())})
    torch.set_num_threads(options["threads"])
    backend = NativeBackend.load(options["model"], threads=options["threads"])
    out: Path = options["out"]
    out.mkdir(parents=True, exist_ok=True)
    joined = joined_examples(settings, backend, options["scenarios"])
    joined += continued_examples(settings, backend, options["scenarios"])
    written, held_out = (
        written_examples(split, backend, options["scenarios"]) for split in ("train", "validation")
    )
    width = written[0].states_TD.shape[-1]
    vocabulary = len(backend.tokenizer)
    log = out / "metrics.jsonl"
    network = train(settings, joined, written, held_out, width, vocabulary, log)
    weights = {f"plan.{name}": value for name, value in network.state_dict().items()}
    sizes = {"plan_width": settings.plan_width, "plan_layers": settings.plan_layers}
    save_file(weights, out / "plan.safetensors", {"config": json.dumps(sizes)})


if __name__ == "__main__":
    main()
