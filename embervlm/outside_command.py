"""`embervlm eval --model openai:URL#name`: what the options say, for `suites.comparison`."""

from __future__ import annotations

from pathlib import Path


def is_outside(model: str | None) -> bool:
    """Say whether --model names a model from outside, not a file of ours."""
    return model is not None and model.startswith(("openai:", "transformers:"))


def evaluate_outside(
    model: str,
    split: str,
    shared: Path | None,
    *,
    answers: Path | None,
    only: list[str] | None,
    with_ours: bool,
    limit: int | None,
    workers: int | None,
    json_out: Path | None,
    folder: Path | None,
) -> int:
    """Ask, write the report if asked, print the tables; return the exit status.

    Raises:
        ValueError: an unknown split or part, a missing file, or a model that is out of reach.
    """
    from embervlm.evaluation.report import (
        check_file,
        check_folder,
        show,
        write_folder,
        write_report,
    )
    from embervlm.suites.asking import DEFAULT_ANSWERS, open_outside
    from embervlm.suites.comparison import PARTS, compare
    from embervlm.terminal import load_selector

    if only and "photos" in only and shared is None:
        raise ValueError("The part photos needs --shared, the folder that holds photos/.")
    if folder is not None:
        check_folder(folder)
    if json_out is not None:
        check_file(json_out)
    report = compare(
        open_outside(model),
        split,
        shared,
        answers or DEFAULT_ANSWERS,
        parts=only or PARTS,
        ours=load_selector("native", None, None) if with_ours else None,
        limit=limit,
        workers=workers or 4,
    )
    if json_out is not None:
        write_report(report, json_out)
    if folder is not None:
        write_folder(report, folder)
    show(report)
    return 0
