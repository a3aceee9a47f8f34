"""Train the linear model on n-grams that stands beside the reader, and fit its say on validation.

Seconds, not minutes: the table learns set and place from the words of requests and plans. Then one
weight for the sets and one for the places is chosen where the sum with the network's logits is
likeliest on the validation split, and multiplied into the table. With a photo the table is not
asked: tried, it cost photo requests 1 to 5 points.

The bias also takes back a slant of the training rows: the additions hold some sets more often, and
others less, than the first authors' requests do (`label_shift`).

    python -m embervlm.training.ngrams --tokenizer T.json --model NETWORK.safetensors --out DIR

Axes: N samples, G n-grams, K classes (sets or places).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from embervlm.data.sample import Sample
from embervlm.data.scenarios import is_addition
from embervlm.evaluation.fitting import fit_temperature, mean_loss
from embervlm.models.heads import SUBSETS, NgramScores
from embervlm.models.modeling import load_network, save_network
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import Settings as DecisionSettings
from embervlm.training.decisions import base_samples, held_out_items, predict

WEIGHTS = tuple(i / 10 for i in range(21))


@dataclass(frozen=True)
class Settings:
    """The rate falls from `rate` to 0 in a straight line."""

    epochs: int = 8
    batch: int = 128
    rate: float = 0.02
    smoothing: float = 0.03
    seed: int = 1


def rows_of(samples: Sequence[Sample], rows: int) -> list[list[int]]:
    """Return the rows of each sample's n-grams."""
    return [hash_ngrams(mark_quantities(sample.task or ""), rows) for sample in samples]


def fit_table(samples: Sequence[Sample], rows: int, settings: Settings) -> NgramScores:
    """Return a table trained on samples; an n-gram's importance is its inverse document
    frequency."""
    torch.manual_seed(settings.seed)
    ngrams = rows_of(samples, rows)
    counts = torch.bincount(
        torch.tensor([row for found in ngrams for row in found]), minlength=rows
    )
    scores = NgramScores(rows)
    scores.importance.copy_(torch.log((1 + len(samples)) / (1 + counts)) + 1)
    set_N = torch.tensor([sample.subset for sample in samples])
    place_N = torch.tensor([sample.environment for sample in samples])
    optimizer = torch.optim.AdamW(scores.parameters(), lr=settings.rate, weight_decay=0.0)
    steps = settings.epochs * math.ceil(len(samples) / settings.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in trange(settings.epochs, desc="n-grams"):
        for chosen in torch.randperm(len(samples)).split(settings.batch):
            logits_NX = scores([ngrams[i] for i in chosen.tolist()])
            parts = (logits_NX[:, :SUBSETS], set_N), (logits_NX[:, SUBSETS:], place_N)
            loss = torch.stack(
                [
                    F.cross_entropy(logits_NK, goal_N[chosen], label_smoothing=settings.smoothing)
                    for logits_NK, goal_N in parts
                ]
            ).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return scores


def label_shift(samples: Sequence[Sample]) -> Tensor:
    """Return log(share among the authors' rows / share in what the network was trained on), (S,).

    Added to the logits, it moves the answers from the sets that training held to those that the
    authors ask for (label shift, Saerens et al. 2002). Three rows more are counted for each set, so
    that a rare one moves little.
    """
    authors_B = torch.tensor([not is_addition(sample.id) for sample in samples])
    sets_B = torch.tensor([sample.subset for sample in samples])
    times_B = 1 + DecisionSettings().authors_again * authors_B
    shares = []
    for weight_B in (authors_B.float(), times_B):
        counts_S = torch.bincount(sets_B, weight_B, minlength=SUBSETS) + 3
        shares.append(counts_S / counts_S.sum())
    return (shares[0] / shares[1]).log()


def best_weight(logits_NK: Tensor, added_NK: Tensor, true_N: Tensor) -> float:
    """Return the weight of WEIGHTS at which logits + weight * added fit the truth best.

    Each sum is judged by its mean cross-entropy at the temperature that suits it, so that the
    weight does not stand in for one.
    """

    def loss(weight: float) -> float:
        summed_NK = (logits_NK + weight * added_NK).double().numpy()
        known_N = true_N.numpy()
        return mean_loss(summed_NK / fit_temperature(summed_NK, known_N), known_N)

    return min(WEIGHTS, key=loss)


def main() -> None:
    """Read the flags, train the table, write the network with it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a network without its table")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    network = load_network(options.model)
    config = network.config
    rows = base_samples("train")
    scores = fit_table(rows, config.ngram_rows, Settings())
    items = held_out_items("validation", tokenizer, None, 128)["requests"]
    logits = predict(network, items, None)
    samples = [item.sample for item in items]
    report: dict[str, float] = {"samples": len(samples)}
    with torch.no_grad():
        added_NX = scores(rows_of(samples, config.ngram_rows))
        for name, columns in (
            ("subset", slice(None, SUBSETS)),
            ("environment", slice(SUBSETS, None)),
        ):
            base_NK = logits["subsets" if name == "subset" else name]
            true_N = torch.tensor([getattr(sample, name) for sample in samples])
            weight = best_weight(base_NK, added_NX[:, columns], true_N)
            scores.table.weight[:, columns] *= weight
            scores.bias[columns] *= weight
            sums = {
                "network": base_NK,
                "ngrams": added_NX[:, columns],
                "both": base_NK + weight * added_NX[:, columns],
            }
            if name == "subset":
                shift_S = label_shift(rows)
                scores.bias[columns] += shift_S
                sums["both, shifted"] = sums["both"] + shift_S
            report[f"{name} weight"] = weight
            for kind, logits_NK in sums.items():
                right = (logits_NK.argmax(-1) == true_N).float().mean().item()
                report[f"{name} {kind}"] = round(right, 4)
    network.ngrams.load_state_dict(scores.state_dict())
    options.out.mkdir(parents=True, exist_ok=True)
    save_network(network, options.out / "network.safetensors")
    (options.out / "ngrams.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
