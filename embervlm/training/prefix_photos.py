"""Our own photos as pixels, for a network that sees every photo in its forward pass.

The table says which photos teach and which are held out (`data/photos.py`); the files lie in
`shared/photos`. A photo is decoded when a batch with it is made. Those of the train split come as
another view each time (`vision.augment`).

Axes: S side.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embervlm.data.photos import load_captions, load_photos
from embervlm.data.scenarios import DATA_DIR
from embervlm.imaging import KEPT_SIDES, crop_square, load_image
from embervlm.training.vision import Pixels, augment

# From how many times the network's side training views are cut.
STORED_SIDES = 1.2


@dataclass(frozen=True)
class PhotoFolder:
    """Photos by row: their files, the rows of each place and split, and the captions of the train
    split."""

    files: tuple[Path, ...]
    by_environment: dict[tuple[str, str], list[int]]
    captions: dict[int, tuple[str, ...]]

    @classmethod
    def load(cls, shared: Path) -> PhotoFolder:
        """Read the table and the captions; photos of the table that are not there are counted.

        Raises:
            ValueError: the folder holds no photos of the table.
        """
        folder = shared / "photos"
        try:
            captions_of = load_captions(folder)
        except OSError as error:
            raise ValueError(
                f"shared is {shared}, and {error.filename} is not there; give the folder that "
                "holds photos/, or shared: '' to learn from words alone."
            ) from error
        files: list[Path] = []
        by_environment: dict[tuple[str, str], list[int]] = defaultdict(list)
        captions = {}
        table = load_photos(DATA_DIR / "photos.jsonl")
        for photo in table:
            path, row = folder / photo.file, len(files)
            if not path.is_file():
                continue
            files.append(path)
            if photo.environment:
                by_environment[photo.environment, photo.split].append(row)
            if photo.split == "train" and photo.file in captions_of:
                captions[row] = captions_of[photo.file]
        if not files:
            raise ValueError(f"{folder} has none of the {len(table):,} photos of the table.")
        if missing := len(table) - len(files):
            sys.stderr.write(f"{missing:,} of {len(table):,} photos are not in {folder}.\n")
        return cls(tuple(files), dict(by_environment), captions)

    def picture(self, row: int, size: int, views: np.random.Generator | None) -> Pixels:
        """Return a photo (S, S, 3) uint8: as a request would have it, or another view, drawn from
        `views`.

        Raises:
            ValueError: it cannot be decoded.
        """
        image_HWC = load_image(self.files[row], shortest_px=KEPT_SIDES * size)
        if views is None:
            return crop_square(image_HWC, size)
        return augment(crop_square(image_HWC, round(STORED_SIDES * size)), size, views)
