"""Make the network small: fewer feed-forward units, four-bit weights, taught by the large one.

1. Of each feed-forward layer those units are kept whose output moves the state most over the
   training requests, E[a^2] |w_down|^2; the mean of the others goes into the bias.
2. Every matrix of the reader, and the token embeddings, are then seen through the rounding of
   GGUF's Q4_0 (blocks of 32, one scale, 16 levels) while the network trains on; the gradient passes
   as if there were none ("straight through", Bengio et al. 2013).
3. Beside the labels the uncompressed network teaches: its logits, and the state behind each token
   (Hinton et al. 2015; Jiao et al. 2020, "TinyBERT").

At the end the weights are the rounded ones, so that the four-bit file holds them exactly.

    python -m embervlm.training.compression --shared DIR --vision DIR --tokenizer T.json
    --model NETWORK.safetensors --out DIR

Axes: B batch, T tokens, D width, O outputs, I inputs, H hidden units.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from embervlm.models.configuration import EmberConfig
from embervlm.models.modeling import EmberNetwork, Encoded, load_network, save_network
from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import (
    ExtraLoss,
    Item,
    Mixture,
    Photos,
    Settings,
    collate,
    encode,
    logits_of,
    train,
)

BLOCK = 32
# How much the teacher's word counts beside the labels, and its states beside its logits.
LOGITS_WEIGHT, STATES_WEIGHT = 1.0, 2.0
# Items over which the units are weighed.
WEIGHED_ITEMS = 1024


def round_q4_0(weight_OI: Tensor) -> Tensor:
    """Return the values that Q4_0 stores for a matrix whose rows are whole blocks.

    As in ggml: the value of the largest size becomes level 0 of 0 to 15, level 8 is zero, and the
    scale is kept in half precision.
    """
    blocks = weight_OI.reshape(-1, BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    level = (blocks * inverse + 8.5).floor().clamp(0, 15)
    return ((level - 8) * scale.half().to(scale)).reshape(weight_OI.shape)


class _Rounded(nn.Module):
    def forward(self, weight_OI: Tensor) -> Tensor:
        return weight_OI + (round_q4_0(weight_OI) - weight_OI).detach()


def round_weights(module: nn.Module) -> None:
    """Let every matrix be seen rounded from now on; tables of positions stay as they are.

    A linear layer with fewer than BLOCK outputs is a head: it is not worth rounding.
    """
    for name, part in module.named_modules():
        is_matrix = isinstance(part, nn.Linear | nn.Embedding) and len(part.weight) >= BLOCK
        if is_matrix and not name.endswith("positions"):
            assert part.weight.shape[1] % BLOCK == 0, "Q4_0 rows are whole blocks of 32"
            parametrize.register_parametrization(part, "weight", _Rounded())


def keep_rounded(module: nn.Module) -> None:
    """Make the rounded values the weights themselves."""
    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)


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
    decoder = {f"decoder.{k}": v for k, v in student.decoder.state_dict().items()}
    student.load_state_dict({**state, **decoder})
    return student


def taught_by(teacher: EmberNetwork) -> ExtraLoss:
    """Return the loss of a student's logits and states against the teacher's on the same batch."""
    teacher.eval().requires_grad_(False)

    def loss(batch: dict[str, Tensor], encoded: Encoded, logits: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            theirs = encode(teacher, batch)
            goals = logits_of(teacher, theirs, batch)
        total = torch.zeros(())
        for name in ("subsets", "primary", "environment"):
            total = total + F.kl_div(
                logits[name].float().log_softmax(-1),
                goals[name].float().log_softmax(-1),
                reduction="batchmean",
                log_target=True,
            )
        for name in ("actions", "flags", "team"):
            goal = goals[name].float().sigmoid()
            total = total + F.binary_cross_entropy_with_logits(logits[name].float(), goal)
        apart = F.mse_loss(encoded.states_BSD.float(), theirs.states_BSD.float(), reduction="none")
        scale = theirs.states_BSD.float().square().mean()
        mask_BS1 = encoded.mask_BS.unsqueeze(-1)
        states = (apart * mask_BS1).sum() / (mask_BS1.sum() * apart.shape[-1]) / scale
        return LOGITS_WEIGHT * total + STATES_WEIGHT * states

    return loss


def weighing_batches(
    items: Sequence[Item], photos: Photos | None, config: EmberConfig
) -> list[dict[str, Tensor]]:
    """Return the batches over which the units are weighed."""
    rng = random.Random(0)
    chosen = sorted(items[:WEIGHED_ITEMS], key=lambda item: len(item.reading.tokens))
    return [collate(chosen[i : i + 64], photos, config, rng) for i in range(0, len(chosen), 64)]


def main() -> None:
    """Read the flags, prune, fine-tune through the rounding, write the network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the network to be compressed")
    parser.add_argument("--vision", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.5e-4)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    shipped = EmberConfig()
    for name in ("text_hidden", "decoder_width", "decoder_hidden"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=getattr(shipped, name))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    photos = Photos.load(options.vision, options.shared)
    teacher = load_network(options.model)
    config = replace(
        teacher.config,
        text_hidden=options.text_hidden,
        decoder_width=options.decoder_width,
        decoder_hidden=options.decoder_hidden,
    )
    settings = Settings(
        epochs=options.epochs, rate=options.rate, head_rate=options.rate, seed=options.seed
    )
    mixture = Mixture(settings, tokenizer, photos)
    weighed = weighing_batches(mixture.epoch(random.Random(0)), photos, config)
    network = prune(teacher, config, weighed)
    round_weights(network.text)
    train(network, mixture, settings, options.out, photos, extra_loss=taught_by(teacher))
    keep_rounded(network.text)
    save_network(network, options.out / "network.safetensors")


if __name__ == "__main__":
    main()
