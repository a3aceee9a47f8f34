"""The C engine, called through ctypes; `ember.h` says what each function does.

The library is compiled when the package is installed; in a folder that `embervlm export package`
wrote, `make` compiles it to `libember.so` in this directory. Nothing else is looked for. Where
there is neither, `Engine` says so in one sentence and the other backends still work.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rows = NDArray[np.int32]

LIBRARY_FILE = Path(__file__).parent / "libember.so"
_EXTENSION = "embervlm.engine._ember"
_floats = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
_numbers = np.ctypeslib.ndpointer(np.int32, flags="C_CONTIGUOUS")
_masks = np.ctypeslib.ndpointer(np.uint8, flags="C_CONTIGUOUS")
_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "ember_open": (
        ctypes.c_void_p,
        [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "ember_close": (None, [ctypes.c_void_p]),
    "ember_text": (ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_char_p]),
    "ember_tensor": (
        ctypes.c_void_p,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)],
    ),
    "ember_kernel_name": (ctypes.c_char_p, [ctypes.c_void_p]),
    "ember_kernels": (ctypes.c_char_p, []),
    "ember_error": (ctypes.c_char_p, [ctypes.c_void_p]),
    "ember_see": (ctypes.c_int, [ctypes.c_void_p, _floats, _floats, _floats]),
    "ember_read": (
        ctypes.c_int,
        [
            *(ctypes.c_void_p, _numbers, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
            *(_floats, ctypes.c_void_p, ctypes.c_int),
        ],
    ),
    "ember_linear": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, _floats, ctypes.c_int, _floats],
    ),
    "ember_size": (
        ctypes.c_int,
        [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_int),
            ctypes.POINTER(ctypes.c_int),
        ],
    ),
    "ember_ngrams": (
        ctypes.c_int,
        [ctypes.c_void_p, _numbers, ctypes.c_int, _floats, ctypes.c_int],
    ),
    "ember_begin": (ctypes.c_int, [ctypes.c_void_p, _floats, _numbers, ctypes.c_int]),
    "ember_step": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32, _floats]),
    "ember_write": (
        ctypes.c_int,
        [ctypes.c_void_p, _numbers, ctypes.c_int, _numbers, ctypes.c_int, _masks, _numbers]
        + [ctypes.c_int, ctypes.POINTER(ctypes.c_int)],
    ),
    "ember_image_size": (ctypes.c_int, [ctypes.c_void_p]),
    "ember_image_tokens": (ctypes.c_int, [ctypes.c_void_p]),
    "ember_width": (ctypes.c_int, [ctypes.c_void_p]),
    "ember_bandwidth": (ctypes.c_double, [ctypes.c_size_t]),
}


def library_path() -> Path | None:
    """Return the compiled engine's file, or None: it was not compiled on this machine."""
    found = importlib.util.find_spec(_EXTENSION)
    if found is not None and found.origin is not None:
        return Path(found.origin)
    return LIBRARY_FILE if LIBRARY_FILE.is_file() else None


@cache
def library() -> ctypes.CDLL:
    """Return the compiled engine.

    Raises:
        ValueError: it was not compiled on this machine, or for another one.
    """
    path = library_path()
    if path is None:
        raise ValueError(_not_compiled(Path(__file__).parents[2]))
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ValueError(f"The engine cannot be loaded ({error}); compile it again.") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def _not_compiled(folder: Path) -> str:
    """Return what to do; `folder` is where this package was imported from, which may be a clone
    that was installed from but into another folder."""
    onnx = "or pip install 'embervlm[onnx]' and choose --backend onnx."
    if (folder / "pyproject.toml").is_file():
        return (
            f"The engine is not compiled in {folder}, from where embervlm was imported: with a C "
            "compiler (gcc or clang) 'pip install -e .' there compiles it, and in another folder "
            f"an installed embervlm is taken; {onnx}"
        )
    return (
        "The engine is not compiled here: install a C compiler (gcc or clang) and install "
        f"embervlm again; {onnx}"
    )


def kernel_sets() -> list[str]:
    """Return the names of the kernel sets that run on this processor, the best first."""
    names: bytes = library().ember_kernels()
    return names.decode().split()


def bandwidth(size_bytes: int) -> float:
    """Return how many bytes a second one thread reads of a buffer of this size, the best of
    several."""
    rate: float = library().ember_bandwidth(size_bytes)
    return rate


class Engine:
    """One open model. Not for use from several threads at a time."""

    def __init__(self, path: str | Path, *, threads: int = 1, kernels: str | None = None) -> None:
        """Open a GGUF file that `embervlm export gguf` wrote.

        Args:
            path: the file; it is checked against its own SHA-256.
            threads: how many to use, 1 to 64; the answers are the same for every number.
            kernels: one of `kernel_sets()`; None: the best.

        Raises:
            ValueError: no compiled engine, or the file is missing, damaged or not a model.
        """
        self._library = library()
        self._model = None
        error = ctypes.create_string_buffer(512)
        name = kernels.encode() if kernels is not None else None
        place = _place(path)
        self._model = self._library.ember_open(place, threads, name, error, len(error))
        if not self._model:
            raise ValueError(error.value.decode("utf-8", "replace"))

    def __del__(self) -> None:
        """Give the memory back."""
        if getattr(self, "_model", None):
            self._library.ember_close(self._model)
            self._model = None

    @property
    def kernels(self) -> str:
        """The name of the kernel set in use."""
        name: bytes = self._library.ember_kernel_name(self._model)
        return name.decode()

    def text(self, key: str) -> str:
        """Return a text of the file's metadata.

        Raises:
            ValueError: the file has no such text.
        """
        found: bytes | None = self._library.ember_text(self._model, key.encode())
        if found is None:
            raise ValueError(f"The model file has no {key}; export it again.")
        return found.decode()

    def tensor(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        """Return the bytes of a tensor of the file as numbers of this type, in one row; a copy.

        Raises:
            ValueError: the file has no such tensor, or it is not whole numbers of that size.
        """
        size = ctypes.c_size_t()
        address = self._library.ember_tensor(self._model, name.encode(), size)
        if address is None or size.value % np.dtype(dtype).itemsize:
            raise ValueError(f"The model file has no sound tensor {name}; export it again.")
        return np.frombuffer(ctypes.string_at(address, size.value), dtype)

    def size(self, layer: str) -> tuple[int, int]:
        """Return (outputs, inputs) of a layer that `linear` knows."""
        outputs, inputs = ctypes.c_int(), ctypes.c_int()
        if self._library.ember_size(self._model, layer.encode(), outputs, inputs):
            raise ValueError(f"The model file has no layer {layer}; export it again.")
        return outputs.value, inputs.value

    def see(self, pixels_CHW: Array) -> tuple[Array, Array]:
        """Return a photo's features (P, C), one row for each place of its grid or one for all, and
        the logits of what place it is; pixels as `imaging.preprocess` makes them."""
        outputs, inputs = self.size("image.scene")
        places = self._library.ember_image_tokens(self._model) - 1
        features, scene = np.empty((places, inputs), np.float32), np.empty(outputs, np.float32)
        pixels = np.ascontiguousarray(pixels_CHW, dtype=np.float32)
        side = self._library.ember_image_size(self._model)
        if pixels.shape != (3, side, side):
            raise ValueError(f"got pixels of shape {pixels.shape}, expected (3, {side}, {side})")
        self._check(self._library.ember_see(self._model, pixels, features, scene))
        return features, scene

    def read(
        self,
        tokens: NDArray[np.int64],
        image: tuple[Array, Array] | None,
        last: int = 0,
    ) -> tuple[Array, Array | None]:
        """Return states (N + T, width) of N image tokens and T words, and the words (T, width) in
        front of the `last` layers, None for 0; `image` is what `see` said, None without a photo."""
        count = self._library.ember_image_tokens(self._model) + len(tokens)
        states = np.empty((count, self._library.ember_width(self._model)), np.float32)
        addresses = [part.ctypes.data for part in image] if image else [None, None]
        rows = np.ascontiguousarray(tokens, dtype=np.int32)
        middle = np.empty((len(tokens), states.shape[1]), np.float32) if last else None
        to = None if middle is None else middle.ctypes.data
        self._check(
            self._library.ember_read(self._model, rows, len(rows), *addresses, states, to, last)
        )
        return states, middle

    def linear(self, layer: str, x_RD: Array) -> Array:
        """Return a layer's output (R, outputs) for rows (R, inputs)."""
        outputs, inputs = self.size(layer)
        x_RD = np.ascontiguousarray(x_RD, dtype=np.float32).reshape(-1, inputs)
        y_RO = np.empty((len(x_RD), outputs), np.float32)
        if len(x_RD):
            name = layer.encode()
            self._check(self._library.ember_linear(self._model, name, x_RD, len(x_RD), y_RO))
        return y_RO

    def ngrams(self, rows: list[int], columns: int) -> Array:
        """Return the scores (columns,) of a request's n-grams.

        Raises:
            ValueError: the model has another number of columns, or no such row.
        """
        scores = np.empty(columns, np.float32)
        numbers = np.array(rows, np.int32)
        self._check(self._library.ember_ngrams(self._model, numbers, len(numbers), scores, columns))
        return scores

    def begin(self, states_SD: Array, source_S: NDArray[np.int64]) -> None:
        """Begin to write from the states of a request; `source_S` holds their tokens, -1: none."""
        states = np.ascontiguousarray(states_SD, dtype=np.float32)
        source = np.ascontiguousarray(source_S, dtype=np.int32)
        self._check(self._library.ember_begin(self._model, states, source, len(states)))

    def step(self, token: int) -> Array:
        """Feed one token; return the probabilities (vocabulary,) of the next."""
        chances = np.empty(self.size("text.embed")[0], np.float32)
        self._check(self._library.ember_step(self._model, token, chances))
        return chances

    def write(
        self,
        prefix: Sequence[int],
        sections: Sequence[tuple[int, int, int, int]],
        masks_V: NDArray[np.uint8],
        room: int,
    ) -> list[int]:
        """Return the prefix and what is written behind it, at most `room` tokens.

        Each section is (ending, most, never, not_first); `ember_write` says what they mean.

        Raises:
            ValueError: `begin` did not come first, or the sections do not fit into the room.
        """
        if len(masks_V) != self.size("text.embed")[0]:
            raise ValueError(f"got {len(masks_V)} masks, expected one for each token")
        given, table = np.array(prefix, np.int32), np.array(sections, np.int32).reshape(-1, 4)
        tokens, count = np.empty(max(room, 1), np.int32), ctypes.c_int()
        self._check(
            self._library.ember_write(
                self._model, given, len(given), table, len(table), masks_V, tokens, room, count
            )
        )
        written: list[int] = tokens[: count.value].tolist()
        return written

    def _check(self, failed: int) -> None:
        if failed:
            message: bytes = self._library.ember_error(self._model)
            raise ValueError(message.decode("utf-8", "replace"))


def _place(path: str | Path) -> bytes:
    """Return a path as the system names it, which a zero byte would cut short."""
    try:
        place = os.fsencode(path)
    except UnicodeEncodeError:
        place = b"\0"
    if b"\0" in place:
        raise ValueError(f"The model {str(path)!r} cannot be the name of a file; check the path.")
    return place
