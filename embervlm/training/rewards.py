"""What an answer is worth to GRPO: the set it decides, and the lines that it writes about it.

Four rewards, each 0 to 1 and each checked by code, so that none can be flattered:

    set           half the overlap with the true set, half for being the same (`scoring.set_reward`)
    format        the lines parse (`prompts.parse_reasoning`)
    faithfulness  the line on the decision names each decided robot once and no other; no line
                  cites a number that the request does not hold, or names a robot that stays
    brevity       as many words as authors use; less where it is longer, or next to nothing

Whom a network would send first, where it draws that too, is worth `first_reward`.

Lines that do not parse are no answer: the last three are then 0.

    >>> text = (
    ...     "<|robots|>Drone<|task|>look at the roof<|environment|>a wet roof"
    ...     "<|decision|>the Drone sees it.<|end|>"
    ... )
    >>> rewards_of("look at the roof", suited=["Drone"], decided=["Drone"], text=text)
    {'set': 1.0, 'format': 1.0, 'faithfulness': 1.0, 'brevity': 1.0}
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from embervlm.explaining import checked_decision
from embervlm.faithfulness import names_in
from embervlm.fleet import Fleet
from embervlm.prompts import Reasoning, parse_reasoning
from embervlm.quantities import states
from embervlm.scoring import set_reward

# What each reward counts in the sum; those that count share 1 among them.
WEIGHTS = {"set": 0.5, "format": 0.1, "faithfulness": 0.3, "brevity": 0.1}
REWARDS = tuple(WEIGHTS)
# Those that the words earn. The set is decided before them and they cannot change its reward.
OF_WORDS = ("format", "faithfulness", "brevity")

# Of the authors' reasons in the training split 98 % have this many words, all lines together.
FEWEST_WORDS, MOST_WORDS = 8, 28

_FLEET = Fleet.default()
_DIGITS = re.compile(r"\d+(?:\.\d+)?")


def rewards_of(
    request: str, *, suited: Collection[str], decided: Sequence[str], text: str
) -> dict[str, float]:
    """Return each reward of an answer: the robots that it decided, and its marked text."""
    written = parse_reasoning(text)
    found = {"set": set_reward(decided, suited), **dict.fromkeys(OF_WORDS, 0.0)}
    if written is not None:
        found["format"] = 1.0
        found["faithfulness"] = faithfulness(written, decided, request)
        found["brevity"] = brevity(written)
    return found


def first_reward(first: str, suited: Collection[str]) -> float:
    """Return 1 if this outcome is in the right set (No Robot is where no robot is), else 0."""
    return float(first in suited)


def faithfulness(written: Reasoning, decided: Sequence[str], request: str) -> float:
    """Return the share of what the lines say that holds: half for the decision, a quarter each for
    task and place."""
    digits = set(_DIGITS.findall(request))

    def invents(line: str) -> bool:
        return not states(request, line) or bool(set(_DIGITS.findall(line)) - digits)

    held = checked_decision(written, decided, _FLEET, request) is not None
    score = 0.5 * (held and not invents(written.decision))
    for line in (written.task, written.environment):
        score += 0.25 * (not invents(line) and names_in(line, _FLEET).keys() <= set(decided))
    return score


def brevity(written: Reasoning) -> float:
    """Return 1 from `FEWEST_WORDS` to `MOST_WORDS`; it falls to 0 at no words, and at twice the
    most."""
    words = sum(len(x.split()) for x in (written.task, written.environment, written.decision))
    return max(0.0, min(1.0, words / FEWEST_WORDS, 2 - words / MOST_WORDS))


def total(rewards: Mapping[str, float], names: Collection[str]) -> float:
    """Return the weighted mean of the rewards that count, 0 where none does."""
    weight = sum(WEIGHTS[name] for name in names)
    return sum(WEIGHTS[name] * rewards[name] for name in names) / weight if weight else 0.0


def names_of(told: str) -> tuple[str, ...]:
    """Return the rewards that a recipe names, with commas between them.

    Raises:
        ValueError: one is not known, or there is none.
    """
    names = tuple(name.strip() for name in told.split(",") if name.strip())
    if not names or set(names) - set(REWARDS):
        raise ValueError(
            f"rewards is {told!r}; expected some of {', '.join(REWARDS)}, with commas."
        )
    return names
