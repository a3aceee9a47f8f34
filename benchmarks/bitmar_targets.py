"""BitMar's documented aims, each with a definition, and what the trained network has of them.

    python benchmarks/bitmar_targets.py --pretrained build/bitmar/pretrain/network.safetensors
    --network build/bitmar/reason/network.safetensors --file build/bitmar/bitmar.gguf
    --vision build/nano/vision --tokenizer build/nano/tokenizer.json
    --json benchmarks/bitmar-targets.json

    cosine_matched      mean cosine of a test photo (`image.summary`) with each of its captions (the
                        pooled state); behind `pretrain`, which learns them, and at the end
    cosine_mismatched   the same with all captions of other test photos
    top1_in_set         the first robot is a right one: test requests and plans, the exported file
    reasoning_quality   the mean of `get_reasoning_analysis` over those decisions
    slots_in_use        share of the memory's slots written in the last 100 writes a slot
    file_bytes          of the exported file

Axes: N photos, C captions.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import embervlm
from embervlm.data.photos import TABLE, load_captions, load_photos
from embervlm.data.sample import robots_of
from embervlm.models.modeling import EmberNetwork, load_network
from embervlm.prompts import read_task
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import BLANK, Item, Photos, base_samples, collate, encode

AIMS = {
    "cosine_matched": "> 0.75",
    "cosine_mismatched": "< 0.35",
    "top1_in_set": "> 0.85",
    "reasoning_quality": "> 0.8",
    "slots_in_use": "> 0.8",
    "file_bytes": "< 50 MB, 12 MB wished for",
}


@torch.no_grad()
def cosines(
    network: EmberNetwork, options: argparse.Namespace, tokenizer: Tokenizer
) -> dict[str, float]:
    """Return the mean cosine of photos with their own captions and with others'."""
    network.eval()
    photos = Photos.load(options.vision, options.shared, network.config.image_grid)
    texts = load_captions(options.shared / "photos")
    with np.load(options.vision / "features.npz", allow_pickle=False) as content:
        row_of = {str(name): i for i, name in enumerate(content["files"])}
    files = [p.file for p in load_photos(TABLE) if p.split == "test" and p.file in texts]
    seen_ND = network.image.summary(photos.features_PC[[row_of[f] for f in files]].float())
    pairs = [(n, text) for n, file in enumerate(files) for text in texts[file]]
    read = []
    for at in range(0, len(pairs), 64):
        items = [Item(BLANK, read_task(text, tokenizer, 96)) for _, text in pairs[at : at + 64]]
        batch = collate(items, None, network.config, random.Random(0))
        read.append(encode(network, batch).pooled_BD)
    cosine_NC = F.normalize(seen_ND, dim=-1) @ F.normalize(torch.cat(read), dim=-1).T
    own_NC = torch.zeros_like(cosine_NC, dtype=torch.bool)
    own_NC[[n for n, _ in pairs], list(range(len(pairs)))] = True
    return {
        "cosine_matched": round(float(cosine_NC[own_NC].mean()), 4),
        "cosine_mismatched": round(float(cosine_NC[~own_NC].mean()), 4),
        "photos": len(files),
        "captions": len(pairs),
    }


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
