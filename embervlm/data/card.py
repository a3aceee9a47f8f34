"""The scenarios as a data set for the Hugging Face Hub: a file for each split, and a card.

    embervlm hub dataset-card --out build/scenarios

    README.md                       the card; every number in it is counted from the rows
    scenarios/train.jsonl ...       the rows as they are, one file a set and split
    splits.sha256                   pins which row is in which split

The YAML in front is the Hub's (huggingface.co/docs/hub/datasets-cards); its `configs` tell
`datasets.load_dataset(FOLDER, "plans")` where the splits lie. How the rows came about is told in
words, as in `data/README.md`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from embervlm.data.scenarios import FILES, SPLITS, Row, is_addition, load, split_hash

# The Hub's steps of size, by the first that is larger.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_LARGEST = "100K<n<1M"
_WHAT = {
    "scenarios": "single requests: the suited robots, the first one, the place, what is needed",
    "plans": "jobs for a team, as steps with robots and what waits for what",
    "photo_requests": "requests that a photo settles: the suited robots for each kind of place",
}


def write_data_set(out: Path, directory: Path | None = None) -> dict[str, int]:
    """Write the folder `out`, which is not there yet or is empty; return the rows of each file.

    Raises:
        ValueError: `out` holds something, or the scenarios are not there.
    """
    if out.is_symlink() or out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} is there already: give a new folder, or an empty one.")
    sets = {name: load(name, directory=directory) for name in FILES}
    card = data_set_card(sets, split_hash(directory))
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    counts = {}
    try:
        unfinished.chmod(0o755)
        for name, rows in sets.items():
            (unfinished / name).mkdir()
            for split in SPLITS:
                file = f"{name}/{split}.jsonl"
                lines = [json.dumps(row, ensure_ascii=False) for row in rows if _in(row, split)]
                (unfinished / file).write_text("".join(f"{line}\n" for line in lines), "utf-8")
                counts[file] = len(lines)
        (unfinished / "splits.sha256").write_text(split_hash(directory) + "\n", "utf-8")
        (unfinished / "README.md").write_text(card, "utf-8")
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return counts


def data_set_card(sets: Mapping[str, list[Row]], split_digest: str) -> str:
    """Return the card of these rows by set as text."""
    total = sum(len(rows) for rows in sets.values())
    front: dict[str, Any] = {
        "license": "cc-by-4.0",
        "language": ["en"],
        "pretty_name": "embervlm scenarios",
        "task_categories": ["robotics", "text-classification"],
        "size_categories": [next((words for size, words in _SIZES if total < size), _LARGEST)],
        "tags": ["robot-selection", "dispatch", "multi-robot"],
        "configs": [
            {
                "config_name": name,
                "data_files": [
                    {"split": split, "path": f"{name}/{split}.jsonl"} for split in SPLITS
                ],
            }
            for name in sets
        ],
    }
    singles = sets["scenarios"]
    robots = Counter(robot for row in singles for robot in row["suited"])
    places = Counter(row["environment"] for row in singles)
    kinds = Counter(row["kind"] for row in singles)
    pairs = len({row["pair"] for row in singles if "pair" in row})
    steps = sum(len(row["plan"]) for row in sets["plans"])
    added = [row for rows in sets.values() for row in rows if is_addition(row["id"])]
    held_out = sum(not _in(row, "train") for row in added)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        "# Robot dispatch scenarios",
        f"{total:,} requests to a robot dispatch desk, each with the robots that suit it.",
        _splits(sets),
        f"Of the single requests {kinds['choice']:,} are choices (each suited robot alone does it) "
        f"and {kinds['team']:,} are for a team; {pairs:,} contrast pairs differ in one deciding "
        f"fact. The plans have {steps:,} steps.",
        _counted("robot of the suited set", robots),
        _counted("place", places),
        "## Keys",
        _KEYS,
        "## How written",
        f"{total - len(added):,} rows were written and labelled by hand by the authors; "
        f"{len(added):,} (ids `w...`, {held_out:,} of them outside train) were written one by one "
        "by language models under the same labelling guide, without templates and without sight "
        "of the other splits.",
        "## Splits",
        "The authors' rows are split by near-duplicate group (hashed character 4-grams, contrast "
        "partners joined) with a salted hash. `embervlm data check` finds no answer named in its "
        "request, no near-duplicate across splits and no unknown label. The SHA-256 over every id "
        f"and its split is `{split_digest}`.",
        "## Limits",
        "English only. The photos are not here: a photo request names what suits it for each kind "
        "of place, and any photo of such a place goes with it. In rows for a team a stated limit "
        "may concern one robot of the team.",
        "## Licence",
        "CC BY 4.0, the embervlm authors.",
    ]
    return "\n\n".join(parts) + "\n"


def _in(row: Row, split: str) -> bool:
    return bool(row["split"] == split)


def _splits(sets: Mapping[str, list[Row]]) -> str:
    rows = [f"| set | what | {' | '.join(SPLITS)} |", "|---|---|" + "---:|" * len(SPLITS)]
    for name, found in sets.items():
        counts = Counter(row["split"] for row in found)
        cells = " | ".join(f"{counts[split]:,}" for split in SPLITS)
        rows.append(f"| `{name}` | {_WHAT[name]} | {cells} |")
    return "\n".join(rows)


def _counted(what: str, counts: Counter[str]) -> str:
    found: Iterable[tuple[str, int]] = counts.most_common()
    rows = [f"| {what} | single requests |", "|---|---:|"]
    return "\n".join([*rows, *(f"| {name} | {count:,} |" for name, count in found)])


_KEYS = (
    "`id`, `task` (the request), `suited`, `primary`, `environment`, `actions`, `limits` (numbers "
    "with the unit in the key, and flags), `reasoning` (authors' rows), `kind`, `pair`, `plan` "
    "(steps with `robot` and `after`), `by_environment`, `conflict`, `split`."
)
