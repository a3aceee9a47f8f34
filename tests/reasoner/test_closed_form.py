"""The loop against a model of known skill, over HTTP: it measures what must be there.

The derivations stand in `benchmarks/scripted_model.py`; the benchmark runs more of the same.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("scipy")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.usefixtures("_benchmarks")
def test_measured_figures_are_their_closed_forms() -> None:
    import reasoner

    report = reasoner.run(problems=64, streams=3, each=3)
    outside = [one for one in report["comparisons"] if not one["inside"]]
    assert not outside
    assert {one["part"] for one in report["comparisons"]} == {
        "none", "self", "self, asking again", "verdict", "hint, memory stays", "hint, memory fresh",
    }  # fmt: skip
    assert report["lessons_in_the_prompt"] == report["lessons_kept"] > 20


@pytest.mark.usefixtures("_benchmarks")
def test_a_wrong_closed_form_is_noticed() -> None:
    import reasoner

    right = [reasoner.compare("x", "y", 40, 100, 0.4)]
    wrong = [reasoner.compare("x", "y", 40, 100, 0.6)]
    assert reasoner.judge(right)
    assert not reasoner.judge(wrong)


@pytest.mark.usefixtures("_benchmarks")
def test_what_the_server_saw_has_no_gold_of_this_or_an_earlier_problem() -> None:
    from scripted_model import ScriptedModel, Skill, cases_of, draw_stream, serve

    from embervlm.reasoner.evaluation import evaluate
    from embervlm.reasoner.loop import IterativeReasoner
    from embervlm.reasoner.models import open_model
    from embervlm.reasoner.problems import Loaded

    stream = [one for one in draw_stream(1, 4) if one.gold >= 100]
    golds = {str(problem.gold) for problem in stream}
    questions = " ".join(problem.question for problem in stream)
    golds -= set(re.findall(r"\d+", questions))
    assert len(golds) > 10
    for feedback in ("self", "verdict", "hint"):
        model = ScriptedModel(Skill(0.4, 0.6, 0.5, 0.2, 0.5), stream, 1)
        with serve(model) as url:
            evaluate(
                IterativeReasoner(open_model(f"openai:{url}#m")),
                Loaded(cases_of(stream)),
                feedback=feedback,
            )
        for words in model.prompts:
            # The model's own earlier answer is its own: it may have been right.
            ours = re.sub(r"(?s)<answer>.*</answer>", "", words)
            assert golds.isdisjoint(re.findall(r"\d+", ours))
