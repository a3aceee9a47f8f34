"""`python -m embervlm` is `embervlm`."""

from embervlm.cli import app

if __name__ == "__main__":
    app()
