"""The rows of a publisher's files, whatever their form, and the photos that rows speak of.

A path is a file (.jsonl, .json, .parquet, .csv) or a folder of such files, read in the order of
their names. A line that is no record is counted under its reason and never dropped in silence.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from embervlm.imaging import load_image
from embervlm.reasoner.problems import BrokenRecordError, Case, Loaded

ENDINGS = (".jsonl", ".json", ".parquet", ".csv")
_BATCH = 32

Row = dict[str, Any]
# A row, or why a line is none; with the folder from which its paths count, and its name.
Record = tuple[Row | None, Path, str]


def load_cases(
    path: Path,
    layout: str,
    needed: Sequence[str],
    read: Callable[[Row, Path, str], Case],
    *,
    limit: int | None = None,
) -> Loaded:
    """Return the cases of the first `limit` records that are one; None is all.

    `read` makes a case of a row, the folder of its file and its name, or raises
    BrokenRecordError. `layout` and the columns `needed` are what the user is told was expected.

    Raises:
        ValueError: the path is not there, is of another layout, or has no problem.
    """
    records = read_records(path)
    first = next(records, None)
    if first is None:
        raise ValueError(f"{path} has no records; expected {layout}.")
    if first[0] is not None and (missing := [name for name in needed if name not in first[0]]):
        has = ", ".join(map(str, first[0]))[:120]
        raise ValueError(
            f"{path} is not {layout}: it has no {missing[0]!r} but {has}; check --data."
        )
    loaded = Loaded()
    for row, folder, name in chain([first], records):
        if limit is not None and len(loaded.cases) >= limit:
            break
        try:
            if row is None:
                raise BrokenRecordError("that are no record")
            if any(one not in row for one in needed):
                raise BrokenRecordError("without a column")
            loaded.cases.append(read(row, folder, name))
        except BrokenRecordError as error:
            loaded.left_out[str(error)] += 1
        except ValueError:
            loaded.left_out["that are no problem"] += 1
    if not loaded.cases:
        raise ValueError(f"{path} has no problem that can be asked: {loaded.sentence()}")
    return loaded


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file or of a folder's files.

    Raises:
        ValueError: there is no such file, or one is damaged as a whole.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS)
        if not files:
            raise ValueError(f"{path} has no file that ends with {', '.join(ENDINGS)}.")
    elif path.is_file():
        files = [path]
    else:
        raise ValueError(f"{path} is not there; give the publisher's file or folder.")
    for file in files:
        reader = _READERS.get(file.suffix)
        if reader is None:
            raise ValueError(f"{file} must end with {', '.join(ENDINGS)}.")
        # Images lie beside the file, or beside the folder `data` in which it is.
        for number, row in enumerate(reader(file), start=1):
            yield row, file.parent, f"{file.stem}-{number}"


def photo_of(value: Any, folder: Path) -> bytes | None:
    """Return the image file that a column holds: bytes, or a path under the folder; None if empty.

    Raises:
        BrokenRecordError: it is missing, lies elsewhere, or cannot be read as an image.
    """
    content = value.get("bytes") if isinstance(value, dict) else None
    if content is None:
        place = value.get("path") if isinstance(value, dict) else value
        if not place:
            return None
        if not isinstance(place, str):
            raise BrokenRecordError("whose image is no image")
        content = _file(place, folder)
    try:
        load_image(content)
    except ValueError as error:
        raise BrokenRecordError("whose image cannot be read") from error
    return bytes(content)


def words_of(row: Row, column: str) -> str:
    """Return a text of a row.

    Raises:
        BrokenRecordError: it is none, or empty.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise BrokenRecordError(f"without {column}")
    return value.strip()


def _file(place: str, folder: Path) -> bytes:
    roots = (folder, folder / "images", folder.parent, folder.parent / "images")
    for root in roots:
        found = (root / place).resolve()
        if found.is_file():
            if not any(found.is_relative_to(one.resolve()) for one in roots):
                raise BrokenRecordError("whose image lies outside their folder")
            return found.read_bytes()
    raise BrokenRecordError("whose image is missing")


def _json_lines(path: Path) -> Iterator[Row | None]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                yield _object(line)


def _json(path: Path) -> Iterator[Row | None]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch it again.") from error
    # MathVista's files map a problem's number to its record.
    rows: Iterable[Any] = found.values() if isinstance(found, dict) else found
    if not isinstance(found, dict | list):
        raise ValueError(f"{path} holds no list of records.")
    for row in rows:
        yield row if isinstance(row, dict) else None


def _parquet(path: Path) -> Iterator[Row | None]:
    # Here, because only tables need it, and it is large.
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError("Parquet files need pyarrow: pip install 'embervlm[parquet]'.") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=_BATCH):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} is no sound parquet file ({reason}); fetch it again.") from error


def _csv(path: Path) -> Iterator[Row | None]:
    """Yield rows without a heading, by the number of the column: MMLU's own form."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for cells in csv.reader(file):
            yield {str(i): cell for i, cell in enumerate(cells)}


def _object(line: str) -> Row | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_READERS: dict[str, Callable[[Path], Iterator[Row | None]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
}
