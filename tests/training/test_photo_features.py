"""What a model's own eye sees is written in the form of a vision run, other views beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from embervlm.backends.native import NativeBackend  # noqa: E402
from embervlm.checkpoint import SHIPPED  # noqa: E402
from embervlm.data.photos import TABLE, load_photos  # noqa: E402
from embervlm.imaging import preprocess  # noqa: E402
from embervlm.training.decisions import Photos  # noqa: E402
from embervlm.training.photo_features import FEATURES, write  # noqa: E402
from embervlm.training.vision import STORED_SIZE  # noqa: E402


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder with packed noise for every photo of the table, and a manifest without captions."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "manifest.jsonl").write_text(
        json.dumps({"file": "none.jpg", "captions": []}) + "\n", "utf-8"
    )
    return tmp_path


@pytest.fixture
def chosen(shared: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two training photos and one of validation; the table holds only these."""
    photos = [photo for photo in load_photos(TABLE) if photo.environment]
    some = [
        *[photo for photo in photos if photo.split == "train"][:2],
        next(photo for photo in photos if photo.split == "validation"),
    ]
    for module in ("photo_features", "decisions"):
        monkeypatch.setattr(f"embervlm.training.{module}.load_photos", lambda _: some)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, STORED_SIZE, STORED_SIZE, 3), dtype=np.uint8)
    files = [photo.file for photo in some]
    np.savez(shared / f"photos-{STORED_SIZE}.npz", files=np.array(files), pixels=pixels)
    return files


def test_features_are_those_of_the_engine(shared: Path, chosen: list[str]) -> None:
    path = write(SHIPPED, shared, shared, shared / "eye", views=0, seed=0)
    assert path == shared / "eye" / FEATURES
    backend = NativeBackend.load()
    with np.load(shared / f"photos-{STORED_SIZE}.npz") as packed, np.load(path) as found:
        assert found["files"].tolist() == chosen
        assert len(found["view_of"]) == 0
        for row, square in enumerate(packed["pixels"]):
            features, logits = backend.engine.see(preprocess(square, backend.image_size))
            np.testing.assert_allclose(found["features"][row], features[0], rtol=1e-2, atol=1e-2)
            np.testing.assert_array_equal(found["environment_logits"][row], logits)


def test_only_training_photos_come_in_other_views(shared: Path, chosen: list[str]) -> None:
    path = write(SHIPPED, shared, shared, shared / "eye", views=2, seed=0)
    photos = Photos.load(path.parent, shared)
    assert len(photos.features_PC) == len(photos.scenes_PE) == 3 + 2 * 2
    rows = {split: [] for split in ("train", "validation")}
    for (_, split), found in photos.by_environment.items():
        rows[split] += found
    assert sorted(rows["train"]) == [0, 1, 3, 4, 5, 6]
    assert rows["validation"] == [2]
    # Another view is another sight of the same photo.
    assert not torch.equal(photos.features_PC[3], photos.features_PC[0])
    again = write(SHIPPED, shared, shared, shared / "again", views=2, seed=0)
    np.testing.assert_array_equal(np.load(again)["view_logits"], np.load(path)["view_logits"])
