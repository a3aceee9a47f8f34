"""Our own scenarios and EmberVLM's tasks become questions and answers that keep their robots."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from publishers import jpeg

from embervlm.data.example import Report
from embervlm.data.photos import load_photos
from embervlm.data.public import open_set
from embervlm.data.scenarios import DATA_DIR, load

SPLITS = ("train", "validation", "test")


def test_every_request_and_plan_of_a_split_is_asked_once() -> None:
    for split in SPLITS:
        examples = list(open_set("scenarios", split=split))
        rows = [*load("scenarios", split), *load("plans", split)]
        assert [e.id for e in examples] == [row["id"] for row in rows]
        assert {e.split for e in examples} == {split}
        for example, row in zip(examples, rows, strict=True):
            (turn,) = example.turns
            assert turn.question == row["task"]
            assert all(robot in turn.answer for robot in row["suited"])
            assert example.image is None


def test_a_step_stands_below_all_that_it_waits_for() -> None:
    answers = {
        e.id: e.turns[0].answer.split("\n")
        for split in SPLITS
        for e in open_set("scenarios", split=split)
    }
    for row in load("plans"):
        lines = answers[row["id"]]
        assert len(lines) == len(row["plan"])
        told = [line.partition(". ")[2] for line in lines]
        at = [told.index(f"{step['robot']}: {step['subtask']}") for step in row["plan"]]
        for i, step in enumerate(row["plan"]):
            for j in step["after"]:
                assert at[j] < at[i]
                assert int(lines[at[j]].split(".")[0]) < int(lines[at[i]].split(".")[0])


def test_a_photo_is_of_the_place_and_of_the_split(tmp_path: Path) -> None:
    table = {photo.file: photo for photo in load_photos(DATA_DIR / "photos.jsonl")}
    missing = next(file for file, photo in table.items() if photo.environment == "paved")
    for file in table.keys() - {missing}:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    (tmp_path / next(iter(table))).write_bytes(jpeg())
    report = Report("scenarios")
    given = {"report": report, "photos": str(tmp_path)}
    shown = [e for split in SPLITS for e in open_set("scenarios", split=split, **given) if e.image]
    used = defaultdict(set)
    for example in shown:
        assert isinstance(example.image, Path)
        photo = table[str(example.image.relative_to(tmp_path))]
        assert (photo.environment, photo.split) == (example.id.split()[1], example.split)
        used[photo.file].add(example.split)
    assert all(len(splits) == 1 for splits in used.values())
    asked = sum(len(row["by_environment"]) for row in load("photo_requests"))
    assert len(shown) + report.left_out.total() == asked


def test_what_names_no_split_is_of_the_training_split() -> None:
    assert {example.split for example in open_set("scenarios")} == {"train"}


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split 'exam'"):
        open_set("scenarios", split="exam")
