"""What `embervlm doctor` tells: what is here, what is missing, and what to do about it.

Nothing but the standard library is imported before it was looked for, so that a missing package is
a line of the answer. A fault is what keeps every decision from being made: some way of running the
model, with its model, is enough.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_NEEDED = ("numpy", "pillow", "PyYAML")
# Package -> the extra that brings it.
_EXTRAS = {
    "torch": "train",
    "scikit-learn": "train",
    "scipy": "train",
    "matplotlib": "train",
    "tokenizers": "train",
    "gguf": "export",
    "huggingface-hub": "hub",
    "pyarrow": "parquet",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "websockets": "ros",
    "psycopg": "postgres",
    "fastapi": "server",
    "uvicorn": "server",
    "python-multipart": "server",
    "prometheus-client": "server",
    "mcp": "mcp",
    "ray": "scale",
}
# What the kernels use, or could, as /proc/cpuinfo calls it.
_INSTRUCTIONS = {
    "x86_64": ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    "aarch64": ("asimd", "asimddp", "i8mm"),
    "arm": ("vfp", "neon", "vfpv4"),
}
# A text of the file's header: key, type 8, length, text.
_TYPE = re.compile(rb"embervlm\.type\x08\0\0\0(.)\0{7}", re.DOTALL)
_COMPILER = re.compile(rb"GCC: \([^)\0]{1,80}\) [\d.]+|clang version [\w.+~-]+")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether a decision cannot do without."""

    what: str
    found: str
    fault: bool = False


def examine() -> list[Finding]:
    """Return the findings, the most needed first."""
    needed = [
        Finding(name, _version_of(name) or f"missing: pip install {name}", not _version_of(name))
        for name in _NEEDED
    ]
    can_import = not any(finding.fault for finding in needed)
    return [
        Finding("Python", f"{sys.version.split()[0]} on {platform.platform()}"),
        *_machine(Path("/")),
        *needed,
        *([*_models(), _photos()] if can_import else []),
        Finding("SQLite", f"{sqlite3.sqlite_version}, {_full_text()}"),
        *(
            Finding(name, _version_of(name) or f"not installed: pip install 'embervlm[{extra}]'")
            for name, extra in _EXTRAS.items()
        ),
    ]


def to_json(findings: list[Finding]) -> str:
    """Return the findings for programs."""
    rows = [{"what": f.what, "found": f.found, "fault": f.fault} for f in findings]
    can_decide = not any(finding.fault for finding in findings)
    return json.dumps({"can_decide": can_decide, "findings": rows}, indent=2)


def _models() -> list[Finding]:
    """Look at the model file and at what can run it: the engine, or NumPy with the gguf package."""
    file, is_sound = _file()
    engine, engine_works = _engine()
    works = is_sound and (engine_works or _version_of("gguf") is not None)
    return [
        Finding("model", file, fault=not is_sound),
        *(
            Finding(what, found, fault=is_sound and not works and what == "engine")
            for what, found in engine.items()
        ),
    ]


def _file() -> tuple[str, bool]:
    from embervlm import checkpoint

    try:
        content = checkpoint.checked_bytes(checkpoint.SHIPPED)
    except ValueError as error:
        return str(error), False
    kind = _TYPE.search(content)
    told = "of an unknown type"
    if kind:
        told = content[kind.end() :][: kind[1][0]].decode("ascii", "replace")
    digest = checkpoint.digest_of(content)
    return f"{checkpoint.SHIPPED}: {told}, {len(content):,} bytes, SHA-256 {digest}", True


def _engine() -> tuple[dict[str, str], bool]:
    from embervlm import engine

    try:
        engine.library()
    except ValueError as error:
        return {"engine": str(error)}, False
    best, *others = engine.kernel_sets()
    rest = f" (also: {', '.join(others)})" if others else ""
    found = {"engine": f"compiled; kernels for this processor: {best}{rest}"}
    path = engine.library_path()
    assert path is not None, "it was loaded"
    compiler = _COMPILER.search(path.read_bytes())
    by = compiler[0].decode("ascii", "replace") if compiler else "an unknown compiler"
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    found["engine build"] = f"{path}, by {by}, {made:%Y-%m-%d %H:%M} UTC"
    return found, True


def _machine(root: Path) -> list[Finding]:
    """Read what /proc and /sys below `root` tell; a line that they do not tell is left out."""
    found = [Finding("processor", _processor(_text(root / "proc/cpuinfo")))]
    memory = dict(re.findall(r"^(\w+): +(\d+) kB$", _text(root / "proc/meminfo"), re.M))
    if "MemTotal" in memory and "MemAvailable" in memory:
        total, free = (int(memory[key]) // 1024 for key in ("MemTotal", "MemAvailable"))
        found.append(Finding("memory", f"{total:,} MiB, {free:,} available"))
    zones = [_text(path) for path in sorted(root.glob("sys/class/thermal/thermal_zone*/temp"))]
    degrees = [int(text) / 1000 for text in zones if re.fullmatch(r"-?\d+\s*", text)]
    if degrees:
        found.append(Finding("temperature", f"{max(degrees):.0f} degrees C, the hottest part"))
    return found


def _processor(cpuinfo: str) -> str:
    lines = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", cpuinfo, re.M))
    name = next((lines[key] for key in ("model name", "Model", "Hardware") if key in lines), "")
    machine = platform.machine()
    family = "arm" if machine.startswith("arm") and machine != "arm64" else machine
    has = (lines.get("flags") or lines.get("Features") or "").split()
    known = _INSTRUCTIONS.get(family, ())
    told = f"{machine}, {os.cpu_count()} cores" + (f", {name}" if name else "")
    if has and known:
        lacks = [flag for flag in known if flag not in has]
        told += f"; has {', '.join(flag for flag in known if flag in has) or 'none of these'}"
        told += f"; not {', '.join(lacks)}" if lacks else ""
    return told


def _photos() -> Finding:
    from PIL import features

    kinds = {"JPEG": "jpg", "PNG": "zlib", "WebP": "webp"}
    reads = [kind for kind, part in kinds.items() if features.check(part)]
    lacks = [kind for kind in kinds if kind not in reads]
    told = f"reads {', '.join(reads) or 'none'}"
    return Finding("photos", told + (f"; cannot read {', '.join(lacks)}" if lacks else ""))


def _full_text() -> str:
    with sqlite3.connect(":memory:") as connection:
        try:
            connection.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
        except sqlite3.OperationalError:
            return "without full-text search (FTS5)"
    return "with full-text search (FTS5)"


def _text(path: Path) -> str:
    """Return a file's text, or nothing where the system has no such file."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
