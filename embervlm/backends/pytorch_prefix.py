"""`ember-37m` in PyTorch, from the folder that a run of `embervlm train` leaves.

    embervlm decide photo.jpg "reach the roof" --backend pytorch --model run/network.safetensors

Beside the weights lie `tokenizer.json` and, once `evaluation.calibration` has been run,
`calibration.json`. The decoder writes under a grammar as that of `ember-nano` does (`decoding.py`).

Axes: B batch (1), T tokens, N image tokens, D width, M mentions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from embervlm.backends.base import MAX_TASK_TOKENS, Array, Proposal, StepScores
from embervlm.backends.decoding import MAX_SECTION_TOKENS, repetitions
from embervlm.models.ember_37m import Ember37M
from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer
from embervlm.models.prefix_formats import LINE_ENDS, line_end, read_request, reasons_prefix
from embervlm.prompts import Reading, Reasoning, write_reasoning


class PrefixBackend:
    """Runs the network eagerly, in float32; implements `backends.base.Backend`."""

    def __init__(
        self, network: Ember37M, tokenizer: Gpt2Tokenizer, calibration: Mapping[str, float]
    ) -> None:
        """Take the parts of a model.

        Raises:
            ValueError: network and tokenizer do not belong together.
        """
        if network.config.vocabulary_size != len(tokenizer):
            raise ValueError(
                f"The network has {network.config.vocabulary_size} tokens, its tokenizer.json "
                f"{len(tokenizer)}; they must be of one run."
            )
        self.network, self.tokenizer = network.eval(), tokenizer
        self.calibration = dict(calibration)

    @property
    def image_size(self) -> int:
        """The side of the square photo, in pixels."""
        return self.network.config.image_size

    @torch.inference_mode()
    def propose(self, task: str | None, pixels_CHW: Array | None) -> Proposal:
        """Read words, a photo, or both; see `Backend.propose`.

        The place in the photo alone is what the network says of it without words.
        """
        image_BND = None
        if pixels_CHW is not None:
            image_BND = self.network.see(torch.from_numpy(pixels_CHW)[None])
        reading, heads, roles_MR, pooled_D = self._read(task, image_BND)
        scene = None
        if image_BND is not None:
            scene = (self._read(None, image_BND)[1] if task else heads)["environment"]
        return Proposal(
            subsets=heads["subsets"],
            primary=heads["primary"],
            environment=heads["environment"],
            scene=scene,
            actions=heads["actions"],
            flags=heads["flags"],
            team=float(heads["team"]),
            roles=roles_MR,
            mentions=reading.mentions,
            unread=reading.unread,
            embedding=pooled_D,
            states=(reading.tokens, image_BND),
        )

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        """This family has no part that splits a job."""
        return ()

    @torch.inference_mode()
    def write(self, proposal: Proposal, robots: Sequence[str]) -> str:
        """Return the marked reasoning, decoded greedily under the grammar; see `Backend.write`."""
        request, image_BND = proposal.states
        decoder = self.network.decoder
        told_BT = torch.tensor([[*request, *reasons_prefix(robots, self.tokenizer)]])
        states_BTD, cache = decoder(told_BT, image_BND=image_BND)
        lines = []
        for end in LINE_ENDS:
            ending, token = line_end(end, self.tokenizer), -1
            line: list[int] = []
            while token != ending:
                token = self._next(decoder.logits(states_BTD[0, -1]), ending, line)
                line.append(token)
                states_BTD, cache = decoder(torch.tensor([[token]]), cache=cache)
            lines.append(self.tokenizer.decode(line[:-1]).strip())
        return write_reasoning(Reasoning(tuple(robots), *lines))

    def _next(self, logits_V: Tensor, ending: int, line: Sequence[int]) -> int:
        """Return the likeliest token that may stand behind those of a line, or its ending."""
        if len(line) == MAX_SECTION_TOKENS:
            return ending
        never_V, not_first_V = self._masks
        allowed_V = logits_V.masked_fill(never_V, -torch.inf)
        allowed_V[repetitions(line)] = -torch.inf
        if line:
            allowed_V[ending] = logits_V[ending]
        else:
            allowed_V[not_first_V] = -torch.inf
        return int(allowed_V.argmax())

    @cached_property
    def _masks(self) -> tuple[Tensor, Tensor]:
        """Return which tokens no line may hold (V,), and which none may begin with (V,).

        What would break a line or forge a mark, or is a part of a character; and all but letters
        and digits of plain ASCII.
        """
        special = set(self.tokenizer.specials.values())
        texts = [self.tokenizer.decode([number]) for number in range(len(self.tokenizer))]
        never = [
            number in special or not text.isprintable() or "|" in text or "\ufffd" in text
            for number, text in enumerate(texts)
        ]
        firsts = [text.strip()[:1] for text in texts]
        not_first = [not (first.isascii() and first.isalnum()) for first in firsts]
        return torch.tensor(never), torch.tensor(not_first)

    def _read(
        self, task: str | None, image_BND: Tensor | None
    ) -> tuple[Reading, dict[str, Array], Array, Array]:
        """Return the reading, the heads' logits, the roles (M, R) and the request's vector (D,)."""
        network = self.network
        count = 0 if image_BND is None else image_BND.shape[1]
        reading = read_request(task, self.tokenizer, MAX_TASK_TOKENS, count)
        tokens_BT = torch.tensor([reading.tokens])
        states_BTD, pooled_BD = network.encode(
            tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool), image_BND
        )
        heads = {name: value[0].numpy() for name, value in network.decide(pooled_BD).items()}
        marks_BM = torch.tensor([reading.marks], dtype=torch.int64)
        return reading, heads, network.roles(states_BTD, marks_BM)[0].numpy(), pooled_BD[0].numpy()
