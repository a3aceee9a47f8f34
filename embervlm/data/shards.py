"""Images and captions as img2dataset writes them, in shards of about ten thousand.

    00000.tar           WebDataset: 000000000.jpg, 000000000.txt, 000000000.json, 000000001.jpg ...
    00000/              or the same as files in a folder,
    00000.parquet       with the columns key, status, url, caption ... beside either,
    00000.parquet       or that with a column jpg, which holds the images themselves

See github.com/rom1504/img2dataset, `writer.py`. A shard is read from front to back and never whole;
nothing is unpacked to the disk, so a member's name can do no harm.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from embervlm.data.example import (
    WHOLE,
    Example,
    ImageFolder,
    Part,
    Report,
    Turn,
    UnusableError,
    examples_of,
    is_inside,
    text,
)
from embervlm.imaging import MAX_FILE_BYTES

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
_MAX_WORDS_BYTES = 1_000_000
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Record:
    """An image and the columns beside it, both still to be read.

    What is read only when it is asked for costs nothing to the workers whose part it is not. Both
    raise `UnusableError` where there is nothing to read.
    """

    key: str
    image: Callable[[], Path | bytes]
    columns: Callable[[], dict[str, Any]]


def captioned(
    folder: str | Path, column: str, *, report: Report, part: Part = WHOLE, split: str | None = None
) -> Iterator[Example]:
    """Yield one example an image of all shards in a folder, with the caption of one column.

    Raises:
        ValueError: there are no shards, a parquet file is of another form, pyarrow is missing where
            it is needed, or nothing can be used.
    """
    root = ImageFolder(folder)
    records = (record for shard in _shards(root.path) for record in _records(shard, root))

    def make(record: Record) -> Example:
        if not is_inside(record.key):
            raise UnusableError("image outside the folder", record.key)
        turns = (Turn(None, text(record.columns(), column)),)
        return Example(record.key, report.source, record.image(), turns, split=split)

    return examples_of(records, make, report=report, part=part)


# A table beside an archive tells nothing new; beside a folder it tells what could not be fetched.
_RANK = {".tar": 0, ".parquet": 1, "": 2}


def _shards(folder: Path) -> list[Path]:
    """Return one path for each shard, in order: the archive, else the table, else the folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.stem, _RANK.get(path.suffix, 3))):
        # img2dataset keeps unfinished work in a folder _tmp.
        if path.name[0] not in "._" and (path.suffix in (".tar", ".parquet") or path.is_dir()):
            found.setdefault(path.stem, path)
    if not found:
        raise ValueError(
            f"{folder} holds no shards; expected 00000.tar, or 00000/ and 00000.parquet, as "
            "img2dataset writes them."
        )
    if tables := [path for path in found.values() if path.suffix == ".parquet"]:
        _check_columns(tables[0])
    return list(found.values())


def _records(shard: Path, root: ImageFolder) -> Iterator[Record]:
    """Yield the records of a shard; if it is damaged, one in place of all that cannot be read."""
    try:
        if shard.suffix == ".tar":
            yield from _in_archive(shard)
        elif shard.suffix == ".parquet":
            yield from _in_table(shard, root)
        else:
            yield from _in_folder(shard, root)
    except (tarfile.TarError, OSError, ValueError) as error:
        fault = UnusableError("rest of a damaged shard", f"{shard.name}: {error}")
        yield _unusable(shard.name, fault)


def _unusable(key: str, fault: UnusableError) -> Record:
    def raise_it() -> Any:
        raise fault

    return Record(key, raise_it, raise_it)


def _in_archive(path: Path) -> Iterator[Record]:
    """Yield the records of a tar; the members of one stand together and share their key."""
    with tarfile.open(path, "r:") as archive:
        key, members = "", dict[str, tarfile.TarInfo]()
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
            folder, slash, file = member.name.rpartition("/")
            stem, _, ending = file.partition(".")
            if (found := folder + slash + stem) != key and members:
                yield _archived(archive, key, members)
                members = {}
            key = found
            if member.isreg():
                members[ending.lower()] = member
        if members:
            yield _archived(archive, key, members)


def _archived(archive: tarfile.TarFile, key: str, members: dict[str, tarfile.TarInfo]) -> Record:
    def read(member: tarfile.TarInfo, limit: int) -> bytes:
        if member.size > limit:
            raise UnusableError(f"file above {limit:,} bytes", member.name)
        try:
            file = archive.extractfile(member)
            assert file is not None, "only regular files get here"
            return file.read()
        except (tarfile.TarError, OSError) as error:
            raise UnusableError("damaged file in a shard", f"{member.name}: {error}") from error

    def image() -> bytes:
        for ending in IMAGE_ENDINGS:
            if ending in members:
                return read(members[ending], MAX_FILE_BYTES)
        raise UnusableError("missing image", key)

    def columns() -> dict[str, Any]:
        beside: dict[str, bytes] = {
            ending: read(members[ending], _MAX_WORDS_BYTES)
            for ending in ("txt", "json")
            if ending in members
        }
        return _columns(key, beside)

    return Record(key, image, columns)


def _in_folder(path: Path, root: ImageFolder) -> Iterator[Record]:
    """Yield the records of a folder without a table beside it."""
    for stem in sorted({file.stem for file in path.iterdir() if file.name[0] != "."}):
        key = f"{path.name}/{stem}"

        def columns(key: str = key) -> dict[str, Any]:
            files = {ending: root.path / f"{key}.{ending}" for ending in ("txt", "json")}
            beside = {
                ending: file.read_bytes()[:_MAX_WORDS_BYTES]
                for ending, file in files.items()
                if file.is_file()
            }
            return _columns(key, beside)

        yield Record(key, partial(_find, root, key), columns)


def _in_table(path: Path, root: ImageFolder) -> Iterator[Record]:
    """Yield the records of a table: with the images in it, or in the folder of its name."""
    with _parquet().ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                key, image = f"{path.stem}/{row.get('key')}", row.pop("jpg", None)
                if (status := row.get("status", "success")) != "success":
                    yield _unusable(key, UnusableError(f"not fetched ({status})", key))
                elif image is not None:
                    yield Record(key, partial(_same, image), partial(_same, row))
                else:
                    yield Record(key, partial(_find, root, key), partial(_same, row))


def _same(found: Any) -> Any:
    """Return what a table has brought along already."""
    return found


def _find(root: ImageFolder, key: str) -> Path:
    return root.find(*(f"{key}.{ending}" for ending in IMAGE_ENDINGS))


def _columns(key: str, beside: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the columns of a record from the files beside its image, by their ending."""
    try:
        columns: dict[str, Any] = json.loads(beside.get("json", b"{}"))
        if "txt" in beside:
            columns["caption"] = beside["txt"].decode("utf-8")
    except (ValueError, TypeError, RecursionError):
        raise UnusableError("broken words beside the image", key) from None
    return columns


def _check_columns(path: Path) -> None:
    try:
        columns = set(_parquet().read_schema(path).names)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a parquet file ({error}); fetch it again.") from error
    if "key" not in columns:
        raise ValueError(
            f"{path} has no column key but {', '.join(sorted(columns))[:120]}, so it is a list of "
            "addresses; fetch the images with img2dataset and give its output folder."
        )


def _parquet() -> Any:
    # Here, because only tables need it, and it is large.
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError("Parquet files need pyarrow: pip install 'embervlm[parquet]'.") from error
    return parquet
