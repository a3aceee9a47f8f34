"""Decode a photo safely, and turn it into the pixels that every network of this project reads.

Training, serving and the edge all come through here, so a photo means the same numbers everywhere.
A photo is data from a stranger: its kind is read from its first bytes and not from its name, its
dimensions are read before any pixel is decoded, and no address is ever fetched.

    image_HWC = load_image("flood.jpg")                  # uint8, upright, three channels
    pixels_CHW = preprocess(image_HWC, size=160)         # float32 in [-1, 1)

Axes: H height, W width, C channels (red, green, blue).
"""

import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

MAX_FILE_BYTES = 20_000_000
MAX_PIXELS = 16 * 1024 * 1024
MIN_SIDE_PX = 4
MAX_SIDE_PX = 8192

# How many times the network's side a camera's photo is decoded at: its filter averages the rest.
KEPT_SIDES = 4
_JPEG_QUALITY = 90

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# `catch_warnings` works on what all threads share.
_OPENING = Lock()
# What Pillow's decoders raise on damaged input, beyond OSError (which UnidentifiedImageError is).
_DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip


def load_image(
    source: str | Path | bytes | Image.Image, *, shortest_px: int | None = None
) -> NDArray[np.uint8]:
    """Decode a photo to upright RGB pixels, uint8 of shape (H, W, 3).

    Args:
        source: path of a file, the bytes of a file, or an image that Pillow has opened already.
            Files are JPEG, PNG or WebP, at most 20 MB, 4 to 8192 px a side and 16 Mpx in all. Of
            an animation the first frame counts. Transparency is laid on white, 16 bits a channel
            become 8, and the orientation that the camera noted is applied.
        shortest_px: of a JPEG no more is needed than this many pixels on its shorter side: one of
            at least twice that is decoded at a half, a quarter or an eighth of its size, in as
            much less time and memory. None: the whole photo.

    Raises:
        ValueError: the photo is missing, too large, too small, damaged or of another kind; the
            message says what came, what was expected and what to do.
    """
    if isinstance(source, Image.Image):
        _check_size(source.size, "the image")
        return _pixels(source, "the image")
    if not isinstance(source, str | Path | bytes):
        raise ValueError(
            "the photo must be a path, the bytes of a file or an image of Pillow's, not "
            f"{type(source).__name__}"
        )
    name = "the photo" if isinstance(source, bytes) else f"the photo {str(source)!r}"
    data = source if isinstance(source, bytes) else _read_file(source, name)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(
            f"{name} has more than {MAX_FILE_BYTES:,} bytes; save it smaller or at a lower quality"
        )
    kind = _kind(data)
    if kind is None:
        raise ValueError(
            f"{name} is not a JPEG, PNG or WebP file (it begins with {data[:8]!r}); "
            "convert it to one of these"
        )
    try:
        # Pillow warns of sizes that are refused below.
        with (
            _OPENING,
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
        ):
            image = Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels ({error}); resize it first") from error
    except UnidentifiedImageError as error:  # which tells no more than where its bytes lie
        raise ValueError(f"{name} has a damaged {kind} header; save or send it again") from error
    except _DAMAGED as error:
        raise ValueError(
            f"{name} has a damaged {kind} header ({error}); save or send it again"
        ) from error
    with image:
        _check_size(image.size, name)
        if shortest_px is not None:
            image.draft("RGB", (shortest_px, shortest_px))
        return _pixels(image, name)


def preprocess(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Return the network's input: float32 of shape (3, size, size), (value - 128) / 128.

    The range is -1 to 127 / 128; the inverse is `pixels * 128 + 128`.

    Raises:
        ValueError: `image_HWC` is not uint8 of shape (H, W, 3), or `size` is not positive.
    """
    square_HWC = crop_square(image_HWC, size).astype(np.float32)
    return np.ascontiguousarray(((square_HWC - 128) / 128).transpose(2, 0, 1))


def crop_square(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale the shorter side to `size` and keep the centre: uint8 of shape (size, size, 3).

    Pillow's bilinear filter, which averages when it shrinks. The crop is made within the same call,
    so that a strip of 4 x 8192 px does not first grow to hundreds of megabytes.

    Raises:
        ValueError: `image_HWC` is not uint8 of shape (H, W, 3), or `size` is not positive.
    """
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
        raise ValueError(
            f"got an image of shape {image_HWC.shape} and type {image_HWC.dtype}, expected uint8 "
            "of shape (H, W, 3); use load_image to make one"
        )
    if size < 1 or 0 in image_HWC.shape:
        raise ValueError(f"cannot scale an image of shape {image_HWC.shape} to {size} px a side")
    height, width, _ = image_HWC.shape
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    square = Image.fromarray(image_HWC).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(square)


def encode_jpeg(image_HWC: NDArray[np.uint8], longest_px: int) -> bytes:
    """Return a JPEG file of the image, its longer side at most `longest_px`; nothing is enlarged.

    What the file that it came from noted beside the pixels (place, camera, name) is not in it.

    Raises:
        ValueError: `longest_px` is not positive.
    """
    if longest_px < 1:
        raise ValueError(f"cannot scale an image to {longest_px} px")
    image = Image.fromarray(image_HWC)
    if max(image.size) > longest_px:
        share = longest_px / max(image.size)
        # Never so narrow that load_image would refuse it.
        width, height = (max(MIN_SIDE_PX, round(side * share)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _read_file(path: str | Path, name: str) -> bytes:
    """Return at most one byte more than a photo may have, from a regular file only."""
    if isinstance(path, str) and "://" in path:
        raise ValueError(f"{name} is an address, and addresses are never fetched; save it first")
    try:
        # A pipe or a device could keep us waiting for ever, so look before opening.
        if stat.S_ISREG(Path(path).stat().st_mode):
            with Path(path).open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{name} cannot be read ({reason}); check the path") from error
    except ValueError as error:  # a NUL, or what no file system encodes
        raise ValueError(f"{name} cannot be read (no file has such a name); check the path") from (
            error
        )
    raise ValueError(f"{name} is not a file; give the path of one JPEG, PNG or WebP file")


def _kind(data: bytes) -> str | None:
    """Return Pillow's name for the format that the first bytes announce, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(size) < MIN_SIDE_PX or max(size) > MAX_SIDE_PX or width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width} x {height} px, expected {MIN_SIDE_PX} to {MAX_SIDE_PX} a side "
            f"and at most {MAX_PIXELS:,} in all; resize it first"
        )


def _pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Decode `image`, whose size has been checked, to upright RGB."""
    if image.mode == "F":
        raise ValueError(
            f"{name} has floating-point pixels, which have no agreed range; save as PNG"
        )
    try:
        image.load()
        return np.array(_upright(_rgb(image), _orientation(image)), dtype=np.uint8)
    except MemoryError as error:
        width, height = image.size
        raise ValueError(
            f"{name} has {width} x {height} px, for which there is not enough memory; resize it "
            "first"
        ) from error
    except _DAMAGED as error:
        raise ValueError(
            f"{name} is damaged or cut short ({error}); save or send it again"
        ) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.dtype.kind == "i":
            grey = np.clip(grey, 0, 65535)
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if _has_transparency(image):
        # The same pixels as `alpha_composite`'s, in half the memory.
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", layer.size, (255, 255, 255))
        white.paste(layer, mask=layer)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _has_transparency(image: Image.Image) -> bool:
    # Pillow's own `has_transparency_data`, which Debian 12's Pillow 9.4 lacks.
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    layers = {layer.upper() for layer in image.getbands()}
    return "A" in layers or "transparency" in image.info or palette.endswith("A")


def _orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation, or None; damaged EXIF says nothing about the pixels."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION)
    except _DAMAGED:
        return None
    return value if isinstance(value, int) else None


def _upright(image: Image.Image, orientation: int | None) -> Image.Image:
    turn = _UPRIGHT.get(orientation or 1)
    return image if turn is None else image.transpose(turn)


def _free() -> None:
    """Open photos in a forked process too: whoever held the lock is not in it."""
    global _OPENING
    _OPENING = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)
