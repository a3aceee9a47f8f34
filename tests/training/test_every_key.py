"""A key that is accepted changes something: each has a run with and one without it, and what is
seen of the two differs. A new key without an entry here fails.

The runs are of four steps on eight questions, so each takes a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from bpe import TEXT, learn_bpe
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402
from small_run import network_of  # noqa: E402

from embervlm.data.photos import load_photos  # noqa: E402
from embervlm.data.scenarios import DATA_DIR, load, load_own  # noqa: E402
from embervlm.fleet import ENVIRONMENTS  # noqa: E402
from embervlm.models.modeling import EmberNetwork, save_network  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import callbacks, decisions, recipe, trainer  # noqa: E402
from embervlm.training.run import run  # noqa: E402

BASE = {
    "stage": "instruct", "data": "DATA", "model": "MODEL", "tokenizer": "TOKENIZER",
    "examples": 8, "batch-size": 4, "epochs": 2, "warmup-steps": 0, "dropout": 0, "threads": 1,
    "mixed-precision": "none", "report-to": "none", "log-steps": 1, "average": 0,
    "learning-rate": 1e-3, "weight-decay": 0,
}  # fmt: skip
ALIGN = {"stage": "align"}
SELECT = {"stage": "select", "data": None}
GRPO = {
    "stage": "grpo", "data": None, "group": 4, "max-steps": 2, "iterations": 2,
    "learning-rate": 1e-2, "head-learning-rate": 1e-2,
}  # fmt: skip
VIEWS = {"vision": "VISION", "shared": "SHARED"}
PHOTOS = {"stage": "align", "data": None, **VIEWS}


@dataclass(frozen=True)
class Ran:
    """A run that is over."""

    folder: Path
    path: Path
    log: str
    worker_loops: int
    threads: int

    @property
    def weights(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def state(self) -> dict[str, Any]:
        newest = trainer.checkpoints(self.folder)[-1]
        return json.loads((newest / "trainer_state.json").read_text("utf-8"))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return self.state["log_history"]

    @property
    def part(self) -> str:
        """The first matrix of the reader."""
        return str(load_file(self.path)["text.layers.0.qkv.weight"].flatten()[:4].tolist())


See = Callable[[Ran], Any]


def weights(ran: Ran) -> str:
    return ran.weights


def steps(ran: Ran) -> int:
    return ran.state["global_step"]


def losses(ran: Ran) -> list[str]:
    return sorted(name for name in ran.lines[0] if name.startswith("loss_"))


def evaluations(ran: Ran) -> int:
    return sum("eval_loss" in line for line in ran.lines)


def saved(ran: Ran) -> list[str]:
    return [path.name for path in trainer.checkpoints(ran.folder)]


# Each key: what both runs have beside `BASE`, the two values, and what is seen of them. None: the
# key is left out.
CHANGES: dict[str, tuple[dict[str, Any], Any, Any, See]] = {
    "stage": ({}, "instruct", "align", losses),
    "model": ({}, "MODEL", "OTHER_MODEL", weights),
    "tokenizer": ({}, "TOKENIZER", "OTHER_TOKENIZER", weights),
    "shared": (PHOTOS, "SHARED", "OTHER_SHARED", weights),
    "vision": (PHOTOS, "VISION", "OTHER_VISION", weights),
    "data": ({}, "DATA", "OTHER_DATA", weights),
    "validation_data": ({}, None, "DATA", evaluations),
    "teacher": ({}, None, "OTHER_MODEL", weights),
    "freeze": ({}, None, "text.", lambda ran: ran.part),
    "rounding": ({}, "none", "q4_0", weights),
    "redraw": (SELECT, 0, 1, weights),
    "drop_digits": (SELECT, 0, 1, weights),
    "drop_numbers": (SELECT, 0, 1, weights),
    "vary": (SELECT, 0, 1, weights),
    "lose_words": (SELECT, 0, 1, weights),
    "authors_again": (SELECT, 0, 1, weights),
    "two_views": (SELECT | VIEWS, 0, 1, weights),
    "scenarios": (SELECT, None, "OWN", weights),
    "plans": (SELECT, True, False, weights),
    "group": (GRPO, 4, 6, weights),
    "pool": (GRPO, 1, 2, weights),
    "iterations": (GRPO, 1, 2, weights),
    "temperature": (GRPO, 1, 2, weights),
    "clip": (GRPO, 0.2, 1e-6, weights),
    "kl": (GRPO, 0, 10, weights),
    "rewards": (GRPO, "set", "format", weights),
    "epochs": ({}, 2, 1, steps),
    "max_steps": ({}, -1, 3, steps),
    "examples": ({}, 8, 4, steps),
    "batch_size": ({}, 4, 2, steps),
    "gradient_accumulation": ({}, 1, 2, steps),
    "learning_rate": ({}, 1e-3, 2e-3, weights),
    "head_learning_rate": ({}, 1e-3, 2e-3, weights),
    "warmup_steps": ({}, 0, 2, weights),
    "weight_decay": ({}, 0, 0.5, weights),
    "max_grad_norm": ({}, 1.0, 0.01, weights),
    "average": ({}, 0, 0.9, weights),
    "mixed_precision": ({}, "none", "bf16", weights),
    "dropout": ({}, 0, 0.5, weights),
    "lora_rank": (ALIGN, 4, 8, weights),
    "log_steps": ({}, 1, 2, lambda ran: sum("loss" in line for line in ran.lines)),
    "eval_steps": ({"validation-data": "DATA"}, 0, 1, evaluations),
    "save_steps": ({}, 0, 1, saved),
    "keep": ({"save-steps": 1}, 1, 3, saved),
    "seed": ({}, 1, 2, weights),
    "threads": ({}, 1, 2, lambda ran: ran.threads),
    "workers": ({}, 0, 2, lambda ran: ran.worker_loops),
    "report_to": ({}, "none", "tensorboard", lambda ran: (ran.folder / "tensorboard").is_dir()),
}
# Keys with a test of their own, some of them in another file.
ELSEWHERE = {
    "output_dir": "test_output_dir_is_where_it_goes",
    "resume": "test_resume_goes_on_and_no_resume_begins_anew",
    "gradient_checkpointing": "test_gradient_checkpointing_computes_twice_and_learns_the_same",
    "country": "test_country_chooses_the_carbon_intensity",
    "push_to_hub": "test_push_to_hub_sends_what_the_next_run_needs",
    "preset": "test_all_stages_then_a_decision",
    "published": "test_all_stages_then_a_decision",
    "switches": "test_a_recipe_switches_parts_of_a_new_network",
    "teacher_scores": "test_a_recipe_names_the_scores",
    "baseline": "test_the_policy_of_bitmar_is_trained_too",
}


def test_every_key_has_a_change() -> None:
    known = {f.name for f in fields(recipe.Recipe)}
    assert known == {*CHANGES, *ELSEWHERE}
    assert not CHANGES.keys() & ELSEWHERE.keys()
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert all(f"def {name}(" in tests for name in ELSEWHERE.values())


# --- what the runs are made of --------------------------------------------------------------------


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> dict[str, str]:
    """Return what stands for the words in capitals above."""
    folder = tmp_path_factory.mktemp("things")
    tokenizer = Tokenizer.from_file(tokenizer_file)
    learn_bpe(" ".join(reversed(TEXT.split())) + " where are all the boats", 80).save(
        folder / "other-tokenizer.json"
    )
    small = replace(network_of(tokenizer).config, image_size=32)
    for seed, name in enumerate(("model", "other-model")):
        torch.manual_seed(seed)
        save_network(EmberNetwork(small), folder / f"{name}.safetensors")
    (folder / "images").mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(folder / "images" / f"{i:012d}.jpg")
    for name, word in (("data", "river"), ("other-data", "ruins")):
        rows = [
            {
                "id": f"{i:012d}",
                "image": f"{i:012d}.jpg",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat is here?"},
                    {"from": "gpt", "value": f"The {word} number {i}."},
                ],
            }
            for i in range(8)
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    shown = [photo for photo in load_photos(DATA_DIR / "photos.jsonl") if photo.environment]
    teach = [photo.file for photo in shown if photo.split == "train"][:8]
    photos = load_photos(DATA_DIR / "photos.jsonl")
    files = [photo.file for photo in photos]
    taught = [row for row, photo in enumerate(photos) if photo.split == "train"]
    for seed, name in enumerate(("vision", "other-vision")):
        (folder / name).mkdir()
        drawn = np.random.default_rng(seed)
        np.savez(
            folder / name / "features.npz",
            files=np.array(files),
            features=drawn.standard_normal((len(files), 320), dtype=np.float32),
            environment_logits=drawn.standard_normal(
                (len(files), len(ENVIRONMENTS)), dtype=np.float32
            ),
            view_of=np.array(taught),
            view_features=drawn.standard_normal((len(taught), 320), dtype=np.float32),
            view_logits=drawn.standard_normal((len(taught), len(ENVIRONMENTS)), dtype=np.float32),
        )
    for name, word in (("shared", "river"), ("other-shared", "ruins")):
        (folder / name / "photos").mkdir(parents=True)
        rows = [{"file": file, "captions": [f"the {word}"]} for file in teach]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name / "photos" / "manifest.jsonl").write_text(text, "utf-8")

    (folder / "own").mkdir()
    own = [*load("scenarios", "train")[-20:], *load("scenarios", "validation")[-4:]]
    text = "".join(json.dumps(row) + "\n" for row in own)
    (folder / "own" / "scenarios.jsonl").write_text(text, "utf-8")

    def entry(name: str) -> str:
        files = {"conversations": str(folder / f"{name}.json"), "images": str(folder / "images")}
        return json.dumps([{"set": "llava_instruct", **files}])

    return {
        "DATA": entry("data"),
        "OTHER_DATA": entry("other-data"),
        "MODEL": str(folder / "model.safetensors"),
        "OTHER_MODEL": str(folder / "other-model.safetensors"),
        "TOKENIZER": str(tokenizer_file),
        "OTHER_TOKENIZER": str(folder / "other-tokenizer.json"),
        "VISION": str(folder / "vision"),
        "OTHER_VISION": str(folder / "other-vision"),
        "SHARED": str(folder / "shared"),
        "OTHER_SHARED": str(folder / "other-shared"),
        "OWN": str(folder / "own"),
    }


@pytest.fixture(autouse=True)
def few_rows_and_no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `select` read a few rows; curves have tests of their own."""
    monkeypatch.setattr(
        decisions, "load_own", lambda name, split, folder: load_own(name, split, folder)[:30]
    )
    monkeypatch.setattr(callbacks, "draw_log", lambda *_: None)
    monkeypatch.setattr(callbacks, "write_evaluation", lambda *_: [])


@pytest.fixture
def start(
    things: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Ran]]:
    """Return what runs `BASE` with other keys."""
    loops: list[int] = []
    kind = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    begin = kind.__init__
    monkeypatch.setattr(
        kind, "__init__", lambda self, loader: (loops.append(1), begin(self, loader))[1]
    )
    before = torch.get_num_threads()

    def started(**keys: Any) -> Ran:
        folder = tmp_path / str(random.Random(repr(keys)).random())
        words = ["--output-dir", str(keys.pop("output_dir", folder))]
        for name, value in (BASE | {k.replace("_", "-"): v for k, v in keys.items()}).items():
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{name}")
            elif value is not None:
                words += [f"--{name}", things.get(str(value), str(value))]
        loops.clear()
        with redirect_stdout(StringIO()) as out:
            path = run(words)
        return Ran(path.parent, path, out.getvalue(), len(loops), torch.get_num_threads())

    yield started
    torch.set_num_threads(before)


# --- the keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", CHANGES)
def test_the_key_changes_something(key: str, start: Callable[..., Ran]) -> None:
    others, without, with_it, see = CHANGES[key]
    flag = key.replace("_", "-")
    found = [see(start(**{**others, flag: value})) for value in (without, with_it)]
    assert found[0] != found[1]


def test_workers_leave_the_weights(start: Callable[..., Ran]) -> None:
    plain = start(dropout=0.1)
    assert start(dropout=0.1, workers=2).weights == plain.weights


def test_gradient_checkpointing_computes_twice_and_learns_the_same(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    from embervlm.models import text

    whole = text.checkpoint

    def counted(*words: Any, **keys: Any) -> Any:
        calls.append(1)
        return whole(*words, **keys)

    monkeypatch.setattr(text, "checkpoint", counted)
    plain = load_file(start().path)
    assert not calls
    again = load_file(start(gradient_checkpointing=True).path)
    assert calls
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_output_dir_is_where_it_goes(start: Callable[..., Ran], tmp_path: Path) -> None:
    assert start(output_dir=tmp_path / "here").path == tmp_path / "here" / recipe.NETWORK


def test_resume_goes_on_and_no_resume_begins_anew(
    start: Callable[..., Ran], tmp_path: Path
) -> None:
    there = {"output_dir": tmp_path / "there"}
    first = start(**there)
    assert first.log.count("'loss'") == 4
    assert start(**there).log.count("'loss'") == 0
    anew = start(**there, resume=False)
    assert anew.log.count("'loss'") == 4
    assert anew.weights == first.weights


# --- number types ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "bf16"])
def test_both_number_types_of_a_processor_learn(kind: str, start: Callable[..., Ran]) -> None:
    ran = start(mixed_precision=kind, epochs=12)
    found = [line["loss"] for line in ran.lines if "loss" in line]
    assert sum(found[-4:]) < 0.8 * sum(found[:4])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card can do it")
def test_fp16_without_a_card_is_a_sentence(start: Callable[..., Ran]) -> None:
    with pytest.raises(ValueError, match=r"fp16, which needs a CUDA graphics card; on a processor"):
        start(mixed_precision="fp16")


# --- reports --------------------------------------------------------------------------------------


def test_a_missing_package_is_named_before_anything_is_loaded(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from embervlm.training import requirements

    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="names wandb, which is not installed; 'pip install wandb"):
        start(report_to="wandb", model="nowhere")


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_writes_offline(
    start: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    start(report_to="wandb")
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_without_a_key_is_a_sentence(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    wandb.teardown()  # it remembers the mode of another test
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ValueError, match="wandb, which is not logged in; run 'wandb login', or"):
        start(report_to="wandb", model="nowhere")


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_writes_to_a_folder(
    start: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    start(report_to="mlflow")
    assert list((tmp_path / "mlruns").rglob("loss"))


CODECARBON = """
class OfflineEmissionsTracker:
    def __init__(self, country_iso_code="the world", output_handlers=(), **keys):
        self.country, self.handlers = country_iso_code, output_handlers
    def start(self):
        pass
    def flush(self):
        class Total:
            energy_consumed, emissions = 2.0, 0.5 if self.country == "DEU" else 1.0
        for handler in self.handlers:
            handler.out(Total, Total)
    stop = flush
"""


def test_country_chooses_the_carbon_intensity(
    start: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("codecarbon") is None:
        package = tmp_path / "site" / "codecarbon"
        (package / "data/private_infra").mkdir(parents=True)
        (package / "__init__.py").write_text(CODECARBON, "utf-8")
        table = package / "data/private_infra/global_energy_mix.json"
        table.write_text('{"DEU": {}}', "utf-8")
        information = package.parent / "codecarbon-0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Name: codecarbon\nVersion: 0\n", "utf-8")
        monkeypatch.syspath_prepend(str(package.parent))
    told = []
    for country in (None, "DEU"):
        ran = start(report_to="codecarbon", country=country)
        told.append(json.loads((ran.folder / "summary.json").read_text("utf-8")))
    assert all(one["energy"]["kwh"] > 0 for one in told)
    grams = [one["energy"]["co2e_g"] / one["energy"]["kwh"] for one in told]
    assert grams[0] != pytest.approx(grams[1], rel=0.05)
    assert "carbon intensity of the world's mean" in told[0]["energy_found"]
    assert "carbon intensity of DEU" in told[1]["energy_found"]
    with pytest.raises(ValueError, match="country is 'XXX', for which codecarbon has no"):
        start(report_to="codecarbon", country="XXX")
    with pytest.raises(ValueError, match="which only codecarbon reads; add it to report_to"):
        start(country="DEU")


# --- the hub --------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Stands in for the Hugging Face hub: takes a repository and a commit, or refuses."""

    refuses = False
    got: list[tuple[str, bytes]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.got.append((self.path, body))
        if self.refuses:
            return self._answer(403, {"error": "no"})
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in asked
            ]
            return self._answer(200, {"files": files})
        url = f"http://{self.headers['Host']}/me/tiny"
        return self._answer(
            200, {"url": url, "id": "me/tiny", "commitUrl": f"{url}/commit/0", "commitOid": "0"}
        )

    def do_GET(self) -> None:
        self._answer(200, {"id": "me/tiny", "sha": "0", "siblings": [], "tags": []})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """Return a hub on this machine, to which the client is turned."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_no_hub")
    monkeypatch.setattr(Hub, "got", [])
    monkeypatch.setattr(Hub, "refuses", False)
    yield Hub
    server.shutdown()


def test_push_to_hub_sends_what_the_next_run_needs(
    hub: type[Hub], start: Callable[..., Ran]
) -> None:
    start(push_to_hub="me/tiny")
    paths = [path for path, _ in hub.got]
    assert paths[0].endswith("/api/repos/create")
    commit = next(body for path, body in hub.got if "/commit/" in path)
    files = [
        line["value"]["path"]
        for line in map(json.loads, commit.splitlines())
        if line["key"] == "file"
    ]
    assert sorted(files) == [recipe.NETWORK, "recipe.json", "tokenizer.json"]


def test_a_hub_that_refuses_leaves_the_network(
    hub: type[Hub], start: Callable[..., Ran], tmp_path: Path
) -> None:
    hub.refuses = True
    with pytest.raises(ValueError, match=r"me/tiny was not uploaded \(.*is whole, and"):
        start(push_to_hub="me/tiny", output_dir=tmp_path / "kept")
    assert load_file(tmp_path / "kept" / recipe.NETWORK)
