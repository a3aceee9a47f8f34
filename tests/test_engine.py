"""The engine says what the reference says, on every kernel set, and refuses damaged files."""

import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from bpe import learn_bpe

from embervlm import engine
from embervlm.backends import load_backend
from embervlm.backends.base import Proposal, labels
from embervlm.backends.decoding import (
    CANNOT_BEGIN,
    FORBIDDEN,
    Grammar,
    Section,
    token_masks,
)
from embervlm.backends.native import NativeBackend
from embervlm.backends.reference import ReferenceBackend
from embervlm.checkpoint import load_checkpoint
from embervlm.engine import Engine, kernel_sets
from embervlm.fleet import Fleet
from embervlm.imaging import load_image, preprocess
from embervlm.prompts import parse_reasoning, reasoning_prefix
from embervlm.tokenizer import Tokenizer

gguf_export = pytest.importorskip("embervlm.export.gguf", reason="needs the gguf package")
pytest.importorskip("torch")

from embervlm.models.configuration import EmberConfig  # noqa: E402
from embervlm.models.modeling import EmberNetwork  # noqa: E402

TASKS = [
    None,
    "look",
    "carry the 8 kg pump up the stairs, 40 m, wind 70 km/h",
    "Überprüfe den Fluss 🚁 at 3 knots",
    "search the ruins for people " * 60,
]


@pytest.fixture(scope="module")
def files(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    checkpoint = load_checkpoint(tiny_model)
    for kind in gguf_export.TYPES:
        gguf_export.write_gguf(checkpoint, folder / f"{kind}.gguf", kind, smallest=256)
    return {kind: folder / f"{kind}.gguf" for kind in gguf_export.TYPES}


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


@pytest.mark.parametrize("kernels", kernel_sets())
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_photo", [False, True])
def test_float_engine_says_what_numpy_says(
    reference: ReferenceBackend,
    files: dict[str, Path],
    pixels: np.ndarray,
    kernels: str,
    task: str | None,
    with_photo: bool,
) -> None:
    native = NativeBackend(Engine(files["f32"], kernels=kernels))
    assert native.engine.kernels == kernels
    photo = pixels if with_photo else None
    ours, theirs = native.propose(task, photo), reference.propose(task, photo)
    assert ours.mentions == theirs.mentions
    assert numbers(ours).keys() == numbers(theirs).keys()
    for name, value in numbers(theirs).items():
        room = 1e-4 * max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(numbers(ours)[name], value, atol=room, err_msg=name)
    for robots in [("Drone",), ("Robot with Legs", "Drone")]:
        assert native.write(ours, robots) == reference.write(theirs, robots)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "tq2_0"])
def test_kernel_sets_agree_on_whole_numbers(
    files: dict[str, Path], pixels: np.ndarray, kind: str
) -> None:
    said = [
        numbers(NativeBackend(Engine(files[kind], kernels=name)).propose(TASKS[2], pixels))
        for name in kernel_sets()
    ]
    for other in said[1:]:
        for name, value in said[0].items():
            np.testing.assert_allclose(other[name], value, atol=2e-3, rtol=2e-3, err_msg=name)


@pytest.mark.parametrize("kind", ["f32", "q8_0", "q4_0"])
def test_neither_threads_nor_neighbours_change_an_answer(
    files: dict[str, Path], pixels: np.ndarray, kind: str
) -> None:
    alone = numbers(NativeBackend(Engine(files[kind])).propose(TASKS[2], pixels))
    for threads in (2, 3, 5):
        shared = NativeBackend(Engine(files[kind], threads=threads))
        for task in TASKS:
            shared.propose(task, None)
        for name, value in numbers(shared.propose(TASKS[2], pixels)).items():
            assert np.array_equal(value, alone[name]), name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_decides_without_the_threads_that_it_lost(
    files: dict[str, Path], pixels: np.ndarray
) -> None:
    """In a process of its own, which no other thread troubles; its end by alarm is a failure."""
    script = (
        "import os, signal, sys\n"
        "import numpy as np\n"
        "from embervlm.backends.native import NativeBackend\n"
        "from embervlm.engine import Engine\n"
        "native = NativeBackend(Engine(sys.argv[1], threads=3))\n"
        "pixels = np.load(sys.argv[2])\n"
        "said = native.propose('look at the roof', pixels).subsets\n"
        "if child := os.fork():\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "signal.alarm(60)\n"
        "assert np.array_equal(native.propose('look at the roof', pixels).subsets, said)\n"
        "del native\n"
    )
    photo = files["q4_0"].with_name("pixels.npy")
    np.save(photo, pixels)
    command = [sys.executable, "-c", script, str(files["q4_0"]), str(photo)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_eight_bits_stay_close_to_floats(files: dict[str, Path], pixels: np.ndarray) -> None:
    exact, whole = (
        NativeBackend(Engine(files[kind])).propose(TASKS[2], pixels) for kind in ("f32", "q8_0")
    )
    for name, value in numbers(exact).items():
        error = np.sqrt(np.mean((numbers(whole)[name] - value) ** 2))
        assert error <= 0.1 * np.sqrt(np.mean(value**2)), name  # of random weights


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "tq2_0"])
def test_reads_each_type_as_the_public_package_does(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    """Rows of 256, so that ternary blocks fit; what differs is the rounded activations."""
    import torch

    gguf = pytest.importorskip("gguf")
    tiny = load_checkpoint(tiny_model)
    sizes = {"text_width": 256, "text_hidden": 256, "text_layers": 1}
    config = EmberConfig.from_dict({**tiny.config, **sizes})
    torch.manual_seed(0)
    weights = {name: t.numpy() for name, t in EmberNetwork(config).state_dict().items()}
    wide = replace(tiny, config=config.to_dict(), weights=weights)
    path = tmp_path / "wide.gguf"
    gguf_export.write_gguf(wide, path, kind, smallest=256)
    types, read = set(), dict(weights)
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type in (gguf_export.TYPES[kind], gguf_export.TYPES["q4_0"]):
            types.add(tensor.tensor_type)
            read[tensor.name] = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    assert gguf_export.TYPES[kind] in types
    ours = NativeBackend(Engine(path)).propose(TASKS[2], None).states[0]
    theirs = ReferenceBackend(replace(wide, weights=read)).propose(TASKS[2], None).states[0]
    assert np.sqrt(np.mean((ours - theirs) ** 2)) <= 0.05 * np.sqrt(np.mean(theirs**2))


def test_the_middle_of_the_reader_is_there_for_those_who_read_on(tiny_model: Path) -> None:
    engine = Engine(tiny_model)
    layers = int(load_checkpoint(tiny_model).config["text_layers"])
    tokens = np.array([1, 2, 3])
    states, none = engine.read(tokens, None)
    assert none is None
    found = [engine.read(tokens, None, last) for last in range(1, layers + 1)]
    for again, middle in found:
        assert np.array_equal(again, states)
        assert middle is not None
        assert middle.shape == (3, states.shape[1])
    different = {middle.tobytes() for _, middle in found if middle is not None}
    assert len(different) == layers
    with pytest.raises(ValueError, match=f"the last {layers + 1} layers; there are {layers}"):
        engine.read(tokens, None, layers + 1)


@pytest.mark.parametrize("kind", ["f32", "q8_0", "q4_0"])
def test_the_engine_writes_what_the_grammar_in_python_writes(
    files: dict[str, Path], pixels: np.ndarray, kind: str
) -> None:
    """With the shipped limits, and with so little room that every section is cut short."""
    native = NativeBackend(Engine(files[kind]))
    for task in TASKS:
        for photo in (None, pixels):
            proposal = native.propose(task, photo)
            for robots in [("Drone",), ("Robot with Legs", "Drone")]:
                count = len(reasoning_prefix(robots, native.tokenizer))
                for positions in (192, count + 27, count + 9, count + 6):
                    grammar = Grammar(native.tokenizer, positions)
                    native._grammar = grammar
                    native.engine.begin(*proposal.states)
                    expected = grammar.write(robots, native.engine.step)
                    assert native.write(proposal, robots) == expected
                    assert parse_reasoning(expected) is not None


def test_longer_sections_and_other_masks_are_only_another_table(files: dict[str, Path]) -> None:
    native = NativeBackend(Engine(files["f32"]))
    proposal = native.propose(TASKS[2], None)
    grammar = Grammar(native.tokenizer, 192)
    end = native.tokenizer.specials["<|end|>"]
    grammar.sections = [Section(end, most=60), Section(end, 5, never=FORBIDDEN, not_first=0)]
    native._grammar = grammar
    native.engine.begin(*proposal.states)
    expected = grammar.write(("Drone",), native.engine.step)
    assert native.write(proposal, ("Drone",)) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, None])
def test_whatever_the_weights_what_the_engine_writes_parses(
    tiny_model: Path, tmp_path: Path, bad: float | None
) -> None:
    checkpoint = load_checkpoint(tiny_model)
    chance = np.random.default_rng(0)
    robots = Fleet.default().names
    names = [
        "text.embed.weight",
        "decoder.widen.weight",
        "decoder.gate.bias",
        "text.embed_norm.bias",
    ]
    for i, name in enumerate(names):
        weights = dict(checkpoint.weights)
        weights[name] = chance.normal(0, 3, weights[name].shape).astype(np.float32)
        if bad is not None:
            weights[name].flat[chance.integers(weights[name].size, size=1 + i)] = bad
        path = tmp_path / "bad.gguf"
        gguf_export.write_gguf(replace(checkpoint, weights=weights), path, "f32")
        native = NativeBackend(Engine(path))
        reasoning = parse_reasoning(native.write(native.propose("look at the roof", None), robots))
        assert reasoning is not None
        assert reasoning.robots == robots


def test_masks_say_what_each_token_holds(tokenizer: Tokenizer) -> None:
    """Learnt from text with spaces, marks and letters of all kinds, held against each text."""
    odd = learn_bpe("\u00a0a \u2003b é1 a|b \x1f \t7 \u3000 x" * 3, 40)
    for known in (tokenizer, odd):
        masks = token_masks(known)
        for number in range(known.plain_tokens):
            text = known.decode([number])
            first = text.strip()[:1]
            forbidden = any(char < " " or char in "|\x7f" for char in text)
            assert bool(masks[number] & FORBIDDEN) == forbidden, text
            can_begin = first.isascii() and first.isalnum()
            assert bool(masks[number] & CANNOT_BEGIN) != can_begin, text
        assert all(masks[known.plain_tokens :] == FORBIDDEN | CANNOT_BEGIN)


def test_what_cannot_be_written_is_refused(files: dict[str, Path]) -> None:
    native = NativeBackend(Engine(files["f32"]))
    model, masks = native.engine, native._grammar.masks
    with pytest.raises(ValueError, match="ember_begin comes first"):
        model.write([1], [(2, 20, 1, 2)], masks, 192)
    model.begin(*native.propose("look", None).states)
    for prefix, section, given, message in [
        ([1] * 191, (2, 20, 1, 2), masks, "there is room for 192"),
        ([], (2, 20, 1, 2), masks, "0 tokens and 1 sections"),
        ([10**6], (2, 20, 1, 2), masks, "token 1000000"),
        ([1], (10**6, 20, 1, 2), masks, "ends in token 1000000"),
        ([1], (2, 0, 1, 2), masks, "a section of 0 tokens"),
        ([1], (2, 20, 1, 2), masks[1:], "expected one for each token"),
        ([1], (2, 20, 1, 2), np.full_like(masks, 2), "no token may begin"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.write(prefix, [section], given, 192)
    with pytest.raises(ValueError, match=r"expected \(3, 32, 32\)"):
        model.see(np.zeros((3, 16, 16), np.float32))


def test_files_shrink_with_their_bits(files: dict[str, Path]) -> None:
    sizes = [files[kind].stat().st_size for kind in ("f32", "q8_0", "q4_0")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_the_public_package_reads_the_file(files: dict[str, Path], tiny_model: Path) -> None:
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(files["q8_0"])
    weights = load_checkpoint(tiny_model).weights
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    qkv = tensors["text.layers.0.qkv.weight"]
    assert qkv.tensor_type == gguf.GGMLQuantizationType.Q8_0
    back = gguf.quants.dequantize(qkv.data, qkv.tensor_type)
    step = np.abs(weights["text.layers.0.qkv.weight"]).max() / 127
    np.testing.assert_allclose(back, weights["text.layers.0.qkv.weight"], atol=step)


def test_every_type_reads_every_ngram_alike(
    files: dict[str, Path], reference: ReferenceBackend
) -> None:
    """The table lies turned: a column of the file is a column of the network's."""
    gguf = pytest.importorskip("gguf")
    for kind, path in files.items():
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        columns = tensors["ngrams.columns"]
        table_CR = gguf.quants.dequantize(columns.data, columns.tensor_type)
        importance_R = tensors["ngrams.importance"].data.astype(np.float32)
        rows = [0, 5, 31, 32, 100, 127]
        expected = table_CR[:, rows] @ importance_R[rows] / np.linalg.norm(importance_R[rows])
        found = Engine(path).ngrams(rows, len(table_CR))
        np.testing.assert_allclose(found, expected + tensors["ngrams.bias"].data, atol=1e-4)
        if kind == "f32":
            np.testing.assert_array_equal(table_CR, reference._w["ngrams.table.weight"].T)


def test_the_file_says_all_that_its_reader_must_know(
    files: dict[str, Path], tiny_model: Path
) -> None:
    checkpoint = load_checkpoint(tiny_model)
    model = Engine(files["q4_0"])
    assert json.loads(model.text("embervlm.config")) == checkpoint.config
    assert json.loads(model.text("embervlm.calibration")) == checkpoint.calibration
    assert json.loads(model.text("embervlm.specials")) == list(checkpoint.tokenizer.specials)
    assert json.loads(model.text("embervlm.labels")) == labels()
    assert json.loads(model.text("embervlm.preprocessing")) == {
        "size": 32,
        "mean": 128,
        "scale": 1 / 128,
        "resample": "bilinear",
        "crop": "centre",
    }
    tokenizer = NativeBackend(model).tokenizer
    assert np.array_equal(tokenizer.merges_M2, checkpoint.tokenizer.merges_M2)
    assert tokenizer.specials == checkpoint.tokenizer.specials
    with pytest.raises(ValueError, match="no sound tensor absent"):
        model.tensor("absent", np.uint16)


def test_a_file_for_other_robots_or_of_another_format_is_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    sound = files["q8_0"].read_bytes()
    path = tmp_path / "other.gguf"
    path.write_bytes(rehashed(sound.replace(b'"Drone"', b'"Crane"')))
    with pytest.raises(ValueError, match="trained for other robots than this package has"):
        NativeBackend(Engine(path))
    at = sound.index(b"embervlm.format") + len("embervlm.format") + 4
    path.write_bytes(rehashed(sound[:at] + b"\x01" + sound[at + 1 :]))
    with pytest.raises(ValueError, match="has format 1, this engine reads 2"):
        Engine(path)


HEADS = (
    "subset_features", "primary", "environment", "actions", "flags", "team", "roles",
)  # fmt: skip


@pytest.mark.parametrize("part", [*(f"heads.{name}" for name in HEADS), "ngrams"])
@pytest.mark.parametrize("outputs", [3, 60])
def test_outputs_of_another_number_are_refused(
    tiny_model: Path, tmp_path: Path, part: str, outputs: int
) -> None:
    checkpoint = load_checkpoint(tiny_model)
    weights, path = dict(checkpoint.weights), tmp_path / "other.gguf"
    rows, bias = (f"{part}.weight", f"{part}.bias")
    if part == "ngrams":
        table_GK = weights["ngrams.table.weight"]
        weights["ngrams.table.weight"] = np.resize(table_GK, (len(table_GK), outputs))
    else:
        weights[rows] = np.resize(weights[rows], (outputs, 32))
    weights[bias] = np.resize(weights[bias], outputs)
    gguf_export.write_gguf(replace(checkpoint, weights=weights), path, "f32")
    with pytest.raises(ValueError, match=rf"{part}.* has \d+ (outputs|values), expected \d+"):
        load_backend("native", path)
    with pytest.raises(ValueError, match=f"of its configuration .size mismatch for {part}"):
        load_backend("pytorch", path)


@pytest.mark.parametrize("rows", [None, "many", 0, 129, 10**12])
def test_a_number_of_ngrams_that_is_not_the_table_s_is_refused(
    tiny_model: Path, tmp_path: Path, rows: object
) -> None:
    checkpoint, path = load_checkpoint(tiny_model), tmp_path / "other.gguf"
    config = {**checkpoint.config, "ngram_rows": rows}
    if rows is None:
        del config["ngram_rows"]
    gguf_export.write_gguf(replace(checkpoint, config=config), path, "f32")
    with pytest.raises(ValueError, match="whole number for ngram_rows|n-gram row 128; there are"):
        load_backend("native", path)


def rehashed(content: bytes) -> bytes:
    """Return the file with the digest that fits it, as an attacker would write it."""
    at = content.index(b"embervlm.sha256") + len("embervlm.sha256") + 4 + 8
    zeroed = content[:at] + b"0" * 64 + content[at + 64 :]
    return zeroed[:at] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[at + 64 :]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("flags", [[], ["-DSHA256_PORTABLE"]])
def test_digests_are_right_by_instruction_and_without(tmp_path: Path, flags: list[str]) -> None:
    root = Path(__file__).parents[1]
    folder, program = root / "embervlm" / "engine", tmp_path / "digest"
    sources = [str(folder / "sha256.c"), str(root / "tests" / "engine" / "digest.c")]
    subprocess.run(
        ["cc", "-std=c11", *flags, f"-I{folder}", *sources, "-o", str(program)], check=True
    )
    chance = random.Random(0)
    for length in [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1000, 5000]:
        content = chance.randbytes(length)
        said = subprocess.run([str(program)], input=content, capture_output=True, check=True)
        assert said.stdout.decode().strip() == hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_every_kernel_set_forms_plain_sums(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    folder, program = root / "embervlm" / "engine", tmp_path / "products"
    sources = [*map(str, folder.glob("kernels*.c")), str(root / "tests" / "engine" / "products.c")]
    flags = ["-std=c11", "-O2", "-ffp-contract=off", f"-I{folder}"]
    subprocess.run(["cc", *flags, *sources, "-o", str(program), "-lm"], check=True)
    said = subprocess.run([str(program)], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    assert said.stdout.split() == kernel_sets()


def test_one_flipped_bit_anywhere_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    sound = files["q8_0"].read_bytes()
    assert rehashed(sound) == sound
    path = tmp_path / "flipped.gguf"
    chance = random.Random(0)
    for at in [0, 4, 30, 200, len(sound) - 1, *chance.sample(range(len(sound)), 40)]:
        flipped = bytearray(sound)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"flipped\.gguf: "):
            Engine(path)


def test_damage_with_a_fitting_digest_never_crashes(files: dict[str, Path], tmp_path: Path) -> None:
    sound = files["q4_0"].read_bytes()
    head = sound.index(b"embervlm.specials")
    chance = random.Random(1)
    path = tmp_path / "forged.gguf"
    tensors = sound.index(b"decoder.copy_query.bias")
    for _ in range(300):
        forged = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            begin, end = chance.choice([(24, head), (tensors, tensors + 6000)])
            forged[chance.randrange(begin, end)] = chance.choice([0, 1, 127, 128, 255])
        if chance.random() < 0.2:
            forged = forged[: chance.randrange(24, len(forged))]
        try:
            path.write_bytes(rehashed(bytes(forged)))
        except ValueError:
            continue
        try:
            model = NativeBackend(Engine(path))
            model.propose("look at the roof", None)
        except (ValueError, KeyError):
            pass


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    for name, content in [
        ("empty", b""),
        ("text", b"hello " * 20),
        ("old", b"GGUF\x01" + b"\0" * 40),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            Engine(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be opened"):
        Engine(tmp_path / "absent")
    with pytest.raises(ValueError, match="cannot be opened"):
        Engine(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="cannot be opened"):
        Engine(tmp_path / "pipe")


def test_a_path_of_any_bytes_opens_and_one_with_a_zero_byte_does_not(
    files: dict[str, Path], tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"model-\xff.gguf")
    shutil.copyfile(files["q4_0"], odd)
    Engine(odd)
    for path in (f"{files['q4_0']}\0.txt", "\ud800.gguf"):
        with pytest.raises(ValueError, match="cannot be the name of a file"):
            Engine(path)


def test_a_long_path_leaves_room_for_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d" * 100] * 8)
    folder.mkdir(parents=True)
    (folder / "text").write_bytes(b"hello " * 20)
    with pytest.raises(ValueError, match="d: is not a GGUF file"):
        Engine(folder / "text")


def test_unknown_kernels_are_named(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="no kernels named riscv here; there are: .*portable"):
        Engine(files["f32"], kernels="riscv")


def test_bad_input_is_refused_and_the_model_goes_on(
    files: dict[str, Path], pixels: np.ndarray
) -> None:
    model = Engine(files["f32"])
    for tokens in ([], [-1], [10**6], [1] * 400):
        with pytest.raises(ValueError, match="token"):
            model.read(np.array(tokens, dtype=np.int64), None)
    with pytest.raises(ValueError, match="n-gram row"):
        model.ngrams([1 << 20], 42)
    with pytest.raises(ValueError, match="ngrams.bias has 42 values, expected 35"):
        model.ngrams([0], 35)
    with pytest.raises(ValueError, match="ember_begin comes first"):
        model.step(1)
    with pytest.raises(ValueError, match="no layer"):
        model.linear("heads.absent", np.zeros((1, 32), np.float32))
    NativeBackend(model).propose("look", pixels)


def test_without_a_compiled_engine_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine.library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"C compiler.*--backend onnx"):
        load_backend("native", "any.gguf")
    engine.library.cache_clear()


def test_a_clone_that_hides_the_installed_package_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) not in engine._not_compiled(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    told = engine._not_compiled(tmp_path)
    assert f"not compiled in {tmp_path}" in told and "'pip install -e .' there" in told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_while_another_thread_decides_is_answered(tiny_model: Path) -> None:
    backend = NativeBackend.load(tiny_model)
    with backend._lock:  # as it is while another thread decides
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            backend.propose("look", None)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
