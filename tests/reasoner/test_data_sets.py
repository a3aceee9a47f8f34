"""Data sets in their publishers' layouts; what is broken is counted, never dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embervlm.imaging import encode_jpeg
from embervlm.reasoner.data_sets import load_set
from embervlm.reasoner.problems import Gold, Problem

JPEG = encode_jpeg(np.zeros((24, 32, 3), np.uint8), 32)
VISTA = {
    "pid": "1", "question": "How long is it?", "image": "images/1.jpg", "choices": None,
    "unit": "cm", "precision": 1.0, "answer": "1.2", "question_type": "free_form",
    "answer_type": "float", "metadata": {"split": "testmini"}, "query": "Hint: ... 1.2",
}  # fmt: skip
CHOICE = {
    **VISTA, "pid": "2", "question": "Which is larger?", "choices": ["one", "both"], "unit": None,
    "precision": None, "answer": "both", "question_type": "multi_choice", "answer_type": "text",
}  # fmt: skip
MMMU = {
    "id": "validation_Math_1", "question": "What does <image 1> show?",
    "options": "['a cat', \"it's a dog\"]", "explanation": "It barks.", "answer": "B",
    "img_type": "['Photo']", "topic_difficulty": "Easy", "question_type": "multiple-choice",
    "subfield": "x", "image_1": {"bytes": JPEG, "path": "1.jpg"},
    **{f"image_{i}": None for i in range(2, 8)},
}  # fmt: skip


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines), "utf-8")
    return path


def test_gsm8k_as_published(tmp_path: Path) -> None:
    rows: list[Any] = [
        {
            "question": "Janet’s ducks lay 16 eggs. She eats 3 and bakes with 4. What is $2 each?",
            "answer": "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n9 * 2 = $<<9*2=18>>18.\n#### 18",
        },
        {"question": "What?", "answer": "About 1,000.\n#### 1,000"},
        {"question": "What?", "answer": "No mark: 7"},
        {"question": "What?", "answer": "#### none"},
        {"question": " ", "answer": "#### 1"},
        "{broken",
        "[1]",
    ]
    loaded = load_set(f"gsm8k:{write(tmp_path / 'test.jsonl', rows)}")
    first, second = loaded.cases
    assert first.gold == Gold(
        ("18",), ("9", "18"), ("She sells 16 - 3 - 4 = 9 eggs.", "9 * 2 = $18.")
    )
    assert first.problem.id == "test-1"
    assert second.gold.answers == ("1,000",)
    assert dict(loaded.left_out) == {
        "without a number behind ####": 2, "without question": 1, "that are no record": 2
    }  # fmt: skip
    assert loaded.sentence().startswith("2 problems; left out: 2 that are no record, ")
    table = write(tmp_path / "table" / "train.parquet", [rows[0]])
    assert load_set(f"gsm8k:{table.parent}").cases[0].gold == first.gold
    assert len(load_set(f"gsm8k:{tmp_path / 'test.jsonl'}", limit=1).cases) == 1


def test_mathvista_as_json_with_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(JPEG)
    (tmp_path / "images" / "3.jpg").write_bytes(b"no image")
    outside = tmp_path.parent / "secret.jpg"
    outside.write_bytes(JPEG)
    rows = {
        "1": VISTA,
        "2": CHOICE,
        "3": {**VISTA, "pid": "3", "image": "images/3.jpg"},
        "4": {**VISTA, "pid": "4", "image": "images/4.jpg"},
        "5": {**VISTA, "pid": "5", "image": str(outside)},
        "6": {**VISTA, "pid": "6", "answer": ""},
        "7": {**CHOICE, "pid": "7", "answer": "neither"},
        "8": {**VISTA, "pid": "8", "answer_type": "list", "answer": "[0, 10]"},
        "9": {**VISTA, "pid": "9", "precision": None},
        "10": "nothing",
        "11": {"pid": "11"},
    }
    path = tmp_path / "data" / "testmini.json"
    path.parent.mkdir()
    path.write_text(json.dumps(rows))
    loaded = load_set(f"mathvista:{path}")
    length, larger, listed = loaded.cases
    assert length.problem.question == (
        "How long is it? (Unit: cm) Answer with 1 digits behind the point."
    )
    assert length.problem.photos == (JPEG,)
    assert length.gold == Gold(("1.2",), decimals=1)
    assert (larger.problem.options, larger.gold.answers) == (("one", "both"), ("B",))
    assert listed.gold.answers == ("[0, 10]",)
    assert "1.2" not in length.problem.question, "the publisher's query is not read"
    assert dict(loaded.left_out) == {
        "whose image cannot be read": 1, "whose image is missing": 1,
        "whose image lies outside their folder": 1, "without a published answer": 1,
        "whose answer is not one of the choices": 1, "without their precision": 1,
        "that are no record": 1, "without a column": 1,
    }  # fmt: skip


def test_mathvista_as_a_table_with_the_images_in_it(tmp_path: Path) -> None:
    picture = {"bytes": JPEG, "path": "1.jpg"}
    rows = [{**CHOICE, "decoded_image": picture}, {**CHOICE, "pid": "5", "decoded_image": None}]
    path = write(tmp_path / "data" / "testmini-00000-of-00001.parquet", rows)
    loaded = load_set(f"mathvista:{path}")
    assert [case.problem.photos for case in loaded.cases] == [(JPEG,)]
    assert dict(loaded.left_out) == {"whose image is missing": 1}


def test_mmlu_as_tables_and_as_csv(tmp_path: Path) -> None:
    row = {"question": "2 + 2?", "subject": "maths", "choices": ["3", "4", "5", "6"], "answer": 1}
    rows = [row, {**row, "answer": 4}]
    loaded = load_set(f"mmlu:{write(tmp_path / 'test.parquet', rows)}")
    assert loaded.cases[0].problem.options == ("3", "4", "5", "6")
    assert loaded.cases[0].gold.answers == ("B",)
    assert dict(loaded.left_out) == {"whose answer is not one of the choices": 1}
    table = write(
        tmp_path / "test" / "maths_test.csv", ['"2 + 2, is?",3,4,5,6,B', "x,1,2,3,4,E", "only,two"]
    )
    loaded = load_set(f"mmlu:{table.parent}")
    (case,) = loaded.cases
    assert case.problem == Problem("maths_test-1", "2 + 2, is?", ("3", "4", "5", "6"))
    assert case.gold.answers == ("B",)
    assert loaded.left_out.total() == 2


def test_mmmu_with_options_and_images_in_columns(tmp_path: Path) -> None:
    picture = MMMU["image_1"]
    rows = [
        MMMU,
        {**MMMU, "id": "2", "options": "['<image 1>', '<image 2>']", "image_2": picture},
        {**MMMU, "id": "3", "options": "['<image 1>', '<image 2>']"},
        {**MMMU, "id": "4", "answer": "?"},
        {**MMMU, "id": "5", "options": "['a', __import__('os')]"},
        {**MMMU, "id": "6", "question_type": "open", "options": "[]", "answer": "['2', 'two']"},
        {**MMMU, "id": "7", "image_1": {"bytes": b"no", "path": None}},
        {**MMMU, "id": "8", "answer": "C"},
    ]
    loaded = load_set(f"mmmu:{write(tmp_path / 'validation.parquet', rows)}")
    one, two, opened = loaded.cases
    assert one.problem == Problem(
        "validation_Math_1", "What does <image 1> show?", ("a cat", "it's a dog"), (JPEG,)
    )
    assert one.gold == Gold(("B",))
    assert len(two.problem.photos) == 2
    assert (opened.problem.options, opened.gold.answers) == ((), ("2", "two"))
    assert dict(loaded.left_out) == {
        "whose image is missing": 1, "without a published answer": 1,
        "whose list cannot be read": 1, "whose image cannot be read": 1,
        "whose answer is not one of the options": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("gsm9k:x.jsonl", None, "There is no set 'gsm9k:x.jsonl'; give gsm8k:PATH, "),
        ("gsm8k:", None, "There is no set"),
        ("gsm8k:nowhere.jsonl", None, "nowhere.jsonl is not there"),
        ("gsm8k:x.jsonl", [], "has no records; expected GSM8K's layout"),
        (
            "gsm8k:x.jsonl",
            [MMMU["id"]],
            "has no problem that can be asked: 0 problems; left out: 1",
        ),
        ("gsm8k:x.jsonl", [{"q": 1}], "is not GSM8K's layout: it has no 'question' but q"),
        ("mathvista:x.jsonl", [{"question": "?"}], "is not MathVista's layout: it has no 'pid'"),
        ("mmmu:x.jsonl", [{"question": "?"}], "is not MMMU's layout"),
        ("mmlu:x.jsonl", [{"question": "?"}], "is not MMLU's layout: it has no 'choices'"),
        ("simulated:x.jsonl", [{"question": "?", "answer": "#### 1"}], "is not of 'embervlm rmm"),
        ("gsm8k:x.txt", ["x"], "must end with .jsonl"),
        ("gsm8k:x.json", ["{"], "is no JSON"),
        ("gsm8k:x.json", ["3"], "holds no list of records"),
        ("gsm8k:x.csv", ["a,b"], "is not GSM8K's layout"),
        ("gsm8k:.", None, "has no file that ends with"),
    ],
)
def test_another_layout_gets_a_sentence(
    name: str, rows: list[Any] | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if rows is not None:
        write(Path(name.partition(":")[2]), rows)
    with pytest.raises(ValueError) as caught:
        load_set(name)
    assert says in str(caught.value)


def test_a_damaged_table_gets_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(ValueError, match="no sound parquet file"):
        load_set(f"mmlu:{tmp_path / 'x.parquet'}")
