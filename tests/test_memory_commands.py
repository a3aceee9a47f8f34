"""`embervlm memory`: what it prints, what it keeps, and that `decide` follows it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embervlm import cli

Run = Callable[..., Result]
TASK = "look under the bridge"


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with the tiny model and a home of its own."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("EMBERVLM_HOME", str(tmp_path / "home"))

    def invoke(*words: object) -> Result:
        arguments = [str(word) for word in words]
        if arguments[0] == "decide" or arguments[1] in ("add", "consolidate"):
            arguments += ["--model", str(tiny_model)]
        return CliRunner().invoke(cli.app, arguments)

    return invoke


@pytest.fixture
def wanted(run: Run) -> str:
    """Return a robot that the tiny model would not send alone and that may be sent."""
    decision = json.loads(run("decide", TASK, "--json").stdout)
    for name in ("Drone", "Robot with Legs", "Humanoid", "Robot with Wheels"):
        if decision["robots"] != [name]:
            found = run("memory", "add", "--task", TASK, "--robots", name, "--memory", "probe.db")
            Path("probe.db").unlink()
            if found.exit_code == 0:
                return name
    raise AssertionError("the tiny model rules everything out")


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def decided(run: Run, *words: object) -> list[str]:
    result = run("decide", TASK, "--json", *words)
    assert result.exit_code == 0, result.stderr
    robots: list[str] = json.loads(result.stdout)["robots"]
    return robots


def test_a_lesson_is_taught_followed_listed_forgotten_and_brought_back(
    run: Run, wanted: str, tmp_path: Path
) -> None:
    plain = decided(run)
    assert not (tmp_path / "home").exists()
    added = run(
        "memory", "add", "--task", TASK, "--robots", wanted, "--note", "the deck hides it",
        "--author", "Ada",
    )  # fmt: skip
    assert added.exit_code == 0, added.stderr
    assert added.stdout.startswith(f"Lesson 1: Send the {wanted}")
    result = json.loads(run("decide", TASK, "--json").stdout)
    assert result["robots"] == [wanted]
    assert result["lessons"] == [1]
    assert "lesson 1 of " in result["memory"][0]
    assert "the deck hides it" in run("decide", TASK).stdout
    assert decided(run, "--no-memory") == plain
    assert decided(run, "--site", "other") == plain
    listed = run("memory", "list").stdout
    for part in ("1", TASK, "Ada", "in force"):
        assert part in listed
    shown = run("memory", "show", 1).stdout
    assert "source_decision" in shown
    assert json.loads(run("memory", "show", 1, "--json").stdout)["metadata"]["author"] == "Ada"
    assert run("memory", "list", "--site", "other").stdout == "No lessons.\n"
    assert json.loads(run("memory", "list", "deck", "--json").stdout)[0]["id"] == 1
    assert json.loads(run("memory", "list", "cheese", "--json").stdout) == []
    assert run("memory", "forget", 1).stdout == "Lesson 1 is forgotten.\n"
    for _ in range(2):
        run("memory", "add", "--task", TASK, "--robots", wanted)
    assert run("memory", "forget", 3).stdout == (
        "Lesson 3 is forgotten.\nLesson 2, which it had replaced, is in force again.\n"
    )
    run("memory", "forget", 2)
    assert decided(run) == plain
    assert "retired" in run("memory", "list", "--all").stdout


@pytest.mark.parametrize(
    "words",
    [
        ["decide", TASK],
        ["decide", "--batch", "in.jsonl", "--out", "out.jsonl"],
        ["memory", "list"],
        ["memory", "show", "1"],
        ["memory", "forget", "1"],
        ["memory", "rollback", "--to", "2020-01-01"],
        ["memory", "export"],
        ["memory", "stats"],
        ["memory", "consolidate"],
    ],
)
def test_a_named_place_that_is_not_there_is_refused(run: Run, words: list[str]) -> None:
    Path("in.jsonl").write_text('{"id": 1, "task": "look"}\n')
    result = run(*words, "--memory", "gud.sqlite")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("embervlm: --memory gud.sqlite is not there; check the path")
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl"]


def test_a_rollback_on_the_command_line_takes_all_back(run: Run, wanted: str) -> None:
    run("memory", "add", "--task", TASK, "--robots", wanted)
    assert run("memory", "rollback", "--to", "2020-01-01").stdout == (
        "0 lessons came back, 1 went; now 0 in force.\n"
    )
    assert "1 retired" not in run("memory", "stats").stdout
    stats = json.loads(run("memory", "stats", "--json").stdout)
    assert (stats["in_force"], stats["retired"], stats["events"]) == (0, 1, 2)
    assert len(stats["newest_digest"]) == 64


def test_export_and_import(run: Run, wanted: str, tmp_path: Path) -> None:
    run("memory", "add", "--task", TASK, "--robots", wanted)
    out = tmp_path / "lessons.jsonl"
    assert run("memory", "export", "--out", out).stdout == f"{out}: 1 lesson.\n"
    assert run("memory", "export").stdout == out.read_text()
    words = ("memory", "import", out, "--memory", tmp_path / "new.sqlite")
    assert run(*words).stdout.startswith("1 lesson added; 0 here before")
    assert run(*words).stdout.startswith("0 lessons added; 1 here before")
    assert decided(run, "--memory", tmp_path / "new.sqlite") == [wanted]
    run("memory", "forget", 1, "--memory", tmp_path / "new.sqlite")
    assert run(*words).stdout.startswith("0 lessons added; 1 here before (1 out of force)")


def test_consolidate_says_what_it_did_and_proposes_rows(
    run: Run, wanted: str, tmp_path: Path
) -> None:
    run("memory", "add", "--task", TASK, "--robots", wanted)
    done = run("memory", "consolidate", "--out", tmp_path / "own" / "scenarios.jsonl")
    assert done.exit_code == 0, done.stderr
    assert "0 merged, 0 retired." in done.stdout
    assert "1 row proposed; read" in done.stdout
    (row,) = (tmp_path / "own" / "scenarios.jsonl").read_text().splitlines()
    assert json.loads(row)["suited"] == [wanted]


def test_a_folder_to_write_to_is_refused_before_anything_is_done(
    run: Run, wanted: str, tmp_path: Path
) -> None:
    for number in range(2):
        run("memory", "add", "--task", f"{TASK}{'!' * number}", "--robots", wanted)
    (tmp_path / "own").mkdir()
    stats = run("memory", "stats").stdout
    for command in ("export", "consolidate"):
        result = run("memory", command, "--out", tmp_path / "own")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"embervlm: {tmp_path / 'own'} is a folder; give a file.\n"
    assert not (tmp_path / "own.unfinished").exists()
    assert run("memory", "stats").stdout == stats


def test_a_contradiction_is_kept_in_quarantine(run: Run, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "robots:\n  - {name: Fish, capabilities: [dive], limits: {min_depth_m: 999}}\n"
        "  - {name: Ant, capabilities: [look], limits: {payload_kg: 0, endurance_min: 0, "
        "max_distance_m: 0, max_step_cm: 0, max_wind_kmh: 0}}\n"
    )
    task = "carry 900 kg for 900 hours"
    result = run("memory", "add", "--task", task, "--robots", "Ant", "--fleet", fleet)
    # What the random network takes the numbers for decides whether a limit is broken.
    assert result.exit_code in (0, 1)
    if result.exit_code == 1:
        assert "in quarantine" in result.stderr
        assert "quarantined" in run("memory", "list").stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["memory", "add", "--task", TASK, "--robots", "crane"], "No robot is called 'crane'"),
        (["memory", "add", "--task", TASK, "--robots", " , "], "Feedback needs one or more"),
        (["memory", "add", "--robots", "Drone"], "Nothing was asked"),
        (
            ["memory", "add", "--task", TASK, "--robots", "Drone", "--misread", "colour"],
            "Nothing called 'colour' is read",
        ),
        (["memory", "add", "--task", TASK, "--robots", "Drone,no robot"], "No Robot stands alone"),
        (["memory", "add", "--image", "absent.jpg", "--robots", "Drone"], "cannot be read"),
        (["memory", "show", "7"], "There is no lesson 7 at the site 'default'"),
        (["memory", "forget", "7"], "There is no lesson 7"),
        (["memory", "rollback", "--to", "yesterday"], "--to 'yesterday' is no time"),
        (["memory", "rollback", "--to", "2026-05-03"], "Nothing has changed since"),
        (["memory", "list", "--site", ""], "The site '' must have 1 to 60"),
        (["memory", "import", "absent.jsonl"], "absent.jsonl: No such file"),
        (["memory", "list", "--memory", "."], "cannot be used now"),
        (["decide", TASK, "--memory", "x", "--no-memory"], "exclude each other"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(run: Run, words: list[str], part: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("embervlm: ")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"{", "line 1: not JSON"), (b"[]", "Row 1 is no"), (b"x" * 600_000, "line 1: longer")],
)
def test_an_import_names_the_wrong_line(run: Run, content: bytes, part: str) -> None:
    Path("in.jsonl").write_bytes(content)
    result = run("memory", "import", "in.jsonl")
    assert result.exit_code == 2
    assert part in result.stderr


def test_decide_goes_on_with_a_damaged_store_and_says_so(run: Run) -> None:
    plain = run("decide", TASK, "--json")
    Path("home").mkdir()
    Path("home/lessons.sqlite").write_bytes(b"nothing of the kind" * 99)
    result = run("decide", TASK, "--json")
    assert result.exit_code == 0
    assert result.stdout == plain.stdout
    assert "are not used" in result.stderr
    assert result.stderr.count("\n") == 1
    refused = run("memory", "list")
    assert refused.exit_code == 2
    assert "are not used" in refused.stderr
