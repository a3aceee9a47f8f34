"""Simulated reviews: right by computation, the same for the same seed, and never with the gold."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from embervlm.memory.entries import MemoryBuffer, MemoryEntry
from embervlm.reasoner.data_sets import load_set
from embervlm.reasoner.equations import equations
from embervlm.reasoner.judging import final_answer, is_right
from embervlm.reasoner.managers import apply
from embervlm.reasoner.prompts import parse_review
from embervlm.reasoner.simulation import (
    FILES,
    MISTAKES,
    answer_text,
    draw_problem,
    simulate,
    wrong_answers,
)
from embervlm.reasoner.templates import TEMPLATES


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_mistake_is_of_its_kind() -> None:
    draw = random.Random(0)
    made: set[str] = set()
    for template in TEMPLATES * 10:
        problem = draw_problem(template, draw)
        right = answer_text(problem.lines)
        assert all(equation.holds for equation in equations(right))
        assert len(equations(right)) == len(problem.lines)
        for wrong in wrong_answers(problem, draw):
            made.add(wrong.mistake)
            text = wrong.text()
            assert final_answer(text) != str(problem.gold)
            holds = [equation.holds for equation in equations(text)]
            assert holds.count(False) == (wrong.mistake == "slip")
            if wrong.mistake == "slip":
                assert holds.index(False) == wrong.at
            if wrong.mistake == "omitted":
                assert len(holds) == len(problem.lines) - 1
            assert str(problem.gold) not in re.findall(r"\d+", wrong.feedback + wrong.lesson)
    assert made == set(MISTAKES)


def test_the_same_seed_writes_the_same_files_and_no_question_is_in_two(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        counts = simulate(tmp_path / folder, rows=200, seed=seed, problems=30)
        assert counts == dict(zip(FILES, (180, 20, 30), strict=True))
    texts = {folder: (tmp_path / folder / FILES[0]).read_text() for folder in "abc"}
    assert texts["a"] == texts["b"] != texts["c"]
    questions = [{row["question"] for row in read(tmp_path / "a" / name)} for name in FILES]
    assert sum(map(len, questions)) == len(set.union(*questions)) == 230


def test_reviews_are_in_form_do_what_they_say_and_state_no_gold(tmp_path: Path) -> None:
    simulate(tmp_path / "sim", rows=300, seed=3, problems=1)
    kinds = set()
    for row in read(tmp_path / "sim" / FILES[0]):
        review = parse_review(str(row["completion"]))
        assert review is not None
        assert review.accepted == (row["mistake"] == "none")
        entries = [MemoryEntry.from_dict(entry) for entry in row["memory"]]  # type: ignore[attr-defined]
        memory = MemoryBuffer(entries)
        shown = [entry.id for entry in entries]
        assert not apply(review.operations, memory, may_change=shown, metadata={}).refused
        kinds |= {operation.kind for operation in review.operations}
        if not review.accepted:
            problem_numbers = set(re.findall(r"\d+", f"{row['question']} {row['answer']}"))
            said = set(re.findall(r"\d+", review.feedback)) - {"1", "2", "3", "4"}
            assert said <= problem_numbers, "numbers of the problem and of the answer alone"
    assert kinds == {"add", "update", "remove"}


def test_problems_are_read_back_with_lesson_and_steps(tmp_path: Path) -> None:
    simulate(tmp_path / "sim", rows=20, seed=0, problems=40)
    loaded = load_set(f"simulated:{tmp_path / 'sim' / FILES[2]}")
    assert (len(loaded.cases), loaded.left_out.total()) == (40, 0)
    for row, case in zip(read(tmp_path / "sim" / FILES[2]), loaded.cases, strict=True):
        assert case.gold.steps[-1] == case.gold.answers[0]
        assert case.gold.lesson
        assert is_right(final_answer(str(row["answer"])), case.gold)


def test_lessons_are_found_by_the_words_of_their_kind() -> None:
    memory = MemoryBuffer()
    for template in TEMPLATES:
        memory.add("correction", template.lesson)
    draw = random.Random(5)
    for template in TEMPLATES:
        for _ in range(20):
            found = memory.retrieve(draw_problem(template, draw).question)
            assert template.lesson in [entry.content for entry in found]


def test_wrong_requests_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 20 or more"):
        simulate(tmp_path / "x", rows=3, seed=0)
    (tmp_path / "file").write_text("x")
    for full in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="is not empty; give a new folder"):
            simulate(full, rows=20, seed=0)
