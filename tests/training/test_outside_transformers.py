"""A tiny and random model of pictures and words under our protocol, through transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_teachers import save_llava

from embervlm.evaluation.cases import Case
from embervlm.evaluation.metrics import Truth
from embervlm.scenario import Scenario
from embervlm.suites.asking import open_outside
from embervlm.suites.comparison import compare
from embervlm.training.teachers import TeacherSettings

SHORT = TeacherSettings(max_tokens=6)


def test_random_words_are_unreadable_and_no_robot_is_right(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_llava(tmp_path / "llava")
    about = json.loads((folder / "config.json").read_text())
    about["text_config"]["max_position_embeddings"] = 8192
    (folder / "config.json").write_text(json.dumps(about))
    model = open_outside(f"transformers:{folder}", SHORT)
    assert model.sees
    cases = [Case(Scenario("look", photo), Truth("im-1", "look", ("Drone",), "Drone"))]
    monkeypatch.setattr("embervlm.suites.comparison.photo_cases", lambda *_: cases)
    report = compare(model, "validation", tmp_path, tmp_path / "a.jsonl", limit=2)
    assert report["about"]["asked"]["requests"]["answered"] == 2
    assert report["about"]["asked"]["photos"]["answered"] == 1
    for rows in report["tables"].values():
        for row in rows.values():
            assert (row["unreadable"]["value"], row["exact_set"]["value"]) == (1, 0)
    kept = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len({row["text"] for row in kept}) > 1, "it reads what it is asked"


def test_a_prompt_that_is_too_long_for_the_model_is_counted(tmp_path: Path) -> None:
    model = open_outside(f"transformers:{save_llava(tmp_path / 'llava')}", SHORT)
    report = compare(model, "validation", None, tmp_path / "a.jsonl", parts=["requests"], limit=2)
    reasons = report["about"]["asked"]["requests"]["without an answer"]
    assert sum(reasons.values()) == 2
    assert all("the model takes 512" in why for why in reasons)


def test_other_names_are_none() -> None:
    with pytest.raises(ValueError, match=r"give openai:URL#model or transformers:NAME_OR_FOLDER"):
        open_outside("local:folder")
