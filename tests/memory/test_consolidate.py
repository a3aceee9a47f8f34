"""Tidying retires what is repeated or contradicted, can be undone, and proposes sound rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from keeping import Clock, correction, ids, vector

from embervlm.data.scenarios import load_own
from embervlm.fleet import Fleet
from embervlm.memory.consolidate import consolidate, proposals, write_proposals
from embervlm.memory.store import LessonStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> LessonStore:
    return LessonStore(tmp_path / "lessons.sqlite", now=clock)


def near(seed: int, cosine: float) -> np.ndarray:
    """Return a vector with this cosine to `vector(seed)`."""
    base = vector(seed) / np.linalg.norm(vector(seed))
    other = vector(seed + 1000)
    other -= base * (base @ other)
    other /= np.linalg.norm(other)
    return cosine * base + np.sqrt(1 - cosine**2) * other


def test_merges_repeats_and_retires_what_was_contradicted(store: LessonStore, clock: Clock) -> None:
    store.add(correction("inspect the mast a", "Drone"), vector(1))  # 1: repeated by 4
    store.add(correction("inspect the mast b", "Humanoid"), near(1, 0.98))  # 2: contradicted by 4
    store.add(correction("inspect the mast c", "Drone"), near(1, 0.985))  # 3: near, but no repeat
    store.add(correction("inspect the mast d", "Drone"), near(1, 0.999))  # 4
    store.add(
        correction("inspect the mast e", "Humanoid", place="paved"), vector(1)
    )  # 5: elsewhere
    store.add(correction("inspect the mast f", "Humanoid"), vector(2))  # 6: something else
    store.add(correction("inspect the mast g", "Humanoid", quarantine="No."), vector(1))  # 7
    store.add(correction(None, "Humanoid", photo="ab"), vector(1))  # 8: no words
    needs = ({"limits": {"load_kg": kg}} for kg in (9.0, 900.0))
    store.add(correction("haul the slab a", "Humanoid", needs=next(needs)), vector(3))  # 9
    store.add(correction("haul the slab b", "No Robot", needs=next(needs)), vector(3))  # 10
    store.add(correction("look at hall 3", "Drone"), vector(4))  # 11
    store.add(correction("look at hall 30", "Humanoid"), vector(4))  # 12: another hall
    before = clock.time
    done = consolidate(store, same_request=0.95, fleet=Fleet.default())
    assert done.merged == ((1, 4),)
    assert done.contradicted == ((2, 4),)
    assert ids(store) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert consolidate(store, same_request=0.95, fleet=Fleet.default()).merged == ()
    store.rollback(before)
    assert ids(store) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


def test_what_was_misread_in_one_request_is_kept_and_proposed_to_nobody(
    store: LessonStore,
) -> None:
    needs = {"limits": {"snow": True, "load_kg": 50.0}}
    about = {"needs": needs, "misread": ["snow", "load_kg", "environment"]}
    store.add(correction("dust the globes a", "Humanoid", **about), vector(1))
    store.add(correction("dust the globes b", missed={"load_kg": 3.0}, **about), vector(1))
    store.add(correction("dust the globes c", "Humanoid"), vector(1))
    consolidate(store, same_request=0.95, fleet=Fleet.default())
    assert ids(store) == [1, 2, 3]
    rows = proposals(store.entries(), Fleet.default())
    assert [row["limits"] for row in rows] == [{}, {"load_kg": 3.0}, {}]
    assert [row["environment"] for row in rows] == ["none", "none", "rough"]


def test_proposed_rows_are_read_by_training(store: LessonStore, tmp_path: Path) -> None:
    needs = {"actions": ["look"], "environment": "rough", "limits": {"load_kg": 3.0, "night": True}}
    store.add(
        correction("look at the mast", "Drone", needs=needs, missed={"smoke": True}), vector(1)
    )
    store.add(correction("fetch the kit together", "Drone", "Humanoid", team=True), vector(2))
    store.add(correction("send the quadcopter up", "Drone"), vector(3))
    store.add(correction("carry it", "Mule"), vector(4))
    store.add(correction(None, "Drone", photo="ab"), vector(5))
    store.add(correction("dive", "Drone", quarantine="No."), vector(6))
    store.add(correction("file my taxes", "No Robot", place="none"), vector(7))
    path = tmp_path / "proposed" / "scenarios.jsonl"
    for _ in range(2):
        write_proposals(proposals(store.entries(), Fleet.default()), path)
    train = load_own("scenarios", "train", str(path.parent))
    validation = load_own("scenarios", "validation", str(path.parent))
    assert [row["id"] for row in train] == ["lesson-1", "lesson-2"]
    assert [row["id"] for row in validation] == ["lesson-7"]
    assert train[0] == {
        "id": "lesson-1",
        "task": "look at the mast",
        "suited": ["Drone"],
        "primary": "Drone",
        "environment": "rough",
        "actions": ["look"],
        "limits": {"load_kg": 3.0, "night": True, "smoke": True},
        "kind": "choice",
        "split": "train",
    }
    assert train[1]["kind"] == "team"
    assert validation[0]["actions"] == ["none"]


def test_other_peoples_rows_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "scenarios.jsonl"
    for content in (json.dumps({"id": "t1-001"}), "no JSON", "[]"):
        path.write_text(content)
        with pytest.raises(ValueError, match="holds other rows"):
            write_proposals([], path)
        assert path.read_text() == content


def test_a_request_with_line_separators_is_proposed_and_read_back(
    tmp_path: Path, store: LessonStore
) -> None:
    task = "look at\u2028the mast\u2029then\u0085the roof"
    store.add(correction(task, "Drone"), vector(1))
    path = tmp_path / "scenarios.jsonl"
    for _ in range(2):
        write_proposals(proposals(store.entries(), Fleet.default()), path)
    assert [row["task"] for row in load_own("scenarios", "train", str(tmp_path))] == [task]
