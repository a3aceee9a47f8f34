"""The report holds what was asked, says what was not measured, and is the same twice."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend
from PIL import Image

from embervlm.backends.base import Array, Proposal
from embervlm.data import scenarios
from embervlm.evaluation import run as evaluation_run
from embervlm.evaluation.ablations import grey_photo, without_inputs, without_rules
from embervlm.evaluation.cases import Answered, decide, photo_cases, text_cases
from embervlm.evaluation.reasoning import reasoning_rows
from embervlm.evaluation.run import run
from embervlm.fleet import ENVIRONMENTS
from embervlm.imaging import load_image, preprocess
from embervlm.scenario import Scenario
from embervlm.selector import Selector

WHEELS, LEGS = 8, 16


def looker() -> Selector:
    """Return a selector that sends wheels to bright photos and legs to dark ones."""

    def say(proposal: Proposal, task: str | None, pixels: Array | None) -> Proposal:
        subsets, scene = np.zeros(32, np.float32), np.zeros(len(ENVIRONMENTS), np.float32)
        if pixels is not None:
            subsets[WHEELS if pixels.mean() > 0 else LEGS] = 4
            scene[ENVIRONMENTS.index("paved" if pixels.mean() > 0 else "rough")] = 4
        return replace(proposal, subsets=subsets, scene=None if pixels is None else scene)

    return Selector(FakeBackend(say))


def report_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def test_report_says_what_was_measured_and_what_was_not(
    small_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        assert run("test", tiny_model, "reference", small_data, file, False, None) == 0
    report = report_of(files[0])
    assert report["tables"] == report_of(files[1])["tables"]
    assert set(report["tables"]) == {
        "requests and plans",
        "embervlm by kind of request",
        "numbers swapped",
        "requests with typos",
        "photos that are damaged",
        "calibration",
        "answers at a threshold from validation",
        "sets that cover the true one",
        "unseen fleets",
        "requests that the photo settles",
        "place from the photo alone",
        "EmberVLM's 244 tasks",
        "reasoning",
        "reasoning, step by step",
        "facts that the reasoning cites",
        "exact sets by place",
        "exact sets by batch of requests",
        "photo requests by place",
        "photo requests by source of the photo",
    }
    assert set(report["right"]["requests and plans"]["right"]) <= {"0", "1"}
    assert len(report["right"]["photo requests"]["right"]) == 2
    assert report["not measured"] == {
        "efficiency": "it takes a GGUF file, and what writes it in other formats",
        "baselines": "not asked for",
        "plans": "there are none in this split",
        "requests in other words, or translated": "there are none that people wrote",
    }
    about = report["about"]
    assert {"command", "commit", "seed", "split", "split hash", "model", "machine"} <= set(about)
    assert report["tables"]["requests and plans"]["embervlm"]["exact_set"]["n"] == 16
    assert (
        report["tables"]["requests that the photo settles"]["embervlm, words and photo"][
            "exact_set"
        ]["n"]
        == 2
    )
    assert report["tables"]["place from the photo alone"]["all photos"]["share"]["n"] == 4
    assert report["tables"]["reasoning"]["own words parse"]["share"]["value"] == 1.0


def test_without_the_folder_the_photos_are_not_measured(
    small_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    run("validation", tiny_model, "reference", None, file, False, None)
    assert set(report_of(file)["not measured"]) == {
        "photos",
        "embervlm",
        "baselines",
        "plans",
        "robustness of photos",
        "fairness over photos",
        "efficiency",
        "requests in other words, or translated",
    }


@pytest.mark.parametrize(
    ("split", "only", "message"),
    [
        ("tests", None, "Unknown split 'tests'"),
        ("test", ["photo"], r"Unknown parts \['photo'\]"),
        ("test", ["photos"], "need --shared"),
    ],
)
def test_mistakes_are_named(
    tiny_model: Path, split: str, only: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(split, tiny_model, "reference", None, None, False, only)


def test_a_closed_pipe_loses_no_report(
    small_data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(report: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(evaluation_run, "show", closed)
    file, folder = tmp_path / "new" / "report.json", tmp_path / "out"
    with pytest.raises(BrokenPipeError):
        run("validation", tiny_model, "reference", None, file, False, ["requests"], folder)
    assert report_of(file) == report_of(folder / "report.json")


OWN = [
    {"id": f"m{i}", "split": "validation", "task": task, "suited": [robot], "primary": robot,
     "environment": "paved", "actions": ["look"], "limits": {}, "kind": "choice"}
    for i, (task, robot) in enumerate(
        [("see which posts are down", "Drone"), ("haul the hay", "Robot with Wheels")]
    )
]  # fmt: skip


def test_own_requests_are_measured_in_place_of_the_repository_s(
    small_data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, file = tmp_path / "mine", tmp_path / "report.json"
    own.mkdir()
    lines = [json.dumps(row) + "\n" for row in OWN]
    (own / "scenarios.jsonl").write_text("".join(lines), "utf-8")

    def measured(split: str, only: list[str] | None = None) -> None:
        asked = (split, tiny_model, "reference", None, file, True, only)
        assert run(*asked, scenarios=str(own)) == 0

    measured("validation")
    report = report_of(file)
    assert report["about"]["rows"] == {"scenarios": 2, "plans": 0}
    rows_hash = hashlib.sha256((own / "scenarios.jsonl").read_bytes()).hexdigest()
    assert report["about"]["files"] == {"scenarios.jsonl": rows_hash}
    assert "split hash" not in report["about"]  # it is of rows that play no part
    exact = report["tables"]["requests and plans"]["embervlm"]["exact_set"]
    assert exact["n"] == 2
    # Nothing of one's own rows has fitted a threshold, so that they are not cut in two.
    assert report["tables"]["sets that cover the true one"]["asked for 90%"]["coverage"]["n"] == 2
    assert report["not measured"]["plans"] == "there are none in this split"
    assert "baselines" in report["not measured"]
    monkeypatch.setattr(scenarios, "DATA_DIR", tmp_path / "installed without")
    measured("validation")
    assert report_of(file)["tables"]["calibration"]["embervlm"]["brier_sets"]["n"] == 2
    assert "sets that cover the true one" not in report_of(file)["tables"]
    assert "answers at a threshold, sets that cover the true one" in report_of(file)["not measured"]
    with pytest.raises(ValueError, match="has no request of the split 'test'"):
        measured("test")
    with pytest.raises(ValueError, match=r"photos: not with --scenarios, which measures requests"):
        measured("validation", ["photos"])
    own.rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"mine holds no scenarios\.jsonl"):
        measured("validation")


def test_each_photo_request_meets_a_photo_of_each_place_that_has_some(small_data: Path) -> None:
    for split in ("train", "validation", "test"):
        cases = photo_cases(split, small_data / "photos")
        assert [case.truth.environment for case in cases] == ["paved", "rough"]
        for case in cases:
            assert Path(str(case.scenario.image)).name.startswith(split)
        assert cases == photo_cases(split, small_data / "photos")


def test_taking_the_photo_away_costs_what_it_gave(small_data: Path) -> None:
    cases = photo_cases("test", small_data / "photos")
    for case in cases:
        bright = 200 if case.truth.environment == "paved" else 50
        Image.new("RGB", (16, 16), (bright,) * 3).save(str(case.scenario.image))
    rows = without_inputs(looker(), cases)
    assert list(rows) == [
        "words and photo",
        "words alone",
        "photo alone",
        "grey photo",
        "another photo",
    ]
    assert rows["words and photo"]["exact_set"].value == 1.0
    assert rows["photo alone"]["exact_set"].value == 1.0
    assert rows["words alone"]["exact_set"].value == 0.0
    assert rows["grey photo"]["exact_set"].value <= 0.5
    assert rows["another photo"]["exact_set"].value in (0.0, 1.0)


def test_grey_photo_is_zero_to_the_network() -> None:
    data = grey_photo(32)
    assert Image.open(io.BytesIO(data)).size == (32, 32)
    assert (preprocess(load_image(data), 32) == 0).all()


def test_the_network_alone_may_break_a_limit() -> None:
    def say(proposal: Proposal, task: str | None, pixels: Array | None) -> Proposal:
        subsets, primary = np.zeros(32, np.float32), np.zeros(6, np.float32)
        subsets[WHEELS | LEGS], primary[4] = 5, 2
        places = np.zeros(len(ENVIRONMENTS), np.float32)
        places[ENVIRONMENTS.index("underwater")] = 9
        return replace(proposal, subsets=subsets, primary=primary, environment=places)

    proposal, decision = decide(Selector(FakeBackend(say)), Scenario(task="go"))
    answer = without_rules(proposal)
    assert answer.robots == ("Robot with Legs", "Robot with Wheels")
    assert answer.environment == "underwater"
    assert set(decision.robots) & set(answer.robots) == set()


def test_reasoning_that_does_not_parse_is_counted(small_data: Path) -> None:
    class Mumbling(FakeBackend):
        def write(self, proposal: Proposal, robots: Any) -> str:
            return super().write(proposal, robots) if len(proposal.mentions) else "mumble"

    selector = Selector(Mumbling(lambda proposal, task, pixels: proposal))
    answered = [Answered(c, *decide(selector, c.scenario)) for c in text_cases("test")]
    numbers = [one for one in answered if one.proposal.mentions]
    rows, faults = reasoning_rows(selector, answered)
    assert 0 < len(numbers) < len(answered)
    assert rows["own words parse"]["share"].value == pytest.approx(len(numbers) / len(answered))
    assert rows["names exactly the decided robots"]["share"].n == len(numbers)
    assert faults == []


def test_baselines_stand_beside_the_model(
    small_data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baselines = pytest.importorskip("embervlm.evaluation.baselines")
    cheap = dict.fromkeys(baselines.BASELINES, baselines.majority)
    monkeypatch.setattr(baselines, "BASELINES", cheap)
    monkeypatch.setattr(evaluation_run, "learn_minilm", evaluation_run.learn_tfidf)
    monkeypatch.chdir(tmp_path)
    parts = ["requests", "photos", "embervlm"]
    assert run("test", tiny_model, "reference", small_data, Path("r.json"), True, parts) == 0
    tables = report_of(tmp_path / "r.json")["tables"]
    extra = {f"{name}, authors' rows only" for name in baselines.ALSO_WITHOUT_ADDITIONS}
    assert set(tables["requests and plans"]) == {
        "embervlm",
        "embervlm, without rules",
        *cheap,
        *extra,
    }
    assert "majority" in tables["requests that the photo settles"]
    folds = {name for name in tables["EmberVLM's 244 tasks"] if name.endswith("five folds")}
    assert len(folds) == 3
    assert all(tables["EmberVLM's 244 tasks"][name]["exact_set"]["n"] == 21 for name in folds)
