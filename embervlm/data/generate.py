"""Plans that nobody had to write: single requests joined into jobs of several steps.

Each part is a request of the training split with its own labels, or the short form in which its
author repeated it, so each step's robots, actions, limits and place are an author's, and the words
that join two parts say which waits for which. So the labels are right by construction; no language
model is asked.

    parts = parts_of("train")
    job = compose(parts, random.Random(1))
    job.task                 # "First look at the roof. Once that is done, carry 8 kg ..."
    job.steps[1].after       # (0,)
    job.task[slice(*job.steps[1].span)]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embervlm.data.scenarios import load_own
from embervlm.fleet import NO_ROBOT

# Words in front of a step, by what it waits for. {} is the step; none of them names a robot.
_OPENINGS = (
    "{}", "{}", "{}", "first, {}", "first {}", "to begin with, {}", "start with this: {}",
    "first of all {}", "priority one: {}", "we need three things. {}", "please {}", "1) {}",
)  # fmt: skip
# It waits for the step in front of it.
_BEHIND = (
    "then {}", "after that, {}", "after that {}", "once that is done, {}",
    "when that is finished, {}", "next, {}", "afterwards, {}", "only then {}", "and then {}",
    "once it is clear, {}", "when we know, {}", "as soon as that is in, {}", "cleared? then {}",
    "if that is safe, {}", "with that known, {}", "following that, {}", "when you have that, {}",
    "not before that is done: {}", "second, when the first is through, {}", "based on that, {}",
    "that done, {}", "finally, {}", "lastly, once that's over, {}", "after they have it, {}",
    "when it's found, {}",
)  # fmt: skip
# It waits for all steps in front of it.
_BEHIND_ALL = (
    "when both are done, {}", "once all of that is finished, {}", "after everything else, {}",
    "when all that is through, {}", "only when both are in, {}",
    "with all of that on the table, {}", "last of all, when the rest is done, {}", "after both, {}",
    "once the others report, {}",
)  # fmt: skip
# It waits for what the step in front of it waits for.
_BESIDE = (
    "meanwhile, {}", "meanwhile {}", "at the same time, {}", "while that is going on, {}",
    "also, {}", "in parallel, {}", "and {}", "separately, {}", "while that runs, {}", "besides, {}",
    "plus: {}", "in the meantime {}", "simultaneously {}", "as well, {}", "alongside that, {}",
)  # fmt: skip
# It waits for nothing, wherever it stands.
_FREE = (
    "right away, and without waiting for the rest: {}", "independently of that, {}",
    "from the start, {}", "straight away as well: {}", "don't wait for the rest: {}",
    "starting now, {}", "whenever there is time, {}", "immediately, {}",
    "order does not matter: {}",
)  # fmt: skip
# Said of the one in front: it, not this one, comes last.
_BEFORE = ("but before that, {}", "first, though, {}", "before any of that, {}", "ahead of that {}")

# What people say beside the job. Nothing in them is to be done.
_ASIDES = (
    "The mayor will be here at noon.", "Nobody is hurt, thank God.",
    "Sorry about the short notice.", "It has rained since Tuesday.",
    "The gate code is on the board.", "We had the same last year.", "My phone is nearly flat.",
    "The insurance people took their photos yesterday.", "Over.",
    "I will be in the office until six.", "The night shift knows about it.", "This is not a drill.",
    "The caretaker has gone home.", "Ignore what Dave told you.", "Budget code is 4471.",
    "The radio on channel 3 is broken.", "Thanks in advance.", "The owner has been told.",
    "We did the north side last week.", "The press is asking questions, leave that to me.",
    "Power was out until ten.", "The fence was painted in spring.", "Reply by e-mail please.",
    "The foreman says it can wait until after lunch.", "Good morning everyone.", "Control here.",
    "There was a concert here on Saturday.", "The builder went bankrupt in May.",
    "School starts again on Monday.", "The council keeps ringing.", "Weather is fine.",
    "The old pump was sold for scrap.", "No need for the fire brigade.", "Please be quick.",
)  # fmt: skip
MOST_STEPS = 5
_SHARES = {1: 0.12, 2: 0.36, 3: 0.36, 4: 0.12, 5: 0.04}
# How often a step for a robot that already has one is kept.
_SAME_ROBOT = 0.25
# Longer requests, in characters, leave no room for others.
_LONGEST_PART = 190


@dataclass(frozen=True)
class Part:
    """One step's words and labels: the robots that suit it, its actions, limits and place (None:
    not known)."""

    text: str
    robots: tuple[str, ...]
    actions: tuple[str, ...]
    limits: Mapping[str, Any]
    environment: str | None


@dataclass(frozen=True)
class JoinedStep:
    """A part in its place: `span` are its characters in the task, with the words that join it;
    `after` are the steps that it waits for."""

    part: Part
    span: tuple[int, int]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Joined:
    """A job made of parts, its steps in an order in which they can be done."""

    task: str
    steps: tuple[JoinedStep, ...]


def parts_of(split: str, folder: str = "", only: Callable[[str], bool] = bool) -> list[Part]:
    """Return the parts of a split: requests for one robot, their authors' short forms, and the
    steps of those plans whose id is one of `only`.

    Raises:
        ValueError: see `scenarios.load_own`.
    """
    parts = []
    for row in load_own("scenarios", split, folder):
        if row["kind"] == "team" or NO_ROBOT in row["suited"]:
            continue
        labels = tuple(row["suited"]), tuple(row["actions"]), row["limits"], row["environment"]
        if len(row["task"]) <= _LONGEST_PART:
            parts.append(Part(row["task"].strip(), *labels))
        if short := row.get("reasoning", {}).get("task"):
            # Numbers that the short form leaves out are not stated in it.
            parts.append(Part(short, *labels[:2], _stated(labels[2], short), labels[3]))
    for row in load_own("plans", split, folder):
        for step in row["plan"] if only(row["id"]) else ():
            limits = _stated(step["limits"], step["subtask"])
            robots, actions = (step["robot"],), tuple(step["actions"])
            parts.append(Part(step["subtask"], robots, actions, limits, None))
    return parts


def _stated(limits: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {key: value for key, value in limits.items() if value is True or f"{value:g}" in text}


def compose(parts: Sequence[Part], rng: random.Random, *, steps: int | None = None) -> Joined:
    """Join parts drawn at random into one job; `steps` says how many, 1 to `MOST_STEPS`."""
    count = steps or rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    drawn = _drawn(parts, count, rng)
    text, spans = "", []
    after: list[tuple[int, ...]] = []
    for i, part in enumerate(drawn):
        if rng.random() < 0.2:
            text = _joined(text, rng.choice(_ASIDES))
        words, waits = _words(i, after, rng)
        body = part.text if rng.random() < 0.7 else part.text.rstrip(".!")
        text, span = _appended(text, words.format(body))
        spans.append(span)
        after.append(waits)
    if rng.random() < 0.15:
        text = _joined(text, rng.choice(_ASIDES))
    order = _workable(after)
    place = {old: new for new, old in enumerate(order)}
    done = tuple(
        JoinedStep(drawn[old], spans[old], tuple(sorted(place[j] for j in after[old])))
        for old in order
    )
    return Joined(text, done)


def continued(
    task: str, after: Sequence[tuple[int, ...]], part: Part, rng: random.Random
) -> tuple[str, JoinedStep]:
    """Return a job with one part more at its end, and that part as its last step.

    Args:
        task: the words of the job.
        after: what each of its steps waits for.
        part: what is to be done as well.
        rng: draws the words that join it, and with them what it waits for.
    """
    links = [*after]
    i = len(links)
    words, waits = _words(i, links, rng)
    while links != [*after]:  # words that put it in front of what is there
        links = [*after]
        words, waits = _words(i, links, rng)
    text, span = _appended(task, words.format(part.text))
    return text, JoinedStep(part, span, waits)


def _appended(text: str, more: str) -> tuple[str, tuple[int, int]]:
    """Return the text with more behind it, and where that stands."""
    joined = _joined(text, more)
    return joined, (len(joined) - len(more), len(joined))


def _drawn(parts: Sequence[Part], count: int, rng: random.Random) -> list[Part]:
    """Return parts for one job; as in written ones, most of its steps are for different robots."""
    drawn: list[Part] = []
    while len(drawn) < count:
        part = rng.choice(parts)
        is_new = not any(set(part.robots) & set(other.robots) for other in drawn)
        if part not in drawn and (is_new or rng.random() < _SAME_ROBOT):
            drawn.append(part)
    return drawn


def _words(i: int, after: list[tuple[int, ...]], rng: random.Random) -> tuple[str, tuple[int, ...]]:
    """Return words in front of step i and what it waits for; `_BEFORE` changes the one before."""
    if i == 0:
        return rng.choice(_OPENINGS), ()
    kind = rng.random()
    if kind < 0.42:
        return rng.choice(_BEHIND), (i - 1,)
    if kind < 0.50:
        return rng.choice(_BEHIND_ALL), tuple(range(i))
    if kind < 0.78:
        return rng.choice(_BESIDE), after[i - 1]
    if kind < 0.94 or i > 1:
        return rng.choice(_FREE), ()
    after[i - 1] = (i,)
    return rng.choice(_BEFORE), ()


def _joined(text: str, more: str) -> str:
    if not text:
        return more
    if more.startswith("and ") and text[-1] not in ".!?":
        return f"{text}, {more}"
    return f"{text} {more}" if text[-1] in ".!?:" else f"{text}. {more}"


def _workable(after: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the steps, each behind those that it waits for, else as they stand."""
    order: list[int] = []
    while len(order) < len(after):
        order.append(
            next(i for i in range(len(after)) if i not in order and set(after[i]) <= set(order))
        )
    return order
