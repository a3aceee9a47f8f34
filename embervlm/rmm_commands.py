"""The commands of `embervlm rmm`: reasoning that is reviewed and remembered, for any model.

embervlm rmm evaluate --model openai:http://localhost:8000/v1#m --data gsm8k:test.jsonl
embervlm rmm simulate --out build/sim
embervlm rmm train --model Qwen/Qwen2.5-0.5B-Instruct --data build/sim --out build/rmm
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embervlm.terminal import console, printable, user_errors

if TYPE_CHECKING:
    from embervlm.memory.entries import MemoryBuffer

rmm_app = typer.Typer(
    no_args_is_help=True,
    help="Let any language model reason, be reviewed and remember; measure what that brings.",
)

_MODELS = "openai:URL#model, local:FOLDER_OR_NAME, or embervlm:"


@rmm_app.command(
    name="simulate",
    epilog="""[bold]Example[/bold]

embervlm rmm simulate --out build/sim --rows 5000 --seed 1

Writes train.jsonl and validation.jsonl for 'embervlm rmm train', and problems.jsonl for
'embervlm rmm evaluate --data simulated:build/sim/problems.jsonl'.""",
)
def simulate_reviews(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder, new or empty.")],
    rows: Annotated[int, typer.Option("--rows", metavar="N", help="Reviews.")] = 5000,
    problems: Annotated[
        int, typer.Option("--problems", metavar="N", help="Problems to evaluate on.")
    ] = 500,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same gives the same.")] = 0,
) -> None:
    """Write simulated answers with stated mistakes, and the reviews that a manager should write."""
    with user_errors():
        from embervlm.reasoner.simulation import simulate

        for name, count in simulate(out, rows=rows, seed=seed, problems=problems).items():
            typer.echo(f"{out / name}: {count:,} rows.")


@rmm_app.command(
    name="train",
    epilog="""[bold]Examples[/bold]

embervlm rmm train --model Qwen/Qwen2.5-0.5B-Instruct --data build/sim --out build/rmm

embervlm rmm train --model Qwen/Qwen2.5-0.5B-Instruct --data build/sim --out build/rmm --resume

The folder is then a manager: embervlm rmm evaluate --manager local:build/rmm ...""",
)
def train_manager(
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Qwen2.5 or another; a name or folder.")
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="What 'embervlm rmm simulate' wrote.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Gets the adapter; new or empty.")
    ],
    epochs: Annotated[float, typer.Option("--epochs", metavar="N", help="Times through.")] = 2.0,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Instead of epochs: so many steps.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Rows a step.")] = 8,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", metavar="R", help="At its highest.")
    ] = 2e-4,
    rank: Annotated[int, typer.Option("--rank", metavar="N", help="Of LoRA's matrices.")] = 16,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", help="Longer rows are left out.")
    ] = 1024,
    save_steps: Annotated[
        int, typer.Option("--save-steps", metavar="N", help="Steps between checkpoints.")
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of matrices and order.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
) -> None:
    """Fine-tune a small model as the manager, with LoRA. Needs the train extra."""
    with user_errors():
        from embervlm.reasoner.fine_tuning import TuningSettings, fine_tune

        tuned = fine_tune(
            TuningSettings(
                model, data, out, epochs, steps, batch, learning_rate, rank, max_tokens,
                save_steps, seed, resume,
            )
        )  # fmt: skip
        typer.echo(f"{out}: {tuned.sentence()}")


@rmm_app.command(
    name="evaluate",
    epilog="""[bold]Examples[/bold]

embervlm rmm evaluate --model openai:http://localhost:8000/v1#m --data gsm8k:test.jsonl --limit 200

embervlm rmm evaluate --model local:Qwen/Qwen2.5-1.5B-Instruct --data mmlu:test --feedback none

embervlm rmm evaluate --model local:FOLDER --manager local:build/rmm --data simulated:problems.jsonl
--memory lessons.json --traces traces.jsonl --json report.json

[bold]Sets[/bold]

gsm8k, mathvista, mmlu, mmmu and simulated, each with the publisher's file or folder behind a colon.

[bold]Feedback[/bold]

none: one answer. self: what the manager finds without the gold. verdict, hint: a verifier that
knows the gold says right or wrong, or hints; reported as oracle.

The key of an endpoint is read from the variable OPENAI_API_KEY.
Exit code: 0 if all was measured, 2 if not.""",
)
def evaluate_model(
    model: Annotated[str, typer.Option("--model", metavar="NAME", help=_MODELS)],
    data: Annotated[str, typer.Option("--data", metavar="SET:PATH", help="See below.")],
    manager: Annotated[
        str, typer.Option("--manager", metavar="NAME", help=f"rules, or a model: {_MODELS}")
    ] = "rules",
    feedback: Annotated[
        str, typer.Option("--feedback", metavar="KIND", help="none, self, verdict or hint.")
    ] = "self",
    iterations: Annotated[
        int, typer.Option("--iterations", metavar="N", help="Answers to a problem, at most.", min=1)
    ] = 3,
    ask_again: Annotated[
        bool, typer.Option("--ask-again", help="rules: ask for a second look without a reason too.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Only the first N problems.", min=1)
    ] = None,
    memory: Annotated[
        Path | None,
        typer.Option(
            "--memory",
            metavar="F.json",
            help="Begin with these entries if there; written at the end unless --fresh-memory.",
        ),
    ] = None,
    fresh_memory: Annotated[
        bool, typer.Option("--fresh-memory", help="Forget after each problem what it taught.")
    ] = False,
    traces: Annotated[
        Path | None,
        typer.Option("--traces", metavar="F.jsonl", help="Write all prompts and answers."),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="F.json", help="Write the report.")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="0: the likeliest words each time.")
    ] = 0.0,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", help="Of an answer, at most.", min=1)
    ] = 512,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Of an endpoint: for one answer.")
    ] = 120.0,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", help="Of an endpoint: for one answer.", min=0)
    ] = 5,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="For temperatures.")] = 0,
) -> None:
    """Run the loop over a data set: accuracy, corrections, harm, each with its interval."""
    with user_errors():
        from contextlib import ExitStack

        from embervlm.reasoner.data_sets import load_set
        from embervlm.reasoner.evaluation import check_writable, evaluate, trace_line
        from embervlm.reasoner.feedback import KINDS
        from embervlm.reasoner.loop import IterativeReasoner
        from embervlm.reasoner.managers import RuleManager
        from embervlm.reasoner.memory_manager import ReasoningMemoryManager
        from embervlm.reasoner.models import open_model
        from embervlm.training.teachers import TeacherSettings

        if feedback not in KINDS:
            raise ValueError(f"There is no feedback {feedback!r}; give {', '.join(KINDS)}.")
        if ask_again and manager != "rules":
            raise ValueError("--ask-again is for --manager rules; leave one of them out.")
        check_writable((memory, traces, json_out))
        loaded = load_set(data, limit=limit)
        sys.stderr.write(printable(f"{data}: {loaded.sentence()}") + "\n")
        kept = _memory(memory)
        settings = TeacherSettings(
            temperature=temperature, max_tokens=max_tokens, timeout_s=timeout, retries=retries
        )
        asked = open_model(model, settings)
        reviewer = (
            RuleManager(ask_again=ask_again)
            if manager == "rules"
            else ReasoningMemoryManager(
                asked if manager == model else open_model(manager, settings)
            )
        )
        reasoner = IterativeReasoner(
            asked, reviewer, iterations, memory=kept, fresh_memory=fresh_memory, seed=seed
        )
        with ExitStack() as files:
            file = files.enter_context(traces.open("w", encoding="utf-8")) if traces else None
            if memory is not None and not fresh_memory:
                # Also if the run breaks off: what was learnt is kept.
                files.callback(lambda: reasoner.memory.save(memory))

            def keep(case: Any, trace: Any) -> None:
                if file is not None:
                    file.write(trace_line(case, trace))
                    file.flush()

            report = {"data": data, **evaluate(reasoner, loaded, feedback=feedback, on_trace=keep)}
        if json_out is not None:
            json_out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        _show(report)


def _memory(path: Path | None) -> MemoryBuffer:
    """Return the entries to begin with.

    Raises:
        ValueError: the file holds something else.
    """
    from embervlm.memory.entries import MemoryBuffer

    return MemoryBuffer.load(path) if path is not None and path.exists() else MemoryBuffer()


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from embervlm.reasoner.metrics import Share

    kind = f"{report['feedback']}{' (oracle)' if report['oracle'] else ''}"
    title = f"{report['problems']:,} problems, feedback: {kind}"
    table = Table("figure", "share (95 % interval; counts)", title=title)
    for name, share in report["figures"].items():
        table.add_row(name.replace("_", " "), Text(Share(**share).text()))
    console().print(table)
    stopped = ", ".join(f"{count:,} {why}" for why, count in report["stopped"].items())
    typer.echo(f"Stopped: {stopped}. Entries: {report['entries']['after']:,}.")
