"""What the eye of a finished model sees in every photo, to go on training what reads it.

    python -m embervlm.training.photo_features --model MODEL.gguf --shared ../shared --out build/eye
    embervlm train --recipe recipes/nano/more.yaml --model MODEL.gguf --vision build/eye

It writes `features.npz` in the form of a vision run, by the engine itself, so that training meets
the very numbers that the model will read. Training photos come once more in other views: cropped,
mirrored, most of them damaged as in `steady.py`. Who has read them all decides the same when a
photo is a little different.

Axes: P photos, V views, C channels, E environments, H height, W width.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from embervlm.backends.native import NativeBackend
from embervlm.data.photos import TABLE, load_photos
from embervlm.data.scenarios import load
from embervlm.imaging import preprocess
from embervlm.training.steady import Settings, shown_to_copy
from embervlm.training.vision import STORED_SIZE, Pixels, augment, load_pixels

FEATURES = "features.npz"


def seen(
    backend: NativeBackend, squares: Iterable[Pixels]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return features (P, C) and logits of the place (P, E) of square photos, uint8 (H, H, 3)."""
    found = [backend.engine.see(preprocess(square, backend.image_size)) for square in squares]
    return np.stack([features.mean(0) for features, _ in found]), np.stack([e for _, e in found])


def other_views(
    pixels: Mapping[str, Pixels],
    files: Sequence[str],
    words: Sequence[str],
    size: int,
    random: np.random.Generator,
) -> Iterable[Pixels]:
    """Yield one other view of each photo, uint8 (size, size, 3)."""
    for file in files:
        view_HWC = augment(pixels[file], size, random).copy()
        yield shown_to_copy(view_HWC[None], words, Settings(), random)[0]


def write(model: Path, shared: Path, packed: Path, out: Path, views: int, seed: int) -> Path:
    """Write the features of all photos and of `views` other views of each training photo.

    Args:
        model: a GGUF model that takes photos.
        shared: folder that holds photos/.
        packed: folder that holds or gets the packed photos.
        out: folder that gets the file.
        views: how many, 0 or more.
        seed: of how they differ.

    Raises:
        ValueError: the model is no sound file.
    """
    backend = NativeBackend.load(model)
    pixels = load_pixels(shared, packed, STORED_SIZE)
    files, console = list(pixels), Console(stderr=True)
    whole = seen(backend, track(list(pixels.values()), "photos", console=console))
    words = sorted({w for row in load("scenarios", "train") for w in row["task"].split()[:8]})
    own = {photo.file for photo in load_photos(TABLE) if photo.split == "train"}
    taught = [file for file in files if file in own] * views
    random, size = np.random.default_rng(seed), backend.image_size
    shown = track(
        other_views(pixels, taught, words, size, random), "views", len(taught), console=console
    )
    others = seen(backend, shown) if taught else (whole[0][:0], whole[1][:0])
    row_of = {file: row for row, file in enumerate(files)}
    out.mkdir(parents=True, exist_ok=True)
    np.savez(
        out / FEATURES,
        files=np.array(files),
        features=whole[0].astype(np.float16),
        environment_logits=whole[1],
        view_of=np.array([row_of[file] for file in taught], np.int64),
        view_features=others[0].astype(np.float16),
        view_logits=others[1],
    )
    return out / FEATURES


def main() -> None:
    """Read the flags, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds photos/")
    parser.add_argument("--photos", type=Path, help="folder that holds or gets the packed photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=int, default=3, help="of each training photo [3]")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{write(o.model, o.shared, o.photos or o.out, o.out, o.views, o.seed)}\n")


if __name__ == "__main__":
    main()
