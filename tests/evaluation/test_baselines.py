"""How chances become sets, what is tuned on what, and what the cache keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from embervlm.data.scenarios import is_addition
from embervlm.evaluation.cases import text_truths
from embervlm.evaluation.keywords import decide
from embervlm.evaluation.metrics import Answer, Truth
from embervlm.fleet import Fleet

# They need the train extra.
baselines = pytest.importorskip("embervlm.evaluation.baselines")
minilm = pytest.importorskip("embervlm.evaluation.minilm")

OUTCOMES = Fleet.default().outcomes


def test_chances_become_sets() -> None:
    chances = np.array(
        [
            [0.6, 0.0, 0.0, 0.5, 0.2, 0.1],
            [0.2, 0.1, 0.0, 0.0, 0.3, 0.1],
            [0.5, 0.1, 0.1, 0.1, 0.1, 0.6],
            [0.6, 0.1, 0.1, 0.1, 0.1, 0.5],
        ]
    )
    sets = [answer.robots for answer in baselines.to_answers(chances, 0.4)]
    assert sets == [
        ("Drone", "Robot with Wheels"),
        ("Robot with Legs",),
        ("No Robot",),
        ("Drone",),
    ]


def test_the_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(1)
    chances = rng.random((50, 6))
    truths = [
        Truth(str(i), "", a.robots, a.primary)
        for i, a in enumerate(baselines.to_answers(chances, 0.71))
    ]
    best = max(
        baselines.exact_share(baselines.to_answers(chances, t), truths)
        for t in baselines.THRESHOLDS
    )
    assert (
        baselines.exact_share(
            baselines.to_answers(chances, baselines.tune_threshold(chances, truths)), truths
        )
        == best
    )


def test_majority_answers_the_commonest_set(small_data: Path) -> None:
    truths = [*text_truths("train"), *[Truth("x", "", ("Drone",), "Drone", "rough")] * 20]
    (answer,) = baselines.majority(truths, [])(["anything"])
    assert (answer.robots, answer.primary, answer.environment) == (("Drone",), "Drone", "rough")


def test_regressions_learn_their_training_rows(small_data: Path) -> None:
    train = text_truths("train")
    model = baselines.Regressions.fit(train, 30.0, baselines.tfidf_features(train))
    answers = model.predictor(0.3)([truth.task for truth in train])
    assert baselines.exact_share(answers, train) == 1.0
    assert [a.environment for a in answers] == [t.environment for t in train]


def test_an_outcome_that_training_never_saw_has_no_chance() -> None:
    texts = [
        f"{verb} the {thing}" for verb, thing in product(("look at", "open"), ("door", "roof"))
    ]
    train = [
        Truth(t, t, robots := ("Drone",) if "look" in t else ("Humanoid",), robots[0])
        for t in texts
    ]
    chances = baselines.Regressions.fit(train, 1.0, baselines.tfidf_features(train)).chances(
        ["look at the sea"]
    )
    assert chances[0, 0] > chances[0, 2] > 0
    assert (chances[0, [1, 3, 4, 5]] == 0).all()


def test_capability_text_finds_the_robot_that_is_described(small_data: Path) -> None:
    predict = baselines.capability_text(text_truths("train"), text_truths("validation"))
    answers = predict(
        [
            "dive in the lake and turn the valve under water",
            "haul pallets across the warehouse floor and the yards",
            "zzz qqq",
        ]
    )
    assert [answer.primary for answer in answers] == [
        "Underwater Robot",
        "Robot with Wheels",
        "No Robot",
    ]


@pytest.mark.parametrize(
    ("task", "robots"),
    [
        ("Map the whole field from above", {"Drone"}),
        ("Map the whole field from above, wind 80 km/h", {"No Robot"}),
        ("Photograph the ship's propeller below the waterline", {"Underwater Robot"}),
        ("Haul 200 kg of cement down the road", {"Robot with Wheels"}),
        ("Carry 12 kg up the stairs", {"Robot with Legs", "Humanoid"}),
        ("Carry 18 kg up the stairs", {"Humanoid"}),
        ("Carry 30 kg up the stairs", {"No Robot"}),
        ("Write up the incident report on the crash", {"No Robot"}),
    ],
)
def test_keyword_rules_follow_the_guide(task: str, robots: set[str]) -> None:
    assert set(decide(task).robots) == robots


def test_additions_are_told_from_the_authors_rows() -> None:
    assert [is_addition(name) for name in ("w1-001", "w12-7", "t1-001", "pl-001")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_fit_is_kept_until_anything_changes(small_data: Path, tmp_path: Path) -> None:
    fits = []

    def fit(
        train: Sequence[Truth], validation: Sequence[Truth]
    ) -> Callable[[Sequence[str]], list[Answer]]:
        fits.append(len(train))
        return lambda tasks: [Answer(("Drone", "Humanoid"), "Drone", None)] * len(tasks)

    train, validation = text_truths("train"), text_truths("validation")
    first = baselines.cached("one", fit, train, validation, ["a"], tmp_path)
    assert baselines.cached("one", fit, train, validation, ["a"], tmp_path) == first
    assert fits == [24]
    baselines.cached("two", fit, train, validation, ["a"], tmp_path)
    baselines.cached("one", fit, train[1:], validation, ["a"], tmp_path)
    baselines.cached("one", fit, train, validation, ["a", "b"], tmp_path)
    assert fits == [24, 24, 23, 24]


def test_all_baselines_answer_and_two_also_without_additions(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = dict.fromkeys(baselines.BASELINES, baselines.majority)
    monkeypatch.setattr(baselines, "BASELINES", cheap)
    found = baselines.answer_all(["a", "b"], tmp_path)
    extra = [f"{name}, authors' rows only" for name in baselines.ALSO_WITHOUT_ADDITIONS]
    assert set(found) == {*cheap, *extra}
    assert all(len(answers) == 2 for answers in found.values())


def test_sentence_vectors_bring_like_requests_together() -> None:
    vectors = minilm.sentence_vectors(["fly over the roof", "look at the roof from above", "cook"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=0.01)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_fine_tuning_learns() -> None:
    tasks = ["look at the roof", "open the door"] * 2
    truths = [Truth(t, t, r := (("Drone",) if "roof" in t else ("Humanoid",)), r[0]) for t in tasks]
    epochs: list[int] = []
    predict = minilm.fine_tune(
        tasks,
        baselines.membership(truths),
        epochs=6,
        rate=5e-4,
        seed=1,
        after_epoch=lambda epoch, _: epochs.append(epoch),
    )
    assert epochs == [1, 2, 3, 4, 5, 6]
    chances = predict(["look at the roof"])[0]
    assert chances[OUTCOMES.index("Drone")] > chances[OUTCOMES.index("Humanoid")] + 0.1
