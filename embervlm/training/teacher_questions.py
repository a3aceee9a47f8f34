"""What a teacher is asked: the questions of public sets, or which robots suit our own requests.

    for question in robot_questions(photos=None): ...      # our train split, and nothing else

A question takes over the words and the photo of an example, never its answer; what is held out from
training is not asked either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embervlm.data.example import Example, Report
from embervlm.data.mixture import Source
from embervlm.data.public import open_set
from embervlm.fleet import Fleet
from embervlm.training.teacher_prompts import Prompt, answer_prompt, robots_prompt

OURS = "scenarios"


@dataclass(frozen=True)
class Question:
    """What a teacher is asked, and what of it a student will read.

    `said` is the student's part, None where it is a caption's. `image` is a file or its bytes.
    """

    ask: str
    id: str
    prompt: Prompt
    said: str | None
    image: Path | bytes | None


def robot_questions(
    photos: Path | None, *, split: str = "train", directory: Path | None = None
) -> Iterator[Question]:
    """Yield our requests and plans, and with the folder of the photos the requests that a photo
    settles, once for each environment.

    The id is that of the row; of a photo request with the photo's environment behind it.

    Raises:
        ValueError: another split than train is asked for, or see `data.robot_requests.scenarios`.
    """
    fleet = Fleet.default()
    examples = open_set(OURS, split=split, directory=directory, photos=photos)
    for example in examples:
        check_is_for_training(example)
        task = example.turns[0].question
        yield Question("robots", example.id, robots_prompt(task, fleet), task, example.image)


def set_questions(sources: Sequence[Source], reports: Sequence[Report]) -> Iterator[Question]:
    """Yield every question of some sets once, the sets in turn as their weights have it.

    Each exchange of a conversation is a question of its own, as it is in training. Where a set has
    captions, one is asked for each picture that it names. `reports`, one a set and of its name, say
    what was left out.

    Raises:
        ValueError: an example is held out, or see `data.example`.
    """
    running = [
        (source, source.read(report=report))
        for source, report in zip(sources, reports, strict=True)
    ]
    drawn = [0] * len(running)
    waiting = set(range(len(running)))
    while waiting:
        at = min(waiting, key=lambda i: ((drawn[i] + 1) / running[i][0].weight, i))
        source, examples = running[at]
        example = next(examples, None)
        if example is None:
            waiting.remove(at)
            continue
        drawn[at] += 1
        check_is_for_training(example)
        for number, turn in enumerate(example.turns):
            yield Question(
                "answers",
                f"{source.name} {example.id} {number}",
                answer_prompt(turn.question),
                turn.question,
                example.image,
            )


def check_is_for_training(example: Example) -> None:
    """Refuse what of our own data is held out.

    Raises:
        ValueError: the example is of our validation or test split.
    """
    if example.source == OURS and example.split != "train":
        raise ValueError(
            f"{example.id} is of the {example.split} split; a teacher is only asked about the "
            "train split: give 'split: train'."
        )
