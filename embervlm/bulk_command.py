"""`embervlm decide --batch`: many requests, line by line here or, with --ray, on many engines.

    embervlm decide --batch requests.jsonl --out decisions.jsonl
    embervlm decide --batch requests/ --ray --out decisions/

For `bulk` and its actors the options are plain values, since each actor is another process, perhaps
on another machine, which reads the model, the fleet and the lessons for itself. Files are named by
whole paths: on several machines they lie in a folder that all of them see.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import embervlm
from embervlm.checkpoint import SHIPPED
from embervlm.intake import decide_line, numbered_lines
from embervlm.terminal import load_selector, open_memory, printable

if TYPE_CHECKING:
    from embervlm.live import FleetState
    from embervlm.selector import Selector


@dataclass(frozen=True)
class BulkOptions:
    """The options of `embervlm decide` that change answers; `lessons` is their place, or None."""

    backend: str
    model: Path | None
    fleet: Path | None
    threads: int
    own_words: bool
    lessons: str | None
    site: str
    state: FleetState | None
    exclude: tuple[str, ...]

    def load(self) -> Selector:
        """Return the selector of one actor.

        Raises:
            ValueError: a file is missing or wrong, or a robot is not in the fleet.
        """
        store = open_memory(self.lessons, self.site) if self.lessons else None
        selector = load_selector(
            self.backend,
            self.model,
            self.fleet,
            threads=self.threads,
            own_words=self.own_words,
            memory=store,
        )
        return selector.at(self.state, self.exclude)

    def settings(self) -> dict[str, Any]:
        """Return what must be the same for a run to be gone on with; files by their digests.

        Lessons are named by their place alone: what is learnt while a run goes on, or between two
        of them, changes what is decided from then on.
        """
        return {
            "embervlm": embervlm.__version__,
            "--backend": self.backend,
            "--model": _digest(self.model or SHIPPED),
            "--fleet": _digest(self.fleet) if self.fleet else None,
            "--own-words": self.own_words,
            "--memory": hashlib.sha256(self.lessons.encode()).hexdigest() if self.lessons else None,
            "--site": self.site,
            "--state": asdict(self.state) if self.state else None,
            "--exclude": list(self.exclude),
        }


def check_batch_files(source: Path, target: Path) -> None:
    """Fail before the model is loaded if a batch cannot be read or written.

    Raises:
        ValueError: see the message.
    """
    if not source.is_file():
        raise ValueError(f"{source} is not a file; give a file with one JSON object a line.")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise ValueError(f"{target} cannot be written: give a file in a folder that is there.")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the input itself; write to another file.")


def decide_batch(
    selector: Selector, source: Path, target: Path, *, top_k: int | None, reasoning: bool
) -> tuple[int, int]:
    """Decide every line of `source`; return how many lines there were and how many failed.

    `target` appears when all is done. If the run is broken off, what was done stays in the file
    with `.unfinished` behind its name.
    """
    from rich.console import Console
    from rich.progress import Progress

    unfinished = target.with_name(target.name + ".unfinished")
    count = failed = 0
    with (
        source.open("rb") as lines,
        unfinished.open("w", encoding="utf-8") as written,
        Progress(console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("deciding", total=max(1, source.stat().st_size))
        for number, line in numbered_lines(lines):
            record = decide_line(
                selector, number, line, source.parent, top_k=top_k, reasoning=reasoning
            )
            count += 1
            failed += "error" in record
            written.write(json.dumps(record) + "\n")
            progress.update(bar, completed=lines.tell())
        written.flush()
        os.fsync(written.fileno())
    unfinished.replace(target)
    return count, failed


def decide_batch_on_ray(
    options: BulkOptions,
    source: Path,
    target: Path,
    *,
    top_k: int | None,
    reasoning: bool,
    actors: int | None,
) -> tuple[int, int]:
    """Decide every line of a file or folder; return how many lines there were and how many failed.

    Raises:
        ValueError: an option is wrong, or see `bulk.decide_in_bulk`.
    """
    import ray  # noqa: F401  # says at once what is missing
    from rich.console import Console
    from rich.progress import Progress

    from embervlm.bulk import decide_in_bulk, inputs_of

    if not source.exists():
        raise ValueError(f"{source} is not there; give a file, or a folder with files *.jsonl.")
    folder = source if source.is_dir() else source.parent
    if target.is_file() or not target.absolute().parent.is_dir():
        raise ValueError(
            f"--out {target} must be a folder, or a new one in a folder that is there."
        )
    if target.is_dir() and target.samefile(folder):
        raise ValueError(f"--out {target} is where the input lies; give a folder of its own.")
    inputs_of(source)
    options.load()  # what is wrong with them is told before actors are started
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("deciding", total=None)
        run = decide_in_bulk(
            options.load,
            source,
            target,
            settings={**options.settings(), "--top-k": top_k, "--reasoning": reasoning},
            top_k=top_k,
            reasoning=reasoning,
            actors=actors,
            tell=lambda done, total: progress.update(bar, completed=done, total=total or 1),
        )
    if run.resumed:
        sys.stderr.write(f"{run.resumed} of {run.parts} parts were there already.\n")
    if run.missed:
        sys.stderr.write(
            f"embervlm: {printable(run.fault)} {run.missed} decided without lessons.\n"
        )
    return run.decided, run.failed


def _digest(path: Path) -> str:
    """Return the digest of a file, or of all files of a folder."""
    total = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield path
