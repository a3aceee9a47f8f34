"""Hold the engine's decisions against PyTorch in float32, request by request.

    python benchmarks/parity.py --reference F32.gguf --models F32.gguf Q8.gguf Q4.gguf
    --split test --photos ../shared/photos --json benchmarks/parity.json

The reference is a file of floats as `embervlm.export.gguf --type f32` writes from the trained
network (build/nano of `runs/nano.sh`); without it the shipped file, whose rounded weights PyTorch
then runs in floats. Requests and plans are asked as they are; with `--photos` also the photo
requests with their photos. Each model is asked with its own calibration where it has one, else with
the reference's.

    same_decisions      share of scenarios with the same robots in the same order
    largest_difference  of any logit of the sets, over the largest logit (relative)
    same_place_in_photo share of photos with the same likeliest place
    calibration_error   of the confidence, on this split
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.backends import load_backend
from embervlm.evaluation.cases import Answered, Case, decide, photo_cases, text_cases, watched
from embervlm.evaluation.metrics import Answer, measure
from embervlm.reading import Calibration
from embervlm.selector import Selector


def answers(
    name: str, model: Path | None, cases: list[Case], calibration: Calibration | None
) -> tuple[list[Answered], Calibration]:
    """Return what a backend says and decides, and the calibration it used."""
    selector = Selector(load_backend(name, model))
    if calibration is not None and not selector.backend.calibration:
        selector.calibration = calibration
    label = f"{name} {model.name if model else 'shipped'}"
    found = [Answered(case, *decide(selector, case.scenario)) for case in watched(cases, label)]
    return found, selector.calibration


def compare(ours: list[Answered], theirs: list[Answered]) -> dict[str, Any]:
    """Return the figures that the docstring names."""
    pairs = list(zip(ours, theirs, strict=True))
    logits = [np.stack([one.proposal.subsets for one in said]) for said in (ours, theirs)]
    photos = [pair for pair in pairs if pair[0].proposal.scene is not None]
    same_place = [
        int(np.argmax(a.proposal.scene)) == int(np.argmax(b.proposal.scene)) for a, b in photos
    ]
    measured = measure(
        [Answer.of(one.decision) for one in ours], [one.case.truth for one in ours], seed=1
    )
    return {
        "scenarios": len(pairs),
        "same_decisions": round(
            float(np.mean([a.decision.robots == b.decision.robots for a, b in pairs])), 4
        ),
        "largest_difference": float(
            f"{np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max():.2g}"
        ),
        "photos": len(photos),
        "same_place_in_photo": round(float(np.mean(same_place)), 4) if photos else None,
        "exact_set": round(measured["exact_set"].value or 0, 4),
        "calibration_error": round(measured["calibration_error"].value or 0, 4),
    }


def main() -> None:
    """Ask the reference and every model the same, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--calibration", type=Path, help="a model whose calibration all use")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = text_cases(options.split)
    if options.photos is not None:
        cases += photo_cases(options.split, options.photos)
    shared = None
    if options.calibration is not None:
        shared = Calibration.from_dict(load_backend("native", options.calibration).calibration)
    expected, shared = answers("pytorch", options.reference, cases, shared)
    rows = [
        {"backend": "pytorch", "model": _name(options.reference), **compare(expected, expected)}
    ]
    for model in options.models:
        found, _ = answers("native", model, cases, shared)
        size = {"file_bytes": model.stat().st_size}
        rows.append({"backend": "native", "model": model.name, **size, **compare(found, expected)})
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    if options.json is not None:
        report = {"split": options.split, "results": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def _name(model: Path | None) -> str:
    return model.name if model else "shipped"


if __name__ == "__main__":
    main()
