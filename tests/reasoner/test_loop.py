"""The loop: when it stops, what it remembers, and that no prompt ever depends on the gold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recording import Recording, in_turn

from embervlm.imaging import load_image
from embervlm.memory.entries import MemoryBuffer
from embervlm.reasoner.evaluation import evaluate, trace_line
from embervlm.reasoner.feedback import KINDS, source_of
from embervlm.reasoner.loop import IterativeReasoner, Trace, one_photo
from embervlm.reasoner.managers import RuleManager
from embervlm.reasoner.memory_manager import ReasoningMemoryManager
from embervlm.reasoner.models import LanguageModel, SelectorModel
from embervlm.reasoner.problems import Case, Gold, Loaded, Problem
from embervlm.training.teachers import NoAnswerError

EGGS = Problem("eggs", "Ann has 16 eggs and eats 7. How many eggs remain?")
HENS = Problem("hens", "Bea has 20 eggs and eats 5. How many eggs remain?")
SENTINEL = "987654321"


def test_a_wrong_sum_is_mended_without_the_gold() -> None:
    model = in_turn("16 - 7 = 8\nAnswer: 8", "16 - 7 = 9\nAnswer: 9")
    reasoner = IterativeReasoner(model)
    trace = reasoner.solve(EGGS)
    assert (trace.answer, trace.stopped, len(trace.iterations)) == ("9", "accepted", 2)
    assert trace.iterations[0].feedback == "16 - 7 is not 8: calculate it again."
    assert trace.iterations[0].changed == (1,)
    assert trace.iterations[1].memory == (1,)
    assert "16 - 7 is not 8: calculate it again." in model.prompts[1].words
    assert "16 - 7 = 8" in model.prompts[1].words
    assert json.loads(json.dumps(trace.to_dict()))["iterations"][0]["answer"] == "8"


@pytest.mark.parametrize(
    ("answers", "stopped", "asked"),
    [
        (["Answer: 9"], "accepted", 1),
        (["1 + 1 = 3\nAnswer: 3", "1 + 1 = 3.00\nAnswer: 3.0"], "unchanged", 2),
        (["Who knows?"], "most iterations", 4),
        (
            ["1 + 1 = 3\nAnswer: 3", "1 + 1 = 4\nAnswer: 4"] + ["1 + 1 = 5\nAnswer: 5"],
            "unchanged",
            4,
        ),
    ],
)
def test_why_it_stops(answers: list[str], stopped: str, asked: int) -> None:
    trace = IterativeReasoner(in_turn(*answers), max_iterations=4).solve(EGGS)
    assert (trace.stopped, len(trace.iterations)) == (stopped, asked)


def test_one_answer_without_feedback() -> None:
    model = in_turn("1 + 1 = 3\nAnswer: 3")
    reasoner = IterativeReasoner(model)
    trace = reasoner.solve(EGGS, feedback="none")
    assert (len(trace.iterations), trace.stopped, len(reasoner.memory)) == (1, "no review", 0)


def test_memory_stays_unless_asked_otherwise() -> None:
    says = {EGGS.question: "16 - 7 = 8\nAnswer: 8", HENS.question: "20 - 5 = 15\nAnswer: 15"}
    for fresh in (False, True):
        model = Recording(lambda question, times: says[question])
        start = MemoryBuffer()
        start.add("fact", "Eggs are counted.")
        reasoner = IterativeReasoner(model, memory=start, fresh_memory=fresh)
        reasoner.solve(EGGS)
        trace = reasoner.solve(HENS)
        assert ("16 - 7 is not 8" in model.prompts[-1].words) is not fresh
        assert 1 in trace.iterations[0].memory, "what was there at first stays in any case"


def test_a_source_is_named_or_refused() -> None:
    reasoner = IterativeReasoner(in_turn("Answer: 9"))
    source = source_of(Case(EGGS, Gold(("9",))), "verdict")
    for kind, given in (("self", source), ("verdict", None), ("guess", None)):
        with pytest.raises(ValueError, match="feedback is"):
            reasoner.solve(EGGS, given, feedback=kind)
    with pytest.raises(ValueError, match="There is no feedback 'guess'"):
        source_of(Case(EGGS, Gold(("9",))), "guess")
    with pytest.raises(ValueError, match="max_iterations is 0"):
        IterativeReasoner(in_turn("x"), max_iterations=0)


def test_a_model_without_an_answer_ends_the_problem_or_the_run() -> None:
    def fail(question: str, times: int) -> str:
        raise NoAnswerError("the prompt is too long", out_of_reach=question == HENS.question)

    reasoner = IterativeReasoner(Recording(fail))
    trace = reasoner.solve(EGGS)
    assert (trace.stopped, trace.reason, trace.answer) == (
        "no answer",
        "the prompt is too long",
        None,
    )
    data = Loaded([Case(EGGS, Gold(("9",))), Case(HENS, Gold(("15",)))])
    with pytest.raises(ValueError, match="cannot be reached .*after 1 of 2 problems"):
        evaluate(reasoner, data)


def data_of(gold: str) -> Loaded:
    """Return problems of three forms whose every gold field says `gold`."""
    golds = Gold((gold,), (gold,), (f"It is 3 * 3 = {gold}.",), kind="eggs", lesson=None)
    lettered = Gold(("B",), lines=(gold,), lesson="Take the sea.")
    return Loaded(
        [
            Case(EGGS, golds),
            Case(HENS, replace(golds, lesson=f"Say {gold} at once.")),
            Case(Problem("which", "Which one is blue?", ("sun", "sea")), lettered),
            Case(replace(EGGS, id="again"), golds),
        ]
    )


def says(question: str, times: int) -> str:
    """Answer in ways that are wrong, unreadable, right and changing; nothing here knows a gold."""
    if "blue" in question:
        return f"Answer: {'AB'[times % 2]}"
    sums = ("16 - 7 = 8\nAnswer: 8", "Who knows?", "16 - 7 = 9\nAnswer: 9", "Answer: 15")
    return sums[times % 4]


def run_all(gold: str, kind: str, manager: str) -> tuple[Recording, Recording, list[Trace]]:
    model = Recording(says)
    reviewer = Recording(lambda question, times: "VERDICT: revise\nFEEDBACK: look\nADD fact: eggs")
    by = RuleManager() if manager == "rules" else ReasoningMemoryManager(reviewer)
    traces: list[Trace] = []
    evaluate(
        IterativeReasoner(model, by, 4),
        data_of(gold),
        feedback=kind,
        on_trace=lambda case, trace: traces.append(trace),
    )
    return model, reviewer, traces


@pytest.mark.parametrize("manager", ["rules", "model"])
@pytest.mark.parametrize("kind", ["none", "self"])
def test_prompts_and_stops_are_the_same_whatever_the_gold(kind: str, manager: str) -> None:
    # 9 is what the model says at its third try; the others it never says.
    runs = [run_all(gold, kind, manager) for gold in ("9", "15", SENTINEL)]
    for model, reviewer, traces in runs[1:]:
        assert model.prompts == runs[0][0].prompts
        assert reviewer.prompts == runs[0][1].prompts
        assert traces == runs[0][2]


@pytest.mark.parametrize("manager", ["rules", "model"])
def test_a_verdict_tells_one_bit_and_no_more(manager: str) -> None:
    never_right = [run_all(gold, "verdict", manager) for gold in ("77", SENTINEL)]
    assert never_right[0][0].prompts == never_right[1][0].prompts
    assert never_right[0][1].prompts == never_right[1][1].prompts


@pytest.mark.parametrize("manager", ["rules", "model"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gold_stands_in_no_prompt(kind: str, manager: str) -> None:
    model, reviewer, traces = run_all(SENTINEL, kind, manager)
    assert len(model.prompts) >= 4
    assert SENTINEL not in model.seen
    assert SENTINEL not in reviewer.seen
    assert SENTINEL not in json.dumps([trace.to_dict() for trace in traces])


def test_the_report_names_an_oracle_and_its_parts_add_up() -> None:
    for kind in KINDS:
        report = evaluate(
            IterativeReasoner(Recording(says), max_iterations=4), data_of("9"), feedback=kind
        )
        assert report["oracle"] is (kind in ("verdict", "hint"))
        figures = {name: share["value"] for name, share in report["figures"].items()}
        first, mended = figures["accuracy_first"], figures["correction_effectiveness"]
        harm = figures["harm"] or 0.0
        assert figures["accuracy"] == pytest.approx(first + (1 - first) * mended - first * harm)
        assert sum(report["stopped"].values()) == report["problems"] == 4


def test_a_blind_model_is_not_asked_about_photos_and_that_is_counted(photo: Path) -> None:
    seen = Problem("p", "How many?", photos=(photo.read_bytes(),))
    data = Loaded([Case(seen, Gold(("9",))), Case(EGGS, Gold(("9",)))])
    report = evaluate(IterativeReasoner(Recording(says, sees=False)), data)
    assert report["problems"] == 1
    assert report["left_out"] == {"with images, which the model cannot see": 1}
    with pytest.raises(ValueError, match="cannot see, and every problem has an image"):
        evaluate(IterativeReasoner(Recording(says, sees=False)), Loaded(data.cases[:1]))


def test_several_photos_are_one_under_the_other(photo: Path) -> None:
    alone = one_photo((photo.read_bytes(),))
    both = one_photo((photo.read_bytes(), photo.read_bytes()))
    assert alone is not None
    assert both is not None
    height, width = load_image(alone).shape[:2]
    assert load_image(both).shape[:2] == (2 * height + 16, width)
    assert one_photo(()) is None


def test_our_own_selector_answers_which_robots_and_never_changes() -> None:
    from embervlm.selector import Selector

    class Fixed(Selector):
        def __init__(self) -> None:
            self.asked: list[str | None] = []

        def decide(self, scenario, *, top_k=None, reasoning=True):  # type: ignore[no-untyped-def]
            self.asked.append(scenario.task)

            class Sent:
                robots = ("Drone", "Humanoid")
                reasoning = ("task: look",)

            return Sent()

    selector = Fixed()
    model: LanguageModel = SelectorModel(selector)
    problem = Problem("r", "look at the roof")
    source = source_of(Case(problem, Gold(("Humanoid",))), "verdict")
    trace = IterativeReasoner(model).solve(problem, source, feedback="verdict")
    assert (trace.answer, trace.stopped) == ("Drone, Humanoid", "unchanged")
    assert selector.asked == ["look at the roof"] * 2


def test_a_line_of_traces_has_the_gold_and_is_json() -> None:
    trace = IterativeReasoner(in_turn("Answer: 9")).solve(EGGS)
    row = json.loads(trace_line(Case(EGGS, Gold(("9",))), trace))
    assert (row["problem"], row["gold"], row["stopped"]) == ("eggs", ["9"], "accepted")
