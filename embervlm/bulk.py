"""Many lines on many cores or machines: Ray Data gives blocks of lines to actors with an engine
each.

    run = decide_in_bulk(load, Path("requests"), Path("decisions"), settings={...}, top_k=None,
                         reasoning=True, actors=8, tell=print)

A block is a stretch of an input file: some hundreds of lines, with the number of its first. An
actor decides them and writes a part, by way of a temporary file and a rename, so a part is whole or
not there. `cat DIR/part-*.jsonl` is what `embervlm decide --batch` writes, byte for byte.

`DIR/manifest.jsonl` has the settings in its first line and a line for each finished part: the
digest of the lines it answers, and its own. A run that begins again does what is missing there, or
no longer fits. An actor that dies is replaced and its block done again by Ray; since a block always
gives the same part, that loses nothing and writes nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embervlm.intake import MAX_LINE_BYTES, decide_line, numbered_lines

if TYPE_CHECKING:
    from embervlm.selector import Selector

MANIFEST = "manifest.jsonl"
LINES_A_BLOCK = 500
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Block:
    """Lines of an input file, `first_line` (from 1) and those after it, which `part` answers."""

    part: str
    path: str
    offset: int
    size_bytes: int
    first_line: int
    lines: int
    digest: str


@dataclass(frozen=True)
class Finished:
    """A part that is written: of which block, how many lines it answers, how many with an error.

    `missed` of them were decided without lessons, since these could not be asked; `fault` says why.
    """

    part: str
    block: str
    digest: str
    decided: int
    failed: int
    missed: int = 0
    fault: str = ""


@dataclass(frozen=True)
class BulkRun:
    """What a run found and did; `resumed` parts were there already."""

    decided: int
    failed: int
    parts: int
    resumed: int
    missed: int
    fault: str


def decide_in_bulk(
    load: Callable[[], Selector],
    source: Path,
    target: Path,
    *,
    settings: Mapping[str, Any],
    top_k: int | None,
    reasoning: bool,
    actors: int | None = None,
    lines_a_block: int = LINES_A_BLOCK,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> BulkRun:
    """Decide every line of a file, or of the files *.jsonl of a folder, into parts in `target`.

    Args:
        load: returns the selector of an actor; it is called in another process.
        source: the file, or the folder.
        target: the folder of the parts; it is made if it is not there.
        settings: what answers depend on, as JSON values; a folder is only gone on with by the same.
        top_k: see `Selector.decide`.
        reasoning: see `Selector.decide`.
        actors: how many at most; None is one for each core of the cluster.
        lines_a_block: how many lines an actor does at a time.
        tell: gets how many blocks are done, and how many there are.

    Raises:
        ValueError: the input cannot be read, or the folder is of another run.
    """
    blocks = list(plan_blocks(source, lines_a_block))
    target.mkdir(exist_ok=True)
    kept = _finished_before(target, blocks, settings)
    todo = [block for block in blocks if block.part not in kept]
    done = dict(kept)
    tell(len(done), len(blocks))
    with (target / MANIFEST).open("a", encoding="utf-8") as manifest:
        for finished in _on_ray(load, todo, target, top_k, reasoning, actors):
            _append(manifest, asdict(finished))
            done[finished.part] = finished
            tell(len(done), len(blocks))
    for left in target.glob("part-*.unfinished"):  # by actors that died
        left.unlink()
    new = [one for one in done.values() if one.part not in kept]
    return BulkRun(
        decided=sum(one.decided for one in done.values()),
        failed=sum(one.failed for one in done.values()),
        parts=len(done),
        resumed=len(kept),
        missed=sum(one.missed for one in new),
        fault=next((one.fault for one in new if one.fault), ""),
    )


def inputs_of(source: Path) -> list[Path]:
    """Return the files of a run in order: a file, or the *.jsonl of a folder by their names.

    Raises:
        ValueError: there is none.
    """
    if source.is_file():
        return [source]
    found = sorted(path for path in source.glob("*.jsonl") if path.is_file())
    if not found:
        raise ValueError(f"{source} is no file and no folder with files *.jsonl; give one.")
    return found


def plan_blocks(source: Path, lines_a_block: int = LINES_A_BLOCK) -> Iterator[Block]:
    """Yield the blocks of all files, in order; a part's name says its file and its place there."""
    for number, path in enumerate(inputs_of(source)):
        place = str(path.absolute())
        for i, (offset, size, first, count, digest) in enumerate(_stretches(path, lines_a_block)):
            part = f"part-{number:05d}-{i:06d}.jsonl"
            yield Block(part, place, offset, size, first, count, digest)


def _stretches(path: Path, lines: int) -> Iterator[tuple[int, int, int, int, str]]:
    """Yield offset, size, first line, lines and digest; lines count as in `numbered_lines`."""
    with path.open("rb") as file:
        first, offset = 1, 0
        while True:
            digest, size, count = hashlib.sha256(), 0, 0
            while count < lines and (piece := file.readline(MAX_LINE_BYTES + 1)):
                digest.update(piece)
                size += len(piece)
                while piece and not piece.endswith(b"\n"):
                    piece = file.readline(MAX_LINE_BYTES + 1)
                    digest.update(piece)
                    size += len(piece)
                count += 1
            if not count:
                return
            yield offset, size, first, count, digest.hexdigest()
            first, offset = first + count, offset + size


def _finished_before(
    target: Path, blocks: Iterable[Block], settings: Mapping[str, Any]
) -> dict[str, Finished]:
    """Return the parts that are there and fit, by their names; write the manifest of these anew.

    Parts of an earlier run that answer no block any more are taken away.

    Raises:
        ValueError: the folder was begun with other settings, or holds something else.
    """
    path = target / MANIFEST
    told = json.loads(json.dumps(dict(settings)))
    rows = list(_rows(path)) if path.exists() else []
    if not rows and any(target.iterdir()):
        raise ValueError(f"--out {target} holds something else; give a folder of its own.")
    before = rows[0].get("settings", {}) if rows else told
    other = sorted(key for key in {*before, *told} if before.get(key) != told.get(key))
    if other:
        raise ValueError(
            f"--out {target} was begun with another {', '.join(other)}; repeat it as it was, or "
            "give another folder."
        )
    digests = {block.part: block.digest for block in blocks}
    kept: dict[str, Finished] = {}
    for row in rows[1:]:
        one = Finished(**row)
        part = target / one.part
        if not part.is_file():
            continue
        if digests.get(one.part) == one.block and _digest(part) == one.digest:
            kept[one.part] = one
    for part in target.glob("part-*.jsonl*"):
        if part.name not in kept:
            part.unlink()
    with _written_whole(path) as file:
        for row in ({"settings": told}, *(asdict(one) for one in kept.values())):
            file.write(json.dumps(row) + "\n")
    return kept


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a manifest, up to one that a killed run left half written."""
    for line in path.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return
        yield row


def _on_ray(
    load: Callable[[], Selector],
    blocks: list[Block],
    target: Path,
    top_k: int | None,
    reasoning: bool,
    actors: int | None,
) -> Iterator[Finished]:
    """Yield what the actors finish, in the order in which they finish it.

    Raises:
        ValueError: a block could not be read or its part not written.
    """
    if not blocks:
        return
    import ray
    import ray.data

    with cluster():
        resources: dict[str, float] = ray.cluster_resources()
        cores = max(1, int(resources.get("CPU", 1)))
        most = min(actors or cores, cores, len(blocks))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # progress is told by `tell`
        rows = [{"block": json.dumps(asdict(block))} for block in blocks]
        decided = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            BlockWorker,
            batch_size=1,
            fn_constructor_args=(load, str(target.absolute()), top_k, reasoning),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=1,
        )
        for row in decided.iter_rows():
            answer = json.loads(row["finished"])
            if "error" in answer:
                raise ValueError(answer["error"])
            yield Finished(**answer)


@contextmanager
def cluster() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine for the block.

    Nothing is told to Ray's makers: usage statistics are off unless RAY_USAGE_STATS_ENABLED is set.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


class BlockWorker:
    """An actor of Ray Data: one engine, which turns blocks into parts."""

    def __init__(
        self, load: Callable[[], Selector], target: str, top_k: int | None, reasoning: bool
    ) -> None:
        self._selector = load()
        self._target = Path(target)
        self._top_k, self._reasoning = top_k, reasoning

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the blocks of a batch; see `ray.data.Dataset.map_batches`."""
        return {"finished": [self._answer(Block(**json.loads(row))) for row in batch["block"]]}

    def _answer(self, block: Block) -> str:
        try:
            return json.dumps(asdict(self.decide(block)))
        except OSError as error:
            where = error.filename or block.path
            return json.dumps({"error": f"{where}: {error.strerror or error}."})
        except ValueError as error:
            return json.dumps({"error": str(error)})

    def decide(self, block: Block) -> Finished:
        """Decide the lines of a block and write its part.

        Raises:
            ValueError: the input is no longer what it was when the run began.
            OSError: a file cannot be read or written.
        """
        source, part = Path(block.path), self._target / block.part
        decided = failed = 0
        before, _ = self._missed()
        with source.open("rb") as lines, _written_whole(part) as written:
            if _digest_of(lines, block) != block.digest:
                raise ValueError(f"{source} was changed while it was read; run it again.")
            lines.seek(block.offset)
            own = takewhile(lambda pair: pair[0] <= block.lines, numbered_lines(lines))
            for number, line in own:
                record = decide_line(
                    self._selector,
                    block.first_line + number - 1,
                    line,
                    source.parent,
                    top_k=self._top_k,
                    reasoning=self._reasoning,
                )
                decided += 1
                failed += "error" in record
                written.write(json.dumps(record) + "\n")
        missed, fault = self._missed()
        return Finished(
            part=block.part,
            block=block.digest,
            digest=_digest(part),
            decided=decided,
            failed=failed,
            missed=missed - before,
            fault=fault if missed > before else "",
        )

    def _missed(self) -> tuple[int, str]:
        memory = self._selector.memory
        if memory is None:
            return 0, ""
        from embervlm.memory.store import LessonStore

        return memory.missed if isinstance(memory, LessonStore) else (0, "")


def _digest_of(file: Any, block: Block) -> str:
    file.seek(block.offset)
    digest, left = hashlib.sha256(), block.size_bytes
    while left and (piece := file.read(min(left, _CHUNK_BYTES))):
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _append(file: Any, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _written_whole(path: Path) -> Iterator[Any]:
    """Open a file that takes its name only when it is whole and on the disk.

    The temporary name is of this process, so that two which do the same block do not mix.
    """
    unfinished = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
