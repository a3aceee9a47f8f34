"""Every set of pictures and words that can be trained on, by name, with the files that it takes.

    report = Report("gqa")
    for example in open_set("gqa", report=report, questions="train_balanced_questions.json",
                            images="images"):
        ...

Download a set from its publisher, under its licence, and give the paths; the files are read as they
are published. What an example is, and what becomes of records that cannot be used, is in
`example.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from embervlm.data import captions, instructions, questions, robot_requests, teacher_answers
from embervlm.data.example import WHOLE, Example, Part, Report

SETS: dict[str, Callable[..., Iterator[Example]]] = {
    "coco_captions": captions.coco_captions,
    "flickr30k": captions.flickr30k,
    "flickr30k_karpathy": captions.flickr30k_karpathy,
    "cc3m": captions.cc3m,
    "laion_coco": captions.laion_coco,
    "vqa_v2": questions.vqa,
    "ok_vqa": questions.vqa,
    "a_okvqa": questions.aokvqa,
    "gqa": questions.gqa,
    "ocr_vqa": questions.ocr_vqa,
    "refcoco": questions.refcoco,
    "refcoco+": questions.refcoco,
    "refcocog": questions.refcoco,
    "llava_instruct": instructions.llava_instruct,
    "incidents1m": instructions.incidents,
    "lines": instructions.lines,
    "single_robot": robot_requests.single_robot,
    "multi_robot": robot_requests.multi_robot,
    "scenarios": robot_requests.scenarios,
    "teacher_answers": teacher_answers.teacher_answers,
}

_OURS = ("report", "part")


def takes(name: str) -> dict[str, bool]:
    """Return what a set takes, in order, and whether it must be given.

    >>> takes("ocr_vqa")
    {'annotations': True, 'images': True, 'split': False}

    Raises:
        ValueError: there is no such set.
    """
    if name not in SETS:
        raise ValueError(f"There is no set {name!r}; there are {', '.join(SETS)}.")
    parameters = inspect.signature(SETS[name]).parameters.values()
    return {
        parameter.name: parameter.default is parameter.empty
        for parameter in parameters
        if parameter.name not in _OURS
    }


def open_set(
    name: str, *, report: Report | None = None, part: Part = WHOLE, **given: Any
) -> Iterator[Example]:
    """Yield the examples of a set; `given` are its paths and choices, see `takes`.

    Raises:
        ValueError: there is no such set, something is missing or unknown, or see `example.py`.
    """
    wanted = takes(name)
    missing = [key for key, needed in wanted.items() if needed and given.get(key) is None]
    if missing or given.keys() - wanted.keys():
        names = ", ".join(key if needed else f"[{key}]" for key, needed in wanted.items())
        raise ValueError(
            f"{name} takes {names}; it was given {', '.join(sorted(given)) or 'nothing'}."
        )
    return SETS[name](**given, report=report or Report(name), part=part)
