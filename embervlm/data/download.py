"""Fetch the public training sets of `public_sets.py`: resumed, verified, unpacked.

    embervlm data download coco vqav2 --minimal       # asks first; --check-only opens no connection

In the folder of a set, `a.zip` lies only when it is whole and right. Until then it is `a.zip.part`
(see `transfer.py`). `a.zip.fetched.json` is its record: the SHA-256 of what came, against which
`check` holds it later where its publisher states none. Archives are unpacked into `unpacked/` (see
`unpacking.py`). Whatever breaks off, the same command goes on from there.
"""

import contextlib
import errno
import hashlib
import os
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from embervlm.data.public_sets import SETS, RemoteFile
from embervlm.data.transfer import (
    DownloadError,
    Part,
    Report,
    StoppedError,
    check_space,
    read_json,
    receive,
    write_json,
)
from embervlm.data.unpacking import ArchiveError, unpack


@dataclass(frozen=True)
class Job:
    """One file to fetch into the folder of its set."""

    remote: RemoteFile
    folder: Path

    @property
    def name(self) -> str:
        """The set and the file, for people."""
        return f"{self.folder.name}/{self.remote.name}"

    @property
    def target(self) -> Path:
        """Where the whole file goes."""
        return self.folder / self.remote.name

    @property
    def part(self) -> Part:
        """What has come so far."""
        return Part(self.remote, self.folder / f"{self.remote.name}.part", self.name)

    @property
    def record(self) -> Path:
        """The size and SHA-256 of what came, and whether it has been unpacked."""
        return self.folder / f"{self.remote.name}.fetched.json"


def plan(names: Sequence[str], out: Path, *, minimal: bool = False) -> list[Job]:
    """Return the files of the sets, in the order of the names; some only, if `minimal`.

    Raises:
        ValueError: an unknown name, or a set that cannot be fetched by address.
    """
    if unknown := [name for name in names if name not in SETS]:
        raise ValueError(f"Unknown set {unknown[0]!r}; there are {', '.join(SETS)}.")
    if not names:
        raise ValueError(f"Name one set or more; there are {', '.join(SETS)}.")
    if manual := [name for name in names if SETS[name].instead]:
        reasons = "; ".join(f"{name}: {SETS[name].instead}" for name in manual)
        raise ValueError(f"This command cannot fetch {reasons}.")
    return [
        Job(remote, out / name)
        for name in dict.fromkeys(names)
        for remote in SETS[name].files
        if remote.minimal or not minimal
    ]


def describe(name: str, jobs: Sequence[Job]) -> str:
    """Return what a person should know of a set before agreeing to fetch these files of it."""
    one = SETS[name]
    lines = [
        f"{name}: {one.title}. {one.home}",
        f"  licence: {one.licence or 'not stated'} ({one.licence_source})",
    ]
    for remote in (job.remote for job in jobs if job.folder.name == name):
        size = f"{remote.size_bytes:,} bytes" if remote.size_bytes else remote.about
        checked = ", checksum known" if remote.sha256 else ""
        lines.append(f"  {remote.name}: {size or 'size not stated'}{checked}")
    if one.checksums:
        lines.append(f"  checksums by {one.checksums}")
    if one.photos_in:
        lines.append(f"  its photos are in the set {one.photos_in}")
    return "\n".join(lines)


def download(jobs: Sequence[Job], report: Report, *, retries: int = 5, workers: int = 4) -> int:
    """Fetch, verify and unpack the files; return how many could not be had, each told to `report`.

    Raises:
        ValueError: the disk is full, or another process fetches into the same folder.
        KeyboardInterrupt: Ctrl-C; its message says which parts are kept.
    """
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks:
        for folder in dict.fromkeys(job.folder for job in jobs):
            locks.enter_context(_locked(folder))
        try:
            absent = [job for job in jobs if job.remote.size_bytes and not job.target.is_file()]
            missing = sum((job.remote.size_bytes or 0) - job.part.size_bytes for job in absent)
            check_space(jobs[0].folder, missing)
            return _run(jobs, report, retries, workers)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(f"The disk is full ({error.strerror}). {_kept(jobs)}") from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Stopped. {_kept(jobs)}") from None


def check(jobs: Sequence[Job], report: Report) -> int:
    """Hold the files that are here against their checksums; return how many are wrong or missing.

    Opens no connection. Where no publisher's checksum is known, the record's counts.
    """
    faults = 0
    for job in jobs:
        record = read_json(job.record)
        expected = job.remote.sha256 or record.get("sha256")
        if not job.target.is_file():
            fault = f"is missing; {job.part.size_bytes:,} bytes of it have come"
        elif expected is None:
            fault = "has no record, so there is nothing to hold it against"
        elif (found := _sha256(job.target, job.name, report)) != expected:
            fault = f"is damaged: its SHA-256 is {found}, expected {expected}"
        elif job.remote.unpack and not record.get("unpacked"):
            fault = "is right, but not unpacked"
        else:
            report.say(f"{job.name} is right.")
            continue
        faults += 1
        report.say(f"{job.name} {fault}.")
    return faults


class LineReport:
    """Says everything in plain lines on stderr: each tenth of a file is one."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def say(self, sentence: str) -> None:
        """Write one line."""
        sys.stderr.write(" ".join(sentence.split()) + "\n")

    def advance(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Write a line if another tenth is there."""
        tenth = 10 * done_bytes // total_bytes if total_bytes else 0
        if tenth != self._tenths.setdefault(name, 0):
            self._tenths[name] = tenth
            self.say(f"{name}: {done_bytes:,} of {total_bytes:,} bytes.")


class BarReport:
    """Shows a bar with bytes and rate for each file; for a terminal."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
        )
        self._of: dict[str, TaskID] = {}

    def __enter__(self) -> "BarReport":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence above the bars."""
        self._bars.console.print(" ".join(sentence.split()), markup=False)

    def advance(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Move the bar of a file."""
        if name not in self._of:
            self._of[name] = self._bars.add_task(name, completed=done_bytes, total=total_bytes)
        self._bars.update(self._of[name], completed=done_bytes, total=total_bytes)


def _run(jobs: Sequence[Job], report: Report, retries: int, workers: int) -> int:
    """Let threads take one job after another, and wait for them in a way that Ctrl-C can end."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    stop = threading.Event()
    faults: list[str] = []
    broken: list[BaseException] = []

    def work() -> None:
        while not stop.is_set():
            try:
                _fetch(waiting.get_nowait(), report, retries, stop)
            except (queue.Empty, StoppedError):
                return
            except DownloadError as fault:
                faults.append(str(fault))
                report.say(str(fault))
            except BaseException as error:  # noqa: BLE001 - raised again by the main thread
                broken.append(error)
                stop.set()

    # Daemons: a server that says nothing shall not hold the process after Ctrl-C.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(jobs)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
    except KeyboardInterrupt:
        stop.set()
        for thread in threads:
            thread.join(1.0)
        raise
    if broken:
        raise broken[0]
    return len(faults)


def _fetch(job: Job, report: Report, retries: int, stop: threading.Event) -> None:
    """Bring one file to where it is whole, right, recorded and unpacked."""
    known = job.remote.sha256
    if not job.target.is_file():
        receive(job.part, report, retries=retries, stop=stop)
        _accept(job, report)
    elif read_json(job.record).get("size_bytes") == job.target.stat().st_size:
        report.say(f"{job.name} is there already.")
    elif known is None or _sha256(job.target, job.name, report) != known:
        raise DownloadError(f"{job.target} is not what was fetched; move it away to fetch it anew.")
    else:
        _write_record(job, job.target, known)
        report.say(f"{job.name} is there already.")
    if job.remote.unpack and not read_json(job.record).get("unpacked"):

        def keep_going() -> None:
            if stop.is_set():
                raise StoppedError

        try:
            count = unpack(job.target, job.folder / "unpacked", keep_going)
        except ArchiveError as error:
            raise DownloadError(f"{job.name} was not unpacked: {error}.") from error
        write_json(job.record, {**read_json(job.record), "unpacked": True})
        report.say(f"{job.name}: {count:,} files unpacked.")


def _accept(job: Job, report: Report) -> None:
    """Verify the part that has come whole, and give it its name.

    Raises:
        DownloadError: it has another checksum; it is thrown away.
    """
    found = _sha256(job.part.path, job.name, report)
    if job.remote.sha256 not in (None, found):
        job.part.discard()
        raise DownloadError(
            f"{job.name} came whole but is not the file expected: its SHA-256 is {found}, not "
            f"{job.remote.sha256}; it was thrown away."
        )
    with job.part.path.open("rb") as file:
        os.fsync(file.fileno())
    # The record first, so that the file is never here without it.
    _write_record(job, job.part.path, found)
    job.part.path.replace(job.target)
    _sync_folder(job.folder)
    job.part.state.unlink(missing_ok=True)
    checked = "as published" if job.remote.sha256 else f"SHA-256 {found} recorded"
    report.say(f"{job.name}: {job.target.stat().st_size:,} bytes, {checked}.")


def _write_record(job: Job, file: Path, sha256: str) -> None:
    record = {"url": job.remote.url, "size_bytes": file.stat().st_size, "sha256": sha256}
    write_json(job.record, {**record, "unpacked": False})


def _kept(jobs: Sequence[Job]) -> str:
    sizes = {job.part.path: job.part.size_bytes for job in jobs}
    parts = [f"{size:,} bytes in {path}" for path, size in sizes.items() if size]
    kept = f"Kept: {', '.join(parts)}. " if parts else ""
    return f"{kept}The same command goes on from here."


def _sha256(path: Path, name: str, report: Report) -> str:
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            report.advance(f"{name} (checking)", file.tell(), size)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    """Hold a set's folder, so that two processes do not write one part; a death lets it go."""
    with (folder / ".lock").open("ab") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{folder} is being fetched into by another process; wait for it to end."
                ) from None
        yield file
