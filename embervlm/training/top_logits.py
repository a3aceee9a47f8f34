"""A teacher's distribution over each token of its answer, kept to the K likeliest tokens.

Of a token's row of logits z over V tokens, what is kept is log p_T = log softmax(z / T) at the
temperature T of distillation (Hinton et al. 2015), for the K highest; all others together are one
bucket with what is left of the mass. The student is held to these K + 1 shares:

    loss = T^2 * sum over tokens of KL(teacher's K + 1 shares || student's K + 1 shares)

It is 0 where the student's shares are the teacher's, and with K = V it is the whole KL. Numbers of
tokens mean the same only where the vocabularies are the same; `check_same_vocabulary` sees to it.

Axes: B batch, N tokens of an answer, T tokens written, K kept, V vocabulary.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embervlm.tokenizer import BYTES, Tokenizer, byte_alphabet

# Distributions of teacher and student are softened by this (Hinton et al. 2015).
TEMPERATURE = 2.0


@dataclass(frozen=True)
class TopLogits:
    """The answer's tokens (N,) int32, and before each of them the K likeliest tokens (N, K) int32
    with their log-probabilities (N, K) float16 at `TEMPERATURE`."""

    answer_N: NDArray[np.int32]
    tokens_NK: NDArray[np.int32]
    log_p_NK: NDArray[np.float16]

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in a line of the cache; `from_dict` reads it back, bit for bit."""
        return {
            "k": self.tokens_NK.shape[1],
            "temperature": TEMPERATURE,
            "answer": _packed(self.answer_N.astype("<i4")),
            "tokens": _packed(self.tokens_NK.astype("<i4")),
            "log_p": _packed(self.log_p_NK.astype("<f2")),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> TopLogits:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: something is missing, of another length, or of another temperature.
        """
        try:
            if found["temperature"] != TEMPERATURE:
                raise ValueError(
                    f"the logits are softened by {found['temperature']}, the loss by {TEMPERATURE}"
                )
            k = int(found["k"])
            answer_N = _unpacked(found["answer"], "<i4").astype(np.int32)
            shape = (len(answer_N), k)
            return cls(
                answer_N,
                _unpacked(found["tokens"], "<i4").astype(np.int32).reshape(shape),
                _unpacked(found["log_p"], "<f2").astype(np.float16).reshape(shape),
            )
        except (KeyError, TypeError, binascii.Error) as error:
            raise ValueError(f"these are no logits of a teacher ({error!r})") from error


def keep_top(logits_NV: Tensor, answer_N: Tensor, k: int) -> TopLogits:
    """Return the K likeliest of each row of a teacher's logits."""
    log_p_NV = (logits_NV.float() / TEMPERATURE).log_softmax(-1)
    log_p_NK, tokens_NK = log_p_NV.topk(min(k, logits_NV.shape[-1]), dim=-1)
    return TopLogits(
        answer_N.cpu().numpy().astype(np.int32),
        tokens_NK.cpu().numpy().astype(np.int32),
        log_p_NK.cpu().numpy().astype(np.float16),
    )


def as_written(
    found: Mapping[str, Any],
    answer: str,
    decode: Callable[[list[int]], str],
    specials: set[int],
    end: int,
    most: int,
) -> tuple[tuple[int, ...], TopLogits]:
    """Return at most `most` words of an answer in the teacher's own tokens, and its logits before
    each of them, and before the end if both end with the same token.

    `decode`, `specials` and `end` are the student's; `found` is what `TopLogits.to_dict` wrote.

    Raises:
        ValueError: they are damaged, or the tokens are not this answer in the student's vocabulary.
    """
    top = TopLogits.from_dict(found)
    tokens = top.answer_N.tolist()
    count = next((i for i, token in enumerate(tokens) if token in specials), len(tokens))
    if " ".join(decode(tokens[:count]).split()) != " ".join(answer.split()):
        raise ValueError("these are logits of another vocabulary than the student's")
    words = tuple(tokens[: min(count, most)])
    kept = slice(len(words) + (tokens[len(words) : len(words) + 1] == [end]))
    return words, TopLogits(top.answer_N[kept], top.tokens_NK[kept], top.log_p_NK[kept])


def top_batch(
    tops: Sequence[TopLogits | None], begins: Sequence[int], length: int
) -> dict[str, Tensor]:
    """Return the teacher's shares in the form that `top_logits_sum` takes.

    Row b of the student's batch writes T + 1 = `length` tokens, of which the teacher's answer
    begins at `begins[b]`; like the losses on `written[:, 1:]`, place t is about token t + 1. The
    keys are `top_tokens` (B, T, K) int64, `top_log_p` (B, T, K) float32 and `has_top` (B, T)
    float32, 1 where the teacher has something to say. An answer that is longer than `length` is
    cut; None gives a row without any.

    Raises:
        ValueError: the rows have different K.
    """
    sizes = {top.tokens_NK.shape[1] for top in tops if top is not None}
    if len(sizes) > 1:
        raise ValueError(f"The logits of one batch have {sorted(sizes)} tokens each; give one K.")
    B, T, K = len(tops), length - 1, sizes.pop() if sizes else 1
    batch = {
        "top_tokens": torch.zeros(B, T, K, dtype=torch.int64),
        "top_log_p": torch.zeros(B, T, K),
        "has_top": torch.zeros(B, T),
    }
    for b, (top, begin) in enumerate(zip(tops, begins, strict=True)):
        if top is None:
            continue
        at = max(0, begin - 1)
        left_out = at - (begin - 1)  # a first token that nothing stands before is not predicted
        count = max(0, min(len(top.answer_N) - left_out, T - at))
        kept = slice(left_out, left_out + count)
        batch["top_tokens"][b, at : at + count] = torch.from_numpy(top.tokens_NK[kept]).long()
        batch["top_log_p"][b, at : at + count] = torch.from_numpy(top.log_p_NK[kept]).float()
        batch["has_top"][b, at : at + count] = 1.0
    return batch


def top_logits_sum(logits_BTV: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return T^2 times the sum of the divergences over all places of `top_batch`.

    `logits_BTV` are the student's logits or log-probabilities for the tokens behind the first one.
    Divide by `batch["has_top"].sum()` for the mean of a place.
    """
    log_p_BTV = (logits_BTV.float() / TEMPERATURE).log_softmax(-1)
    tokens_BTK = batch["top_tokens"]
    student_BTK = log_p_BTV.gather(-1, tokens_BTK)
    # What the student gives to all others, summed up rather than taken from 1, which would lose it.
    others_BTV = log_p_BTV.scatter(-1, tokens_BTK, float("-inf"))
    any_other = tokens_BTK.shape[-1] < log_p_BTV.shape[-1]
    student_rest_BT = others_BTV.logsumexp(-1) if any_other else torch.zeros_like(batch["has_top"])
    # float16 rounds, so the shares that are kept may come to a little more than 1.
    teacher_BTK = batch["top_log_p"].float().log_softmax(-1)
    kept_BT = batch["top_log_p"].float().exp().sum(-1).clamp(max=1.0)
    teacher_BTK = teacher_BTK + kept_BT.clamp(min=_LEAST).log().unsqueeze(-1)
    rest_BT = (1 - kept_BT) if any_other else torch.zeros_like(kept_BT)
    apart_BT = (teacher_BTK.exp() * (teacher_BTK - student_BTK)).sum(-1)
    apart_BT = apart_BT + rest_BT * (rest_BT.clamp(min=_LEAST).log() - student_rest_BT)
    return TEMPERATURE**2 * (apart_BT * batch["has_top"]).sum()


_LEAST = 1e-12


def check_same_vocabulary(teacher: Mapping[str, int], student: Mapping[str, int]) -> None:
    """Let logits pass only where every token of the teacher has the same number for the student.

    The student may have more tokens behind the teacher's, marks of its own.

    Raises:
        ValueError: the first token that differs, and how many do.
    """
    theirs = {number: token for token, number in teacher.items()}
    ours = {number: token for token, number in student.items()}
    apart = [number for number in sorted(theirs) if theirs[number] != ours.get(number)]
    if apart:
        first = apart[0]
        raise ValueError(
            f"Token {first} is {theirs[first]!r} for the teacher and {ours.get(first)!r} for the "
            f"student, and so differ {len(apart):,} of {len(theirs):,}: logits pass only between "
            "equal vocabularies. Leave out --logits; words and scores can be distilled still."
        )


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Return token and number of a tokenizer: ours, a `tokenizer.json` of the tokenizers library,
    or a folder or name that transformers knows. Bytes are written as GPT-2's stand-ins.

    Raises:
        ValueError: it is none of these.
    """
    if not Path(path).is_file():
        from transformers import AutoTokenizer

        try:
            return dict(AutoTokenizer.from_pretrained(str(path)).get_vocab())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} holds no tokenizer ({str(error)[:200]}).") from error
    try:
        return vocabulary_of(Tokenizer.from_file(path))
    except ValueError:
        from tokenizers import Tokenizer as FastTokenizer

        try:
            return dict(FastTokenizer.from_file(str(path)).get_vocab(with_added_tokens=True))
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"{path} is no tokenizer ({str(error)[:200]}).") from error


def vocabulary_of(tokenizer: Tokenizer) -> dict[str, int]:
    """Return token and number of one of our tokenizers, as the tokenizers library writes them."""
    alphabet = byte_alphabet()
    plain = {
        "".join(alphabet[byte] for byte in tokenizer.token_bytes(number)): number
        for number in range(BYTES + len(tokenizer.merges_M2))
    }
    return {**plain, **tokenizer.specials}


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _unpacked(text: str, kind: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), kind)
