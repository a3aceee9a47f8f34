"""The whole network in NumPy: runs wherever NumPy does, and is what every other backend is held to.

The forward pass is `models/modeling.py` written out: post-norm encoder, heads, pre-norm decoder
with cached keys and values. Matrices keep PyTorch's layout (out, in).

Axes: T tokens, N image tokens, D width, H heads, S states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.base import MAX_TASK_TOKENS, Array, Proposal
from embervlm.backends.convolution import mobilenet_v2
from embervlm.backends.decoding import Grammar, subset_features
from embervlm.checkpoint import Checkpoint, load_checkpoint
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities, read_task

_ERF_COEFFICIENTS = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


class ReferenceBackend:
    """Runs a checkpoint with NumPy alone; implements `backends.base.Backend`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._w = checkpoint.weights
        self._config = checkpoint.config
        self.tokenizer = checkpoint.tokenizer
        self._calibration = checkpoint.calibration
        self._subset_features = subset_features()
        self._grammar = Grammar(self.tokenizer, int(self._config["decoder_positions"]))

    @classmethod
    def load(cls, path: str | Path | None = None) -> ReferenceBackend:
        """Load a model file; None is the one that ships."""
        return cls(load_checkpoint(path))

    @property
    def image_size(self) -> int:
        """The side of the square photo, in pixels."""
        return int(self._config["image_size"])

    @property
    def calibration(self) -> dict[str, float]:
        """The numbers fitted on validation data."""
        return self._calibration

    def propose(self, task: str | None, pixels_CHW: Array | None) -> Proposal:
        """Read words, a photo, or both; see `Backend.propose`."""
        reading = read_task(task, self.tokenizer, MAX_TASK_TOKENS)
        image_ND, scene = self._image_tokens(pixels_CHW)
        states_SD = self._read(np.array(reading.tokens), image_ND)
        N = len(image_ND)
        pooled_D = states_SD[N:].mean(0)
        marks = [N + mark for mark in reading.marks]
        # Where a photo is given, the words' own habits must not speak against it.
        added = self._ngram_scores(task if pixels_CHW is None else None)
        of_set, of_place = np.split(added, [len(self._subset_features)])
        return Proposal(
            subsets=self._head("subset_features", pooled_D) @ self._subset_features.T + of_set,
            primary=self._head("primary", pooled_D),
            environment=self._head("environment", pooled_D) + of_place,
            scene=scene,
            actions=self._head("actions", pooled_D),
            flags=self._head("flags", pooled_D),
            team=float(self._head("team", pooled_D)[0]),
            roles=self._head("roles", states_SD[marks]),
            mentions=reading.mentions,
            embedding=pooled_D,
            states=(states_SD, np.array([-1] * N + list(reading.tokens))),
        )

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return the marked reasoning, decoded greedily under the grammar; see `Backend.write`."""
        decoder = _DecoderRun(self._w, self._config, *proposal.states)
        return self._grammar.write(robots, decoder.step)

    def _ngram_scores(self, task: str | None) -> Array:
        table, importance = self._w["ngrams.table.weight"], self._w["ngrams.importance"]
        bias: Array = self._w["ngrams.bias"]
        rows = hash_ngrams(mark_quantities(task or ""), len(table))
        if not rows:
            return np.zeros_like(bias)
        weights = importance[rows]
        scores: Array = weights @ table[rows] / np.linalg.norm(weights) + bias
        return scores

    def _image_tokens(self, pixels_CHW: Array | None) -> tuple[Array, Array | None]:
        none_ND = self._w["image.no_photo"]
        if pixels_CHW is None:
            return none_ND, None
        features = mobilenet_v2(self._w, pixels_CHW)
        scene = _linear(features, self._w, "image.scene")
        scene_D = softmax(scene) @ self._w["image.scene_table.weight"]
        view_D = _linear(features, self._w, "image.view")
        image_ND = np.stack([_norm(x, self._w, "image.norm", 1e-5) for x in (scene_D, view_D)])
        return image_ND, scene

    def _read(self, tokens_T: Array, image_ND: Array) -> Array:
        w = self._w
        x: Array = w["text.embed.weight"][tokens_T] + w["text.positions.weight"][: len(tokens_T)]
        x = np.concatenate([image_ND, _norm(x, w, "text.embed_norm", 1e-12)])
        heads = int(self._config["text_heads"])
        for i in range(int(self._config["text_layers"])):
            name = f"text.layers.{i}."
            q, k, v = np.split(_linear(x, w, name + "qkv"), 3, axis=-1)
            read = _linear(_attend(q, k, v, heads), w, name + "out")
            x = _norm(x + read, w, name + "attention_norm", 1e-12)
            ffn = _linear(_gelu(_linear(x, w, name + "up")), w, name + "down")
            x = _norm(x + ffn, w, name + "output_norm", 1e-12)
        return x

    def _head(self, name: str, x: Array) -> Array:
        return _linear(x, self._w, f"heads.{name}")


class _DecoderRun:
    """One decoding with its cache of keys and values; `models.language` says what is computed.

    `source_S` holds the token that each state was read from, -1 for image tokens.
    """

    def __init__(
        self,
        w: dict[str, Array],
        config: dict[str, int],
        states_SD: Array,
        source_S: NDArray[np.int64],
    ) -> None:
        self.w, self.heads, self.layers = w, config["decoder_heads"], config["decoder_layers"]
        self.words_SD, self.words_S = states_SD[source_S >= 0], source_S[source_S >= 0]
        self.cross = [
            np.split(_linear(states_SD, w, f"decoder.layers.{i}.cross_kv"), 2, axis=-1)
            for i in range(self.layers)
        ]
        self.cache: list[list[tuple[Array, Array]]] = [[] for _ in range(self.layers)]
        self.position = 0

    def step(self, token: int) -> Array:
        """Feed one token; return the probabilities (V,) of the next."""
        w = self.w
        table_VD = w["text.embed.weight"]
        x = table_VD[token] @ w["decoder.narrow.weight"].T
        x = (x + w["decoder.positions.weight"][self.position])[None]
        for i in range(self.layers):
            name = f"decoder.layers.{i}."
            q, k, v = np.split(
                _linear(_norm(x, w, name + "self_norm", 1e-5), w, name + "qkv"), 3, axis=-1
            )
            self.cache[i].append((k, v))
            keys = np.concatenate([key for key, _ in self.cache[i]])
            values = np.concatenate([value for _, value in self.cache[i]])
            x = x + _linear(_attend(q, keys, values, self.heads), w, name + "out")
            q = _linear(_norm(x, w, name + "cross_norm", 1e-5), w, name + "cross_q")
            keys, values = self.cross[i]
            x = x + _linear(_attend(q, keys, values, self.heads), w, name + "cross_out")
            ffn = _gelu(_linear(_norm(x, w, name + "ffn_norm", 1e-5), w, name + "up"))
            x = x + _linear(ffn, w, name + "down")
        self.position += 1
        x_D = _norm(x[0], w, "decoder.norm", 1e-5)
        written_V = softmax(table_VD @ (w["decoder.widen.weight"] @ x_D))
        query_D = _linear(x_D, w, "decoder.copy_query")
        copied_S = softmax(self.words_SD @ query_D / np.float32(math.sqrt(len(query_D))))
        gate = 1 / (1 + np.exp(-_linear(x_D, w, "decoder.gate")[0]))
        chance_V: Array = gate * written_V
        np.add.at(chance_V, self.words_S, (1 - gate) * copied_S)
        return chance_V


def softmax(logits: Array) -> Array:
    """Return probabilities along the last axis."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: Array = shares / shares.sum(-1, keepdims=True)
    return probabilities


def _linear(x: Array, w: dict[str, Array], name: str) -> Array:
    result: Array = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    return result


def _norm(x: Array, w: dict[str, Array], name: str, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + eps)
    result: Array = centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]
    return result


def _attend(q_TD: Array, k_SD: Array, v_SD: Array, heads: int) -> Array:
    T, D = q_TD.shape
    q, k, v = (x.reshape(len(x), heads, D // heads).transpose(1, 0, 2) for x in (q_TD, k_SD, v_SD))
    shares = softmax(q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(D // heads)))
    read: Array = (shares @ v).transpose(1, 0, 2).reshape(T, D)
    return read


def _gelu(x: Array) -> Array:
    """Exact GELU; erf by Abramowitz and Stegun 7.1.26, error below 1.5e-7."""
    z = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = np.zeros_like(t)
    for coefficient in reversed(_ERF_COEFFICIENTS):
        series = (series + np.float32(coefficient)) * t
    erf = np.sign(x) * (1.0 - series * np.exp(-z * z))
    result: Array = (0.5 * x * (1.0 + erf)).astype(np.float32)
    return result
