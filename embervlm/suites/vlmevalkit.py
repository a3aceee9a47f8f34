"""Our models under VLMEvalKit, whose own program runs unchanged.

    python -m embervlm.suites.vlmevalkit --model embervlm --data embervlm_photos_test
    python -m embervlm.suites.vlmevalkit run.py --model embervlm:run/network.safetensors
        --data MME

VLMEvalKit has no entry points. This registers our class in its table of models
(`vlmeval.config.supported_VLM`) and then does what `python -m vlmeval` does with the same
arguments, or runs the script that stands before them: a clone has `run.py`, the wheel `ms-vlmeval`
the module. The tables of `embervlm data export-suite vlmevalkit` lie in the folder that LMUData
names; of their questions the selector is given the request, and answers with the letter of the set
that is most like its decision.

VLMEvalKit makes file names of a model's name, so `embervlm:run/network.safetensors` is called
`embervlm-run-network.safetensors` there.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embervlm.endpoint import NoAnswerError
from embervlm.reasoner.loop import one_photo
from embervlm.suites.export import QUESTION, TABLES
from embervlm.suites.own import OURS, open_own
from embervlm.suites.scorers import LETTERS

Message = dict[str, Any]

# Said where there is no answer. An empty one would come back from VLMEvalKit's spreadsheet as
# "nan", in which its rules find the option "A" and OCRBench's words "a" and "an".
NO_ANSWER = "-"
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.-]+")


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
        """Return the answer; `NO_ANSWER` where the model does not answer such a question."""
        photos = tuple(Path(m["value"]).read_bytes() for m in message if m["type"] == "image")
        words = [str(m["value"]) for m in message if m["type"] == "text"]
        ours = self.use_custom_prompt(dataset)
        question, options = (words[0], words[1:]) if ours else ("\n".join(words), [])
        try:
            return self._model.answer(question, one_photo(photos), options, request=ours)
        except NoAnswerError:
            return NO_ANSWER


def register(arguments: Sequence[str]) -> list[str]:
    """Put our models into VLMEvalKit's table: `embervlm`, and those that the arguments name.

    Return the arguments with the names that stand in the table.

    Raises:
        ValueError: VLMEvalKit or a package that it needs is not installed, or two models would have
            the same name.
    """
    try:
        from vlmeval.config import supported_VLM
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise ValueError(
            "VLMEvalKit is not installed; docs/suites.md says how."
            if missing == "vlmeval"
            else f"VLMEvalKit needs the package {missing!r}, which is not installed; install it."
        ) from error
    supported_VLM["embervlm"] = EmberVLM
    ours: dict[str, str] = {}
    renamed = []
    for argument in arguments:
        if argument.startswith(OURS):
            name = _NOT_IN_FILE_NAMES.sub("-", argument).strip("-")
            if ours.setdefault(name, argument) != argument:
                raise ValueError(
                    f"{ours[name]} and {argument} would both be called {name}; rename one file."
                )
            supported_VLM[name] = partial(EmberVLM, argument)
            argument = name
        renamed.append(argument)
    return renamed


def main(arguments: Sequence[str]) -> None:
    """Register our models and run VLMEvalKit with the arguments.

    Raises:
        ValueError: no arguments, no such script, or VLMEvalKit is not installed.
    """
    if not arguments:
        raise ValueError("Give VLMEvalKit's arguments, such as --model embervlm --data NAME.")
    script = Path(arguments[0]) if arguments[0].endswith(".py") else None
    if script is not None and not script.is_file():
        raise ValueError(f"There is no {script}; give the run.py of a clone of VLMEvalKit.")
    renamed = register(arguments)
    if script is not None:
        sys.argv = renamed
        sys.path.insert(0, str(script.resolve().parent))
        runpy.run_path(str(script), run_name="__main__")
        return
    if find_spec("vlmeval.__main__") is None:
        raise ValueError(
            "This VLMEvalKit is started by the run.py of its clone; name that file first."
        )
    sys.argv = ["vlmeval", *renamed]
    runpy.run_module("vlmeval", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"embervlm: {error}")
