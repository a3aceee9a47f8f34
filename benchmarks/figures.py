"""Hold the figures of the documents against the files that they were measured into.

    python benchmarks/figures.py            # what differs: file, line, found, expected; exit code 1
    python benchmarks/figures.py --write    # put the figures of the files into the documents

`figures.yaml` beside this file names the texts. Each `{}` in one is a number, and `figures` says,
in the same order, where it is from and how it is written:

    - text: "calibration error {} on {} requests"
      of: eval > tables > requests and plans > embervlm
      figures: [calibration_error > .3f, calibration_error > n > d]

The steps lead from a name under `sources` through the keys of its JSON; `backend=onnx,threads=1`
chooses the one row of a list, and a figure with an interval stands for its `value`. The last step
is a Python format, or `thousands` (with commas), behind `*100` or `/1e6` where the text has another
unit. Of rows (JSONL) there is `count`, also with conditions (`count split=train`, `count id!^w`:
does not begin with w); of a model file `bytes`, and `parameters` of the tensors whose names begin
as said.

A text with `why` in place of `figures` holds numbers that no file holds. In the documents under
`complete` every number with a decimal point, a thousands comma or a unit must stand in one text or
the other, so that a new figure cannot be typed in from memory; code and link targets are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("figures.yaml")

HOLE = r"(-?\d+(?:,\d{3})*(?:\.\d+)?)"
LOOKS_MEASURED = re.compile(
    r"(?<![\w.,/-])\d+(?:"
    r"\.\d+|,\d{3}\b(?:,\d{3})*|(?=\s?(?:%|points\b|ms\b|s\b|kB\b|MB\b|bytes\b))"
    r")(?![\w]*-)"
)
# Fenced blocks, code in a line, targets of links, tags.
NO_PROSE = re.compile(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)|<[^>\n]*>", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """A number of a document: where it stands, what it is there, what it should be and why.

    `expected` is None where no file holds it.
    """

    document: Path
    start: int
    line: int
    found: str
    expected: str | None
    origin: str

    @property
    def is_right(self) -> bool:
        """Whether the document says what the file says."""
        return self.expected in (None, self.found)


class Table:
    """`figures.yaml`, and the files that it names, under `root`."""

    def __init__(self, path: Path = TABLE, root: Path = ROOT) -> None:
        """Read it.

        Raises:
            ValueError: it has another form.
        """
        content = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(content, dict) or set(content) != {"sources", "complete", "documents"}:
            raise ValueError(f"{path}: expected `sources`, `complete` and `documents`.")
        self.root = root
        self.sources: dict[str, Any] = content["sources"]
        self.complete: list[str] = content["complete"]
        self.documents: dict[str, list[dict[str, Any]]] = content["documents"]
        self._content_of = cache(content_of)

    def figures(self, name: str) -> Iterator[Figure]:
        """Yield the numbers of the texts of one document.

        Raises:
            ValueError: a text is not there or there twice, or leads to nothing.
        """
        document = self.root / name
        words = document.read_text("utf-8")
        for entry in self.documents[name]:
            text = entry["text"]
            matches = list(_pattern(text).finditer(words))
            if len(matches) != 1:
                raise ValueError(
                    f"{name}: {len(matches)} places read {text!r} where one is expected; "
                    f"write it in benchmarks/figures.yaml as it stands in the document."
                )
            (match,) = matches
            steps = self._steps(entry, match.re.groups, name)
            for i, step in enumerate(steps, 1):
                expected = None if step is None else self.written(step)
                yield Figure(
                    document,
                    match.start(i),
                    words.count("\n", 0, match.start(i)) + 1,
                    match[i],
                    expected,
                    step or entry["why"],
                )

    @staticmethod
    def _steps(entry: dict[str, Any], holes: int, name: str) -> list[str | None]:
        """Return where each number of a text is from; None for one that no file holds."""
        if "why" in entry:
            return [None] * holes
        prefix = f"{entry['of']} > " if "of" in entry else ""
        steps: list[str | None] = [prefix + str(step) for step in entry["figures"]]
        if len(steps) != holes:
            raise ValueError(
                f"{name}: {entry['text']!r} has {holes} numbers and {len(steps)} figures."
            )
        return steps

    def written(self, steps: str) -> str:
        """Return a figure as a document writes it: `eval > about > rows > plans > d`.

        Raises:
            ValueError: the steps lead to no number.
        """
        source, *path, form = steps.split(" > ")
        if source not in self.sources:
            raise ValueError(f"{steps!r}: no source is called {source!r}.")
        files = self.sources[source]
        names = (files,) if isinstance(files, str) else tuple(files)
        value = self._content_of(tuple(self.root / name for name in names))
        for step in path:
            value = _step(value, step, steps)
        if isinstance(value, dict):
            value = value.get("value", value.get("mean"))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{steps!r} leads to {value!r}, which is no number.")
        scale, _, form = form.rpartition(" ")
        if scale:
            value = value * float(scale[1:]) if scale[0] == "*" else value / float(scale[1:])
        if form == "thousands":
            return f"{round(value):,}"
        return format(round(value) if form == "d" else value, form)


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file, of which its size and its parameters are told."""

    path: Path

    def size(self, step: str) -> int:
        """Return `bytes`, or the `parameters` below some names; scales and merges are none."""
        kind, *prefixes = step.split()
        if kind == "bytes":
            return self.path.stat().st_size
        from gguf import GGUFReader

        tensors = GGUFReader(self.path).tensors
        return sum(
            int(tensor.n_elements)
            for tensor in tensors
            if tensor.name.startswith(tuple(prefixes) or "")
            and not tensor.name.endswith(".scale")
            and tensor.name != "tokenizer.merges"
        )


def content_of(paths: tuple[Path, ...]) -> Any:
    """Return what the files hold, rows of several one behind the other."""
    if paths[0].suffix == ".gguf":
        return ModelFile(paths[0])
    if paths[0].suffix == ".jsonl":
        lines = [line for path in paths for line in path.read_text("utf-8").splitlines()]
        return [json.loads(line) for line in lines]
    return json.loads(paths[0].read_text("utf-8"))


def _step(value: Any, step: str, steps: str) -> Any:
    """Return what lies behind one step."""
    if isinstance(value, ModelFile):
        return value.size(step)
    if isinstance(value, list):
        if step.startswith("count"):
            return len(_rows(value, step.removeprefix("count").split()))
        if step.isdigit() and int(step) < len(value):
            return value[int(step)]
        rows = _rows(value, step.split(","))
        if "=" in step and len(rows) == 1:
            return rows[0]
        raise ValueError(f"{steps!r}: {len(rows)} rows are {step!r} where one is expected.")
    if isinstance(value, dict) and step in value:
        return value[step]
    raise ValueError(f"{steps!r}: there is no {step!r}.")


def _rows(rows: list[dict[str, Any]], conditions: list[str]) -> list[dict[str, Any]]:
    """Return the rows of which every condition is true: `key=value`, `key^start`, `key!^start`."""
    for condition in conditions:
        if "!^" in condition:
            key, start = condition.split("!^")
            rows = [row for row in rows if not str(row.get(key, "")).startswith(start)]
        elif "^" in condition:
            key, start = condition.split("^")
            rows = [row for row in rows if str(row.get(key, "")).startswith(start)]
        else:
            key, value = condition.split("=")
            rows = [row for row in rows if str(row.get(key)) == value]
    return rows


def _pattern(text: str) -> re.Pattern[str]:
    """Return what finds a text, however its lines are broken."""
    parts = [re.sub(r"(?:\\\s)+", lambda _: r"\s+", re.escape(part)) for part in text.split("{}")]
    return re.compile(HOLE.join(parts))


def unnamed(table: Table, name: str) -> Iterator[tuple[int, str]]:
    """Yield line and number of what looks measured in a document and stands in no text."""
    words = (table.root / name).read_text("utf-8")
    spans = [match.span() for match in NO_PROSE.finditer(words)]
    for entry in table.documents[name]:
        for match in _pattern(entry["text"]).finditer(words):
            spans += [match.span(i) for i in range(1, match.re.groups + 1)]
            if not match.re.groups:
                spans.append(match.span())
    for match in LOOKS_MEASURED.finditer(words):
        if not any(start <= match.start() < end for start, end in spans):
            yield words.count("\n", 0, match.start()) + 1, match[0]


def problems(table: Table) -> Iterator[str]:
    """Yield a sentence for each number that drifted, or that nobody holds."""
    for name in table.documents:
        try:
            for figure in table.figures(name):
                if not figure.is_right:
                    yield (
                        f"{name}:{figure.line}: found {figure.found}, expected {figure.expected} "
                        f"({figure.origin})"
                    )
        except ValueError as error:
            yield str(error)
    for name in table.complete:
        for line, number in unnamed(table, name):
            yield (
                f"{name}:{line}: {number} stands in no text of benchmarks/figures.yaml: say there "
                f"which file holds it, or why none does"
            )


def write(table: Table) -> int:
    """Put the figures of the files into the documents; return how many were changed."""
    changed = 0
    for name in table.documents:
        path = table.root / name
        words = path.read_text("utf-8")
        wrong = [figure for figure in table.figures(name) if not figure.is_right]
        for figure in sorted(wrong, key=lambda figure: -figure.start):
            end = figure.start + len(figure.found)
            words = words[: figure.start] + str(figure.expected) + words[end:]
        if wrong:
            path.write_text(words, "utf-8")
        changed += len(wrong)
    return changed


def main() -> None:
    """Check, or write."""
    parser = argparse.ArgumentParser(description="Hold the documents' figures against their files.")
    parser.add_argument("--write", action="store_true", help="put the figures of the files in")
    arguments = parser.parse_args()
    table = Table()
    if arguments.write:
        sys.stdout.write(f"{write(table)} figures changed\n")
    found = list(problems(table))
    for problem in found:
        sys.stderr.write(f"{problem}\n")
    held = sum(len(list(table.figures(name))) for name in table.documents) if not found else 0
    if found:
        sys.exit(1)
    sys.stdout.write(f"{held} figures of {len(table.documents)} documents are as measured\n")


if __name__ == "__main__":
    main()
