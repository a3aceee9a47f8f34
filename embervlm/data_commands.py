"""`embervlm data check` and `data download`, what is learnt from; `fleet show`, who can be sent.

embervlm data check
embervlm data download coco vqav2 --minimal
embervlm fleet show --fleet my-fleet.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import FleetOption, console, counted, printable, user_errors

fleet_app = typer.Typer(no_args_is_help=True, help="The robots that can be sent.")

DOWNLOAD_EPILOG = """[bold]Examples[/bold]

embervlm data download coco vqav2 --minimal

embervlm data download coco --out /data/public --yes

Without a name it says which sets there are. What broke off goes on with the same command.
Exit code: 0 if all files are here and right, 1 if some are not, 2 if nothing was done."""


def check_data(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", metavar="DIR", help="Folder of the sets; without it, the repository's."
        ),
    ] = None,
) -> None:
    """Count the scenarios, and fail on leaks, duplicates across splits and wrong labels."""
    with user_errors():
        from rich.table import Table

        from embervlm.data.scenarios import SPLITS, check, files_of, load

        table = Table("set", *SPLITS, title="Scenarios")
        for name in files_of(directory):
            splits = [row.get("split") for row in load(name, directory=directory)]
            table.add_row(name, *(f"{splits.count(split):,}" for split in SPLITS))
        console().print(table)
        faults = check(directory)
        for fault in faults:
            sys.stderr.write(printable(fault) + "\n")
        typer.echo(counted(len(faults), "fault") if faults else "No faults.")
        if faults:
            raise typer.Exit(1)


def download_data(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="The sets.", show_default=False)
    ] = None,
    minimal: Annotated[
        bool, typer.Option("--minimal", help="Only the annotations and the smallest split.")
    ] = False,
    check_only: Annotated[
        bool, typer.Option("--check-only", help="Only check what is here; opens no connection.")
    ] = False,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", help="For each file, in a row.", min=0, max=100)
    ] = 5,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Each set gets a folder in it.")
    ] = Path("public-data"),
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Files at a time.", min=1, max=32)
    ] = 4,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Fetch public training sets, after showing their sizes and licences; resumes and verifies."""
    with user_errors():
        from contextlib import ExitStack

        from embervlm.data.download import BarReport, LineReport, check, describe, download, plan

        jobs = plan(names or [], out, minimal=minimal)
        if not check_only:
            for name in dict.fromkeys(names or []):
                typer.echo(describe(name, jobs))
            if not yes:
                if not sys.stdin.isatty():
                    raise ValueError("There is no terminal to ask on: give --yes to agree.")
                if not typer.confirm("Fetch them, and keep to their licences?"):
                    raise ValueError("Nothing was fetched.")
        with ExitStack() as bars:
            on_terminal = sys.stderr.isatty()
            report = bars.enter_context(BarReport()) if on_terminal else LineReport()
            try:
                if check_only:
                    faults = check(jobs, report)
                else:
                    faults = download(jobs, report, retries=retries, workers=workers)
            except KeyboardInterrupt as stopped:
                report.say(str(stopped) or "Stopped.")
                raise typer.Exit(130) from None
        if faults:
            sys.stderr.write(f"{faults} of {len(jobs)} files are not here or not right.\n")
            raise typer.Exit(1)


@fleet_app.command(name="show")
def show_fleet(fleet: FleetOption = None) -> None:
    """Show the robots: what each can do, where, and up to which numbers."""
    with user_errors():
        from rich.table import Table
        from rich.text import Text

        from embervlm.fleet import LIMIT_UNITS, Fleet

        robots = Fleet.from_yaml(fleet) if fleet else Fleet.default()
        table = Table(show_lines=True)
        for title in ("robot", "can", "works in", "limits", "there are"):
            table.add_column(title, overflow="fold")
        for robot in robots:
            limits = [
                f"{key.rpartition('_')[0].replace('_', ' ')} {robot.limits[key]:g} {unit}"
                for key, unit in LIMIT_UNITS.items()
                if key in robot.limits
            ]
            cells = (
                robot.name,
                ", ".join(sorted(robot.capabilities)),
                ", ".join(sorted(robot.environments)),
                "\n".join(limits),
                f"{robot.count}, {robot.status}",
            )
            table.add_row(*(Text(printable(cell)) for cell in cells))
        console().print(table)
