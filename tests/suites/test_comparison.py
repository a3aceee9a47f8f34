"""A model from outside under our protocol: a scripted server, whose figures are a closed form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import chat_server
import pytest
from chat_server import words_of
from typer.testing import CliRunner

from embervlm.cli import app
from embervlm.evaluation.cases import text_cases
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.suites.asking import AnswerFile, Question, ask_all, key_of, open_outside
from embervlm.suites.comparison import compare, dispatch_prompt, parse_robots
from embervlm.training.teachers import Teacher, TeacherSettings

SPLIT, OUTCOMES = "validation", Fleet.default().outcomes
QUICK = TeacherSettings(retries=0, first_pause_s=0.01)


@pytest.fixture
def point() -> Iterator[chat_server.Endpoint]:
    with chat_server.serve() as found:
        yield found


def model_at(point: chat_server.Endpoint) -> Teacher:
    return open_outside(f"openai:{point.url}#scripted", QUICK)


def said(*robots: str) -> str:
    return json.dumps({"robots": robots})


def task_of(request: dict) -> str:
    return words_of(request).removeprefix("Request: ")


@pytest.mark.parametrize(
    ("text", "robots"),
    [
        (said("Drone", "Humanoid"), ("Drone", "Humanoid")),
        (f"```json\n{said(NO_ROBOT)}\n```", (NO_ROBOT,)),
        (said(), None),
        (said("drone"), None),
        (said("Drone", "Drone"), None),
        (said("Drone", NO_ROBOT), None),
        (f"Of course: {said('Drone')}", None),
        ('{"robots": "Drone"}', None),
        ('{"robots": ["Drone"], "why": "it flies"}', None),
        ("Drone", None),
    ],
)
def test_reading_is_strict(text: str, robots: tuple[str, ...] | None) -> None:
    assert parse_robots(text, OUTCOMES) == robots


def test_the_prompt_names_each_robot_and_its_numbers_and_no_label() -> None:
    prompt = dispatch_prompt("Look at the roof.", Fleet.default())
    for robot in Fleet.default():
        assert f"- {robot.name}: " in prompt.system
        assert all(f"{value:g}" in prompt.system for value in robot.limits.values())
    assert prompt.words == "Request: Look at the roof."
    assert (
        len({dispatch_prompt(c.scenario.task, Fleet.default()).system for c in text_cases(SPLIT)})
        == 1
    )


def test_figures_of_a_scripted_server_are_the_closed_form(
    point: chat_server.Endpoint, tmp_path: Path
) -> None:
    cases = text_cases(SPLIT)
    place = {case.scenario.task: i for i, case in enumerate(cases)}
    assert len(place) == len(cases)

    def answer(request: dict) -> str:
        """Of each four: right, right in the reverse order, not to be read, another set."""
        i = place[task_of(request)]
        robots = cases[i].truth.robots
        if i % 4 == 0:
            return said(*robots)
        if i % 4 == 1:
            return said(*reversed(robots))
        return "The Drone, I think." if i % 4 == 2 else said(*_another(robots))

    point.answer = answer
    report = compare(model_at(point), SPLIT, None, tmp_path / "a.jsonl", workers=4)
    (row,) = report["tables"]["requests and plans"].values()
    n = len(cases)
    right = [i % 4 < 2 for i in range(n)]
    assert row["exact_set"]["value"] == pytest.approx(sum(right) / n, abs=5e-5)
    assert row["unreadable"]["value"] == pytest.approx(
        sum(i % 4 == 2 for i in range(n)) / n, abs=5e-5
    )
    first = [
        i % 4 == 0 and c.truth.robots[0] == c.truth.primary
        or i % 4 == 1 and c.truth.robots[-1] == c.truth.primary
        for i, c in enumerate(cases)
    ]  # fmt: skip
    assert row["primary"]["value"] == pytest.approx(sum(first) / n, abs=5e-5)
    true = Counter(name for c in cases for name in c.truth.robots)
    hit = sum(right[i] and "Drone" in c.truth.robots for i, c in enumerate(cases))
    assert row["recall Drone"]["value"] == pytest.approx(hit / true["Drone"], abs=5e-5)
    assert row["exact_set"]["n"] == n
    assert report["about"]["asked"]["requests"]["answered"] == n
    assert all(request["temperature"] == 0 for request in point.asked)


def _another(robots: tuple[str, ...]) -> tuple[str, ...]:
    return ("Humanoid",) if robots == (NO_ROBOT,) else (NO_ROBOT,)


def test_a_server_that_always_says_one_robot_has_that_robots_share(
    point: chat_server.Endpoint, tmp_path: Path
) -> None:
    point.answer = lambda request: said("Drone")
    report = compare(model_at(point), SPLIT, None, tmp_path / "a.jsonl", limit=100, workers=4)
    (row,) = report["tables"]["requests and plans"].values()
    truths = [case.truth for case in text_cases(SPLIT)[:100]]
    alone = sum(t.robots == ("Drone",) for t in truths) / 100
    among = sum("Drone" in t.robots for t in truths) / 100
    assert (row["exact_set"]["value"], row["top1"]["value"]) == pytest.approx((alone, among))
    assert row["precision Drone"]["value"] == pytest.approx(among)
    assert row["recall Drone"]["value"] == 1


def test_a_run_goes_on_where_it_stopped_and_asks_nothing_twice(
    point: chat_server.Endpoint, tmp_path: Path
) -> None:
    model, file = model_at(point), tmp_path / "a.jsonl"
    questions = [Question(dispatch_prompt(f"task {i}", Fleet.default())) for i in range(6)]
    point.answer = lambda request: said("Drone")
    point.first = [None, None, None, "cut"]
    with AnswerFile(file) as kept, pytest.raises(ValueError, match="goes on from there"):
        ask_all(model, questions, kept)
    done = len(file.read_bytes().splitlines())
    assert 3 <= done < 6
    with file.open("ab") as torn:
        torn.write(b'{"key": "cut off')
    before = len(point.asked)
    with AnswerFile(file) as kept:
        assert [one.text for one in ask_all(model, questions, kept)] == [said("Drone")] * 6
        assert len(point.asked) - before == 6 - done
        ask_all(model, questions, kept)
    assert len(point.asked) - before == 6 - done


def test_what_an_answer_depends_on_is_in_its_key(photo: Path, tmp_path: Path) -> None:
    model = open_outside("openai:http://localhost:1/v1#a", QUICK)
    other = open_outside("openai:http://localhost:1/v1#b", QUICK)
    longer = open_outside("openai:http://localhost:1/v1#a", TeacherSettings(max_tokens=9))
    prompt = dispatch_prompt("task", Fleet.default())
    assert len(
        {
            key_of(model, Question(prompt)),
            key_of(other, Question(prompt)),
            key_of(longer, Question(prompt)),
            key_of(model, Question(prompt, photo)),
            key_of(model, Question(dispatch_prompt("task 2", Fleet.default()))),
        }
    ) == 5  # fmt: skip
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="line 1, is no kept answer"):
        AnswerFile(foreign)


def test_a_refused_question_is_counted_and_not_the_end(
    point: chat_server.Endpoint, tmp_path: Path
) -> None:
    point.answer = lambda request: said("Drone")
    point.first = [(400, {}, b"too long")]
    report = compare(model_at(point), SPLIT, None, tmp_path / "a.jsonl", limit=4)
    (row,) = report["tables"]["requests and plans"].values()
    assert row["unreadable"]["value"] == 0.25
    (why,) = report["about"]["asked"]["requests"]["without an answer"]
    assert "400" in why


def test_the_command_prints_and_writes_the_report(
    point: chat_server.Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    point.answer = lambda request: said("Drone")
    out, kept = tmp_path / "r.json", tmp_path / "a.jsonl"
    arguments = [
        "eval", "--model", f"openai:{point.url}#scripted", "--split", SPLIT, "--only", "requests",
        "--limit", "5", "--no-baselines", "--answers", str(kept), "--json", str(out),
        "--report", str(tmp_path / "report"),
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["about"]["limit"] == 5
    title = (tmp_path / "report" / "report.md").read_text().splitlines()[0]
    assert title == f"# Evaluation of openai:{point.url}#scripted on the {SPLIT} split"
    assert point.headers[0]["Authorization"] == "Bearer secret-key"
    assert "secret-key" not in out.read_text() + kept.read_text() + done.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--limit", "3"], "--limit and --workers are for a model from outside"),
        (["--model", "openai:http://localhost:1/v1"], "is no endpoint"),
        (["--model", "openai:http://localhost:1/v1#m", "--only", "fleets"], "not measured on"),
        (["--model", "openai:http://localhost:1/v1#m", "--only", "photos"], "needs --shared"),
        (["--model", "openai:http://localhost:1/v1#m", "--backend", "onnx"], "leave out --backend"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["eval", "--no-baselines", *arguments])
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())


def test_photo_requests_are_asked_with_the_photo_and_without(
    point: chat_server.Endpoint, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embervlm.evaluation.cases import Case
    from embervlm.evaluation.metrics import Truth
    from embervlm.scenario import Scenario

    cases = [
        Case(Scenario(f"look {i}", photo), Truth(f"im-{i}", f"look {i}", ("Drone",), "Drone"))
        for i in range(4)
    ]
    monkeypatch.setattr("embervlm.suites.comparison.photo_cases", lambda *_: cases)

    def answer(request: dict) -> str:
        return said("Drone" if isinstance(request["messages"][-1]["content"], list) else NO_ROBOT)

    point.answer = answer
    model = model_at(point)
    report = compare(model, SPLIT, tmp_path, tmp_path / "a.jsonl", parts=["photos"])
    rows = report["tables"]["requests that the photo settles"]
    assert rows[f"{model.name}, with the photo"]["exact_set"]["value"] == 1
    assert rows[f"{model.name}, without the photo"]["exact_set"]["value"] == 0
