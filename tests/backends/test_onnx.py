"""The ONNX graphs say what the reference says, from memory and from an exported folder."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from embervlm import cli
from embervlm.backends import load_backend
from embervlm.backends.base import Proposal
from embervlm.backends.reference import ReferenceBackend
from embervlm.checkpoint import load_checkpoint
from embervlm.imaging import load_image, preprocess
from embervlm.prompts import parse_reasoning

onnx = pytest.importorskip("onnx")
OnnxBackend = pytest.importorskip("embervlm.backends.onnx", reason="needs ONNX Runtime").OnnxBackend
onnx_export = pytest.importorskip("embervlm.export.onnx")
numpy_helper = pytest.importorskip("onnx.numpy_helper")

from embervlm.backends.onnx_graphs import build_graphs  # noqa: E402

TASKS = [
    None,
    "look",
    "carry the 8 kg pump up the stairs, 40 m, wind 70 km/h",
    "Überprüfe den Fluss 🚁 at 3 knots",
    "search the ruins for people " * 60,
]
FILES = ["model.json", "plan.npz", "prefill.onnx", "step.onnx", "tokenizer.json", "vision.onnx"]


@pytest.fixture(scope="module")
def folders(
    tiny_model: Path, photo: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Return exported folders by bits, their ranges seen on the photo that the tests show."""
    found = {}
    for bits in onnx_export.BITS:
        found[bits] = tmp_path_factory.mktemp("onnx") / str(bits)
        onnx_export.export(tiny_model, found[bits], bits, photo.parent)
    return found


@pytest.fixture(scope="module")
def in_memory(tiny_model: Path) -> OnnxBackend:
    return OnnxBackend.load(tiny_model)


@pytest.fixture(scope="module")
def pixels(photo: Path) -> np.ndarray:
    return preprocess(load_image(photo), 32)


def numbers(proposal: Proposal) -> dict[str, np.ndarray]:
    """Return every array of a proposal."""
    found = {f.name: getattr(proposal, f.name) for f in fields(Proposal)}
    found["states"] = found["states"][0]
    return {
        k: np.asarray(v)
        for k, v in found.items()
        if k not in ("mentions", "unread") and v is not None
    }


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_photo", [False, True])
def test_graphs_say_what_numpy_says(
    reference: ReferenceBackend,
    in_memory: OnnxBackend,
    pixels: np.ndarray,
    task: str | None,
    with_photo: bool,
) -> None:
    photo = pixels if with_photo else None
    ours, theirs = in_memory.propose(task, photo), reference.propose(task, photo)
    assert ours.mentions == theirs.mentions
    assert np.array_equal(ours.states[1], theirs.states[1])
    assert numbers(ours).keys() == numbers(theirs).keys()
    for name, value in numbers(theirs).items():
        room = 1e-4 * max(1.0, float(np.abs(value).max(initial=0)))
        assert numbers(ours)[name].shape == value.shape
        np.testing.assert_allclose(numbers(ours)[name], value, atol=room, rtol=0, err_msg=name)
    for robots in [("Drone",), ("Robot with Legs", "Drone")]:
        assert in_memory.write(ours, robots) == reference.write(theirs, robots)


@pytest.mark.parametrize("size", [32, 33, 50])
def test_photos_of_any_side_are_padded_as_in_numpy(tiny_model: Path, size: int) -> None:
    checkpoint = load_checkpoint(tiny_model)
    resized = replace(checkpoint, config={**checkpoint.config, "image_size": size})
    session = onnx_runtime_session(build_graphs(resized)["vision"])
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, size, size)).astype(np.float32)
    theirs = ReferenceBackend(resized).propose(None, pixels)
    (scene,) = session.run(["scene"], {"pixels": pixels[None]})
    np.testing.assert_allclose(scene[0], theirs.scene, atol=1e-4, rtol=1e-4)


def onnx_runtime_session(graph: "onnx.ModelProto") -> "object":
    import onnxruntime

    return onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def test_a_request_without_ngrams_gets_nothing_added(
    reference: ReferenceBackend, in_memory: OnnxBackend
) -> None:
    for name in ("subsets", "environment"):
        ours, theirs = (getattr(b.propose("?!", None), name) for b in (in_memory, reference))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_an_exported_folder_says_the_same(
    folders: dict[int, Path], in_memory: OnnxBackend, pixels: np.ndarray
) -> None:
    assert sorted(path.name for path in folders[32].iterdir()) == FILES
    exported = load_backend("onnx", folders[32])
    assert exported.calibration == in_memory.calibration
    ours, theirs = (backend.propose(TASKS[2], pixels) for backend in (exported, in_memory))
    for name, value in numbers(theirs).items():
        assert np.array_equal(numbers(ours)[name], value), name
    assert exported.write(ours, ("Drone",)) == in_memory.write(theirs, ("Drone",))


@pytest.mark.parametrize("with_photo", [False, True])
@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.15), (4, 0.3)])
def test_fewer_bits_stay_close(
    folders: dict[int, Path], pixels: np.ndarray, bits: int, tolerance: float, with_photo: bool
) -> None:
    exact, rounded = (OnnxBackend.load(folders[n]) for n in (32, bits))
    photo = pixels if with_photo else None
    ours, theirs = (backend.propose(TASKS[2], photo) for backend in (rounded, exact))
    for name, value in numbers(theirs).items():
        error = np.sqrt(np.mean((numbers(ours)[name] - value) ** 2))
        assert error <= tolerance * np.sqrt(np.mean(value**2)), name  # of random weights
    assert parse_reasoning(rounded.write(ours, ("Drone",))) is not None


def test_folders_shrink_with_their_bits(folders: dict[int, Path]) -> None:
    sizes = [sum(path.stat().st_size for path in folders[bits].iterdir()) for bits in (32, 8, 4)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_four_bits_are_the_nearest_of_sixteen_steps() -> None:
    matrix_KN = np.random.default_rng(0).normal(0, 1, (80, 5)).astype(np.float32)
    matrix_KN[32:64, 1] = 0
    packed, scale = onnx_export.four_bit_blocks(matrix_KN)
    assert packed.shape == (5, 3, 16) and packed.dtype == np.uint8
    steps = np.stack([packed & 15, packed >> 4], axis=-1).reshape(5, 3, 32).astype(int) - 8
    read_KN = (steps * scale[..., None]).reshape(5, 96).T
    assert np.array_equal(read_KN[80:], np.zeros((16, 5)))
    # The side away from the largest value has one step less: 7 of 8.
    room_KN = np.abs(scale).repeat(32, axis=1).T[:80]
    assert (np.abs(read_KN[:80] - matrix_KN) <= room_KN * 1.001).all()
    within = np.abs(matrix_KN) <= 7.5 * room_KN
    assert (np.abs(read_KN[:80] - matrix_KN)[within] <= 0.501 * room_KN[within]).all()


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_graphs_are_sound(folders: dict[int, Path], bits: int) -> None:
    described = json.loads((folders[bits] / "model.json").read_text("utf-8"))["graphs"]
    for name in ("vision", "prefill", "step"):
        model = onnx.load(folders[bits] / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=bits == 32)
        assert [value.name for value in model.graph.input] == list(described[name]["inputs"])
        assert [value.name for value in model.graph.output] == list(described[name]["outputs"])


def test_few_bits_reach_every_matrix(folders: dict[int, Path]) -> None:
    for bits in (8, 4):
        for name in ("prefill", "step"):
            for tensor in onnx.load(folders[bits] / f"{name}.onnx").graph.initializer:
                large = np.prod(tensor.dims) >= 4096 and len(tensor.dims) == 2
                if large and not tensor.name.startswith(
                    ("heads.", "text.positions", "decoder.pos")
                ):
                    assert numpy_helper.to_array(tensor).dtype != np.float32, tensor.name


def test_photos_of_a_folder_set_the_ranges(tiny_model: Path, tmp_path: Path, photo: Path) -> None:
    checkpoint, dark = load_checkpoint(tiny_model), tmp_path / "dark"
    dark.mkdir()
    Image.new("RGB", (40, 40), (9, 9, 9)).save(dark / "a.PNG")
    (dark / "notes.txt").write_text("no photo")
    onnx_export.write_folder(checkpoint, tmp_path / "ours", 8, dark)
    onnx_export.write_folder(checkpoint, tmp_path / "demo", 8)
    ours, demo = ((tmp_path / name / "vision.onnx").read_bytes() for name in ("ours", "demo"))
    assert ours != demo
    with pytest.raises(ValueError, match="holds no photo"):
        onnx_export.export(tiny_model, tmp_path / "none", 8, photo.parent / "absent")


def test_unknown_bits_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown bits 5; there are 32, 8, 4"):
        onnx_export.export(tiny_model, tmp_path / "out", 5)
    assert not (tmp_path / "out").exists()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        *((name, Path.unlink, f"{name} is missing") for name in FILES),
        *((name, flip_a_bit, f"{name} is damaged") for name in FILES[1:]),
        ("model.json", lambda path: path.write_text("{"), "model.json is missing or damaged"),
        ("model.json", lambda path: path.write_text("[]"), "model.json is missing or damaged"),
        ("model.json", lambda path: path.write_text("{}"), "model.json is missing or damaged"),
    ],
)
def test_damaged_folders_are_refused(
    folders: dict[int, Path],
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
    sentence: str,
) -> None:
    folder = shutil.copytree(folders[32], tmp_path / "copy")
    damage(folder / name)
    with pytest.raises(ValueError, match=sentence):
        load_backend("onnx", folder)


def test_another_format_and_a_graph_that_cannot_run_are_refused(
    folders: dict[int, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders[32], tmp_path / "copy")
    description = json.loads((folder / "model.json").read_text("utf-8"))
    (folder / "model.json").write_text(json.dumps({**description, "format": 2}))
    with pytest.raises(ValueError, match="format 2, expected 1"):
        load_backend("onnx", folder)
    model = replace(
        onnx_export_backend().read_folder(folders[32]),
        graphs={"vision": b"no graph", "prefill": b"", "step": b""},
    )
    with pytest.raises(ValueError, match="cannot run the graph 'vision'"):
        OnnxBackend(model)


def onnx_export_backend() -> "object":
    import embervlm.backends.onnx

    return embervlm.backends.onnx


def test_without_the_package_the_extra_is_named(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "embervlm.backends.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'embervlm\[onnx\]'"):
        load_backend("onnx", tiny_model)


def test_a_folder_is_exported_and_decides_from_the_command_line(
    tiny_model: Path, photo: Path, tmp_path: Path
) -> None:
    def run(*words: object) -> "object":
        return CliRunner().invoke(cli.app, [str(word) for word in words])

    folder = tmp_path / "onnx"
    result = run("export", "onnx", "--out", folder, "--model", tiny_model)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{folder}: ")
    words = ("decide", photo, "look at the roof", "--json")
    ours = run(*words, "--backend", "onnx", "--model", folder)
    assert ours.exit_code == 0, ours.stderr
    assert ours.stdout == run(*words, "--backend", "reference", "--model", tiny_model).stdout
    refused = run("export", "onnx", "--out", folder, "--bits", 3)
    assert refused.exit_code == 2
    assert refused.stderr == "embervlm: Unknown bits 3; there are 32, 8, 4.\n"
