"""A model file comes back as it was written, and a damaged one does not load."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf")

from embervlm.checkpoint import (
    CALIBRATION_BYTES,
    Checkpoint,
    calibration_of,
    checked_bytes,
    digest_of,
    load_checkpoint,
    object_of,
    read_calibration,
    update_calibration,
)
from embervlm.export.gguf import write_gguf
from embervlm.tokenizer import Tokenizer


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    shapes = {
        "text.embed.weight": (300, 64),
        "text.positions.weight": (16, 64),
        "vision.stem.weight": (64, 16, 3, 3),
        "vision.blocks.0.depthwise.weight": (24, 1, 3, 3),
        "ngrams.table.weight": (128, 42),
        "ngrams.importance": (128,),
        "heads.primary.weight": (6, 64),
        "heads.primary.bias": (6,),
        "decoder.narrow.weight": (8, 8),
    }
    return {
        name: (chance.normal(size=shape) * 10 ** chance.uniform(-3, 3)).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture
def checkpoint(weights: dict[str, np.ndarray], tokenizer: Tokenizer) -> Checkpoint:
    return Checkpoint({"image_size": 32}, {"temperature": 1.5}, tokenizer, weights)


@pytest.fixture
def file(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    write_gguf(checkpoint, tmp_path / "model.gguf", "q8_0", smallest=256)
    return tmp_path / "model.gguf"


def test_floats_come_back_to_the_bit(tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_gguf(checkpoint, tmp_path / "model.gguf", "f32")
    loaded = load_checkpoint(tmp_path / "model.gguf")
    assert loaded.config == {"image_size": 32}
    assert loaded.calibration == {"temperature": 1.5}
    assert loaded.tokenizer.specials == checkpoint.tokenizer.specials
    assert loaded.tokenizer.encode("the stairs") == checkpoint.tokenizer.encode("the stairs")
    assert set(loaded.weights) == set(checkpoint.weights)
    for name, tensor in checkpoint.weights.items():
        assert loaded.weights[name].dtype == np.float32
        assert np.array_equal(loaded.weights[name], tensor), name


@pytest.mark.parametrize(("kind", "most"), [("q8_0", 0.006), ("q4_0", 0.126)])
def test_quantised_values_come_back_within_a_step(
    tmp_path: Path, checkpoint: Checkpoint, kind: str, most: float
) -> None:
    write_gguf(checkpoint, tmp_path / "model.gguf", kind, smallest=256)
    loaded = load_checkpoint(tmp_path / "model.gguf").weights
    for name, tensor in checkpoint.weights.items():
        error = np.abs(loaded[name] - tensor).max()
        assert error <= most * np.abs(tensor).max(), name
    error = np.abs(loaded["text.embed.weight"] - checkpoint.weights["text.embed.weight"])
    assert error.max() > 0


def test_what_was_rounded_once_is_not_rounded_again(tmp_path: Path, checkpoint: Checkpoint) -> None:
    first, again = tmp_path / "first.gguf", tmp_path / "again.gguf"
    write_gguf(checkpoint, first, "q4_0", smallest=256)
    rounded = load_checkpoint(first)
    write_gguf(rounded, again, "q4_0", smallest=256)
    for name, tensor in load_checkpoint(again).weights.items():
        np.testing.assert_allclose(tensor, rounded.weights[name], rtol=2e-3, atol=1e-7)


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_behind(
    file: Path, checkpoint: Checkpoint
) -> None:
    before = file.read_bytes()
    write_gguf(checkpoint, file, "q8_0", smallest=256)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["model.gguf"]


def test_one_flipped_bit_anywhere_is_refused(file: Path) -> None:
    sound = file.read_bytes()
    chance = np.random.default_rng(1)
    for at in (0, 9, len(sound) - 1, *chance.integers(0, len(sound), 60).tolist()):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(ValueError, match="damaged|no model"):
            load_checkpoint(file)
    for cut in (1, 30, len(sound) // 2):
        file.write_bytes(sound[:-cut])
        with pytest.raises(ValueError, match="damaged|no model"):
            load_checkpoint(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(ValueError, match=f"{path.name}.*cannot be read"):
            load_checkpoint(path)


def test_the_calibration_is_replaced_and_nothing_else(file: Path) -> None:
    before = load_checkpoint(file)
    size = file.stat().st_size
    update_calibration(file, {"ask_below": 0.625, "temperature": 2.0})
    after = load_checkpoint(file)
    assert after.calibration == {"temperature": 2.0, "ask_below": 0.625}
    assert file.stat().st_size == size
    assert after.config == before.config
    for name, tensor in before.weights.items():
        assert np.array_equal(after.weights[name], tensor)
    content = checked_bytes(file)
    assert digest_of(content).encode() in content


def test_a_damaged_file_is_not_recalibrated(file: Path) -> None:
    damaged = file.read_bytes()[:-1] + b"\x55"
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        update_calibration(file, {"temperature": 2.0})
    assert file.read_bytes() == damaged


@pytest.mark.parametrize(
    ("name", "value"),
    [("certain_flag", 1.0), ("certain_flag", 0), ("temperature", 0), ("ask_below", float("nan"))],
)
def test_a_calibration_that_nothing_can_be_decided_with_is_not_written(
    file: Path, tmp_path: Path, name: str, value: float
) -> None:
    before = file.read_bytes()
    run = tmp_path / "network.safetensors"
    for model in (file, run):
        with pytest.raises(ValueError, match=f"{name}.*calibrate it again"):
            update_calibration(model, {name: value})
    assert file.read_bytes() == before
    (tmp_path / "calibration.json").write_text(json.dumps({name: value}))
    with pytest.raises(ValueError, match=f"{name}.*calibrate it again"):
        read_calibration(run)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"certain_flag": 1}', "the certain_flag is 1"),
        ('{"temperature": "2"}', "the calibration has no number for 'temperature'"),
        ('{"temperature": true}', "the calibration has no number for 'temperature'"),
        ('{"team_weight": 1' + 400 * "0" + "}", "the calibration has no number for 'team_weight'"),
        ('[["temperature", 2]]', "holds no calibration"),
        ("{", "holds no calibration"),
    ],
)
def test_a_calibration_beside_a_network_is_named_by_its_file(
    tmp_path: Path, text: str, fault: str
) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(ValueError, match=rf"calibration\.json:? {fault}"):
        read_calibration(tmp_path / "network.safetensors")


def test_the_calibration_has_room(file: Path) -> None:
    long = {f"number_{i}": 1 / 3 for i in range(25)}
    assert len(json.dumps(long)) < CALIBRATION_BYTES
    update_calibration(file, long)
    assert load_checkpoint(file).calibration == {"temperature": 1.5, **long}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe cannot be read .it is no file"):
        load_checkpoint(tmp_path / "pipe")


@pytest.mark.parametrize(
    "calibration", [{"temperature": "warm"}, {"temperature": True}, {"temperature": float("nan")}]
)
def test_a_calibration_without_numbers_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, calibration: dict[str, Any]
) -> None:
    write_gguf(replace(checkpoint, calibration=calibration), tmp_path / "model.gguf", "f32")
    with pytest.raises(ValueError, match="calibration has no number for 'temperature'"):
        load_checkpoint(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="temperature is 0;"):
        calibration_of('{"temperature": 0}')
    with pytest.raises(ValueError, match="certain_flag is 1, expected between 0 and 1;"):
        calibration_of('{"certain_flag": 1}')
    for number in ("NaN", "1e999", "1" + 400 * "0"):
        with pytest.raises(ValueError, match="calibration has no number for 'team_weight'"):
            calibration_of(f'{{"team_weight": {number}}}')


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_a_text_that_is_no_object_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"embervlm\.config is no JSON object"):
        object_of(text, "embervlm.config")
