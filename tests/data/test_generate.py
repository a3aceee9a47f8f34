"""Joined jobs carry their parts' labels, and their links follow from the words that join them."""

import random

import pytest

from embervlm.data.generate import MOST_STEPS, Joined, Part, compose, continued, parts_of

PARTS = [
    Part(f"{verb} the {thing} {i}", (robot,), (verb,), {}, "paved")
    for i, (verb, thing, robot) in enumerate(
        [
            ("look", "roof", "Drone"),
            ("carry", "box", "Robot with Wheels"),
            ("handle", "valve", "Humanoid"),
            ("sample", "lake", "Underwater Robot"),
            ("measure", "ruin", "Robot with Legs"),
            ("search", "wood", "Robot with Legs"),
        ]
    )
]


def jobs(count: int = 300) -> list[Joined]:
    rng = random.Random(7)
    return [compose(PARTS, rng) for _ in range(count)]


def test_every_step_stands_in_its_own_words() -> None:
    for job in jobs():
        assert 1 <= len(job.steps) <= MOST_STEPS
        for step in job.steps:
            assert step.part.text.rstrip(".") in job.task[slice(*step.span)]
        spans = sorted(step.span for step in job.steps)
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_steps_stand_behind_those_that_they_wait_for() -> None:
    links = 0
    for job in jobs():
        for i, step in enumerate(job.steps):
            assert all(0 <= j < i for j in step.after)
            links += len(step.after)
    assert links > 100


@pytest.mark.parametrize(
    ("words", "waits"),
    [("once that is done, ", True), ("meanwhile, ", False), ("but before that, ", None)],
)
def test_words_say_what_waits(words: str, waits: bool | None) -> None:
    found = [job for job in jobs(2000) if words in job.task and len(job.steps) == 2]
    assert found
    for job in found:
        said_first = job.steps[0].span < job.steps[1].span
        assert bool(job.steps[1].after) == (waits is not False)
        assert said_first == (waits is not None)


def test_a_plan_goes_on_with_one_step_more() -> None:
    rng = random.Random(3)
    for _ in range(200):
        after = [(), (0,)]
        task, step = continued("Look at it. Then carry it.", after, rng.choice(PARTS), rng)
        assert task.startswith("Look at it. Then carry it.")
        assert step.part.text in task[slice(*step.span)]
        assert step.after in ((), (0,), (1,), (0, 1))
    assert after == [(), (0,)]


def test_the_parts_of_training_are_for_robots_and_of_one_step() -> None:
    parts = parts_of("train")
    assert len(parts) > 5000
    assert all(part.robots and "No Robot" not in part.robots for part in parts)
    assert {part.environment is None for part in parts} == {True, False}
