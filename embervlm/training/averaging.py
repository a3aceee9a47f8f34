"""Average the weights of several runs that began alike ("model soup", Wortsman et al. 2022).

    python -m embervlm.training.averaging --out DIR RUN1/network.safetensors
    RUN2/network.safetensors

A run joins only if the average stays at least as good on validation as without it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from embervlm.models.modeling import load_network, save_network
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import Photos, accuracy, held_out_items, predict


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor."""
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]
    }


def main() -> None:
    """Read the flags, add runs greedily in order of their own score, write the average."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--vision", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    photos = Photos.load(options.vision, options.shared)
    items = held_out_items("validation", tokenizer, photos, 128)
    network = load_network(options.runs[0])

    def score(state: dict[str, Tensor]) -> tuple[float, dict[str, dict[str, float]]]:
        network.load_state_dict(state)
        scores = {
            name: accuracy(predict(network, rows, photos), rows) for name, rows in items.items()
        }
        return scores["requests"]["exact"] + scores["photo"]["exact"], scores

    states = [load_file(run) for run in options.runs]
    ranked = sorted(states, key=lambda state: score(state)[0], reverse=True)
    chosen = [ranked[0]]
    best, report = score(ranked[0])
    for state in ranked[1:]:
        tried, scores = score(average([*chosen, state]))
        if tried >= best:
            chosen.append(state)
            best, report = tried, scores
    options.out.mkdir(parents=True, exist_ok=True)
    network.load_state_dict(average(chosen))
    save_network(network, options.out / "network.safetensors")
    line = {"runs": len(states), "averaged": len(chosen), **report}
    (options.out / "average.json").write_text(json.dumps(line, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
