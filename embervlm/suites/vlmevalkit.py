"""Our models under VLMEvalKit, whose own `run.py` runs unchanged.

    python -m embervlm.suites.vlmevalkit run.py --model embervlm --data embervlm_photos_test
    python -m embervlm.suites.vlmevalkit run.py --model embervlm:run/network.safetensors
        --data MME

VLMEvalKit has no entry points. This registers our class in its table of models
(`vlmeval.config.supported_VLM`) and then runs the script that is named, with the rest of the
arguments. The tables of `embervlm data export-suite vlmevalkit` lie in the folder that LMUData
names; of their questions the selector is given the request, and answers with the letter of the set
that is most like its decision.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from embervlm.endpoint import NoAnswerError
from embervlm.reasoner.loop import one_photo
from embervlm.suites.export import QUESTION, TABLES
from embervlm.suites.own import OURS, open_own
from embervlm.suites.scorers import LETTERS

Message = dict[str, Any]


class EmberVLM:
    """What VLMEvalKit asks of a model: `generate`, and prompts of our own for our own tables."""

    INTERLEAVE = False
    is_api = False

    def __init__(self, name: str = OURS, **settings: Any) -> None:
        """Load the model.

        Raises:
            ValueError: a setting that we do not have, or the file is missing or wrong.
        """
        if settings:
            raise ValueError(f"embervlm has no setting {next(iter(settings))!r} in VLMEvalKit.")
        self._model = open_own(name)
        self._dump_image: Callable[[Any], list[str]] | None = None

    def set_dump_image(self, dump_image: Callable[[Any], list[str]]) -> None:
        """Take the data set's way to write a row's pictures to files."""
        self._dump_image = dump_image

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """Say that our own tables are asked in our own way."""
        return dataset is not None and dataset.startswith(TABLES)

    def build_prompt(self, line: Mapping[str, Any], dataset: str | None = None) -> list[Message]:
        """Return the photo, the request, and behind it each option, of a row of our tables."""
        messages: list[Message] = []
        if "image" in line and self._dump_image is not None:
            messages += [{"type": "image", "value": path} for path in self._dump_image(line)]
        messages.append({"type": "text", "value": line["question"].removeprefix(QUESTION)})
        options = [line[letter] for letter in LETTERS if letter in line]
        return [*messages, *({"type": "text", "value": str(option)} for option in options)]

    def generate(self, message: Sequence[Message], dataset: str | None = None) -> str:
        """Return the answer; an empty one where the model does not answer such a question."""
        photos = tuple(Path(m["value"]).read_bytes() for m in message if m["type"] == "image")
        words = [str(m["value"]) for m in message if m["type"] == "text"]
        ours = self.use_custom_prompt(dataset)
        question, options = (words[0], words[1:]) if ours else ("\n".join(words), [])
        try:
            return self._model.answer(question, one_photo(photos), options, request=ours)
        except NoAnswerError:
            return ""


def register(names: Sequence[str]) -> None:
    """Put our models into VLMEvalKit's table: `embervlm`, and those of these names that are ours.

    Raises:
        ValueError: VLMEvalKit is not installed.
    """
    try:
        from vlmeval.config import supported_VLM
    except ModuleNotFoundError as error:
        raise ValueError(
            "VLMEvalKit is not installed; clone github.com/open-compass/VLMEvalKit and install it."
        ) from error
    supported_VLM["embervlm"] = EmberVLM
    for name in names:
        if name.startswith(OURS):
            supported_VLM[name] = partial(EmberVLM, name)


def main(arguments: Sequence[str]) -> None:
    """Register our models and run VLMEvalKit's script with the rest of the arguments.

    Raises:
        ValueError: there is no such script, or VLMEvalKit is not installed.
    """
    if not arguments or not Path(arguments[0]).is_file():
        raise ValueError("Give VLMEvalKit's run.py first, then its own arguments.")
    register(arguments)
    sys.argv = list(arguments)
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"embervlm: {error}")
