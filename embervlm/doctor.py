"""What `embervlm doctor` tells: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import platform
import sqlite3
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from embervlm import checkpoint
from embervlm.engine import kernel_sets, library

# Package -> the extra that brings it.
_EXTRAS = {
    **dict.fromkeys(("torch", "scikit-learn", "matplotlib"), "train"),
    "gguf": "export",
    "onnxruntime": "onnx",
}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether a decision cannot do without."""

    what: str
    found: str
    fault: bool = False


def examine() -> list[Finding]:
    """Return the findings, the most needed first."""
    return [
        Finding("Python", f"{sys.version.split()[0]} on {platform.platform()}"),
        _model(),
        *_engine(),
        Finding("SQLite", sqlite3.sqlite_version),
        *(
            Finding(
                name, _version_of(name) or "missing: pip install embervlm", not _version_of(name)
            )
            for name in ("numpy", "pillow", "PyYAML")
        ),
        *(
            Finding(name, _version_of(name) or f"not installed: pip install 'embervlm[{extra}]'")
            for name, extra in _EXTRAS.items()
        ),
    ]


def _model() -> Finding:
    try:
        content = checkpoint.checked_bytes(checkpoint.SHIPPED)
    except ValueError as error:
        return Finding("model", str(error), fault=True)
    digest = checkpoint.digest_of(content)
    return Finding("model", f"{checkpoint.SHIPPED}: {len(content):,} bytes, SHA-256 {digest}")


def _engine() -> list[Finding]:
    try:
        library()
    except ValueError as error:
        return [Finding("engine", str(error))]
    best, *others = kernel_sets()
    rest = f" (also: {', '.join(others)})" if others else ""
    return [Finding("engine", f"compiled; kernels for this processor: {best}{rest}")]


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
