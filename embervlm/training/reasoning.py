"""Teach the decoder to put a decision into words, through four-bit rounding; the reader stays.

First a warm-up: repeat captions, plain sentences and requests that the reader has read, so that the
decoder learns the language and to look back. Then our authors' reasoning: the decision is given,
the three lines are learnt.

    python -m embervlm.training.reasoning --model build/nano --tokenizer T.json --shared ../shared
    --out DIR

Axes: B batch, T tokens written, S states read, D width.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from embervlm.data.scenarios import Row, load
from embervlm.models.language import next_token_loss
from embervlm.models.modeling import EmberNetwork, load_network, save_network
from embervlm.models.precision import autocast
from embervlm.prompts import (
    END,
    TASK,
    Reasoning,
    encode_marked,
    read_task,
    reasoning_prefix,
    write_reasoning,
)
from embervlm.tokenizer import Tokenizer
from embervlm.training.compression import keep_rounded, round_weights
from embervlm.training.distillation import pad

MAX_READ, MAX_WRITTEN = 96, 120
LINES = {"coco_val_captions": 20_000, "dialogues_sgd": 6_000, "nltk_sentence_polarity": 2_000}

# What is read (text), what is written (tokens), and how many of the first tokens are given, not
# learnt.
Pair = tuple[str, list[int], int]


def warm_up_pairs(shared: Path, tokenizer: Tokenizer) -> list[Pair]:
    """Return sentences to be repeated, our own requests among them."""
    texts = [row["task"] for name in ("scenarios", "plans") for row in load(name, "train")]
    for name, lines in LINES.items():
        with lzma.open(shared / "text" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            found = [line.strip() for line in file if 20 < len(line) < 160]
        texts += random.Random(1).sample(found, min(lines, len(found)))
    begin, end = tokenizer.specials[TASK], tokenizer.specials[END]
    return [
        (text, [begin, *tokenizer.encode(" " + " ".join(text.split()))[: MAX_WRITTEN - 2], end], 1)
        for text in texts
    ]


def reasoning_pairs(split: str, tokenizer: Tokenizer) -> list[Pair]:
    """Return the authors' reasoning of a split, behind the decision that it explains."""
    pairs = []
    for row in (*load("scenarios", split), *load("plans", split)):
        if "reasoning" in row:
            prefix = reasoning_prefix(row["suited"], tokenizer)
            tokens = encode_marked(write_reasoning(reasoning_of(row)), tokenizer)
            pairs.append((row["task"], tokens[:MAX_WRITTEN], len(prefix)))
    return pairs


def reasoning_of(row: Row) -> Reasoning:
    """Return the authors' reasoning of a request, in lower case as requests are read."""
    lines = {
        key: _uncapitalised(row["reasoning"][key]) for key in ("task", "environment", "decision")
    }
    return Reasoning(tuple(row["suited"]), **lines)


def _uncapitalised(line: str) -> str:
    """Return the line as it would stand inside a sentence: requests are read in lower case too."""
    return line[:1].lower() + line[1:] if line[1:2].islower() else line


def pair_loss(
    network: EmberNetwork, tokenizer: Tokenizer, pairs: Sequence[Pair], generator: torch.Generator
) -> Tensor:
    """Return the mean loss per written token; now and then a state is hidden, against copying by
    rote."""
    read_BT, mask_BT = pad([read_task(text, tokenizer, MAX_READ).tokens for text, _, _ in pairs])
    written_BT, written_mask_BT = pad([tokens for _, tokens, _ in pairs])
    learnt_BT = written_mask_BT.clone()
    for i, (_, _, given) in enumerate(pairs):
        learnt_BT[i, :given] = False
    B = len(pairs)
    config = network.config
    with torch.no_grad():
        encoded = network.encode(
            read_BT,
            mask_BT,
            torch.zeros(B, config.image_width),
            torch.zeros(B, network.image.scene.out_features),
            torch.zeros(B, dtype=torch.bool),
            torch.zeros(B, dtype=torch.bool),
        )
    mask_BS = encoded.mask_BS
    if network.decoder.training:
        mask_BS = mask_BS & (torch.rand(mask_BS.shape, generator=generator) > 0.05)
        mask_BS[:, 0] = True
    images = torch.full((B, config.image_tokens), -1)
    source_BS = torch.cat([images, read_BT.masked_fill(~mask_BT, -1)], dim=1)
    log_p_BTV = network.decoder(
        written_BT[:, :-1],
        encoded.states_BSD.detach(),
        mask_BS,
        source_BS,
        network.text.embed.weight.detach(),
    )
    return next_token_loss(log_p_BTV, written_BT[:, 1:], learnt_BT[:, 1:].float())


def train(
    network: EmberNetwork,
    tokenizer: Tokenizer,
    shared: Path,
    *,
    minutes: float,
    seed: int,
    report: Callable[[dict[str, float]], None],
) -> None:
    """Train the decoder in place: a third of the time warm-up, the rest reasoning."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network.eval()
    network.requires_grad_(False)
    network.decoder.requires_grad_(True)
    network.decoder.start_from_table(network.text.embed.weight)
    round_weights(network.decoder)
    parameters = list(network.decoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    held_out = reasoning_pairs("validation", tokenizer)
    stages = [
        (warm_up_pairs(shared, tokenizer), minutes / 3),
        (reasoning_pairs("train", tokenizer), 2 * minutes / 3),
    ]
    best: tuple[float, dict[str, Tensor]] | None = None
    for number, (pairs, share) in enumerate(stages):
        begun, step = time.monotonic(), 0
        bar = tqdm(desc=("warm-up", "reasoning")[number], mininterval=15)
        while (spent := (time.monotonic() - begun) / (60 * share)) < 1:
            network.decoder.train()
            chunk = sorted(
                rng.sample(pairs, min(32 * 16, len(pairs))), key=lambda pair: len(pair[1])
            )
            for i in rng.sample(range(0, len(chunk), 32), len(chunk) // 32):
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * max(0.03, 1 - spent)
                with autocast():
                    loss = pair_loss(network, tokenizer, chunk[i : i + 32], generator)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                step += 1
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if number == 1 and (step // 16) % 12 == 0:
                best = _keep_best(network, tokenizer, held_out, generator, best, step, report)
        bar.close()
    best = _keep_best(network, tokenizer, held_out, generator, best, -1, report)
    network.decoder.load_state_dict(best[1])
    keep_rounded(network.decoder)


@torch.no_grad()
def _keep_best(
    network: EmberNetwork,
    tokenizer: Tokenizer,
    held_out: Sequence[Pair],
    generator: torch.Generator,
    best: tuple[float, dict[str, Tensor]] | None,
    step: int,
    report: Callable[[dict[str, float]], None],
) -> tuple[float, dict[str, Tensor]]:
    network.decoder.eval()
    losses = [
        pair_loss(network, tokenizer, held_out[i : i + 64], generator).item()
        for i in range(0, min(len(held_out), 256), 64)
    ]
    score = sum(losses) / len(losses)
    report({"step": step, "validation_loss": round(score, 4)})
    if best is None or score < best[0]:
        return score, {k: v.clone() for k, v in network.decoder.state_dict().items()}
    return best


def main() -> None:
    """Read the flags, train the decoder, write the whole network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", type=Path, required=True, help="network.safetensors of decisions"
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=18.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    network = load_network(options.model)
    options.out.mkdir(parents=True, exist_ok=True)

    def report(line: dict[str, float]) -> None:
        with (options.out / "reasoning.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    train(
        network,
        tokenizer,
        options.shared,
        minutes=options.minutes,
        seed=options.seed,
        report=report,
    )
    save_network(network, options.out / "network.safetensors")


if __name__ == "__main__":
    main()
