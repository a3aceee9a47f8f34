"""Make the reader narrow: keep the feed-forward units that say most, and begin the decoder anew.

Of each feed-forward layer those units are kept whose output moves the state most over the training
requests, E[a^2] |w_down|^2; the mean of the others goes into the bias. The training that follows
(recipes/nano/compress.yaml) makes up for what was lost.

    python -m embervlm.training.pruning --model build/nano/average/network.safetensors
    --out build/nano/pruned/network.safetensors

Axes: B batch, T tokens, D width, H hidden units, N tokens of all requests.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embervlm.models.configuration import EmberConfig
from embervlm.models.modeling import EmberNetwork, load_network, save_network
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import Item, Mixture, Settings, collate, encode

# Items over which the units are weighed.
WEIGHED_ITEMS = 1024


@torch.no_grad()
def prune(
    teacher: EmberNetwork, config: EmberConfig, batches: Sequence[dict[str, Tensor]]
) -> EmberNetwork:
    """Return a network of this configuration that differs from the teacher in `text_hidden` and in
    its decoder (which begins anew), its feed-forward units chosen over `batches`."""
    teacher.eval()
    layers: Sequence[Any] = list(teacher.text.layers)
    sums = [torch.zeros(2, teacher.config.text_hidden) for _ in layers]
    count = 0
    hooks = []
    mask_BT = torch.zeros(0, dtype=torch.bool)

    def weigh(at: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            units_NH = inputs[0][:, teacher.config.image_tokens :][mask_BT].float()
            sums[at] += torch.stack([units_NH.sum(0), units_NH.square().sum(0)])

        return hook

    for i, layer in enumerate(layers):
        hooks.append(layer.down.register_forward_pre_hook(weigh(i)))
    for batch in batches:
        mask_BT = batch["mask"]
        count += int(mask_BT.sum())
        encode(teacher, batch)
    for hook in hooks:
        hook.remove()
    state = {k: v for k, v in teacher.state_dict().items() if not k.startswith("decoder.")}
    for i, layer in enumerate(layers):
        mean_H, square_H = sums[i] / count
        down_DH = layer.down.weight
        worth_H = square_H * down_DH.square().sum(0)
        kept = worth_H.topk(config.text_hidden).indices.sort().values
        lost_H = torch.ones_like(worth_H, dtype=torch.bool)
        lost_H[kept] = False
        name = f"text.layers.{i}."
        state[name + "up.weight"] = layer.up.weight[kept]
        state[name + "up.bias"] = layer.up.bias[kept]
        state[name + "down.weight"] = down_DH[:, kept]
        state[name + "down.bias"] = layer.down.bias + down_DH[:, lost_H] @ mean_H[lost_H]
    student = EmberNetwork(config)
    student.decoder.start_from_table(teacher.text.embed.weight)
    decoder = {f"decoder.{k}": v for k, v in student.decoder.state_dict().items()}
    student.load_state_dict({**state, **decoder})
    return student


def weighing_batches(items: Sequence[Item], config: EmberConfig) -> list[dict[str, Tensor]]:
    """Return the batches over which the units are weighed."""
    rng = random.Random(0)
    chosen = sorted(items[:WEIGHED_ITEMS], key=lambda item: len(item.reading.tokens))
    return [collate(chosen[i : i + 64], None, config, rng) for i in range(0, len(chosen), 64)]


def main() -> None:
    """Read the flags, prune, write the network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the network to be made narrow")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="network.safetensors to write")
    shipped = EmberConfig()
    for name in ("text_hidden", "decoder_layers", "decoder_width", "decoder_hidden"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=getattr(shipped, name))
    options = vars(parser.parse_args())
    path, tokenizer, out = (options.pop(name) for name in ("model", "tokenizer", "out"))
    torch.manual_seed(0)
    teacher = load_network(path)
    mixture = Mixture(Settings(), Tokenizer.from_file(tokenizer), None)
    weighed = weighing_batches(mixture.epoch(random.Random(0)), teacher.config)
    network = prune(teacher, replace(teacher.config, **options), weighed)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_network(network, out)


if __name__ == "__main__":
    main()
