"""`embervlm decide` with live fleets, pictures and Open-RMF, and what it says if it cannot."""

import json
from pathlib import Path

import pytest
from opinion import DRONE, HUMANOID, LEGS, Opinion, one
from PIL import Image
from typer.testing import CliRunner

from embervlm import cli, decide_command
from embervlm.fleet import Fleet
from embervlm.selector import Selector


@pytest.fixture(autouse=True)
def decided_by_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(backend: str, model: Path | None, fleet: Path | None, **_: object) -> Selector:
        robots = Fleet.from_yaml(fleet) if fleet else Fleet.default()
        return Selector(Opinion({**one(DRONE, LEGS), frozenset({DRONE}): 0.2}), robots)

    monkeypatch.setattr(decide_command, "load_selector", load)


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["decide", "--no-memory", "look at it", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_a_state_and_exclusions_change_who_is_sent(tmp_path: Path) -> None:
    state = tmp_path / "state.yaml"
    state.write_text("robots: {Drone: {battery: 0}}")
    code, out, _ = run("--state", state, "--format", "json")
    assert code == 0
    assert json.loads(out)["robots"] == [LEGS]
    code, out, _ = run("--exclude", "drone", "--exclude", LEGS, "--json")
    assert json.loads(out)["robots"] == ["No Robot"]
    code, out, _ = run("--require", LEGS, "--top-k", 1, "--json")
    assert json.loads(out)["robots"] == [LEGS]


def test_alternatives_are_told_to_people_and_programs() -> None:
    code, out, _ = run("--alternatives")
    assert code == 0
    assert f"without the {DRONE}: {LEGS} (" in out
    _, out, _ = run("--alternatives", "--json")
    assert json.loads(out)["alternatives"][LEGS]["robots"] == [DRONE]


def test_says_or_where_one_robot_suffices_and_then_in_a_team(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = " ".join(run()[1].split())
    assert f"send {DRONE} or {LEGS} " in told and " first " not in told
    backend = Opinion(one(DRONE, LEGS), actions=("map", "carry"), team=True)
    monkeypatch.setattr(decide_command, "load_selector", lambda *_, **__: Selector(backend))
    told = " ".join(run()[1].split())
    assert f"send {DRONE} then {LEGS} " in told and f" first {DRONE} " in told
    backend.sets = one(DRONE, LEGS, HUMANOID)
    assert f"without the {HUMANOID}: {DRONE} then {LEGS} (" in run("--alternatives")[1]
    backend.team = False
    assert f"without the {HUMANOID}: {DRONE} or {LEGS} (" in run("--alternatives")[1]


def test_a_picture_and_requests_for_open_rmf(tmp_path: Path) -> None:
    code, out, _ = run("--picture", tmp_path / "plan.png", "--format", "rmf", "--rmf-fleet", "yard")
    assert code == 0
    assert Image.open(tmp_path / "plan.png").width == 1920
    [message] = json.loads(out)
    assert (message["robot"], message["fleet"]) == (DRONE, "yard")
    code, _, err = run("--picture", tmp_path / "none.svg", "--exclude", DRONE, "--exclude", LEGS)
    assert code == 0
    assert "no plan to draw" in err
    assert not (tmp_path / "none.svg").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--exclude", "Crane"], "No robot is called 'Crane'"),
        (["--require", "Crane"], "No robot is called 'Crane'"),
        (["--require", DRONE, "--exclude", DRONE], "is left out by the operator"),
        (["--state", "/none.yaml"], "cannot be read"),
        (["--format", "xml"], "it is text, json or rmf"),
        (["--format", "rmf", "--json"], "exclude each other"),
        (["--picture", "plan.pdf"], "must end in .svg or .png"),
        (["--format", "rmf", "--alternatives"], "leave out --tags and rmf"),
    ],
)
def test_says_what_is_wrong_in_one_sentence(words: list[str], part: str) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert part in err
    assert err.count("\n") == 1
