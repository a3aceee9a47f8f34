"""Who can answer: an endpoint of OpenAI's protocol, a model of transformers, or our own selector.

    model = open_model("openai:http://localhost:8000/v1#qwen2.5-7b-instruct")
    model = open_model("local:Qwen/Qwen2.5-1.5B-Instruct")       # or a folder, also of an adapter
    model = open_model("embervlm:")                              # or embervlm:MODEL.gguf

The first two are the teachers of `embervlm distill` (`training.openai_teacher` with its time-outs,
retries and refusals, `training.local_teacher`): a second client would be the same two hundred
lines. That is why this package stands above `training`, of which it imports nothing else. A folder
that `embervlm rmm train` left is a model of transformers like any other.

Our own network decides which robots to send. It has no decoder for other text, so that
`embervlm:` answers such questions alone, and a choice of options by their words; it reads neither
memory nor feedback of this loop, gives the same answer each time, and the loop then ends with
"unchanged". What it learns from corrections is `embervlm memory`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from embervlm.reasoner.prompts import question_of
from embervlm.training.teacher_prompts import Prompt
from embervlm.training.teachers import Reply, TeacherSettings, open_teacher

if TYPE_CHECKING:
    from embervlm.selector import Selector

_KINDS = "openai:URL#model, local:FOLDER_OR_NAME or embervlm:"
_NAME = re.compile(r"(openai|local|embervlm):(.*)", re.DOTALL)


class LanguageModel(Protocol):
    """Anything that answers a prompt; all that the loop asks of a model."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    @property
    def sees(self) -> bool:
        """Whether it can be shown photos."""

    def ask(self, prompt: Prompt, photo: bytes | None, *, seed: int) -> Reply:
        """Return the answer; `photo` is a JPEG file.

        Raises:
            training.teachers.NoAnswerError: there is none to this question.
            ValueError: there will be none to any.
        """


class SelectorModel:
    """The selector as one who answers: which robots to send, and nothing else."""

    sees = True

    def __init__(self, selector: Selector, name: str = "embervlm:") -> None:
        self._selector, self.name = selector, name

    def ask(self, prompt: Prompt, photo: bytes | None, *, seed: int) -> Reply:
        """Return the reasoning's four lines, and the robots as the answer."""
        from embervlm.scenario import Scenario

        decision = self._selector.decide(Scenario(task=question_of(prompt), image=photo))
        return Reply("\n".join([*decision.reasoning, f"Answer: {', '.join(decision.robots)}"]))


def open_model(name: str, settings: TeacherSettings | None = None) -> LanguageModel:
    """Return the model that a command line names.

    Raises:
        ValueError: it is none, or cannot be had.
    """
    settings = settings or TeacherSettings()
    found = _NAME.fullmatch(name)
    if found is None or (found[1] != "embervlm" and not found[2]):
        raise ValueError(f"There is no model {name!r}; give {_KINDS}.")
    if found[1] == "embervlm":
        from embervlm.ember_vlm import EmberVLM

        selector = EmberVLM.from_pretrained(found[2] or None)
        return SelectorModel(selector, name)
    if found[1] == "local":
        check_adapter(Path(found[2]))
    return open_teacher(name, settings)


def check_adapter(folder: Path) -> None:
    """Refuse a folder that looks like an adapter and is none that can be loaded; others pass.

    Raises:
        ValueError: what is wrong with it.
    """
    about = folder / "adapter_config.json"
    if not about.is_file():
        return
    try:
        base = json.loads(about.read_text("utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{about} does not say which model the adapter is for.") from error
    if not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(f"{folder} has no adapter_model.safetensors; is its training finished?")
    if isinstance(base, str) and Path(base).is_absolute() and not Path(base).is_dir():
        raise ValueError(f"The adapter {folder} is for {base}, which is not there any more.")
