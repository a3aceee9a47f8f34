"""The whole network in NumPy: runs wherever NumPy does, and is what every other backend is held to.

The forward pass is `models/modeling.py` written out: post-norm encoder, fusion, heads, pre-norm
decoder with cached keys and values. Matrices keep PyTorch's layout (out, in). What a ternary matrix
is multiplied with is rounded to eight bits, as in training (`models/bitnet.py`).

Axes: T tokens, N image tokens, D width, H heads, S states, P places of a photo, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embervlm.backends.arithmetic import attend, gelu, layer_norm, softmax
from embervlm.backends.base import MAX_TASK_TOKENS, Array, Proposal, StepScores
from embervlm.backends.convolution import mobilenet_v2_places, pool_grid
from embervlm.backends.decoding import Grammar, subset_features
from embervlm.backends.plan_writer import PlanWriter
from embervlm.backends.thoughts import STEP_OF_HEAD, Thoughts
from embervlm.checkpoint import Checkpoint, load_checkpoint
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities, read_task

# Activations in front of a ternary matrix share a scale by so many.
_ACTIVATION_BLOCK = 32
_LEAST_LENGTH = 1e-12


@dataclass(frozen=True)
class _Layers:
    """The weights, and what is done with them by name; see `Checkpoint` for `ternary`."""

    weights: Mapping[str, Array]
    ternary: frozenset[str]

    def linear(self, name: str, x: Array) -> Array:
        weight = self.weights[f"{name}.weight"]
        if f"{name}.weight" in self.ternary:
            x = _eight_bits(x)
        result: Array = x @ weight.T
        bias = self.weights.get(f"{name}.bias")
        return result if bias is None else result + bias

    def norm(self, name: str, x: Array, eps: float) -> Array:
        weight_D, bias_D = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(x, weight_D, bias_D, eps)


class ReferenceBackend:
    """Runs a checkpoint with NumPy alone; implements `backends.base.Backend`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._w = checkpoint.weights
        self._layers = _Layers(checkpoint.weights, checkpoint.ternary)
        self._config = checkpoint.config
        self._thoughts = Thoughts(checkpoint.config, self._layers.linear, self._tensor)
        self._plans = PlanWriter(checkpoint.config, self._layers.linear, self._tensor)
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
        image_ND, in_front_FD, scene = self._image_tokens(pixels_CHW)
        states_SD, middle_TD = self._read(np.array(reading.tokens), image_ND, in_front_FD)
        N = len(image_ND)
        pooled_D = self._thoughts.recall(states_SD[N:].mean(0))
        thoughts_KD = self._thoughts.think(pooled_D, states_SD[N:])

        def head(name: str) -> Array:
            return self._layers.linear(f"heads.{name}", thoughts_KD[STEP_OF_HEAD[name]])

        marks = [N + mark for mark in reading.marks]
        # Where a photo is given, the words' own habits must not speak against it.
        added = self._ngram_scores(task if pixels_CHW is None else None)
        of_set, of_place = np.split(added, [len(self._subset_features)])
        return Proposal(
            subsets=head("subset_features") @ self._subset_features.T + of_set,
            primary=head("primary"),
            environment=head("environment") + of_place,
            scene=scene,
            actions=head("actions"),
            flags=head("flags"),
            team=float(head("team")[0]),
            roles=self._layers.linear("heads.roles", states_SD[marks]),
            mentions=reading.mentions,
            unread=reading.unread,
            embedding=pooled_D,
            states=(states_SD, np.array([-1] * N + list(reading.tokens))),
            middle=middle_TD if self._plans.readers else None,
            value=float(head("value")[0]) if self._thoughts.has_steps else None,
        )

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """Return what is said of each step of a job; see `Backend.split`."""
        states_SD, tokens_S = proposal.states
        is_word = tokens_S >= 0
        words_TD = states_SD[is_word] if proposal.middle is None else proposal.middle
        return self._plans.write(words_TD, tokens_S[is_word])

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return the marked reasoning, decoded greedily under the grammar; see `Backend.write`."""
        decoder = _DecoderRun(self._layers, self._config, *proposal.states)
        return self._grammar.write(robots, decoder.step)

    def _tensor(self, name: str) -> Array:
        if name not in self._w:
            raise ValueError(f"The model lacks the tensor {name}; export it again.")
        return self._w[name]

    def _ngram_scores(self, task: str | None) -> Array:
        table, importance = self._w["ngrams.table.weight"], self._w["ngrams.importance"]
        bias: Array = self._w["ngrams.bias"]
        rows = hash_ngrams(mark_quantities(task or ""), len(table))
        if not rows:
            return np.zeros_like(bias)
        weights = importance[rows]
        scores: Array = weights @ table[rows] / np.linalg.norm(weights) + bias
        return scores

    def _image_tokens(self, pixels_CHW: Array | None) -> tuple[Array, Array, Array | None]:
        """Return the image tokens, those that stand in front of the words, and the place logits."""
        none_2D = self._w["image.no_photo"]
        if pixels_CHW is None:
            places = int(self._config["image_tokens"]) - 1
            image_ND = none_2D[[0] + [1] * places]
            return image_ND, self._in_front(image_ND, none_2D), None
        grid = int(self._config.get("image_grid", 0))
        places_HWC = mobilenet_v2_places(self._w, pixels_CHW)
        mean_C = self._recalled(places_HWC.mean((0, 1)))
        features_PC = pool_grid(places_HWC, grid) if grid else mean_C[None]
        scene = self._layers.linear("image.scene", mean_C)
        image_ND = self._tokens_of(scene, features_PC)
        whole_2D = self._tokens_of(scene, features_PC.mean(0, keepdims=True))
        return image_ND, self._in_front(image_ND, whole_2D), scene

    def _recalled(self, features_C: Array) -> Array:
        """Return features as the table of looks tells them; see `models/photo_recall.py`."""
        if not self._config.get("recall_rows"):
            return features_C
        look_W, rows_RW = (
            self._layers.linear("recall.key", features_C),
            self._w["recall.rows.weight"],
        )
        strength = float(np.linalg.norm(look_W))
        # As PyTorch's `normalize`, which leaves a look of nothing as it is.
        found_W = softmax(rows_RW @ (look_W / max(strength, _LEAST_LENGTH))) @ rows_RW
        found_W *= strength / max(float(np.linalg.norm(found_W)), _LEAST_LENGTH)
        told_C: Array = self._layers.linear("recall.value", found_W)
        return told_C

    def _tokens_of(self, scene: Array, features_PC: Array) -> Array:
        scene_D = softmax(scene) @ self._w["image.scene_table.weight"]
        view_PD = self._layers.linear("image.view", features_PC)
        return self._layers.norm("image.norm", np.concatenate([scene_D[None], view_PD]), 1e-5)

    def _in_front(self, image_ND: Array, whole_2D: Array) -> Array:
        fusion = self._config.get("fusion", "prefix")
        return {"prefix": image_ND, "fiber": image_ND[:0], "both": whole_2D}[fusion]

    def _read(self, tokens_T: Array, image_ND: Array, in_front_FD: Array) -> tuple[Array, Array]:
        """Return the states, and the words in front of the layers that the plan's part has, too."""
        layers = self._layers
        x: Array = self._w["text.embed.weight"][tokens_T]
        if self._config.get("embed_width"):
            x = layers.linear("text.widen", x)
        x = x + self._w["text.positions.weight"][: len(tokens_T)]
        x = layers.norm("text.embed_norm", x, 1e-12)
        x = np.concatenate([in_front_FD, x])
        heads, count = int(self._config["text_heads"]), int(self._config["text_layers"])
        middle_TD = x
        for i in range(count):
            if i == count - self._plans.readers:
                middle_TD = x[len(in_front_FD) :]
            name = f"text.layers.{i}."
            q, k, v = np.split(layers.linear(name + "qkv", x), 3, axis=-1)
            read = layers.linear(name + "out", attend(q, k, v, heads))
            x = layers.norm(name + "attention_norm", x + read, 1e-12)
            ffn = layers.linear(name + "down", gelu(layers.linear(name + "up", x)))
            x = layers.norm(name + "output_norm", x + ffn, 1e-12)
        if self._config.get("fusion", "prefix") == "prefix":
            return x, middle_TD
        return np.concatenate(self._fuse(x[len(in_front_FD) :], image_ND)), middle_TD

    def _fuse(self, text_TD: Array, image_ND: Array) -> tuple[Array, Array]:
        """Return the states of photo and words that have read each other, in this order."""
        for i in range(int(self._config["fusion_layers"])):
            name = f"fusion.layers.{i}."
            text = self._layers.norm(name + "text_norm", text_TD, 1e-5)
            image = self._layers.norm(name + "image_norm", image_ND, 1e-5)
            text_TD = text_TD + self._found(name + "text_reads", text, image)
            image_ND = image_ND + self._found(name + "image_reads", image, text)
        return image_ND, text_TD

    def _found(self, name: str, x: Array, other: Array) -> Array:
        q = self._layers.linear(f"{name}.query", x)
        k, v = np.split(self._layers.linear(f"{name}.keys_values", other), 2, axis=-1)
        read = attend(q, k, v, int(self._config["fusion_heads"]))
        found: Array = np.tanh(self._w[f"{name}.gate"]) * self._layers.linear(f"{name}.out", read)
        return found


class _DecoderRun:
    """One decoding with its cache of keys and values; `models.language` says what is computed.

    `source_S` holds the token that each state was read from, -1 for image tokens.
    """

    def __init__(
        self,
        layers: _Layers,
        config: dict[str, int],
        states_SD: Array,
        source_S: NDArray[np.int64],
    ) -> None:
        self.layers, self.heads, self.depth = (
            layers,
            config["decoder_heads"],
            config["decoder_layers"],
        )
        self.words_SD, self.words_S = states_SD[source_S >= 0], source_S[source_S >= 0]
        self.cross = [
            np.split(layers.linear(f"decoder.layers.{i}.cross_kv", states_SD), 2, axis=-1)
            for i in range(self.depth)
        ]
        self.cache: list[list[tuple[Array, Array]]] = [[] for _ in range(self.depth)]
        self.position = 0

    def step(self, token: int) -> Array:
        """Feed one token; return the probabilities (V,) of the next."""
        layers, w = self.layers, self.layers.weights
        table_VD = w["text.embed.weight"]
        x = table_VD[token] @ w["decoder.narrow.weight"].T
        x = (x + w["decoder.positions.weight"][self.position])[None]
        for i in range(self.depth):
            name = f"decoder.layers.{i}."
            qkv = layers.linear(name + "qkv", layers.norm(name + "self_norm", x, 1e-5))
            q, k, v = np.split(qkv, 3, axis=-1)
            self.cache[i].append((k, v))
            keys = np.concatenate([key for key, _ in self.cache[i]])
            values = np.concatenate([value for _, value in self.cache[i]])
            x = x + layers.linear(name + "out", attend(q, keys, values, self.heads))
            q = layers.linear(name + "cross_q", layers.norm(name + "cross_norm", x, 1e-5))
            keys, values = self.cross[i]
            x = x + layers.linear(name + "cross_out", attend(q, keys, values, self.heads))
            ffn = gelu(layers.linear(name + "up", layers.norm(name + "ffn_norm", x, 1e-5)))
            x = x + layers.linear(name + "down", ffn)
        self.position += 1
        x_D = layers.norm("decoder.norm", x[0], 1e-5)
        written_V = softmax(table_VD @ (w["decoder.widen.weight"] @ x_D))
        query_D = layers.linear("decoder.copy_query", x_D)
        copied_S = softmax(self.words_SD @ query_D / np.float32(math.sqrt(len(query_D))))
        gate = 1 / (1 + np.exp(-layers.linear("decoder.gate", x_D)[0]))
        chance_V: Array = gate * written_V
        np.add.at(chance_V, self.words_S, (1 - gate) * copied_S)
        return chance_V


def _eight_bits(x: Array) -> Array:
    """Return activations as -127..127 times one scale for each block of the last axis."""
    blocks = x.reshape(*x.shape[:-1], -1, _ACTIVATION_BLOCK)
    scale = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    whole = np.rint(blocks / np.maximum(scale, np.float32(1e-12)))
    rounded: Array = (whole * scale).reshape(x.shape)
    return rounded
