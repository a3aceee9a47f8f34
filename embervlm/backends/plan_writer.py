"""The steps of a plan in NumPy, over layers that somebody else runs.

`models/plan_steps.py` says what is computed. Here the steps are written one after the other under
their grammar: a job has 1 to 6 steps, each has one robot in mind and one action or more. Which
waits for which is said of each pair; `splitting.without_circles` chooses.

    writer = PlanWriter(config, engine.linear, lambda name: engine.tensor(name, np.float32))
    steps = writer.write(words_TD, tokens_T)
    steps[1].after       # (K,): the logits that step 1 waits for each other step

Axes: T words, D width of the reader, W width here, X either or what is compared of two steps, K or
J steps, L labels of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.arithmetic import attend, gelu, layer_norm, softmax
from embervlm.backends.base import Array, StepScores
from embervlm.fleet import ACTIONS, Fleet
from embervlm.scenario import FLAGS

MAX_STEPS = 6
_ROBOTS = len(Fleet.default())
_ENDS = np.cumsum([1, _ROBOTS + 1, len(ACTIONS), len(FLAGS)])
_HEADS, _LABELS, _TABLE_WIDTH, _PAIR_WIDTH, _MARKED_LAYERS = 4, 32, 64, 96, 2
# Stored in half precision, unless the whole file is floats.
HALF_TABLES = ("plan.table.weight",)
_NORM_EPSILON, _READER_EPSILON = 1e-5, 1e-12


class PlanWriter:
    """Writes the steps of a request from the reader's states of its words."""

    def __init__(
        self,
        config: Mapping[str, Any],
        linear: Callable[[str, Array], Array],
        tensor: Callable[[str], Array],
    ) -> None:
        """Take the network's sizes and the ways to its layers and small tensors; see `Thoughts`.

        Raises:
            ValueError: a tensor is missing or has another size than the configuration says.
        """
        self._linear, self._tensor = linear, tensor
        self._width = width = int(config.get("plan_width", 0))
        self._layers = int(config.get("plan_layers", 0))
        # How many of the reader's last layers it has its own of.
        self.readers = int(config.get("plan_readers", 0)) if width else 0
        self._reader_heads = int(config.get("text_heads", 0))
        self._is_there = width > 0
        if self._is_there:
            self._step_KW = self._take("plan.step.weight", MAX_STEPS + 1, width)
            vocabulary = int(config.get("vocabulary_size", 0))
            self._table_VE = self._take("plan.table.weight", vocabulary, _TABLE_WIDTH)
            self._apart_AX = self._take("plan.apart.weight", 2 * MAX_STEPS + 1, _PAIR_WIDTH)

    def write(self, words_TD: Array, tokens_T: NDArray[np.int64]) -> tuple[StepScores, ...]:
        """Return what is said of each step, in the order in which they are told; none where the
        file has no part for it. The words are as they stand in front of the layers that the part
        has itself, or behind all of the reader's."""
        if not self._is_there:
            return ()
        for i in range(self.readers):
            words_TD = self._read(f"plan.readers.{i}", words_TD, self._reader_heads)
        words_TW = self._linear("plan.narrow", words_TD)
        rows_TE = self._table_VE[tokens_T].astype(np.float32)
        words_TW = words_TW + self._linear("plan.words", rows_TE)
        words_TW = self._read("plan.reader", self._norm("plan.norm", words_TW), _HEADS)
        key_TW = self._linear("plan.pointer_key", words_TW)
        keys_values = [
            np.split(self._linear(f"plan.layers.{i}.key_value", words_TW), 2, -1)
            for i in range(self._layers)
        ]
        told_KL = np.zeros((0, _LABELS), np.float32)
        said: list[tuple[float, Array, Array, Array, Array]] = []
        written_KW = words_TW[:0]
        for k in range(MAX_STEPS):
            x_KW = self._step_KW[: k + 1].copy()
            if k:
                x_KW[1:] += self._linear("plan.told", told_KL)
            for i, (layer_key_TW, layer_value_TW) in enumerate(keys_values):
                x_KW = self._layer(f"plan.layers.{i}", x_KW, layer_key_TW, layer_value_TW)
            scores_KT = self._linear("plan.pointer_query", x_KW) @ key_TW.T
            pointer_KT = softmax(scores_KT / np.float32(math.sqrt(self._width)))
            found_KW = np.concatenate([x_KW, pointer_KT @ words_TW], -1)
            s_KW = self._norm("plan.found_norm", x_KW + self._linear("plan.found", found_KW))
            more, robots, actions, flags, environment = np.split(
                self._linear("plan.answers", s_KW[k:])[0], _ENDS
            )
            if k and more[0] <= 0:
                break
            said.append((float(more[0]), robots, actions, flags, environment))
            written_KW = s_KW
            label_L = np.zeros(_LABELS, np.float32)
            label_L[robots[:_ROBOTS].argmax()] = 1
            label_L[_ROBOTS : _ROBOTS + len(ACTIONS)] = (actions > 0) | (actions == actions.max())
            told_KL = np.concatenate([told_KL, label_L[None]])
        after_KJ = self._after(written_KW, words_TW, pointer_KT[: len(written_KW)])
        return tuple(
            StepScores(*answers, after_J, pointer_T)
            for answers, after_J, pointer_T in zip(said, after_KJ, pointer_KT, strict=False)
        )

    def _after(self, s_KW: Array, words_TW: Array, pointer_KT: Array) -> Array:
        """Return the logit, (K, J), that step k waits for step j."""
        of_step_KT = pointer_KT / pointer_KT.max(-1, keepdims=True)
        marks_TW = of_step_KT.T @ self._linear("plan.mark", s_KW)
        words_TW = self._norm("plan.marked_norm", words_TW + marks_TW)
        for i in range(_MARKED_LAYERS):
            words_TW = self._read(f"plan.marked.{i}", words_TW, _HEADS)
        s_KW = s_KW + self._linear("plan.gathered", pointer_KT @ words_TW)
        key_TW, value_TW = np.split(self._linear("plan.order.key_value", words_TW), 2, -1)
        all_KW = self._layer("plan.order", s_KW, key_TW, value_TW, is_causal=False)
        later_KX, earlier_JX = np.split(self._linear("plan.pair", all_KW), 2, -1)
        k_K = np.arange(len(s_KW))
        apart_KJX = self._apart_AX[k_K[:, None] - k_K + MAX_STEPS]
        both_KJX = gelu(later_KX[:, None] + earlier_JX + apart_KJX)
        logits_N1 = self._linear("plan.waits", both_KJX.reshape(-1, _PAIR_WIDTH))
        logits_KJ: Array = logits_N1.reshape(len(s_KW), -1)
        return logits_KJ

    def _read(self, name: str, x_TX: Array, heads: int) -> Array:
        """Run a layer over the words, `models.text.EncoderLayer`."""
        q_TX, k_TX, v_TX = np.split(self._linear(f"{name}.qkv", x_TX), 3, -1)
        x_TX = x_TX + self._linear(f"{name}.out", attend(q_TX, k_TX, v_TX, heads))
        x_TX = self._norm(f"{name}.attention_norm", x_TX, _READER_EPSILON)
        up = gelu(self._linear(f"{name}.up", x_TX))
        x_TX = x_TX + self._linear(f"{name}.down", up)
        return self._norm(f"{name}.output_norm", x_TX, _READER_EPSILON)

    def _layer(
        self, name: str, x_KW: Array, key_TW: Array, value_TW: Array, *, is_causal: bool = True
    ) -> Array:
        q_KW, k_KW, v_KW = np.split(self._linear(f"{name}.qkv", x_KW), 3, -1)
        read_KW = attend(q_KW, k_KW, v_KW, _HEADS, is_causal=is_causal)
        x_KW = self._norm(f"{name}.self_norm", x_KW + self._linear(f"{name}.out", read_KW))
        read_KW = attend(self._linear(f"{name}.query", x_KW), key_TW, value_TW, _HEADS)
        x_KW = self._norm(f"{name}.read_norm", x_KW + self._linear(f"{name}.read", read_KW))
        up = gelu(self._linear(f"{name}.up", x_KW))
        return self._norm(f"{name}.output_norm", x_KW + self._linear(f"{name}.down", up))

    def _norm(self, name: str, x: Array, epsilon: float = _NORM_EPSILON) -> Array:
        weight_W, bias_W = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
        return layer_norm(x, weight_W, bias_W, epsilon)

    def _take(self, name: str, *shape: int) -> Array:
        found = np.asarray(self._tensor(name))
        if found.size != math.prod(shape):
            raise ValueError(
                f"The model's {name} has {found.size} values, expected {math.prod(shape)}; export "
                "it again."
            )
        return found.reshape(shape)
