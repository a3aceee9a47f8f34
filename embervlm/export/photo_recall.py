"""Put a table of looks into a model file: what its eye sees in the training photos.

    python -m embervlm.export.photo_recall --model MODEL.gguf --shared ../shared --out OUT.gguf

`models/photo_recall.py` says what a photo becomes by it. The space of looks is that of the largest
principal components of the standardised features, the rows are the centres of k-means in it, by
the angle. Photos of the train split alone take part, each as it is; their labels are not read. A
table that the file holds already is replaced. Calibrate behind it (`evaluation.calibration`).

Axes: P photos, C channels, W width of the space, R rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from embervlm.backends.native import NativeBackend
from embervlm.checkpoint import SHIPPED, load_checkpoint
from embervlm.data.photos import TABLE, load_photos
from embervlm.export.parts import replace_part
from embervlm.imaging import KEPT_SIDES, load_image, preprocess

PART = "recall."
WIDTH, ROWS, SHARPNESS = 96, 2048, 48.0
_ROUNDS = 20  # of k-means

Array = NDArray[np.float32]


def table_of(
    features_PC: Array, width: int = WIDTH, rows: int = ROWS, sharpness: float = SHARPNESS
) -> dict[str, Array]:
    """Return the tensors of a table of looks, float32, by their names in the file.

    Args:
        features_PC: what the eye sees in each photo, (P, C).
        width: of the space; 1 to C.
        rows: how many looks; 1 to P.
        sharpness: how much the nearest looks count before the others; the length of the rows.

    Raises:
        ValueError: there are fewer photos than rows, or channels than the space is wide.
    """
    from sklearn.cluster import KMeans

    P, C = features_PC.shape
    if not (0 < rows <= P and 0 < width <= C):
        raise ValueError(
            f"{P:,} photos of {C} channels make at most {P:,} looks {C} wide, not {rows:,} that "
            f"are {width} wide."
        )
    mean_C, spread_C = features_PC.mean(0), features_PC.std(0) + 1e-3
    standard_PC = (features_PC - mean_C) / spread_C
    _, _, axes_CC = np.linalg.svd(standard_PC, full_matrices=False)
    axes_WC = axes_CC[:width]
    looks_PW = _unit(standard_PC @ axes_WC.T)
    found = KMeans(rows, n_init=1, max_iter=_ROUNDS, random_state=0).fit(looks_PW)
    table = {
        "key.weight": axes_WC / spread_C,
        "key.bias": -(axes_WC / spread_C) @ mean_C,
        "rows.weight": sharpness * _unit(found.cluster_centers_),
        "value.weight": axes_WC.T * spread_C[:, None],
        "value.bias": mean_C,
    }
    return {PART + name: np.ascontiguousarray(t, np.float32) for name, t in table.items()}


def put_recall(model: Path, shared: Path, out: Path, width: int = WIDTH, rows: int = ROWS) -> None:
    """Write `model` with a table of the training photos in `shared`/photos to `out`, which may be
    the same file.

    Raises:
        ValueError: the model is damaged or reads a photo as a grid, or photos are missing.
    """
    config = load_checkpoint(model).config
    if config.get("image_grid"):
        raise ValueError(f"{model} reads a photo place by place; a table of looks is of the whole.")
    with TemporaryDirectory() as folder:
        bare = model
        if config.get("recall_width"):  # what the eye sees without the table
            bare = Path(folder) / model.name
            replace_part(model, bare, {}, config={"recall_width": 0, "recall_rows": 0}, drop=PART)
        backend = NativeBackend.load(bare)
    files = [photo.file for photo in load_photos(TABLE) if photo.split == "train"]
    seen = []
    for file in track(files, "training photos", console=Console(stderr=True)):
        image_HWC = load_image(
            shared / "photos" / file, shortest_px=KEPT_SIDES * backend.image_size
        )
        features_PC, _ = backend.engine.see(preprocess(image_HWC, backend.image_size))
        seen.append(features_PC[0])
    table = table_of(np.stack(seen), width, rows)
    replace_part(model, out, table, config={"recall_width": width, "recall_rows": rows}, drop=PART)


def _unit(x_NW: Array) -> Array:
    unit_NW: Array = x_NW / np.maximum(np.linalg.norm(x_NW, axis=1, keepdims=True), 1e-12)
    return unit_NW


def main() -> None:
    """Read the flags, and put it in; the user's mistakes are one sentence and code 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds photos/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--rows", type=int, default=ROWS)
    o = parser.parse_args()
    try:
        put_recall(o.model, o.shared, o.out, o.width, o.rows)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"embervlm: {error}\n")
        sys.exit(2)
    sys.stdout.write(f"{o.out}\n")


if __name__ == "__main__":
    main()
