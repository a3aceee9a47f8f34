"""The model card: Markdown with YAML in front, as the Hub reads it.

Every figure comes from a report that `embervlm eval --json` wrote of the very file that the card is
for: a report names its model by the SHA-256 within the file, and one of another model is refused.
Without a report there is no figure, and the card says so. What the one who uploads states himself
stands apart and in no YAML.

The YAML's keys are the Hub's (huggingface.co/docs/hub/model-cards); `model-index` holds the figures
in the form of Papers with Code, which `huggingface_hub.ModelCard` reads back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TAGS = ("embervlm", "gguf", "robotics", "robot-selection", "vision-language", "edge", "offline")
# What the model that ships was trained from (NOTICE), by the name that the Hub has for it.
BASE_MODELS = ("sentence-transformers/all-MiniLM-L6-v2",)
SHIPPED_LICENCE = "mit"
# The tables of a report that a card tells: title, row, what it is of.
TOLD = (
    ("requests and plans", "embervlm", "requests and team plans"),
    ("requests that the photo settles", "embervlm, words and photo", "requests with photos"),
)
# The figures of such a row, by their names in a report.
FIGURES = {
    "exact_set": "exactly the right robots",
    "top1": "the first robot is right",
    "no_robot_precision": "No Robot, precision",
    "no_robot_recall": "No Robot, recall",
    "calibration_error": "calibration error",
}


@dataclass(frozen=True)
class ModelFile:
    """One GGUF file; `kind` is how its weights are kept, `digest` the SHA-256 that it carries."""

    name: str
    kind: str
    size_bytes: int
    digest: str
    is_shipped: bool


@dataclass(frozen=True)
class Measured:
    """A report, and the file that it measured."""

    report: Mapping[str, Any]
    file: ModelFile


@dataclass(frozen=True)
class Figure:
    """One figure of a report; `of` says of what, `low` to `high` is its 95 % interval if any."""

    of: str
    name: str
    value: float
    low: float | None
    high: float | None
    count: int


def read_report(report: Path | Mapping[str, Any], files: Sequence[ModelFile]) -> Measured:
    """Return a report with the file that it is of.

    Raises:
        ValueError: it is no report, or of none of the files.
    """
    source = "The report" if isinstance(report, Mapping) else str(report)
    try:
        found = (
            report if isinstance(report, Mapping) else json.loads(Path(report).read_text("utf-8"))
        )
        digest, split = found["about"]["model"], found["about"]["split"]
        told = list(_figures(found))
    except OSError as error:
        raise ValueError(f"{source} cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source} is no report of 'embervlm eval --json' ({error!r}); give one."
        ) from error
    if not told or not isinstance(split, str):
        raise ValueError(
            f"{source} has no figure that a card tells, or no split; measure requests."
        )
    for file in files:
        if file.digest == digest:
            return Measured(found, file)
    raise ValueError(
        f"{source} measured the model {str(digest)[:12]}..., and "
        f"{files[0].name} is {files[0].digest[:12]}...; measure this file with 'embervlm eval "
        "--model FILE --json REPORT'."
    )


def model_card(
    files: Sequence[ModelFile],
    robots: Sequence[str],
    measured: Measured | None,
    given: Mapping[str, float],
    licence: str | None,
) -> str:
    """Return the card as text; `given` are figures that are told as nobody's but the uploader's."""
    shipped = any(file.is_shipped for file in files)
    licence = licence or (SHIPPED_LICENCE if shipped else None)
    front: dict[str, Any] = {} if licence is None else {"license": licence}
    front |= {
        "library_name": "embervlm",
        "pipeline_tag": "robotics",
        "language": ["en"],
        "tags": list(TAGS),
    }
    if shipped:
        front["base_model"] = list(BASE_MODELS)
    name = files[0].name.removesuffix(".gguf")
    if measured is not None:
        front["model-index"] = [{"name": name, "results": list(_results(measured.report))}]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        "Decides which robots to send, from a photo, a request, or both; offline, on a small CPU.",
        _USE,
        f"It was saved with a fleet of {len(robots)}: {', '.join(robots)} (`fleet.yaml`). "
        "`from_pretrained(..., fleet=...)` takes another one.",
        _table(files),
        "## How good is it",
        *(_measured(measured) if measured is not None else [_NOT_MEASURED]),
    ]
    if given:
        rows = [f"| {name} | {float(value):g} |" for name, value in given.items()]
        parts += [_GIVEN, "\n".join(["| figure | value |", "|---|---:|", *rows])]
    parts += [
        "## Limits",
        "Meant for ranking robots for a person who confirms, not for sending robots unseen. "
        "English only. A stated limit of a robot is never broken by a decision that has read it; "
        "the network can read a request wrongly.",
        "## Licence",
        _licence(licence, shipped),
    ]
    return "\n\n".join(parts) + "\n"


def _figures(report: Mapping[str, Any]) -> Iterator[Figure]:
    for title, row, of in TOLD:
        found = report["tables"].get(title, {}).get(row, {})
        for name in FIGURES:
            cell = found.get(name)
            if cell is None or cell["value"] is None:
                continue
            value, low, high = (
                None if cell[key] is None else float(cell[key]) for key in ("value", "low", "high")
            )
            if value is None or not math.isfinite(value):
                raise ValueError(f"{name} of {title} is no number")
            yield Figure(of, name, value, low, high, int(cell["n"]))


def _results(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the entries of a model index, one for each table."""
    split = str(report["about"]["split"])
    told = list(_figures(report))
    for _, _, of in TOLD:
        metrics = [
            {"type": one.name, "name": FIGURES[one.name], "value": one.value}
            for one in told
            if one.of == of
        ]
        if metrics:
            yield {
                "task": {"type": "robotics", "name": "robot selection"},
                "dataset": {
                    "type": "embervlm-scenarios",
                    "name": f"embervlm scenarios, {of}",
                    "split": split,
                },
                "metrics": metrics,
            }


def _measured(measured: Measured) -> list[str]:
    about = measured.report["about"]
    rows = ["| of | figure | value | 95 % interval | n |", "|---|---|---:|---|---:|"]
    for one in _figures(measured.report):
        interval = ""
        if one.low is not None and one.high is not None:
            interval = f"{one.low:.3f} to {one.high:.3f}"
        rows.append(
            f"| {one.of} | {FIGURES[one.name]} | {one.value:.3f} | {interval} | {one.count:,} |"
        )
    facts = [
        f"- {name}: `{about[key]}`"
        for name, key in (("command", "command"), ("commit", "commit"), ("date", "date"))
        if about.get(key)
    ]
    return [
        f"Measured on the {about['split']} split with `{measured.file.name}`; all of it, with "
        "ablations, is in `report.json`.",
        "\n".join(rows),
        "\n".join(facts),
    ]


def _table(files: Sequence[ModelFile]) -> str:
    rows = [
        f"| `{file.name}` | {file.kind} | {file.size_bytes:,} | `{file.digest}` |" for file in files
    ]
    head = ["| file | weights | bytes | SHA-256 that it carries |", "|---|---|---:|---|"]
    return "\n".join([*head, *rows])


def _licence(licence: str | None, shipped: bool) -> str:
    stated = (
        "No licence was stated when this was saved; ask the one who published it."
        if licence is None
        else f"Published under `{licence}`."
    )
    if not shipped:
        return stated
    return (
        f"{stated} The weights begin from all-MiniLM-L6-v2 and from Google's quantised MobileNetV2 "
        "(google-coral/edgetpu), both under the Apache License 2.0, and were changed by pruning, "
        "fine-tuning of all layers and quantisation (`NOTICE`, `Apache-2.0.txt`)."
    )


_USE = """```python
import embervlm

model = embervlm.EmberVLM.from_pretrained("OWNER/NAME", revision="COMMIT")  # or a folder
decision = model.select_robots(image="flood.jpg", task="reach the people on the roof")
decision.robots, decision.confidence, decision.rejected
```"""
_NOT_MEASURED = "No report was given when this was saved, so nothing is claimed here."
_GIVEN = "Stated by the one who uploaded it, and checked by nobody here:"
