"""What was trained ternary stays so in the file, at 2.06 bits a weight, whatever is exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
from embervlm.checkpoint import Checkpoint, load_checkpoint  # noqa: E402
from embervlm.export.gguf import checkpoint_of, export, main, write_gguf  # noqa: E402
from embervlm.export.package import package  # noqa: E402
from embervlm.export.quantize import measure, quantize  # noqa: E402
from embervlm.models.bitnet import ternary, ternary_layers  # noqa: E402
from embervlm.models.configuration import BitMarConfig, EmberConfig, config_of  # noqa: E402
from embervlm.models.modeling import EmberNetwork, save_network  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402

TERNARY = gguf.GGMLQuantizationType.TQ2_0


@pytest.fixture(scope="module")
def file(bitmar_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ternary") / "bitmar.gguf"
    write_gguf(bitmar_checkpoint, path, "q4_0")
    return path


def test_ternary_weights_take_at_most_2_1_bits(file: Path, bitmar_checkpoint: Checkpoint) -> None:
    tensors = {t.name: t for t in gguf.GGUFReader(file).tensors}
    packed = {name for name, tensor in tensors.items() if tensor.tensor_type == TERNARY}
    assert packed == bitmar_checkpoint.ternary
    weights = sum(bitmar_checkpoint.weights[name].size for name in packed)
    assert 8 * sum(int(tensors[name].n_bytes) for name in packed) / weights <= 2.1


@pytest.mark.parametrize("kind", ["f32", "q8_0", "q4_0", "tq2_0"])
def test_exporting_again_gives_the_same_bytes_and_ternary_values(
    bitmar_checkpoint: Checkpoint, tmp_path: Path, kind: str
) -> None:
    first, floats, again = (tmp_path / f"{name}.gguf" for name in ("first", "floats", "again"))
    write_gguf(bitmar_checkpoint, first, kind)
    export(first, again, kind)
    assert again.read_bytes() == first.read_bytes()
    export(first, floats, "f32")
    export(floats, again, kind)
    assert again.read_bytes() == first.read_bytes()
    loaded = load_checkpoint(again)
    assert loaded.ternary == bitmar_checkpoint.ternary
    for name, value in bitmar_checkpoint.weights.items():
        assert loaded.weights[name].shape == value.shape, name
        if name in {*loaded.ternary, "memory.slots", "memory.written_at", "memory.clock"}:
            np.testing.assert_array_equal(loaded.weights[name], value, err_msg=name)


def test_the_file_says_its_family_and_how_it_was_trained(
    file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    fields = gguf.GGUFReader(file).fields
    assert fields["embervlm.format"].contents() == 3
    assert fields["embervlm.trained_ternary"].contents() is True
    assert isinstance(config_of(load_checkpoint(file).config), BitMarConfig)
    plain = gguf.GGUFReader(tiny_model).fields
    assert plain["embervlm.format"].contents() == 4  # it has a table of looks
    assert not {"embervlm.trained_ternary", "embervlm.shapes"} & set(plain)
    assert type(config_of(load_checkpoint(tiny_model).config)) is EmberConfig


@pytest.mark.parametrize("bits", ["8", "4", "1.58"])
def test_any_bits_leave_the_ternary_part_as_it_is(
    bitmar_checkpoint: Checkpoint, file: Path, tmp_path: Path, bits: str
) -> None:
    _, sizes = quantize(file, tmp_path / "m.gguf", bits)
    assert sizes.trained_ternary
    assert sizes.types["TQ2_0"] == measure(file).types["TQ2_0"]
    assert load_checkpoint(tmp_path / "m.gguf").ternary == bitmar_checkpoint.ternary


def test_the_command_writes_the_ternary_values_of_what_was_trained(
    bitmar_checkpoint: Checkpoint,
    tokenizer_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(bitmar_checkpoint.config)
    assert isinstance(config, EmberConfig)
    network = EmberNetwork(config)
    expected = {f"{n}.weight": ternary(x.weight) for n, x in ternary_layers(network).items()}
    save_network(network, tmp_path / "network.safetensors")
    words = ["--network", tmp_path / "network.safetensors", "--tokenizer", tokenizer_file]
    words += ["--type", "q4_0", "--out", tmp_path / "m.gguf"]
    monkeypatch.setattr("sys.argv", ["gguf", *map(str, words)])
    main()
    loaded = load_checkpoint(tmp_path / "m.gguf")
    assert loaded.ternary == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(loaded.weights[name], value.detach().numpy())


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--network", "none.safetensors"),
        ("--network", "words.json"),
        ("--tokenizer", "none.json"),
        ("--out", "nowhere/m.gguf"),
    ],
)
def test_the_command_says_in_a_sentence_what_is_missing(
    flag: str,
    name: str,
    bitmar_checkpoint: Checkpoint,
    tokenizer_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(bitmar_checkpoint.config)
    assert isinstance(config, EmberConfig)
    save_network(EmberNetwork(config), tmp_path / "network.safetensors")
    (tmp_path / "words.json").write_text("{}", "utf-8")
    words = {"--network": tmp_path / "network.safetensors", "--tokenizer": tokenizer_file,
             "--type": "q4_0", "--out": tmp_path / "m.gguf", flag: tmp_path / name}  # fmt: skip
    monkeypatch.setattr("sys.argv", ["gguf", *(str(x) for pair in words.items() for x in pair)])
    with pytest.raises(SystemExit) as error:
        main()
    told = capsys.readouterr().err
    assert error.value.code == 2
    assert told.startswith("embervlm: ") and told.count("\n") == 1
    assert Path(name).parts[0] in told


def test_what_is_not_ternary_is_not_written_as_if(
    bitmar_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    weights = dict(bitmar_checkpoint.weights)
    weights["memory.up.weight"] = weights["memory.up.weight"] + np.float32(0.01)
    with pytest.raises(ValueError, match="memory.up.weight is said to be ternary, but is not"):
        write_gguf(replace(bitmar_checkpoint, weights=weights), tmp_path / "m.gguf", "q4_0")
    assert not (tmp_path / "m.gguf").exists()


def test_another_vision_than_the_engine_s_is_refused(
    bitmar_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    config = {**bitmar_checkpoint.config, "vision": "dinov2-small"}
    with pytest.raises(ValueError, match="sees with mobilenet-v2, not with dinov2-small"):
        write_gguf(replace(bitmar_checkpoint, config=config), tmp_path / "m.gguf", "q4_0")


def test_full_linear_layers_of_bitmar_are_of_the_wanted_type(
    bitmar_checkpoint: Checkpoint, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = config_of({**bitmar_checkpoint.config, "linear": "full"})
    assert isinstance(config, EmberConfig)
    checkpoint = checkpoint_of(EmberNetwork(config), tokenizer, {})
    assert not checkpoint.ternary
    write_gguf(checkpoint, tmp_path / "m.gguf", "q4_0", smallest=256)
    tensors = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    types = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    assert types["fusion.layers.0.text_reads.query.weight"] == "Q4_0"
    assert "TQ2_0" not in types.values()


def test_a_folder_for_a_board_takes_it(file: Path, tmp_path: Path) -> None:
    assert package(tmp_path / "pi", model=file) > file.stat().st_size
    assert (tmp_path / "pi/embervlm/backends/thoughts.py").is_file()
    assert (tmp_path / "pi/embervlm/engine/fusion.c").is_file()
