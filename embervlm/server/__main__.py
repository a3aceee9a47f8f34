"""`python -m embervlm.server` is `embervlm serve`."""

import typer

from embervlm.server.command import SERVE_EPILOG, serve

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(epilog=SERVE_EPILOG)(serve)
    app()
