"""MobileNetV2 and the reader of its public weights."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from embervlm.imaging import load_image, preprocess

torch = pytest.importorskip("torch")
vision = pytest.importorskip("embervlm.models.vision")

ROOT = Path(__file__).parents[2]
SHARED = ROOT / os.environ.get("EMBERVLM_SHARED", "../shared")
TEACHER = SHARED / "teachers" / "mobilenet_v2_1.0_224_quant.tflite"
needs_teacher = pytest.mark.skipif(
    not TEACHER.exists() or not (SHARED / "photos").exists(),
    reason="the teacher lies beside the repository only where it is developed",
)


@pytest.mark.parametrize(("last_channels", "parameters"), [(0, 1_795_936), (1280, 2_206_816)])
def test_has_the_size_of_the_paper(last_channels: int, parameters: int) -> None:
    model = vision.MobileNetV2(last_channels)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    features = model(torch.zeros(2, 3, 64, 64))
    assert features.shape == (2, model.channels)
    assert model.channels == (last_channels or 320)


def test_a_photo_means_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    model = vision.MobileNetV2().eval()
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        together = model(pixels)
        alone = torch.cat([model(photo[None]) for photo in pixels])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_follows_tensorflow(size: int, stride: int) -> None:
    padded = vision.pad_same(torch.ones(1, 1, size, size), stride)
    after = (padded.shape[2] - 3) // stride + 1
    assert after == -(-size // stride)
    is_padding = (padded[0, 0].sum(1) == 0).tolist()
    above, below = is_padding.index(False), is_padding[::-1].index(False)
    assert above + below == padded.shape[2] - size
    assert 0 <= below - above <= 1


@pytest.mark.parametrize("data", [b"", b"GGUF" * 20, b"\x18\0\0\0TFL3", b"\xff" * 4 + b"TFL3" * 40])
def test_refuses_other_and_damaged_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="TensorFlow Lite"):
        vision.load_tflite(path)


def table(fields: list[bytes]) -> bytes:
    """Return a FlatBuffer whose root is one table of four-byte fields; b"" is an absent one."""
    body, offsets = b"", []
    for field in fields:
        offsets.append(4 + len(body) if field else 0)
        body += field
    vtable = struct.pack(f"<HH{len(fields)}H", 4 + 2 * len(fields), 4 + len(body), *offsets)
    start = 4 + len(vtable)
    return struct.pack("<I", start) + vtable + struct.pack("<i", len(vtable)) + body


def test_reads_the_fields_of_a_flatbuffer() -> None:
    data = table([struct.pack("<i", -7), b"", struct.pack("<f", 0.5)])
    root = vision._Table(data, struct.unpack_from("<I", data)[0])
    assert root.number(0, "<i") == -7
    assert root.number(1, "<i") == 0
    assert root.number(9, "<i") == 0
    assert root.tables(1) == []
    assert root.array(1, np.float32).size == 0
    with pytest.raises(IndexError, match="field 1 is absent"):
        root.table(1)


@needs_teacher
def test_reads_the_public_weights_into_the_network() -> None:
    weights = vision.load_tflite(TEACHER)
    assert len(weights) == 2 * 53
    assert weights["stem.weight"].shape == (32, 3, 3, 3)
    assert weights["blocks.1.depthwise.weight"].shape == (96, 1, 3, 3)
    assert weights["classifier.weight"].shape == (1001, 1280)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    for last_channels in (0, 1280):
        vision.MobileNetV2.from_tflite(TEACHER, last_channels)
    with pytest.raises(ValueError, match="other shapes"):
        vision.MobileNetV2.from_tflite(TEACHER, last_channels=64)


@needs_teacher
@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("mountain", {"alp", "valley", "cliff", "volcano", "lakeside"}),
        ("home_bedroom", {"studio couch", "four-poster", "quilt", "sliding door", "window shade"}),
        ("home_kitchen", {"microwave", "stove", "plate rack", "dishwasher", "refrigerator"}),
        ("industrial_forklift", {"forklift"}),
        ("indoor_commercial", {"washer"}),
    ],
)
def test_the_public_network_knows_what_it_sees(place: str, expected: set[str]) -> None:
    weights = vision.load_tflite(TEACHER)
    model = vision.MobileNetV2.from_tflite(TEACHER, last_channels=1280).eval()
    lines = (TEACHER.parent / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
    labels = [line.split(maxsplit=1)[1].split(",")[0] for line in lines]
    files = sorted((SHARED / "photos" / place).glob("*.jpg"))[:20]
    pixels = torch.from_numpy(np.stack([preprocess(load_image(file), 224) for file in files]))
    with torch.inference_mode():
        logits = model(pixels) @ weights["classifier.weight"].T + weights["classifier.bias"]
    top = logits.topk(5).indices.tolist()
    hits = [bool(expected & {labels[index] for index in row}) for row in top]
    assert np.mean(hits) >= 0.6
