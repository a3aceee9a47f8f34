"""What a request tells in so many words, which requests of nearly the same meaning may differ in.

To a network "hall 3" and "hall 30" read alike, as do a request and its opposite, a cellar and one
that burns; a lesson on the one says nothing of the other.

    >>> from embervlm.fleet import Fleet
    >>> one = told_in("do not send the quadcopter to hall three", Fleet.default())
    >>> one.numbers, one.robots, one.is_denied
    (frozenset({'3'}), frozenset({'Drone'}), True)
    >>> one.agrees(told_in("never let drones into hall 3", Fleet.default()))
    True
"""

from __future__ import annotations

import re
from typing import NamedTuple

from embervlm.fleet import ENVIRONMENTS, Fleet
from embervlm.quantities import numbers_in

_WORD = re.compile(r"[\w'’-]+")
# A robot's name has at most so many words here.
_LONGEST_NAME = 4
_DANGERS = {
    "fire": r"fires?|flames?|burning|burns|ablaze",
    "smoke": r"smoke|smoky|smoking",
    "flood": r"flood(?:s|ed|ing)?",
}
_DANGER = re.compile(
    "|".join(rf"\b(?P<{name}>{words})\b" for name, words in _DANGERS.items()), re.IGNORECASE
)
# What is denied is an order, not what is there: "no wind", "they do not hear a thing".
_DENIAL = re.compile(
    r"(?<!\bi )(?<!\bwe )(?<!\bthey )(?<!\byou )(?<!\bwho )(?<!\bthat )\bdo(?: not|n['’]?t)\b"
    r"|(?:^|[.,;:!?]\s*|\b(?:please|and|but|you (?:must|should|may))\s+)(?:not|never)\b"
    r"|\b(?:look|check|search|inspect|count|measure|send|use|take|bring|fetch|get|carry|move|lift|put"
    r"|deliver|collect|pick|open)(?: \w+){0,2} no\b(?!\.?\s*\d)"
    r"|\b(?:anything|anyone|anybody|any|all|everything|every \w+) (?:but|except)\b",
    re.IGNORECASE,
)


class Told(NamedTuple):
    """What a request tells: its numbers, without a unit and with one, the robots that it names,
    whether it burns, smokes or is flooded, and whether something is not to be done."""

    numbers: frozenset[str]
    measures: frozenset[str]
    robots: frozenset[str]
    dangers: frozenset[str]
    is_denied: bool

    def agrees(self, other: Told) -> bool:
        """Say whether another request tells the same; a unit may be left out."""
        return (
            self.numbers <= other.numbers | other.measures
            and other.numbers <= self.numbers | self.measures
            and (self.robots, self.dangers, self.is_denied)
            == (other.robots, other.dangers, other.is_denied)
        )


def told_in(task: str, fleet: Fleet) -> Told:
    """Return what a request tells."""
    numbers, measures = numbers_in(task)
    return Told(
        numbers=numbers,
        measures=measures,
        robots=_robots_in(task, fleet),
        dangers=frozenset(found.lastgroup or "" for found in _DANGER.finditer(task)),
        is_denied=_DENIAL.search(task) is not None,
    )


def _robots_in(task: str, fleet: Fleet) -> frozenset[str]:
    """Return the robots that a text names, by name or alias, in the singular or the plural.

    A word for a kind of place, "underwater", names none, nor does "the drone of the engines".
    """
    words = [word.lower() for word in _WORD.findall(task)]
    found = set()
    for start in range(len(words)):
        for end in range(start + 1, min(start + _LONGEST_NAME, len(words)) + 1):
            phrase = " ".join(words[start:end])
            if phrase not in ENVIRONMENTS and words[end : end + 1] != ["of"]:
                found.add(fleet.called(phrase))
                if phrase.endswith("s"):
                    found.add(fleet.called(phrase[:-1]))
    return frozenset(found & set(fleet.names))
