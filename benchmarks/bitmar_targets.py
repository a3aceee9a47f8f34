"""BitMar's documented aims, each with a definition, and what the trained network has of them.

python benchmarks/bitmar_targets.py --pretrained build/bitmar/pretrain/network.safetensors
--network build/bitmar/match/network.safetensors --file build/bitmar/bitmar.gguf
--vision build/nano/vision --tokenizer build/nano/tokenizer.json
--json benchmarks/bitmar-targets.json

cosine_matched      mean cosine of a test photo with each of its captions: behind `pretrain` of
                    the photo's token with the mean of the words' states, and at the end in the
                    space that `training/matching.py` learns last
cosine_mismatched   the same with all captions of other test photos
centred_matched     cosine_matched without what all photos, and all captions, share
recall_1, recall_5  how many captions have their photo among the so many nearest, and what
                    guessing would have (chance_1, chance_5)
top1_in_set         the first robot is a right one: test requests and plans, the exported file
reasoning_quality   the mean of `get_reasoning_analysis` over those decisions
slots_in_use        share of the memory's slots written in the last 100 writes a slot
file_bytes          of the exported file
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import embervlm
from embervlm.data.sample import robots_of
from embervlm.models.modeling import EmberNetwork, load_network
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import base_samples
from embervlm.training.matching import figures, read_split

AIMS = {
    "cosine_matched": "> 0.75",
    "cosine_mismatched": "< 0.35",
    "top1_in_set": "> 0.85",
    "reasoning_quality": "> 0.8",
    "slots_in_use": "> 0.8",
    "file_bytes": "< 50 MB, 12 MB wished for",
}


def cosines(
    network: EmberNetwork, options: argparse.Namespace, tokenizer: Tokenizer
) -> dict[str, float]:
    """Return how near test photos are to their own captions and to others'."""
    found = read_split(network, tokenizer, options.vision, options.shared, "test")
    return figures(found.seen_NM, found.read_CM, found.photo_C)


def decided(file: Path) -> dict[str, float]:
    """Return what the exported file says of the test split's requests and plans."""
    model = embervlm.EmberVLM.from_pretrained(file)
    samples = base_samples("test")
    decisions = [model.select_robots(task=sample.task, reasoning=True) for sample in samples]
    right = [
        decision.robots[0] in (robots_of(sample.subset) or ("No Robot",))
        for decision, sample in zip(decisions, samples, strict=True)
        if sample.subset is not None
    ]
    quality = model.get_reasoning_analysis(decisions)["reasoning_quality"]
    return {
        "top1_in_set": round(sum(right) / len(right), 4),
        "reasoning_quality": round(float(sum(quality) / len(quality)), 4),
        "requests": len(samples),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("pretrained", "network", "file", "vision", "tokenizer"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(options.tokenizer)
    network = load_network(options.network)
    assert network.memory is not None
    told: dict[str, Any] = {
        "split": "test",
        "aims": AIMS,
        "behind_pretrain": cosines(load_network(options.pretrained), options, tokenizer),
        "at_the_end": cosines(network, options, tokenizer),
        **decided(options.file),
        "slots_in_use": network.memory.statistics()["active_share"],
        "file_bytes": options.file.stat().st_size,
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
