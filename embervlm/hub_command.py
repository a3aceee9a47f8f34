"""The commands of `embervlm hub`: a model as a folder, and to and from the Hugging Face Hub.

embervlm hub save --out m --report benchmarks/eval-test.json
embervlm hub push m owner/name --private
embervlm hub pull owner/name --revision v1 --out m
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import FleetOption, printable, user_errors

hub_app = typer.Typer(
    no_args_is_help=True, help="A model as a folder for others; the Hugging Face Hub."
)


@hub_app.command(
    name="save",
    epilog="""[bold]Examples[/bold]

embervlm hub save --out m --report benchmarks/eval-test.json

embervlm hub save --out m --model my.gguf --model my-q8.gguf --fleet my-fleet.yaml --licence mit

The first model is the one that is loaded. Figures come from the report alone, which must be of one
of the models; without it the card has none.""",
)
def save_folder(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder, new or empty.")],
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            metavar="M.gguf",
            help="A model file; may be repeated. Without it, the one that ships.",
        ),
    ] = None,
    fleet: FleetOption = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="R.json", help="What 'embervlm eval --json' wrote."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--licence", metavar="ID", help="As the Hub names it, such as mit."),
    ] = None,
    safetensors: Annotated[
        bool,
        typer.Option(
            "--safetensors",
            help="The first model's weights as floats too, for transformers. Needs PyTorch.",
        ),
    ] = False,
) -> None:
    """Write a folder with model, fleet, configuration and card; 'embervlm hub push' uploads it."""
    with user_errors():
        import tempfile

        from embervlm.checkpoint import SHIPPED
        from embervlm.fleet import Fleet
        from embervlm.hub import save

        robots = Fleet.from_yaml(fleet) if fleet else None
        files = models or [SHIPPED]
        with tempfile.TemporaryDirectory() as place:
            extra = []
            if safetensors:
                from embervlm.auto import save_for_transformers

                extra = save_for_transformers(files[0], Path(place))
            written = save(out, files, fleet=robots, report=report, licence=licence, extra=extra)
        for name, record in written.files.items():
            typer.echo(f"{out / name}: {record.size_bytes:,} bytes.")


@hub_app.command(
    name="push",
    epilog="""[bold]Example[/bold]

embervlm hub push m owner/name --private

Log in with 'hf auth login', or set HF_TOKEN. It prints the commit, which --revision takes.""",
)
def push_folder(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What 'embervlm hub save' wrote.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="owner/name; made if need be.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make it private; refuse one that is public.")
    ] = False,
) -> None:
    """Upload such a folder to the Hugging Face Hub, in one commit."""
    with user_errors():
        from embervlm.hub import push

        typer.echo(push(folder, name, private=private or None))


@hub_app.command(
    name="pull",
    epilog="""[bold]Examples[/bold]

embervlm hub pull owner/name

embervlm hub pull owner/name --revision v1 --out m

It prints the commit and the model file, for --model. Every file is checked against its SHA-256.""",
)
def pull_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="owner/name on the Hub.")],
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REV", help="A commit, a tag or a branch."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Copy it here; else it stays in the cache."),
    ] = None,
) -> None:
    """Fetch a model from the Hugging Face Hub and check it."""
    with user_errors():
        from embervlm.hub import pull, read_description
        from embervlm.hub.folder import CONFIG

        found = pull(name, revision=revision, out=out)
        description = read_description(found.folder / CONFIG)
        typer.echo(f"commit  {found.commit}")
        typer.echo(printable(f"model   {found.folder / description.model}"))
        typer.echo(printable(f"fleet   {found.folder / description.fleet}"))


@hub_app.command(name="dataset-card")
def write_dataset_card(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder, new or empty.")],
    directory: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="The scenarios; without it, the repository's."),
    ] = None,
) -> None:
    """Write the scenarios as a data set for the Hub: a card with counted rows, a file a split."""
    with user_errors():
        from embervlm.data.card import write_data_set

        for file, count in write_data_set(out, directory).items():
            typer.echo(f"{out / file}: {count:,} rows.")
