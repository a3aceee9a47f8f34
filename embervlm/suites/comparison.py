"""A model from outside under the protocol of the selector: the same cases, one prompt, one scoring.

    embervlm eval --model openai:http://localhost:8000/v1#qwen2.5-vl --split validation
    embervlm eval --model transformers:HuggingFaceTB/SmolVLM-Instruct --shared ../shared

The prompt names the robots from the fleet file with all their numbers, says what is meant by a
right set, and asks for one JSON object, {"robots": ["Drone", ...]}, the robot to send first at the
front. It is the same for all models. Reading is strict (`parse_robots`): what is anything else is
an answer without robots, which is right for no request and named by no robot, and its share stands
beside the figures as `unreadable`.

Our own shipped model is asked the same cases. It has no text interface here: it gets photo and
request, as in use, and its fleet is the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embervlm.data.scenarios import SPLITS
from embervlm.evaluation.cases import SEED, Case, decide, photo_cases, text_cases, watched
from embervlm.evaluation.metrics import Answer, Row, Rows, measure, share
from embervlm.evaluation.run import describe
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.prompts import parse_object
from embervlm.selector import Selector
from embervlm.suites.asking import AnswerFile, Question, Said, ask_all, counts
from embervlm.training.teacher_prompts import Prompt, describe_robot
from embervlm.training.teachers import Teacher

PARTS = ("requests", "photos")
OURS = "embervlm as it ships"

_SYSTEM = """You dispatch a fleet of robots. You get a request, a photo of the place, or both, and
say which robots to send. These are the robots and all their limits:

{fleet}

Rules:
- Hold every number and circumstance of the request against the limits: a robot that would break one
  is not sent. Take the place from the photo where there is one.
- Name every robot that does the core of the job as well as the best choice would. Where the job
  takes several robots together, name all that are needed.
- Put the robot to send first at the front.
- If no robot can do the core of the job, or if it is no job for robots, the answer is "{none}",
  alone.

Answer with one JSON object and nothing else, with the names exactly as above:
{{"robots": ["name", ...]}}"""


def dispatch_prompt(task: str | None, fleet: Fleet) -> Prompt:
    """Return how a model is asked whom to send; without a request the photo says it all."""
    system = _SYSTEM.format(fleet="\n".join(map(describe_robot, fleet)), none=NO_ROBOT)
    return Prompt(system, f"Request: {task}" if task else "There is no request but the photo.")


def parse_robots(text: str, outcomes: Sequence[str]) -> tuple[str, ...] | None:
    """Read the answer to `dispatch_prompt`; None if it is anything but what was asked for.

    One fence of Markdown around the object is no part of it.

    >>> parse_robots('{"robots": ["Drone"]}', ("Drone", "No Robot"))
    ('Drone',)
    >>> parse_robots('{"robots": ["Drone", "No Robot"]}', ("Drone", "No Robot"))
    >>> parse_robots("Send the Drone.", ("Drone", "No Robot"))
    """
    found = parse_object(text, ("robots",))
    robots = found["robots"] if found else None
    if not isinstance(robots, list) or not robots:
        return None
    if not all(isinstance(name, str) and name in outcomes for name in robots):
        return None
    if len(set(robots)) != len(robots) or (NO_ROBOT in robots and len(robots) > 1):
        return None
    return tuple(robots)


def compare(
    model: Teacher,
    split: str,
    shared: Path | None,
    answers: Path,
    *,
    parts: Sequence[str] = PARTS,
    ours: Selector | None = None,
    limit: int | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Return a report in the form of `evaluation.run.evaluate`.

    Args:
        model: who is asked.
        split: "validation", "test" or "train".
        shared: the folder that holds photos/; None leaves out the requests that photos settle.
        answers: where each answer is kept; a run that stopped goes on from there.
        parts: among `PARTS`.
        ours: our own model, decided with beside the other; None leaves it out.
        limit: only the first cases of each part; None is all.
        workers: how many questions are asked at a time.

    Raises:
        ValueError: an unknown split or part, or the model is out of reach.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; there are {', '.join(SPLITS)}.")
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(
            f"A model from outside is not measured on {unknown[0]!r}; there are {', '.join(PARTS)}."
        )
    fleet = Fleet.default()
    system = dispatch_prompt(None, fleet).system
    about = describe(split, None)
    about["our model"] = about.pop("model") if ours else "not measured"
    about |= {
        "subject": model.name,
        "model": model.name,
        "settings": dict(model.settings),
        "prompt": hashlib.sha256(system.encode("utf-8")).hexdigest(),
        "limit": limit,
    }
    tables: dict[str, Rows] = {}
    missing: dict[str, str] = {}
    asked: dict[str, Mapping[str, Any]] = {}
    with AnswerFile(answers) as kept:

        def row(cases: Sequence[Case], name: str, *, photo: bool) -> Row:
            questions = [
                Question(
                    dispatch_prompt(case.scenario.task, fleet),
                    Path(str(case.scenario.image)) if photo else None,
                )
                for case in cases
            ]
            said = ask_all(model, questions, kept, workers=workers)
            asked[name] = counts(said)
            return _row(said, cases, fleet)

        if "requests" in parts:
            cases = text_cases(split)[:limit]
            tables["requests and plans"] = {model.name: row(cases, "requests", photo=False)}
            if ours:
                tables["requests and plans"][OURS] = _our_row(ours, cases)
        if "photos" in parts and shared is None:
            missing["photos"] = "no --shared was given"
        elif "photos" in parts and shared is not None:
            cases = photo_cases(split, shared / "photos", SEED)[:limit]
            rows = {f"{model.name}, without the photo": row(cases, "without photos", photo=False)}
            if model.sees:
                rows = {f"{model.name}, with the photo": row(cases, "photos", photo=True), **rows}
            else:
                missing["photos"] = "the model cannot see"
            if ours:
                rows[f"{OURS}, with the photo"] = _our_row(ours, cases)
            tables["requests that the photo settles"] = rows
    about["asked"] = asked
    plain = {
        title: {
            name: {key: one.to_dict() for key, one in figures.items()}
            for name, figures in rows.items()
        }
        for title, rows in tables.items()
    }
    return {"about": about, "tables": plain, "not measured": missing}


def _row(said: Sequence[Said], cases: Sequence[Case], fleet: Fleet) -> Row:
    """Return the figures of answers; one that cannot be read names no robot."""
    read = [None if one.text is None else parse_robots(one.text, fleet.outcomes) for one in said]
    answers = [Answer(robots, robots[0]) if robots else Answer((), "") for robots in read]
    truths = [case.truth for case in cases]
    figures = measure(answers, truths, seed=SEED)
    unreadable = [robots is None for robots in read]
    return figures | {"unreadable": share(unreadable, [t.pair or t.id for t in truths], seed=SEED)}


def _our_row(ours: Selector, cases: Sequence[Case]) -> Row:
    decided = [decide(ours, case.scenario)[1] for case in watched(cases, "decide")]
    truths = [case.truth for case in cases]
    return measure([Answer.of(one) for one in decided], truths, seed=SEED)
