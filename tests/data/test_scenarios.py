"""The shipped data are sound, and `check` finds each kind of fault when one is planted."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embervlm.data.sample import (
    from_photo_request,
    from_plan,
    from_scenario,
    robots_of,
    role_of,
    subset_of,
)
from embervlm.data.scenarios import (
    DATA_DIR,
    FILES,
    NEAR_DUPLICATE_CHECKED,
    SPLITS,
    check,
    group_near_duplicates,
    import_scenarios,
    is_addition,
    leaked_answer,
    load,
    load_own,
    plan_fault,
    split_hash,
    split_of,
    task_vectors,
)
from embervlm.evaluation.plans import score_plan, summary
from embervlm.fleet import Fleet
from embervlm.quantities import find_quantities
from embervlm.scenario import QUANTITIES, Needs, Subtask

Row = dict[str, Any]


def test_the_shipped_data_are_sound() -> None:
    assert check() == []


def test_validation_and_test_are_large_enough_and_alike() -> None:
    for name, least in zip(FILES, (500, 30, 30), strict=True):
        counts = Counter(row["split"] for row in load(name))
        assert set(counts) == set(SPLITS)
        assert min(counts["validation"], counts["test"]) >= least
        assert 0.6 < counts["validation"] / counts["test"] < 1.6


@pytest.mark.parametrize(
    ("key", "value", "is_stated"),
    [
        ("width_m", 0.6, True),
        ("width_m", 1.2, False),
        ("depth_m", 1.2, True),
        ("depth_m", 0.6, False),
    ],
)
def test_a_range_states_its_smaller_width_and_its_larger_depth(
    key: str, value: float, is_stated: bool
) -> None:
    (mention,) = find_quantities("the passage, 60-120 cm")
    role = QUANTITIES.index(key) if is_stated else len(QUANTITIES)
    assert role_of(mention, {key: value}) == role


def test_every_row_becomes_a_sample_that_keeps_its_answer() -> None:
    for row in load("scenarios"):
        assert set(robots_of(from_scenario(row).subset)) == set(row["suited"])
    for row in load("plans"):
        sample = from_plan(row)
        assert set(robots_of(sample.subset)) == set(row["suited"])
        assert {step["robot"] for step in row["plan"]} == set(row["suited"])
    for row in load("photo_requests"):
        for place, robots in row["by_environment"].items():
            sample = from_photo_request(row, place, None)
            assert set(robots_of(sample.subset)) == set(robots)


def test_subsets_and_robots_are_two_names_for_the_same() -> None:
    for subset in range(32):
        assert subset_of(robots_of(subset)) == subset


@pytest.fixture
def planted(tmp_path: Path) -> Callable[[str, Callable[[list[Row]], object]], list[str]]:
    """Return a function that changes a small copy of the data and checks it."""
    for name in FILES:
        kept = [row for split in SPLITS for row in load(name, split)[:25]]
        write(tmp_path / f"{name}.jsonl", kept)
    (tmp_path / "splits.sha256").write_text(split_hash(tmp_path), "utf-8")

    def plant(name: str, change: Callable[[list[Row]], object]) -> list[str]:
        rows = load(name, directory=tmp_path)
        change(rows)
        write(tmp_path / f"{name}.jsonl", rows)
        return check(tmp_path)

    return plant


def write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_a_sound_copy_has_no_faults(planted: Callable[..., list[str]]) -> None:
    assert planted("scenarios", lambda rows: None) == []


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        (
            "scenarios",
            lambda rows: rows[0].update(
                task="Send drones to the old mill, quickly.", suited=["Drone"], primary="Drone"
            ),
            "names 'drones'",
        ),
        (
            "scenarios",
            lambda rows: rows[0].update(
                task="Let the ROBOT DOG sniff about in the mill.",
                suited=["Robot with Legs"],
                primary="Robot with Legs",
            ),
            "names 'robot dog'",
        ),
        (
            "photo_requests",
            lambda rows: rows[0].update(
                task="May a humanoid do this?", by_environment={"paved": ["Humanoid"]}
            ),
            "names 'Humanoid'",
        ),
        ("scenarios", lambda rows: rows[30].update(task=rows[0]["task"]), "near-duplicate"),
        ("plans", lambda rows: rows[30].update(task=rows[0]["task"].upper()), "near-duplicate"),
        (
            "scenarios",
            lambda rows: rows[0].update(pair="p") or rows[30].update(pair="p"),
            "contrast partner",
        ),
        (
            "scenarios",
            lambda rows: rows[0].update(suited=["Crane"], primary="Crane"),
            "unknown robot ['Crane']",
        ),
        (
            "scenarios",
            lambda rows: rows[0].update(suited=["Drone", "No Robot"], primary="Drone"),
            "does not stand alone",
        ),
        ("scenarios", lambda rows: rows[0].update(suited=[]), "no suited robot"),
        (
            "scenarios",
            lambda rows: rows[0].update(suited=["Humanoid"], primary="Drone"),
            "primary is not among",
        ),
        (
            "scenarios",
            lambda rows: rows[0].update(environment="mars"),
            "unknown environment ['mars']",
        ),
        (
            "photo_requests",
            lambda rows: rows[0].update(by_environment={"mars": ["Humanoid"]}),
            "unknown environment ['mars']",
        ),
        ("scenarios", lambda rows: rows[0].update(actions=["sing"]), "unknown action ['sing']"),
        (
            "scenarios",
            lambda rows: rows[0].update(limits={"height_m": 3}),
            "unknown limit ['height_m']",
        ),
        ("scenarios", lambda rows: rows[0].update(split="exam"), "unknown split 'exam'"),
        ("scenarios", lambda rows: rows[0].update(split="test"), "differ from the pinned hash"),
        ("scenarios", lambda rows: rows.pop(), "differ from the pinned hash"),
        ("scenarios", lambda rows: rows[0].update(id=rows[1]["id"]), "this id stands 2 times"),
        (
            "plans",
            lambda rows: (
                rows[0]["plan"][0].update(after=[1]) or rows[0]["plan"][1].update(after=[0])
            ),
            "cycle",
        ),
        ("plans", lambda rows: rows[0]["plan"][0].update(after=[9]), "waits for step 9"),
        ("plans", lambda rows: rows[0]["plan"][0].update(robot="Crane"), "unknown robot 'Crane'"),
        *(
            ("scenarios", lambda rows, limits=limits: rows[0].update(limits=limits), fault)
            for limits, fault in (
                *(
                    ({"load_kg": value}, f"load_kg is {value!r}; expected a number")
                    for value in (None, [8], "heavy", "8", True, -5, float("nan"))
                ),
                ({"night": 1}, "night is 1; expected true or false"),
                ([], "limits is []; expected names"),
            )
        ),
        *(
            ("scenarios", lambda rows, key=key, value=value: rows[0].update({key: value}), fault)
            for key, value, fault in (
                ("task", 5, "task is 5; expected a text"),
                ("task", " ", "task is ' '; expected a text"),
                ("id", 1, "row 1: id is 1; expected a text"),
                ("kind", "Choice", "kind is 'Choice'; expected choice or team"),
                ("suited", "Humanoid", "suited is 'Humanoid'; expected a list of texts"),
            )
        ),
        ("scenarios", lambda rows: rows[0].pop("task"), "task is missing"),
        ("plans", lambda rows: rows[0].update(plan=[]), "plan is []; expected a list of steps"),
        ("plans", lambda rows: rows[0]["plan"][0].pop("after"), "after is missing in step 0"),
        ("plans", lambda rows: rows[0]["plan"][0].update(after=["1"]), "after is ['1']; expected"),
        (
            "photo_requests",
            lambda rows: rows[0].update(by_environment={"paved": []}),
            "expected robots by place",
        ),
    ],
)
def test_finds_what_was_planted(
    planted: Callable[..., list[str]], name: str, change: Callable[[list[Row]], object], fault: str
) -> None:
    assert any(fault in sentence for sentence in planted(name, change))


@pytest.mark.parametrize(
    ("after", "fault"),
    [
        ([], None),
        ([[]], None),
        ([[], [0], [0, 1]], None),
        ([[2], [], [1]], None),
        ([[0]], "waits for step 0"),
        ([[-1]], "waits for step -1"),
        ([[1], [2], [0]], "cycle among the steps [0, 1, 2]"),
        ([[], [2], [1]], "cycle among the steps [1, 2]"),
    ],
)
def test_knows_a_plan_that_can_be_carried_out(after: list[list[int]], fault: str | None) -> None:
    found = plan_fault([{"after": indices} for indices in after])
    assert found == fault if fault is None else fault in (found or "")


def test_near_duplicates_and_contrast_partners_are_one_group() -> None:
    tasks = [
        "Carry the spare pump to the far bank before noon.",
        "Fly over the vineyard and count the dead rows.",
        "Please carry the spare pump to the far bank before noon!",
        "Is the kiln still burning?",
    ]
    rows: list[Row] = [{"id": f"r{i}", "task": task} for i, task in enumerate(tasks)]
    assert group_near_duplicates(rows) == ["r0", "r1", "r0", "r3"]
    rows[1]["pair"] = rows[3]["pair"] = "fire"
    assert group_near_duplicates(rows) == ["r0", "r1", "r0", "r1"]


def test_the_split_of_a_group_depends_on_its_name_alone() -> None:
    splits = [split_of(f"group {i}") for i in range(4000)]
    assert splits == [split_of(f"group {i}") for i in range(4000)]
    shares = Counter(splits)
    assert shares["train"] / 4000 == pytest.approx(0.70, abs=0.03)
    assert shares["test"] / 4000 == pytest.approx(0.15, abs=0.03)


def test_loading_names_what_it_cannot_find(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown set 'exams'"):
        load("exams")
    with pytest.raises(ValueError, match="split 'exam'"):
        load("plans", "exam")
    with pytest.raises(ValueError, match="is not there"):
        load("plans", directory=tmp_path)


def test_a_folder_of_ones_own_may_hold_requests_alone(tmp_path: Path) -> None:
    rows = load("scenarios", "train")[:4]
    write(tmp_path / "scenarios.jsonl", rows)
    assert check(tmp_path) == []
    assert load_own("scenarios", "train", str(tmp_path)) == rows
    assert load_own("plans", "train", str(tmp_path)) == []
    write(tmp_path / "scenarios.jsonl", [rows[0], {**rows[1], "id": rows[0]["id"]}])
    with pytest.raises(ValueError, match="this id stands 2 times"):
        load_own("scenarios", "train", str(tmp_path))
    write(tmp_path / "scenarios.jsonl", [{**rows[0], "kind": "Choice"}])
    with pytest.raises(ValueError, match=f"{rows[0]['id']}: kind is 'Choice'; expected choice or"):
        load_own("scenarios", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"split": "train"}\n{"id": 3\n', r"scenarios.jsonl, line 2 is no JSON \("),
        (b"[1]\n", r"scenarios.jsonl, line 1 is no JSON object"),
        (b"\xff\xfe\n", r"scenarios.jsonl is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "scenarios.jsonl").write_bytes(content)
    for read in (check, lambda folder: load_own("scenarios", "train", str(folder))):
        with pytest.raises(ValueError, match=fault):
            read(tmp_path)


def test_the_pinned_hash_changes_with_any_split(tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(DATA_DIR / f"{name}.jsonl", tmp_path)
    assert split_hash(tmp_path) == (DATA_DIR / "splits.sha256").read_text("utf-8").strip()
    rows = load("plans", directory=tmp_path)
    rows[0]["split"] = "test" if rows[0]["split"] != "test" else "train"
    write(tmp_path / "plans.jsonl", rows)
    assert split_hash(tmp_path) != split_hash()


def test_the_guide_in_the_repository_speaks_of_the_default_fleet() -> None:
    guide = (DATA_DIR.parent / "docs" / "labelling-guide.md").read_text("utf-8")
    for name in Fleet.default().outcomes:
        assert f"`{name}`" in guide


def test_import_keeps_earlier_additions_and_joins_new_ones(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in FILES:
        (source / f"{name}.jsonl").write_text("", "utf-8")
    authored = {**load("scenarios", "test")[0], "id": "t-1"}
    del authored["split"]
    (source / "scenarios.jsonl").write_text(json.dumps(authored) + "\n", "utf-8")

    def compact(text: str, **more: str) -> str:
        row = {"t": text, "s": "HW", "p": "W", "e": "paved", "a": ["carry"], "l": {}, **more}
        return json.dumps(row) + "\n"

    early, late = tmp_path / "w1.jsonl", tmp_path / "w2.jsonl"
    early.write_text(compact("Take the tray next door."), "utf-8")
    late.write_text(
        compact("Fetch my parcel, gate 4.", c="a1")
        + compact("Fetch my piano, gate 4, up the ladder.", c="a1")
        + compact("Let the humanoid fetch it.")
        + compact(authored["task"]),
        "utf-8",
    )
    import_scenarios(source, [early], target)
    import_scenarios(source, [late], target)
    rows = {row["id"]: row for row in load("scenarios", directory=target)}
    assert set(rows) == {"t-1", "w1-001", "w2-001", "w2-002"}
    assert rows["w2-001"]["pair"] == rows["w2-002"]["pair"] == "w2-a1"
    assert rows["w2-001"]["suited"] == ["Robot with Wheels", "Humanoid"]
    assert "pair" not in rows["w1-001"]
    assert {rows[name]["split"] for name in rows if is_addition(name)} == {"train"}


def test_the_second_labelling_agrees_as_the_data_card_says() -> None:
    rows = {row["id"]: row for row in load("scenarios")}
    lines = (DATA_DIR / "second_labels.jsonl").read_text("utf-8").splitlines()
    found: Counter[str] = Counter()
    for label in map(json.loads, lines):
        row = rows[label["id"]]
        number = int(row["id"][1:].split("-")[0]) if is_addition(row["id"]) else 0
        part = "authors'" if not number else "early" if number <= 16 else "late"
        part = "newest" if number >= 116 else "latest" if number >= 94 else part
        found[f"{part} rows"] += 1
        found[f"{part} sets"] += set(label["suited"]) == set(row["suited"])
        found[f"{part} places"] += label["environment"] == row["environment"]
    assert found == {
        "early rows": 119, "early sets": 116, "early places": 108,
        "late rows": 120, "late sets": 120, "late places": 112,
        "latest rows": 160, "latest sets": 158, "latest places": 149,
        "newest rows": 160, "newest sets": 155, "newest places": 147,
        "authors' rows": 160, "authors' sets": 148, "authors' places": 142,
    }  # fmt: skip


def test_the_second_labelling_of_plans_agrees_as_the_data_card_says() -> None:
    rows = {row["id"]: row for row in load("plans")}
    lines = (DATA_DIR / "second_plans.jsonl").read_text("utf-8").splitlines()
    second = [json.loads(line) for line in lines]
    fleet = Fleet.default()
    for is_held_out, count, teams, pairs in ((True, 40, 40, 0.978), (False, 380, 378, 0.975)):
        some = [s for s in second if (rows[s["id"]]["split"] == "validation") is is_held_out]
        assert len(some) == count
        same = [
            {step["robot"] for step in label["plan"]} == set(rows[label["id"]]["suited"])
            for label in some
        ]
        assert sum(same) == teams
        scores = [score_plan(_steps(s["plan"]), rows[s["id"]]["plan"], fleet) for s in some]
        assert round(summary(scores)["precedence_f1"], 3) == pairs


def test_fresh_requests_are_sound_and_near_none_of_the_others() -> None:
    fresh = load_own("scenarios", "test", str(DATA_DIR / "fresh"))
    assert len(fresh) == len({row["id"] for row in fresh}) == 456
    others = [row for name in FILES for row in load(name)]
    assert not {row["task"] for row in fresh} & {row["task"] for row in others}
    # The additions were compared when the file was written: half a minute and 1.7 GB.
    authored = [row["task"] for row in others if not is_addition(row["id"])]
    vectors = task_vectors([*authored, *(row["task"] for row in fresh)])
    near = vectors[len(authored) :] @ vectors[: len(authored)].T
    assert near.max() <= NEAR_DUPLICATE_CHECKED
    fleet = Fleet.default()
    assert not any(leaked_answer(row, fleet) for row in fresh)
    rows = {row["id"]: row for row in fresh}
    lines = (DATA_DIR / "fresh" / "second_labels.jsonl").read_text("utf-8").splitlines()
    second = [(label, rows[label["id"]]) for label in map(json.loads, lines)]
    assert len(second) == 160
    assert sum(set(one["suited"]) == set(row["suited"]) for one, row in second) == 157
    assert sum(one["environment"] == row["environment"] for one, row in second) == 152


def _steps(plan: list[dict[str, Any]]) -> list[Subtask]:
    return [
        Subtask(
            step["subtask"],
            step["robot"],
            tuple(step["after"]),
            Needs.from_record(step, "none"),
        )
        for step in plan
    ]


def test_data_that_are_not_there_name_the_ways_to_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'pip install -e \.', or give your own folder \(--dir"):
        load("scenarios", directory=tmp_path)
