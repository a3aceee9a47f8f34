"""The engine runs `bitmar` as it was trained, and its ternary products are those of the matrices.

Without rounded activations the engine and NumPy agree as far as floats go (1e-4). Where ternary
matrices round, as in training, an activation that lies at a half may go the other way in one of
two, which moves what is behind it. In a file of four bits the heads and the table round too, which
PyTorch and NumPy do not: as for `ember-nano` a share of what is said, of random weights.
"""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from test_engine import rehashed

from embervlm.backends import load_backend
from embervlm.backends.base import Backend, Proposal
from embervlm.backends.native import NativeBackend
from embervlm.backends.reference import ReferenceBackend
from embervlm.checkpoint import SWITCHES, Checkpoint, load_checkpoint, switched_on
from embervlm.engine import Engine, kernel_sets
from embervlm.imaging import load_image, preprocess
from embervlm.prompts import parse_reasoning

gguf_export = pytest.importorskip("embervlm.export.gguf", reason="needs the gguf package")
pytest.importorskip("torch")

from embervlm.models.configuration import EmberConfig  # noqa: E402

TASKS = [None, "look", "carry the 8 kg pump up the stairs, 40 m, wind 70 km/h"]
NO_LIMIT = 1 << 30


@pytest.fixture(scope="module")
def files(
    bitmar_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return the file of each type, and "plain": ternary matrices, all others but heads floats."""
    folder = tmp_path_factory.mktemp("bitmar")
    for kind, wanted, smallest in [
        ("f32", "f32", 256),
        ("q8_0", "q8_0", 256),
        ("q4_0", "q4_0", 256),
        ("plain", "q8_0", NO_LIMIT),
    ]:
        path = folder / f"{kind}.gguf"
        gguf_export.write_gguf(bitmar_checkpoint, path, wanted, smallest=smallest)
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pixels(photo: Path) -> np.ndarray:
    return preprocess(load_image(photo), 96)


def numbers(proposal: Proposal) -> dict[str, np.ndarray]:
    found = {f.name: getattr(proposal, f.name) for f in fields(Proposal)}
    found["states"] = found["states"][0]
    return {
        k: np.asarray(v)
        for k, v in found.items()
        if k not in ("mentions", "unread") and v is not None
    }


def assert_same(ours: Proposal, theirs: Proposal, room: float = 1e-4) -> None:
    assert ours.mentions == theirs.mentions
    assert numbers(ours).keys() == numbers(theirs).keys()
    for name, value in numbers(theirs).items():
        most = room * max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(numbers(ours)[name], value, atol=most, err_msg=name)


def assert_near(ours: Proposal, theirs: Proposal) -> None:
    """The mean error of the states is below a tenth of them, that of logits a fifth."""
    for name, value in numbers(theirs).items():
        error = np.sqrt(np.mean((numbers(ours)[name] - value) ** 2)) if value.size else 0
        # One number may lie near 0.
        size = (
            np.sqrt(np.mean(value**2)) if value.size > 1 else max(1.0, float(np.abs(value).sum()))
        )
        assert error <= (0.1 if name == "states" else 0.2) * size, name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_photo", [False, True])
def test_numpy_says_what_pytorch_does(
    files: dict[str, Path], pixels: np.ndarray, task: str | None, with_photo: bool
) -> None:
    """Both round what a ternary matrix is multiplied with. Words that are near to equally likely
    may be others behind one rounding; the unrounded ones below are held to be the same."""
    photo = pixels if with_photo else None
    reference, pytorch = (load_backend(name, files["q4_0"]) for name in ("reference", "pytorch"))
    ours, theirs = reference.propose(task, photo), pytorch.propose(task, photo)
    assert_same(ours, theirs, room=2e-2)
    assert ours.value is not None
    assert len(ours.states[0]) == 5 + len(ours.states[1][ours.states[1] >= 0])
    for backend, said in ((reference, ours), (pytorch, theirs)):
        assert parse_reasoning(backend.write(said, ("Drone",))) is not None


@pytest.mark.parametrize("kernels", kernel_sets())
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_photo", [False, True])
def test_float_engine_says_and_writes_what_numpy_does_unrounded(
    files: dict[str, Path],
    pixels: np.ndarray,
    kernels: str,
    task: str | None,
    with_photo: bool,
) -> None:
    photo = pixels if with_photo else None
    native = NativeBackend(Engine(files["f32"], kernels=kernels))
    unrounded = ReferenceBackend(replace(load_checkpoint(files["f32"]), ternary=frozenset()))
    ours, theirs = native.propose(task, photo), unrounded.propose(task, photo)
    assert_same(ours, theirs)
    assert native.write(ours, ("Drone",)) == unrounded.write(theirs, ("Drone",))


@pytest.mark.parametrize("with_photo", [False, True])
def test_engine_and_numpy_fuse_without_tokens_in_front(
    bitmar_checkpoint: Checkpoint, pixels: np.ndarray, tmp_path: Path, with_photo: bool
) -> None:
    """The same weights with `fiber` instead of `both`: another answer, and both give the same."""
    photo = pixels if with_photo else None
    fused = replace(bitmar_checkpoint, config={**bitmar_checkpoint.config, "fusion": "fiber"})
    gguf_export.write_gguf(fused, tmp_path / "fiber.gguf", "f32", smallest=256)
    ours = NativeBackend(Engine(tmp_path / "fiber.gguf")).propose(TASKS[2], photo)
    with_both = replace(bitmar_checkpoint, ternary=frozenset())
    assert_same(
        ours, ReferenceBackend(replace(fused, ternary=frozenset())).propose(TASKS[2], photo)
    )
    apart = ours.states[0] - ReferenceBackend(with_both).propose(TASKS[2], photo).states[0]
    assert np.abs(apart).max() > 1e-2


@pytest.mark.parametrize("kernels", kernel_sets())
@pytest.mark.parametrize("task", TASKS)
def test_ternary_layers_round_as_they_did_in_training(
    files: dict[str, Path], kernels: str, task: str | None
) -> None:
    """To 1e-6 but where an activation lies at a half and goes the other way, which moves what is
    behind it: half of what rounding does at the most."""
    checkpoint = load_checkpoint(files["plain"])
    native, rounded, unrounded = (
        backend.propose(task, None).states[0]
        for backend in (
            NativeBackend(Engine(files["plain"], kernels=kernels)),
            ReferenceBackend(checkpoint),
            ReferenceBackend(replace(checkpoint, ternary=frozenset())),
        )
    )
    apart, by_rounding = (
        np.sqrt(np.mean((states - rounded) ** 2)) for states in (native, unrounded)
    )
    assert apart <= max(1e-6, 0.5 * by_rounding)
    assert by_rounding > 1e-4


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_photo", [False, True])
def test_rounded_files_stay_close_to_pytorch(
    files: dict[str, Path], pixels: np.ndarray, kind: str, task: str | None, with_photo: bool
) -> None:
    photo = pixels if with_photo else None
    native, pytorch = (load_backend(name, files[kind]) for name in ("native", "pytorch"))
    ours = native.propose(task, photo)
    assert_near(ours, pytorch.propose(task, photo))
    assert parse_reasoning(native.write(ours, ("Drone",))) is not None


def test_kernels_stay_close_and_neither_threads_nor_neighbours_change_an_answer(
    files: dict[str, Path], pixels: np.ndarray
) -> None:
    alone = NativeBackend(Engine(files["q4_0"])).propose(TASKS[2], pixels)
    for kernels in kernel_sets():
        other = NativeBackend(Engine(files["q4_0"], kernels=kernels)).propose(TASKS[2], pixels)
        assert_near(other, alone)
    shared = NativeBackend(Engine(files["q4_0"], threads=3))
    for task in TASKS:
        shared.propose(task, None)
    for name, value in numbers(shared.propose(TASKS[2], pixels)).items():
        assert np.array_equal(value, numbers(alone)[name]), name


@pytest.mark.parametrize("kernels", kernel_sets())
def test_packed_ternary_products_are_those_of_the_matrix(
    files: dict[str, Path], kernels: str
) -> None:
    """Activations that eight bits hold exactly: what is left is the order of sums."""
    model, weights = Engine(files["q4_0"], kernels=kernels), load_checkpoint(files["q4_0"]).weights
    chance = np.random.default_rng(0)
    layers = ["memory.query", "memory.up", "reasoning.query", "reasoning.forget", "reasoning.out"]
    for name in layers:
        weight_OI = weights[f"{name}.weight"].astype(np.float64)
        bias_O = weights[f"{name}.bias"]
        for rows in (1, 2, 3, 4, 7, 33):
            whole = chance.integers(-127, 128, (rows, weight_OI.shape[1] // 32, 32))
            whole[..., chance.integers(32)] = chance.choice([-127, 127])
            scale = 2.0 ** chance.integers(-9, 3, whole.shape[:2])
            x_RI = (whole * scale[..., None]).reshape(rows, -1).astype(np.float32)
            expected = x_RI @ weight_OI.T + bias_O
            most = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(model.linear(name, x_RI), expected, rtol=0, atol=most)


def test_memory_and_steps_change_what_is_said(bitmar_checkpoint: Checkpoint) -> None:
    def said(**weights: np.ndarray) -> dict[str, np.ndarray]:
        changed = replace(bitmar_checkpoint, weights={**bitmar_checkpoint.weights, **weights})
        return numbers(ReferenceBackend(changed).propose("look at the roof", None))

    plain = said()
    unused = said(**{"memory.written_at": np.full(4, -1.0, np.float32)})
    other = said(**{"reasoning.step.weight": np.ones((5, 32), np.float32)})
    assert np.abs(unused["embedding"] - plain["embedding"]).max() > 1e-2
    np.testing.assert_array_equal(unused["states"], plain["states"])
    assert np.abs(other["primary"] - plain["primary"]).max() > 1e-2
    np.testing.assert_array_equal(other["embedding"], plain["embedding"])


def test_the_switches_are_those_of_the_configuration() -> None:
    off = EmberConfig().to_dict()
    assert {name: off[name] for name in SWITCHES} == dict(SWITCHES)
    assert switched_on(off) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fusion.layers.1.image_reads.gate", "lacks the tensor fusion.layers.1.image_reads.gate"),
        ("fusion.layers.0.text_reads.out.weight", "lacks the tensor fusion.layers.0.text_reads"),
        ("text.widen.weight", "lacks the tensor text.widen.weight"),
        ("memory.up.weight", "lacks the tensor memory.up.weight"),
        ("memory.slots", "no sound tensor memory.slots"),
        ("reasoning.candidate.bias", "lacks the tensor reasoning.candidate.bias"),
        ("reasoning.step.weight", "no sound tensor reasoning.step.weight"),
    ],
)
def test_a_missing_part_is_one_sentence(
    bitmar_checkpoint: Checkpoint, tmp_path: Path, name: str, message: str
) -> None:
    weights = {key: value for key, value in bitmar_checkpoint.weights.items() if key != name}
    short = replace(bitmar_checkpoint, weights=weights, ternary=bitmar_checkpoint.ternary - {name})
    gguf_export.write_gguf(short, tmp_path / "short.gguf", "q4_0", smallest=256)
    with pytest.raises(ValueError, match=message) as caught:
        NativeBackend.load(tmp_path / "short.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_grid": 3, "image_tokens": 5}, "image_tokens is 5, expected 10 to 10"),
        ({"image_grid": 17, "image_tokens": 290}, "image_grid is 17, expected 0 to 16"),
        ({"fusion_layers": 9}, "fusion_layers is 9, expected 1 to 8"),
        ({"fusion_heads": 5}, "fusion_width is no multiple"),
        ({"fusion": "sum"}, "none of prefix, fiber and both"),
        ({"fusion_width": 64}, "expected 64 x 96"),
        ({"embed_width": 0}, "text.embed.weight has another size"),
        ({"memory_width": 64}, "memory.query.weight has"),
        ({"memory_slots": 5}, "memory.written_at has 4 values, expected 5"),
        ({"reasoning_width": 64}, "reasoning.query.weight has"),
        ({"text_hidden": 72}, "expected 72 x 96"),
    ],
)
def test_sizes_that_are_not_the_file_s_are_one_sentence(
    bitmar_checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    config = {**bitmar_checkpoint.config, **changes}
    path = tmp_path / "other.gguf"
    gguf_export.write_gguf(replace(bitmar_checkpoint, config=config), path, "q4_0", smallest=256)
    with pytest.raises(ValueError, match=message) as caught:
        NativeBackend.load(path)
    assert "\n" not in str(caught.value)


def test_wrong_shapes_are_one_sentence(files: dict[str, Path], tmp_path: Path) -> None:
    """The engine takes shapes from the configuration, so that only readers in Python see them."""
    sound = files["q4_0"].read_bytes()
    at = sound.index(b"embervlm.shapes") + len("embervlm.shapes") + 4
    length = int.from_bytes(sound[at : at + 8], "little")
    shapes = json.loads(sound[at + 8 : at + 8 + length])
    path = tmp_path / "shapes.gguf"
    name = "memory.query.weight"
    for changed, message in [
        ({**shapes, name: [32, 97]}, f"{name} has 3,072 weights, embervlm.shapes says 32 x 97"),
        ({**shapes, name: [32]}, "holds no pairs"),
        ({**shapes, name: [-1, 1]}, "holds no pairs"),
        ({k: v for k, v in shapes.items() if k != name} | {"absent": [1, 1]}, "ternary absent"),
        (list(shapes), "holds no pairs"),
    ]:
        text = json.dumps(changed).encode().ljust(length)[:length]
        path.write_bytes(rehashed(sound[: at + 8] + text + sound[at + 8 + length :]))
        with pytest.raises(ValueError, match=message):
            load_checkpoint(path)


def test_onnx_says_that_it_cannot(files: dict[str, Path]) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=r"ember-nano alone; this network has .*--backend native"):
        load_backend("onnx", files["q4_0"])


def test_every_backend_is_one_to_the_selector(files: dict[str, Path]) -> None:
    backends: list[Backend] = [load_backend(n, files["q4_0"]) for n in ("native", "reference")]
    assert {backend.image_size for backend in backends} == {96}
