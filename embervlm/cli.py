"""The command line: `embervlm decide`, `distill`, `train`, `eval`, `export`, `doctor`, `data` ...

    embervlm decide flood.jpg "reach the people on the roof"

What the user got wrong is said in one sentence on stderr, with exit code 2. Exit code 1 means that
the work was done and found something: a bad line in a batch, a fault in the data. Everything heavy
is imported by the command that needs it, so that `--help` answers at once and a decision never
loads PyTorch. Each command is written in a module of its own or of its group; here they are put
together, in the order in which `--help` lists them.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from embervlm.data_commands import DOWNLOAD_EPILOG, check_data, download_data, fleet_app
from embervlm.decide_command import DECIDE_EPILOG, decide
from embervlm.export_commands import export_app
from embervlm.hub_command import hub_app
from embervlm.look_command import add_look
from embervlm.measure_commands import bench, doctor, evaluate, plot
from embervlm.memory_commands import memory_app
from embervlm.rmm_commands import rmm_app
from embervlm.server.command import ROS_EPILOG, SERVE_EPILOG, mcp, ros, serve
from embervlm.suite_command import add_suites
from embervlm.train_commands import DISTILL_EPILOG, distill, train


class _Commands(TyperGroup):
    def main(self, *args: Any, **settings: Any) -> Any:
        """Run a command; where --help or --version cannot write, say so in one sentence.

        A character that the encoding of the output lacks becomes a ?.
        """
        if isinstance(sys.stdout, io.TextIOWrapper) and "utf" not in sys.stdout.encoding.lower():
            sys.stdout.reconfigure(errors="replace")
        try:
            return super().main(*args, **settings)
        except OSError as error:  # the commands themselves end theirs in `user_errors`
            sys.stderr.write(f"embervlm: The output: {error.strerror or error}.\n")
            sys.exit(2)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog='Begin with:  embervlm decide photo.jpg "reach the people on the roof"',
)
data_app = typer.Typer(no_args_is_help=True, help="The scenarios, and public sets to train on.")
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
app.command(epilog=DECIDE_EPILOG)(decide)
app.command(epilog=ROS_EPILOG)(ros)
app.command(name="eval")(evaluate)
app.command()(plot)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(train)
app.command(epilog=DISTILL_EPILOG)(distill)
app.command()(bench)
app.command()(doctor)
data_app.command(name="check")(check_data)
data_app.command(name="download", epilog=DOWNLOAD_EPILOG)(download_data)


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
