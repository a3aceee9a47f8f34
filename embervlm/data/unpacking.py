"""Unpack a zip or tar.gz archive from a stranger: files and folders below one folder, nothing else.

    unpack(Path("coco/val2017.zip"), Path("coco/unpacked"))     # 5,000

All names are checked before the first byte is written. Of a member only its name, its bytes and its
length count: no owner, mode or time, no link, no device. Each file is written elsewhere and moved
to its place when it is whole. Of a zip, what lies there already with the right CRC-32 stays; a tar
can only be read from its start, so it is unpacked anew.
"""

import gzip
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

MAX_FILES = 500_000
# Texts shrink to a tenth or a twentieth; a hundredth is a bomb.
MAX_GROWTH = 100
# A small archive may grow more: nobody fears 100 MB.
HARMLESS_BYTES = 100_000_000
RESERVED_BYTES = 50_000_000
_CHUNK_BYTES = 1 << 20
# What Python's readers raise on damaged input.
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError,
    ValueError, struct.error,
)  # fmt: skip


class ArchiveError(Exception):
    """An archive is damaged or holds what it should not; the message says what."""


@dataclass(frozen=True)
class _Member:
    name: str
    size_bytes: int
    is_folder: bool
    crc32: int | None
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, keep_going: Callable[[], object] = lambda: None) -> int:
    """Unpack an archive below a folder and return how many files it has.

    `keep_going` is called between files and may raise to end the work.

    Raises:
        ArchiveError: see the message; if a name, kind or size is wrong, nothing was written.
        OSError: the disk is full.
    """
    # Outside the folder, where no name of a member can be the same.
    fresh = archive.with_name(archive.name + ".unpacking")
    try:
        with _opened(archive) as members:
            _check(members(), archive, folder)
            count = 0
            for member in members():
                keep_going()
                place = folder / member.name
                if member.is_folder:
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                count += 1
                if member.crc32 is None or not _holds(place, member.size_bytes, member.crc32):
                    _write(member, fresh, place)
    except _DAMAGED as error:
        raise ArchiveError(f"it is damaged ({error})") from error
    except OSError as error:  # among them names that this disk does not take, and bad gzip
        if error.errno in (ENOSPC, EDQUOT):
            raise
        raise ArchiveError(f"{error.filename or 'it'}: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    if hasattr(os, "sync"):
        os.sync()
    return count


@contextmanager
def _opened(archive: Path) -> Iterator[Callable[[], Iterator[_Member]]]:
    """Open a zip or tar.gz archive; what is yielded goes through its members, as often as asked."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield lambda: _zip_members(opened)
    else:
        yield lambda: _tar_members(archive)


def _zip_members(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{info.filename!r} is a link or a device")
        yield _Member(
            info.filename,
            info.file_size,
            info.is_dir(),
            info.CRC,
            partial(opened.open, info),
        )


def _tar_members(archive: Path) -> Iterator[_Member]:
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as opened:
        for info in opened:
            if not (info.isreg() or info.isdir()):
                raise ArchiveError(f"{info.name!r} is a link or a device")
            if hasattr(tarfile, "data_filter"):  # from Python 3.11.4
                tarfile.data_filter(info, str(archive.parent))
            yield _Member(
                info.name,
                info.size,
                info.isdir(),
                None,
                partial(_taken, opened, info),
            )
        # A tar ends before its gzip does, whose end has the checksum over all.
        while stream.read(_CHUNK_BYTES):
            pass


def _taken(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = opened.extractfile(info)
    assert file is not None, "only regular files come here"
    return file


def _check(members: Iterator[_Member], archive: Path, folder: Path) -> None:
    """Go through all members before anything is written.

    Raises:
        ArchiveError: a name leads out of the folder, or it is all too much.
        OSError: ENOSPC: the disk has not enough room for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = folder.resolve()
    may = max(HARMLESS_BYTES, MAX_GROWTH * archive.stat().st_size)
    total = missing = 0
    for count, member in enumerate(members, start=1):
        path = PurePosixPath(member.name)
        place = (root / path).resolve()
        inside = place.is_relative_to(root) and (member.is_folder or place != root)
        if path.is_absolute() or ".." in path.parts or not inside:
            raise ArchiveError(f"{member.name!r} leads out of the folder")
        total += member.size_bytes
        if count > MAX_FILES or total > may:
            raise ArchiveError(f"it grows to more than {may:,} bytes or {MAX_FILES:,} files")
        if not (place.is_file() and place.stat().st_size == member.size_bytes):
            missing += member.size_bytes
    free = shutil.disk_usage(folder).free
    if missing + RESERVED_BYTES > free:
        said = f"{archive.name} unpacks to {missing:,} bytes and {free:,} are free"
        raise OSError(ENOSPC, said, str(folder))


def _holds(place: Path, size_bytes: int, crc32: int) -> bool:
    """Return whether a whole file lies there from an earlier run."""
    if not place.is_file() or place.stat().st_size != size_bytes:
        return False
    found = 0
    with place.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found = zlib.crc32(chunk, found)
    return found == crc32


def _write(member: _Member, fresh: Path, place: Path) -> None:
    with member.open() as source, fresh.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)
    if fresh.stat().st_size != member.size_bytes:
        raise ArchiveError(f"{member.name!r} is shorter than it should be")
    fresh.replace(place)
