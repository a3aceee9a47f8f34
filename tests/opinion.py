"""A backend that says what a test wants it to say."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from embervlm.backends.base import Proposal, StepScores
from embervlm.fleet import ACTIONS, ENVIRONMENTS, Fleet
from embervlm.prompts import Reasoning, write_reasoning
from embervlm.quantities import find_quantities
from embervlm.scenario import FLAGS, QUANTITIES
from embervlm.tokenizer import Tokenizer

DRONE, DIVER, HUMANOID, WHEELS, LEGS = Fleet.default().names


@dataclass
class Opinion:
    """Says what the test wants it to say; implements `backends.base.Backend`.

    `sets` maps sets of default robots to their share, `roles` each number's key in QUANTITIES.
    """

    sets: dict[frozenset[str], float] = field(default_factory=dict)
    first: str = DRONE
    environment: str = "rough"
    actions: Sequence[str] = ("look",)
    flags: Sequence[str] = ()
    roles: Sequence[str] = ()
    team: bool = False
    decision: str = "As told."
    image_size: int = 32
    calibration: dict[str, float] = field(default_factory=dict)
    told: list[tuple[str, ...]] = field(default_factory=list)
    steps: Sequence[StepScores] = ()
    tokenizer: Tokenizer | None = None

    def propose(self, task: str | None, pixels_CHW: np.ndarray | None) -> Proposal:
        names = Fleet.default().names
        shares = np.full(32, 1e-9, np.float32)
        for robots, share in self.sets.items():
            shares[sum(1 << names.index(name) for name in robots)] = share
        mentions = tuple(find_quantities(task or ""))
        roles = [QUANTITIES.index(role) for role in self.roles] or [len(QUANTITIES)] * len(mentions)
        return Proposal(
            subsets=np.log(shares),
            primary=logits(Fleet.default().outcomes, [self.first]),
            environment=logits(ENVIRONMENTS, [self.environment]),
            scene=None if pixels_CHW is None else logits(ENVIRONMENTS, [self.environment]),
            actions=logits(ACTIONS, self.actions),
            flags=logits(FLAGS, self.flags),
            team=5.0 if self.team else -5.0,
            roles=np.stack([logits(range(len(QUANTITIES) + 1), [role]) for role in roles])
            if roles
            else np.zeros((0, len(QUANTITIES) + 1), np.float32),
            mentions=mentions,
            embedding=embed(task),
            states=None,
        )

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        return tuple(self.steps)

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        self.told.append(tuple(robots))
        return write_reasoning(Reasoning(tuple(robots), "what is asked", "where", self.decision))


def logits(names: Sequence[object], likely: Sequence[object]) -> np.ndarray:
    return np.array([8.0 if name in likely else -8.0 for name in names], np.float32)


def one(*names: str) -> dict[frozenset[str], float]:
    return {frozenset(names): 1.0}


def embed(task: str | None) -> np.ndarray:
    """Return the sum of a random vector for each word, so that requests of like words are near."""
    words = (task or "a photo").lower().split()
    seeds = [zlib.crc32(word.encode("utf-8", "replace")) for word in words]
    rows = [np.random.default_rng(seed).normal(size=32) for seed in seeds]
    return np.sum(rows, axis=0).astype(np.float32)
