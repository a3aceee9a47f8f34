"""What makes photos lie near what is said of them: ways to learn the space, on validation.

    python benchmarks/bitmar_matching.py --model build/bitmar/reason/network.safetensors
    --vision build/nano/vision --tokenizer build/nano/tokenizer.json
    --json benchmarks/bitmar_matching.json

Each way differs from what `training/matching.py` does (`as_built`) in what its name says; the
network reads all captions once and does not change.

    reader             no space of its own: the photo's token against the mean of the words' states
    correlation        closed form: regularised canonical correlation (Hotelling 1936, Vinod 1976),
                       directions weighted by the square of their correlation
    contrast_alone     InfoNCE alone, as CLIP has it
    nearness_alone     the mean cosines alone
    states, table      the words' projection reads one half of what it has

The figures are those of `matching.figures`: the mean over seeds, and the lowest and highest.

Axes: C captions, D width of what is read, K directions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embervlm.models.modeling import load_network
from embervlm.tokenizer import Tokenizer
from embervlm.training.matching import Captioned, Settings, figures, fit, read_split

AS_BUILT = Settings()
RIDGE = 3.0  # times the mean variance


@dataclass(frozen=True)
class Way:
    """Settings, and which columns of what the words' projection reads it is given."""

    settings: Settings = AS_BUILT
    columns: Callable[[int], slice] = lambda D: slice(D)


WAYS = {
    "as_built": Way(),
    "contrast_alone": Way(replace(AS_BUILT, contrast=1.0, nearness=0.0)),
    "nearness_alone": Way(replace(AS_BUILT, contrast=0.0)),
    "nothing_shared_at_first": Way(replace(AS_BUILT, shared=0.0)),
    "no_dropout": Way(replace(AS_BUILT, dropout=0.0)),
    "width_128": Way(replace(AS_BUILT, width=128)),
    "states": Way(columns=lambda D: slice(D // 2)),
    "table": Way(columns=lambda D: slice(D // 2, D)),
}


def correlated(data: Captioned) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return what maps photos and words to their correlated directions."""
    x_CD, y_CD = data.photos_ND[data.photo_C], data.words_CD
    x_D, y_D = x_CD.mean(0), y_CD.mean(0)
    x_CD, y_CD = x_CD - x_D, y_CD - y_D
    white_x, white_y = _whitening(x_CD), _whitening(y_CD)
    u_DK, r_K, v_KD = torch.linalg.svd(white_x @ (x_CD.T @ y_CD / len(x_CD)) @ white_y)
    K = len(r_K)
    a_DK, b_DK = white_x @ u_DK[:, :K] * r_K**2, white_y @ v_KD[:K].T * r_K**2
    return lambda x: (x - x_D) @ a_DK, lambda y: (y - y_D) @ b_DK


def _whitening(x_CD: Tensor) -> Tensor:
    """Return the inverse root of the covariance, with a ridge."""
    covariance_DD = x_CD.T @ x_CD / len(x_CD)
    covariance_DD += RIDGE * covariance_DD.diagonal().mean() * torch.eye(len(covariance_DD))
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    return vectors_DD * values_D**-0.5 @ vectors_DD.T


def judged(
    held: Captioned, see: Callable[[Tensor], Tensor], read: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Return the figures of a space."""
    return figures(see(held.photos_ND), read(held.words_CD), held.photo_C)


def over_seeds(way: Way, learnt: Captioned, held: Captioned, seeds: list[int]) -> dict[str, Any]:
    """Return the mean of the figures over seeds, and their lowest and highest."""
    chosen = way.columns(learnt.words_CD.shape[1])
    learnt, held = (replace(x, words_CD=x.words_CD[:, chosen]) for x in (learnt, held))
    found = []
    for seed in seeds:
        photo, words = fit(learnt, replace(way.settings, seed=seed))
        with torch.no_grad():
            found.append(judged(held, photo, words))
    return {
        name: {
            "mean": round(sum(one[name] for one in found) / len(found), 4),
            "range": [min(one[name] for one in found), max(one[name] for one in found)],
        }
        for name in found[0]
        if not name.startswith(("chance", "photos", "captions"))
    }


def main() -> None:
    """Try all ways, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vision", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = load_network(options.model)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    learnt, held = (
        read_split(network, tokenizer, options.vision, options.shared, split)
        for split in ("train", "validation")
    )
    told: dict[str, Any] = {
        "split": "validation",
        "seeds": options.seeds,
        "trained_on": {"photos": len(learnt.photos_ND), "captions": len(learnt.photo_C)},
        "reader": figures(held.seen_NM, held.read_CM, held.photo_C),
        "correlation": judged(held, *correlated(learnt)),
    }
    for name, way in WAYS.items():
        told[name] = over_seeds(way, learnt, held, options.seeds)
        sys.stderr.write(f"{name}: {json.dumps(told[name])}\n")
    text = json.dumps(told, indent=2) + "\n"
    sys.stdout.write(text)
    if options.json is not None:
        options.json.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
