"""The network in ONNX Runtime: quick without a C compiler and without PyTorch.

A model is turned into graphs in memory (`onnx_graphs`), or a folder that `embervlm export onnx`
wrote is read, which needs ONNX Runtime but not the `onnx` package:

    model.json      configuration, calibration, labels, inputs and outputs, checksums of the rest
    tokenizer.json  vision.onnx  prefill.onnx  step.onnx
    plan.npz        what splits a job into steps, if the model can: small, and run in NumPy
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from embervlm.backends.base import MAX_TASK_TOKENS, Array, Proposal, StepScores
from embervlm.backends.decoding import Grammar
from embervlm.backends.plan_writer import PlanWriter
from embervlm.checkpoint import load_checkpoint
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities, read_task
from embervlm.tokenizer import Tokenizer

FORMAT = 1
DESCRIPTION, TOKENIZER, PLAN = "model.json", "tokenizer.json", "plan.npz"
GRAPHS = ("vision", "prefill", "step")
_CANNOT_RUN = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented,
)


@dataclass(frozen=True)
class OnnxModel:
    """What the backend runs: the graphs' bytes by name (GRAPHS), and what goes with them; `plan`
    has the weights of what splits a job."""

    graphs: dict[str, bytes]
    config: dict[str, Any]
    calibration: dict[str, float]
    tokenizer: Tokenizer
    plan: dict[str, Array]


class OnnxBackend:
    """Runs the graphs with ONNX Runtime; implements `backends.base.Backend`."""

    def __init__(self, model: OnnxModel, *, threads: int = 1) -> None:
        self.tokenizer = model.tokenizer
        self._config, self._calibration = model.config, model.calibration
        self._plans = PlanWriter(
            self._config if model.plan else {}, partial(_linear, model.plan), model.plan.__getitem__
        )
        self._vision, self._prefill, self._step = (
            _session(name, model.graphs[name], threads) for name in GRAPHS
        )

    @classmethod
    def load(cls, path: str | Path | None = None, *, threads: int = 1) -> OnnxBackend:
        """Open an exported folder or a model; None is the model that ships.

        Raises:
            ValueError: something is missing or damaged.
        """
        if path is not None and is_exported(Path(path)):
            return cls(read_folder(Path(path)), threads=threads)
        from embervlm.backends.onnx_graphs import build_graphs

        checkpoint = load_checkpoint(path)
        graphs = {
            name: graph.SerializeToString() for name, graph in build_graphs(checkpoint).items()
        }
        model = OnnxModel(
            graphs,
            checkpoint.config,
            checkpoint.calibration,
            checkpoint.tokenizer,
            plan_weights(checkpoint.weights),
        )
        return cls(model, threads=threads)

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
        N = int(self._config["image_tokens"])
        image_PND = np.zeros((0, N, int(self._config["text_width"])), dtype=np.float32)
        scene, ngrams = None, hash_ngrams(mark_quantities(task or ""), self._config["ngram_rows"])
        if pixels_CHW is not None:
            seen = _run(self._vision, {"pixels": pixels_CHW[None]})
            # Beside a photo, the words' own habits must not speak against it.
            image_PND, scene, ngrams = seen["image"], seen["scene"][0], []
        said = _run(
            self._prefill,
            {
                "tokens": np.array([reading.tokens], dtype=np.int64),
                "image": image_PND,
                "ngrams": np.array(ngrams, dtype=np.int64),
            },
        )
        cross = {name: value for name, value in said.items() if name.startswith("cross_")}
        return Proposal(
            subsets=said["subsets"][0],
            primary=said["primary"][0],
            environment=said["environment"][0],
            scene=scene,
            actions=said["actions"][0],
            flags=said["flags"][0],
            team=float(said["team"][0, 0]),
            roles=said["roles"][0, [N + mark for mark in reading.marks]],
            mentions=reading.mentions,
            unread=reading.unread,
            embedding=said["embedding"][0],
            states=(said["states"][0], np.array([-1] * N + list(reading.tokens)), cross),
            middle=said["middle"][0, N:] if "middle" in said else None,
        )

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """Return what is said of each step of a job; see `Backend.split`."""
        states_SD, tokens_S, _ = proposal.states
        is_word = tokens_S >= 0
        words_TD = states_SD[is_word] if proposal.middle is None else proposal.middle
        return self._plans.write(words_TD, tokens_S[is_word])

    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return the marked reasoning, decoded greedily under the grammar; see `Backend.write`."""
        return self._grammar.write(robots, _DecoderRun(self._step, *proposal.states).step)

    @cached_property
    def _grammar(self) -> Grammar:
        return Grammar(self.tokenizer, int(self._config["decoder_positions"]))


def is_exported(path: Path) -> bool:
    """Say whether this is a folder of graphs and not a model."""
    return any((path / name).exists() for name in (DESCRIPTION, f"{GRAPHS[0]}.onnx"))


def read_folder(folder: Path) -> OnnxModel:
    """Read and check what `export.onnx` wrote.

    Raises:
        ValueError: a file is missing, differs from its checksum, or has another format version.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        version, sums = description["format"], description["sha256"]
        config, calibration = description["config"], description["calibration"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder}: {DESCRIPTION} is missing or damaged; run 'embervlm export onnx' again."
        ) from error
    if version != FORMAT:
        raise ValueError(f"{folder} has format {version}, expected {FORMAT}; export it again.")
    contents = {}
    plan = [PLAN] if PLAN in sums else []
    for name in (TOKENIZER, *(f"{graph}.onnx" for graph in GRAPHS), *plan):
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{folder}: {name} is missing; export it again.") from error
        if hashlib.sha256(contents[name]).hexdigest() != sums.get(name):
            raise ValueError(f"{folder}: {name} is damaged (its SHA-256 differs); export it again.")
    graphs = {graph: contents[f"{graph}.onnx"] for graph in GRAPHS}
    tokenizer = Tokenizer.from_json(contents[TOKENIZER].decode("utf-8"))
    weights: dict[str, Array] = {}
    if plan:
        with np.load(io.BytesIO(contents[PLAN]), allow_pickle=False) as content:
            weights = {name: content[name].astype(np.float32) for name in content.files}
    return OnnxModel(graphs, config, calibration, tokenizer, weights)


def plan_weights(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return those of a model's weights that split a job into steps."""
    return {name: value for name, value in weights.items() if name.startswith("plan.")}


def _linear(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    result: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return result


class _DecoderRun:
    """One decoding: the graph's inputs that stay, and the keys and values that grow.

    `source_S` holds the token that each state was read from, -1 for image tokens; `cross` holds
    what prefill says of the decoder's cross-attention, by name.
    """

    def __init__(
        self,
        session: Any,
        states_SD: Array,
        source_S: NDArray[np.int64],
        cross: dict[str, Array],
    ) -> None:
        is_word = source_S >= 0
        self._session, self._position = session, 0
        self._inputs = {"words": states_SD[is_word], "word_tokens": source_S[is_word], **cross}
        for name, value in cross.items():
            self._inputs[name.replace("cross", "past")] = value[:, :, :0]

    def step(self, token: int) -> Array:
        """Feed one token; return the probabilities (V,) of the next."""
        self._inputs["token"] = np.array([[token]])
        self._inputs["position"] = np.array([self._position])
        found = _run(self._session, self._inputs)
        chances_V = found.pop("chances")
        for name, value in found.items():
            self._inputs[name.replace("present", "past")] = value
        self._position += 1
        return chances_V


def _session(name: str, graph: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin would keep a small board's cores busy between requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except _CANNOT_RUN as error:
        raise ValueError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run the graph {name!r} ({error})."
        ) from error


def _run(session: Any, inputs: dict[str, Any]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
