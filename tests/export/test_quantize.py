"""A quantised file takes the bytes that its blocks ask for, and fewer bits make a smaller one."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embervlm import cli
from embervlm.checkpoint import SHIPPED

gguf = pytest.importorskip("gguf")
from embervlm.export.gguf import export, write_gguf  # noqa: E402
from embervlm.export.quantize import measure, quantize  # noqa: E402


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["export", "quantize", *map(str, words)])


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """Return a random model with rows of 256, which all types can hold."""
    torch = pytest.importorskip("torch")
    from embervlm.checkpoint import Checkpoint
    from embervlm.models.configuration import EmberConfig
    from embervlm.models.modeling import EmberNetwork
    from embervlm.tokenizer import Tokenizer

    torch.manual_seed(0)
    config = EmberConfig(
        vocabulary_size=len(Tokenizer.from_file(tokenizer_file)), text_layers=4, text_width=256,
        text_heads=4, text_hidden=512, decoder_layers=1, decoder_width=256, decoder_heads=4,
        decoder_hidden=512, image_size=32, ngram_rows=128,
    )  # fmt: skip
    weights = {name: t.numpy() for name, t in EmberNetwork(config).state_dict().items()}
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    checkpoint = Checkpoint(config.to_dict(), {}, Tokenizer.from_file(tokenizer_file), weights)
    write_gguf(checkpoint, path, "f32")
    return path


def test_fewer_bits_make_a_smaller_file(wide_model: Path, tmp_path: Path) -> None:
    export(wide_model, tmp_path / "f32.gguf", "f32")
    whole = measure(tmp_path / "f32.gguf")
    pairs = [quantize(wide_model, tmp_path / f"{b}.gguf", b) for b in ("8", "4", "1.58")]
    assert all(before == whole for before, _ in pairs)
    sizes = [size for _, size in pairs]
    files = [size.file_bytes for size in (whole, *sizes)]
    assert files == sorted(set(files), reverse=True)
    assert whole.packed_bytes == 4 * whole.weights + whole.types["I16"]  # the tokenizer
    for size in sizes:
        assert size.weights == whole.weights


@pytest.mark.parametrize(("bits", "kind"), [("8", "Q8_0"), ("4", "Q4_0"), ("1.58", "TQ2_0")])
def test_the_size_is_what_the_public_package_computes(
    wide_model: Path, tmp_path: Path, bits: str, kind: str
) -> None:
    _, sizes = quantize(wide_model, tmp_path / "m.gguf", bits)
    tensors = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    expected: dict[str, int] = {}
    held: dict[str, int] = {}
    for tensor in tensors:
        count, size = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
        name = tensor.tensor_type.name
        expected[name] = expected.get(name, 0) + int(tensor.n_elements) // count * size
        if not tensor.name.endswith(".scale") and tensor.name != "tokenizer.merges":
            held[name] = held.get(name, 0) + int(tensor.n_elements)
    assert sizes.types == expected and kind in sizes.types
    assert sizes.held == held and sizes.share(kind) == held[kind] / sum(held.values())
    parts = sizes.header_bytes + sum(expected.values()) + sizes.gap_bytes
    assert parts == sizes.file_bytes == (tmp_path / "m.gguf").stat().st_size
    assert sizes.gap_bytes <= 32 * len(tensors)


def test_a_file_that_holds_more_than_its_blocks_fails(wide_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    quantize(wide_model, path, "4")
    path.write_bytes(path.read_bytes() + bytes(100_000))
    with pytest.raises(ValueError, match="more than alignment"):
        measure(path)


def test_ternary_says_that_the_network_was_not_trained_for_it(
    wide_model: Path, tmp_path: Path
) -> None:
    result = run("--bits", "1.58", "--out", tmp_path / "m.gguf", "--model", wide_model)
    assert result.exit_code == 0, result.stderr
    assert "not trained for ternary" in result.stdout and "embervlm eval" in result.stdout
    result = run("--bits", "4", "--out", tmp_path / "m.gguf", "--model", wide_model)
    assert "for ternary weights" not in result.stdout and "Q4_0 blocks" in result.stdout


def test_a_model_that_cannot_be_quantised_leaves_the_file_alone(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").write_text("older")
    result = run("--bits", "1.58", "--out", tmp_path / "m.gguf", "--model", tiny_model)
    assert result.exit_code == 2
    assert "0.0 % of this model's weights would be ternary" in result.stderr
    assert "blocks of 256" in result.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


def test_unknown_bits_are_one_sentence(tmp_path: Path) -> None:
    for bits in ("3", "four", "16", ""):
        result = run("--bits", bits, "--out", tmp_path / "m.gguf")
        assert result.exit_code == 2
        assert "choose 8, 4, 1.58" in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_says_what_the_source_holds_and_if_fewer_bits_than_are_asked_for(
    wide_model: Path, tmp_path: Path
) -> None:
    small = tmp_path / "4.gguf"
    result = run("--bits", "4", "--out", small, "--model", wide_model)
    before = result.stdout.splitlines()[0]
    assert f"{wide_model.stat().st_size:,} bytes" in before and "100.0 % of them F32" in before
    assert "give nothing back" not in result.stdout
    result = run("--bits", "8", "--out", tmp_path / "8.gguf", "--model", small)
    before = result.stdout.splitlines()[0]
    assert f"{small.stat().st_size:,} bytes" in before and "% of them Q4_0" in before
    assert "% of the weights are Q8_0 now." in result.stdout
    assert "come from 4 bits: 8 give nothing back" in result.stdout


@pytest.mark.skipif(not SHIPPED.is_file(), reason="no weights ship with this tree")
def test_the_model_that_ships_is_not_made_ternary(tmp_path: Path) -> None:
    result = run("--bits", "1.58", "--out", tmp_path / "m.gguf")
    assert result.exit_code == 2
    assert "1.2 % of this model's weights would be ternary" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
