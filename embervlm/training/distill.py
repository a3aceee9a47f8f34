"""Ask a teacher many questions, several at a time, and keep every answer as it comes.

    embervlm distill --teacher openai:http://localhost:8000/v1#model --ask robots --out FOLDER

FOLDER gets `robots.jsonl` or `answers.jsonl` (`data/teacher_answers.py`). A question that has its
line is never asked again, so the same command goes on where it was stopped, killed or refused; what
was on its way then is asked anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from embervlm.data.example import Report, UnusableError
from embervlm.data.teacher_answers import AnswerFile, TeacherAnswer
from embervlm.fleet import Fleet
from embervlm.imaging import MAX_FILE_BYTES, encode_jpeg, load_image
from embervlm.training.public_data import sources_of
from embervlm.training.teacher_prompts import parse_robot_scores
from embervlm.training.teacher_questions import Question, robot_questions, set_questions
from embervlm.training.teachers import NoAnswerError, Teacher

# So many questions in a row that failed for no fault of their own: the teacher is not there.
GIVE_UP_AFTER = 3
_LAST_WAIT_S = 1.0


@dataclass
class Summary:
    """What became of the questions; `left_out` counts those that were not asked, `failed` those
    that got no answer."""

    asked: int = 0
    from_cache: int = 0
    unparseable: int = 0
    left_out: Report = field(default_factory=lambda: Report("questions"))
    failed: Report = field(default_factory=lambda: Report("questions"))

    @property
    def failures(self) -> int:
        """How many questions got no answer."""
        return self.failed.left_out.total()

    def sentence(self) -> str:
        """Return the counts in one line, and of each failure the first few questions."""
        parts = [
            f"{self.asked:,} asked, {self.from_cache:,} from the cache, "
            f"{self.unparseable:,} unparseable, {self.failures:,} failed"
        ]
        for report, what in ((self.failed, "failed"), (self.left_out, "left out")):
            for reason, count in report.left_out.most_common():
                parts.append(f"{what}: {count:,} {reason} ({', '.join(report.shown[reason])})")
        return "; ".join(parts) + "."


def questions_of(
    ask: str, data: str, photos: Path | None, reports: list[Report]
) -> Iterator[Question]:
    """Return what is asked; of each set that `data` (JSON) names, `reports` gets what is left out.

    Raises:
        ValueError: what is given does not belong to what is asked, or see `teacher_questions.py`.
    """
    if ask == "robots":
        if data:
            raise ValueError("--data is for --ask answers; robots are asked about our train split.")
        return robot_questions(photos)
    if ask != "answers":
        raise ValueError(f"--ask is {ask!r}; there are answers and robots.")
    if photos is not None:
        raise ValueError("--photos is for --ask robots; sets have their own images in --data.")
    if not data:
        raise ValueError("--ask answers needs --data, a list of public sets (see data/public.py).")
    try:
        entries = json.loads(data)
    except ValueError as error:
        raise ValueError(f"--data is not JSON ({error}); expected a list of sets.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"--data is {data[:80]}; expected a list of sets, each with its keys.")
    sources = sources_of(entries)
    reports += [Report(source.name.rpartition(" ")[0]) for source in sources]
    return set_questions(sources, reports)


def distill(
    teacher: Teacher,
    questions: Iterable[Question],
    file: AnswerFile,
    *,
    workers: int = 4,
    limit: int | None = None,
    photo_px: int = 768,
) -> Summary:
    """Ask what is not answered yet of the first `limit` questions, and return the counts.

    Photos are shown at most `photo_px` on their longer side.

    Raises:
        ValueError: the teacher cannot be reached, refuses everything, or a set is wrong; what was
            answered stays.
        KeyboardInterrupt: Ctrl-C; the message says what stays.
    """
    run = _Run(teacher, islice(questions, limit), file, photo_px, limit)
    # Daemons: a teacher that says nothing shall not hold the process after Ctrl-C.
    threads = [threading.Thread(target=run.work, daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
                if run.stop.is_set():
                    thread.join(_LAST_WAIT_S)
                    break
    except KeyboardInterrupt:
        run.stop.set()
        for thread in threads:
            thread.join(_LAST_WAIT_S)
        raise KeyboardInterrupt(f"Stopped: {run.kept()}") from None
    finally:
        run.bar.close()
    if run.broken:
        raise run.broken[0]
    if run.out_of_reach is not None and (run.stop.is_set() or not run.summary.asked):
        raise ValueError(f"{teacher.name} cannot be reached: {run.out_of_reach}. {run.kept()}")
    return run.summary


class _Run:
    """What the workers share; `_lock` guards all of it but the teacher and the file."""

    def __init__(
        self,
        teacher: Teacher,
        questions: Iterator[Question],
        file: AnswerFile,
        photo_px: int,
        limit: int | None,
    ) -> None:
        self.teacher, self._questions, self.file = teacher, questions, file
        self.photo_px, self.summary, self.stop = photo_px, Summary(), threading.Event()
        self.broken: list[BaseException] = []
        self.out_of_reach: NoAnswerError | None = None
        self.bar = tqdm(total=limit, desc="asking", unit="question", disable=None)
        self._lock, self._begun, self._in_a_row = threading.Lock(), set(file.known), 0

    def kept(self) -> str:
        """Return what is there, for a run that ends early."""
        return f"{len(self.file.known):,} answers in {self.file.path}; the same command goes on."

    def work(self) -> None:
        """Take one question after another until there is none."""
        try:
            while not self.stop.is_set():
                with self._lock:
                    question = next(self._questions, None)
                if question is None:
                    return
                self._one(question)
                with self._lock:
                    self.bar.update()
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.broken.append(error)
            self.stop.set()

    def _one(self, question: Question) -> None:
        if question.image is not None and not self.teacher.sees:
            return self._leave_out("with a photo, which this teacher cannot see", question)
        try:
            data = None if question.image is None else _bytes_of(question.image)
            key = key_of(self.teacher, question, data, self.photo_px)
            with self._lock:
                if key in self._begun:
                    self.summary.from_cache += 1
                    known = self.file.known.get(key)
                    self.summary.unparseable += known is not None and not _parses(question, known)
                    return None
                self._begun.add(key)
            photo = None if data is None else self._shown(data)
        except (ValueError, OSError) as error:
            return self._leave_out("broken picture", question, f": {error}")
        try:
            reply = self.teacher.ask(question.prompt, photo, seed=int(key[:8], 16))
        except NoAnswerError as error:
            return self._fail(question, key, error)
        self.file.add(
            TeacherAnswer(
                key=key,
                ask=question.ask,
                id=question.id,
                teacher=self.teacher.name,
                question=question.said,
                image=self._place(question.image),
                answer=reply.text,
                cut=reply.cut,
                top=None if reply.top is None else reply.top.to_dict(),
            )
        )
        with self._lock:
            self.summary.asked += 1
            self.summary.unparseable += not _parses(question, reply.text)
            self._in_a_row = 0
        return None

    def _shown(self, data: bytes) -> bytes:
        return encode_jpeg(load_image(data, shortest_px=self.photo_px), self.photo_px)

    def _place(self, image: Path | bytes | None) -> str | None:
        """Return the path of a photo; one that lay in an archive is put beside the answers."""
        if not isinstance(image, bytes):
            return None if image is None else str(image)
        place = self.file.path.parent / "photos" / hashlib.sha256(image).hexdigest()[:32]
        if not place.is_file():
            place.parent.mkdir(exist_ok=True)
            unfinished = place.with_name(f"{place.name}.{threading.get_ident()}.unfinished")
            with unfinished.open("wb") as file:
                file.write(image)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(place)
        return str(place)

    def _leave_out(self, reason: str, question: Question, more: str = "") -> None:
        with self._lock:
            self.summary.left_out.leave_out(UnusableError(reason, f"{question.id}{more}"))

    def _fail(self, question: Question, key: str, error: NoAnswerError) -> None:
        with self._lock:
            self._begun.discard(key)
            self.summary.failed.leave_out(UnusableError(str(error), question.id))
            if not error.out_of_reach:
                self._in_a_row = 0
                return
            self.out_of_reach = error
            self._in_a_row += 1
            if self._in_a_row >= GIVE_UP_AFTER:
                self.stop.set()


def key_of(teacher: Teacher, question: Question, photo: bytes | None, photo_px: int) -> str:
    """Return the SHA-256 of what an answer depends on: teacher, prompt, photo and settings."""
    parts = [
        teacher.name,
        question.prompt.system,
        question.prompt.words,
        None if photo is None else hashlib.sha256(photo).hexdigest(),
        {**teacher.settings, "photo_px": photo_px},
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()


_PARSERS: dict[str, Callable[[str], object | None]] = {
    "answers": lambda text: text.strip() or None,
    "robots": lambda text: parse_robot_scores(text, Fleet.default().outcomes),
}


def _parses(question: Question, text: str) -> bool:
    return _PARSERS[question.ask](text) is not None


def _bytes_of(image: Path | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    with image.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)
