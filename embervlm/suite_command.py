"""`embervlm data export-suite` and `embervlm suite`: standard suites, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import user_errors


def export_suite(
    kind: Annotated[str, typer.Argument(metavar="SUITE", help="vlmevalkit or lmms-eval.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder, new or old.")],
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "test",
    shared: Annotated[
        Path | None,
        typer.Option("--shared", metavar="DIR", help="Folder of the photos: their requests too."),
    ] = None,
) -> None:
    """Write our requests in the formats of VLMEvalKit or lmms-eval (docs/suites.md)."""
    with user_errors():
        from embervlm.suites.export import export_suite as export

        for path in export(kind, split, shared, out):
            typer.echo(path)


def add_suites(app: typer.Typer, data_app: typer.Typer) -> None:
    """Add the commands to the command line."""
    data_app.command(name="export-suite")(export_suite)
