"""Which photos teach, which choose a model and which test it; and all pixels in one file.

The photos lie beside the repository (see `data/README.md`); committed is `data/photos.jsonl`, one
line per photo that is used. Three rules keep the test honest:

- near-duplicates (the manifest's `group`) stay together, and a group that carries two classes, or
  two sources of one class, is left out of everything. `data/photos_same.json` joins more groups of
  one source: mirrored copies and frames of one camera, which ImageNet features find alike;
- where a class comes from several sources, its test photos come from the smallest one, which train
  and validation never see for this class, so that knowing the camera or the crop does not help;
- a class with one source is split by a salted hash of the group, about 70 / 15 / 15.

Photos whose picture contradicts the environment of their class are listed, with the reason, in
`data/photos_excluded.json` and used nowhere. Write the table anew with

    python -m embervlm.data.photos --shared ../shared
"""

import argparse
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.imaging import crop_square, load_image
from embervlm.json_lines import json_lines

TABLE = Path("data/photos.jsonl")
EXCLUDED = Path("data/photos_excluded.json")
SAME = Path("data/photos_same.json")
SALT = "embervlm-photos-1"
TRAIN_SHARE = 0.70
VALIDATION_SHARE = 0.15
MAX_TEST_PHOTOS = 120


@dataclass(frozen=True)
class Photo:
    """One photo that is used.

    `file` is the path below the folder of photos, `place` the class of the scene, `environment` the
    value of the labelling guide (None for photos that only have captions), `split` one of train,
    validation and test, `group` the near-duplicate group after joining, `sha256` the first 16
    hexadecimal digits over the file's bytes, and `licence` the terms as found at the source.
    """

    file: str
    place: str
    environment: str | None
    split: str
    group: str
    sha256: str
    licence: str


def load_photos(path: str | Path = TABLE) -> list[Photo]:
    """Read the table of photos, in its order.

    Raises:
        ValueError: a line lacks a field or has one too many.
    """
    photos = []
    for number, line in json_lines(path):
        row = json.loads(line)
        try:
            photos.append(Photo(place=row.pop("class"), **row))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: {error}; expected the fields that photos.py writes"
            ) from error
    return photos


def load_captions(photos_dir: str | Path) -> dict[str, tuple[str, ...]]:
    """Return the captions of the photos that have some, by file; they are not in the table."""
    rows = _read_manifest(photos_dir)
    return {row["file"]: tuple(row["captions"]) for row in rows if row.get("captions")}


def load_sources(photos_dir: str | Path) -> dict[str, str]:
    """Return where each photo was found, by file; as the captions, it is not in the table.

    Raises:
        ValueError: the folder has no manifest.
    """
    try:
        return {row["file"]: row["source"] for row in _read_manifest(photos_dir)}
    except OSError as error:
        raise ValueError(
            f"{Path(photos_dir) / 'manifest.jsonl'} cannot be read ({error.strerror}); give the "
            "folder of photos that it lies in."
        ) from error


def assign_splits(
    rows: Sequence[Mapping[str, Any]],
    excluded: Iterable[str] = (),
    same: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the split of every photo that is used, by file, under the rules at the top.

    Args:
        rows: lines of the manifest; `file`, `class`, `source` and `group` are read.
        excluded: files to leave out. They count for nothing, so a source that is excluded as a
            whole does not make its class one of several sources.
        same: the group that stands for another one, which shows the same scene.
    """
    left_out, joined = set(excluded), same or {}
    places, sources = defaultdict(set), defaultdict(set)
    for row in rows:
        places[row["group"]].add(row["class"])
        sources[row["group"]].add(row["source"])
    by_place = defaultdict(list)
    for row in rows:
        if row["file"] not in left_out and len(places[row["group"]]) == 1:
            by_place[row["class"]].append(row)
    splits: dict[str, str] = {}
    for members in by_place.values():
        sizes = Counter(row["source"] for row in members)
        if len(sizes) == 1:
            for row in members:
                splits[row["file"]] = _split_of_group(joined.get(row["group"], row["group"]))
            continue
        held_out = min(sizes, key=lambda source: (sizes[source], source))
        pure = [row for row in members if len(sources[row["group"]]) == 1]
        unseen = [row for row in pure if row["source"] == held_out]
        unseen.sort(key=lambda row: (_share(row["group"]), row["file"]))
        splits |= {row["file"]: "test" for row in unseen[:MAX_TEST_PHOTOS]}
        for row in pure:
            if row["source"] != held_out:
                group = joined.get(row["group"], row["group"])
                splits[row["file"]] = _split_of_group(group, test=False)
    found = defaultdict(set)
    for row in rows:
        if row["file"] in splits:
            found[joined.get(row["group"], row["group"])].add(splits[row["file"]])
    # A scene under two classes whose splits are made in different ways may fall into two.
    torn = {group for group, several in found.items() if len(several) > 1}
    for row in rows:
        if joined.get(row["group"], row["group"]) in torn:
            splits.pop(row["file"], None)
    return splits


def pack(photos_dir: str | Path, out_npz: str | Path, size: int = 160) -> None:
    """Decode every photo of the manifest once and write all pixels to one archive.

    The archive holds `files`, the paths, and `pixels`, uint8 of shape (N, size, size, 3) in that
    order, made by the same code as a request's photo (`embervlm.imaging`): scale, then crop the
    centre. It is not compressed, because photos hardly shrink.
    """
    # Here, because reading the table needs no progress bar.
    from tqdm import tqdm

    Path(out_npz).parent.mkdir(parents=True, exist_ok=True)
    files = [row["file"] for row in _read_manifest(photos_dir)]
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for index, file in enumerate(tqdm(files, desc=f"decode to {size} px", unit="photo")):
        pixels[index] = crop_square(load_image(Path(photos_dir) / file), size)
    unfinished = Path(out_npz).with_suffix(".unfinished")
    with unfinished.open("wb") as target:
        np.savez(target, files=np.array(files), pixels=pixels)
        target.flush()
        os.fsync(target.fileno())
    unfinished.replace(out_npz)


def write_table(
    photos_dir: str | Path,
    table: str | Path = TABLE,
    *,
    excluded: str | Path = EXCLUDED,
    same: str | Path = SAME,
) -> list[Photo]:
    """Assign the splits, hash the files, write the table and return what was written."""
    rows = _read_manifest(photos_dir)
    joined = json.loads(Path(same).read_text(encoding="utf-8"))
    splits = assign_splits(rows, json.loads(Path(excluded).read_text(encoding="utf-8")), joined)
    photos = [
        Photo(
            file=row["file"],
            place=row["class"],
            environment=row["environment"],
            split=splits[row["file"]],
            group=joined.get(row["group"], row["group"]),
            sha256=hashlib.sha256((Path(photos_dir) / row["file"]).read_bytes()).hexdigest()[:16],
            licence=row["licence"],
        )
        for row in rows
        if row["file"] in splits
    ]
    lines = []
    for photo in photos:
        fields = dict(vars(photo))
        fields["class"] = fields.pop("place")
        lines.append(json.dumps(fields, ensure_ascii=False, sort_keys=True) + "\n")
    unfinished = Path(table).with_suffix(".unfinished")
    unfinished.write_text("".join(lines), encoding="utf-8")
    unfinished.replace(table)
    return photos


def _split_of_group(group: str, *, test: bool = True) -> str:
    """Return the split of a group; without a test share the other two grow in proportion."""
    share = _share(group) * (1.0 if test else TRAIN_SHARE + VALIDATION_SHARE)
    if share < TRAIN_SHARE:
        return "train"
    return "validation" if share < TRAIN_SHARE + VALIDATION_SHARE else "test"


def _share(group: str) -> float:
    """Return a number in [0, 1) that depends on the group's name and the salt alone."""
    return int(hashlib.sha256(f"{SALT}:{group}".encode()).hexdigest()[:12], 16) / 16**12


def _read_manifest(photos_dir: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in json_lines(Path(photos_dir) / "manifest.jsonl")]


def main() -> None:
    """Write `data/photos.jsonl` and, if asked, the archives of pixels."""
    parser = argparse.ArgumentParser(description="Write data/photos.jsonl.")
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds photos/")
    parser.add_argument("--pack", type=Path, help="also write photos-<size>.npz into this folder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[160], help="pixels a side")
    arguments = parser.parse_args()
    write_table(arguments.shared / "photos")
    if arguments.pack:
        for size in arguments.sizes:
            pack(arguments.shared / "photos", arguments.pack / f"photos-{size}.npz", size)


if __name__ == "__main__":
    main()
