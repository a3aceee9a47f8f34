"""Ask a model many questions, keep each answer as it comes, and go on where a run stopped.

    model = open_outside("openai:http://localhost:8000/v1#qwen2.5-vl")
    with AnswerFile(Path("answers.jsonl")) as kept:
        said = ask_all(model, questions, kept, workers=4)

An answer is kept under a key made of everything it depends on (the model's name and settings, all
words, the photo), one line of JSON each, so that one file serves many models and a changed prompt
is asked anew. A last line that was cut off by a crash is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from embervlm.endpoint import NoAnswerError
from embervlm.evaluation.cases import watched
from embervlm.imaging import encode_jpeg, load_image
from embervlm.training.teacher_prompts import Prompt
from embervlm.training.teachers import Teacher, TeacherSettings, open_teacher

OUTSIDE = ("openai:", "transformers:")
MAX_TOKENS = 512
DEFAULT_ANSWERS = Path("outside-answers.jsonl")
# What published models of this kind are shown at most.
LONGEST_PX = 768


@dataclass(frozen=True)
class Question:
    """What a model is asked; `photo` is an image file, its bytes, or None."""

    prompt: Prompt
    photo: Path | bytes | None = None


@dataclass(frozen=True)
class Said:
    """What came of a question: the answer's words, or None and the reason why there are none."""

    text: str | None
    why: str = ""
    cut: bool = False


def open_outside(name: str, settings: TeacherSettings | None = None) -> Teacher:
    """Return the model that `openai:URL#model` or `transformers:NAME_OR_FOLDER` names.

    It is asked at temperature 0. The key of an endpoint comes from the variable OPENAI_API_KEY.

    Raises:
        ValueError: it is neither, or cannot be had.
    """
    kind, mark, place = name.partition(":")
    if f"{kind}{mark}" not in OUTSIDE or not place:
        raise ValueError(
            f"There is no model {name!r}; give openai:URL#model or transformers:NAME_OR_FOLDER."
        )
    settings = settings or TeacherSettings(max_tokens=MAX_TOKENS)
    return open_teacher(name if kind == "openai" else f"local:{place}", settings)


class AnswerFile:
    """The answers of a file by their keys; new ones are added to its end at once."""

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            ValueError: the file is something else than answers.
        """
        self.path = path
        self._kept: dict[str, Said] = {}
        whole = 0
        if path.exists():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            for number, line in enumerate(data[:whole].splitlines(), start=1):
                try:
                    row = json.loads(line)
                    self._kept[row["key"]] = Said(row["text"], row["why"], row["cut"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{path}, line {number}, is no kept answer; give another file."
                    ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def __enter__(self) -> AnswerFile:
        """Return the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def get(self, key: str) -> Said | None:
        """Return what is kept under a key, or None."""
        return self._kept.get(key)

    def add(self, key: str, said: Said) -> None:
        """Keep an answer, on the disk before anything else is done."""
        row = {"key": key, "text": said.text, "why": said.why, "cut": said.cut}
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._kept[key] = said


def ask_all(
    model: Teacher, questions: Sequence[Question], kept: AnswerFile, *, workers: int = 1
) -> list[Said]:
    """Return what is said to each question, from the file where it was asked before.

    A question that the model does not answer (refused, too long, empty) is one without an answer.

    Raises:
        ValueError: the model is out of reach, or refuses the key; what has come so far is kept.
    """
    keys = [key_of(model, question) for question in questions]
    open_keys = {key: i for i, key in enumerate(keys) if kept.get(key) is None}
    failed: ValueError | None = None
    with ThreadPoolExecutor(max_workers=workers) as pool:
        asked: dict[str, Future[Said]] = {
            key: pool.submit(_ask, model, questions[i]) for key, i in open_keys.items()
        }
        for key in watched(list(asked), f"ask {len(asked):,} of {len(questions):,} questions"):
            if failed and asked[key].cancel():
                continue
            try:
                kept.add(key, asked[key].result())
            except (ValueError, NoAnswerError) as error:
                failed = failed or ValueError(
                    f"{model.name}: {str(error).rstrip('.')}. What was answered is kept in "
                    f"{kept.path}; the same command goes on from there."
                )
    if failed:
        raise failed
    return [said for key in keys if (said := kept.get(key)) is not None]


def key_of(model: Teacher, question: Question) -> str:
    """Return the key of an answer: a hash of the model, its settings, the words and the photo."""
    photo = question.photo.read_bytes() if isinstance(question.photo, Path) else question.photo
    parts = {
        "model": model.name,
        "settings": dict(model.settings),
        "system": question.prompt.system,
        "words": question.prompt.words,
        "photo": photo and hashlib.sha256(photo).hexdigest(),
        "longest_px": LONGEST_PX,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def counts(said: Sequence[Said]) -> Mapping[str, Any]:
    """Return how many questions have an answer, how many of those were cut, and why others have
    none."""
    return {
        "questions": len(said),
        "answered": sum(one.text is not None for one in said),
        "cut at the most tokens": sum(one.cut for one in said),
        "without an answer": dict(Counter(one.why for one in said if one.text is None)),
    }


def _ask(model: Teacher, question: Question) -> Said:
    if question.photo is not None and not model.sees:
        return Said(None, "the model cannot see")
    photo = None if question.photo is None else encode_jpeg(load_image(question.photo), LONGEST_PX)
    try:
        reply = model.ask(question.prompt, photo, seed=0)
    except NoAnswerError as error:
        if error.out_of_reach:
            raise
        return Said(None, str(error))
    return Said(reply.text, cut=reply.cut)
