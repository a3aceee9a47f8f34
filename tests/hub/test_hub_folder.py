"""A folder for others: whole, checked, with figures from a report alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import embervlm
from embervlm import hub
from embervlm.checkpoint import SHIPPED, checked_bytes, text_in
from embervlm.fleet import Fleet

REPORT = Path(__file__).parents[2] / "benchmarks" / "eval-test.json"


def front_of(folder: Path) -> dict[str, Any]:
    _, front, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def report_of(model: Path, **figures: float) -> dict[str, Any]:
    cells = {
        name: {"value": value, "low": None, "high": None, "n": 7} for name, value in figures.items()
    }
    digest = text_in(checked_bytes(model), "embervlm.sha256")
    return {
        "about": {"model": digest, "split": "test", "command": "embervlm eval", "date": "now"},
        "tables": {"requests and plans": {"embervlm": cells}},
        "not measured": {},
    }


def test_a_saved_model_decides_as_before(tiny_model: Path, photo: Path, tmp_path: Path) -> None:
    model = embervlm.EmberVLM.from_pretrained(tiny_model)
    folder = model.save_pretrained(tmp_path / "m")
    again = embervlm.EmberVLM.from_pretrained(folder)
    for words in ("carry the 8 kg pump up the stairs", "map it, then shut the valve", None):
        asked = {"image": photo, "task": words}
        assert again.select_robots(**asked).to_dict() == model.select_robots(**asked).to_dict()
    assert again.source == folder / tiny_model.name
    assert again.revision is None


def test_the_fleet_goes_with_the_model(tiny_model: Path, tmp_path: Path) -> None:
    examples = (Path(__file__).parents[2] / "examples" / "fleets").glob("*.yaml")
    fleets = sorted(path for path in examples if not path.stem.endswith("_state"))
    for number, path in enumerate([*fleets, Path(embervlm.__file__).parent / "default_fleet.yaml"]):
        fleet = Fleet.from_yaml(path)
        model = embervlm.EmberVLM.from_pretrained(tiny_model, fleet=fleet)
        folder = model.save_pretrained(tmp_path / str(number))
        assert embervlm.EmberVLM.from_pretrained(folder).fleet == fleet
        own = embervlm.EmberVLM.from_pretrained(folder, fleet=Fleet.default())
        assert own.fleet == Fleet.default()


def test_without_a_report_there_is_no_figure(tiny_model: Path, tmp_path: Path) -> None:
    hub.save(tmp_path / "m", [tiny_model])
    front = front_of(tmp_path / "m")
    assert "model-index" not in front and "license" not in front and "base_model" not in front
    assert "nothing is claimed" in (tmp_path / "m" / "README.md").read_text("utf-8")
    assert not (tmp_path / "m" / "report.json").exists()


def test_the_figures_are_those_of_the_report(tmp_path: Path) -> None:
    report = json.loads(REPORT.read_text("utf-8"))
    hub.save(tmp_path / "m", report=REPORT)
    told = {
        (result["dataset"]["name"], metric["type"]): metric["value"]
        for result in front_of(tmp_path / "m")["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    tables = report["tables"]
    rows = {
        "requests and team plans": tables["requests and plans"]["embervlm"],
        "requests with photos": tables["requests that the photo settles"][
            "embervlm, words and photo"
        ],
    }
    assert len(told) >= 6
    for (of, name), value in told.items():
        assert value == rows[of.removeprefix("embervlm scenarios, ")][name]["value"]
    assert json.loads((tmp_path / "m" / "report.json").read_text("utf-8")) == report


def test_the_licences_go_with_the_model_that_ships_and_are_checked(
    tiny_model: Path, tmp_path: Path
) -> None:
    names = {"LICENSE", "NOTICE", "Apache-2.0.txt"}
    assert names <= set(hub.save(tmp_path / "m").files)
    assert not names & set(hub.save(tmp_path / "n", [tiny_model]).files)
    hub.check(tmp_path / "m")
    (tmp_path / "m" / "NOTICE").write_text("none")
    with pytest.raises(ValueError, match="NOTICE is not the file"):
        hub.check(tmp_path / "m")


def test_the_licences_in_the_package_are_those_of_the_repository() -> None:
    root = Path(embervlm.__file__).parents[1]
    for name in ("LICENSE", "NOTICE"):
        assert (root / name).read_bytes() == (root / "embervlm/licences" / name).read_bytes()
    # The published text, unchanged.
    apache = (root / "embervlm/licences/Apache-2.0.txt").read_bytes()
    digest = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256(apache).hexdigest() == digest


def test_the_hubs_own_reader_reads_the_card(tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    hub.save(tmp_path / "m", report=REPORT)
    data = huggingface_hub.ModelCard.load(tmp_path / "m" / "README.md").data
    assert data.license == "mit" and data.library_name == "embervlm"
    values = {one.metric_type: one.metric_value for one in data.eval_results[:5]}
    report = json.loads(REPORT.read_text("utf-8"))["tables"]["requests and plans"]["embervlm"]
    assert values == {name: report[name]["value"] for name in values}


def test_a_report_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    measured = json.loads(REPORT.read_text("utf-8"))["about"]["model"][:12]
    with pytest.raises(ValueError, match=f"measured the model {measured}.*measure this file with"):
        hub.save(tmp_path / "m", [tiny_model], report=REPORT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report.pop("tables"),
        lambda report: report["about"].pop("split"),
        lambda report: report["tables"]["requests and plans"]["embervlm"]["top1"].update(value="x"),
        lambda report: report["tables"].clear(),
        lambda report: report["tables"]["requests and plans"]["embervlm"]["top1"].update(
            value=float("nan")
        ),
    ],
)
def test_what_is_no_report_is_refused(tiny_model: Path, tmp_path: Path, damage: Any) -> None:
    report = report_of(tiny_model, exact_set=0.5, top1=0.75)
    damage(report)
    with pytest.raises(ValueError, match="no report|no figure"):
        hub.save(tmp_path / "m", [tiny_model], report=report)


def test_stated_figures_stand_apart(tiny_model: Path, tmp_path: Path) -> None:
    hub.save(tmp_path / "m", [tiny_model], given={"loss": 0.25})
    text = (tmp_path / "m" / "README.md").read_text("utf-8")
    assert "checked by nobody here" in text and "| loss | 0.25 |" in text
    assert "model-index" not in front_of(tmp_path / "m")


def test_several_formats_and_which_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_model.read_bytes())
    description = hub.save(tmp_path / "m", [other, tiny_model])
    assert description.models() == ["other.gguf", tiny_model.name]
    assert embervlm.EmberVLM.from_pretrained(tmp_path / "m").source.name == "other.gguf"
    with pytest.raises(ValueError, match="plain name of its own"):
        hub.save(tmp_path / "n", [tiny_model, tiny_model])


@pytest.mark.parametrize("name", ["tiny", "fleet.yaml", "config.json"])
def test_an_altered_file_is_found(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    hub.save(folder, [tiny_model])
    file = tiny_model.name if name == "tiny" else name
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    if name == "config.json":
        content = (folder / file).read_bytes().replace(b'"size_bytes": ', b'"size_bytes": 1')
        (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256|size|does not describe|no plain file"):
        embervlm.EmberVLM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["../fleet.yaml", "/etc/passwd", "a/b.gguf", "code.py", "x.pkl"])
def test_a_folder_cannot_name_files_elsewhere(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    hub.save(folder, [tiny_model])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["embervlm"]["files"][name] = {"size_bytes": 1, "sha256": "0" * 64}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match="which is no plain file"):
        embervlm.EmberVLM.from_pretrained(folder)


def test_only_a_new_folder_is_written(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(ValueError, match="give a new folder"):
        hub.save(tmp_path, [tiny_model])
    assert (tmp_path / "kept.txt").read_text() == "kept"


def test_what_is_neither_file_nor_name_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be opened"):
        embervlm.EmberVLM.from_pretrained(tmp_path / "nowhere.gguf")
    with pytest.raises(ValueError, match="'embervlm hub save' wrote"):
        embervlm.EmberVLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="which only a model on the Hub has"):
        embervlm.EmberVLM.from_pretrained(revision="v1")


def test_a_given_backend_cannot_be_saved(tiny_model: Path, tmp_path: Path) -> None:
    backend = embervlm.EmberVLM.from_pretrained(tiny_model).backend
    with pytest.raises(ValueError, match="load it from its GGUF file"):
        embervlm.EmberVLM.from_pretrained(backend=backend).save_pretrained(tmp_path / "m")


def test_names_on_the_hub_and_paths() -> None:
    assert hub.is_name("owner/name") and hub.is_name("o/ember-nano.v1_2")
    for words in (
        "name",
        "a/b/c",
        "../b",
        "/a/b",
        "runs/m.gguf",
        "tests/hub",
        "a/b c",
        Path("a/b"),
    ):
        assert not hub.is_name(words)


def test_the_shipped_model_says_where_it_comes_from(tmp_path: Path) -> None:
    hub.save(tmp_path / "m")
    front = front_of(tmp_path / "m")
    assert front["license"] == "mit" and front["base_model"]
    assert (tmp_path / "m" / SHIPPED.name).read_bytes() == SHIPPED.read_bytes()
