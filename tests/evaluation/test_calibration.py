"""Each fit against a closed form or an exhaustive search."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeBackend, blank_proposal
from opinion import DRONE, LEGS, Opinion

from embervlm.backends import load_backend
from embervlm.backends.base import Array, Proposal, StepScores
from embervlm.checkpoint import load_checkpoint
from embervlm.data.sample import robots_of
from embervlm.evaluation.calibration import (
    CERTAIN_FLAGS,
    Remembering,
    fit,
    fit_limit_shift,
    fit_shift,
    main,
)
from embervlm.evaluation.cases import Case
from embervlm.evaluation.counterfactual import Swap, read_swap
from embervlm.evaluation.fitting import answer_from, fit_confidence, fit_temperature, same_request
from embervlm.evaluation.metrics import Truth
from embervlm.evaluation.team_numbers import fit_teams
from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.prompts import token_spans
from embervlm.reading import Calibration
from embervlm.scenario import FLAGS, QUANTITIES, Scenario
from embervlm.selector import Selector
from embervlm.tokenizer import Tokenizer


def test_temperature_equals_an_exhaustive_search() -> None:
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(400, 32))
    true = np.array(
        [rng.choice(32, p=np.exp(row / 2.5) / np.exp(row / 2.5).sum()) for row in logits]
    )

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(400), true]).mean())

    grid = np.arange(1.0, 5.0, 0.01)
    best = grid[np.argmin([loss(t) for t in grid])]
    assert fit_temperature(logits, true) == pytest.approx(best, abs=0.01)


def test_temperature_undoes_a_scale() -> None:
    rng = np.random.default_rng(2)
    logits, true = rng.normal(size=(100, 32)), rng.integers(32, size=100)
    logits[np.arange(100), true] += 1.5
    once = fit_temperature(logits, true)
    assert fit_temperature(4 * logits, true) == pytest.approx(4 * once, rel=1e-4)


def test_confidence_of_two_levels_is_the_share_right_at_each() -> None:
    odds = np.array([-1.0] * 100 + [2.0] * 100)
    right = np.array([1.0] * 30 + [0.0] * 70 + [1.0] * 90 + [0.0] * 10)
    (scale,), shift = fit_confidence(odds[:, None], right)
    at = 1 / (1 + np.exp(-(scale * np.array([-1.0, 2.0]) + shift)))
    good, bad = 121 / 122, 1 / 82
    assert at == pytest.approx([0.3 * good + 0.7 * bad, 0.9 * good + 0.1 * bad], abs=1e-5)


def test_confidence_weighs_several_signs_as_scikit_learn_does() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    rng = np.random.default_rng(6)
    signs = rng.normal(size=(2000, 3))
    right = rng.random(2000) < 1 / (1 + np.exp(-(signs @ [1.0, -0.5, 0.0] + 1)))
    weights, shift = fit_confidence(signs, right.astype(float))
    known = linear_model.LogisticRegression(C=np.inf).fit(signs, right)
    assert weights == pytest.approx(known.coef_[0], abs=0.02)
    assert shift == pytest.approx(known.intercept_[0], abs=0.02)


def test_confidence_stays_finite_where_all_answers_are_right() -> None:
    (scale,), shift = fit_confidence(np.array([[0.5], [1.0], [3.0]]), np.ones(3))
    assert np.isfinite([scale, shift]).all()


def test_answers_as_many_as_the_error_allows() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.random(300).round(2)
    right = (rng.random(300) < 0.6 + 0.4 * confidence).astype(float)
    shares = {level: 1 - right[confidence >= level].mean() for level in np.unique(confidence)}
    lowest = min(level for level, error in shares.items() if error <= 0.10)
    assert answer_from(confidence, right) == pytest.approx(lowest, abs=1e-5)
    assert answer_from(confidence, right) <= lowest


def test_answers_nothing_where_even_the_surest_are_wrong() -> None:
    assert answer_from(np.array([0.9, 0.9, 0.2]), np.array([1.0, 0.0, 1.0])) == 1.0


def test_same_request_is_reached_by_at_most_one_percent() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(120, 8)).astype(np.float32) + 1
    answers = rng.integers(5, size=120)
    found = same_request(vectors, answers)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [
        float(unit[i] @ unit[j]) for i in range(120) for j in range(i) if answers[i] != answers[j]
    ]
    assert np.mean([cosine >= found for cosine in pairs]) <= 0.01
    assert np.mean([cosine >= found - 0.01 for cosine in pairs]) > 0.008


def test_fits_a_selector_and_leaves_it_as_it_was() -> None:
    """The flag "height" rules the wheels out; it is stated with 0.88 and mostly false."""
    wheels, drone = 8, 1

    def say(proposal: Proposal, task: str | None, pixels: Array | None) -> Proposal:
        assert task is not None
        rng = np.random.default_rng(len(task))
        subsets, flags = np.zeros(32, np.float32), blank_proposal(None).flags.copy()
        subsets[wheels], subsets[drone] = 4, 3
        flags[FLAGS.index("height")] = 2.0
        embedding = rng.normal(size=4).astype(np.float32)
        return replace(proposal, subsets=subsets, flags=flags, embedding=embedding)

    cases = []
    for i in range(60):
        robots = tuple(robots_of(drone if i % 3 == 0 else wheels))
        task = "x" * (i + 1)
        cases.append(Case(Scenario(task=task), Truth(str(i), task, robots, robots[0])))
    selector = Selector(FakeBackend(say))
    before = selector.calibration
    values = fit(selector, cases)
    assert selector.calibration == before
    assert set(values) == set(Calibration.__dataclass_fields__)
    assert values["certain_flag"] == min(c for c in CERTAIN_FLAGS if c > 1 / (1 + np.exp(-2.0)))
    assert values["ask_below"] == 1.0
    calibrated = Selector(FakeBackend(say, values))
    assert calibrated.decide(cases[1].scenario, reasoning=False).confidence == pytest.approx(
        2 / 3, abs=0.02
    )


def test_no_robot_is_answered_as_often_as_it_is_right() -> None:
    """Of 60 requests 12 are for No Robot; it leads in 30 of them, by 0.05 to 1.5."""

    def say(proposal: Proposal, task: str | None, pixels: Array | None) -> Proposal:
        subsets = np.full(32, -9, np.float32)
        subsets[0], subsets[1] = 0.05 * (len(task or "") - 30), 0
        return replace(proposal, subsets=subsets)

    cases = []
    for i in range(1, 61):
        robots = tuple(robots_of(0 if i > 48 else 1))
        cases.append(Case(Scenario(task="x" * i), Truth(str(i), "x" * i, robots, robots[0])))
    selector = Selector(FakeBackend(say))
    proposals = [selector.propose(case.scenario) for case in cases]
    assert fit_shift(selector, cases, proposals) == -0.9
    # Half of the 12 lead by 1.25 or more.
    assert fit_shift(selector, cases, proposals, recall=0.5) == -1.2
    assert fit_shift(selector, cases, proposals, recall=1.0) == -0.9


def test_numbers_are_limits_more_readily_where_swaps_show_it_and_no_set_is_lost() -> None:
    """A swapped load is taken for nothing by 1.2, a guard's weight of 80 kg by 2.2."""

    def say(proposal: Proposal, task: str | None, pixels: Array | None) -> Proposal:
        subsets, roles = np.zeros(32, np.float32), proposal.roles.copy()
        subsets[1], subsets[8] = 6, 3
        load, other = QUANTITIES.index("load_kg"), len(QUANTITIES)
        for i, mention in enumerate(proposal.mentions):
            roles[i, [load, other]] = (0, 2.2 if mention.value == 80 else 1.2)
        return replace(proposal, subsets=subsets, roles=roles)

    task = "look where the 80 kg guard stands"
    case = Case(Scenario(task=task), Truth("1", task, (DRONE,), DRONE))
    swap = Swap("2", "take the 3 kg box", "take the 7 kg box", DRONE)
    selector = Selector(FakeBackend(say))
    proposals, swaps = [selector.propose(case.scenario)], [read_swap(selector, swap)]
    assert fit_limit_shift(selector, [case], proposals, swaps) == 1.5
    assert fit_limit_shift(selector, [case], proposals, []) == 0.0


def test_the_command_rewrites_the_numbers_and_not_the_weights(
    small_data: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.gguf"
    shutil.copy(tiny_model, file)
    main(["--model", str(file), "--shared", str(small_data)])
    printed = json.loads(capsys.readouterr().out)
    before, after = load_checkpoint(tiny_model), load_checkpoint(file)
    assert after.calibration == {**before.calibration, **printed}
    for name, tensor in before.weights.items():
        assert np.array_equal(after.weights[name], tensor)
    main(["--model", str(file), "--shared", str(small_data)])
    assert json.loads(capsys.readouterr().out) == printed


def test_a_model_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--model", str(tmp_path / "none.gguf")])
    assert error.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("embervlm: ") and told.count("\n") == 1 and "none.gguf" in told


def test_refuses_a_recall_that_is_no_share() -> None:
    with pytest.raises(SystemExit) as error:
        main(["--model", "m.gguf", "--no-robot-recall", "85"])
    assert error.value.code == 2


@dataclass
class Splits(Opinion):
    """Splits each request in two, its second step as sure as the proposal's `states` say."""

    pointer: Array = field(default_factory=lambda: np.ones(1, np.float32))

    def split(self, proposal: Proposal) -> tuple[StepScores, ...]:
        blank = [np.zeros(n, np.float32) for n in (6, len(ACTIONS), len(FLAGS), len(ENVIRONMENTS))]
        return tuple(
            StepScores(more, *blank, np.zeros(2, np.float32), self.pointer)
            for more in (4.0, float(proposal.states))
        )


def test_a_doubtful_job_is_learnt_to_be_a_team_s_by_its_second_step(tokenizer: Tokenizer) -> None:
    """Of 40 requests with two steps those whose second is surer are a team's, all but four."""
    words = "look at it, then take it"
    tokens = len(token_spans(words, tokenizer, 128))
    opinion = Splits(
        {frozenset({DRONE}): 1.0},
        tokenizer=tokenizer,
        pointer=np.full(tokens, 1 / tokens, np.float32),
    )
    cases, proposals = [], []
    for i in range(40):
        is_team = i >= 20 if i % 10 else i < 20
        truth = Truth(str(i), words, (DRONE, LEGS) if is_team else (DRONE,), DRONE, is_team=is_team)
        cases.append(Case(Scenario(words), truth))
        proposals.append(replace(opinion.propose(words, None), team=-2.0, states=i / 10))
    values = fit_teams(Selector(opinion), cases, proposals)
    assert values["team_from"] == -6
    assert values["team_second"] > 0.5
    assert values["team_weight"] == Calibration().team_weight, "no job was surely a team's"


def test_what_was_asked_once_is_said_again(tiny_model: Path) -> None:
    backend = load_backend("native", tiny_model)
    remembering = Remembering(backend)
    task = "map it, then carry 8 kg"
    proposal = remembering.propose(task, None)
    assert remembering.propose(task, None) is proposal
    assert remembering.split(proposal) is remembering.split(proposal)
    np.testing.assert_array_equal(proposal.subsets, backend.propose(task, None).subsets)
    assert len(remembering.split(proposal)) == len(backend.split(proposal))
    pixels_CHW = np.zeros((3, remembering.image_size, remembering.image_size), np.float32)
    seen = remembering.propose(task, pixels_CHW)
    assert remembering.propose(task, pixels_CHW) is not seen
    assert remembering.calibration == backend.calibration
    assert remembering.write(proposal, ["Drone"]) == backend.write(proposal, ["Drone"])


def test_the_benchmark_of_lessons_decides_as_the_backend(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    lessons = importlib.import_module("lessons")
    backend, task = load_backend("native", tiny_model), "map it, then carry 8 kg"
    found = lessons.decide(Selector(lessons.Remembering(backend)), task)
    plain = lessons.decide(Selector(backend), task)
    assert (found.robots, found.plan) == (plain.robots, plain.plan)
