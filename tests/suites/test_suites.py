"""Small files in the suites' own layouts: read, asked of a scripted server, and scored."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chat_server
import numpy as np
import pytest
from chat_server import words_of
from PIL import Image
from typer.testing import CliRunner

from embervlm.cli import app
from embervlm.evaluation.cases import text_cases
from embervlm.fleet import Fleet
from embervlm.suites.export import export_suite
from embervlm.suites.formats import SUITES
from embervlm.suites.loaders import load_items
from embervlm.suites.own import OwnModel
from embervlm.suites.running import run_suite
from embervlm.suites.scoring import RULES

OPTIONS = {"A": "a dog", "B": "a cat", "C": "a bird", "D": "a fish"}


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def in_base64(seed: int) -> str:
    return base64.b64encode(picture(seed)).decode()


def tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    for seed in range(3):
        (path.parent / f"{seed}.png").write_bytes(picture(seed))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def point() -> Iterator[chat_server.Endpoint]:
    with chat_server.serve() as found:
        yield found


@pytest.fixture
def run(point: chat_server.Endpoint, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(name: str, path: Path, answer: Callable[[str], str], **more: Any) -> dict[str, Any]:
        point.answer = lambda request: answer(words_of(request))
        model = f"openai:{point.url}#m"
        return run_suite(name, path, model, tmp_path / "answers.jsonl", **more)

    return run


def test_each_suite_has_a_rule_that_is_there() -> None:
    assert len(SUITES) == 14
    assert {suite.rule for suite in SUITES.values()} == set(RULES)


def test_mmbench_table_scores_letters_and_chance(
    run: Callable[..., dict[str, Any]], tmp_path: Path, point: chat_server.Endpoint
) -> None:
    rows = [
        {"index": i, "image": in_base64(i) if i < 2 else "0", "question": f"Pet {i}?",
         "hint": "Look well." if i == 0 else "", **OPTIONS, "D": "" if i == 3 else "a fish",
         "answer": "ABCA"[i], "category": "pets" if i < 3 else "others"}
        for i in range(4)
    ]  # fmt: skip
    path = tsv(tmp_path / "mmbench.tsv", rows)
    items = load_items("mmbench", path).items
    assert items[2].photos == items[0].photos, "a picture is said once"
    assert items[0].question == "Look well.\nPet 0?"
    assert items[3].options == ("a dog", "a cat", "a bird")
    # Right, right, wrong, not to be read.
    said = {"Pet 0?": "A", "Pet 1?": "a cat", "Pet 2?": "(B)", "Pet 3?": "who knows"}
    report = run("mmbench", path, lambda words: next(said[q] for q in said if q in words))
    figures = report["figures"]
    assert figures["all"]["value"] == 50
    assert figures["all"]["chance"] == pytest.approx(100 * (3 / 4 + 1 / 3) / 4)
    assert figures["pets"]["value"] == pytest.approx(100 * 2 / 3, abs=1e-3)
    assert figures["others"]["value"] == 0
    assert figures["unreadable"]["value"] == 25
    assert "B. a cat" in words_of(point.asked[0])
    assert point.asked[0]["temperature"] == 0


def test_the_second_layout_of_each_suite_with_options(tmp_path: Path) -> None:
    rows: dict[str, dict[str, Any]] = {
        "seedbench": {"question": "q", "image": ["0.png"], "choice_a": "x", "choice_b": "y",
                      "choice_c": "z", "choice_d": "w", "answer": "C", "data_type": "image"},
        "ai2d": {"question": "q", "image": "0.png", "options": ["3", "2", "1", "0"], "answer": "2"},
        "scienceqa": {"question": "q", "image": None, "choices": ["x", "y", "z"], "answer": 2,
                      "hint": "h"},
        "mmstar": {"question": "q\nOptions: A: x, B: y, C: z, D: w", "image": "0.png",
                   "answer": "C", "category": "math", "index": 7},
        "mmmu": {"question": "q", "image": "0.png", "options": "['x', 'y', 'z']", "answer": "C"},
        "mathvista": {"question": "q", "image": "0.png", "choices": ["C", "B", "A"], "answer": "A"},
    }  # fmt: skip
    for name, row in rows.items():
        (item,) = load_items(name, jsonl(tmp_path / f"{name}.jsonl", [row])).items
        assert item.answers == ("C",), name
        assert len(item.photos) == (name != "scienceqa"), name


def test_mme_pairs_and_scores(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = [
        {"question_id": f"{kind}/{i}.png", "image": f"{i}.png", "category": kind,
         "question": f"{kind} {i} {word}?", "answer": word}
        for kind in ("count", "code_reasoning") for i in range(2) for word in ("Yes", "No")
    ]  # fmt: skip
    path = jsonl(tmp_path / "mme.jsonl", rows)
    report = run("mme", path, lambda words: "Yes")
    figures = report["figures"]
    # Always yes: half of the questions, no picture with both.
    assert figures["acc"] == {"value": 50, "low": None, "high": None, "n": 8, "chance": 50}
    assert figures["acc+"]["value"] == 0
    assert figures["acc+"]["chance"] == 25
    assert (figures["perception"]["value"], figures["perception"]["chance"]) == (50, 75)
    right = run("mme", path, lambda words: "Yes" if "Yes?" in words else "No, not.")
    # Kept under the key of the question, the first answers still count.
    assert right["figures"]["acc"]["value"] == 50
    with pytest.raises(ValueError, match="have not two questions"):
        run("mme", path, lambda words: "Yes", limit=3)


def test_words_numbers_and_documents(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    image = {"image": "0.png"}
    textvqa = [{"question": "brand?", "answers": ["nokia"] * 8 + ["dell"] * 2, **image}]
    path = jsonl(tmp_path / "t.jsonl", textvqa)
    value = run("textvqa", path, lambda words: "Dell")["figures"]["all"]["value"]
    assert value == pytest.approx(100 * (8 * 2 / 3 + 2 / 3) / 10, abs=1e-3)
    table = tsv(
        tmp_path / "t.tsv",
        [{"index": 0, "question": "brand 2?", "image": in_base64(0), "answer": "['dell', 'dell']"}],
    )
    assert load_items("textvqa", table).items[0].answers == ("dell", "dell")
    chart = [
        {"question": "how many?", "answer": "100", "type": "human_test", **image},
        {"question": "which?", "answer": "Red", "type": "augmented_test", **image},
    ]
    path = jsonl(tmp_path / "c.jsonl", chart)
    figures = run("chartqa", path, lambda w: "104." if "how" in w else "blue")["figures"]
    assert (figures["human_test"]["value"], figures["augmented_test"]["value"]) == (100, 0)
    doc = [{"questionId": 4, "question": "where?", "answers": ["New York", "NYC"], **image}]
    path = jsonl(tmp_path / "d.jsonl", doc)
    assert run("docvqa", path, lambda words: "new yark")["figures"]["all"]["value"] == 87.5
    ocr = [
        {"question": "read", "answer": ["OPEN"], "question_type": "Regular Text Recognition",
         "dataset": "x", **image},
        {"question": "formula", "answer": ["x^2"], "dataset": "HME100k",
         "question_type": "Handwritten Mathematical Expression Recognition", **image},
    ]  # fmt: skip
    path = jsonl(tmp_path / "o.jsonl", ocr)
    figures = run("ocrbench", path, lambda w: "It says open." if "read" in w else "X ^ 2")[
        "figures"
    ]
    assert (figures["all"]["value"], figures["all"]["chance"]) == (50, 0)


def test_hallusionbench_in_both_layouts(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = [
        {"index": f"VD_figure_x_{s}_{f}_{q}", "category": "VD", "l2-category": "figure",
         "question": f"s{s} f{f} q{q}?", "image": in_base64(f), "answer": "Yes"}
        for s in (0,) for f in (0, 1) for q in (0, 1)
    ]  # fmt: skip
    path = tsv(tmp_path / "h.tsv", rows)
    answer = {"f0 q0": "Yes", "f0 q1": "Yes, yes", "f1 q0": "yes", "f1 q1": "No"}
    figures = run("hallusionbench", path, lambda w: next(answer[k] for k in answer if k in w))[
        "figures"
    ]
    assert [figures[name]["value"] for name in ("aAcc", "fAcc", "qAcc")] == [75, 50, 50]
    assert [figures[name]["chance"] for name in ("aAcc", "fAcc", "qAcc")] == [50, 25, 25]
    second = [
        {"category": "VS", "subcategory": "map", "set_id": "0", "figure_id": "1",
         "question_id": "0", "question": "q?", "gt_answer": "0", "image": "0.png"}
    ]  # fmt: skip
    (item,) = load_items("hallusionbench", jsonl(tmp_path / "h.jsonl", second)).items
    assert (item.answers, item.figure, item.question_group) == (("no",), "VS map 0 1", "VS map 0 0")


def test_mmvet_asks_a_judge(
    run: Callable[..., dict[str, Any]], tmp_path: Path, point: chat_server.Endpoint
) -> None:
    rows = [
        {"question": f"What {i}?", "answer": "x <AND> y", "capability": "ocr", "image": "0.png"}
        for i in range(3)
    ]
    path = jsonl(tmp_path / "v.jsonl", rows)
    marks = {"What 0?": "0.5", "What 1?": "1.0", "What 2?": "It is fine."}

    def answer(words: str) -> str:
        if "True answer:" in words:
            return next(marks[q] for q in marks if q in words)
        return "x"

    report = run("mmvet", path, answer, judge=f"openai:{point.url}#judge")
    assert report["figures"]["all"]["value"] == 50
    assert report["figures"]["unreadable"]["value"] == pytest.approx(100 / 3, abs=1e-3)
    with pytest.raises(ValueError, match="is scored by a judge"):
        run("mmvet", path, answer)
    with pytest.raises(ValueError, match="needs no judge"):
        run("mmbench", path, answer, judge="openai:http://localhost/v1#m")


def test_what_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    rows = [
        {"question": "a?", "image": "0.png", **OPTIONS, "answer": "A"},
        {"question": "b?", "image": "missing.png", **OPTIONS, "answer": "A"},
        {"question": "c?", "image": "0.png", **OPTIONS, "answer": "E"},
        {"question": "d?", "image": "0.png", **OPTIONS, "answer": None},
        {"question": "", "image": "0.png", **OPTIONS, "answer": "A"},
    ]
    loaded = load_items("mmbench", jsonl(tmp_path / "m.jsonl", rows))
    assert len(loaded.items) == 1
    assert sum(loaded.left_out.values()) == 4
    with pytest.raises(ValueError, match="There is no suite 'nosuch'"):
        load_items("nosuch", tmp_path)
    with pytest.raises(ValueError, match="is not there"):
        load_items("mme", tmp_path / "none.tsv")
    with pytest.raises(ValueError, match="left out: 1 without a published answer"):
        load_items("mmbench", jsonl(tmp_path / "n.jsonl", rows[3:4]))


def test_the_command_shows_chance_beside_the_score(
    point: chat_server.Endpoint, tmp_path: Path
) -> None:
    rows = [{"question": "q?", "image": "0.png", **OPTIONS, "answer": "A"}] * 2
    path, out = jsonl(tmp_path / "m.jsonl", rows), tmp_path / "r.json"
    point.answer = lambda request: "A"
    done = CliRunner().invoke(
        app,
        ["suite", "mmbench", str(path), "--model", f"openai:{point.url}#m", "--json", str(out),
         "--answers", str(tmp_path / "a.jsonl")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "100.0" in done.output and "25.0" in done.output
    assert json.loads(out.read_text())["figures"]["all"]["chance"] == 25


def test_our_own_table_is_answered_by_our_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The selector is given the request alone; an answer is the letter of the set it decides."""
    (table,) = export_suite("vlmevalkit", "validation", None, tmp_path)
    truth = {case.scenario.task: case.truth.robots for case in text_cases("validation")}
    tasks = {" ".join(task.split()): robots for task, robots in truth.items() if task}
    model = OwnModel(lambda asked: tasks[asked.task or ""], Fleet.default())
    monkeypatch.setattr("embervlm.suites.running.open_own", lambda name: model)
    report = run_suite("mmbench", table, "embervlm:", tmp_path / "a.jsonl")
    figures = report["figures"]
    assert (figures["all"]["value"], figures["unreadable"]["value"]) == (100, 0)
    assert figures["all"]["n"] == len(truth)
    assert figures["all"]["chance"] == pytest.approx(100 / 6)
