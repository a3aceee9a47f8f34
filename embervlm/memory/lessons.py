"""Corrections of one session, and which of them applies to a new request.

A lesson applies when the request means nearly the same (cosine of the reader's embeddings) at the
same kind of place. The newest that applies wins. Nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lesson:
    """One correction: the request's unit vector, its place, the right robots, and a sentence that
    says so."""

    direction: NDArray[np.float32]
    environment: str
    robots: tuple[str, ...]
    sentence: str


class Lessons:
    """The lessons of a session; `same_request` is the cosine, -1 to 1, from which one applies."""

    def __init__(self, same_request: float) -> None:
        self.same_request = same_request
        self._lessons: list[Lesson] = []

    def __len__(self) -> int:
        return len(self._lessons)

    def add(
        self,
        embedding: NDArray[np.float32],
        environment: str,
        robots: Sequence[str],
        *,
        note: str,
        task: str,
    ) -> None:
        """Remember that `robots` are right for a request of this embedding at this place."""
        number = len(self._lessons) + 1
        because = f": {note}" if note else ""
        sentence = f"lesson {number} (from {task!r}) applies{because}"
        lesson = Lesson(_unit(embedding), environment, tuple(robots), sentence)
        self._lessons.append(lesson)

    def recall(self, embedding: NDArray[np.float32], environment: str) -> Lesson | None:
        """Return the newest lesson that applies, or None."""
        direction = _unit(embedding)
        for lesson in reversed(self._lessons):
            alike = float(lesson.direction @ direction)
            if lesson.environment == environment and alike >= self.same_request:
                return lesson
        return None


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return unit
