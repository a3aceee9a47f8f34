"""A photo comes from a stranger: it is decoded safely, and always to the same numbers."""

import io
import os
import signal
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embervlm import imaging
from embervlm.imaging import MAX_FILE_BYTES, crop_square, encode_jpeg, load_image, preprocess


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that announces any size and holds no pixels."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(tag + body))
        return struct.pack(">I", len(body)) + tag + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_reads_a_path_its_name_its_bytes_and_an_open_image_alike(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encode(Image.fromarray(noise())))
    for source in (path, str(path), path.read_bytes(), Image.open(path)):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert np.array_equal(loaded, noise())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_reads_each_allowed_format_whatever_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.txt"
    path.write_bytes(encode(Image.new("RGB", (32, 20), (200, 100, 50)), kind))
    loaded = load_image(path)
    assert loaded.shape == (20, 32, 3)
    assert np.abs(loaded.astype(int) - [200, 100, 50]).max() < 6


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_refuses_other_formats_named_jpg(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(Image.new("RGB", (32, 32)), kind))
    with pytest.raises(ValueError, match="not a JPEG, PNG or WebP"):
        load_image(path)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"%PDF-1.7", b"<svg/>", b"RIFF\0\0\0\0WEBP"]
)
def test_refuses_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ValueError, match="the photo"):
        load_image(data)


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 30000), (30000, 1), (3, 100), (8193, 8), (5000, 5000), (60000, 60000), (2**31 - 1, 4)],
)
def test_refuses_bombs_from_the_header_alone(width: int, height: int) -> None:
    with pytest.raises(ValueError, match=r"px|pixels"):
        load_image(png_header(width, height))


def test_refuses_an_open_image_that_is_too_large() -> None:
    with pytest.raises(ValueError, match="5000 x 5000 px"):
        load_image(Image.open(io.BytesIO(png_header(5000, 5000))))


def test_accepts_the_largest_sides_that_it_promises() -> None:
    assert load_image(Image.new("L", (8192, 4))).shape == (4, 8192, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_refuses_truncated_files(kind: str, share: float) -> None:
    data = encode(Image.fromarray(noise(120, 160)), kind)
    with pytest.raises(ValueError, match=r"cut short|header|cannot"):
        load_image(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_survives_damaged_bytes_with_nothing_but_value_errors() -> None:
    random = np.random.default_rng(1)
    options = {"JPEG": {"exif": b"Exif\0\0II*\0\x08\0\0\0"}, "PNG": {}, "WEBP": {}}
    for kind, extra in options.items():
        clean = np.frombuffer(encode(Image.fromarray(noise()), kind, **extra), dtype=np.uint8)
        for _ in range(150):
            damaged = clean.copy()
            where = random.integers(0, min(400, len(clean)), 4)
            damaged[where] = random.integers(0, 256, 4)
            try:
                loaded = load_image(damaged.tobytes())
            except ValueError:
                continue
            assert loaded.ndim == 3


def test_refuses_files_that_are_too_long(tmp_path: Path) -> None:
    path = tmp_path / "long.jpg"
    path.write_bytes(b"\xff\xd8\xff" + bytes(MAX_FILE_BYTES))
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match="more than 20,000,000 bytes"):
            load_image(source)


def test_refuses_directories_missing_files_pipes_and_addresses(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a file"):
        load_image(tmp_path)
    with pytest.raises(ValueError, match="not a file"):
        load_image(tmp_path / "pipe")
    with pytest.raises(ValueError, match="No such file"):
        load_image(tmp_path / "absent.jpg")
    for address in ("http://example.org/a.jpg", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="never fetched"):
            load_image(address)
    for path in ("", "a\0b", "x" * 5000):
        with pytest.raises(ValueError):
            load_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_the_orientation_that_the_camera_noted(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners = Image.new("RGB", (64, 32), "black")
    corners.paste("red", (0, 0, 16, 16))
    loaded = load_image(encode(corners, "JPEG", quality=95, exif=exif.tobytes()))
    assert loaded.shape[:2] == ((64, 32) if orientation >= 5 else (32, 64))
    row, column = {
        1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0),
        5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0),
    }[orientation]  # fmt: skip
    assert loaded[row, column, 0] > 200
    assert (loaded[:, :, 0] > 128).mean() == pytest.approx(1 / 8, abs=0.03)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_leaves_the_photo_readable() -> None:
    data = encode(Image.fromarray(noise()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert load_image(data).shape == (40, 60, 3)


def test_lays_transparency_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30])
    assert load_image(encode(clear)).min() == 255
    assert load_image(encode(half))[0, 0].tolist() == [127, 127, 127]
    assert load_image(encode(palette, transparency=0)).min() == 255
    assert load_image(encode(Image.new("LA", (8, 8), (0, 0)))).min() == 255


def test_transparency_is_laid_on_white_as_alpha_composite_lays_it() -> None:
    """Every value with every alpha; then layers of three random colours."""
    value, alpha = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    random = np.random.default_rng(0).integers(0, 256, (120, 160, 4), dtype=np.uint8)
    for pixels in (np.dstack([value, value, value, alpha]), random):
        layer = Image.fromarray(pixels)
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        expected = np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
        assert np.array_equal(load_image(encode(layer)), expected)
        assert np.array_equal(np.asarray(layer), pixels), "the caller's image stays as it was"


def test_sixteen_bits_become_the_upper_eight() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (40, 60), dtype=np.uint16)
    for image in (Image.fromarray(deep), Image.fromarray(deep.astype(np.int32))):
        assert np.array_equal(load_image(image)[..., 1], deep >> 8)
    beyond = Image.fromarray(np.array([[-5, 70000] * 2] * 4, dtype=np.int32))
    assert load_image(beyond)[0, :2, 0].tolist() == [0, 255]


def test_too_little_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(ValueError, match="60 x 40 px, for which there is not enough memory"):
        load_image(Image.fromarray(noise()))


def test_what_pillow_warns_of_is_said_once_and_without_an_address() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="the photo has 10000 x 10000 px"):
            load_image(png_header(10_000, 10_000))
    with pytest.raises(ValueError, match="damaged JPEG header; save") as refused:
        load_image(b"\xff\xd8\xff")
    assert "0x" not in str(refused.value)


def test_reads_grey_palette_black_and_white_cmyk_and_16_bit() -> None:
    deep = Image.fromarray(np.full((8, 8), 0x80FF, dtype=np.uint16))
    assert load_image(encode(deep))[0, 0].tolist() == [128, 128, 128]
    assert load_image(encode(Image.new("L", (8, 8), 77)))[0, 0].tolist() == [77, 77, 77]
    assert load_image(encode(Image.new("1", (8, 8), 1)))[0, 0].tolist() == [255, 255, 255]
    assert load_image(encode(Image.new("CMYK", (8, 8)), "JPEG")).min() > 250
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30])
    assert load_image(encode(palette))[0, 0].tolist() == [10, 20, 30]
    with pytest.raises(ValueError, match="floating-point"):
        load_image(Image.new("F", (8, 8)))


def test_takes_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), name) for name in ("red", "blue")]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert load_image(data)[0, 0].tolist() == [255, 0, 0]


def test_leaves_an_open_image_as_it_was() -> None:
    image = Image.new("RGBA", (8, 8), (1, 2, 3, 4))
    load_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (1, 2, 3, 4)


def test_preprocess_scales_to_the_stated_range() -> None:
    ends = np.zeros((8, 8, 3), dtype=np.uint8)
    ends[..., 1], ends[..., 2] = 128, 255
    pixels = preprocess(ends, 4)
    assert pixels.shape == (3, 4, 4)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels[:, 0, 0].tolist() == [-1.0, 0.0, 127 / 128]


def test_preprocess_keeps_pixels_of_a_square_of_the_same_size() -> None:
    image = noise(24, 24)
    restored = preprocess(image, 24).transpose(1, 2, 0) * 128 + 128
    assert np.array_equal(restored, image)


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (300, 450), (33, 50)])
def test_crop_equals_resizing_first_and_cropping_after(height: int, width: int) -> None:
    smooth = Image.fromarray(noise(6, 8)).resize((width, height), Image.Resampling.BICUBIC)
    size, short = 24, min(height, width)
    scaled = smooth.resize(
        (round(width * size / short), round(height * size / short)), Image.Resampling.BILINEAR
    )
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    expected = np.asarray(scaled.crop((left, top, left + size, top + size))).astype(int)
    difference = np.abs(crop_square(np.asarray(smooth), size).astype(int) - expected)
    assert difference.mean() < 4


def test_crop_of_a_long_strip_stays_small() -> None:
    assert crop_square(np.zeros((4, 8192, 3), dtype=np.uint8), 160).shape == (160, 160, 3)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (3, 8, 8), (0, 8, 3)])
def test_preprocess_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        preprocess(np.zeros(shape, dtype=np.uint8), 160)


def test_preprocess_refuses_floats_and_empty_sizes() -> None:
    with pytest.raises(ValueError, match="float64"):
        preprocess(np.zeros((8, 8, 3)), 160)
    with pytest.raises(ValueError, match="to 0 px"):
        preprocess(np.zeros((8, 8, 3), dtype=np.uint8), 0)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_camera_s_photo_is_decoded_small_and_looks_the_same(orientation: int) -> None:
    rough = Image.fromarray(noise(9, 12)).resize((2600, 1300), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(rough, "JPEG", quality=95, exif=exif)
    small = load_image(data, shortest_px=640)
    assert sorted(small.shape[:2]) == [650, 1300]
    apart = crop_square(small, 160).astype(int) - crop_square(load_image(data), 160)
    assert np.abs(apart).max() <= 3
    for too_small in (encode(rough.resize((1270, 1270)), "JPEG"), encode(rough, "PNG")):
        whole = load_image(too_small, shortest_px=640)
        assert whole.shape == load_image(too_small).shape


def test_a_photo_is_written_smaller_and_without_what_the_camera_noted() -> None:
    exif = Image.Exif()
    exif[0x010E] = "at my home"
    rough = Image.fromarray(noise(9, 12)).resize((400, 300), Image.Resampling.BICUBIC)
    image = load_image(encode(rough, "JPEG", quality=95, exif=exif))
    small, same = encode_jpeg(image, 100), encode_jpeg(image, 400)
    assert load_image(small).shape == (75, 100, 3)
    assert encode_jpeg(image, 9999) == same
    assert np.abs(load_image(same).astype(int) - image).mean() < 3
    assert b"home" not in small + same
    assert load_image(encode_jpeg(np.zeros((4, 4000, 3), np.uint8), 1000)).shape == (4, 1000, 3)
    with pytest.raises(ValueError, match="to 0 px"):
        encode_jpeg(image, 0)


def test_a_huge_black_and_white_png_costs_no_memory_and_gets_a_sentence(tmp_path: Path) -> None:
    """Nine thousand pixels a side are a few kilobytes in the file and 243 MB in colours."""
    path = tmp_path / "huge.png"
    Image.new("1", (9000, 9000)).save(path)
    script = (
        "import resource, sys\n"
        "from embervlm.imaging import load_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    load_image(sys.argv[1])\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    said, grown_mb = run.stdout.splitlines()
    assert "9000 x 9000 px" in said
    assert int(grown_mb) < 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_while_another_thread_opens_a_photo_opens_its_own() -> None:
    photo = encode(Image.fromarray(noise()))
    with imaging._OPENING:  # as it is while another thread opens one
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            load_image(photo)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
