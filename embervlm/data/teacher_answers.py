"""What a teacher answered, one JSON line each, added as it comes; and the set that is made of it.

    {"key": "5b1c...", "ask": "answers", "id": "7 0", "teacher": "openai:http://...#name",
     "question": "What is to be seen?", "image": "val2017/7.jpg", "answer": "A road.", "cut": false}

`key` is a hash of all that the answer depends on, so a question that has its line is not asked
again. A line is on the disk before the next one is begun: a process that is killed loses the
answers that were still on their way, and the part of a line that it leaves is dropped by the next.
The words stay as they came; whoever reads them parses them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embervlm.data.example import (
    WHOLE,
    Example,
    Part,
    Report,
    Turn,
    UnusableError,
    examples_of,
    text,
)

ASKS = ("answers", "robots")


@dataclass(frozen=True)
class TeacherAnswer:
    """One line of the file.

    `question` is what a student reads, None where it is told nothing beside the photo; `image` is
    the path of the photo. `cut` says that the teacher was stopped before its end. `top` holds the
    logits of the answer (`training/top_logits.py`), None where none were asked for.
    """

    key: str
    ask: str
    id: str
    teacher: str
    question: str | None
    image: str | None
    answer: str
    cut: bool = False
    top: dict[str, Any] | None = None

    def to_line(self) -> str:
        """Return the line with its end; `from_line` reads it back."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> TeacherAnswer:
        """Read a line.

        Raises:
            ValueError: it is not the JSON of an answer.
        """
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        try:
            answer = cls(**found)
        except TypeError as error:
            raise ValueError(f"other keys than those of an answer: {', '.join(found)}") from error
        texts = (answer.key, answer.id, answer.teacher, answer.answer)
        optional = (answer.question, answer.image)
        if (
            not all(isinstance(words, str) for words in texts)
            or not all(words is None or isinstance(words, str) for words in optional)
            or answer.ask not in ASKS
            or not isinstance(answer.cut, bool)
            or not isinstance(answer.top, dict | None)
        ):
            raise ValueError("a value of another kind than an answer has")
        return answer


def read_answers(path: str | Path) -> Iterator[TeacherAnswer]:
    """Yield the answers of a file; a last line without its end is not read.

    Raises:
        ValueError: the file cannot be read, or another line is damaged.
    """
    try:
        with Path(path).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield TeacherAnswer.from_line(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(
                        f"{path}, line {number}: this is no answer of a teacher ({error}); take "
                        "the line out."
                    ) from error
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); give a file that 'embervlm distill' wrote."
        ) from error


class AnswerFile:
    """The file while answers come in; one process at a time has it, several threads may add.

    `known` maps the keys that are answered to the answers' words.
    """

    def __init__(self, path: Path) -> None:
        """Open or begin the file, without the part of a line that a killed process left.

        Raises:
            ValueError: it is damaged, or another process writes it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._adding = path, threading.Lock()
        self._file = path.open("ab", buffering=0)
        try:
            self._claim()
            self.known = {answer.key: answer.answer for answer in read_answers(path)}
            self._file.truncate(_whole_bytes(path))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._adding:
            self._file.close()

    def add(self, answer: TeacherAnswer) -> None:
        """Write an answer and wait until the disk has it.

        Raises:
            OSError: the disk is full; nothing of the line stays.
        """
        line = answer.to_line().encode("utf-8")
        with self._adding:
            before = self._file.tell()
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:])
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(before)
                raise
            self.known[answer.key] = answer.answer

    def _claim(self) -> None:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{self.path} is being written by another process; wait for it to end."
                ) from None


def _whole_bytes(path: Path) -> int:
    """Return the length of a file up to the end of its last whole line."""
    with path.open("rb") as file:
        whole = 0
        for line in file:
            if line.endswith(b"\n"):
                whole += len(line)
        return whole


def teacher_answers(
    answers: str | Path,
    images: str | Path | None = None,
    *,
    report: Report,
    part: Part = WHOLE,
) -> Iterator[Example]:
    """Yield one example an answer of a teacher: `answers.jsonl` of `embervlm distill`.

    `images` is the folder that relative paths of photos count from, the working directory where it
    is not given. An answer that was cut short is left out, and so is one about robots.

    Raises:
        ValueError: see `read_answers` and `example.py`.
    """
    home = Path(images or ".")

    def make(row: TeacherAnswer) -> Example:
        if row.ask != "answers":
            raise UnusableError("scores of robots, which are for select", row.id)
        if row.cut:
            raise UnusableError("cut answer", row.id)
        image = None if row.image is None else home / row.image
        if image is not None and not image.is_file():
            raise UnusableError("missing image", image)
        turn = Turn(row.question, text(vars(row), "answer"))
        return Example(row.id, report.source, image, (turn,), split="train", logits=row.top)

    return examples_of(read_answers(answers), make, report=report, part=part)
