"""A model folder comes back as it was saved, and a damaged one does not load."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embervlm.checkpoint import load_checkpoint, quantise, save_checkpoint


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    shapes = {
        "text.embed.weight": (300, 32),
        "vision.stem.weight": (64, 16, 3, 3),
        "heads.primary.bias": (6,),
        "decoder.narrow.weight": (8, 8),
    }
    return {
        name: (chance.normal(size=shape) * 10 ** chance.uniform(-3, 3)).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, np.ndarray], tokenizer_file: Path) -> Path:
    save_checkpoint(
        tmp_path / "model",
        weights,
        config={"text_width": 32},
        calibration={"temperature": 1.5},
        tokenizer_file=tokenizer_file,
    )
    return tmp_path / "model"


def test_comes_back_within_half_a_step_of_int8(
    folder: Path, weights: dict[str, np.ndarray]
) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.config == {"text_width": 32}
    assert loaded.calibration == {"temperature": 1.5}
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("look")) == "look"
    assert set(loaded.weights) == set(weights)
    for name, tensor in weights.items():
        back = loaded.weights[name]
        assert back.dtype == np.float32 and back.shape == tensor.shape
        if tensor.size >= 4096:
            step = np.abs(tensor.reshape(len(tensor), -1)).max(1) / 127
            error = np.abs(back - tensor).reshape(len(tensor), -1).max(1)
            assert (error <= step * 0.5001).all()
            assert error.max() > 0
        else:
            np.testing.assert_allclose(back, tensor, rtol=1e-3)


def test_a_row_of_zeros_stays_zero() -> None:
    stored = quantise("text.embed.weight", np.zeros((64, 64), np.float32))
    assert stored["text.embed.weight"].dtype == np.int8
    assert not stored["text.embed.weight"].any()
    assert np.isfinite(stored["text.embed.weight.scale"]).all()


def test_saving_twice_writes_the_same_bytes_and_leaves_nothing_behind(
    folder: Path, tmp_path: Path, weights: dict[str, np.ndarray], tokenizer_file: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_checkpoint(
        folder,
        weights,
        config={"text_width": 32},
        calibration={"temperature": 1.5},
        tokenizer_file=tokenizer_file,
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(before) == {
        "config.json", "tokenizer.json", "calibration.json", "SHA256SUMS",
        "vision.safetensors", "reader.safetensors", "ngrams.safetensors", "decoder.safetensors",
    }  # fmt: skip


def test_one_flipped_bit_anywhere_is_refused(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        sound = path.read_bytes()
        for at in (0, len(sound) // 2, len(sound) - 2):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            with pytest.raises(ValueError, match="damaged|cannot be read"):
                load_checkpoint(folder)
        path.write_bytes(sound)
    load_checkpoint(folder)


def test_a_missing_file_or_folder_is_named(folder: Path, tmp_path: Path) -> None:
    for path in sorted(folder.iterdir()):
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(ValueError, match=path.name):
            load_checkpoint(folder)
        path.write_bytes(kept)
    with pytest.raises(ValueError, match="holds no model"):
        load_checkpoint(tmp_path / "absent")


def test_another_format_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.dumps({"format": 2}).encode()
    (other / "config.json").write_bytes(config)
    sums = [
        f"{hashlib.sha256(config).hexdigest()}  config.json" if "config.json" in line else line
        for line in (other / "SHA256SUMS").read_text("utf-8").splitlines()
    ]
    (other / "SHA256SUMS").write_text("\n".join(sums), "utf-8")
    with pytest.raises(ValueError, match="another format"):
        load_checkpoint(other)
