"""A fleet is data: the default one is the guide's, and a bad file is told what is wrong with it."""

import re
from pathlib import Path

import pytest

from embervlm.fleet import ACTIONS, CONDITIONS, ENVIRONMENTS, NO_ROBOT, Fleet, Objective

GOOD = """
robots:
  - name: Mule
    aliases: [mule]
    description: Carries.
    capabilities: [carry, stairs]
    environments: [rough]
    limits: {payload_kg: 40, max_step_cm: 30}
    speed_kmh: 6
    count: 2
    status: busy
"""


def test_reads_every_key_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(GOOD, "utf-8")
    mule = Fleet.from_yaml(path)["Mule"]
    assert mule.aliases == ("mule",)
    assert mule.capabilities == {"carry", "stairs"}
    assert mule.environments == {"rough"}
    assert mule.limits == {"payload_kg": 40.0, "max_step_cm": 30.0}
    assert (mule.description, mule.speed_kmh, mule.count, mule.status) == ("Carries.", 6, 2, "busy")


def test_states_the_numbers_of_the_guide() -> None:
    fleet = Fleet.default()
    assert fleet.outcomes == (
        "Drone",
        "Underwater Robot",
        "Humanoid",
        "Robot with Wheels",
        "Robot with Legs",
        NO_ROBOT,
    )
    limits = {robot.name: robot.limits for robot in fleet}
    assert limits["Drone"] == {
        "payload_kg": 5,
        "max_wind_kmh": 50,
        "endurance_min": 40,
        "min_width_m": 2,
    }
    assert limits["Underwater Robot"] == {"min_depth_m": 0.5, "max_depth_m": 300}
    assert limits["Humanoid"] == {"payload_kg": 20, "max_distance_m": 1000}
    assert limits["Robot with Wheels"] == {
        "payload_kg": 500,
        "endurance_min": 480,
        "max_step_cm": 10,
    }
    assert limits["Robot with Legs"] == {"payload_kg": 15, "endurance_min": 120}
    assert [robot.name for robot in fleet if robot.can("dive")] == ["Underwater Robot"]
    assert [robot.name for robot in fleet if robot.can("height")] == ["Drone"]
    assert [robot.name for robot in fleet if robot.can("talk")] == ["Drone", "Humanoid"]


def test_finds_a_robot_by_name_and_alias_in_any_case() -> None:
    fleet = Fleet.default()
    for robot in fleet:
        for word in (robot.name, robot.name.upper(), *robot.aliases, f" {robot.aliases[0]} "):
            assert fleet.find(word) is robot
    with pytest.raises(ValueError, match="No robot is called 'crane'; the fleet has Drone"):
        fleet["crane"]


def row(**keys: object) -> str:
    return "robots:\n  - " + "\n    ".join(f"{key}: {value}" for key, value in keys.items())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (row(name="Mule", payload=40), ("'Mule'", "`payload`", "name, aliases")),
        (
            row(name="Mule", limits="{payload_kg: heavy}"),
            ("'Mule'", "`limits.payload_kg`", "kg", "'heavy'"),
        ),
        (
            row(name="Mule", limits="{payload_kg: -1}"),
            ("'Mule'", "`limits.payload_kg`", "0 or more"),
        ),
        (
            row(name="Mule", limits="{payload_kg: .nan}"),
            ("'Mule'", "`limits.payload_kg`", "a number"),
        ),
        (
            row(name="Mule", limits="{payload_kg: .inf}"),
            ("'Mule'", "`limits.payload_kg`", "a number"),
        ),
        (
            row(name="Mule", limits="{payload_kg: true}"),
            ("'Mule'", "`limits.payload_kg`", "a number"),
        ),
        (
            row(name="Mule", limits="{payload_lb: 4}"),
            ("'Mule'", "`limits.payload_lb`", "payload_kg"),
        ),
        (row(name="Mule", limits="[5]"), ("'Mule'", "`limits`", "a mapping")),
        (row(name="Mule", capabilities="[fly]"), ("'Mule'", "`capabilities`", "'fly'", "look")),
        (row(name="Mule", capabilities="carry"), ("'Mule'", "`capabilities`", "a list of words")),
        (row(name="Mule", environments="[mars]"), ("'Mule'", "`environments`", "'mars'", "rubble")),
        (row(name="Mule", aliases="[1]"), ("'Mule'", "`aliases`", "a list of words")),
        (row(name="Mule", aliases="[no robot]"), ("'Mule'", "`aliases`", "'no robot'")),
        (row(name="Mule", speed_kmh=0), ("'Mule'", "`speed_kmh`", "0.001 or more")),
        (row(name="Mule", speed_kmh=1e-310), ("'Mule'", "`speed_kmh`", "0.001 or more")),
        (row(name="Mule", count=1.5), ("'Mule'", "`count`", "a whole number")),
        (row(name="Mule", count=-1), ("'Mule'", "`count`", "0 or more")),
        (row(name="Mule", status="gone"), ("'Mule'", "`status`", "ready, busy", "'gone'")),
        (row(name="Mule", description="[a]"), ("'Mule'", "`description`", "a text")),
        (row(name="no robot"), ("'no robot'", "`name`", "another name")),
        (row(name="'<|end|>'"), ("`name`", "printable")),
        (row(name="'a; b'"), ("`name`", "printable")),
        (row(name='"a\\eb"'), ("`name`", "printable")),
        (row(name="m" * 61), ("`name`", "60")),
        (row(name=7), ("number 1", "`name`", "a text")),
        (row(count=1), ("number 1", "`name`", "a text")),
        ("robots:\n  - Mule", ("number 1", "`name`")),
        (GOOD + "  - name: MULE", ("'MULE'", "`aliases`", "'mule' already means 'Mule'")),
    ],
)
def test_names_the_robot_the_key_and_what_was_expected(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        Fleet.from_text(text, source="mine.yaml")
    sentence = str(caught.value)
    assert sentence.startswith("mine.yaml: robot")
    assert sentence.endswith(".") and "\n" not in sentence
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize(
    "text",
    [
        "",
        "robots",
        "[]",
        "robots: {}",
        "robots: []",
        "robots:\n  - {",
        "other: 1\nrobots: []",
        "robots: &a [*a]",
        "[" * 5000,
        "robots: !!python/object/apply:os.system [id]",
        "robots: 2026-13-45",
        f"robots: {'9' * 5000}",
        "robots: \x00",
        "? [a]\n: b",
        "#" * 1_000_001,
    ],
)
def test_refuses_what_is_no_fleet_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^mine.yaml: ") as caught:
        Fleet.from_text(text, source="mine.yaml")
    assert "\n" not in str(caught.value)


def test_refuses_an_alias_bomb_before_it_grows() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ValueError, match="aliases .* are not allowed"):
        Fleet.from_text("\n".join(levels))


def test_refuses_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.yaml", tmp_path, binary):
        with pytest.raises(ValueError, match="cannot be read"):
            Fleet.from_yaml(path)


def test_uses_words_of_the_shared_lists_only() -> None:
    for robot in Fleet.default():
        assert robot.capabilities <= {*ACTIONS, *CONDITIONS}
        assert robot.environments <= {*ENVIRONMENTS}


def test_reads_the_keys_of_plans_and_says_what_is_wrong_with_them() -> None:
    text = "objective: {time: 2, step_min: 5}\nrobots: [{name: A, setup_min: 3, energy_w: 40, "
    fleet = Fleet.from_text(text + "location: {x_m: 1, y_m: -2}}]")
    assert (fleet["A"].setup_min, fleet["A"].energy_w) == (3.0, 40.0)
    assert fleet["A"].location == (1.0, -2.0)
    assert fleet.objective == Objective(time=2.0, step_min=5.0)
    plain = Fleet.from_text("robots: [{name: A}]")
    assert plain.objective == Objective()
    assert (plain["A"].setup_min, plain["A"].energy_w, plain["A"].location) == (0.0, None, None)
    for wrong, part in [
        ("robots: [{name: A, setup_min: -1}]", "key `setup_min`: expected a number of min"),
        ("robots: [{name: A, energy_w: much}]", "key `energy_w`: expected a number of W"),
        ("robots: [{name: A, location: [1, 2]}]", "key `location`: expected a place such as"),
        ("robots: [{name: A, location: {x_m: 1}}]", "key `location`: expected a place such as"),
        ("robots: [{name: A, battery: 1}]", "key `battery`: expected one of the known keys"),
        ("objective: 5\nrobots: [{name: A}]", "key `objective`: expected a mapping"),
        ("objective: {speed: 1}\nrobots: [{name: A}]", "`objective.speed`: expected one of time"),
        ("objective: {time: -1}\nrobots: [{name: A}]", "`objective.time`: expected a number, 0"),
        ("objective: {time: .nan}\nrobots: [{name: A}]", "`objective.time`: expected a number, 0"),
        ("state: {}\nrobots: [{name: A}]", "'state' is not a key of a fleet file"),
    ]:
        with pytest.raises(ValueError, match=re.escape(part)):
            Fleet.from_text(wrong)


def test_a_key_written_twice_is_refused_and_not_dropped() -> None:
    text = "robots:\n  - name: Mule\n    limits: {payload_kg: 5}\n    limits: {max_wind_kmh: 40}\n"
    with pytest.raises(ValueError, match=r"line 4: the key `limits` stands there twice"):
        Fleet.from_text(text)


def test_no_robot_is_called_as_the_second_of_a_kind_is() -> None:
    with pytest.raises(ValueError, match=r"'mule 2', key `name`: one of the 2 of 'Mule'"):
        Fleet.from_text("robots: [{name: Mule, count: 2}, {name: mule 2}]")
    assert len(Fleet.from_text("robots: [{name: Mule, count: 2}, {name: Mule 3}]")) == 2


def test_a_robot_answers_to_its_name_and_aliases_in_any_case() -> None:
    fleet = Fleet.default()
    assert fleet.called("QUADCOPTER ") == "Drone"
    assert fleet.called("crane") == "crane"
