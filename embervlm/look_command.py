"""`embervlm look`: pictures of what goes on inside one network. Needs the train extra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import user_errors

_DEMO = Path(__file__).parent / "demo" / "seabed.jpg"
_TASK = "Our sensor came off its mooring somewhere here. Find it and cut the line."


def add_look(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def look(
        model: Annotated[
            Path | None,
            typer.Argument(metavar="[MODEL]", help="GGUF or network.safetensors; else ours."),
        ] = None,
        out: Annotated[
            Path, typer.Option("--out", metavar="DIR", help="Folder of the pictures.")
        ] = Path("looked"),
        photo: Annotated[
            Path,
            typer.Option(
                "--photo", metavar="PHOTO", help="Without it, the demo's.", show_default=False
            ),
        ] = _DEMO,
        task: Annotated[
            str, typer.Option("--task", metavar="WORDS", help="The request with the photo.")
        ] = _TASK,
        shared: Annotated[
            Path | None,
            typer.Option("--shared", metavar="DIR", help="Folder of photos with captions."),
        ] = None,
    ) -> None:
        """Draw attention, memory, ternary weights, and where photos and words lie."""
        with user_errors():
            from embervlm.evaluation.looking import look as draw

            found = draw(model, out, photo, task, shared)
            for path in found.drawn:
                typer.echo(path)
            for name, reason in found.missing.items():
                typer.echo(f"not drawn: {name} ({reason})")
