"""The network in PyTorch, loaded from the same model file as every other backend, or as it was
trained: `network.safetensors` with its `tokenizer.json` beside it, of either family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from embervlm.backends.base import MAX_TASK_TOKENS, Array, Backend, Proposal, StepScores
from embervlm.backends.decoding import Grammar
from embervlm.backends.forking import free_in_a_fork
from embervlm.checkpoint import Checkpoint, load_checkpoint, read_calibration
from embervlm.fleet import ENVIRONMENTS
from embervlm.models.bitnet import keep_ternary, ternary_layers
from embervlm.models.configuration import EmberConfig, config_of
from embervlm.models.modeling import EmberNetwork
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities, read_task
from embervlm.tokenizer import Tokenizer


def load_pytorch(path: str | Path | None = None) -> Backend:
    """Load a model file, or the `network.safetensors` of a run; None is the model that ships.

    Raises:
        ValueError: a file is missing or damaged, or is no model of this project.
    """
    if path is None or Path(path).suffix != ".safetensors":
        return PyTorchBackend.load(path)
    from embervlm.backends.pytorch_prefix import PrefixBackend
    from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer
    from embervlm.models.modeling import EmberNetwork
    from embervlm.models.presets import load

    path = Path(path)
    network, tokenizer_file = load(path), path.with_name("tokenizer.json")
    calibration = read_calibration(path)
    if not isinstance(network, EmberNetwork):
        return PrefixBackend(network, Gpt2Tokenizer.from_file(tokenizer_file), calibration)
    keep_ternary(network)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    tokenizer = Tokenizer.from_file(tokenizer_file)
    return PyTorchBackend(Checkpoint(network.config.to_dict(), calibration, tokenizer, weights))


class PyTorchBackend:
    """Runs the network in PyTorch, eagerly, in float32; implements `backends.base.Backend`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Take a model in memory.

        Raises:
            ValueError: its weights are not those that its configuration tells of.
        """
        self.tokenizer = checkpoint.tokenizer
        self._calibration = checkpoint.calibration
        config = config_of(checkpoint.config)
        assert isinstance(config, EmberConfig), "ember-37m has no GGUF file"
        self._grammar = Grammar(self.tokenizer, config.decoder_positions)
        self.network = EmberNetwork(config).eval()
        for layer in ternary_layers(self.network).values():
            layer.is_ternary = True
        weights = {name: torch.from_numpy(tensor) for name, tensor in checkpoint.weights.items()}
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            what = " ".join(str(error).split("\n")[1:2]).strip(" \t.")
            raise ValueError(
                f"The model file's tensors are not those of its configuration ({what}); export it "
                "again."
            ) from error
        # What the reader's last layers were given, for a plan's part that has its own of them.
        self._middle: list[torch.Tensor] = []
        self._lock = Lock()
        free_in_a_fork(self)
        if self.network.plan is not None and config.plan_readers:
            own = self.network.text.layers[-config.plan_readers]
            # Bound to the list alone: a network can be copied, a lock cannot.
            own.register_forward_pre_hook(partial(_keep, self._middle))

    @classmethod
    def load(cls, folder: str | Path | None = None) -> PyTorchBackend:
        """Load a model folder; None is the one that ships."""
        return cls(load_checkpoint(folder))

    @property
    def image_size(self) -> int:
        """The side of the square photo, in pixels."""
        return self.network.config.image_size

    @property
    def calibration(self) -> dict[str, float]:
        """The numbers fitted on validation data."""
        return self._calibration

    @torch.inference_mode()
    def propose(self, task: str | None, pixels_CHW: Array | None) -> Proposal:
        """Read words, a photo, or both; see `Backend.propose`."""
        network = self.network
        reading = read_task(task, self.tokenizer, MAX_TASK_TOKENS)
        tokens_BT = torch.tensor([reading.tokens])
        has_photo_B = torch.tensor([pixels_CHW is not None])
        if pixels_CHW is None:
            features_BC = torch.zeros(1, *network.config.features_shape)
            scene_BE = torch.zeros(1, len(ENVIRONMENTS))
        else:
            features_BC, scene_BE = network.look(torch.from_numpy(pixels_CHW)[None])
        with self._lock:  # another thread's middle comes when this one is taken
            encoded = network.encode(
                tokens_BT,
                torch.ones_like(tokens_BT, dtype=torch.bool),
                features_BC,
                scene_BE.softmax(-1),
                has_photo_B,
                has_photo_B,
            )
            middle_TD = None
            if self._middle:
                middle_TD = self._middle[0][0, -len(reading.tokens) :].numpy()
        ngrams = hash_ngrams(mark_quantities(task or ""), network.config.ngram_rows)
        logits = network.decide(encoded, [ngrams] if pixels_CHW is None else None)
        heads = {name: value[0].numpy() for name, value in logits.items()}
        marks_BM = torch.tensor([reading.marks], dtype=torch.int64)
        return Proposal(
            subsets=heads["subsets"],
            primary=heads["primary"],
            environment=heads["environment"],
            scene=scene_BE[0].numpy() if pixels_CHW is not None else None,
            actions=heads["actions"],
            flags=heads["flags"],
            team=float(heads["team"]),
            roles=network.roles(encoded, marks_BM)[0].numpy(),
            mentions=reading.mentions,
            unread=reading.unread,
            embedding=encoded.pooled_BD[0].numpy(),
            middle=middle_TD,
            states=(
                encoded.states_BSD[0].numpy(),
                np.array([-1] * network.config.image_tokens + list(reading.tokens)),
            ),
            value=float(heads["value"]) if "value" in heads else None,
        )

    @torch.inference_mode()
    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """Return what is said of each step of a job; see `Backend.split`."""
        if self.network.plan is None:
            return ()
        states_SD, tokens_S = proposal.states
        is_word = tokens_S >= 0
        words_TD = states_SD[is_word] if proposal.middle is None else proposal.middle
        words_BTD = torch.from_numpy(words_TD)[None]
        tokens_BT = torch.from_numpy(tokens_S[is_word])[None]
        mask_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
        out, count_B = self.network.plan.write(words_BTD, tokens_BT, mask_BT)
        said = {name: value[0].numpy() for name, value in out.items()}
        pointer_KT = out["pointer"][0].softmax(-1).numpy()
        return tuple(
            StepScores(
                more=float(said["more"][k, 0]),
                robots=said["robots"][k],
                actions=said["actions"][k],
                flags=said["flags"][k],
                environment=said["environment"][k],
                after=said["after"][k, : int(count_B[0])],
                pointer=pointer_KT[k],
            )
            for k in range(int(count_B[0]))
        )

    @torch.inference_mode()
    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return the marked reasoning, decoded greedily under the grammar; see `Backend.write`."""
        decoder, table_VD = self.network.decoder, self.network.text.embed.weight
        states_BSD, source_BS = (torch.from_numpy(array)[None] for array in proposal.states)
        mask_BS = torch.ones_like(source_BS, dtype=torch.bool)
        cache = decoder.begin(states_BSD, mask_BS, source_BS)

        def step(token: int) -> Array:
            log_p_BV = decoder.step(torch.tensor([[token]]), cache, table_VD)
            chances_V: Array = log_p_BV[0].exp().numpy()
            return chances_V

        return self._grammar.write(robots, step)


def _keep(middle: list[torch.Tensor], _: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
    middle[:] = given[:1]
