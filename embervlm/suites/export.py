"""Our requests in the formats of VLMEvalKit and lmms-eval, so that their own code asks and scores.

    embervlm data export-suite lmms-eval --split validation --shared ../shared --out suite
    embervlm data export-suite vlmevalkit --split validation --shared ../shared --out suite

**lmms-eval**: two tasks, `embervlm_requests` (requests and plans) and, with the photos,
`embervlm_photos`. A model answers with the robots' names, several where several are right, under
the prompt of `embervlm eval --model openai:...` and its strict reading.

**VLMEvalKit**: two tables of questions with six options, A to F, and one right letter. VLMEvalKit
marks one letter a question, so that **several robots are one option**: an option is a whole set,
such as "Drone and Humanoid". One option is the true set; the other five are drawn, by a hash of
seed and id, from the true sets of the training split, as often as they stand there, so that options
tell no more than which sets are common. Chance is 1 in 6. The fleet stands in the column `hint`.

Photos are written anew as JPEG, so that nothing that a camera noted travels with them.
"""

from __future__ import annotations

import base64
import csv
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from embervlm.data.scenarios import SPLITS, load
from embervlm.evaluation.cases import SEED, Case, photo_cases, seeded_number, text_cases
from embervlm.fleet import Fleet
from embervlm.imaging import encode_jpeg, load_image
from embervlm.suites import lmms_task
from embervlm.suites.asking import LONGEST_PX
from embervlm.suites.comparison import dispatch_prompt
from embervlm.training.teacher_prompts import describe_robot

OPTIONS = 6
# The names of VLMEvalKit's tables and what stands before each request in them.
TABLES = "embervlm_"
QUESTION = "Which robots should be sent? "
_FIGURES = {"exact_set": True, "overlap": True, "first_in_set": True, "unreadable": False}


@dataclass(frozen=True)
class Row:
    """A case to be written: its name is its own among all, also where a request meets several
    photos."""

    name: str
    case: Case
    kind: str
    jpeg: bytes | None = None


def export_suite(kind: str, split: str, shared: Path | None, out: Path) -> list[Path]:
    """Write a split for one of `KINDS` into a folder; return the files to name.

    Raises:
        ValueError: an unknown kind or split, or `out` is a file.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no export to {kind!r}; there are {', '.join(KINDS)}.")
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; there are {', '.join(SPLITS)}.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder, new or old.")
    out.mkdir(parents=True, exist_ok=True)
    sets = {"requests": text_rows(split)}
    if shared is not None:
        sets["photos"] = photo_rows(split, shared / "photos")
    return [path for name, rows in sets.items() for path in KINDS[kind](name, split, rows, out)]


def text_rows(split: str) -> list[Row]:
    """Return the requests and plans of a split."""
    kinds = {row["id"]: row["kind"] for row in load("scenarios", split)}
    cases = text_cases(split)
    return [Row(case.truth.id, case, kinds.get(case.truth.id, "plan")) for case in cases]


def photo_rows(split: str, photos: Path) -> list[Row]:
    """Return the photo requests of a split with the photos of `evaluation.cases`."""
    rows = []
    for case in photo_cases(split, photos, SEED):
        assert isinstance(case.scenario.image, Path)
        jpeg = encode_jpeg(load_image(case.scenario.image), LONGEST_PX)
        rows.append(Row(f"{case.truth.id}-{case.truth.environment}", case, "photo", jpeg))
    return rows


def options_of(row: Row, place: int, sets: Counter[str], fleet: Fleet) -> list[str]:
    """Return the options of a row in their order, the true one at `place`."""
    true = set_words(row.case.truth.robots, fleet)
    draw = random.Random(seeded_number(f"{SEED} {row.name} options"))
    left = {words: count for words, count in sorted(sets.items()) if words != true}
    options: list[str] = []
    while len(options) < OPTIONS - 1:
        (words,) = draw.choices(list(left), list(left.values()))
        options.append(words)
        del left[words]
    options.insert(place, true)
    return options


def places_of(rows: Sequence[Row]) -> list[int]:
    """Return where the true option of each row stands: each place as often, in an order by hash."""
    order = sorted(
        range(len(rows)), key=lambda i: (seeded_number(f"{SEED} {rows[i].name} place"), i)
    )
    places = [0] * len(rows)
    for rank, i in enumerate(order):
        places[i] = rank % OPTIONS
    return places


def set_words(robots: Sequence[str], fleet: Fleet) -> str:
    """Return a set as an option's words, in the order of the fleet.

    >>> set_words(("Humanoid", "Drone"), Fleet.default())
    'Drone and Humanoid'
    """
    return " and ".join(sorted(robots, key=fleet.outcomes.index))


def parse_set(words: str, fleet: Fleet) -> tuple[str, ...] | None:
    """Return the robots of an option's words; None if it names anything else."""
    robots = tuple(words.strip().split(" and "))
    return robots if all(name in fleet.outcomes for name in robots) else None


def _write_vlmevalkit(name: str, split: str, rows: Sequence[Row], out: Path) -> list[Path]:
    fleet = Fleet.default()
    sets = Counter(set_words(row.case.truth.robots, fleet) for row in text_rows("train"))
    hint = "These are the robots and all their limits: " + " ".join(
        describe_robot(robot).removeprefix("- ") for robot in fleet
    )
    letters = [chr(ord("A") + i) for i in range(OPTIONS)]
    image = ["image"] if any(row.jpeg for row in rows) else []
    path = out / f"{TABLES}{name}_{split}.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(
            ["index", *image, "hint", "question", *letters, "answer", "category", "split", "id"]
        )
        for index, (row, place) in enumerate(zip(rows, places_of(rows), strict=True)):
            options, answer = options_of(row, place, sets, fleet), letters[place]
            photo = [base64.b64encode(row.jpeg).decode("ascii")] if row.jpeg else []
            question = QUESTION + _one_line(row.case.scenario.task or "")
            table.writerow(
                [index, *photo, hint, question, *options, answer, row.kind, split, row.name]
            )
    return [path]


def _write_lmms_eval(name: str, split: str, rows: Sequence[Row], out: Path) -> list[Path]:
    fleet = Fleet.default()
    shutil.copyfile(lmms_task.__file__, out / "utils.py")
    (out / "prompt.txt").write_text(dispatch_prompt(None, fleet).system, "utf-8")
    (out / "robots.json").write_text(json.dumps(fleet.outcomes), "utf-8")
    lines = out / f"{name}_{split}.jsonl"
    with lines.open("w", encoding="utf-8") as file:
        for row in rows:
            record = {
                "id": row.name,
                "request": row.case.scenario.task,
                "robots": list(row.case.truth.robots),
                "answer": json.dumps({"robots": row.case.truth.robots}),
                "kind": row.kind,
            }
            if row.jpeg:
                record["photo"] = f"photos/{row.name}.jpg"
                (out / "photos").mkdir(exist_ok=True)
                (out / "photos" / f"{row.name}.jpg").write_bytes(row.jpeg)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    config = {
        "task": f"embervlm_{name}",
        "dataset_path": "json",
        # A whole path: lmms-eval counts others from where it is started.
        "dataset_kwargs": {"data_files": {split: str(lines.resolve())}},
        "test_split": split,
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": 512, "temperature": 0, "do_sample": False},
        "metric_list": [
            {"metric": figure, "aggregation": "mean", "higher_is_better": better}
            for figure, better in _FIGURES.items()
        ],
        "lmms_eval_specific_kwargs": {"default": {}, "embervlm": {"request_alone": True}},
        "metadata": [{"version": 1.0}],
    }
    functions = "".join(
        f"{key}: !function utils.{key}\n"
        for key in ("doc_to_text", "doc_to_visual", "doc_to_messages", "process_results")
    )
    path = out / f"embervlm_{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False) + functions, "utf-8")
    return [path]


def _one_line(words: str) -> str:
    return " ".join(words.split())


KINDS: dict[str, Callable[[str, str, Sequence[Row], Path], list[Path]]] = {
    "vlmevalkit": _write_vlmevalkit,
    "lmms-eval": _write_lmms_eval,
}
