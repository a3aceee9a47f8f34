"""Our hand-written scenarios: their form, their splits, and the checks that keep them honest.

Three files lie in `data/`: `scenarios.jsonl` (requests), `plans.jsonl` (jobs for a team) and
`photo_requests.jsonl` (requests that a photo settles). Every row carries `split`. The split is made
once by `assign_splits`, from near-duplicate groups, and `data/splits.sha256` pins it.

    python -m embervlm.data.scenarios import SHARED_DATA [ADDITIONS...]   # rewrites data/
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.fleet import ACTIONS, ENVIRONMENTS, NO_ROBOT, Fleet
from embervlm.json_lines import json_lines
from embervlm.scenario import FLAGS, QUANTITIES

DATA_DIR = Path(__file__).parents[2] / "data"
FILES = ("scenarios", "plans", "photo_requests")
SPLITS = ("train", "validation", "test")
# What no row can do without.
KEYS = {
    "scenarios": (
        "id", "split", "task", "suited", "primary", "environment", "actions", "limits", "kind",
    ),
    "plans": ("id", "split", "task", "suited", "environment", "plan"),
    "photo_requests": ("id", "split", "task", "by_environment", "actions", "limits"),
}  # fmt: skip
STEP_KEYS = ("subtask", "robot", "after", "actions", "limits")
KINDS = ("choice", "team")
# Of what form the values of keys are, in rows and in steps of plans.
_TEXTS = ("id", "split", "task", "primary", "environment", "kind", "pair", "subtask", "robot")
_LISTS = ("suited", "actions", "conflict")

# Cosine of the hashed 4-gram vectors. Rows written one after the other are often contrast partners.
NEAR_DUPLICATE = 0.30
NEAR_DUPLICATE_NEIGHBOURS = 0.22
# The check is made over more rows than the split was, and word frequencies shift a little with
# them.
NEAR_DUPLICATE_CHECKED = 0.35
_NEIGHBOUR_DISTANCE = 3
_SPLIT_SALT = "embervlm-split-1:"
_HASH_DIMENSIONS = 1 << 13
_WORD = re.compile(r"\w+")

Row = dict[str, Any]


def has_data() -> bool:
    """Return whether the repository's rows are here: a package is installed without them."""
    return all((DATA_DIR / f"{name}.jsonl").is_file() for name in FILES)


def load(name: str, split: str | None = None, directory: Path | None = None) -> list[Row]:
    """Read the rows of one file of `FILES`, of one split or of all.

    Raises:
        ValueError: an unknown name or split, or the file is not there, or a line of it is no row.
    """
    if name not in FILES or split not in (None, *SPLITS):
        raise ValueError(
            f"Unknown set {name!r} or split {split!r}; sets: {FILES}, splits: {SPLITS}."
        )
    path = (directory or DATA_DIR) / f"{name}.jsonl"
    if not path.is_file():
        raise ValueError(
            f"{path} is not there: in a clone of the repository, where the data ship, run "
            "'pip install -e .', or give your own folder (--dir, --data or --scenarios)."
        )
    rows = []
    try:
        for number, line in json_lines(path):
            rows.append(json.loads(line))
            if not isinstance(rows[-1], dict):
                raise ValueError(f"{path}, line {number} is no JSON object; see data/README.md.")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it so.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number} is no JSON ({error}).") from error
    return [row for row in rows if split in (None, row.get("split"))]


def files_of(directory: Path | None) -> tuple[str, ...]:
    """Return which of `FILES` are to be read: of somebody's own folder, `scenarios.jsonl` and those
    that are there; of the repository's, all."""
    return tuple(
        name
        for name in FILES
        if directory is None or name == "scenarios" or (directory / f"{name}.jsonl").is_file()
    )


def load_own(name: str, split: str, folder: str) -> list[Row]:
    """Read the rows of one file of a split: the repository's, or from a folder of somebody's own.

    A folder of one's own may lack all files but `scenarios.jsonl`.

    Raises:
        ValueError: see `load`; or a row of one's own has a fault, as `check` names them.
    """
    if not folder:
        return load(name, split)
    if name not in files_of(Path(folder)):
        return []
    fleet, faults, rows = Fleet.default(), [], load(name, None, Path(folder))
    for number, row in enumerate(rows, start=1):
        found = list(_form_faults(name, row)) or _label_faults({**row, "_file": name}, fleet)
        faults += [f"{_named(row, number)}: {fault}" for fault in found]
    faults += _repeated(rows)
    if faults:
        raise ValueError(f"{folder}/{name}.jsonl: {faults[0]} ({len(faults)} faults in all.)")
    return [row for row in rows if row["split"] == split]


def task_vectors(tasks: Sequence[str]) -> NDArray[np.float32]:
    """Return unit rows (N, 8192) of hashed character 4-grams, log counts times inverse
    frequency."""
    vectors = np.zeros((len(tasks), _HASH_DIMENSIONS), np.float32)
    for i, task in enumerate(tasks):
        text = f" {' '.join(_WORD.findall(task.lower()))} "
        for j in range(max(1, len(text) - 3)):
            vectors[i, zlib.crc32(text[j : j + 4].encode()) % _HASH_DIMENSIONS] += 1
    rows_with = (vectors > 0).sum(0)
    vectors = np.log1p(vectors) * np.log((1 + len(tasks)) / (1 + rows_with)).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9), dtype=np.float32)


def group_near_duplicates(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each row the smallest id of its group: contrast pairs and near-duplicates
    joined."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    vectors = task_vectors([row["task"] for row in rows])
    similar = np.triu(vectors @ vectors.T, 1)
    for i, j in np.argwhere(similar > NEAR_DUPLICATE_NEIGHBOURS).tolist():
        if similar[i, j] > NEAR_DUPLICATE or j - i <= _NEIGHBOUR_DISTANCE:
            parent[root(j)] = root(i)
    pairs: dict[str, int] = {}
    for i, row in enumerate(rows):
        if "pair" in row:
            parent[root(i)] = root(pairs.setdefault(row["pair"], i))
    smallest: dict[int, str] = {}
    for i, row in enumerate(rows):
        smallest[root(i)] = min(smallest.get(root(i), row["id"]), row["id"])
    return [smallest[root(i)] for i in range(len(rows))]


def split_of(group: str) -> str:
    """Return the split of a group: 70 / 15 / 15 by a salted hash of its smallest id."""
    digest = hashlib.sha256((_SPLIT_SALT + group).encode()).hexdigest()
    share = int(digest[:8], 16) / 2**32
    return SPLITS[0] if share < 0.70 else SPLITS[1] if share < 0.85 else SPLITS[2]


def split_hash(directory: Path | None = None) -> str:
    """Return the SHA-256 over the sorted `id split` lines of all three files."""
    rows = [row for name in FILES for row in load(name, directory=directory)]
    lines = sorted(f"{row['id']} {row['split']}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check(directory: Path | None = None, fleet: Fleet | None = None) -> list[str]:
    """Return every fault of the data as a sentence; an empty list means that they are sound.

    Faults: a robot's name or the answer in a request, a duplicate or near-duplicate across splits,
    an unknown label, a plan with a cycle or a wrong index, a split that differs from its pinned
    hash. Of somebody's own folder `files_of` are checked, and the hash if there is one.
    """
    fleet = fleet or Fleet.default()
    faults: list[str] = []
    rows: list[Row] = []
    for name in files_of(directory):
        for number, row in enumerate(load(name, directory=directory), start=1):
            if found := [f"{_named(row, number)}: {fault}" for fault in _form_faults(name, row)]:
                faults += found
            else:
                rows.append({**row, "_file": name})
    is_readable = not faults
    faults += _repeated(rows)
    for row in rows:
        faults += [f"{row['id']}: {fault}" for fault in _label_faults(row, fleet)]
        if answer := leaked_answer(row, fleet):
            faults.append(f"{row['id']}: the request names {answer!r}, which is (in) its answer.")
    faults += _cross_split_faults(rows)
    pinned = (directory or DATA_DIR) / "splits.sha256"
    if is_readable and (directory is None or pinned.is_file()):
        told = pinned.read_text("utf-8").strip() if pinned.is_file() else None
        if told != split_hash(directory):
            faults.append(f"{pinned.name}: the splits differ from the pinned hash.")
    return faults


# Kin of the names and aliases, so that "drones" or "AUV" is no way round the check.
_KIN = {
    "Drone": ("drones", "UAS", "quadrocopter"),
    "Underwater Robot": ("AUV", "underwater robots"),
    "Humanoid": ("humanoids",),
    "Robot with Wheels": ("wheeled robots",),
    "Robot with Legs": ("quadruped", "robodog"),
    NO_ROBOT: (),
}
_EVERYDAY_WORDS = {"underwater", "rover", "android", "wheeled"}


def leaked_answer(row: Mapping[str, Any], fleet: Fleet) -> str | None:
    """Return the name in the request of a robot that is among the row's answers, or None.

    A request may speak of a robot that is not its answer ("my neighbour's drone is on fire").
    """
    answers = {*row.get("suited", []), *sum(row.get("by_environment", {}).values(), [])}
    for answer in sorted(answers):
        words: set[str] = {answer, *_KIN.get(answer, ())}
        words |= set(fleet[answer].aliases) if answer in fleet else set()
        for word in sorted(words - _EVERYDAY_WORDS):
            if re.search(rf"\b{re.escape(word)}\b", row["task"], re.IGNORECASE):
                return word
    return None


def plan_fault(plan: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what is wrong with a plan's `after` indices, or None: out of range, or a cycle."""
    done: set[int] = set()
    for i, step in enumerate(plan):
        for j in step["after"]:
            if not 0 <= j < len(plan) or j == i:
                return f"step {i} of the plan waits for step {j}, which is not another step of it."
    while len(done) < len(plan):
        ready = {i for i, step in enumerate(plan) if set(step["after"]) <= done} - done
        if not ready:
            return f"the plan has a cycle among the steps {sorted(set(range(len(plan))) - done)}."
        done |= ready
    return None


def _named(row: Row, number: int) -> str:
    """Return a row's id, or where it stands if it has none."""
    return row["id"] if _is_text(row.get("id")) else f"row {number}"


def _repeated(rows: Sequence[Row]) -> list[str]:
    counts = Counter(row["id"] for row in rows if _is_text(row.get("id")))
    return [f"{name}: this id stands {n} times." for name, n in counts.items() if n > 1]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


def _form_faults(name: str, row: Row) -> Iterable[str]:
    """Yield what a row lacks of `KEYS`, and what has another form than in `data/`."""
    if missing := [key for key in KEYS[name] if key not in row]:
        yield f"{', '.join(missing)} is missing."
    plan, places = row.get("plan", [{}]), row.get("by_environment", {"none": [NO_ROBOT]})
    if not plan or not _is_list(plan, dict):
        yield f"plan is {plan!r}; expected a list of steps."
        plan = []
    for i, step in enumerate(plan if "plan" in row else []):
        if missing := [key for key in STEP_KEYS if key not in step]:
            yield f"{', '.join(missing)} is missing in step {i} of the plan."
        if not _is_list(step.get("after", []), int):
            yield f"after is {step['after']!r}; expected numbers of steps."
    answers = list(places.values()) if isinstance(places, dict) else []
    if not answers or not all(one and _is_list(one, str) for one in answers):
        yield f"by_environment is {places!r}; expected robots by place."
    if _is_text(kind := row.get("kind", KINDS[0])) and kind not in KINDS:
        yield f"kind is {kind!r}; expected {' or '.join(KINDS)}."
    for part in (row, *plan):
        for key in _TEXTS:
            if not _is_text(part.get(key, key)):
                yield f"{key} is {part[key]!r}; expected a text."
        for key in _LISTS:
            if not _is_list(part.get(key, []), str):
                yield f"{key} is {part[key]!r}; expected a list of texts."
        limits = part.get("limits", {})
        if not isinstance(limits, dict):
            yield f"limits is {limits!r}; expected names and values."
            continue
        for key, value in limits.items():
            is_number = type(value) in (int, float) and 0 <= value < math.inf
            if key in QUANTITIES and not is_number:
                yield f"{key} is {value!r}; expected a number of 0 or more."
            if key in FLAGS and not isinstance(value, bool):
                yield f"{key} is {value!r}; expected true or false."


def _label_faults(row: Row, fleet: Fleet) -> Iterable[str]:
    robots = row.get("suited", [])
    answers = [robots, *row.get("by_environment", {}).values()]
    for answer in answers:
        if unknown := set(answer) - set(fleet.outcomes):
            yield f"unknown robot {sorted(unknown)}."
        if NO_ROBOT in answer and len(answer) > 1:
            yield "No Robot does not stand alone."
    if row["_file"] != "photo_requests":
        if not robots:
            yield "no suited robot is given."
        if row.get("primary", robots[0] if robots else None) not in robots:
            yield "the primary is not among the suited."
    places = {*row.get("by_environment", {}), *row.get("conflict", [])}
    if "environment" in row:
        places.add(row["environment"])
    if unknown := places - set(ENVIRONMENTS):
        yield f"unknown environment {sorted(unknown)}."
    for part in [row, *row.get("plan", [])]:
        if unknown := set(part.get("actions", [])) - {*ACTIONS, "none"}:
            yield f"unknown action {sorted(unknown)}."
        if unknown := set(part.get("limits", {})) - {*QUANTITIES, *FLAGS}:
            yield f"unknown limit {sorted(unknown)}."
        if part is not row and part["robot"] not in fleet.outcomes:
            yield f"unknown robot {part['robot']!r} in the plan."
    if row.get("split") not in SPLITS:
        yield f"unknown split {row.get('split')!r}."
    if cycle := plan_fault(row.get("plan", [])):
        yield cycle


def _cross_split_faults(rows: Sequence[Row]) -> Iterable[str]:
    vectors = task_vectors([row["task"] for row in rows])
    splits = np.array([row["split"] for row in rows])
    held_out = np.flatnonzero(splits != "train")
    similar = vectors[held_out] @ vectors.T > NEAR_DUPLICATE_CHECKED
    for i, j in np.argwhere(similar & (splits[held_out][:, None] != splits[None, :])):
        one, other = rows[held_out[i]], rows[j]
        yield f"{one['id']} ({one['split']}): near-duplicate of {other['id']} in another split."
    pairs: dict[str, str] = {}
    for row in rows:
        if "pair" in row and pairs.setdefault(row["pair"], row["split"]) != row["split"]:
            yield f"{row['id']}: its contrast partner lies in another split."


def import_scenarios(source: Path, additions: Sequence[Path], target: Path) -> Counter[str]:
    """Write `target`/*.jsonl from the authors' files and our additions; return counts by split.

    The authors' rows are split by `split_of`. Additions (those already in `target`, and new ones
    from files of compact rows, see `_expand`) go to train; one that resembles a validation or test
    row is left out. So is every row that names its answer.
    """
    rows = []
    for name in FILES:
        for _, line in json_lines(source / f"{name}.jsonl"):
            rows.append({"_file": name, **json.loads(line)})
    authored, fleet = len(rows), Fleet.default()
    rows = [row for row in rows if not leaked_answer(row, fleet)]
    for row, group in zip(rows, group_near_duplicates(rows), strict=True):
        row["split"] = split_of(group)
    authored_ids = {row["id"] for row in rows}
    new = [
        _expand(json.loads(line), f"{path.stem}-{number:03d}")
        for path in additions
        for number, line in json_lines(path)
    ]
    given = authored_ids | {row["id"] for row in new}
    extra = [
        row for row in (*_present_additions(target, given), *new) if not leaked_answer(row, fleet)
    ]
    vectors = task_vectors([row["task"] for row in (*rows, *extra)])
    held_out = np.flatnonzero([row["split"] != "train" for row in rows])
    closest = (vectors[len(rows) :] @ vectors[held_out].T).max(1, initial=0.0)
    kept, seen = list(rows), {row["task"].lower() for row in rows}
    for row, likeness in zip(extra, closest, strict=True):
        if likeness <= NEAR_DUPLICATE and row["task"].lower() not in seen:
            kept.append(row)
            seen.add(row["task"].lower())
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        lines = [
            json.dumps({k: v for k, v in row.items() if k != "_file"}, ensure_ascii=False) + "\n"
            for row in kept
            if row["_file"] == name
        ]
        (target / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    (target / "splits.sha256").write_text(split_hash(target) + "\n", "utf-8")
    counts = Counter(f"{row['_file']} {row['split']}" for row in kept)
    counts["authored left out: the answer is named"] = authored - len(rows)
    counts["additions left out: near a held-out row"] = len(rows) + len(extra) - len(kept)
    return counts


def is_addition(row_id: str) -> bool:
    """Return whether a row was written later than the authors' own; see the data card."""
    return re.match(r"w\d+-", row_id) is not None


def _present_additions(target: Path, replaced: set[str]) -> list[Row]:
    return [
        {"_file": name, **row}
        for name in FILES
        if (target / f"{name}.jsonl").is_file()
        for row in load(name, directory=target)
        if is_addition(row["id"]) and row["id"] not in replaced
    ]


_LETTERS = dict(zip("DUHWLN", Fleet.default().outcomes, strict=True))


def _expand(row: Mapping[str, Any], name: str) -> Row:
    """Turn a compact row into the common form: t, s, p, e, a, l, team, c; or t, a, l, by, c; or t,
    e and plan, steps of s, r, a, l, after.

    `c` names a contrast pair, or for a photo request the places in conflict.
    """

    def robots(letters: str) -> list[str]:
        return [_LETTERS[letter] for letter in letters]

    if "plan" in row:
        steps = [
            {
                "subtask": step["s"],
                "robot": _LETTERS[step["r"]],
                "after": step["after"],
                "actions": step["a"],
                "limits": step["l"],
            }
            for step in row["plan"]
        ]
        team = {step["robot"] for step in steps}
        return {
            "_file": "plans",
            "id": name,
            "task": row["t"].strip(),
            "plan": steps,
            "suited": [robot for robot in _LETTERS.values() if robot in team],
            "environment": row["e"],
            "split": "train",
        }
    common = {"id": name, "task": row["t"].strip(), "actions": row["a"], "limits": row["l"]}
    if "by" in row:
        by = {place: robots(letters) for place, letters in row["by"].items()}
        conflict = {"conflict": row["c"]} if row.get("c") else {}
        return {
            "_file": "photo_requests",
            **common,
            "by_environment": by,
            **conflict,
            "split": "train",
        }
    primary, *_ = robots(row["p"])
    pair = {"pair": f"{name.split('-')[0]}-{row['c']}"} if row.get("c") else {}
    suited = [primary, *(robot for robot in robots(row["s"]) if robot != primary)]
    return {
        "_file": "scenarios",
        **common,
        "suited": suited,
        "primary": primary,
        "environment": row["e"],
        "kind": "team" if row.get("team") else "choice",
        **pair,
        "split": "train",
    }


if __name__ == "__main__":
    command, source_dir, *more = sys.argv[1:]
    if command != "import":
        raise SystemExit(
            "usage: python -m embervlm.data.scenarios import SHARED_DATA [ADDITIONS...]"
        )
    summary = import_scenarios(Path(source_dir), [Path(path) for path in more], DATA_DIR)
    sys.stdout.write("\n".join(f"{key}: {n}" for key, n in sorted(summary.items())) + "\n")
