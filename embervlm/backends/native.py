"""The network in our C engine, from one GGUF file: the default wherever it could be compiled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from embervlm.backends.base import MAX_TASK_TOKENS, Array, Proposal, StepScores, labels
from embervlm.backends.decoding import Grammar, subset_features
from embervlm.backends.forking import free_in_a_fork
from embervlm.backends.plan_writer import HALF_TABLES, PlanWriter
from embervlm.backends.thoughts import STEP_OF_HEAD, Thoughts
from embervlm.checkpoint import SHIPPED, calibration_of, object_of
from embervlm.engine import Engine
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import Reading, mark_quantities, read_task, reasoning_prefix
from embervlm.tokenizer import Tokenizer


class NativeBackend:
    """Runs a GGUF file with the engine; implements `backends.base.Backend`.

    Several threads may use it: one is answered after the other, since the engine has one room to
    work in.
    """

    def __init__(self, engine: Engine) -> None:
        """Take an open file.

        Raises:
            ValueError: its outputs stand for other names than this package's, or are not as many.
        """
        found = object_of(engine.text("embervlm.labels"), "embervlm.labels")
        for name, expected in labels().items():
            if found.get(name) != expected:
                raise ValueError(
                    f"The model file was trained for other {name} than this package has; "
                    "use the version of embervlm that exported it, or train again."
                )
        self.engine, self._lock = engine, Lock()
        free_in_a_fork(self)
        self._config = object_of(engine.text("embervlm.config"), "embervlm.config")
        for name in ("decoder_positions", "image_size", "image_tokens", "ngram_rows"):
            value = self._config.get(name)
            if type(value) is not int or not 0 < value < 1 << 31:
                raise ValueError(
                    f"The model's configuration has no whole number for {name}; export it again."
                )
        self._calibration = calibration_of(engine.text("embervlm.calibration"))
        self.tokenizer = Tokenizer(
            engine.tensor("tokenizer.merges", np.uint16).reshape(-1, 2),
            json.loads(engine.text("embervlm.specials")),
        )
        self.ngram_rows = int(self._config["ngram_rows"])
        self._subset_features = subset_features()
        self._thoughts = Thoughts(
            self._config, engine.linear, lambda name: engine.tensor(name, np.float32)
        )
        self._plans = PlanWriter(self._config, engine.linear, self._small_tensor)
        if len(self.tokenizer) != engine.size("text.embed")[0]:
            raise ValueError(
                f"The model file's tokenizer has {len(self.tokenizer)} tokens and its embeddings "
                f"{engine.size('text.embed')[0]}; export it again."
            )
        self._check_sizes()
        self._grammar = Grammar(self.tokenizer, int(self._config["decoder_positions"]))

    @classmethod
    def load(cls, path: str | Path | None = None, *, threads: int = 1) -> NativeBackend:
        """Open a model file; None is the one that ships.

        Raises:
            ValueError: the file is no model, or the engine is not compiled here.
        """
        return cls(Engine(path or SHIPPED, threads=threads))

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
        with self._lock:
            return self._propose(task, reading, pixels_CHW)

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """Return what is said of each step of a job; see `Backend.split`."""
        states_SD, tokens_S = proposal.states
        is_word = tokens_S >= 0
        words_TD = states_SD[is_word] if proposal.middle is None else proposal.middle
        with self._lock:
            return self._plans.write(words_TD, tokens_S[is_word])

    def _check_sizes(self) -> None:
        """Refuse a file whose heads or n-grams have other sizes than this package's."""
        known = {name: len(names) for name, names in labels().items()}
        sizes = {
            "heads.subset_features": self._subset_features.shape[1],
            "heads.primary": known["robots"] + 1,
            "heads.environment": known["environments"],
            "heads.actions": known["actions"],
            "heads.flags": known["flags"],
            "heads.team": 1,
            "heads.roles": known["roles"],
            "image.scene": known["environments"],
        }
        if self._thoughts.has_steps:
            sizes["heads.value"] = 1
        for name, expected in sizes.items():
            outputs, _ = self.engine.size(name)
            if outputs != expected:
                raise ValueError(
                    f"The model's {name} has {outputs} outputs, expected {expected}; export it "
                    "again."
                )
        columns = len(self._subset_features) + known["environments"]
        self.engine.ngrams([self.ngram_rows - 1], columns)

    def _propose(self, task: str | None, reading: Reading, pixels_CHW: Array | None) -> Proposal:
        image = self.engine.see(pixels_CHW) if pixels_CHW is not None else None
        tokens = np.array(reading.tokens)
        states_SD, middle_TD = self.engine.read(tokens, image, self._plans.readers)
        N = int(self._config["image_tokens"])
        pooled_D = self._thoughts.recall(states_SD[N:].mean(0))
        thoughts_KD = self._thoughts.think(pooled_D, states_SD[N:])
        marks = [N + mark for mark in reading.marks]

        def head(name: str) -> Array:
            thought_D = thoughts_KD[STEP_OF_HEAD[name]]
            scores: Array = self.engine.linear(f"heads.{name}", thought_D)[0]
            return scores

        subsets = self._subset_features @ head("subset_features")
        environment = head("environment")
        if image is None:
            rows = hash_ngrams(mark_quantities(task or ""), self.ngram_rows)
            added = self.engine.ngrams(rows, len(subsets) + len(environment))
            subsets, environment = (
                subsets + added[: len(subsets)],
                environment + added[len(subsets) :],
            )
        return Proposal(
            subsets=subsets,
            primary=head("primary"),
            environment=environment,
            scene=image[1] if image is not None else None,
            actions=head("actions"),
            flags=head("flags"),
            team=float(head("team")[0]),
            roles=self.engine.linear("heads.roles", states_SD[marks]),
            mentions=reading.mentions,
            unread=reading.unread,
            embedding=pooled_D,
            states=(states_SD, np.array([-1] * N + list(reading.tokens))),
            middle=middle_TD,
            value=float(head("value")[0]) if self._thoughts.has_steps else None,
        )

    def _small_tensor(self, name: str) -> Array:
        """Return the numbers of a tensor of floats; tables of single rows have 16 bits in it, or
        32 in a file of floats."""
        halves = name in HALF_TABLES and self.engine.text("embervlm.type") != "f32"
        return self.engine.tensor(name, np.float16 if halves else np.float32)

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return the marked reasoning, written in the engine under the grammar; see
        `Backend.write`."""
        prefix = reasoning_prefix(robots, self.tokenizer)
        sections = [(s.ending, s.most, s.never, s.not_first) for s in self._grammar.sections]
        positions = self._grammar.positions
        masks = self._grammar.masks
        with self._lock:  # what is begun is written before another begins
            self.engine.begin(*proposal.states)
            tokens = self.engine.write(prefix, sections, masks, positions)
        return self.tokenizer.decode(tokens)
