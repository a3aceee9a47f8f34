"""Begin `bitmar` from a trained `ember-nano` in floats: what a smaller reader can take of it.

The reader takes four of its layers, the table of tokens its main directions (the truncated singular
value decomposition, which is what a narrow table and a widening matrix can hold of it), the heads
and the photo's tokens are its own; fusion, memory, steps and the decoder begin at random.

    python -m embervlm.training.bitmar_start --model build/nano/average/network.safetensors
    --out build/bitmar/start/network.safetensors

Axes: V vocabulary, D width, E width of the table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from embervlm.models.configuration import FUSIONS, BitMarConfig
from embervlm.models.modeling import EmberNetwork, load_network, save_network

# Every second layer says most of what all say (DistilBERT, Sanh et al. 2019).
LAYERS = (0, 2, 3, 5)


def start(teacher: EmberNetwork, config: BitMarConfig, layers: tuple[int, ...]) -> EmberNetwork:
    """Return a `bitmar` that begins with what it can take of a trained `ember-nano`.

    Raises:
        ValueError: the sizes do not go together.
    """
    theirs = teacher.config
    if len(layers) != config.text_layers or max(layers) >= theirs.text_layers:
        raise ValueError(
            f"{len(layers)} layers were chosen of {theirs.text_layers}; bitmar has "
            f"{config.text_layers}."
        )
    network = EmberNetwork(config)
    found = teacher.state_dict()
    state: dict[str, Tensor] = {}
    for name, value in found.items():
        part = name.split(".")
        if name.startswith("text.layers."):
            if int(part[2]) in layers:
                part[2] = str(layers.index(int(part[2])))
                state[".".join(part)] = value
        elif name != "text.embed.weight" and part[0] != "decoder":
            state[name] = value
    table_VE, widen_DE = narrowed(found["text.embed.weight"], config.table_width)
    state["text.embed.weight"] = table_VE
    if config.embed_width:
        state["text.widen.weight"] = widen_DE
    ours = network.state_dict()
    fits = {name: value for name, value in state.items() if _fits(value, ours.get(name))}
    if left := sorted(set(state) - set(fits)):
        raise ValueError(f"The teacher's {', '.join(left)} do not fit bitmar's sizes.")
    network.load_state_dict(fits, strict=False)
    network.decoder.start_from_table(table_VE)
    return network


def narrowed(table_VD: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return a table (V, E) and a matrix (D, E) whose product is nearest to a table (V, D)."""
    if width == table_VD.shape[1]:
        return table_VD, torch.eye(width)
    u_VD, s_D, v_DD = torch.linalg.svd(table_VD.float(), full_matrices=False)
    # Half of the scale to each side: neither learns much faster than the other.
    root_E = s_D[:width].sqrt() * (len(table_VD) / width) ** 0.25
    other_E = s_D[:width] / root_E
    return u_VD[:, :width] * root_E, (v_DD[:width].T * other_E).contiguous()


def _fits(value: Tensor, ours: Tensor | None) -> bool:
    return ours is not None and ours.shape == value.shape


def main() -> None:
    """Read the flags, write the network that training begins with."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a trained ember-nano, in floats")
    parser.add_argument("--out", type=Path, required=True, help="network.safetensors to write")
    parser.add_argument("--linear", choices=("full", "ternary"), default="ternary")
    parser.add_argument("--fusion", choices=FUSIONS, default="both")
    parser.add_argument("--memory", choices=("on", "off"), default="on")
    parser.add_argument("--steps", choices=("on", "off"), default="on", help="of reasoning")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    teacher = load_network(options.model)
    config = switched(
        linear=options.linear,
        fusion=options.fusion,
        memory=options.memory == "on",
        steps=options.steps == "on",
    )
    theirs = teacher.config
    config = replace(
        config,
        vocabulary_size=theirs.vocabulary_size,
        text_hidden=theirs.text_hidden,
        ngram_rows=theirs.ngram_rows,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_network(start(teacher, config, LAYERS), options.out)


def switched(*, linear: str, fusion: str, memory: bool, steps: bool) -> BitMarConfig:
    """Return bitmar's configuration with these switches."""
    config = BitMarConfig()
    if fusion == "prefix":
        config = replace(config, fusion="prefix", image_grid=0, image_tokens=2)
    config = replace(config, fusion=fusion, linear=linear)
    if not memory:
        config = replace(config, memory_slots=0)
    return config if steps else replace(config, reasoning_width=0)


if __name__ == "__main__":
    main()
