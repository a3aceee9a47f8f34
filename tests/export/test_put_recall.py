"""A table of looks goes into a file alone, is replaced by another, and every backend reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embervlm.backends import load_backend
from embervlm.checkpoint import Checkpoint, load_checkpoint
from embervlm.data.photos import TABLE, load_photos

pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")
pytest.importorskip("sklearn")

# Each of these imports gguf.
from embervlm.export.gguf import write_gguf  # noqa: E402
from embervlm.export.parts import replace_part  # noqa: E402
from embervlm.export.photo_recall import PART, main, put_recall  # noqa: E402

COUNT = 24


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with noise for some photos of the table, which holds these alone."""
    photos = [photo for photo in load_photos(TABLE) if photo.split == "train"][:COUNT]
    held_out = next(photo for photo in load_photos(TABLE) if photo.split == "test")
    monkeypatch.setattr("embervlm.export.photo_recall.load_photos", lambda _: [held_out, *photos])
    random = np.random.default_rng(0)
    for photo in photos:  # the one that is held out has no file, and is not asked for
        path = tmp_path / "photos" / photo.file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return tmp_path


@pytest.fixture
def bare(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model without its table."""
    path = tmp_path / "bare.gguf"
    replace_part(tiny_model, path, {}, config={"recall_width": 0, "recall_rows": 0}, drop=PART)
    return path


def test_it_goes_into_the_file_alone(bare: Path, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    put_recall(bare, shared, out, width=16, rows=12)
    before, after = load_checkpoint(bare), load_checkpoint(out)
    assert after.config == {**before.config, "recall_width": 16, "recall_rows": 12}
    assert after.weights[f"{PART}rows.weight"].shape == (12, 16)
    for name, weight in before.weights.items():
        np.testing.assert_array_equal(after.weights[name], weight, err_msg=name)
    assert len(after.weights) == len(before.weights) + 5
    formats = [gguf.GGUFReader(p).fields["embervlm.format"].contents() for p in (bare, out)]
    assert formats == [2, 4]


def test_a_table_is_made_of_what_the_eye_sees_without_one(
    bare: Path, shared: Path, tmp_path: Path
) -> None:
    once, again = tmp_path / "once.gguf", tmp_path / "again.gguf"
    put_recall(bare, shared, once, width=16, rows=12)
    put_recall(once, shared, again, width=16, rows=12)
    assert again.read_bytes() == once.read_bytes()
    with pytest.raises(ValueError, match="cannot be read"):
        put_recall(once, tmp_path / "none", once, width=16, rows=12)
    assert again.read_bytes() == once.read_bytes()


@pytest.mark.parametrize("backend", ["native", "pytorch", "onnx"])
def test_every_backend_reads_it_as_the_reference_does(
    backend: str, bare: Path, shared: Path, tmp_path: Path
) -> None:
    if backend == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    out = tmp_path / "out.gguf"
    put_recall(bare, shared, out, width=16, rows=12)
    pixels_CHW = np.random.default_rng(1).uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    scenes = [
        load_backend(name, path).propose("look at it", pixels_CHW).scene
        for name, path in ((backend, out), ("reference", out), ("reference", bare))
    ]
    np.testing.assert_allclose(scenes[0], scenes[1], rtol=1e-3, atol=1e-3)
    assert not np.allclose(scenes[1], scenes[2], atol=1e-2)


@pytest.mark.parametrize("backend", ["native", "pytorch", "onnx", "reference"])
def test_a_look_of_nothing_is_told_by_all_looks(
    backend: str, tiny_model: Path, tmp_path: Path
) -> None:
    if backend == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    sound = load_checkpoint(tiny_model)
    nothing = {n: w * 0 if n.startswith(f"{PART}key.") else w for n, w in sound.weights.items()}
    path = tmp_path / "nothing.gguf"
    write_gguf(Checkpoint(sound.config, sound.calibration, sound.tokenizer, nothing), path, "f32")
    pixels_CHW = np.random.default_rng(1).uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    scene = load_backend(backend, path).propose("look at it", pixels_CHW).scene
    # A strength of 0 leaves the bias alone.
    features_C = sound.weights[f"{PART}value.bias"]
    wanted = sound.weights["image.scene.weight"] @ features_C + sound.weights["image.scene.bias"]
    np.testing.assert_allclose(scene, wanted, rtol=1e-3, atol=1e-3)


def test_photos_that_are_not_there_are_one_sentence(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", bare, "--shared", tmp_path / "none", "--out", tmp_path / "out.gguf"]
    monkeypatch.setattr("sys.argv", ["photo_recall", *map(str, words)])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err
    assert not (tmp_path / "out.gguf").exists()


def test_a_table_of_another_form_is_refused(
    bare: Path, shared: Path, tmp_path: Path, tiny_model: Path
) -> None:
    sound = load_checkpoint(tiny_model)
    wrong = {**sound.weights, f"{PART}value.bias": np.zeros(7, np.float32)}
    path = tmp_path / "wrong.gguf"
    write_gguf(Checkpoint(sound.config, sound.calibration, sound.tokenizer, wrong), path, "f32")
    with pytest.raises(ValueError, match=r"recall\.value\.bias"):
        load_backend("native", path)
    lacking = {n: w for n, w in sound.weights.items() if n != f"{PART}key.weight"}
    write_gguf(Checkpoint(sound.config, sound.calibration, sound.tokenizer, lacking), path, "f32")
    with pytest.raises(ValueError, match=r"recall\.key\.weight"):
        load_backend("native", path)
