"""Our requests in the formats of VLMEvalKit and lmms-eval, read back as those suites read them."""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.testing import CliRunner

from embervlm.cli import app
from embervlm.data.photos import Photo
from embervlm.evaluation.cases import text_cases
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.imaging import load_image
from embervlm.suites.comparison import dispatch_prompt
from embervlm.suites.export import (
    OPTIONS,
    export_suite,
    options_of,
    parse_set,
    places_of,
    text_rows,
)

SPLIT, FLEET = "validation", Fleet.default()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, photo: Path) -> Path:
    """Return a folder with one photo of each environment, under the names of ours."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "photos").mkdir()
    (folder / "photos" / "photo.png").write_bytes(photo.read_bytes())
    return folder


@pytest.fixture(scope="module")
def utils(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = tmp_path_factory.mktemp("task")
    export_suite("lmms-eval", SPLIT, None, folder)
    return _utils(folder)


@pytest.fixture
def one_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [
        Photo(**{**_fields(), "file": "photo.png", "environment": place, "split": SPLIT})
        for place in ("rough", "underwater")
    ]
    monkeypatch.setattr("embervlm.evaluation.cases.placed_photos", lambda split: photos)


def _fields() -> dict:
    return dict.fromkeys(Photo.__dataclass_fields__, "")


def read_tsv(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 27)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.usefixtures("one_photo")
def test_vlmevalkits_columns_and_one_right_letter(shared: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["data", "export-suite", "vlmevalkit", "--split", SPLIT, "--shared", str(shared), "--out",
         str(tmp_path)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    cases = text_cases(SPLIT)
    rows = read_tsv(tmp_path / f"embervlm_requests_{SPLIT}.tsv")
    assert [int(row["index"]) for row in rows] == list(range(len(cases)))
    assert "image" not in rows[0], "VLMEvalKit then takes it for questions without pictures"
    for row, case in zip(rows, cases, strict=True):
        options = [row[letter] for letter in "ABCDEF"]
        assert len(set(options)) == OPTIONS
        assert set(parse_set(row[row["answer"]], FLEET) or ()) == set(case.truth.robots)
        assert all(parse_set(option, FLEET) for option in options)
        assert row["id"] == case.truth.id
    letters = Counter(row["answer"] for row in rows)
    assert max(letters.values()) - min(letters.values()) <= 1, "always B scores 1 in 6"
    photos = read_tsv(tmp_path / f"embervlm_photos_{SPLIT}.tsv")
    assert {row["category"] for row in photos} == {"photo"}
    assert load_image(base64.b64decode(photos[0]["image"])).shape == (48, 64, 3)
    assert len({row["id"] for row in photos}) == len(photos)


def test_pandas_reads_the_table_as_vlmevalkit_does(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (path,) = export_suite("vlmevalkit", SPLIT, None, tmp_path)
    table = pandas.read_csv(path, sep="\t")
    assert table["index"].dtype.kind == "i"
    assert not table[["question", "answer", *"ABCDEF"]].isna().any().any()
    assert len(table) == len(text_cases(SPLIT))


def test_a_row_has_the_same_options_every_time() -> None:
    sets = Counter(" and ".join(row.case.truth.robots) for row in text_rows("train"))
    rows = text_rows(SPLIT)
    first = [options_of(row, 2, sets, FLEET) for row in rows]
    assert first == [options_of(row, 2, sets, FLEET) for row in rows]
    assert places_of(rows) == places_of(rows)


def _utils(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported_utils", folder / "utils.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class _Loader(yaml.SafeLoader):
    """Reads !function as lmms-eval's own loader does, to a name."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@pytest.mark.usefixtures("one_photo")
def test_the_lmms_eval_task_names_functions_that_are_there(shared: Path, tmp_path: Path) -> None:
    files = export_suite("lmms-eval", SPLIT, shared, tmp_path)
    assert [file.name for file in files] == ["embervlm_requests.yaml", "embervlm_photos.yaml"]
    utils = _utils(tmp_path)
    for file in files:
        config = yaml.load(file.read_text("utf-8"), _Loader)
        assert config["test_split"] in config["dataset_kwargs"]["data_files"]
        data = Path(config["dataset_kwargs"]["data_files"][SPLIT])
        doc = json.loads(data.read_text("utf-8").splitlines()[0])
        for key in ("doc_to_text", "doc_to_visual", "doc_to_messages", "process_results"):
            name = config[key].removeprefix("utils.")
            assert callable(getattr(utils, name))
        right = utils.process_results(doc, [doc[config["doc_to_target"]]])
        assert set(right) == {one["metric"] for one in config["metric_list"]}
        assert right == {"exact_set": 1, "overlap": 1, "first_in_set": 1, "unreadable": 0}
        assert doc["request"] in utils.doc_to_text(doc, {})
        assert dispatch_prompt(None, FLEET).system in utils.doc_to_text(doc, {})
        assert utils.doc_to_text(doc, {"request_alone": True}) == doc["request"]
        messages = utils.doc_to_messages(doc)
        assert [message["role"] for message in messages] == ["system", "user"]
        has_photo = "photo" in doc
        assert len(messages[1]["content"]) == 1 + has_photo
        assert [one.size for one in utils.doc_to_visual(doc)] == [(64, 48)] * has_photo


@pytest.mark.parametrize(
    ("text", "robots"),
    [
        ('{"robots": ["Drone", "Humanoid"]}', ["Drone", "Humanoid"]),
        ('```json\n{"robots": ["No Robot"]}\n```', ["No Robot"]),
        ("Task: Look\nDecision: Send the Robot with Legs and the Drone as a team.",
         ["Robot with Legs", "Drone"]),
        ("Decision: No Robot: none of the fleet can do the core of this.", [NO_ROBOT]),
        ("Decision: nobody", None),
        ("I would not send the Drone.", None),
        ('{"robots": []}', None),
        ('{"robots": ["Drone", "No Robot"]}', None),
        ('{"robots": [1]}', None),
        ("", None),
    ],
)  # fmt: skip
def test_the_exported_reader(text: str, robots: list[str] | None, utils: ModuleType) -> None:
    assert utils.read_robots(text) == robots
    figures = utils.process_results({"robots": ["Drone"]}, [text])
    assert figures["unreadable"] == (robots is None)
    assert figures["exact_set"] == (robots == ["Drone"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mmbench"], "There is no export to 'mmbench'"),
        (["lmms-eval", "--split", "x"], "split 'x'"),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "export-suite", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())
