"""A teacher's answers on the disk: whole lines, one writer, and a set to train on."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from embervlm.data.example import Report
from embervlm.data.public import open_set
from embervlm.data.teacher_answers import AnswerFile, TeacherAnswer, read_answers

WORDS = "da\n\u2028 ä"
ANSWER = TeacherAnswer("a1", "answers", "7", "local:t", question="wo?", image=None, answer=WORDS)


def test_a_line_is_read_back_as_it_was() -> None:
    full = replace(ANSWER, image="a/b.jpg", cut=True, top={"k": 1})
    for one in (ANSWER, full, replace(ANSWER, question=None)):
        line = one.to_line()
        assert line.count("\n") == 1
        assert TeacherAnswer.from_line(line) == one


@pytest.mark.parametrize(
    "line",
    ["", "7", "{}", '{"key": 1}', "[" * 9, ANSWER.to_line().replace('"a1"', "1"),
     ANSWER.to_line().replace('"answers"', '"anything"'), ANSWER.to_line().replace("false", "0")],
)  # fmt: skip
def test_what_is_no_answer_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        TeacherAnswer.from_line(line)


@pytest.mark.parametrize("kept", range(0, 60, 7))
def test_a_torn_last_line_is_dropped_and_the_rest_goes_on(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    with AnswerFile(path) as file:
        file.add(ANSWER)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    assert list(read_answers(path)) == [ANSWER]
    with AnswerFile(path) as file:
        assert file.known == {"a1": WORDS}
        file.add(replace(ANSWER, key="b2"))
    assert [one.key for one in read_answers(path)] == ["a1", "b2"]


def test_a_damaged_line_in_the_midst_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(ANSWER.to_line() + "half\n" + ANSWER.to_line(), "utf-8")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="answers.jsonl, line 2: this is no answer"):
        AnswerFile(path)
    assert path.read_bytes() == before


def test_a_second_writer_is_turned_away(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path), pytest.raises(ValueError, match="written by another process"):
        AnswerFile(path)
    AnswerFile(path).__exit__()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as file:
        file.add(ANSWER)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            file.add(replace(ANSWER, key="b2"))
        monkeypatch.undo()
        file.add(replace(ANSWER, key="c3"))
    assert [one.key for one in read_answers(path)] == ["a1", "c3"]


def test_the_answers_are_a_set(tmp_path: Path, photo: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as file:
        file.add(ANSWER)
        file.add(replace(ANSWER, key="2", image=photo.name, question=None))
        file.add(replace(ANSWER, key="3", image=str(photo)))
        file.add(replace(ANSWER, key="4", image="nowhere.jpg"))
        file.add(replace(ANSWER, key="5", cut=True))
        file.add(replace(ANSWER, key="6", ask="robots"))
    report = Report("teacher_answers")
    found = list(open_set("teacher_answers", answers=path, images=photo.parent, report=report))
    assert [one.image for one in found] == [None, photo, photo]
    assert [one.turns[0].question for one in found] == ["wo?", None, "wo?"]
    assert found[0].turns[0].answer == "da ä"
    assert sorted(report.left_out) == [
        "cut answer", "missing image", "scores of robots, which are for select"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="cannot be read"):
        next(open_set("teacher_answers", answers=tmp_path / "none.jsonl"))
