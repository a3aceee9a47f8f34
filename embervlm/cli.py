"""The command line: `embervlm decide`, `distill`, `train`, `eval`, `export`, `doctor`, `data` ...

    embervlm decide flood.jpg "reach the people on the roof"

What the user got wrong is said in one sentence on stderr, with exit code 2. Exit code 1 means that
the work was done and found something: a bad line in a batch, a fault in the data. Everything heavy
is imported by the command that needs it, so that `--help` answers at once and a decision never
loads PyTorch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embervlm.hub_command import hub_app
from embervlm.intake import decide_line, numbered_lines, sort_words
from embervlm.look_command import add_look
from embervlm.memory_commands import memory_app
from embervlm.rmm_commands import rmm_app
from embervlm.server.command import SERVE_EPILOG, mcp, serve
from embervlm.suite_command import add_suites
from embervlm.terminal import (
    BackendOption,
    FleetOption,
    GgufOption,
    MemoryOption,
    ModelOption,
    SiteOption,
    StateOption,
    ThreadsOption,
    console,
    load_selector,
    open_memory,
    place_of,
    printable,
    user_errors,
)

if TYPE_CHECKING:
    from embervlm.live import FleetState
    from embervlm.memory.store import LessonStore
    from embervlm.scenario import Decision
    from embervlm.selector import Selector

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog='Begin with:  embervlm decide photo.jpg "reach the people on the roof"',
)
data_app = typer.Typer(no_args_is_help=True, help="The scenarios, and public sets to train on.")
fleet_app = typer.Typer(no_args_is_help=True, help="The robots that can be sent.")
export_app = typer.Typer(no_args_is_help=True, help="Write the model in other forms.")
app.add_typer(data_app, name="data")
app.add_typer(export_app, name="export")
app.add_typer(fleet_app, name="fleet")
app.add_typer(hub_app, name="hub")
app.add_typer(memory_app, name="memory")
app.add_typer(rmm_app, name="rmm")
add_look(app)
app.command(name="serve", epilog=SERVE_EPILOG)(serve)
app.command(name="mcp")(mcp)
add_suites(app, data_app)


def _print_version(asked: bool) -> None:
    if asked:
        import embervlm

        typer.echo(embervlm.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Decide which robots to send, from a photo and a request. Offline, on a small CPU."""


@app.command(
    epilog="""[bold]Examples[/bold]

embervlm decide flood.jpg "reach the people on the roof"

embervlm decide "carry the 8 kg pump up the stairs" --fleet my-fleet.yaml

embervlm decide --image site.jpg --json

embervlm decide "look at the roof" --tags

embervlm decide "map the site, then shut the valve" --picture plan.svg --alternatives

embervlm decide "look at the roof" --state state.yaml --exclude Drone

embervlm decide --batch requests.jsonl --out decisions.jsonl

embervlm decide --batch requests/ --ray --out decisions/

[bold]Batch[/bold]

IN has lines like {"id": 7, "task": text or null, "image": path or null}.
The path counts from the folder of IN. Other keys and empty lines are skipped.
OUT has the id and the decision, or the id and an error, line by line.
With --ray IN may be a folder; the same command goes on where it stopped (docs/scaling.md).
Exit code: 0 if all lines were decided, 1 if some failed, 2 if nothing was done."""
)
def decide(
    photo: Annotated[
        str | None,
        typer.Argument(metavar="PHOTO", help="A JPEG, PNG or WebP file.", show_default=False),
    ] = None,
    request: Annotated[
        str | None,
        typer.Argument(
            metavar="REQUEST",
            help="What is asked, in words. The photo or the request may be left out.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="PHOTO", help="The photo, whatever its name.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TEXT", help="The request, whatever its words.")
    ] = None,
    fleet: FleetOption = None,
    state: StateOption = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="ROBOT", help="Do not send it; may be repeated."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="ROBOT", help="Send it in any case; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
    as_tags: Annotated[
        bool,
        typer.Option("--tags", help="Print robots and reasons in tags, <thinking> and others."),
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORM",
            help="text, json, or rmf: the plan as task requests for Open-RMF.",
        ),
    ] = None,
    rmf_fleet: Annotated[
        str, typer.Option("--rmf-fleet", metavar="NAME", help="What Open-RMF calls the fleet.")
    ] = "embervlm",
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="F.svg|F.png", help="Draw the plan into this file."),
    ] = None,
    alternatives: Annotated[
        bool, typer.Option("--alternatives", help="Say what would be decided without each robot.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="N", help="At most N robots, the best first.")
    ] = None,
    backend: BackendOption = "native",
    model: ModelOption = None,
    threads: ThreadsOption = 1,
    reasoning: Annotated[
        bool, typer.Option("--reasoning/--no-reasoning", help="Write the four lines of reasons.")
    ] = True,
    own_words: Annotated[
        bool,
        typer.Option("--own-words", help="Let the small decoder word the reasons; still clumsy."),
    ] = False,
    batch: Annotated[
        Path | None,
        typer.Option("--batch", metavar="IN.jsonl", help="Decide every line of a file."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="OUT.jsonl", help="Where a batch is written; with --ray, a folder."
        ),
    ] = None,
    on_ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Decide a batch on all cores, or the cluster that RAY_ADDRESS names."
        ),
    ] = False,
    actors: Annotated[
        int | None,
        typer.Option(
            "--actors", metavar="N", help="With --ray: engines at most; else one a core.", min=1
        ),
    ] = None,
    memory: MemoryOption = None,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Decide without the lessons that were kept.")
    ] = False,
    site: SiteOption = "default",
) -> None:
    """Decide which robots to send, in which order, why these and why not the others."""
    with user_errors():
        if (batch is None) != (out is None):
            raise ValueError("--batch and --out belong together: give both files.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"--top-k is {top_k}; ask for 1 robot or more.")
        if form not in (None, "text", "json", "rmf"):
            raise ValueError(f"--format is {form!r}; it is text, json or rmf.")
        if as_json and form not in (None, "json"):
            raise ValueError(f"--json and --format {form} exclude each other: leave one out.")
        as_json = as_json or form == "json"
        if as_tags and (as_json or form or batch is not None or not reasoning):
            raise ValueError(
                "--tags prints one reasoning: leave out --json, --format, --batch and "
                "--no-reasoning."
            )
        if picture is not None and picture.suffix.lower() not in (".svg", ".png"):
            raise ValueError(f"--picture {picture} must end in .svg or .png.")
        if alternatives and (as_tags or form == "rmf"):
            raise ValueError("--alternatives goes with text and json: leave out --tags and rmf.")
        if batch is None and on_ray:
            raise ValueError("--ray is for many requests: give --batch and --out too.")
        if actors is not None and not on_ray:
            raise ValueError("--actors goes with --ray: give both or leave it out.")
        if batch is not None and out is not None:
            if any(word is not None for word in (photo, request, image, task)):
                raise ValueError("--batch takes its requests from the file; leave out the others.")
            if require or alternatives or picture or form in ("text", "rmf"):
                raise ValueError(
                    "--require, --alternatives, --picture and --format are for one request: leave "
                    "them out with --batch."
                )
            if on_ray:
                from embervlm.bulk_command import BulkOptions, decide_batch_on_ray

                options = BulkOptions(
                    backend=backend,
                    model=model and model.absolute(),
                    fleet=fleet and fleet.absolute(),
                    threads=threads,
                    own_words=own_words,
                    lessons=lessons_place(memory, site, no_memory=no_memory),
                    site=site,
                    state=read_state(state),
                    exclude=tuple(exclude or ()),
                )
                count, failed = decide_batch_on_ray(
                    options, batch, out, top_k=top_k, reasoning=reasoning, actors=actors
                )
            else:
                check_batch_files(batch, out)
                lessons = lessons_to_use(memory, site, no_memory=no_memory)
                selector = load_selector(
                    backend, model, fleet, threads=threads, own_words=own_words, memory=lessons
                ).at(read_state(state), exclude or [])
                count, failed = decide_batch(selector, batch, out, top_k=top_k, reasoning=reasoning)
                tell_missed(lessons)
            sys.stderr.write(f"{count - failed} of {count} lines decided; written to {out}.\n")
            if failed:
                sys.stderr.write(f"{failed} lines failed; each has its `error` in {out}.\n")
                raise typer.Exit(1)
            return

        from embervlm.scenario import Scenario

        image, task = sort_words(photo, request, image, task)
        scenario = Scenario(task=task, image=image)
        lessons = lessons_to_use(memory, site, no_memory=no_memory)
        selector = load_selector(
            backend, model, fleet, threads=threads, own_words=own_words, memory=lessons
        )
        live = read_state(state)
        decision = selector.decide(
            scenario,
            top_k=top_k,
            reasoning=reasoning,
            state=live,
            exclude=exclude or [],
            require=require or [],
        )
        tell_missed(lessons)
        others = (
            selector.alternatives(decision, state=live, exclude=exclude or [])
            if alternatives
            else {}
        )
        if picture is not None and not decision.plan:
            sys.stderr.write("No robot is sent, so there is no plan to draw.\n")
        elif picture is not None:
            from embervlm.planning.pictures import draw

            draw(decision.plan, picture, title=task or "")
        if as_json:
            record = decision.to_dict()
            if alternatives:
                record["alternatives"] = {
                    name: {"robots": list(other.robots), "confidence": round(other.confidence, 4)}
                    for name, other in others.items()
                }
            typer.echo(json.dumps(record, indent=2))
        elif form == "rmf":
            from embervlm.planning.rmf import task_requests

            requests = task_requests(
                decision.plan, fleet_name=rmf_fleet, now_ms=round(time.time() * 1000)
            )
            typer.echo(json.dumps(requests, indent=2))
        elif as_tags:
            from embervlm.prompts import Thinking, write_thinking

            typer.echo(printable(write_thinking(Thinking.of(decision))))
        else:
            show_decision(decision, photo=image)
            for name, other in others.items():
                order = " then ".join(other.robots)
                typer.echo(printable(f"without the {name}: {order} ({other.confidence:.0%})"))


@app.command(
    epilog="""[bold]Examples[/bold]

embervlm ros ws://robot:9090 --fleet my-fleet.yaml

ros2 topic pub --once /embervlm/request std_msgs/String "data: 'look at the roof'"

docs/plans.md has the form of requests and answers."""
)
def ros(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where rosbridge listens.")
    ] = "ws://localhost:9090",
    fleet: FleetOption = None,
    state: StateOption = None,
    request_topic: Annotated[
        str, typer.Option("--request-topic", metavar="TOPIC", help="Requests come from there.")
    ] = "/embervlm/request",
    decision_topic: Annotated[
        str, typer.Option("--decision-topic", metavar="TOPIC", help="Decisions go there.")
    ] = "/embervlm/decision",
    notify: Annotated[
        str,
        typer.Option(
            "--notify", metavar="SERVICE", help="A std_srvs/Trigger, called after each decision."
        ),
    ] = "",
    retries: Annotated[
        int | None,
        typer.Option(
            "--retries", metavar="N", help="Give up after N failures in a row; else never.", min=0
        ),
    ] = None,
    backend: BackendOption = "native",
    model: ModelOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Answer requests from a ROS topic, through rosbridge. Needs the ros extra."""
    with user_errors():
        import websockets  # noqa: F401  # says at once what is missing

        from embervlm.ros import RosSettings, serve

        settings = RosSettings(url, request_topic, decision_topic, notify, retries)
        live = read_state(state)
        selector = load_selector(backend, model, fleet, threads=threads)
        selector.at(live)  # a state that does not fit the fleet is told before the first request

        def tell(line: str) -> None:
            sys.stderr.write(printable(line) + "\n")

        try:
            serve(selector, settings, tell, state=live)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


@app.command(name="eval")
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
        from embervlm.outside_command import evaluate_outside, is_outside

        if model is not None and is_outside(model):
            if backend != "native":
                raise ValueError(f"{model} has no backend of ours; leave out --backend.")
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
        )
    raise typer.Exit(status)


@app.command()
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


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def train(context: typer.Context) -> None:
    """Train one stage from a recipe; 'embervlm train --help' lists its keys. Needs the train extra.

    Many processes: torchrun -m embervlm.training.run, with the same flags.
    """
    with user_errors():
        from embervlm.training.run import run

        typer.echo(run(context.args))


@app.command(
    epilog="""[bold]Examples[/bold]

embervlm distill --teacher openai:http://localhost:8000/v1#model --ask robots --out build/teacher

embervlm distill --teacher local:FOLDER --ask answers --data '[{"set": "llava_instruct",
"conversations": "llava_instruct_150k.json", "images": "train2017"}]' --out build/teacher

[bold]Then[/bold]

instruct learns from {"set": "teacher_answers", "answers": "build/teacher/answers.jsonl"} in its
data, select from teacher_scores: build/teacher/robots.jsonl in its recipe.
The key of an endpoint is read from the variable OPENAI_API_KEY.
The same command goes on where it stopped; what is answered is never asked again.
Exit code: 0 if all was answered, 1 if some failed, 2 if the teacher could not be asked."""
)
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
    """Ask a larger model for answers, or for scores of the robots, to train on. Resumes."""
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


@app.command()
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
        import json

        from rich.table import Table

        from embervlm.evaluation.bench import run

        chosen = []
        for part in backends.split(","):
            name, _, model = part.strip().partition("=")
            chosen.append((name, Path(model) if model else None))
        counts = _numbers(threads)
        demo = Path(__file__).parent / "demo" / "seabed.jpg"

        def tell(line: str) -> None:
            sys.stderr.write(line + "\n")

        report = run(chosen, counts, photo or demo, rounds, tell)
        # A column each: a dozen figures side by side would not fit a terminal.
        table = Table("", title=report["machine"])
        for row in report["results"]:
            table.add_column(f"{row['backend']}\n{row['model']}", justify="right", overflow="fold")
        for name in list(report["results"][0])[2:]:
            cells = [row[name] for row in report["results"]]
            table.add_row(name, *("-" if cell is None else _figure(cell) for cell in cells))
        console().print(table)
        if json_out is not None:
            json_out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


@app.command()
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
            table = Table("what", "found")
            for finding in findings:
                style = "bold red" if finding.fault else ""
                table.add_row(finding.what, Text(printable(finding.found), style=style))
            console().print(table)
        if any(finding.fault for finding in findings):
            raise typer.Exit(1)


@data_app.command(name="check")
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

        from embervlm.data.scenarios import FILES, SPLITS, check, load

        table = Table("set", *SPLITS, title="Scenarios")
        for name in FILES:
            splits = [row.get("split") for row in load(name, directory=directory)]
            table.add_row(name, *(f"{splits.count(split):,}" for split in SPLITS))
        console().print(table)
        faults = check(directory)
        for fault in faults:
            sys.stderr.write(printable(fault) + "\n")
        typer.echo(f"{len(faults)} faults" if faults else "No faults.")
        if faults:
            raise typer.Exit(1)


@data_app.command(
    name="download",
    epilog="""[bold]Examples[/bold]

embervlm data download coco vqav2 --minimal

embervlm data download coco --out /data/public --yes

Without a name it says which sets there are. What broke off goes on with the same command.
Exit code: 0 if all files are here and right, 1 if some are not, 2 if nothing was done.""",
)
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


@export_app.command(name="gguf")
def export_gguf(
    out: Annotated[Path, typer.Option("--out", metavar="MODEL.gguf", help="Where the file goes.")],
    kind: Annotated[
        str,
        typer.Option(
            "--type", metavar="TYPE", help="f32, q8_0, q4_0 or tq2_0: how weights are kept."
        ),
    ] = "q8_0",
    model: GgufOption = None,
) -> None:
    """Write the one file that the C engine reads (--backend native --model MODEL.gguf)."""
    with user_errors():
        from embervlm.export.gguf import export

        export(model, out, kind)
        typer.echo(f"{out}: {out.stat().st_size:,} bytes.")


@export_app.command(name="quantize")
def export_quantize(
    out: Annotated[Path, typer.Option("--out", metavar="M.gguf", help="Where the file goes.")],
    bits: Annotated[
        str, typer.Option("--bits", metavar="N", help="8, 4 or 1.58 (ternary) a weight.")
    ],
    model: GgufOption = None,
) -> None:
    """Write the engine's file with so many bits a weight, and check its size by arithmetic."""
    with user_errors():
        from embervlm.export.quantize import quantize

        sizes = quantize(model, out, bits)
        typer.echo(f"before  {sizes.before_bytes:>12,} bytes: {sizes.weights:,} weights, float32")
        typer.echo(f"after   {sizes.file_bytes:>12,} bytes: {out}, of which")
        for kind, size in sizes.types.items():
            typer.echo(f"        {size:>12,} {kind} blocks")
        typer.echo(f"        {sizes.header_bytes:>12,} header: names, sizes, tokenizer")
        typer.echo(f"        {sizes.gap_bytes:>12,} alignment")
        if bits == "1.58" and not sizes.trained_ternary:
            typer.echo(
                "This network was not trained for ternary weights: measure how far its answers are "
                f"off with 'embervlm eval --backend native --model {out}' before use."
            )


@export_app.command(name="package")
def export_package(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder, new or empty.")],
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="Where it runs: pi.")],
    model: GgufOption = None,
    fleet: FleetOption = None,
) -> None:
    """Write a folder that decides on a Raspberry Pi without pip; see its README.md."""
    with user_errors():
        from embervlm.export.package import package

        size = package(out, target=target, model=model, fleet=fleet)
        typer.echo(f"{out}: {size:,} bytes; its README.md says how to run it.")


@export_app.command(name="onnx")
def export_onnx(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the folder goes.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="PATH", help="A model; without it, the one that ships."),
    ] = None,
    bits: Annotated[
        int, typer.Option("--bits", metavar="N", help="32, 8 or 4: how weights are kept.")
    ] = 32,
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            metavar="DIR",
            help="With 8 or 4 bits, photos to fit the convolutions' ranges on; without it, the "
            "demo's photo, its quarters and their mirror images.",
        ),
    ] = None,
) -> None:
    """Write a folder of ONNX graphs (--backend onnx --model DIR). Needs the onnx extra."""
    with user_errors():
        from embervlm.export.onnx import export

        export(model, out, bits, photos)
        size = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
        typer.echo(f"{out}: {size:,} bytes.")


@fleet_app.command(name="show")
def show_fleet(fleet: FleetOption = None) -> None:
    """Show the robots: what each can do, where, and up to which numbers."""
    with user_errors():
        from rich.table import Table
        from rich.text import Text

        from embervlm.fleet import LIMIT_UNITS, Fleet

        robots = Fleet.from_yaml(fleet) if fleet else Fleet.default()
        table = Table("robot", "can", "works in", "limits", "there are", show_lines=True)
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


def read_state(path: Path | None) -> FleetState | None:
    """Return what a state file says, or None without one.

    Raises:
        ValueError: the file is missing or wrong.
    """
    if path is None:
        return None
    from embervlm.live import FleetState

    return FleetState.from_file(path)


def lessons_to_use(memory: str | None, site: str, *, no_memory: bool) -> LessonStore | None:
    """Return the lessons to decide with, or None; say on stderr if they cannot be used.

    Raises:
        ValueError: a place was given and no lessons are wanted.
    """
    if no_memory:
        if memory is not None:
            raise ValueError("--memory and --no-memory exclude each other: leave one out.")
        return None
    from embervlm.memory.home import lessons_path, may_be_there

    # Without a file nothing is imported for lessons: a decision stays as small as it was.
    if not may_be_there(memory or lessons_path()):
        return None
    store = open_memory(memory, site)
    if fault := store.fault:
        sys.stderr.write(f"embervlm: {printable(fault)} It was decided without lessons.\n")
        return None
    return store


def lessons_place(memory: str | None, site: str, *, no_memory: bool) -> str | None:
    """Return where the lessons lie, for other processes, or None if `lessons_to_use` has none."""
    store = lessons_to_use(memory, site, no_memory=no_memory)
    if store is None:
        return None
    store.close()
    return place_of(memory)


def tell_missed(lessons: LessonStore | None) -> None:
    """Say on stderr how often the lessons could not be asked, if a fault came after the first
    look."""
    count, fault = lessons.missed if lessons is not None else (0, "")
    if count:
        sys.stderr.write(f"embervlm: {printable(fault)} {count} decided without lessons.\n")


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


def show_decision(decision: Decision, *, photo: str | None) -> None:
    """Print a decision for people."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from embervlm.prompts import describe_needs

    def text(words: str, style: str = "") -> Text:
        return Text(printable(words), style=style)

    asked = decision.scenario.task if decision.scenario else None
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    if photo:
        facts.add_row("photo", text(Path(photo).name))
    if asked:
        facts.add_row("request", text(asked))
    order = " then ".join(decision.robots)
    facts.add_row("send", text(order, "bold green"))
    facts.add_row("first", text(decision.primary))
    facts.add_row("place", text(decision.environment.replace("_", " ")))
    sure = Text(f"{decision.confidence:.0%}")
    if decision.ask:
        sure.append("  not sure enough: ask a person", style="bold yellow")
    facts.add_row("confidence", sure)
    facts.add_row("needs", text(describe_needs(decision.needs)))

    chances = Table.grid(padding=(0, 2))
    for name, chance in decision.probabilities.items():
        style = "bold green" if name in decision.robots else ""
        bar = ProgressBar(total=1.0, completed=min(chance, 1.0), width=24, complete_style="green")
        chances.add_row(
            text(name, style), bar, f"{chance:.0%}", text(decision.rejected.get(name, ""), "dim")
        )

    parts: list[Any] = [facts, Text(), chances]
    if decision.plan:
        steps = Table.grid(padding=(0, 2))
        for i, step in enumerate(decision.plan, start=1):
            after = ", ".join(str(j + 1) for j in step.after)
            when = ""
            if step.start_min is not None and step.duration_min is not None:
                end = step.start_min + step.duration_min
                when = f"minutes {step.start_min:.0f} to {end:.0f}"
            wait = ", ".join(part for part in (when, f"after {after}" if after else "") if part)
            wait = f"{wait} {step.why}".strip()
            steps.add_row(
                f"{i}.", text(step.robot or "nobody"), text(step.subtask), text(wait, "dim")
            )
        parts += [Text(), Text("plan", style="dim"), steps]
    if decision.reasoning:
        parts += [Text(), *(text(line) for line in decision.reasoning)]
    parts += [text(note, "cyan") for note in decision.memory]
    read = [f"{typed} as {word}" for typed, word in decision.read_as.items()]
    parts += [text(f"read {', '.join(read)}", "dim")] if read else []
    console().print(Panel(Group(*parts), title="embervlm", title_align="left", padding=(1, 2)))
