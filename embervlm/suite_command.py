"""`embervlm data export-suite` and `embervlm suite`: standard suites, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import console, printable, user_errors


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


def suite(
    name: Annotated[str, typer.Argument(metavar="SUITE", help="mme, mmbench, textvqa, ...")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The suite's file or folder.")],
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="M", help="openai:URL#name, transformers:NAME or embervlm:[FILE]."
        ),
    ],
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="M", help="MM-Vet: openai:URL#name.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="F.jsonl", help="Answers are kept here."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="The first N questions.", min=1)
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="So many at once.", min=1)
    ] = 4,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="F", help="Write the report to this file too.")
    ] = None,
) -> None:
    """Ask a model a standard suite's questions from a local file; chance beside every score."""
    with user_errors():
        from rich.table import Table
        from rich.text import Text

        from embervlm.evaluation.report import check_file, write_report
        from embervlm.suites.asking import DEFAULT_ANSWERS
        from embervlm.suites.running import run_suite

        if json_out is not None:
            check_file(json_out)
        report = run_suite(
            name, file, model, answers or DEFAULT_ANSWERS, judge=judge, limit=limit, workers=workers
        )
        if json_out is not None:
            write_report(report, json_out)
        title = f"{report['suite']}: {report['model']}, {report['items']:,} questions"
        table = Table("", "score", "95 % interval", "chance", "n", title=printable(title))
        for figure, one in report["figures"].items():
            interval = "-" if one["low"] is None else f"{one['low']:.1f} to {one['high']:.1f}"
            chance = "-" if figure == "unreadable" else f"{one['chance']:.1f}"
            cells = (f"{one['value']:.1f}", interval, chance, f"{one['n']:,}")
            table.add_row(Text(printable(figure)), *cells)
        console().print(table)
        for what in ("left out", "without an answer"):
            found = report["asked"].get(what) or report.get(what) or {}
            for why, count in found.items():
                typer.echo(f"{what}: {count:,} {printable(why)}")


def add_suites(app: typer.Typer, data_app: typer.Typer) -> None:
    """Add the commands to the command line."""
    data_app.command(name="export-suite")(export_suite)
    app.command()(suite)
