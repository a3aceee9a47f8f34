"""A run of questions: resumed, killed, refused, in parallel; an answered question is never asked
again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

from chat_server import Endpoint, serve, words_of

from embervlm.cli import app
from embervlm.data.teacher_answers import AnswerFile, read_answers
from embervlm.endpoint import KEY_VARIABLE
from embervlm.fleet import Fleet
from embervlm.training.distill import Summary, distill, key_of, questions_of
from embervlm.training.teacher_prompts import (
    REASONING,
    RobotScores,
    answer_prompt,
    write_robot_scores,
)
from embervlm.training.teacher_questions import Question
from embervlm.training.teachers import Teacher, TeacherSettings, open_teacher

QUICK = TeacherSettings(retries=1, first_pause_s=0.01, timeout_s=5.0)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with serve() as found:
        yield found


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Return the JSON of a set of twelve questions about six pictures, one of them broken."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i:012d}.jpg")
    (folder / f"{5:012d}.jpg").write_bytes(b"\xff\xd8\xff no picture")
    rows = [
        {
            "id": f"q{i}",
            "image": f"{i % 6:012d}.jpg",
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is number {i}?"},
                {"from": "gpt", "value": "our own answer"},
            ],
        }
        for i in range(12)
    ]
    (tmp_path / "llava.json").write_text(json.dumps(rows), "utf-8")
    entry = {"set": "llava_instruct", "images": str(folder)}
    return json.dumps([{**entry, "conversations": str(tmp_path / "llava.json")}])


def teacher_of(endpoint: Endpoint) -> Teacher:
    return open_teacher(f"openai:{endpoint.url}#tiny", QUICK)


def run(endpoint: Endpoint, data: str, path: Path, **more: Any) -> Summary:
    with AnswerFile(path) as file:
        return distill(teacher_of(endpoint), questions_of("answers", data, None, []), file, **more)


def counts(summary: Summary) -> tuple[int, int, int, int, int]:
    left_out = summary.left_out.left_out.total()
    return (
        summary.asked, summary.from_cache, summary.unparseable, summary.failures, left_out,
    )  # fmt: skip


def test_each_question_is_asked_once_and_photos_come_along(
    endpoint: Endpoint, data: str, tmp_path: Path
) -> None:
    path = tmp_path / "out" / "answers.jsonl"
    assert counts(run(endpoint, data, path)) == (10, 0, 0, 0, 2)
    assert counts(run(endpoint, data, path)) == (0, 10, 0, 0, 2)
    assert len(endpoint.asked) == 10
    found = {answer.id: answer for answer in read_answers(path)}
    one = found["llava_instruct 1 q7 0"]
    assert (one.question, one.answer) == ("What is number 7?", "About What is number 7?")
    assert one.image == str(tmp_path / "images" / f"{1:012d}.jpg")
    assert "our own answer" not in json.dumps(endpoint.asked)
    # Another size of the photos, or another teacher, is another question.
    assert run(endpoint, data, path, photo_px=32, limit=2).asked == 2


def test_a_key_is_of_all_that_an_answer_depends_on(endpoint: Endpoint) -> None:
    question = Question("answers", "1", answer_prompt("What?"), "What?", None)
    other = Question("answers", "1", answer_prompt("Where?"), "Where?", None)
    name = f"openai:{endpoint.url}"
    warm = TeacherSettings(temperature=1.0)
    keys = [
        key_of(open_teacher(f"{name}#a", QUICK), question, None, 768),
        key_of(open_teacher(f"{name}#b", QUICK), question, None, 768),
        key_of(open_teacher(f"{name}#a", warm), question, None, 768),
        key_of(open_teacher(f"{name}#a", QUICK), other, None, 768),
        key_of(open_teacher(f"{name}#a", QUICK), question, b"1", 768),
        key_of(open_teacher(f"{name}#a", QUICK), question, b"2", 768),
        key_of(open_teacher(f"{name}#a", QUICK), question, b"2", 512),
    ]
    assert len(set(keys)) == len(keys)
    again = Question("answers", "another id", answer_prompt("What?"), "What?", None)
    assert key_of(open_teacher(f"{name}#a", QUICK), again, None, 768) == keys[0]


def test_workers_ask_at_the_same_time_and_limit_is_of_the_questions(
    endpoint: Endpoint, data: str, tmp_path: Path
) -> None:
    endpoint.pause_s = 0.2
    path = tmp_path / "answers.jsonl"
    assert run(endpoint, data, path, workers=4, limit=5).asked == 5
    assert 2 <= endpoint.most_at_once <= 4
    assert counts(run(endpoint, data, path, workers=1, limit=5)) == (0, 5, 0, 0, 0)


def test_a_question_without_an_answer_is_counted_and_asked_by_the_next_run(
    endpoint: Endpoint, data: str, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    endpoint.first = [(400, {}, b"no"), (500, {}, b""), (500, {}, b"")]
    summary = run(endpoint, data, path, workers=1)
    assert counts(summary) == (8, 0, 0, 2, 2)
    assert "8 asked, 0 from the cache, 0 unparseable, 2 failed" in summary.sentence()
    assert "failed: 1 the server answered 400 (no) (llava_instruct 1 q0 0)" in summary.sentence()
    assert counts(run(endpoint, data, path)) == (2, 8, 0, 0, 2)


def test_a_teacher_that_goes_away_ends_the_run_and_the_answers_stay(
    endpoint: Endpoint, data: str, tmp_path: Path
) -> None:
    def answer(request: dict[str, Any]) -> str:
        if "number 3?" in words_of(request):
            endpoint.first = [(503, {}, b"")] * 99
        return "fine"

    endpoint.answer = answer
    with pytest.raises(ValueError, match="cannot be reached: .*503.* 4 answers in .*goes on"):
        run(endpoint, data, tmp_path / "answers.jsonl", workers=1)
    assert len(list(read_answers(tmp_path / "answers.jsonl"))) == 4
    endpoint.first = []
    assert run(endpoint, data, tmp_path / "answers.jsonl").from_cache == 4


@pytest.mark.parametrize("good", [True, False])
def test_robots_are_asked_and_what_cannot_be_parsed_is_kept_raw(
    good: bool, endpoint: Endpoint, tmp_path: Path
) -> None:
    outcomes = Fleet.default().outcomes
    scores = RobotScores(dict.fromkeys(outcomes, 0.5), "none", dict.fromkeys(REASONING, "so"))
    text = write_robot_scores(scores) if good else "I would send the drone."
    endpoint.answer = lambda request: text
    with AnswerFile(tmp_path / "robots.jsonl") as file:
        for times in range(2):
            found = distill(
                teacher_of(endpoint), questions_of("robots", "", None, []), file, limit=3
            )
            asked = (3, 0) if times == 0 else (0, 3)
            assert counts(found)[:3] == (*asked, 0 if good else 3)
    assert {answer.answer for answer in read_answers(tmp_path / "robots.jsonl")} == {text}


def test_a_photo_from_an_archive_is_kept_beside_the_answers(
    endpoint: Endpoint, photo: Path, tmp_path: Path
) -> None:
    data = photo.read_bytes()
    questions = [Question("answers", "1", answer_prompt(None), None, data)]
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        assert distill(teacher_of(endpoint), questions, file).asked == 1
    (answer,) = read_answers(tmp_path / "answers.jsonl")
    assert answer.image is not None
    assert Path(answer.image).read_bytes() == data


def start(endpoint: Endpoint, data: str, out: Path, **more: Any) -> subprocess.Popen[str]:
    words = ["distill", "--teacher", f"openai:{endpoint.url}#tiny", "--ask", "answers"]
    words += ["--data", data, "--out", str(out), "--workers", "1"]
    # A run in the background is born deaf to SIGINT; this one listens again.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from embervlm.cli import app; app(sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_asks_only_what_is_missing(
    blow: signal.Signals, endpoint: Endpoint, data: str, tmp_path: Path
) -> None:
    endpoint.pause_s = 0.3
    process = start(endpoint, data, tmp_path)
    wait_for(lambda: len(endpoint.asked) >= 4, process)
    process.send_signal(blow)
    _, told = process.communicate()
    kept = len(list(read_answers(tmp_path / "answers.jsonl")))
    assert len(endpoint.asked) - 1 <= kept <= len(endpoint.asked), "one was on its way at most"
    if blow == signal.SIGINT:
        assert process.returncode == 130
        assert f"Stopped: {kept} answers in" in told
        assert "Traceback" not in told
    before = len(endpoint.asked)
    endpoint.pause_s = 0.0
    with (tmp_path / "answers.jsonl").open("ab") as file:
        file.write(b'{"key": "half of a li')
    assert counts(run(endpoint, data, tmp_path / "answers.jsonl")) == (10 - kept, kept, 0, 0, 2)
    assert len(endpoint.asked) - before == 10 - kept
    found = [answer.question for answer in read_answers(tmp_path / "answers.jsonl")]
    assert len(found) == len(set(found)) == 10


def test_the_command_line(
    endpoint: Endpoint, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embervlm.endpoint.time.sleep", lambda pause_s: None)
    begin = ["distill", "--teacher", f"openai:{endpoint.url}#tiny", "--out", str(tmp_path)]
    answers = [*begin, "--ask", "answers", "--data", data]
    found = CliRunner().invoke(app, answers)
    assert found.exit_code == 0, found.output
    assert "answers.jsonl: 10 asked, 0 from the cache, 0 unparseable, 0 failed" in found.output
    assert "left out: 2 broken picture" in found.output
    endpoint.first = [(400, {}, b"")]
    assert CliRunner().invoke(app, [*answers, "--max-tokens", "9"]).exit_code == 1
    endpoint.first = [(503, {}, b"")] * 999
    found = CliRunner().invoke(app, [*answers, "--max-tokens", "8", "--retries", "1"])
    assert found.exit_code == 2
    assert "cannot be reached: the server answered 503, 2 times in a row" in found.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ask", "logits"], "--ask is 'logits'; there are answers and robots"),
        (["--ask", "answers"], "--ask answers needs --data"),
        (["--ask", "answers", "--data", "{"], "--data is not JSON"),
        (["--ask", "answers", "--data", '{"set": "gqa"}'], "expected a list of sets"),
        (["--ask", "answers", "--data", '[{"set": "none"}]'], "There is no set 'none'"),
        (["--ask", "robots", "--data", "[]"], "--data is for --ask answers"),
        (["--ask", "answers", "--data", "[]", "--photos", "."], "--photos is for --ask robots"),
        (["--ask", "robots", "--temperature", "9"], "temperature is 9.0; it must be from 0 to 2"),
        (["--ask", "robots", "--logits", "5"], "give --logits and --student together"),
        (["--ask", "robots", "--teacher", "me"], "There is no teacher 'me'"),
    ],
)
def test_a_wrong_command_gets_a_sentence_and_code_2(
    words: list[str], says: str, tmp_path: Path
) -> None:
    begin = ["distill", "--teacher", "openai:http://localhost:9/v1#m", "--out", str(tmp_path)]
    found = CliRunner().invoke(app, [*begin, *words])
    assert found.exit_code == 2
    assert says in " ".join(found.output.split())
    assert not list(tmp_path.iterdir())
