"""Write a folder that decides on a Raspberry Pi, with nothing but Debian's own packages there.

    embervlm export package --target pi --out ember-pi

A Pi Zero W (ARMv6) has no wheel of anything on PyPI, so nothing is installed by pip: the modules
that a decision imports and the engine's C source are copied out of this package, the model and the
fleet beside them, and the board compiles the engine. `export/pi/` holds the files that only the
folder has.
"""

from __future__ import annotations

import ast
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from string import Template

from embervlm.backends.native import NativeBackend
from embervlm.checkpoint import SHIPPED, checked_bytes, text_in
from embervlm.engine import library_path
from embervlm.fleet import Fleet
from embervlm.spelling import SHIPPED as SHIPPED_WORDS

TARGETS = ("pi",)
PACKAGE = Path(__file__).parents[1]
FILES = Path(__file__).parent / "pi"
# What run_inference.py imports, what `Selector.learn` does, and `embervlm.EmberVLM`; all else
# follows from these.
ENTRIES = (
    "embervlm.backends.native",
    "embervlm.ember_vlm",
    "embervlm.fleet",
    "embervlm.intake",
    "embervlm.memory.store",
    "embervlm.selector",
)
# Whoever passes the folder on passes these on.
LICENCES = PACKAGE / "licences"
_SUMS = "SHA256SUMS"


def package(
    out: Path, *, target: str = "pi", model: Path | None = None, fleet: Path | None = None
) -> int:
    """Write the folder `out` and return its size in bytes.

    Args:
        out: is not there yet, or is empty.
        target: one of TARGETS.
        model: a GGUF file; None is the one that ships.
        fleet: the operator's robots; None is the default five.

    Raises:
        ValueError: see above, or the model or the fleet is not sound.
    """
    if target not in TARGETS:
        raise ValueError(f"Unknown target {target!r}; there is {', '.join(TARGETS)}.")
    if out.is_symlink() or out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} is there already: give a new folder, or an empty one.")
    kind = text_in(checked_bytes(model or SHIPPED), "embervlm.type")
    if library_path() is not None:  # else the board's engine looks into the model
        NativeBackend.load(model)
    if fleet is not None:
        Fleet.from_yaml(fleet)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        unfinished.chmod(0o755)
        _fill(unfinished, model or SHIPPED, kind, fleet or PACKAGE / "default_fleet.yaml")
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def modules(entries: tuple[str, ...] = ENTRIES) -> list[Path]:
    """Return the files of this package that are imported when `entries` are, relative to it.

    Only imports at the top of a file count: one within a function is for another way to run.
    """
    found: dict[Path, None] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        for file in _files(name):
            if file not in found:
                found[file] = None
                waiting += _imports(PACKAGE / file)
    return sorted(found)


def _files(name: str) -> Iterator[Path]:
    """Yield a module's file and those of the packages that it is in."""
    parts = name.split(".")[1:]
    for length in range(len(parts) + 1):
        place = Path(*parts[:length])
        if (PACKAGE / place / "__init__.py").is_file():
            yield place / "__init__.py"
        elif (PACKAGE / place.with_suffix(".py")).is_file():
            yield place.with_suffix(".py")


def _imports(file: Path) -> Iterator[str]:
    for statement in ast.parse(file.read_text("utf-8")).body:
        names = []
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            # `from embervlm import planning` names a module, `import Fleet` no file.
            names = [f"{statement.module}.{alias.name}" for alias in statement.names]
        yield from (name for name in names if name.split(".")[0] == "embervlm")


def _fill(folder: Path, model: Path, kind: str, fleet: Path) -> None:
    sources = [path.relative_to(PACKAGE) for path in sorted((PACKAGE / "engine").glob("*.[ch]"))]
    words = SHIPPED_WORDS.relative_to(PACKAGE)
    for file in [*modules(), *sources, Path("default_fleet.yaml"), words]:
        target = folder / "embervlm" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / file, target)
    for path in sorted([*FILES.iterdir(), *LICENCES.iterdir()]):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(model, folder / "model.gguf")
    shutil.copyfile(fleet, folder / "fleet.yaml")
    megabytes = f"{(folder / 'model.gguf').stat().st_size / 1e6:.1f}"
    readme = folder / "README.md"
    filled = Template(readme.read_text("utf-8")).substitute(megabytes=megabytes, type=kind)
    readme.write_text(filled, "utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    (folder / _SUMS).write_text(
        "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
            for path in files
        ),
        "utf-8",
    )
