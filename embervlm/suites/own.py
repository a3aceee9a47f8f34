"""Our own models as those who are asked by a suite: the selector, and `ember-37m` with its words.

    model = open_own("embervlm:")                            # the model that ships
    model = open_own("embervlm:run/network.safetensors")     # ember-37m after its stage instruct
    model = open_own("embervlm:http://127.0.0.1:8000")       # whatever `embervlm serve` runs there
    model.answer("look at the roof", photo, ("Drone", "Humanoid"))

The selector decides which robots to send and says nothing else: it answers with
{"robots": [...]}, or where options are sets of robots, with the letter of the one that is most
alike. Any other question it does not answer, and that is counted. `ember-37m` has a decoder: it
answers any question in the form in which its stage `instruct` is trained, and requests with
`request=True` as the selector does. A server's key comes from the variable OPENAI_API_KEY.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embervlm.client import Client, UnreachableError
from embervlm.endpoint import KEY_VARIABLE, NoAnswerError
from embervlm.fleet import Fleet
from embervlm.imaging import load_image, preprocess
from embervlm.scenario import Scenario
from embervlm.scoring import jaccard
from embervlm.suites.export import parse_set
from embervlm.suites.scorers import LETTERS

if TYPE_CHECKING:
    from embervlm.backends.pytorch_prefix import PrefixBackend
    from embervlm.selector import Selector

OURS = "embervlm:"
MAX_QUESTION_TOKENS = 256
MAX_ANSWER_TOKENS = 64


class OwnModel:
    """Who decides (a selector or a server) for a fleet, and a decoder that answers questions."""

    def __init__(
        self,
        decide: Callable[[Scenario], Sequence[str]],
        fleet: Fleet,
        speaker: PrefixBackend | None = None,
    ) -> None:
        self._decide, self._fleet, self._speaker = decide, fleet, speaker

    def answer(
        self, question: str, photo: bytes | None, options: Sequence[str] = (), *, request: bool
    ) -> str:
        """Return the answer to a question, or to a request with `request`.

        Raises:
            NoAnswerError: the selector alone was asked something else than whom to send.
        """
        sets = [parse_set(option, self._fleet) for option in options]
        if request or (sets and all(sets)):
            robots = self._decide(Scenario(question, photo))
            if not sets:
                return json.dumps({"robots": list(robots)})
            alike = [jaccard(one or (), robots) for one in sets]
            return LETTERS[alike.index(max(alike))]
        if self._speaker is None:
            raise NoAnswerError(
                "the selector answers whom to send and nothing else", out_of_reach=False
            )
        return self._say(self._speaker, question, photo)

    def _say(self, speaker: PrefixBackend, question: str, photo: bytes | None) -> str:
        import torch

        from embervlm.models.gpt2_tokenizer import END
        from embervlm.models.prefix_formats import exchange

        network, tokenizer = speaker.network, speaker.tokenizer
        with torch.inference_mode():
            image_BND = None
            if photo is not None:
                pixels_CHW = preprocess(load_image(photo), network.config.image_size)
                image_BND = network.see(torch.from_numpy(pixels_CHW)[None])
            image_tokens = network.config.image_tokens if image_BND is not None else 0
            told, _ = exchange(question, "", tokenizer, MAX_QUESTION_TOKENS, image_tokens)
            (row,) = network.decoder.write(
                torch.tensor([told]),
                tokenizer.specials[END],
                image_BND=image_BND,
                max_tokens=MAX_ANSWER_TOKENS,
            )
        words = tokenizer.decode(row).strip()
        if not words:
            raise NoAnswerError("an empty answer", out_of_reach=False)
        return words


def open_own(name: str) -> OwnModel:
    """Return the model that `embervlm:` (the one that ships), `embervlm:FILE` or
    `embervlm:http://HOST:PORT` names.

    Raises:
        ValueError: the file is missing or wrong, or no server answers.
    """
    place = name.removeprefix(OURS)
    if place.startswith(("http://", "https://")):
        client = Client(place, key=os.environ.get(KEY_VARIABLE) or None)
        try:
            fleet = client.fleet()
        except UnreachableError as error:
            raise ValueError(f"{place} does not answer ({error}); is it running?") from error
        return OwnModel(
            lambda asked: client.select(asked.task, asked.image, reasoning=False).robots,
            fleet,
        )
    from embervlm.backends import load_backend
    from embervlm.selector import Selector

    path = Path(place) if place else None
    speaker: PrefixBackend | None = None
    if path is not None and path.suffix == ".safetensors":
        from embervlm.backends.pytorch_prefix import PrefixBackend

        backend = load_backend("pytorch", path)
        if isinstance(backend, PrefixBackend):
            speaker = backend
    else:
        backend = load_backend("native", path)
    selector = Selector(backend, Fleet.default())
    return OwnModel(robots_of(selector), selector.fleet, speaker)


def robots_of(selector: Selector) -> Callable[[Scenario], Sequence[str]]:
    """Return what a selector decides, as the robots alone."""
    return lambda scenario: selector.decide(scenario, reasoning=False).robots
