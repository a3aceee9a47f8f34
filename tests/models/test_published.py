"""Published weights: read from a directory, strictly, and never as a pickle."""

import builtins
import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from embervlm.models.published import fill, load_published  # noqa: E402

TENSORS = {"weight": torch.ones(2, 3), "bias": torch.arange(2.0)}


def write(folder: Path, tensors: Mapping[str, Tensor], config: object = ()) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config or {})))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()},
              folder / "model.safetensors")  # fmt: skip
    return folder


def test_a_directory_is_read_with_its_configuration(tmp_path: Path) -> None:
    published = load_published(write(tmp_path, TENSORS, {"n_head": 6}))
    assert published.source == str(tmp_path)
    assert published.config == {"n_head": 6}
    assert published.tensors.keys() == TENSORS.keys()
    linear = nn.Linear(3, 2)
    report = fill(linear, published.tensors, source=published.source)
    assert torch.equal(linear.weight, TENSORS["weight"])
    assert set(report.loaded) == {"weight", "bias"}
    assert str(report) == f"{tmp_path}: 2 tensors loaded"


def write_shards(folder: Path, weight_map: Mapping[str, object] | None = None) -> Path:
    write(folder, TENSORS)
    (folder / "model.safetensors").unlink()
    for i, (name, tensor) in enumerate(TENSORS.items(), 1):
        save_file({name: tensor}, folder / f"model-0000{i}-of-00002.safetensors")
    files = {"weight": "model-00001-of-00002.safetensors",
             "bias": "model-00002-of-00002.safetensors"}  # fmt: skip
    index = {"metadata": {}, "weight_map": files | dict(weight_map or {})}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    tensors = load_published(write_shards(tmp_path)).tensors
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        ({"bias": "../model.safetensors"}, "lies outside"),
        ({"bias": "/etc/passwd"}, "lies outside"),
        ({"bias": "model-00003-of-00002.safetensors"}, "00003-of-00002.safetensors is missing"),
        ({"gain": "model-00001-of-00002.safetensors"}, "disagree on gain"),
        ({"bias": "model-00001-of-00002.safetensors"}, "disagree on bias"),
        ({"bias": 2}, "no weight_map of file names"),
    ],
)
def test_a_wrong_index_is_refused(
    tmp_path: Path, weight_map: Mapping[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_published(write_shards(tmp_path, weight_map))


def test_a_tensor_that_the_index_leaves_out_is_refused(tmp_path: Path) -> None:
    write(tmp_path, TENSORS)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"weight": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="disagree on bias"):
        load_published(tmp_path)


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> object:
        return Path.touch, (self.trace,)


def test_a_pickle_under_the_name_of_safetensors_is_refused_and_never_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", TENSORS)
    trace = tmp_path / "trace"
    (folder / "model.safetensors").write_bytes(pickle.dumps(Hostile(trace)))
    with pytest.raises(ValueError, match="no safetensors file"):
        load_published(folder)
    torch.save(TENSORS, folder / "model.safetensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_published(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 7, b"\xff" * 64, struct.pack("<Q", 2) + b"{}" + b"\0" * 9,
     struct.pack("<Q", 64) + b'{"weight":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}    '],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (write(tmp_path, TENSORS) / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load_published(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, TENSORS)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model.safetensors is missing .*pytorch_model.bin"):
        load_published(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config.json is missing; give a directory"):
        load_published(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_configuration_is_refused(tmp_path: Path, text: bytes) -> None:
    (write(tmp_path, TENSORS) / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match="config.json"):
        load_published(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weight": torch.ones(3, 2)}, r"weight of shape \(3, 2\), expected \(2, 3\)"),
        ({"weight": torch.ones(2, 3, dtype=torch.int8)}, "weight in torch.int8"),
        ({"weight": torch.full((2, 3), torch.nan)}, "not finite"),
        ({"weight": torch.full((2, 3), 1e300, dtype=torch.float64)}, "not finite"),
        ({"gain": torch.ones(2)}, "has gain, which this network has not"),
        ({f"gain.{i}": torch.ones(2) for i in range(9)}, "gain.0, gain.1, gain.2 and 6 more"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_changes_nothing(
    change: dict[str, Tensor], sentence: str
) -> None:
    linear = nn.Linear(3, 2)
    before = linear.weight.clone()
    with pytest.raises(ValueError, match=sentence) as refused:
        fill(linear, TENSORS | change, source="a folder")
    assert "\n" not in str(refused.value)
    assert torch.equal(linear.weight, before)


def test_a_tensor_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="a folder lacks bias"):
        fill(nn.Linear(3, 2), {"weight": torch.ones(2, 3)}, source="a folder")


@pytest.mark.parametrize("name", ["no-such-folder", "/no/such/folder", "../x", "https://a.b/c"])
def test_what_is_neither_directory_nor_hub_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="neither a directory nor a hub name"):
        load_published(name)


def test_a_hub_name_without_the_hub_says_to_give_a_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imports = builtins.__import__

    def without_hub(name: str, *args: object, **kwargs: object) -> object:
        if name == "huggingface_hub":
            raise ImportError(name)
        return imports(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(ValueError, match="install it or give a directory"):
        load_published("tinyllm/30M-0.4")


def test_a_hub_name_offline_says_to_give_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args: object, **kwargs: object) -> str:
        raise hub.errors.LocalEntryNotFoundError("cannot reach the hub\nand more")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"\(cannot reach the hub\); give a directory"):
        load_published("tinyllm/30M-0.4")


def test_a_hub_name_is_downloaded_without_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = write(tmp_path / "c0ffee", TENSORS)

    def download(name: str, allow_patterns: list[str]) -> str:
        assert name == "owner/model"
        assert not any("bin" in pattern or pattern == "*" for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert load_published("owner/model").source == "owner/model@c0ffee"
