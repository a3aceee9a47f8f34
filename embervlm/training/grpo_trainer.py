"""Runs GRPO in the trainer of all stages: draws answers, rewards them, looks at validation.

    embervlm train --recipe recipes/ember/grpo.yaml

At the beginning of a block of `iterations` steps each batch of requests gets its answers; all steps
of the block learn from them. What is drawn depends on the seed, the epoch, a request's place in it
and the weights, so a run that was killed, and one on more processes, draws the same.

Axes: B requests, G answers to each, N = B G, C sets.
"""

from __future__ import annotations

import copy
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from embervlm.data.sample import Sample, robots_of
from embervlm.data.scenarios import DATA_DIR
from embervlm.fleet import Fleet
from embervlm.models.configuration import EmberConfig
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities, read_task
from embervlm.scoring import exact
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import Item, Settings, base_samples, collate
from embervlm.training.grpo import advantages, advantages_over_value, grpo_counts, grpo_sums
from embervlm.training.recipe import Recipe
from embervlm.training.rewards import OF_WORDS, first_reward, names_of, rewards_of, total
from embervlm.training.sampling import Drawn, draw, log_chances, numbers_for, read, uniform
from embervlm.training.stage_data import EpochBatches, Epochs, Place, Placed, Written
from embervlm.training.stages import Batch, Phase, Stage, StageModule
from embervlm.training.trainer import EmberTrainer, EpochLoader

Asked = Sequence[tuple[Place, Written]]
OUTCOMES = Fleet.default().outcomes


def row_of(
    stage: Stage, phase: Phase, recipe: Recipe, *, reasons: bool = False
) -> tuple[Stage, Phase]:
    """Return the stage with the recipe's clip, temperature and weight of the divergences, and its
    phase, both without what the network or the recipe does not train.

    A network that `reasons` in steps draws whom to send first; its value learns where it is the
    baseline.
    """
    trained = {"primary": reasons, "value": reasons and recipe.baseline == "value"}
    losses = {
        name: recipe.kl if name.startswith("kl_") else weight
        for name, weight in stage.losses.items()
        if trained.get(name.rpartition("_")[2], True)
    }
    stays = tuple(f"heads.{name}." for name, moves in trained.items() if not moves)
    row = replace(
        stage,
        losses=losses,
        sums=partial(grpo_sums, clip=recipe.clip, temperature=recipe.temperature),
    )
    return row, replace(phase, moves=tuple(part for part in phase.moves if part not in stays))


class Requests:
    """The requests and plans of a split, as they are asked: words alone, nothing altered."""

    def __init__(
        self,
        config: EmberConfig,
        tokenizer: Tokenizer,
        seed: int,
        split: str = "train",
        most: int = 0,
        scenarios: str = "",
    ) -> None:
        """Take a split; with `most`, no more than that many requests of it, drawn by the seed."""
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self.samples = base_samples(split, scenarios)
        if split == "train" and not self.samples:
            raise ValueError(f"{scenarios or DATA_DIR} has no row of the split train.")
        if 0 < most < len(self.samples):
            self.samples = random.Random(f"{seed} {split}").sample(self.samples, most)

    def items(self, epoch: int) -> Sequence[Written]:
        """Return all of them in the epoch's order."""
        return _ReadInTurn(
            self, random.Random(f"{self.seed} {epoch}").sample(self.samples, len(self.samples))
        )

    def batch(self, items: Sequence[Written], rng: random.Random) -> Batch:
        """Return the requests' tensors."""
        return collate([one.item for one in items], None, self.config, rng)


class _ReadInTurn(Sequence[Written]):
    """Turns a request into tokens when it is its turn: a short run needs but a few."""

    def __init__(self, requests: Requests, samples: Sequence[Sample]) -> None:
        self.requests, self.samples = requests, samples

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, at: int) -> Written: ...
    @overload
    def __getitem__(self, at: slice) -> list[Written]: ...
    def __getitem__(self, at: int | slice) -> Written | list[Written]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        sample = self.samples[at]
        reading = read_task(sample.task, self.requests.tokenizer, Settings().max_tokens)
        return Written(Item(sample, reading))


class Blocks(EpochBatches):
    """The batches of an epoch, those of a step `times` times before those of the next.

    A step takes `step` batches; what is left over at the end of an epoch goes unread.
    """

    def __init__(self, *words: Any, step: int, times: int, **more: Any) -> None:
        super().__init__(*words, **more)
        self.step, self.times = step, times
        if not len(self):
            raise ValueError(
                f"An epoch has {super().__len__()} batches a process, fewer than a step's {step}: "
                "lower gradient_accumulation or batch_size."
            )

    def __len__(self) -> int:
        """Return the number of batches of one process, repeated ones counted."""
        return super().__len__() // self.step * self.step * self.times

    def __iter__(self) -> Iterator[list[Place]]:
        """Yield this process's batches in the epoch's order."""
        batches = list(super().__iter__())
        for i in range(0, len(batches) - self.step + 1, self.step):
            for _ in range(self.times):
                yield from batches[i : i + self.step]


@dataclass(frozen=True)
class Answer:
    """An answer to a request, and what it is worth; `first` is None where it is not drawn."""

    id: str
    robots: tuple[str, ...]
    text: str
    rewards: Mapping[str, float]
    is_exact: bool
    first: str | None = None


class GrpoTrainer(EmberTrainer):
    """Trains a network on its own answers; see the module."""

    def __init__(
        self,
        module: StageModule,
        phase: Phase,
        recipe: Recipe,
        data: Epochs,
        validation: Epochs | None,
        **more: Any,
    ) -> None:
        """Take what `EmberTrainer` takes; the network as it is now is the reference.

        Raises:
            ValueError: the recipe's `rewards` are not known, or its baseline is the value of a
                network that has none.
        """
        self.names = names_of(recipe.rewards)
        reasons = module.network.reasoning is not None
        if recipe.baseline == "value" and not reasons:
            raise ValueError(
                "baseline is value, but this network has no value head; say group, or train bitmar."
            )
        module.stage, phase = row_of(module.stage, phase, recipe, reasons=reasons)
        # Neither moves. The n-grams' table is read on the processor, wherever the network is.
        self.ngrams = copy.deepcopy(module.network.ngrams).requires_grad_(False)
        reference = copy.deepcopy(module.network).eval().requires_grad_(False)
        super().__init__(module, phase, recipe, data, validation, **more)
        self.reference = reference.to(self.args.device)
        self.tokenizer = cast(Requests, data).tokenizer
        self.args.eval_on_start = validation is not None
        self.module.train()  # before the first draws: a memory that does not move is not written
        self._places: list[Any] = []
        self._block: list[Batch] = []
        self._told: dict[str, list[float]] = defaultdict(list)

    # --- answers ----------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's batches of requests; `get_batch_samples` adds the answers."""
        batches = Blocks(
            self.data,
            self.recipe.batch_size * self.recipe.pool,
            self.recipe.seed,
            most=self.recipe.examples,
            rank=self.args.process_index,
            count=self.args.world_size,
            step=self.recipe.gradient_accumulation,
            times=self.recipe.iterations,
        )
        return EpochLoader(Placed(self.data), batch_sampler=batches, collate_fn=list)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Asked], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """Return a step's batches with their answers, drawn if the block is a new one."""
        asked = [next(epoch_iterator) for _ in range(num_batches)]
        places = [[place for place, _ in one] for one in asked]
        if places != self._places:
            self._places, self._block = places, [self._answered(one) for one in asked]
        return list(self._block), self._get_num_items_in_batch(self._block, device)

    @torch.no_grad()
    def _answered(self, asked: Asked) -> Batch:
        """Return the batch that `grpo.grpo_sums` learns from."""
        recipe, network = self.recipe, self.module.network
        if recipe.pool > 1:
            asked = self._least_sure(asked)
        items = [one for _, one in asked]
        G, U = recipe.group, numbers_for(network)
        batch = self._requests(items)
        with self.accelerator.autocast():
            found = read(network, batch, recipe.temperature)
            numbers_BGU = uniform(recipe.seed, [place for place, _ in asked], G, U)
            drawn = draw(
                network, found, self.tokenizer, numbers_BGU.to(found.sets_BC.device),
                recipe.temperature,
            )  # fmt: skip
            before = read(self.reference, batch, recipe.temperature)
            told = (drawn.written_NT, drawn.own_NT, recipe.temperature)
            batch["reference_sets"] = before.sets_BC
            batch["reference_words"] = log_chances(self.reference, before.repeated(G), *told)
            if recipe.iterations > 1:
                batch["old_set"] = found.sets_BC.gather(-1, drawn.sets_BG)
                batch["old_words"] = log_chances(network, found.repeated(G), *told)
                if found.first_BO is not None and drawn.first_BG is not None:
                    batch["old_primary"] = found.first_BO.gather(-1, drawn.first_BG)
        answers = self._rewarded(items, drawn)
        batch |= {"sets": drawn.sets_BG, "written": drawn.written_NT, "own": drawn.own_NT}
        worth_BG, words_BG = (
            torch.tensor([total(one.rewards, names) for one in answers]).view(-1, G)
            for names in (self.names, [name for name in self.names if name in OF_WORDS])
        )
        device = drawn.sets_BG.device
        batch["advantage_set"] = advantages(worth_BG).to(device)
        batch["advantage_words"] = advantages(words_BG).flatten().to(device)
        if drawn.first_BG is not None:
            assert before.first_BO is not None
            assert found.value_B is not None
            first_BG = torch.tensor([one.rewards["first"] for one in answers]).view(-1, G)
            whole_BG = ((worth_BG + first_BG) / 2).to(device)
            batch |= {"first": drawn.first_BG, "reference_primary": before.first_BO}
            batch |= {"advantage_primary": advantages(first_BG).to(device), "worth": whole_BG}
            if recipe.baseline == "value":
                over_BG = advantages_over_value(whole_BG, found.value_B)
                batch |= {"advantage_set": over_BG, "advantage_primary": over_BG}
                batch["advantage_words"] = over_BG.flatten()
        self._tell(answers, worth_BG, words_BG, drawn)
        counts = grpo_counts(batch)
        batch["counts"] = torch.stack([counts[name].float() for name in self.stage.losses])
        return batch

    def _least_sure(self, asked: Asked) -> Asked:
        """Return one in `pool` of the requests: those of whose sets two draws differ most often.

        Where all draws agree a group teaches the set nothing ("dynamic sampling", Yu et al. 2025,
        3.2; there such groups are drawn and thrown away).
        """
        with self.accelerator.autocast():
            sets_BC = read(self.module.network, self._requests([one for _, one in asked])).sets_BC
        agree_B = sets_BC.exp().square().sum(-1)
        kept = agree_B.argsort(stable=True)[: -(-len(asked) // self.recipe.pool)]
        return [asked[i] for i in sorted(kept.tolist())]

    def _requests(self, items: Sequence[Written]) -> Batch:
        """Return the requests' tensors, with what their n-grams add to the sets."""
        network = self.module.network
        batch = cast(Batch, self._prepare_inputs(self.data.batch(items, random.Random(0))))
        rows = [
            hash_ngrams(mark_quantities(one.item.sample.task or ""), network.config.ngram_rows)
            for one in items
        ]
        scores_BX = self.ngrams(rows)[:, : network.heads.features_SF.shape[0]]
        batch["ngrams"] = scores_BX.to(batch["tokens"].device)
        return batch

    def _rewarded(self, items: Sequence[Written], drawn: Drawn) -> list[Answer]:
        found = []
        samples = [one.item.sample for one in items for _ in range(drawn.sets_BG.shape[1])]
        texts, sets = drawn.texts(self.tokenizer), drawn.sets_BG.flatten().tolist()
        firsts = None if drawn.first_BG is None else iter(drawn.first_BG.flatten().tolist())
        for sample, number, text in zip(samples, sets, texts, strict=True):
            assert sample.subset is not None
            suited, robots = robots_of(sample.subset), robots_of(number)
            worth = rewards_of(sample.task or "", suited=suited, decided=robots, text=text)
            first = None
            if firsts is not None:
                first = OUTCOMES[next(firsts)]
                worth = {**worth, "first": first_reward(first, suited)}
            found.append(
                Answer(sample.id, tuple(robots), text, worth, exact(robots, suited), first)
            )
        return found

    def _tell(
        self, answers: Sequence[Answer], worth_BG: Tensor, words_BG: Tensor, drawn: Drawn
    ) -> None:
        """Keep for the log: each reward, and the share of groups that something can be learnt
        from."""
        for name in answers[0].rewards:
            self._told[f"reward_{name}"] += [one.rewards[name] for one in answers]
        self._told["reward"] += worth_BG.flatten().tolist()
        self._told["exact"] += [float(one.is_exact) for one in answers]
        self._told["own_tokens"] += drawn.own_NT.sum(1).tolist()
        sets_BG = drawn.sets_BG
        self._told["groups_with_other_sets"] += (sets_BG != sets_BG[:, :1]).any(1).float().tolist()
        for name, rewards_BG in (("", worth_BG), ("_of_words", words_BG)):
            spread_B = rewards_BG.amax(1) > rewards_BG.amin(1)
            self._told[f"groups_with_spread{name}"] += spread_B.float().tolist()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of all that was drawn since the last line, in all processes."""
        if "loss" in logs and self._told:
            sums = torch.tensor([[sum(x), len(x)] for x in self._told.values()])
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums.to(self.args.device), "sum").cpu()
            for name, (summed, count) in zip(self._told, sums.tolist(), strict=True):
                logs[name] = round(summed / count, 4)
            self._told.clear()
        super().log(logs, start_time)

    # --- validation -------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return all of validation, in every process."""
        assert self.validation is not None
        batches = EpochBatches(self.validation, 64, 0)
        return DataLoader(Placed(self.validation), batch_sampler=batches, collate_fn=list)

    @torch.no_grad()
    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> Any:
        """Return the means of validation under the averaged weights: of the likeliest answer, and
        of one drawn with the same numbers each time. `validation-STEP.jsonl` has the answers."""
        from transformers.trainer_utils import EvalLoopOutput

        prefix = kwargs.get("metric_key_prefix", "eval")
        held = self.average.exchange()
        likeliest: list[Answer] = []
        sampled: list[Answer] = []
        for asked in dataloader:
            for answers, drawn in zip((likeliest, sampled), self._both(asked), strict=True):
                answers += self._rewarded([one for _, one in asked], drawn)
        found = {
            f"{prefix}_{kind}{name}": value
            for kind, answers in (("", likeliest), ("sampled_", sampled))
            for name, value in self._means(answers).items()
        }
        if self.args.should_save:
            self._write(likeliest, sampled)
            self._keep_best(found[f"{prefix}_exact"])
        self.average.put(held)
        return EvalLoopOutput(cast(Any, None), None, found, len(likeliest))

    def _both(self, asked: Asked) -> tuple[Drawn, Drawn]:
        network = self.module.network
        batch = self._requests([one for _, one in asked])
        numbers_B1U = uniform(0, [one.item.sample.id for _, one in asked], 1, numbers_for(network))
        with self.accelerator.autocast():
            found = read(network, batch)
            numbers_B1U = numbers_B1U.to(found.sets_BC.device)
            return (
                draw(network, found, self.tokenizer, None),
                draw(network, found, self.tokenizer, numbers_B1U),
            )

    def _means(self, answers: Sequence[Answer]) -> dict[str, float]:
        figures = {
            "exact": [float(one.is_exact) for one in answers],
            "reward": [total(one.rewards, self.names) for one in answers],
            **{
                f"reward_{name}": [one.rewards[name] for one in answers]
                for name in answers[0].rewards
            },
        }
        return {name: round(sum(x) / len(x), 4) for name, x in figures.items()}

    def _write(self, likeliest: Sequence[Answer], sampled: Sequence[Answer]) -> None:
        lines = []
        for best, other in zip(likeliest, sampled, strict=True):
            told = {
                kind: {
                    "robots": one.robots,
                    **({} if one.first is None else {"first": one.first}),
                    "exact": one.is_exact,
                    "rewards": {name: round(x, 4) for name, x in one.rewards.items()},
                    "text": one.text,
                }
                for kind, one in (("likeliest", best), ("sampled", other))
            }
            lines.append(json.dumps({"id": best.id, **told}) + "\n")
        self.place.mkdir(parents=True, exist_ok=True)
        path = self.place / f"validation-{self.state.global_step}.jsonl"
        path.write_text("".join(lines), "utf-8")
