"""Every text format that the model reads or writes, each with its parser beside it.

Reading: a request becomes `<|task|> words ... <|end|>`, lower case, with a mark behind every number
that carries a unit, saying between which of the guide's thresholds it lies ("16 kg <|kg<=20|>"). So
the network never has to learn arithmetic from examples.

Writing: the decoder is given the decision and puts it into words, each line behind its own mark:
`<|robots|>Drone; Robot with Legs<|task|>what is asked<|environment|>where<|decision|>why
these<|end|>`. The line on the robots is not generated: `planning` writes it from the fleet's
numbers, so it cannot be false.

Showing: a decision's account can also be written in BitMar's tags (`Thinking`), for programs that
read those: `<thinking>` around four steps, then `<robot_selection>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from embervlm.quantities import HYPHENS, Mention, find_quantities, number_told
from embervlm.scenario import Decision, Needs
from embervlm.tokenizer import Tokenizer

# The upper ends of the buckets; the numbers are thresholds of the labelling guide and the default
# fleet.
_THRESHOLDS: dict[str, tuple[str, tuple[float, ...]]] = {
    "mass_kg": ("kg", (5, 15, 20, 500)),
    "length_m": ("m", (0.1, 0.4999, 1.9999, 20, 100, 300, 1000)),
    "speed_kmh": ("km/h", (30, 50)),
    "hours": ("h", (2 / 3, 2, 8)),
}

PAD, TASK, END, ENVIRONMENT, ROBOTS, DECISION = (
    "<|pad|>",
    "<|task|>",
    "<|end|>",
    "<|environment|>",
    "<|robots|>",
    "<|decision|>",
)
_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
SECTIONS = (ROBOTS, TASK, ENVIRONMENT, DECISION)
_THOUSANDS = re.compile(r"(?<![\w.,/])[1-9]\d{0,2}(?:[\u00a0\u2009\u202f]\d{3})+(?!\d)")


def _bucket_marks() -> dict[str, list[str]]:
    return {
        kind: [f"<|{unit}<={top:.4g}|>" for top in tops] + [f"<|{unit}>{tops[-1]:.4g}|>"]
        for kind, (unit, tops) in _THRESHOLDS.items()
    }


_MARKS = _bucket_marks()
SPECIALS = (PAD, *SECTIONS, END, *(mark for marks in _MARKS.values() for mark in marks))


def bucket_mark(mention: Mention) -> str:
    """Return the mark that says between which thresholds a quantity lies."""
    tops = _THRESHOLDS[mention.kind][1]
    # Values are rounded: 40 minutes are 0.666667 hours, and not above the threshold of two thirds.
    return _MARKS[mention.kind][sum(mention.value > top + 1e-5 for top in tops)]


def mark_quantities(task: str) -> str:
    """Return the request with the mark of each quantity behind it, as words."""
    parts, at = [], 0
    for mention in find_quantities(task):
        parts += [task[at : mention.end], bucket_mark(mention)]
        at = mention.end
    return " ".join([*parts, task[at:]])


@dataclass(frozen=True)
class Reading:
    """A request as the network reads it.

    `tokens` begins with `<|task|>` and ends with `<|end|>`. `mentions[i]` is the quantity whose
    mark stands at `tokens[marks[i]]`; `unread` are those for which there was no room.
    """

    tokens: tuple[int, ...]
    mentions: tuple[Mention, ...] = ()
    marks: tuple[int, ...] = ()
    unread: tuple[Mention, ...] = ()


def read_task(
    task: str | None, tokenizer: Tokenizer, max_tokens: int, *, numbers: bool = True
) -> Reading:
    """Turn a request into tokens, at most `max_tokens`; a longer one is `shortened`.

    An absent request is `<|task|><|end|>`. Without `numbers` the marks alone stand for quantities.
    """
    task = one_line(task)
    mentions = find_quantities(task)
    tokens, marks = [tokenizer.specials[TASK]], []
    for words, _, mention in _stretches(task, mentions, numbers=numbers):
        tokens += tokenizer.encode(words)
        if mention is not None:
            marks.append(len(tokens))
            tokens.append(tokenizer.specials[bucket_mark(mention)])
    tokens.append(tokenizer.specials[END])
    return shortened(tokens, mentions, marks, max_tokens)


def one_line(task: str | None) -> str:
    """Return a request as it is read: in one line, with single spaces.

    A narrow or unbreakable space between thousands becomes a comma: as a space it would part two
    numbers. Hyphens that do not break and the sign of minus become "-".
    """
    whole = _THOUSANDS.sub(lambda found: re.sub(r"\D", ",", found[0]), task or "")
    return " ".join(whole.translate(HYPHENS).split())


def token_spans(task: str, tokenizer: Tokenizer, max_tokens: int) -> list[tuple[int, int]]:
    """Return the characters (begin, end) of `one_line(task)` that each token of `read_task` stands
    for; of a quantity's mark all of the quantity's, of the first and the last token none."""
    task = one_line(task)
    spans, marks = [(0, 0)], []
    for words, begin, mention in _stretches(task, find_quantities(task)):
        read = bytearray()
        # The space that stands in front of the words belongs to no character of the task.
        at, ahead = begin, len(words) - len(words.lstrip())
        for token in tokenizer.encode(words):
            read += tokenizer.token_bytes(token)
            end = begin + max(0, len(read.decode("utf-8", "ignore")) - ahead)
            spans.append((at, end))
            at = end
        if mention is not None:
            marks.append(len(spans))
            spans.append((mention.start, mention.end))
    spans.append((len(task), len(task)))
    return [spans[i] for i in _kept(len(spans), marks, max_tokens)]


def _stretches(
    task: str, mentions: Sequence[Mention], *, numbers: bool = True
) -> Iterator[tuple[str, int, Mention | None]]:
    """Yield a request's words up to each quantity: as they are encoded, where they begin, and the
    quantity behind them, None behind the last."""
    at = 0
    for mention in mentions:
        text = task[at : mention.end if numbers else mention.start]
        begin = at + len(text) - len(text.lstrip())
        yield (f" {_lower(text.strip())}" if text.strip() else ""), begin, mention
        at = mention.end
    if rest := task[at:].strip():
        ahead = " " if at == 0 or task[at].isspace() else ""
        yield ahead + _lower(rest), len(task) - len(task[at:].lstrip()), None


def _lower(text: str) -> str:
    """Return a text in lower case, as many characters long: "İ", whose lower case has two, stays.

    So the characters of the tokens are those of the request, one by one.
    """
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in text)


def shortened(
    tokens: list[int], mentions: list[Mention], marks: list[int], max_tokens: int
) -> Reading:
    """Return a reading of at most `max_tokens`: a longer one keeps its two ends, and of what stands
    between them each quantity with the words around it, as far as there is room."""
    kept = _kept(len(tokens), marks, max_tokens)
    place = {old: new for new, old in enumerate(kept)}
    told = list(zip(marks, mentions, strict=True))
    return Reading(
        tuple(tokens[i] for i in kept),
        tuple(mention for mark, mention in told if mark in place),
        tuple(place[mark] for mark in marks if mark in place),
        tuple(mention for mark, mention in told if mark not in place),
    )


# The words of a quantity and those that say what it is of: so many tokens in front of its mark, and
# so many behind it. An eighth of the room or more is left to the two ends.
_BEFORE, _BEHIND = 12, 4


def _kept(count: int, marks: Sequence[int], max_tokens: int) -> Sequence[int]:
    """Return which of `count` tokens a reading keeps, `marks` being the quantities' marks."""
    if count <= max_tokens:
        return range(count)

    def with_ends(some: set[int], length: int) -> set[int]:
        head = length * 2 // 3
        return some.union(range(head), range(count - length + head, count))

    windows: set[int] = set()
    least = max(2, max_tokens // 8)
    for mark in marks:
        wider = windows.union(range(max(0, mark - _BEFORE), min(count, mark + 1 + _BEHIND)))
        if len(with_ends(wider, least)) <= max_tokens:
            windows = wider
    for length in range(max_tokens, least, -1):
        if len(with_ends(windows, length)) <= max_tokens:
            return sorted(with_ends(windows, length))
    return sorted(with_ends(windows, least))


@dataclass(frozen=True)
class Reasoning:
    """What the decoder writes about a decision: the robots it is told, then three lines of its
    own."""

    robots: tuple[str, ...]
    task: str
    environment: str
    decision: str


def write_reasoning(reasoning: Reasoning) -> str:
    """Return the marked form that the decoder is trained on; `parse_reasoning` reads it back."""
    values = (
        "; ".join(reasoning.robots),
        reasoning.task,
        reasoning.environment,
        reasoning.decision,
    )
    return "".join(mark + value for mark, value in zip(SECTIONS, values, strict=True)) + END


def parse_reasoning(text: str) -> Reasoning | None:
    """Read the marked form; None if a mark is missing or out of place, or a section is empty."""
    values = []
    for mark, following in zip(SECTIONS, (*SECTIONS[1:], END), strict=True):
        if not text.startswith(mark):
            return None
        value, found, _ = text.removeprefix(mark).partition(following)
        if not found or not value.strip() or "<|" in value:
            return None
        values.append(value.strip())
        text = text[len(mark) + len(value) :]
    if text != END:
        return None
    robots, task, environment, decision = values
    return Reasoning(tuple(robots.split("; ")), task, environment, decision)


@dataclass(frozen=True)
class Thinking:
    """A decision's account: its four lines, how sure it is, and the robots in order.

    `confidence` is from 0 to 1, of four decimals. `robots` are kept as they were written: whether a
    fleet has them is for the caller to say.
    """

    task: str
    environment: str
    evaluation: str
    selection: str
    confidence: float
    robots: tuple[str, ...]

    @classmethod
    def of(cls, decision: Decision) -> Thinking:
        """Return the account of a decision.

        Raises:
            ValueError: the decision was made without its reasoning.
        """
        if len(decision.reasoning) != len(_LINES):
            raise ValueError("This decision has no reasoning; decide with reasoning=True.")
        lines = zip(_LINES, decision.reasoning, strict=True)
        task, environment, evaluation, selection = (line.removeprefix(head) for head, line in lines)
        sure = round(decision.confidence, 4)
        return cls(task, environment, evaluation, selection, sure, decision.robots)

    @property
    def lines(self) -> tuple[str, ...]:
        """The four lines, as `Decision.reasoning` has them."""
        said = (self.task, self.environment, self.evaluation, self.selection)
        return tuple(head + line for head, line in zip(_LINES, said, strict=True))


_LINES = ("Task: ", "Environment: ", "Robots: ", "Decision: ")


def write_thinking(thinking: Thinking) -> str:
    """Return an account in tags; `parse_thinking` reads it back. "&", "<", ">" and line breaks of
    the text are written as in XML, robots stand in order with "; " between them.

        <thinking>
        <environment_analysis>Task: Look
        Environment: Rough</environment_analysis>
        <robot_evaluation>Drone: can look; not Humanoid: cannot look</robot_evaluation>
        <selection_reasoning>Send the Drone.</selection_reasoning>
        <confidence_check>0.97</confidence_check>
        </thinking>
        <robot_selection>Drone</robot_selection>
    """
    return _TAGGED.format(
        task=_escaped(thinking.task),
        environment=_escaped(thinking.environment),
        evaluation=_escaped(thinking.evaluation),
        selection=_escaped(thinking.selection),
        confidence=thinking.confidence,
        robots="; ".join(_escaped(name) for name in thinking.robots),
    )


def parse_thinking(text: str) -> Thinking | None:
    """Read an account in tags; None if one is missing, twice there, out of place or within another,
    if the confidence is no number from 0 to 1, or if a robot has no name."""
    found = _TAGGED_FORM.fullmatch(text)
    if found is None or any(_STRAY.search(part) for part in found.groups()):
        return None
    task, environment, evaluation, selection, confidence, robots = map(_plain, found.groups())
    names = tuple(robots.split("; "))
    if not all(name.strip() for name in names) or not 0 <= float(confidence) <= 1:
        return None
    return Thinking(task, environment, evaluation, selection, float(confidence), names)


_TAGGED = """<thinking>
<environment_analysis>Task: {task}
Environment: {environment}</environment_analysis>
<robot_evaluation>{evaluation}</robot_evaluation>
<selection_reasoning>{selection}</selection_reasoning>
<confidence_check>{confidence!r}</confidence_check>
</thinking>
<robot_selection>{robots}</robot_selection>"""
# As it is written, with any white space around tags, and text without tags within the leaves.
_TAGGED_FORM = re.compile(
    r"\s*<thinking>\s*"
    r"<environment_analysis>Task: ([^<>\n]*)\nEnvironment: ([^<>\n]*)</environment_analysis>\s*"
    r"<robot_evaluation>([^<>\n]*)</robot_evaluation>\s*"
    r"<selection_reasoning>([^<>\n]*)</selection_reasoning>\s*"
    r"<confidence_check>(\d+(?:\.\d+)?(?:e-\d+)?)</confidence_check>\s*"
    r"</thinking>\s*"
    r"<robot_selection>([^<>\n]*)</robot_selection>\s*",
    re.ASCII,
)
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": "&#10;"}
_STRAY = re.compile("&(?!" + "|".join(mark[1:] for mark in _ESCAPES.values()) + ")")


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(char, char) for char in text)


def _plain(text: str) -> str:
    for char, mark in reversed(_ESCAPES.items()):
        text = text.replace(mark, char)
    return text


_QUANTITY_UNITS = {"kg": "kg", "m": "m", "cm": "cm", "kmh": "km/h"}


def go_together(decision: Decision) -> bool:
    """Say whether a decision's plan has work for several robots; else one of them suffices."""
    return len({step.robot for step in decision.plan if step.robot is not None}) > 1


def describe_robots(decision: Decision) -> str:
    """Name whom a decision sends: "A then B" where both have work, "A or B" where one suffices."""
    return (" then " if go_together(decision) else " or ").join(decision.robots)


def describe_needs(needs: Needs) -> str:
    """Return what a job takes in one line: actions, then numbers with units, then circumstances.

    >>> from embervlm.scenario import Needs
    >>> describe_needs(Needs(("carry",), quantities={"load_kg": 8.0}, flags=frozenset({"stairs"})))
    'carry; load 8 kg; stairs'
    """
    numbers = []
    for key, value in needs.quantities.items():
        what, _, unit = key.partition("_")
        told = number_told(value)
        numbers.append(f"{what} {told} {_QUANTITY_UNITS[unit]}" if unit else f"{told} {what}")
    parts = [", ".join(needs.actions), ", ".join(numbers), ", ".join(sorted(needs.flags))]
    return "; ".join(part for part in parts if part) or "nothing in particular"


class Encoder(Protocol):
    """What turns plain text into tokens, and has marks that are one token each."""

    @property
    def specials(self) -> Mapping[str, int]:
        """The tokens of the marks."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, none of them a mark's."""


def encode_marked(text: str, tokenizer: Encoder) -> list[int]:
    """Return the tokens of a text with section marks; what stands between marks is plain text."""
    tokens = []
    for part in _MARK.split(text):
        if part in tokenizer.specials:
            tokens.append(tokenizer.specials[part])
        elif part:
            tokens += tokenizer.encode(" " + part)
    return tokens


def reasoning_prefix(robots: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that the decoder is given: the decision, and the mark of its first own
    line."""
    return encode_marked(f"{ROBOTS}{'; '.join(robots)}{TASK}", tokenizer)


# The order in which the decoder writes; it learns the decision first, then puts it into words.
_MARK = re.compile("(" + "|".join(re.escape(mark) for mark in (*SECTIONS, END)) + ")")


def parse_object(text: str, keys: Sequence[str]) -> dict[str, Any] | None:
    """Read the one JSON object that a chat model was asked for; None if it is anything else.

    One fence of Markdown around it is no part of it. It has exactly these keys, none twice.

    >>> parse_object('{"fact": "It floods."}', ["fact"])
    {'fact': 'It floods.'}
    >>> parse_object('Of course! {"fact": "It floods."}', ["fact"])
    """
    text = text.strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1]
    try:
        found = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and set(found) == set(keys) else None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found
