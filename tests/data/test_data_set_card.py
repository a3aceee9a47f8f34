"""The data set for the Hub: every number of its card is counted."""

import json
import re
from pathlib import Path

import yaml
from typer.testing import CliRunner

from embervlm.cli import app
from embervlm.data.card import write_data_set
from embervlm.data.scenarios import FILES, SPLITS, load


def test_each_split_is_a_file_and_the_card_counts_it(tmp_path: Path) -> None:
    counts = write_data_set(tmp_path / "d")
    text = (tmp_path / "d" / "README.md").read_text("utf-8")
    for name in FILES:
        found = []
        for split in SPLITS:
            lines = (tmp_path / "d" / name / f"{split}.jsonl").read_text("utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            assert rows == load(name, split)
            assert counts[f"{name}/{split}.jsonl"] == len(rows)
            found.append(f"{len(rows):,}")
        assert re.search(rf"\| `{name}` \|.*\| {' . '.join(found)} \|", text)
    singles = load("scenarios")
    drones = sum("Drone" in row["suited"] for row in singles)
    assert f"| Drone | {drones:,} |" in text
    assert f"{sum(counts.values()):,} requests" in text


def test_the_front_names_each_file_once(tmp_path: Path) -> None:
    counts = write_data_set(tmp_path / "d")
    _, front, _ = (tmp_path / "d" / "README.md").read_text("utf-8").split("---\n", 2)
    told = yaml.safe_load(front)
    paths = [file["path"] for config in told["configs"] for file in config["data_files"]]
    assert sorted(paths) == sorted(counts)
    assert told["license"] == "cc-by-4.0"


def test_no_number_is_typed_by_hand(tmp_path: Path) -> None:
    """With nine other rows no number is larger than they make it."""
    for name in FILES:
        lines = "".join(json.dumps(load(name, split)[0]) + "\n" for split in SPLITS)
        (tmp_path / f"{name}.jsonl").write_text(lines, "utf-8")
    write_data_set(tmp_path / "d", tmp_path)
    text = (tmp_path / "d" / "README.md").read_text("utf-8").split("---\n", 2)[2]
    text = re.sub(r"`[0-9a-f]{64}`|SHA-256|CC BY 4\.0|4-grams", "", text)
    steps = sum(len(load("plans", split)[0]["plan"]) for split in SPLITS)
    found = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)}
    assert found <= {*range(10), steps}


def test_the_command_writes_into_new_folders_alone(tmp_path: Path) -> None:
    words = ["hub", "dataset-card", "--out", str(tmp_path / "d")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and f"{len(load('plans', 'test'))} rows" in done.output
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "give a new folder" in again.output
