"""Folds that do not leak, and training inside them that changes what it should."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from embervlm.data.scenarios import NEAR_DUPLICATE, task_vectors
from embervlm.evaluation.embervlm_tasks import (
    cross_validate,
    fold_of_each,
    inner_split,
    load_tasks,
    near_training_rows,
)
from embervlm.evaluation.metrics import Answer, Truth


def truths_of(count: int) -> list[Truth]:
    """Return tasks of which every fourth is nearly the one before it."""
    words = ["valve", "bridge", "orchard", "wharf", "attic", "tunnel", "meadow", "crane"]
    tasks: list[str] = []
    for i in range(count):
        fresh = f"{words[i % 8]} {i * 7919 % 104729:x} {words[(i * 3) % 8]} {i * 104729 % 7919:x}"
        tasks.append(f"{tasks[-1]} now" if i % 4 == 3 else fresh)
    return [Truth(f"e{i:03d}", task, ("Drone",), "Drone") for i, task in enumerate(tasks)]


def test_each_different_task_is_read_once(tmp_path: Path) -> None:
    rows = [
        {"input": "Task: Look at it.", "output": "Robot with Legs, Drone"},
        {"input": "Task: Dive.", "output": "Underwater Robot"},
        {"input": "Task: Look at it.", "output": "Drone"},
    ]
    file = tmp_path / "public" / "single_robot_selection.json"
    file.parent.mkdir()
    file.write_text(json.dumps(rows), "utf-8")
    found = [(t.task, t.robots, t.primary) for t in load_tasks(tmp_path)]
    assert found == [
        ("Look at it.", ("Robot with Legs", "Drone"), "Robot with Legs"),
        ("Dive.", ("Underwater Robot",), "Underwater Robot"),
    ]
    file.write_text(json.dumps([{"input": "Task: x", "output": "Tank"}]), "utf-8")
    with pytest.raises(ValueError, match="Tank"):
        load_tasks(tmp_path)
    with pytest.raises(ValueError, match="public"):
        load_tasks(tmp_path / "nowhere")


def test_near_duplicates_share_a_fold_and_folds_are_even() -> None:
    truths = truths_of(60)
    fold = fold_of_each(truths)
    vectors = task_vectors([truth.task for truth in truths])
    alike = vectors @ vectors.T > NEAR_DUPLICATE
    assert alike.sum() > 60
    for i in range(60):
        assert {fold[j] for j in range(60) if alike[i, j]} == {fold[i]}
    sizes = [fold.count(f) for f in range(5)]
    assert max(sizes) - min(sizes) <= 2


def test_no_learner_sees_what_it_is_asked() -> None:
    truths = truths_of(40)
    asked: list[str] = []

    def learn(train: Sequence[Truth], tasks: Sequence[str]) -> list[Answer]:
        assert not {truth.task for truth in train} & set(tasks)
        assert len(train) + len(tasks) == 40
        asked.extend(tasks)
        return [Answer((task,), task) for task in tasks]

    answers = cross_validate(truths, learn)
    assert [answer.primary for answer in answers] == [truth.task for truth in truths]
    assert len(asked) == 40


def test_inner_split_parts_the_training_tasks() -> None:
    truths = truths_of(50)
    fitted, chosen_on = inner_split(truths)
    assert sorted(t.id for t in (*fitted, *chosen_on)) == sorted(t.id for t in truths)
    assert 8 <= len(chosen_on) <= 12


def test_finds_tasks_that_resemble_training_rows() -> None:
    train = [Truth("t", "Inspect the outside of a high building for damage", ("Drone",), "Drone")]
    tasks = [
        Truth("a", "Inspect the outside of the high building for damages", ("Drone",), "Drone"),
        Truth("b", "Count sheep", ("Drone",), "Drone"),
    ]
    assert near_training_rows(tasks, train) == 1


def test_our_network_learns_a_fold_and_only_its_reader_changes(tiny_model: Path) -> None:
    torch = pytest.importorskip("torch")
    from embervlm.backends.pytorch import PyTorchBackend
    from embervlm.checkpoint import load_checkpoint
    from embervlm.evaluation import fold_training

    start = PyTorchBackend.load(tiny_model).network
    tokenizer = load_checkpoint(tiny_model).tokenizer
    sets = [("Drone",), ("Robot with Wheels", "Robot with Legs"), ("No Robot",)]
    tasks = ["look at the roof", "carry the pump", "search the river", "send the people"]
    train = [Truth(str(i), task, sets[i % 3], sets[i % 3][0]) for i, task in enumerate(tasks * 4)]
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    rate = fold_training.RATE
    fold_training.RATE = 5e-3
    try:
        network, shares = fold_training.fine_tune(start, tokenizer, train[:3], 60, train[:3])
    finally:
        fold_training.RATE = rate
    assert len(shares) == 60
    assert shares[-1] == 1.0
    answers = fold_training.to_answers(fold_training.set_chances(network, tokenizer, tasks[:3]))
    assert [set(a.robots) for a in answers] == [set(t.robots) for t in train[:3]]
    for name, tensor in network.state_dict().items():
        may_change = name.startswith(("text.", "heads.subset_features."))
        assert torch.equal(start.state_dict()[name], before[name])
        if not may_change:
            assert torch.equal(tensor, before[name]), name
    learn = fold_training.learner_from(tiny_model, max_epochs=1)
    assert len(learn(train, ["look"])) == 1
