"""Our own models as suites ask them, under the interfaces of VLMEvalKit and lmms-eval."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embervlm.backends.reference import ReferenceBackend
from embervlm.endpoint import NoAnswerError
from embervlm.fleet import Fleet
from embervlm.scenario import Scenario
from embervlm.selector import Selector
from embervlm.suites import vlmevalkit
from embervlm.suites.own import OwnModel, open_own, robots_of

TASK = "Look at the roof."


@pytest.fixture
def model(reference: ReferenceBackend) -> OwnModel:
    selector = Selector(reference, Fleet.default())
    return OwnModel(robots_of(selector), selector.fleet)


@pytest.fixture
def robots(reference: ReferenceBackend) -> tuple[str, ...]:
    return Selector(reference, Fleet.default()).decide(Scenario(TASK)).robots


def test_a_request_is_decided_and_options_are_matched(
    model: OwnModel, robots: tuple[str, ...]
) -> None:
    assert json.loads(model.answer(TASK, None, request=True)) == {"robots": list(robots)}
    others = [name for name in Fleet.default().outcomes if name not in robots]
    assert model.answer(TASK, None, [others[0], " and ".join(robots)], request=False) == "B"


def test_the_selector_answers_nothing_else(model: OwnModel) -> None:
    with pytest.raises(NoAnswerError, match="whom to send and nothing else"):
        model.answer("Which pet?", None, ["a dog", "a cat"], request=False)


def test_ember_37m_answers_any_question_in_its_own_words(tmp_path: Path, photo: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("tokenizers")
    from gpt2 import write_gpt2_tokenizer

    from embervlm.backends.pytorch_prefix import PrefixBackend
    from embervlm.imaging import load_image, preprocess
    from embervlm.models.configuration import PrefixConfig
    from embervlm.models.ember_37m import Ember37M
    from embervlm.models.gpt2_tokenizer import END, Gpt2Tokenizer
    from embervlm.models.prefix_formats import exchange

    write_gpt2_tokenizer(tmp_path)
    tokenizer = Gpt2Tokenizer.from_published(tmp_path)
    torch.manual_seed(0)
    config = PrefixConfig(
        vocabulary_size=len(tokenizer), text_layers=2, text_width=32, text_heads=2, text_hidden=64,
        text_positions=512, image_size=64, image_widths=(8, 8, 16, 16), image_depths=(1, 1, 1, 1),
        image_tokens=4, dropout=0.0,
    )  # fmt: skip
    network = Ember37M(config).eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.3)
    backend = PrefixBackend(network, tokenizer, {})
    own = OwnModel(robots_of(Selector(backend, Fleet.default())), Fleet.default(), backend)
    said = own.answer("What is it?", photo.read_bytes(), ["a dog", "a cat"], request=False)
    assert said == own.answer("What is it?", photo.read_bytes(), request=False)
    told, _ = exchange("What is it?", "", tokenizer, 99, config.image_tokens)
    with torch.inference_mode():
        pixels_CHW = preprocess(load_image(photo), config.image_size)
        image_BND = network.see(torch.from_numpy(pixels_CHW)[None])
        (row,) = network.decoder.write(
            torch.tensor([told]), tokenizer.specials[END], image_BND=image_BND
        )
    assert said == tokenizer.decode(row).strip()
    assert "robots" in own.answer(TASK, None, request=True)


def test_a_server_decides_as_the_selector_does(
    robots: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Client` itself is held against a real server in tests/server."""
    asked = []

    class Served:
        def __init__(self, url: str, *, key: str | None) -> None:
            asked.append((url, key))

        def fleet(self) -> Fleet:
            return Fleet.default()

        def select(self, task: str, image: bytes | None, *, reasoning: bool) -> Any:
            asked.append(task)
            return types.SimpleNamespace(robots=robots)

    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setattr("embervlm.suites.own.Client", Served)
    model = open_own("embervlm:http://127.0.0.1:8000")
    assert json.loads(model.answer(TASK, None, request=True)) == {"robots": list(robots)}
    assert asked == [("http://127.0.0.1:8000", "key"), TASK]


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch, model: OwnModel) -> dict[str, Any]:
    """Stand in for VLMEvalKit's table of models, the one part of it that we touch."""
    table: dict[str, Any] = {}
    config = types.ModuleType("vlmeval.config")
    config.supported_VLM = table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vlmeval", types.ModuleType("vlmeval"))
    monkeypatch.setitem(sys.modules, "vlmeval.config", config)
    monkeypatch.setattr(vlmevalkit, "open_own", lambda name: model)
    return table


def test_vlmevalkits_inference_over_our_rows(
    kit: dict[str, Any], robots: tuple[str, ...], photo: Path
) -> None:
    told = vlmevalkit.register(["--model", "embervlm:run/other.gguf", "--data", "MME"])
    assert told == ["--model", "embervlm-run-other.gguf", "--data", "MME"], "a name of files"
    assert set(kit) == {"embervlm", "embervlm-run-other.gguf"}
    ours = kit["embervlm"]()
    ours.set_dump_image(lambda line: [str(photo)])
    line = {"index": 0, "question": f"{vlmevalkit.QUESTION}{TASK}", "A": "Humanoid and Drone",
            "B": " and ".join(robots), "answer": "B"}  # fmt: skip
    assert ours.use_custom_prompt("embervlm_requests_test")
    message = ours.build_prompt(line, dataset="embervlm_requests_test")
    assert [one["value"] for one in message] == [TASK, line["A"], line["B"]]
    assert ours.generate(message=message, dataset="embervlm_requests_test") == "B"
    message = ours.build_prompt({**line, "image": "..."}, dataset="embervlm_photos_test")
    assert message[0] == {"type": "image", "value": str(photo)}
    assert ours.generate(message=message, dataset="embervlm_photos_test") in ("A", "B")
    assert not ours.use_custom_prompt("MME")
    assert ours.generate(message=[{"type": "text", "value": "Which?"}], dataset="MME") == "-"
    with pytest.raises(ValueError, match="has no setting 'use_vllm'"):
        kit["embervlm"](use_vllm=True)
    with pytest.raises(ValueError, match=r"would both be called embervlm-a-b\.gguf"):
        vlmevalkit.register(["embervlm:a/b.gguf", "embervlm:a-b.gguf"])


def test_no_answer_outlives_vlmevalkits_spreadsheet(tmp_path: Path) -> None:
    """VLMEvalKit writes the answers to a table and reads them back before it scores them."""
    pandas = pytest.importorskip("pandas")
    table = tmp_path / "answers.tsv"
    pandas.DataFrame({"prediction": ["", vlmevalkit.NO_ANSWER]}).to_csv(table, sep="\t")
    back = [str(one) for one in pandas.read_csv(table, sep="\t")["prediction"]]
    assert back == ["nan", vlmevalkit.NO_ANSWER]


def test_the_script_runs_with_its_own_arguments(
    kit: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom vlmeval.config import supported_VLM\n"
        "supported_VLM['told'] = (sys.argv[1:], __name__)\n"
    )
    vlmevalkit.main([str(script), "--model", "embervlm"])
    assert kit["told"] == (["--model", "embervlm"], "__main__")
    with pytest.raises(ValueError, match="Give VLMEvalKit's arguments"):
        vlmevalkit.main([])
    with pytest.raises(ValueError, match=r"There is no away\.py"):
        vlmevalkit.main(["away.py", "--model", "embervlm"])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in for an installed VLMEvalKit: a package that is itself a program."""
    folder = tmp_path / "vlmeval"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "config.py").write_text("supported_VLM = {}\n")
    (folder / "__main__.py").write_text(
        "import sys\nfrom vlmeval.config import supported_VLM\n"
        "supported_VLM['told'] = (sys.argv[1:], __name__)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    kept = dict(sys.modules)
    for name in [one for one in kept if one.partition(".")[0] == "vlmeval"]:
        del sys.modules[name]
    yield folder
    for name in [one for one in sys.modules if one.partition(".")[0] == "vlmeval"]:
        del sys.modules[name]
    sys.modules.update({n: m for n, m in kept.items() if n.partition(".")[0] == "vlmeval"})


def test_an_installed_vlmevalkit_needs_no_script(package: Path) -> None:
    vlmevalkit.main(["--model", "embervlm:run/network.safetensors"])
    table = sys.modules["vlmeval.config"].supported_VLM
    assert table["told"] == (["--model", "embervlm-run-network.safetensors"], "__main__")
    assert "embervlm-run-network.safetensors" in table
    (package / "__main__.py").unlink()
    with pytest.raises(ValueError, match=r"run\.py of its clone"):
        vlmevalkit.main(["--model", "embervlm"])


def test_what_is_missing_is_named(package: Path) -> None:
    (package / "config.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ValueError, match="needs the package 'a_package_that_is_not_there'"):
        vlmevalkit.main(["--model", "embervlm"])


def test_lmms_eval_finds_our_model() -> None:
    """The entry point, where lmms-eval is installed (it is none of our dependencies)."""
    registry = pytest.importorskip("lmms_eval.models.registry_v2")
    from embervlm.suites.lmms_plugin import manifest

    table = registry.ModelRegistryV2()
    table.register_manifest(manifest())
    found = table.resolve("embervlm")
    assert found.class_path == "embervlm.suites.lmms_model.EmberVLM"
    assert table.get_model_class("embervlm").is_simple
