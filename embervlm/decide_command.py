"""`embervlm decide`: which robots to send, for a photo and a request, as text, JSON or a picture.

    embervlm decide flood.jpg "reach the people on the roof"
    embervlm decide --batch requests.jsonl --out decisions.jsonl

Options that exclude each other are refused before the model is loaded. A batch is decided by
`bulk_command`, here or on many engines.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embervlm.intake import sort_words
from embervlm.terminal import (
    BackendOption,
    FleetOption,
    MemoryOption,
    ModelOption,
    SiteOption,
    StateOption,
    ThreadsOption,
    console,
    lessons_place,
    lessons_to_use,
    load_selector,
    printable,
    read_state,
    tell_missed,
    user_errors,
)

if TYPE_CHECKING:
    from embervlm.bulk_command import BulkOptions
    from embervlm.memory.store import LessonStore
    from embervlm.scenario import Decision
    from embervlm.selector import Selector

DECIDE_EPILOG = """[bold]Examples[/bold]

embervlm decide flood.jpg "reach the people on the roof"

embervlm decide "carry the 8 kg pump up the stairs" --fleet my-fleet.yaml

embervlm decide --image site.jpg --json

embervlm decide "look at the roof" --tags

embervlm decide "look at the roof from above, then shut the valve in the pump room"
--picture plan.svg --alternatives

embervlm decide "look at the roof" --state state.yaml --exclude Drone

embervlm decide --batch requests.jsonl --out decisions.jsonl

embervlm decide --batch requests/ --ray --out decisions/

[bold]Batch[/bold]

IN has lines like {"id": 7, "task": text or null, "image": path or null}.
The path counts from the folder of IN. Other keys and empty lines are skipped.
OUT has the id and the decision, or the id and an error, line by line.
With --ray IN may be a folder; the same command goes on where it stopped (docs/scaling.md).
Exit code: 0 if all lines were decided, 1 if some failed, 2 if nothing was done."""


def decide(
    photo: Annotated[
        str | None,
        typer.Argument(metavar="PHOTO", help="A JPEG, PNG or WebP file.", show_default=False),
    ] = None,
    request: Annotated[
        str | None,
        typer.Argument(
            metavar="REQUEST",
            help="What is asked, in words, some 80 at best: of a longer request both ends and the "
            "words around each number are read. The photo or the request may be left out.",
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
        str | None,
        typer.Option(
            "--rmf-fleet", metavar="NAME", help="What Open-RMF calls the fleet; else embervlm."
        ),
    ] = None,
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
        printing = Printing(form, as_json, as_tags, rmf_fleet, picture, alternatives)
        printing.check(in_batch=batch is not None, reasoning=reasoning, own_words=own_words)
        if batch is None and on_ray:
            raise ValueError("--ray is for many requests: give --batch and --out too.")
        if actors is not None and not on_ray:
            raise ValueError("--actors goes with --ray: give both or leave it out.")
        loading = Loading(
            backend=backend,
            model=model,
            fleet=fleet,
            threads=threads,
            own_words=own_words,
            memory=memory,
            no_memory=no_memory,
            site=site,
            state=state,
            exclude=tuple(exclude or ()),
        )
        if batch is None or out is None:
            image, task = sort_words(photo, request, image, task)
            decide_one(
                loading,
                printing,
                photo=image,
                task=task,
                top_k=top_k,
                reasoning=reasoning,
                require=require or [],
            )
            return
        if any(word is not None for word in (photo, request, image, task)):
            raise ValueError("--batch takes its requests from the file; leave out the others.")
        if require or alternatives or picture or form in ("text", "rmf"):
            raise ValueError(
                "--require, --alternatives, --picture and --format are for one request: leave "
                "them out with --batch."
            )
        decide_many(
            loading, batch, out, top_k=top_k, reasoning=reasoning, on_ray=on_ray, actors=actors
        )


@dataclass(frozen=True)
class Loading:
    """The options that say with what is decided: the model, the fleet as it is now, the lessons."""

    backend: str
    model: Path | None
    fleet: Path | None
    threads: int
    own_words: bool
    memory: str | None
    no_memory: bool
    site: str
    state: Path | None
    exclude: tuple[str, ...]

    def lessons(self) -> LessonStore | None:
        """Return the lessons to decide with, or None; see `terminal.lessons_to_use`."""
        return lessons_to_use(self.memory, self.site, no_memory=self.no_memory)

    def selector(self, lessons: LessonStore | None) -> Selector:
        """Return what decides, for the fleet as its file says.

        Raises:
            ValueError: the model or the fleet is missing or wrong.
        """
        return load_selector(
            self.backend,
            self.model,
            self.fleet,
            threads=self.threads,
            own_words=self.own_words,
            memory=lessons,
        )

    def for_actors(self) -> BulkOptions:
        """Return these options as other processes take them.

        Raises:
            ValueError: the state is missing or wrong.
        """
        from embervlm.bulk_command import BulkOptions

        return BulkOptions(
            backend=self.backend,
            model=self.model and self.model.absolute(),
            fleet=self.fleet and self.fleet.absolute(),
            threads=self.threads,
            own_words=self.own_words,
            lessons=lessons_place(self.memory, self.site, no_memory=self.no_memory),
            site=self.site,
            state=read_state(self.state),
            exclude=self.exclude,
        )


@dataclass(frozen=True)
class Printing:
    """The options that say how one decision is printed; `form` is None without --format."""

    form: str | None
    as_json: bool
    as_tags: bool
    rmf_fleet: str | None
    picture: Path | None
    alternatives: bool

    def check(self, *, in_batch: bool, reasoning: bool, own_words: bool) -> None:
        """Refuse what does not go together.

        Raises:
            ValueError: see the message.
        """
        if self.form not in (None, "text", "json", "rmf"):
            raise ValueError(f"--format is {self.form!r}; it is text, json or rmf.")
        if self.as_json and self.form not in (None, "json"):
            raise ValueError(f"--json and --format {self.form} exclude each other: leave one out.")
        if self.as_tags and (self.as_json or self.form or in_batch or not reasoning):
            raise ValueError(
                "--tags prints one reasoning: leave out --json, --format, --batch and "
                "--no-reasoning."
            )
        if self.picture is not None and self.picture.suffix.lower() not in (".svg", ".png"):
            raise ValueError(f"--picture {self.picture} must end in .svg or .png.")
        if self.alternatives and (self.as_tags or self.form == "rmf"):
            raise ValueError("--alternatives goes with text and json: leave out --tags and rmf.")
        if self.rmf_fleet is not None and self.form != "rmf":
            raise ValueError("--rmf-fleet goes with --format rmf: give both or leave it out.")
        if own_words and (not reasoning or self.form == "rmf"):
            raise ValueError("--own-words are of the reasons: leave out --no-reasoning and rmf.")

    def show(
        self, decision: Decision, others: Mapping[str, Decision], *, photo: str | None
    ) -> None:
        """Print a decision, and what would be decided without each of its robots."""
        if self.as_json or self.form == "json":
            record = decision.to_dict()
            if self.alternatives:
                record["alternatives"] = {
                    name: {"robots": list(other.robots), "confidence": round(other.confidence, 4)}
                    for name, other in others.items()
                }
            typer.echo(json.dumps(record, indent=2))
        elif self.form == "rmf":
            from embervlm.planning.rmf import task_requests

            requests = task_requests(
                decision.plan,
                fleet_name=self.rmf_fleet or "embervlm",
                now_ms=round(time.time() * 1000),
            )
            typer.echo(json.dumps(requests, indent=2))
        elif self.as_tags:
            from embervlm.prompts import Thinking, write_thinking

            typer.echo(printable(write_thinking(Thinking.of(decision))))
        else:
            from embervlm.prompts import describe_robots

            show_decision(decision, photo=photo)
            for name, other in others.items():
                sent = describe_robots(other)
                typer.echo(printable(f"without the {name}: {sent} ({other.confidence:.0%})"))


def decide_one(
    loading: Loading,
    printing: Printing,
    *,
    photo: str | None,
    task: str | None,
    top_k: int | None,
    reasoning: bool,
    require: Sequence[str],
) -> None:
    """Decide one request, draw its plan if a picture is asked for, and print it.

    Raises:
        ValueError: something that the options name is missing or wrong; see `Selector.decide`.
    """
    from embervlm.scenario import Scenario

    scenario = Scenario(task=task, image=photo)
    lessons = loading.lessons()
    selector = loading.selector(lessons)
    live = read_state(loading.state)
    decision = selector.decide(
        scenario,
        top_k=top_k,
        reasoning=reasoning,
        state=live,
        exclude=loading.exclude,
        require=require,
    )
    tell_missed(lessons)
    others = (
        selector.alternatives(
            decision, top_k=top_k, state=live, exclude=loading.exclude, require=require
        )
        if printing.alternatives
        else {}
    )
    if printing.picture is not None and not decision.plan:
        sys.stderr.write("No robot is sent, so there is no plan to draw.\n")
    elif printing.picture is not None:
        from embervlm.planning.pictures import draw

        draw(decision.plan, printing.picture, title=task or "")
    printing.show(decision, others, photo=photo)


def decide_many(
    loading: Loading,
    batch: Path,
    out: Path,
    *,
    top_k: int | None,
    reasoning: bool,
    on_ray: bool,
    actors: int | None,
) -> None:
    """Decide every line of a batch, here or on many engines, and say how many failed.

    Raises:
        ValueError: a file or an option is wrong.
        Exit: with code 1, some lines failed.
    """
    if on_ray:
        from embervlm.bulk_command import decide_batch_on_ray

        count, failed = decide_batch_on_ray(
            loading.for_actors(), batch, out, top_k=top_k, reasoning=reasoning, actors=actors
        )
    else:
        from embervlm.bulk_command import check_batch_files, decide_batch

        check_batch_files(batch, out)
        lessons = loading.lessons()
        selector = loading.selector(lessons).at(read_state(loading.state), loading.exclude)
        count, failed = decide_batch(selector, batch, out, top_k=top_k, reasoning=reasoning)
        tell_missed(lessons)
    sys.stderr.write(f"{count - failed} of {count} lines decided; written to {out}.\n")
    if failed:
        sys.stderr.write(f"{failed} lines failed; each has its `error` in {out}.\n")
        raise typer.Exit(1)


def show_decision(decision: Decision, *, photo: str | None) -> None:
    """Print a decision for people."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from embervlm.planning.rmf import robot_name
    from embervlm.prompts import describe_needs, describe_robots, go_together

    def text(words: str, style: str = "") -> Text:
        return Text(printable(words), style=style)

    asked = decision.scenario.task if decision.scenario else None
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    if photo:
        facts.add_row("photo", text(Path(photo).name))
    if asked:
        facts.add_row("request", text(asked))
    facts.add_row("send", text(describe_robots(decision), "bold green"))
    if go_together(decision):
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
            who = robot_name(step) if step.robot else "nobody"
            steps.add_row(f"{i}.", text(who), text(step.subtask), text(wait, "dim"))
        parts += [Text(), Text("plan", style="dim"), steps]
    if decision.reasoning:
        parts += [Text(), *(text(line) for line in decision.reasoning)]
    parts += [text(note, "cyan") for note in decision.memory]
    read = [f"{typed} as {word}" for typed, word in decision.read_as.items()]
    parts += [text(f"read {', '.join(read)}", "dim")] if read else []
    console().print(Panel(Group(*parts), title="embervlm", title_align="left", padding=(1, 2)))
