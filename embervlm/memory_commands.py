"""The commands of `embervlm memory`: what was learnt, who taught it, and how to undo it.

embervlm memory add --task "reach the roof" --robots "Drone" --note "the stairs are gone"
embervlm memory list
embervlm memory forget 17
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embervlm.terminal import (
    BackendOption,
    FleetOption,
    MemoryOption,
    ModelOption,
    SiteOption,
    console,
    counted,
    load_selector,
    open_memory,
    printable,
    there,
    user_errors,
)

if TYPE_CHECKING:
    from embervlm.endpoint import Endpoint
    from embervlm.memory.entries import MemoryEntry

memory_app = typer.Typer(
    no_args_is_help=True, help="The lessons that decisions follow: see, teach, forget, undo."
)

AuthorOption = Annotated[
    str, typer.Option("--author", metavar="NAME", help="Who says so; kept with what is done.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
NumberArgument = Annotated[
    int, typer.Argument(metavar="NUMBER", help="The lesson's number.", min=1, show_default=False)
]

# A row of an export has a vector of some thousand digits and a request.
_MAX_ROW_BYTES = 500_000


@memory_app.command(name="list")
def list_lessons(
    words: Annotated[
        str | None,
        typer.Argument(
            metavar="WORDS", help="Only lessons that have all these words.", show_default=False
        ),
    ] = None,
    retired: Annotated[
        bool, typer.Option("--all", help="Also what was superseded or forgotten.")
    ] = False,
    as_json: JsonOption = False,
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """List the lessons in force, the newest last."""
    with user_errors(), open_memory(there(memory), site) as store:
        found = store.entries(words=words or "", retired=retired)
        states = [store.status(entry.id) for entry in found]
        if as_json:
            rows = [
                {**entry.to_dict(), "status": state}
                for entry, state in zip(found, states, strict=True)
            ]
            typer.echo(json.dumps(rows, indent=2))
            return
        if not found:
            typer.echo("No lessons.")
            return
        from rich.table import Table
        from rich.text import Text

        table = Table("lesson", "of", "request", "says", "by", "place", "state", show_lines=True)
        for entry, state in zip(found, states, strict=True):
            about = entry.metadata
            cells = (
                str(entry.id),
                about["time"][:10],
                _shortened(_asked(entry)),
                entry.content,
                about["author"],
                about["environment"].replace("_", " "),
                state,
            )
            style = "" if state == "in force" else "dim"
            table.add_row(*(Text(printable(cell), style=style) for cell in cells))
        console().print(table)


@memory_app.command(name="show")
def show_lesson(
    number: NumberArgument,
    as_json: JsonOption = False,
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """Show all that is kept of a lesson: what was asked, decided, corrected, by whom and when."""
    with user_errors(), open_memory(there(memory), site) as store:
        entry = store.get(number)
        record = {**entry.to_dict(), "status": store.status(number)}
        if as_json:
            typer.echo(json.dumps(record, indent=2))
            return
        typer.echo(printable(f"lesson {number}, {record['status']}: {entry.content}"))
        for name, value in {"entry_type": entry.entry_type, **entry.metadata}.items():
            told = value if isinstance(value, str) else json.dumps(value)
            typer.echo(printable(f"{name:16}{' '.join(told.split())}"))


@memory_app.command(
    name="add",
    epilog="""[bold]Examples[/bold]

embervlm memory add --task "look under the bridge" --robots "Robot with Legs"

embervlm memory add --task "carry it over" --image ramp.jpg --robots "Drone, Humanoid"
--note "the ramp is flooded" --author Ada

embervlm memory add --task "dust the snow globes" --robots Humanoid --misread snow

embervlm memory add --task "carry it over" --note "not the wheels, the ramp is flooded"
--feedback-model openai:http://localhost:8000/v1#qwen2.5

[bold]Notes[/bold]

Rules read the note first: who is asked for, which limit was missed. Where they find nothing the
model is asked, if one is named; its key is read from the variable OPENAI_API_KEY. What it says is
checked, and hard limits always win. If it fails, the note is kept as it is.
Exit code: 0 if the lesson is used from now on, 1 if it was kept in quarantine, 2 if nothing was
kept.""",
)
def add_lesson(
    robots: Annotated[
        str,
        typer.Option(
            "--robots", metavar="A,B", help="Who is right; or No Robot. Without it the note says."
        ),
    ] = "",
    task: Annotated[str | None, typer.Option("--task", metavar="TEXT", help="The request.")] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="PHOTO", help="The photo, if there was one.")
    ] = None,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why, in a few words.")] = "",
    feedback_model: Annotated[
        str | None,
        typer.Option(
            "--feedback-model",
            metavar="NAME",
            help="Who reads a note in which rules find nothing: openai:URL#model.",
        ),
    ] = None,
    misread: Annotated[
        str,
        typer.Option(
            "--misread",
            metavar="A,B",
            help="What was read in the request though it does not say so: load_kg, snow, team ...",
        ),
    ] = "",
    author: AuthorOption = "operator",
    fleet: FleetOption = None,
    backend: BackendOption = "native",
    model: ModelOption = None,
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """Teach which robots are right for a request; the next one that means the same follows it."""
    with user_errors():
        from embervlm.memory.lessons import CONTRADICTS
        from embervlm.scenario import Feedback, Scenario

        names, wrong = (
            [name.strip() for name in text.split(",") if name.strip()] for text in (robots, misread)
        )
        names = ["No Robot" if name.lower() == "no robot" else name for name in names]
        feedback = Feedback(names, note, author, wrong)
        scenario = Scenario(task=task, image=image)
        reader = _reader(feedback_model) if feedback_model else None
        with open_memory(memory, site) as store:
            selector = load_selector(backend, model, fleet, memory=store)
            decision = selector.decide(scenario, reasoning=False)
            entry = selector.learn(decision, feedback, model=reader)
        if why := entry.metadata.get("unread"):
            sys.stderr.write(printable(f"{why}\n"))
        typer.echo(printable(f"Lesson {entry.id}: {entry.content}"))
        if reason := entry.metadata.get("quarantine"):
            sys.stderr.write(printable(f"It is kept in quarantine and never used: {reason}\n"))
            if reason.startswith(CONTRADICTS):
                read = ", ".join(decision.needs.limits) or decision.environment
                sys.stderr.write(f"It was read: {read}. If one is not so, say it with --misread.\n")
            raise typer.Exit(1)


@memory_app.command(name="forget")
def forget_lesson(
    number: NumberArgument,
    erase: Annotated[
        bool, typer.Option("--erase", help="Destroy its words too; no rollback undoes that.")
    ] = False,
    author: AuthorOption = "operator",
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """Take a lesson out of force, and bring back the one that it replaced; 'rollback' undoes
    both."""
    with user_errors(), open_memory(there(memory), site) as store:
        restored = store.forget(number, author=author, erase=erase)
        typer.echo(f"Lesson {number} is {'erased' if erase else 'forgotten'}.")
        for older in restored:
            typer.echo(f"Lesson {older}, which it had replaced, is in force again.")


@memory_app.command(
    name="rollback",
    epilog="""[bold]Examples[/bold]

embervlm memory rollback --to 2026-05-03

embervlm memory rollback --to "2026-05-03 17:30"

A time without a zone is this machine's. A rollback can be undone: roll back to just before it.""",
)
def roll_back(
    to: Annotated[str, typer.Option("--to", metavar="TIME", help="A date, or a date and a time.")],
    author: AuthorOption = "operator",
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """Bring back what was in force at a time."""
    with user_errors(), open_memory(there(memory), site) as store:
        try:
            when = datetime.fromisoformat(to.strip()).astimezone()
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError(
                f"--to {to!r} is no time; give one such as 2026-05-03 or '2026-05-03 17:30'."
            ) from error
        back, gone = store.rollback(when, author=author)
        now = len(store.entries())
        typer.echo(f"{counted(back, 'lesson')} came back, {gone} went; now {now} in force.")


@memory_app.command(name="export")
def export_lessons(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="F.jsonl", help="Where to; without it, to stdout."),
    ] = None,
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """Write the lessons in force as JSON Lines, which 'import' reads."""
    with user_errors(), open_memory(there(memory), site) as store:
        lines = [json.dumps(row) + "\n" for row in store.export()]
        if out is None:
            sys.stdout.writelines(lines)
            return
        if out.is_dir():
            raise ValueError(f"{out} is a folder; give a file.")
        unfinished = out.with_name(out.name + ".unfinished")
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(out)
        typer.echo(f"{out}: {counted(len(lines), 'lesson')}.")


@memory_app.command(name="import")
def import_lessons(
    source: Annotated[Path, typer.Argument(metavar="F.jsonl", help="What 'export' wrote.")],
    author: AuthorOption = "operator",
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """Add exported lessons, all or none; what was imported before is not added again."""
    with user_errors(), open_memory(memory, site) as store:
        done = store.import_rows(_rows(source), author=author)
        retired = f" ({done.retired} out of force)" if done.retired else ""
        typer.echo(
            f"{counted(done.added, 'lesson')} added; {done.known} here before{retired}, "
            f"{done.older} left out because a newer one answers the same request."
        )


@memory_app.command(name="stats")
def show_stats(
    as_json: JsonOption = False, memory: MemoryOption = None, site: SiteOption = "default"
) -> None:
    """Count the lessons, check the log's digests, and say which is the newest."""
    with user_errors(), open_memory(there(memory), site) as store:
        found = store.stats()
        if as_json:
            typer.echo(json.dumps(found, indent=2))
            return
        for name, value in found.items():
            told = f"{value:,}" if isinstance(value, int) else value
            typer.echo(printable(f"{name.replace('_', ' '):16}{told}"))


@memory_app.command(name="consolidate")
def consolidate_lessons(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="F.jsonl",
            help="Also propose training rows; in DIR/scenarios.jsonl 'train --scenarios DIR' reads "
            "them.",
        ),
    ] = None,
    author: AuthorOption = "consolidate",
    fleet: FleetOption = None,
    backend: BackendOption = "native",
    model: ModelOption = None,
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """Merge lessons that say the same and retire those that newer ones contradict."""
    with user_errors(), open_memory(there(memory), site) as store:
        from embervlm.memory.consolidate import (
            check_proposed,
            consolidate,
            proposals,
            write_proposals,
        )

        if out is not None:
            check_proposed(out)
        selector = load_selector(backend, model, fleet)
        same_request = selector.calibration.same_request
        done = consolidate(store, same_request=same_request, fleet=selector.fleet, author=author)
        for older, newer in done.merged:
            typer.echo(f"Lesson {older} is merged into {newer}.")
        for older, newer in done.contradicted:
            typer.echo(f"Lesson {older} is retired: {newer} contradicts it.")
        typer.echo(f"{len(done.merged)} merged, {len(done.contradicted)} retired.")
        if out is not None:
            rows = proposals(store.entries(), selector.fleet)
            write_proposals(rows, out)
            proposed = counted(len(rows), "row")
            typer.echo(f"{out}: {proposed} proposed; read them before you train on them.")


def _reader(name: str) -> Endpoint:
    """Return the model that reads notes; somebody waits for it, so it is not asked for long.

    Raises:
        ValueError: it is no endpoint.
    """
    from embervlm.endpoint import Endpoint, EndpointSettings

    settings = EndpointSettings(max_tokens=300, timeout_s=30.0, retries=1, most_pause_s=5.0)
    return Endpoint(name, settings)


def _rows(source: Path) -> Iterator[Any]:
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if len(line) > _MAX_ROW_BYTES:
                raise ValueError(f"{source}, line {number}: longer than {_MAX_ROW_BYTES:,} bytes.")
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{source}, line {number}: not JSON.") from error


def _asked(entry: MemoryEntry) -> str:
    task = entry.metadata.get("task")
    photo = "a photo" if entry.metadata.get("photo") else ""
    return ", with ".join(part for part in (task, photo) if part) or "-"


def _shortened(words: str, most: int = 120) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"
