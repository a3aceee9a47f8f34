"""Ask a model of transformers in this process, from a folder or from the hub's cache.

Models of pictures and words (`AutoModelForImageTextToText`) are shown the photo; models of words
alone (`AutoModelForCausalLM`) answer questions without one. Instruction and question go into one
message of the model's chat template, since some templates know no system's part; without a template
they stand one under the other. Questions are answered one at a time, whatever the workers. A folder
may also hold an adapter of peft, with a tokenizer; its model is loaded from where it says.

Axes: N new tokens, V vocabulary.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from embervlm.imaging import load_image
from embervlm.training.teacher_prompts import Prompt
from embervlm.training.teachers import NoAnswerError, Reply, TeacherSettings
from embervlm.training.top_logits import check_same_vocabulary, keep_top, read_vocabulary


class LocalTeacher:
    """A model and its processor, named `local:FOLDER_OR_NAME`."""

    def __init__(self, name: str, settings: TeacherSettings) -> None:
        """Load the model, onto a graphics processor where there is one.

        Raises:
            ValueError: it cannot be had, or its vocabulary is not the student's and logits are
                asked for.
        """
        self.name, self._options = name, settings
        place = name.removeprefix("local:")
        gpu = torch.cuda.is_available()
        device = ("cuda" if gpu else "cpu") if settings.device == "auto" else settings.device
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"--device {device} cannot be used ({str(error).splitlines()[0][:100]}); give cpu, "
                "cuda or auto."
            ) from error
        config = _load(AutoConfig, _adapted(place))
        self.sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        self._processor = _load(AutoProcessor if self.sees else AutoTokenizer, place)
        self._tokenizer = self._processor.tokenizer if self.sees else self._processor
        self._vocabulary: dict[str, int] = {}
        if settings.logits:
            self._vocabulary = self._tokenizer.get_vocab()
            check_same_vocabulary(self._vocabulary, read_vocabulary(settings.student))
        kind = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
        # Half precision is slow or missing on the processor.
        model = _load(kind, place, dtype=torch.float32 if device == "cpu" else "auto")
        self._model: Any = model.to(device).eval()
        # None for models without a table of positions.
        self._most_tokens = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._one_at_a_time = threading.Lock()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the answers depend on."""
        return {
            "temperature": self._options.temperature,
            "max_tokens": self._options.max_tokens,
            "logits": self._options.logits,
        }

    def ask(self, prompt: Prompt, photo: bytes | None, *, seed: int) -> Reply:
        """Return the answer; with a temperature, the same for the same seed and machine.

        Raises:
            NoAnswerError: the prompt is longer than the model can read, or nothing is answered.
        """
        with self._one_at_a_time, torch.inference_mode():
            return self._answer(self._inputs(prompt, photo), seed)

    def _inputs(self, prompt: Prompt, photo: bytes | None) -> Mapping[str, Any]:
        words = f"{prompt.system}\n\n{self._without_marks(prompt.words)}"
        images = [] if photo is None else [Image.fromarray(load_image(photo))]
        templated = getattr(self._processor, "chat_template", None) is not None
        if not self.sees:
            if templated:
                message = [{"role": "user", "content": words}]
                found = self._processor.apply_chat_template(
                    message, add_generation_prompt=True, return_dict=True, return_tensors="pt"
                )
            else:
                found = self._processor(f"{words}\n", return_tensors="pt")
        elif templated:
            parts = [{"type": "image", "image": image} for image in images]
            content = [*parts, {"type": "text", "text": words}]
            found = self._processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            mark = getattr(self._processor, "image_token", "<image>") if images else ""
            found = self._processor(
                text=f"{mark}{words}\n", images=images or None, return_tensors="pt"
            )
        return dict(found.to(self._model.device))

    def _answer(self, inputs: Mapping[str, Any], seed: int) -> Reply:
        given, limit = inputs["input_ids"].shape[1], self._options.max_tokens
        if self._most_tokens is not None and given + limit > self._most_tokens:
            raise NoAnswerError(
                f"the prompt has {given:,} tokens, and with {limit:,} for the answer the model "
                f"takes {self._most_tokens:,}",
                out_of_reach=False,
            )
        config = self._model.generation_config
        ends = config.eos_token_id if config.eos_token_id is not None else []
        ends = [ends] if isinstance(ends, int) else list(ends)
        more: dict[str, Any] = {"do_sample": False}
        if self._options.temperature:
            more = {"do_sample": True, "temperature": self._options.temperature}
            torch.manual_seed(seed)
        if config.pad_token_id is None and ends:
            more["pad_token_id"] = ends[0]
        found = self._model.generate(
            **inputs,
            max_new_tokens=limit,
            return_dict_in_generate=True,
            output_logits=bool(self._options.logits),
            **more,
        )
        new_N = found.sequences[0, given:]
        text = self._tokenizer.decode(new_N, skip_special_tokens=True).strip()
        if not text:
            raise NoAnswerError("an empty answer", out_of_reach=False)
        top = None
        if self._options.logits:
            # A table may be padded beyond the vocabulary; nothing is meant by those rows.
            size = max(self._vocabulary.values()) + 1
            logits_NV = torch.stack([logits[0] for logits in found.logits])[:, :size]
            top = keep_top(logits_NV, new_N[: len(logits_NV)], self._options.logits)
        return Reply(text, cut=int(new_N[-1]) not in ends, top=top)

    def _without_marks(self, words: str) -> str:
        """Return a stranger's words without the model's own marks, which would end a message or
        stand for a picture."""
        marks = {*self._tokenizer.all_special_tokens}
        marks.add(getattr(self._processor, "image_token", None) or "<image>")
        for mark in sorted(marks, key=len, reverse=True):
            words = words.replace(mark, " ")
        return words


def _adapted(place: str) -> str:
    """Return the model that the adapter in a folder is for; the place itself if it holds a model.

    Raises:
        ValueError: the adapter does not say it.
    """
    about = Path(place) / "adapter_config.json"
    if not about.is_file() or (Path(place) / "config.json").is_file():
        return place
    try:
        return str(json.loads(about.read_text("utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{about} does not say which model the adapter is for.") from error


def _load(kind: Any, place: str, **more: Any) -> Any:
    """Return what transformers makes of a folder or name.

    Raises:
        ValueError: it cannot, or its libraries are missing.
    """
    try:
        return kind.from_pretrained(place, **more)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        what = "the folder" if Path(place).is_dir() else "the name, and that its files are here"
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"local:{place} cannot be loaded ({reason}); check {what}.") from error
