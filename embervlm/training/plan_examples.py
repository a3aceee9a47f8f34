"""Written plans and joined requests as what the plans' part learns from, read by its reader once.

    reader = Before(NativeBackend.load(), last=2)
    written_examples("train", reader)           # the plans that people wrote
    joined_examples(4000, 1, reader)            # jobs that `data/generate.py` joins from requests
    single_examples(0.5, 1, reader)             # requests as they are, each a job of one step

Where in a written plan's request a step stands nobody has marked: there the pieces that have most
of the rare words of the step's short form count. The part writes the steps in the order in which
the request tells them, whatever the order in which they are done.

Axes: B batch, T tokens, K steps, L labels of a step, P pieces.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from embervlm.backends.base import MAX_TASK_TOKENS
from embervlm.backends.native import NativeBackend
from embervlm.data.generate import JoinedStep, Part, compose, continued, parts_of
from embervlm.data.sample import outcome_index
from embervlm.data.scenarios import load_own
from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.models.heads import ROBOTS
from embervlm.models.plan_steps import LABELS, MAX_STEPS
from embervlm.planning import graph
from embervlm.prompts import one_line, read_task, token_spans
from embervlm.scenario import FLAGS
from embervlm.splitting import pieces_of
from embervlm.stems import rarities
from embervlm.tokenizer import Tokenizer
from embervlm.training.told import as_told, piece_scores

IGNORED = -100
_UNUSED = LABELS - ROBOTS - len(ACTIONS)


@dataclass(frozen=True)
class Before:
    """A model as the plans' part has it: the words in front of its `last` layers; 0: behind all."""

    model: NativeBackend
    last: int = 0

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.model.tokenizer

    def read(self, task: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the words of a request (T, D) and their tokens (T,)."""
        tokens_T = np.array(read_task(task, self.tokenizer, MAX_TASK_TOKENS).tokens)
        states_SD, middle_TD = self.model.engine.read(tokens_T, None, self.last)
        return states_SD[-len(tokens_T) :] if middle_TD is None else middle_TD, tokens_T


@dataclass(frozen=True)
class Example:
    """A request as the reader has it (T, D), half precision, its tokens, and its steps as targets
    for K = `MAX_STEPS` + 1 places: labels told to the next step, and what `ANSWERS`, `after` (all
    that must be finished before, near and far) and `pointer` are to be."""

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


def written_examples(
    split: str, reader: Before, folder: str = "", only: Callable[[str], bool] = bool
) -> list[Example]:
    """Return the plans of a split that people wrote, those whose id is one of `only`."""
    rows = [row for row in load_own("plans", split, folder) if only(row["id"])]
    rarity = rarities([row["task"] for row in rows])
    return [
        _example(*_as_steps(row), _written_pointer(row, row["task"], reader, rarity), reader)
        for row in track(rows, f"plans, {split}", console=Console(stderr=True))
    ]


def continued_examples(
    times: int, seed: int, reader: Before, folder: str = "", only: Callable[[str], bool] = bool
) -> list[Example]:
    """Return the written plans of the training split, each with a request more at its end, so many
    times."""
    rows, parts = load_own("plans", "train", folder), parts_of("train", folder, only)
    rows = [row for row in rows if len(row["plan"]) < MAX_STEPS and only(row["id"])]
    rarity = rarities([row["task"] for row in rows])
    rng, examples = random.Random(seed), []
    for row in track(rows * times, "continued plans", console=Console(stderr=True)):
        task, steps = _as_steps(row)
        after = [tuple(step["after"]) for step in steps]
        longer, last = continued(one_line(task), after, rng.choice(parts), rng)
        pointer_KT = _written_pointer(row, longer, reader, rarity)
        own_KT = _span_pointer([last.span], longer, reader)
        steps.append(_joined_step(last))
        examples.append(_example(longer, steps, np.concatenate([pointer_KT, own_KT]), reader))
    return examples


def single_examples(share: float, seed: int, reader: Before, folder: str = "") -> list[Example]:
    """Return so large a share, 0 to 1, of the training split's requests that one robot does, or
    nobody can do, each as a job with one step that all its words are of."""
    rows = [row for row in load_own("scenarios", "train", folder) if row["kind"] != "team"]
    rows = random.Random(seed).sample(rows, round(share * len(rows)))
    examples = []
    for row in track(rows, "single requests", console=Console(stderr=True)):
        task = one_line(row["task"])
        labels = tuple(row["suited"]), tuple(row["actions"]), row["limits"], row["environment"]
        step = JoinedStep(Part(task, *labels), (0, len(task)), ())
        pointer_KT = _span_pointer([step.span], task, reader)
        examples.append(_example(task, [_joined_step(step)], pointer_KT, reader))
    return examples


def _as_steps(row: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return a written plan's request and its steps, whose place is not known."""
    steps = [{**step, "robots": [step["robot"]], "environment": None} for step in row["plan"]]
    return row["task"], steps


def _written_pointer(
    row: Mapping[str, Any], task: str, reader: Before, rarity: Mapping[str, float]
) -> NDArray[np.float32]:
    spans = token_spans(task, reader.tokenizer, MAX_TASK_TOKENS)
    return _likeliest_words(
        one_line(task), [step["subtask"] for step in row["plan"]], spans, rarity
    )


def _span_pointer(
    spans_K: Sequence[tuple[int, int]], task: str, reader: Before
) -> NDArray[np.float32]:
    spans_T = token_spans(task, reader.tokenizer, MAX_TASK_TOKENS)
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


def joined_examples(
    jobs: int, seed: int, reader: Before, folder: str = "", only: Callable[[str], bool] = bool
) -> list[Example]:
    """Return so many jobs that are joined from requests of the training split."""
    rng, parts, examples = random.Random(seed), parts_of("train", folder, only), []
    for _ in track(range(jobs), "joined requests", console=Console(stderr=True)):
        job = compose(parts, rng)
        pointer_KT = _span_pointer([step.span for step in job.steps], job.task, reader)
        examples.append(_example(job.task, list(map(_joined_step, job.steps)), pointer_KT, reader))
    return examples


def _example(
    task: str,
    steps: Sequence[Mapping[str, Any]],
    pointer_KT: NDArray[np.float32],
    reader: Before,
) -> Example:
    words_TD, tokens_T = reader.read(task)
    steps, pointer_KT = _as_told(steps, pointer_KT)
    K, n = MAX_STEPS + 1, len(steps)
    robots_KO, actions_KA = torch.zeros(K, ROBOTS + 1), torch.zeros(K, len(ACTIONS))
    flags_KF, after_KK = torch.zeros(K, len(FLAGS)), torch.zeros(K, K)
    environment_K = torch.full((K,), IGNORED)
    before = graph.ancestors([step["after"] for step in steps])
    for k, step in enumerate(steps):
        for name in step["robots"]:
            robots_KO[k, outcome_index(name)] = 1 / len(step["robots"])
        actions_KA[k, [ACTIONS.index(name) for name in step["actions"] if name in ACTIONS]] = 1
        flags_KF[k, [i for i, flag in enumerate(FLAGS) if step["limits"].get(flag) is True]] = 1
        after_KK[k, list(before[k])] = 1
        if step["environment"] is not None:
            environment_K[k] = ENVIRONMENTS.index(step["environment"])
    told_KL = F.pad(torch.cat([(robots_KO[:, :ROBOTS] > 0).float(), actions_KA], -1), (0, _UNUSED))
    states_TD = torch.from_numpy(words_TD).half()
    wanted_KT = torch.zeros(K, len(states_TD))
    wanted_KT[:n] = torch.from_numpy(pointer_KT)
    wanted_KT /= wanted_KT.sum(-1, keepdim=True).clamp(min=1e-6)
    return Example(
        states_TD,
        torch.from_numpy(tokens_T),
        n,
        told_KL,
        robots_KO,
        actions_KA,
        flags_KF,
        environment_K,
        after_KK,
        wanted_KT,
    )


def _as_told(
    steps: Sequence[Mapping[str, Any]], pointer_KT: NDArray[np.float32]
) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """Return the steps in the order in which the request tells them, each where its pointer is
    largest."""
    order = as_told([int(row.argmax()) if row.any() else None for row in pointer_KT])
    new = {old: k for k, old in enumerate(order)}
    told = [{**steps[k], "after": sorted(new[j] for j in steps[k]["after"])} for k in order]
    return told, pointer_KT[order]


def _likeliest_words(
    task: str, texts: Sequence[str], spans: Sequence[tuple[int, int]], rarity: Mapping[str, float]
) -> NDArray[np.float32]:
    """Return where each step may stand, (K, T): the pieces that have its rarer words more than
    those of any other step."""
    pieces, score_KP = pieces_of(task), piece_scores(task, texts, rarity)
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
