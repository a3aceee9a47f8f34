"""From an operator's word to an entry, and from a request to the entry that applies.

    feedback = Feedback(["Robot with Legs"], "thick smoke there")
    entry = entry_from_feedback(decision, feedback, against, team=False)
    entry.content    # Send the Robot with Legs, not the Drone, which cannot work in smoke: ...
    recall(memory, embedding, needs, scenario, same_request=0.97, fleet=fleet)

Rules alone make the entry: who was wrongly sent, which need or limit the note states that the
decision had not read, and what of the fleet's facts follows from it. A correction that no robot of
it can carry out is quarantined: kept, shown, never used.

An entry applies to the very same request, and to one that means nearly the same (cosine of the
reader's embeddings), shares words with it and tells nothing else: no other number, no other robot
by name, no denial (`told`), no fire or smoke, at the same kind of place.
The more entries there are, the closer a request must be (`needed_cosine`), or a store of thousands
would answer nearly everything. A photo without words is no meaning to compare: it is answered from
an entry only if it is the same photo. One for the very same request stands before all others; of
the closest few others the newest applies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.memory.entries import (
    MAX_CONTENT_CHARACTERS,
    MemoryEntry,
    content_words,
    printable,
)
from embervlm.memory.free_text import MODEL_CONFIDENCE, RULES, Reading, missed_needs
from embervlm.memory.told import Told, told_in
from embervlm.scenario import (
    FLAGS,
    QUANTITIES,
    READINGS,
    Decision,
    Feedback,
    Needs,
    Scenario,
)

if TYPE_CHECKING:
    from embervlm.memory.protocol import LessonMemory

# What a robot cannot do of some needs, in clauses; empty if nothing stands against it.
Against = Callable[[str, Needs], Sequence[str]]

# Of so many closest entries the newest applies.
CLOSEST = 3
# The share of the words of the shorter request that both must have: requests that no robot can do
# read nearly alike, whatever they are about. On validation it is missing in 94 % of the pairs of
# different answers that reach `same_request` at one kind of place.
COMMON_WORDS = 0.25
_LOOKED_AT = 16
# Numbers that differ by less, as a share of the larger, are the same job told again. Of reworded
# requests a tenth keeps lessons from some that they are right for; a quarter from none that a half
# lets through.
_SAME_NUMBER = 0.25
# Flags in which requests that mean the same agree: with another one another robot is right.
DANGERS = frozenset({"fire", "smoke"})
MAX_NOTE_CHARACTERS = 500
CONTRADICTS = "It contradicts the fleet's facts"

_MONTHS = (
    "January February March April May June July August September October November December".split()
)


def check_note(note: str) -> str:
    """Return a note as one line.

    Raises:
        ValueError: it is too long.
    """
    note = printable(note)
    if len(note) > MAX_NOTE_CHARACTERS:
        raise ValueError(
            f"The note has {len(note):,} characters; shorten it to {MAX_NOTE_CHARACTERS} or fewer."
        )
    return note


def entry_from_feedback(
    decision: Decision,
    feedback: Feedback,
    against: Against,
    *,
    team: bool,
    read: Reading | None = None,
) -> MemoryEntry:
    """Return what a correction teaches, not yet kept.

    `against` tells what the fleet's own facts say against a robot. `read` is what was read in the
    note beyond what rules find in it. Without robots the entry is a fact, the note itself.

    Raises:
        ValueError: the decision carries no scenario, or the note is too long.
    """
    if decision.scenario is None:
        raise ValueError("This decision carries no scenario; give the one that decide() returned.")
    note = check_note(feedback.note)
    missed = missed_needs(note, decision.needs, read.limits if read else {})
    task = decision.scenario.task
    metadata: dict[str, Any] = {
        "task": task.encode("utf-8", "replace").decode("utf-8") if task else None,
        "photo": photo_key(decision.scenario),
        "environment": decision.environment,
        "needs": decision.needs.to_dict(),
        "robots": list(feedback.robots),
        "source_decision": {
            "robots": list(decision.robots),
            "confidence": round(decision.confidence, 4),
            "lessons": list(decision.lessons),
        },
    }
    if team:
        metadata["team"] = True
    if missed.limits:
        metadata["missed"] = missed.limits
    if feedback.misread:
        metadata["misread"] = list(feedback.misread)
    confidence = 1.0
    if read is not None and read.by != RULES:
        metadata |= {"note": note, "read_by": read.by}
        confidence = MODEL_CONFIDENCE
        note = read.fact or note
    if read is not None and read.problem and feedback.robots:
        metadata["unread"] = read.problem
    if not feedback.robots:
        return MemoryEntry("fact", note, confidence, (), metadata)
    is_right = set(feedback.robots) == set(decision.robots)
    content = _sentence(decision, feedback.robots, note, missed, against)
    if feedback.misread:
        content = f"{content[:-1]}; misread: {', '.join(feedback.misread)}."
    return MemoryEntry(
        "insight" if is_right else "correction",
        content[:MAX_CONTENT_CHARACTERS],
        confidence,
        (),
        metadata,
    )


def quarantined(entry: MemoryEntry, reason: str) -> MemoryEntry:
    """Return the entry as one that is kept but never used."""
    return replace(entry, metadata={**entry.metadata, "quarantine": reason})


def contradiction(robots: Sequence[str], broken: Callable[[str], Sequence[str]]) -> str:
    """Return why a correction contradicts the fleet's facts, in a sentence; empty if a robot of it
    can be sent. `broken` gives the stated limits that a robot breaks."""
    clauses = {name: broken(name) for name in robots if name != NO_ROBOT}
    if not clauses or not all(clauses.values()):
        return ""
    told = "; ".join(f"the {name} {found[0]}" for name, found in clauses.items())
    return f"{CONTRADICTS}: {told}."


def recall(
    memory: LessonMemory,
    embedding: NDArray[np.float32],
    needs: Needs,
    scenario: Scenario,
    *,
    same_request: float,
    fleet: Fleet,
) -> MemoryEntry | None:
    """Return the entry that applies to a request, or None.

    One for this very request stands before all others. Of those with a cosine of at least
    `needed_cosine`, a share of COMMON_WORDS of its words and the same `told`, at the same kind of
    place, the CLOSEST count, the overlap of needs deciding between cosines that are equal to two
    digits; of these the newest applies.
    """
    has_words = bool(scenario.task and scenario.task.strip())
    request = request_key(scenario.task, photo_key(scenario))
    found = memory.search(
        embedding,
        needs.environment,
        at_least=needed_cosine(same_request, memory.usable()) if has_words else math.inf,
        k=_LOOKED_AT,
        request=request,
    )
    if not found:
        return None
    told = told_in(scenario.task or "", fleet)
    usable = [
        (entry, cosine)
        for entry, cosine in found
        if robots_of(entry)
        and (
            request_of(entry) == request
            or (
                shares_words(entry, scenario.task or "")
                and tells_the_same(entry, told, needs.limits, fleet)
            )
        )
    ]
    own = [entry for entry, _ in usable if request_of(entry) == request]
    if own:
        return max(own, key=lambda entry: entry.id)
    usable.sort(
        key=lambda one: (round(one[1], 2), _overlap(one[0], needs), one[0].id), reverse=True
    )
    return max((entry for entry, _ in usable[:CLOSEST]), key=lambda e: e.id, default=None)


def needed_cosine(same_request: float, entries: int) -> float:
    """Return the cosine from which one of so many entries applies.

    One pair in a hundred of different answers reaches `same_request`; this is the cosine that one
    in a hundred times `entries` reaches, so that a request meets one of another meaning as seldom
    among many entries as it would meet a single one:

        cosine = 1 - (1 - same_request) / entries ** (1/3)

    The law of the tail was fitted on validation requests, 172,147 pairs read by ember-nano: shares
    of 1e-2, 1e-3, 1e-4 and 1e-5 reach 0.67, 0.84, 0.92 and 0.97; the law says 0.67, 0.85, 0.93 and
    0.97.

    >>> [round(needed_cosine(0.67, n), 2) for n in (1, 10, 100, 1000, 10_000)]
    [0.67, 0.85, 0.93, 0.97, 0.98]
    """
    return 1 - (1 - same_request) / math.cbrt(max(1, entries))


def in_common(one: str, other: str) -> float:
    """Return the share of the shorter text's words that both have, 0 to 1.

    >>> in_common("Look under the bridge", "is the bridge safe?")
    0.5
    """
    ours, theirs = content_words(one), content_words(other)
    return len(ours & theirs) / max(1, min(len(ours), len(theirs)))


def shares_words(entry: MemoryEntry, task: str) -> bool:
    """Say whether an entry's request has enough words of another one."""
    return in_common(entry.metadata.get("task") or "", task) >= COMMON_WORDS


def tells_the_same(
    entry: MemoryEntry, told: Told, limits: Mapping[str, float], fleet: Fleet
) -> bool:
    """Say whether an entry's request agrees with another one, of which this was `told` and read, in
    the numbers that both state, in DANGERS, and in what is told in so many words."""
    other = {key: limits[key] for key in QUANTITIES if key in limits}
    return (
        same_numbers(numbers_of(entry), other)
        and DANGERS & limits_of(entry).keys() == DANGERS & limits.keys()
        and told_in(entry.metadata.get("task") or "", fleet).agrees(told)
    )


def limits_of(entry: MemoryEntry) -> dict[str, float]:
    """Return the numbers and flags that were read from an entry's request."""
    needs = entry.metadata.get("needs")
    limits = needs.get("limits") if isinstance(needs, dict) else None
    return limits if isinstance(limits, dict) else {}


def numbers_of(entry: MemoryEntry) -> dict[str, float]:
    """Return the numbers that were read from an entry's request, by QUANTITIES."""
    stated = limits_of(entry)
    return {key: stated[key] for key in QUANTITIES if isinstance(stated.get(key), int | float)}


def same_numbers(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Say whether two requests agree in each number that both state.

    >>> same_numbers({"load_kg": 9.0, "hours": 1.0}, {"load_kg": 900.0})
    False
    """
    return all(
        math.isclose(number, other[key], rel_tol=_SAME_NUMBER)
        for key, number in one.items()
        if key in other
    )


def robots_of(entry: MemoryEntry) -> tuple[str, ...]:
    """Return the robots that an entry says are right; none if it says nothing of the kind."""
    robots = entry.metadata.get("robots")
    if not isinstance(robots, list) or not all(isinstance(name, str) for name in robots):
        return ()
    return tuple(robots)


def misread_of(entry: MemoryEntry, scenario: Scenario) -> frozenset[str]:
    """Return what an entry says was misread in this very request; of any other it says nothing."""
    names = entry.metadata.get("misread")
    if not isinstance(names, list):
        return frozenset()
    if request_of(entry) != request_key(scenario.task, photo_key(scenario)):
        return frozenset()
    return frozenset(name for name in names if name in READINGS)


def check_misread(names: Sequence[str], needs: Needs) -> None:
    """Refuse what was not read.

    Raises:
        ValueError: a decision had not read one of these in its request.
    """
    read = {*needs.limits, "team"} | ({"environment"} if needs.environment != "none" else set())
    if strange := [name for name in names if name not in read]:
        raise ValueError(
            f"The decision had not read {strange[0]} in the request, so it is not misread; it had "
            f"read {', '.join(sorted(read - {'team'})) or 'nothing'}."
        )


def sentence(entry: MemoryEntry) -> str:
    """Return what a decision says of the entry that it follows."""
    said = entry.content[:1].lower() + entry.content[1:].rstrip(".")
    return f"lesson {entry.id} of {day(entry)} applies: {said}"


def day(entry: MemoryEntry) -> str:
    """Return the day on which an entry was learnt, in UTC, such as "3 May"."""
    when = datetime.fromisoformat(entry.metadata["time"])
    return f"{when.day} {_MONTHS[when.month - 1]}"


def request_key(task: Any, photo: Any) -> str:
    """Return what two entries for the same request share: 16 digits, or nothing for no request.

    Spaces and capitals do not count.
    """
    words = " ".join(task.lower().split()) if isinstance(task, str) else ""
    if not words and not photo:
        return ""
    import hashlib  # OpenSSL's 4 MB, which a decision without lessons does without

    text = f"{words}\n{photo or ''}".encode("utf-8", "replace")
    return hashlib.sha256(text).hexdigest()[:16]


def request_of(entry: MemoryEntry) -> str:
    """Return the key of the request that an entry is about; empty if it is about none."""
    return request_key(entry.metadata.get("task"), entry.metadata.get("photo"))


def photo_key(scenario: Scenario) -> str | None:
    """Return the first 16 digits of the SHA-256 of the scenario's photo; None without one.

    Raises:
        ValueError: the photo cannot be read.
    """
    image = scenario.image
    if image is None:
        return None
    import hashlib

    try:
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        raise ValueError(f"The photo {str(image)!r} cannot be read; check its path.") from error
    return hashlib.sha256(content).hexdigest()[:16]


def names(robots: Sequence[str]) -> str:
    """Return robots in words: "the Drone and the Humanoid", or "no robot"."""
    words = ["no robot" if name == NO_ROBOT else f"the {name}" for name in robots]
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _sentence(
    decision: Decision, robots: Sequence[str], note: str, missed: Needs, against: Against
) -> str:
    """Return the shortest sentence that says what is right and why."""
    wrong = [name for name in decision.robots if name not in robots and name != NO_ROBOT]
    if set(robots) == set(decision.robots):
        verb = "was" if len(robots) == 1 else "were"
        said = names(robots)
        return _because(f"{said[:1].upper()}{said[1:]} {verb} right", note)
    instead = f", not {names(wrong)}" if wrong else ""
    why = ""
    if len(wrong) == 1:
        needs = decision.needs
        told = Needs(
            environment=needs.environment, quantities=missed.quantities, flags=missed.flags
        )
        clauses = against(wrong[0], told) or ([] if note else against(wrong[0], needs))
        if clauses:
            why = f", which {min(clauses, key=len)}"
    return _because(f"Send {names(robots)}{instead}{why}", note)


def _because(said: str, note: str) -> str:
    """Return a sentence with its note, unless that only repeats words of it.

    >>> _because("Send the Humanoid, not the Drone", "send the Humanoid.")
    'Send the Humanoid, not the Drone.'
    """
    ours, theirs = (" ".join(re.findall(r"\w+", text.lower())) for text in (said, note))
    repeats = not theirs or f" {theirs} " in f" {ours} "
    return f"{said}." if repeats else f"{said}: {note.rstrip('.')}."


def _overlap(entry: MemoryEntry, needs: Needs) -> float:
    """Return the share of needs in common, 0 to 1."""
    stated = entry.metadata.get("needs")
    if not isinstance(stated, dict):
        return 0.0
    theirs = _need_words(stated)
    ours = _need_words(needs.to_dict())
    either = ours | theirs
    return len(ours & theirs) / len(either) if either else 1.0


def _need_words(needs: dict[str, Any]) -> set[str]:
    actions, limits = needs.get("actions"), needs.get("limits")
    words = {str(action) for action in actions} if isinstance(actions, list) else set()
    known = {*FLAGS, *QUANTITIES}
    return words | ({key for key in limits if key in known} if isinstance(limits, dict) else set())
