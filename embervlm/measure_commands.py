"""The commands that measure: `embervlm eval`, `plot` and `bench`; `doctor`, for what is installed.

    embervlm eval --split validation --report build/report
    embervlm plot build/report/report.json --out build/pictures
    embervlm bench --backends native,onnx=build/onnx --threads 1,2
    embervlm doctor

`eval` measures a model of ours or, through `outside_command`, one from outside.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import BackendOption, console, printable, user_errors

# What no model has learnt; figures of the training split would be taken for more than they are.
HELD_OUT = ("validation", "test")


def evaluate(
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "test",
    json_out: Annotated[
        Path | None,
        typer.Option("--json", metavar="F", help="Write every figure to this file too."),
    ] = None,
    shared: Annotated[
        Path | None,
        typer.Option("--shared", metavar="DIR", help="Folder of the photos and external sets."),
    ] = None,
    scenarios: Annotated[
        str,
        typer.Option("--scenarios", metavar="DIR", help="Your own requests, in place of data/."),
    ] = "",
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Fit and measure the baselines too.")
    ] = True,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Only this part, such as requests, calibration or photos; may be repeated.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Write report.html, .md and .json there."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="F", help="An earlier report.json: what has changed?"),
    ] = None,
    watts: Annotated[
        float | None,
        typer.Option("--watts", metavar="W", help="The stated draw, where no counter is read."),
    ] = None,
    co2e: Annotated[
        float | None,
        typer.Option("--co2e-g-per-kwh", metavar="G", help="The stated carbon intensity."),
    ] = None,
    backend: BackendOption = "native",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="M",
            help="A model file of ours, or one from outside: openai:URL#name, transformers:NAME.",
        ),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="F.jsonl", help="From outside: answers are kept here."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="From outside: the first N cases.", min=1),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="From outside: so many at once.", min=1),
    ] = None,
) -> None:
    """Measure the model and what it must beat, with intervals. Needs the train extra."""
    with user_errors():
        if split not in HELD_OUT:
            raise ValueError(f"--split is {split!r}; it is {' or '.join(HELD_OUT)}.")
        from embervlm.outside_command import evaluate_outside, is_outside

        if model is not None and is_outside(model):
            if backend != "native":
                raise ValueError(f"{model} has no backend of ours; leave out --backend.")
            if scenarios:
                raise ValueError(f"--scenarios is for models of ours, not for {model}.")
            status = evaluate_outside(
                model,
                split,
                shared,
                answers=answers,
                only=only or None,
                with_ours=baselines,
                limit=limit,
                workers=workers,
                json_out=json_out,
                folder=folder,
            )
            raise typer.Exit(status)
        if answers or limit or workers:
            raise ValueError(
                "--answers, --limit and --workers are for a model from outside; give --model "
                "openai:URL#name or transformers:NAME, or leave them out."
            )
        from embervlm.evaluation.efficiency import Efficiency
        from embervlm.evaluation.run import run

        def quantize(given: Path | None, out: Path, bits: str) -> None:
            from embervlm.export import quantize

            quantize.quantize(given, out, bits)

        demo = Path(__file__).parent / "demo" / "seabed.jpg"
        status = run(
            split=split,
            model=Path(model) if model is not None else None,
            backend=backend,
            shared=shared,
            json_out=json_out,
            baselines=baselines,
            only=only or None,
            folder=folder,
            against=against,
            efficiency=Efficiency(quantize, demo, watts, co2e, backend),
            scenarios=scenarios,
        )
    raise typer.Exit(status)


def plot(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A report of 'eval'.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the pictures.")],
    metrics: Annotated[
        Path | None,
        typer.Option("--metrics", metavar="F", help="A run's metrics.jsonl: its curves too."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", help="A folder of stages: progress and energy too."),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", metavar="F", help="Another model's report; may be repeated."),
    ] = None,
) -> None:
    """Draw a report's pictures, PNG and SVG. Needs the train extra."""
    with user_errors():
        from embervlm.evaluation.plots import plot as draw

        for path in draw(result, out, metrics, run, beside or ()):
            typer.echo(path)


def bench(
    backends: Annotated[
        str,
        typer.Option(
            "--backends",
            metavar="A,B",
            help="Which, with commas; each may name its model: native=A.gguf,onnx=DIR,pytorch.",
        ),
    ] = "native",
    threads: Annotated[
        str, typer.Option("--threads", metavar="N,M", help="Numbers of threads, with commas.")
    ] = "1",
    photo: Annotated[
        Path | None,
        typer.Option("--photo", metavar="PHOTO", help="Without it, the one of the demo."),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="Processes for each row.", min=1)
    ] = 3,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")
    ] = None,
) -> None:
    """Measure time and memory of a decision, the backends in turn in one run."""
    with user_errors():
        from rich.table import Table

        from embervlm.evaluation.bench import run
        from embervlm.evaluation.report import check_file, write_report

        chosen = []
        for part in backends.split(","):
            name, _, model = part.strip().partition("=")
            chosen.append((name, Path(model) if model else None))
        counts = _numbers(threads)
        demo = Path(__file__).parent / "demo" / "seabed.jpg"

        def tell(line: str) -> None:
            sys.stderr.write(line + "\n")

        if json_out is not None:
            check_file(json_out)
        report = run(chosen, counts, photo or demo, rounds, tell)
        if json_out is not None:
            write_report(report, json_out)
        # A column each: a dozen figures side by side would not fit a terminal.
        table = Table("", title=report["machine"])
        for row in report["results"]:
            table.add_column(f"{row['backend']}\n{row['model']}", justify="right", overflow="fold")
        for name in list(report["results"][0])[2:]:
            cells = [row[name] for row in report["results"]]
            table.add_row(name, *("-" if cell is None else _figure(cell) for cell in cells))
        console().print(table)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is installed and what is missing; exit code 1 if no decision can be made."""
    with user_errors():
        from rich.table import Table
        from rich.text import Text

        from embervlm.doctor import examine, to_json

        findings = examine()
        if as_json:
            typer.echo(to_json(findings))
        else:
            table = Table("what")
            table.add_column("found", overflow="fold")  # a path or a SHA-256 stays whole
            for finding in findings:
                style = "bold red" if finding.fault else ""
                table.add_row(finding.what, Text(printable(finding.found), style=style))
            console().print(table)
        if any(finding.fault for finding in findings):
            raise typer.Exit(1)


def _figure(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _numbers(text: str) -> list[int]:
    """Read whole numbers above 0 with commas between them.

    Raises:
        ValueError: something else stands there.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--threads {text!r}: expected numbers above 0 with commas, such as 1,2.")
    return [int(part) for part in parts]
