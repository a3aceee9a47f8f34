"""A small data set in the form of the real one, with photos, for the parts that read files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embervlm.data import scenarios
from embervlm.evaluation import cases

TASKS = (
    ("look at the roof", ["Drone"], "airborne"),
    ("carry the 300 kg pump along the road", ["Robot with Wheels"], "paved"),
    ("search the ruins for people", ["Robot with Legs"], "rubble"),
    ("open the valve under the river", ["Underwater Robot"], "underwater"),
    ("open the door and talk to the people", ["Humanoid"], "indoor_flat"),
    ("write the yearly report", ["No Robot"], "none"),
    ("look over the calm field for the 3 kg parcel", ["Drone", "Robot with Legs"], "rough"),
    ("see whether the yard is empty", ["Drone", "Robot with Wheels"], "paved"),
)
PLACES = ("paved", "rough")


def scenario_row(name: str, split: str, number: int) -> dict[str, Any]:
    task, suited, place = TASKS[number % len(TASKS)]
    return {
        "id": name,
        "task": f"{task}, {split} {number}",
        "suited": suited,
        "primary": suited[0],
        "environment": place,
        "actions": ["look"],
        "limits": {"load_kg": 300} if "300 kg" in task else {},
        "kind": "choice",
        "split": split,
        **({"pair": f"{split}-p"} if number < 2 else {}),
    }


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a data set of a few rows in the place of the real one; return a `--shared` folder."""
    data, shared = tmp_path / "data", tmp_path / "shared"
    data.mkdir()
    sizes = {"train": 24, "validation": 16, "test": 16}
    rows: dict[str, list[dict[str, Any]]] = {"scenarios": [], "plans": [], "photo_requests": []}
    for split, size in sizes.items():
        for i in range(size):
            prefix = "w1" if split == "train" and i >= 16 else "t1"
            rows["scenarios"].append(scenario_row(f"{prefix}-{split}-{i}", split, i))
        rows["photo_requests"].append(
            {
                "id": f"im-{split}",
                "task": f"look at that, {split}",
                "actions": ["look"],
                "limits": {},
                "by_environment": {
                    "paved": ["Robot with Wheels"],
                    "rough": ["Robot with Legs"],
                    "rubble": ["Robot with Legs"],
                },
                "split": split,
            }
        )
    for name, content in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in content)
        (data / f"{name}.jsonl").write_text(text, "utf-8")
    photos = []
    for split in sizes:
        for place in PLACES:
            for i in range(2):
                file = f"{place}/{split}{i}.png"
                path = shared / "photos" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(len(photos)).integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(noise).save(path)
                photo = {
                    "file": file,
                    "class": place,
                    "environment": place,
                    "split": split,
                    "group": file,
                    "sha256": "",
                    "licence": "",
                }
                photos.append(json.dumps(photo) + "\n")
    (data / "photos.jsonl").write_text("".join(photos), "utf-8")
    files = [json.loads(photo)["file"] for photo in photos]
    manifest = "".join(json.dumps({"file": f, "source": f[:4] + "/owner"}) + "\n" for f in files)
    (shared / "photos" / "manifest.jsonl").write_text(manifest, "utf-8")
    (shared / "public").mkdir()
    single = [
        {"input": f"Task: {task} {i}", "output": ", ".join(robots)}
        for i in range(3)
        for task, robots, _ in TASKS
        if robots != ["No Robot"]
    ]
    (shared / "public" / "single_robot_selection.json").write_text(json.dumps(single), "utf-8")
    monkeypatch.setattr(scenarios, "DATA_DIR", data)
    monkeypatch.setattr(cases, "DATA_DIR", data)
    return shared
