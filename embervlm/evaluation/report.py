"""A report to read: on the terminal, as JSON, as Markdown, and as one page that needs nothing else.

    embervlm eval --split validation --report out      # out/report.json, report.md, report.html

All three hold the same figures. The page has its pictures within it and asks no server for
anything; report.md names the pictures in the folder beside it. Pictures are those of `plots`, drawn
from report.json alone, so that `embervlm plot` gives them again.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from embervlm.evaluation.plots import PICTURES, check_matplotlib, draw_report
from embervlm.fleet import Fleet

# What is printed; the report holds every figure of `metrics.measure`.
COLUMNS = {
    "exact_set": "exact set",
    "top1": "first in set",
    "macro_f1": "macro F1",
    "no_robot_precision": "No Robot P",
    "no_robot_recall": "No Robot R",
    "environment": "place",
    "pairs": "pairs",
    "calibration_error": "ECE",
    "largest_calibration_error": "MCE",
    "brier_confidence": "Brier",
    "brier_sets": "Brier of sets",
    "area_under_risk": "AURC",
    "coverage_at_1_percent": "kept at 1 %",
    "coverage_at_5_percent": "at 5 %",
    "coverage_at_10_percent": "at 10 %",
    "flipped": "flipped",
    "cost": "cost",
    "drawn_to_it": "drawn to it",
    "coverage": "covered",
    "sets_named": "sets named",
    **{f"covers {name}": name for name in Fleet.default().outcomes},
    "answered": "answered",
    "error_answered": "error then",
    "share": "share",
    "gap": "gap",
    "gap_by_chance": "gap by chance",
    "p_gap": "p of the gap",
    "before": "before",
    "change": "change",
    "only_now": "right now only",
    "only_before": "right before only",
    "p_mcnemar": "p (McNemar)",
    "count": "number",
    "million_parameters": "M parameters",
    "million_flops": "MFLOP",
    "megabytes": "MB",
    "request_ms": "ms",
    "p95_ms": "ms, 95th of 100",
    "memory_mb": "MiB of memory",
    "kilojoules_per_1000": "kJ per 1,000",
    "co2e_g_per_1000": "g CO2e per 1,000",
    "jaccard": "overlap",
    "assignment": "assigned",
    "precedence_f1": "precedence F1",
    "order": "order",
    "steps_right": "steps",
    "broken_true": "limits broken",
    "unreadable": "unreadable",
}
_WITH_INTERVAL = ("exact_set", "share", "flipped", "cost", "gap", "change", "count")
_MIN_WIDTH = 150


def show(report: Mapping[str, Any]) -> None:
    """Print the report's tables, with intervals where a row stands or falls by them."""
    console = Console()
    console.width = max(console.width, _MIN_WIDTH)
    console.print(f"split: {report['about']['split']}")
    for title, rows in report["tables"].items():
        names = [key for key in COLUMNS if any(key in row for row in rows.values())]
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for name in names:
            table.add_column(COLUMNS[name], justify="right")
        for label, row in rows.items():
            table.add_row(label, *(_cell(row.get(name), name in _WITH_INTERVAL) for name in names))
        console.print(table)
    for part, reason in report["not measured"].items():
        console.print(f"not measured: {part} ({reason})")


def check_folder(folder: Path) -> None:
    """Raise a ValueError, before anything is measured, where a report could not be written."""
    check_matplotlib()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the report, new or old.")


def check_file(path: Path) -> None:
    """Raise a ValueError, before anything is measured, where a report could not be written.

    Folders that are not there yet are made when it is written.
    """
    nearest = next((folder for folder in path.absolute().parents if folder.exists()), path)
    can_write = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    if not can_write or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} cannot be written: give a file in a folder of yours.")


def write_folder(report: Mapping[str, Any], folder: Path) -> None:
    """Write report.json, report.md, report.html and the pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # The pictures of an earlier report may show what this one does not hold.
    for name in PICTURES:
        for suffix in (".png", ".svg"):
            (folder / "pictures" / name).with_suffix(suffix).unlink(missing_ok=True)
    drawn = draw_report(report, folder / "pictures")
    write_report(report, folder / "report.json")
    _write(folder / "report.md", as_markdown(report, drawn))
    _write(folder / "report.html", as_page(report, drawn))


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JSON, through a temporary file."""
    _write(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def as_markdown(report: Mapping[str, Any], pictures: Iterable[Path] = ()) -> str:
    """Return the report as Markdown; the pictures lie in `pictures/` beside it."""
    lines = [f"# {_title(report)}", "", _SENTENCE, ""]
    for title, rows in report["tables"].items():
        names = _columns_of(rows)
        lines += [f"## {title}", ""]
        lines.append("| | " + " | ".join(COLUMNS[name] for name in names) + " | n |")
        lines.append("|---|" + "---:|" * (len(names) + 1))
        for label, row in rows.items():
            cells = [_cell(row.get(name), True) for name in names]
            lines.append("| " + " | ".join([_escaped(label), *cells, _count(row)]) + " |")
        lines.append("")
    for path in pictures:
        words = PICTURES[path.stem]
        lines += [f"![{words}](pictures/{path.name})", "", words + ".", ""]
    lines += ["## Not measured", ""]
    lines += [f"- {part}: {why}" for part, why in report["not measured"].items()] or ["- nothing"]
    lines += ["", "## How it was made", ""]
    lines += [f"- {name}: `{value}`" for name, value in _facts(report["about"])]
    return "\n".join(lines) + "\n"


def as_page(report: Mapping[str, Any], pictures: Iterable[Path] = ()) -> str:
    """Return the report as one HTML page; each picture's SVG, beside its PNG, is put into it."""
    parts = [f"<h1>{html.escape(_title(report))}</h1>", f"<p>{html.escape(_SENTENCE)}</p>"]
    drawn = list(pictures)
    if drawn:
        parts.append('<div class="pictures">')
    for path in drawn:
        words = html.escape(PICTURES[path.stem])
        data = base64.b64encode(path.with_suffix(".svg").read_bytes()).decode()
        parts.append(
            f'<figure><img alt="{words}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{words}.</figcaption></figure>"
        )
    if drawn:
        parts.append("</div>")
    for title, rows in report["tables"].items():
        names = _columns_of(rows)
        heads = "".join(f'<th scope="col">{html.escape(COLUMNS[name])}</th>' for name in names)
        parts.append(
            f'<h2>{html.escape(title)}</h2><div class="wide"><table><thead><tr><td></td>{heads}'
            '<th scope="col">n</th></tr></thead><tbody>'
        )
        for label, row in rows.items():
            cells = "".join(f"<td>{_html_cell(row.get(name))}</td>" for name in names)
            parts.append(
                f'<tr><th scope="row">{html.escape(label)}</th>{cells}<td>{_count(row)}</td></tr>'
            )
        parts.append("</tbody></table></div>")
    missing = report["not measured"].items()
    items = [f"<li>{html.escape(part)}: {html.escape(why)}</li>" for part, why in missing]
    parts.append(f"<h2>Not measured</h2><ul>{''.join(items) or '<li>nothing</li>'}</ul>")
    facts = [
        f"<dt>{html.escape(name)}</dt><dd><code>{html.escape(value)}</code></dd>"
        for name, value in _facts(report["about"])
    ]
    parts.append(f"<h2>How it was made</h2><dl>{''.join(facts)}</dl>")
    return _PAGE.format(title=html.escape(_title(report)), body="\n".join(parts))


_SENTENCE = (
    "Each figure stands with its 95 % bootstrap interval; n is the number of cases of the row. "
    "What each figure means is said in docs/evaluation.md."
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 84rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1, h2 {{ font-weight: 600; line-height: 1.25; }}
h2 {{ margin-top: 2.2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .38rem; text-align: right; border-bottom: 1px solid #e4e7eb;
  white-space: nowrap; vertical-align: top; }}
th[scope=row] {{ text-align: left; font-weight: 400; }}
small {{ display: block; color: #52606d; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }}
figure {{ margin: 0; max-width: 100%; }}
figure img {{ max-width: 100%; width: 34rem; }}
figcaption {{ color: #52606d; }}
dt {{ color: #52606d; }}
dd {{ margin: 0 0 .5rem; overflow-wrap: anywhere; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def _title(report: Mapping[str, Any]) -> str:
    subject = report["about"].get("subject", "embervlm")
    return f"Evaluation of {subject} on the {report['about']['split']} split"


def _columns_of(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [key for key in COLUMNS if any(key in row for row in rows.values())]


def _count(row: Mapping[str, Mapping[str, Any]]) -> str:
    """Return on how many cases a row stands: the most that any of its figures has."""
    return f"{max((figure['n'] for figure in row.values()), default=0):,}"


def _facts(about: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Yield the name and value of each fact, those within others behind the others' names."""
    for name, value in about.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{before}{name}, ")
        else:
            yield f"{before}{name}", str(value)


def _html_cell(figure: Mapping[str, float | int | None] | None) -> str:
    words, _, interval = _cell(figure, True).partition(" (")
    return words + (f"<small>{interval.rstrip(')')}</small>" if interval else "")


def _escaped(words: str) -> str:
    return words.replace("|", "\\|")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _cell(figure: Mapping[str, float | int | None] | None, with_interval: bool) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    if not with_interval or figure["low"] is None or figure["high"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.2f} to {figure['high']:.2f})"
