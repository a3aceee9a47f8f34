"""`embervlm train`, one stage from a recipe, and `distill`, a larger model's answers to train on.

    embervlm train --recipe recipes/ember/select.yaml
    embervlm distill --teacher local:FOLDER --ask robots --out build/teacher

PyTorch is imported when one of them runs, and not before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import printable, user_errors

DISTILL_EPILOG = """[bold]Examples[/bold]

embervlm distill --teacher openai:http://localhost:8000/v1#model --ask robots --out build/teacher

embervlm distill --teacher local:FOLDER --ask answers --data '[{"set": "llava_instruct",
"conversations": "llava_instruct_150k.json", "images": "train2017"}]' --out build/teacher

[bold]Then[/bold]

instruct learns from {"set": "teacher_answers", "answers": "build/teacher/answers.jsonl"} in its
data, select from teacher_scores: build/teacher/robots.jsonl in its recipe.
The key of an endpoint is read from the variable OPENAI_API_KEY.
The same command goes on where it stopped; what is answered is never asked again.
Exit code: 0 if all was answered, 1 if some failed, 2 if the teacher could not be asked."""


def train(context: typer.Context) -> None:
    """Train one stage from a recipe; 'embervlm train --help' lists its keys. Needs the train extra.

    Many processes: torchrun -m embervlm.training.run, with the same flags.
    """
    with user_errors():
        from embervlm.training.run import run

        typer.echo(run(context.args))


def distill(
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher", metavar="NAME", help="openai:URL#model, or local:FOLDER_OR_NAME."
        ),
    ],
    ask: Annotated[
        str,
        typer.Option(
            "--ask",
            metavar="WHAT",
            help="answers: the questions of public sets; robots: scores for our train split.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Gets answers.jsonl or robots.jsonl.")
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="JSON", help="answers: the sets, as 'embervlm train --data' has them."
        ),
    ] = "",
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            metavar="DIR",
            help="robots: the photos of data/photos.jsonl; without them, words alone.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="Only the first N questions.", min=1),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Questions at a time.", min=1, max=256)
    ] = 4,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="0: the likeliest words each time.")
    ] = 0.0,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", help="Of an answer, at most.", min=1)
    ] = 512,
    photo_px: Annotated[
        int,
        typer.Option("--photo-px", metavar="N", help="Longer side of a photo, at most.", min=32),
    ] = 768,
    logits: Annotated[
        int,
        typer.Option(
            "--logits",
            metavar="K",
            help="Keep the K likeliest of each token too; local teachers of the student's "
            "vocabulary only; instruct learns from them.",
            min=0,
        ),
    ] = 0,
    student: Annotated[
        str, typer.Option("--student", metavar="PATH", help="With --logits: its tokenizer.")
    ] = "",
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="S", help="Of an endpoint: seconds for one answer."),
    ] = 120.0,
    retries: Annotated[
        int,
        typer.Option(
            "--retries", metavar="N", help="Of an endpoint: for each question.", min=0, max=100
        ),
    ] = 5,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Of a local teacher: cpu, cuda, auto.")
    ] = "auto",
) -> None:
    """Ask a larger model for answers, or scores of robots, to train on. Needs the train extra."""
    with user_errors():
        from embervlm.data.example import Report
        from embervlm.data.teacher_answers import AnswerFile
        from embervlm.training.distill import distill as ask_all
        from embervlm.training.distill import questions_of
        from embervlm.training.teachers import TeacherSettings, open_teacher

        settings = TeacherSettings(
            temperature=temperature,
            max_tokens=max_tokens,
            logits=logits,
            student=student,
            timeout_s=timeout,
            retries=retries,
            device=device,
        )
        reports: list[Report] = []
        questions = questions_of(ask, data, photos, reports)
        asked = open_teacher(teacher, settings)
        try:
            with AnswerFile(out / f"{ask}.jsonl") as file:
                summary = ask_all(
                    asked, questions, file, workers=workers, limit=limit, photo_px=photo_px
                )
        except KeyboardInterrupt as stopped:
            sys.stderr.write(printable(str(stopped) or "Stopped.") + "\n")
            raise typer.Exit(130) from None
        for report in reports:
            if report.left_out:
                sys.stderr.write(printable(report.summary()) + "\n")
        typer.echo(printable(f"{out / ask}.jsonl: {summary.sentence()}"))
        if summary.failures:
            raise typer.Exit(1)
