"""Memory and steps of reasoning in NumPy, over layers that somebody else runs.

They act on one vector, so that all but their matrices is a few thousand numbers: the backends that
have no graph of their own for them share this (`models/episodic_memory.py` and
`models/reasoning_steps.py` say what is computed).

    thoughts = Thoughts(config, engine.linear, lambda name: engine.tensor(name, np.float32))
    pooled_D = thoughts.recall(states_TD.mean(0))
    thoughts_KD = thoughts.think(pooled_D, states_TD)
    engine.linear("heads.primary", thoughts_KD[STEP_OF_HEAD["primary"]])

Axes: T words, D width of the reader, K steps, M width of a slot, R width of a thought, U slots in
use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from embervlm.backends.base import Array

STEPS = ("context", "environment", "evaluation", "selection", "confidence")
# Which step's question each head answers.
STEP_OF_HEAD = {
    "actions": 0,
    "flags": 0,
    "team": 0,
    "environment": 1,
    "subset_features": 2,
    "primary": 3,
    "value": 4,
}
_EPSILON = 1e-5


class Thoughts:
    """What a network adds to a request's vector before its heads read it; nothing in `ember-nano`.

    Attributes:
        has_steps: whether there are steps of reasoning, and so a head `value`.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        linear: Callable[[str, Array], Array],
        tensor: Callable[[str], Array],
    ) -> None:
        """Take the network's sizes and the ways to its layers and small tensors.

        Args:
            config: `embervlm.config` of the file.
            linear: (name, rows (B, inputs)) -> (B, outputs), the bias added.
            tensor: name -> its float32 numbers, of any shape.

        Raises:
            ValueError: a tensor is missing or has another size than the configuration says.
        """
        self._linear = linear
        slots, width = int(config.get("memory_slots", 0)), int(config.get("memory_width", 0))
        self._has_memory, thought = slots > 0, int(config.get("reasoning_width", 0))
        self.has_steps = thought > 0

        def take(name: str, *shape: int) -> Array:
            found = np.asarray(tensor(name), np.float32)
            if found.size != math.prod(shape):
                raise ValueError(
                    f"The model's {name} has {found.size} values, expected {math.prod(shape)}; "
                    "export it again."
                )
            return found.reshape(shape)

        if self._has_memory:
            in_use = take("memory.written_at", slots) >= 0
            self._slots_UM = take("memory.slots", slots, width)[in_use]
            self._norm_2M = np.stack([take(f"memory.norm.{x}", width) for x in ("weight", "bias")])
            self._gate: Array = np.tanh(take("memory.gate", 1))
        if self.has_steps:
            self._step_KR = take("reasoning.step.weight", len(STEPS), thought)

    def recall(self, pooled_D: Array) -> Array:
        """Return a request's vector with what the memory holds that is like it."""
        if not self._has_memory:
            return pooled_D
        key_M = self._apply("memory.query", pooled_D)
        centred_M = key_M - key_M.mean()
        spread = np.sqrt((centred_M * centred_M).mean() + _EPSILON)
        key_M = centred_M / spread * self._norm_2M[0] + self._norm_2M[1]
        read_M = np.zeros_like(key_M)
        if len(self._slots_UM):
            scores_U = self._slots_UM @ key_M / np.float32(math.sqrt(len(key_M)))
            read_M = _shares(scores_U) @ self._slots_UM
        recalled_D: Array = pooled_D + self._gate * self._apply("memory.up", read_M)
        return recalled_D

    def think(self, pooled_D: Array, words_TD: Array) -> Array:
        """Return the vector behind each step, (K, D); without steps `pooled_D` stands for all."""
        if not self.has_steps:
            return np.broadcast_to(pooled_D, (len(STEPS), len(pooled_D)))
        h_R: Array = np.zeros_like(self._step_KR[0])
        thoughts: list[Array] = []
        for step_R in self._step_KR:
            query_D = self._apply("reasoning.query", h_R + step_R)
            shares_T = _shares(words_TD @ query_D / np.float32(math.sqrt(len(query_D))))
            x_R = self._apply("reasoning.read", shares_T @ words_TD) + step_R
            forget_R = _sigmoid(self._apply("reasoning.forget", np.concatenate([h_R, x_R])))
            seen_2R = np.concatenate([forget_R * h_R, x_R])
            new_R: Array = np.tanh(self._apply("reasoning.candidate", seen_2R))
            h_R = h_R + forget_R * (new_R - h_R)
            thoughts.append(h_R)
        thoughts_KD: Array = pooled_D + self._linear("reasoning.out", np.stack(thoughts))
        return thoughts_KD

    def _apply(self, name: str, x: Array) -> Array:
        row: Array = self._linear(name, x[None])[0]
        return row


def _shares(scores: Array) -> Array:
    chances: Array = np.exp(scores - scores.max())
    shares: Array = chances / chances.sum()
    return shares


def _sigmoid(x: Array) -> Array:
    # Without an overflow on either side.
    sigmoid: Array = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))
    return sigmoid
