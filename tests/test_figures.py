"""A figure that differs from the file that it was measured into is found, and put right."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TABLE = """
sources: {eval: eval.json, rows: [a.jsonl, b.jsonl]}
complete: [CARD.md]
documents:
  CARD.md:
    - text: "exact set {} ({}–{}) on {} requests"
      of: eval > all > exact_set
      figures: [.3f, low > .2f, high > .2f, n > thousands]
    - text: "robots leave in {} %, int8 takes {} ms"
      figures:
        - eval > all > leaves > value > *100 .1f
        - eval > results > model=b,threads=1 > us > /1e3 .0f
    - text: "of {} rows {} are for training"
      figures: [rows > count > d, rows > count split=train > d]
    - text: "{} GB of photos"
      why: a publisher's figure
"""
CARD = """# Card
The exact set 0.842 (0.81–0.87) on
1,641 requests; robots leave in 98.0 %, int8 takes 13 ms.
Of all, of 3 rows 2 are for training, from 1.5 GB of photos.

```
confidence 0.95
```
"""


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "figures", raising=False)
    import figures

    return figures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    measured = {
        "all": {
            "exact_set": {"value": 0.8424, "low": 0.8136, "high": 0.8701, "n": 1641},
            "leaves": {"value": 0.9797},
        },
        "results": [
            {"model": "a", "threads": 1, "us": 1},
            {"model": "b", "threads": 1, "us": 13050},
            {"model": "b", "threads": 2, "us": 2},
        ],
    }
    (tmp_path / "eval.json").write_text(json.dumps(measured), "utf-8")
    (tmp_path / "a.jsonl").write_text('{"split": "train"}\n{"split": "test"}\n', "utf-8")
    (tmp_path / "b.jsonl").write_text('{"split": "train"}\n', "utf-8")
    (tmp_path / "CARD.md").write_text(CARD, "utf-8")
    (tmp_path / "figures.yaml").write_text(TABLE, "utf-8")
    return tmp_path


def test_figures_as_measured_are_right(figures: ModuleType, folder: Path) -> None:
    table = figures.Table(folder / "figures.yaml", folder)
    assert list(figures.problems(table)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [("0.842", "0.843", 2), ("1,641", "1,640", 3), ("98.0", "97.9", 3), ("2 are", "1 are", 4)],
)
def test_a_figure_that_drifted_is_named_and_put_right(
    figures: ModuleType, folder: Path, right: str, wrong: str, line: int
) -> None:
    (folder / "CARD.md").write_text(CARD.replace(right, wrong), "utf-8")
    table = figures.Table(folder / "figures.yaml", folder)
    (problem,) = figures.problems(table)
    right, wrong = right.split()[0], wrong.split()[0]
    assert problem.startswith(f"CARD.md:{line}: found {wrong}, expected {right} (")
    assert figures.write(table) == 1
    assert (folder / "CARD.md").read_text("utf-8") == CARD


def test_a_figure_that_nobody_named_is_found(figures: ModuleType, folder: Path) -> None:
    (folder / "CARD.md").write_text(CARD + "It is right in 0.99, after 3 ms.\n", "utf-8")
    found = list(figures.problems(figures.Table(folder / "figures.yaml", folder)))
    assert [problem.split(" stands")[0] for problem in found] == ["CARD.md:9: 0.99", "CARD.md:9: 3"]


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("exact set {}", "exact sets {}", "CARD.md: 0 places read"),
        ("high > .2f, ", "", "has 4 numbers and 3 figures"),
        ("low > .2f", "lowest > .2f", "there is no 'lowest'"),
        ("model=b,threads=1", "model=b", "2 rows are 'model=b'"),
        ("of: eval", "of: evaluation", "no source is called 'evaluation'"),
        ("all > leaves > value", "results > 0 > model", "leads to 'a', which is no number"),
    ],
)
def test_a_table_that_leads_nowhere_says_so(
    figures: ModuleType, folder: Path, old: str, new: str, part: str
) -> None:
    (folder / "figures.yaml").write_text(TABLE.replace(old, new), "utf-8")
    found = list(figures.problems(figures.Table(folder / "figures.yaml", folder)))
    assert any(part in problem for problem in found)
