"""What a teacher is told and asked: no label in it, nothing that is held out, read strictly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from embervlm.data.example import Example, Report, Turn
from embervlm.data.mixture import Source
from embervlm.data.scenarios import DATA_DIR, FILES, load
from embervlm.fleet import ENVIRONMENTS, Fleet
from embervlm.training.teacher_prompts import (
    REASONING,
    RobotScores,
    answer_prompt,
    parse_robot_scores,
    robots_prompt,
    write_robot_scores,
)
from embervlm.training.teacher_questions import robot_questions, set_questions

FLEET = Fleet.default()
SCORES = RobotScores(
    dict.fromkeys(FLEET.outcomes, 0.25), "rough", dict.fromkeys(REASONING, "because of the mud")
)


def test_scores_are_read_back_as_they_were_written() -> None:
    drawn = random.Random(1)
    for _ in range(50):
        scores = RobotScores(
            {name: drawn.choice([0.0, 1.0, drawn.random()]) for name in FLEET.outcomes}
            | {"Drone": 0.5},
            drawn.choice(ENVIRONMENTS),
            {name: f"line {drawn.random()} äöü" for name in REASONING},
        )
        text = write_robot_scores(scores)
        assert parse_robot_scores(text, FLEET.outcomes) == scores
        assert parse_robot_scores(f" ```json\n{text}\n```\n", FLEET.outcomes) == scores


def _with(**changes: Any) -> str:
    return json.dumps({**json.loads(write_robot_scores(SCORES)), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "Send the Drone.", "{" * 5000, _with(place="mars"), _with(place=3),
        _with(more=1), _with(scores={"Drone": 1}), _with(scores=[1] * 6), _with(reasoning="why"),
        _with(scores=dict.fromkeys(FLEET.outcomes, 0)),
        _with(scores={**SCORES.scores, "Drone": 1.01}),
        _with(scores={**SCORES.scores, "Drone": -0.1}),
        _with(scores={**SCORES.scores, "Drone": True}),
        _with(scores={**SCORES.scores, "Drone": "1"}),
        _with(scores={**SCORES.scores, "Drone": float("nan")}),
        _with(scores={**SCORES.scores, "Boat": 0.5}),
        _with(reasoning={**SCORES.reasoning, "task": " "}),
        _with(reasoning={**SCORES.reasoning, "task": "x" * 400}),
        write_robot_scores(SCORES) + " Send it!", "Here: " + write_robot_scores(SCORES),
        write_robot_scores(SCORES).replace('"place"', '"place": "none", "place"'),
    ],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    assert parse_robot_scores(text, FLEET.outcomes) is None


def test_the_prompt_is_the_fleet_file_and_the_words() -> None:
    prompt = robots_prompt("Look behind the shed.", FLEET)
    for robot in FLEET:
        assert robot.name in prompt.system
        assert all(f"{number:g}" in prompt.system for number in robot.limits.values())
    assert prompt.words == "Request: Look behind the shed."
    assert prompt.system == robots_prompt(None, FLEET).system
    assert answer_prompt("Is it red?").words == "Is it red?"
    assert "picture" in answer_prompt(None).words


def _copy(folder: Path, change: Any) -> Path:
    """Write our sets with other labels into a folder."""
    folder.mkdir()
    for name in FILES:
        rows = [change({**row}) for row in load(name)[:400]]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    return folder


def test_no_label_reaches_a_prompt(tmp_path: Path) -> None:
    def other(row: dict[str, Any]) -> dict[str, Any]:
        for key in ("actions", "limits", "conflict", "pair", "kind"):
            row.pop(key, None)
        if "suited" in row:
            row |= {"suited": ["Humanoid"], "primary": "Humanoid", "environment": "none"}
        for step in row.get("plan", []):
            step |= {"robot": "Humanoid", "subtask": "other"}
        row["reasoning"] = {"task": "other"}
        return row

    first = list(robot_questions(None, directory=_copy(tmp_path / "a", dict)))
    second = list(robot_questions(None, directory=_copy(tmp_path / "b", other)))
    assert first == second
    assert len(first) > 300
    systems = {question.prompt.system for question in first}
    assert len(systems) == 1, "one instruction, whatever the request"
    by_id = {row["id"]: row["task"] for name in FILES for row in load(name)}
    for question in first:
        assert question.prompt.words == f"Request: {by_id[question.id]}"


def test_of_ours_only_the_train_split_is_asked() -> None:
    asked = {question.id for question in robot_questions(None)}
    rows = [row for name in ("scenarios", "plans") for row in load(name)]
    assert asked == {row["id"] for row in rows if row["split"] == "train"}
    for split in ("validation", "test"):
        with pytest.raises(ValueError, match=f"of the {split} split"):
            next(robot_questions(None, split=split))


def test_photo_requests_show_photos_of_the_train_split(tmp_path: Path) -> None:
    home, photos = _copy(tmp_path / "data", dict), tmp_path / "photos"
    table: dict[str, Any] = {}
    for line in (DATA_DIR / "photos.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        of_its_kind = [r for r in table.values() if r["environment"] == row["environment"]]
        if sum(r["split"] == row["split"] for r in of_its_kind) < 3:
            table[row["file"]] = row
    lines = "".join(json.dumps(row) + "\n" for row in table.values())
    (home / "photos.jsonl").write_text(lines, "utf-8")
    for file in table:
        (photos / file).parent.mkdir(parents=True, exist_ok=True)
        (photos / file).touch()
    questions = robot_questions(photos, directory=home)
    shown = [question for question in questions if question.image is not None]
    assert len(shown) > 100
    for question in shown:
        assert isinstance(question.image, Path)
        photo = table[str(question.image.relative_to(photos))]
        assert photo["split"] == "train"
        assert question.id.endswith(f" {photo['environment']}")
        assert question.id not in question.prompt.words


def _source(name: str, weight: float, count: int, split: str | None = "train") -> Source:
    def read(*, report: Report) -> Any:
        for i in range(count):
            turns = (Turn(f"{name} {i}?", "our answer"), Turn(None, "our answer"))
            yield Example(str(i), report.source, None, turns, split=split)

    return Source(f"{name} 1", weight, read)


def test_sets_are_asked_in_turn_by_weight_and_once() -> None:
    sources = [_source("a", 2.0, 4), _source("b", 1.0, 5)]
    asked = list(set_questions(sources, [Report("a"), Report("b")]))
    order = [one.id for one in asked if one.id.endswith(" 0")]
    assert [one[0] for one in order] == list("aabaabbbb")
    assert len(asked) == len({one.id for one in asked}) == 18
    assert not any("our answer" in repr(one) for one in asked)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_our_own_held_out_requests_are_refused_as_a_set_too(split: str) -> None:
    source = _source("scenarios", 1.0, 1, split)
    with pytest.raises(ValueError, match=f"of the {split} split; .* give 'split: train'"):
        next(set_questions([source], [Report("scenarios")]))
