"""Every text format of `ember-37m`, each with its parser: image tokens in front, then words.

    request   <|image|>... carry the 16 kg [kg<=20] pump<|robot_selection|>
    reasons   ... Drone; Humanoid<|reasoning_start|> task\\n place<|action_plan|> why
              <|reasoning_end|>
    caption   <|image|>... a road in the rain<|endoftext|>
    question  <|image|>... Question: what is this?\\nAnswer: a road<|endoftext|>

The reasons stand behind the request that they explain. A request is lower case, and behind each
number that carries a unit stands, in brackets, between which thresholds it lies, as in
`prompts.py`, but in words: the published vocabulary has no token for it. The network says what a
number is for at the closing bracket. The request ends with the question for the robots, so the
state there has read all of it.

Every writer here gives (tokens that are told, tokens that are learnt), or a `Reading`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from embervlm.models.gpt2_tokenizer import END, Gpt2Tokenizer
from embervlm.prompts import Reading, Reasoning, bucket_mark, shortened
from embervlm.quantities import find_quantities

IMAGE, SELECTION, PLAN, REASONING_START, REASONING_END = (
    "<|image|>",
    "<|robot_selection|>",
    "<|action_plan|>",
    "<|reasoning_start|>",
    "<|reasoning_end|>",
)
# What stands behind each line of the reasons.
LINE = "\n"
LINE_ENDS = (LINE, PLAN, REASONING_END)
_QUESTION, _ANSWER = "Question: ", "\nAnswer:"
_BRACKETS = str.maketrans("[]", "()")
_BUCKET = re.compile(r" \[[^\]]*\]")


def read_request(
    task: str | None, tokenizer: Gpt2Tokenizer, max_tokens: int, image_tokens: int
) -> Reading:
    """Turn a request into image tokens (0: no photo) and at most `max_tokens` more; a longer one
    is `shortened`.

    An absent request is `<|robot_selection|>` alone. `marks` are the places of closing brackets.
    """
    task = " ".join((task or "").split()).translate(_BRACKETS)
    mentions = find_quantities(task)
    tokens: list[int] = []
    marks, at = [], 0
    for mention in mentions:
        piece = task[at : mention.end].lower()
        # A word keeps the space before it, and so does the first.
        tokens += tokenizer.encode(piece if at else f" {piece}")
        tokens += tokenizer.encode(f" [{bucket_mark(mention)[2:-2]}")
        marks.append(len(tokens))
        tokens += tokenizer.encode("]")
        at = mention.end
    if rest := task[at:].lower():
        tokens += tokenizer.encode(rest if at else f" {rest}")
    tokens.append(tokenizer.specials[SELECTION])
    words = shortened(tokens, list(mentions), marks, max_tokens)
    return Reading(
        (tokenizer.specials[IMAGE],) * image_tokens + words.tokens,
        words.mentions,
        tuple(mark + image_tokens for mark in words.marks),
        words.unread,
    )


def parse_request(text: str) -> str | None:
    """Return the request of a decoded one; None unless `<|robot_selection|>` ends it."""
    words, found, rest = text.replace(IMAGE, "").partition(SELECTION)
    return _BUCKET.sub("", words).strip() if found and not rest else None


def reasons(
    reasoning: Reasoning, tokenizer: Gpt2Tokenizer
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what is written behind a request: the robots, which are told, and why, learnt."""
    learnt: list[int] = []
    lines = (reasoning.task, reasoning.environment, reasoning.decision)
    for line, end in zip(lines, LINE_ENDS, strict=True):
        learnt += tokenizer.encode(" " + " ".join(line.split()))
        learnt.append(line_end(end, tokenizer))
    return reasons_prefix(reasoning.robots, tokenizer), tuple(learnt)


def reasons_prefix(robots: Sequence[str], tokenizer: Gpt2Tokenizer) -> tuple[int, ...]:
    """Return the tokens behind a request that tell the decision, and ask for the first line."""
    return (*tokenizer.encode(f" {'; '.join(robots)}"), tokenizer.specials[REASONING_START])


def line_end(end: str, tokenizer: Gpt2Tokenizer) -> int:
    """Return the token of one of LINE_ENDS; a line feed is one token of GPT-2's."""
    if end in tokenizer.specials:
        return tokenizer.specials[end]
    (token,) = tokenizer.encode(end)
    return token


def parse_reasons(text: str) -> Reasoning | None:
    """Read what stands behind a request; None if a mark is missing or out of place, or a line is
    empty."""
    robots, found, rest = text.partition(REASONING_START)
    values = []
    for end in LINE_ENDS:
        line, ended, rest = rest.partition(end)
        if not ended or not line.strip() or "<|" in line or LINE in line:
            return None
        values.append(line.strip())
    if not found or rest or not robots.strip() or "<|" in robots:
        return None
    return Reasoning(tuple(robots.strip().split("; ")), *values)


def caption(
    text: str, tokenizer: Gpt2Tokenizer, max_tokens: int, image_tokens: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the image tokens, and the caption that is learnt behind them."""
    told = (tokenizer.specials[IMAGE],) * image_tokens
    return told, _ended(text, tokenizer, max_tokens)


def parse_caption(text: str) -> str | None:
    """Return the caption of a decoded one; None unless it is ended once."""
    words, found, rest = text.replace(IMAGE, "").partition(END)
    return words.strip() if found and not rest else None


def exchange(
    question: str, answer: str, tokenizer: Gpt2Tokenizer, max_tokens: int, image_tokens: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a question, and its answer; each loses what is beyond `max_tokens`."""
    asked = tokenizer.encode(_QUESTION + " ".join(question.split()))[:max_tokens]
    told = (tokenizer.specials[IMAGE],) * image_tokens + (*asked, *tokenizer.encode(_ANSWER))
    return told, _ended(answer, tokenizer, max_tokens)


def parse_exchange(text: str) -> tuple[str, str] | None:
    """Return question and answer of a decoded exchange; None if one of its marks is missing."""
    text = text.replace(IMAGE, "")
    question, found, rest = text.removeprefix(_QUESTION).partition(_ANSWER)
    answer, ended, behind = rest.partition(END)
    whole = text.startswith(_QUESTION) and found and ended and not behind
    return (question, answer.strip()) if whole else None


def _ended(text: str, tokenizer: Gpt2Tokenizer, max_tokens: int) -> tuple[int, ...]:
    words = tokenizer.encode(" " + " ".join(text.split()))
    return (*words[: max_tokens - 1], tokenizer.specials[END])
