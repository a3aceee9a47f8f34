"""Low-rank additions to matrices (LoRA, Hu et al. 2021), by peft; also to GPT-2's, which lie the
other way round."""

from __future__ import annotations

from typing import Any, TypeVar

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from torch import nn

from embervlm.models.decoder_lm import Conv1D
from embervlm.training.recipe import Recipe
from embervlm.training.stages import Phase, begins_with

N = TypeVar("N", bound=nn.Module)


class LowRankConv1D(Linear):
    """peft's addition to a linear layer, told where our `Conv1D` has its sizes."""

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        assert isinstance(module, Conv1D)
        in_features, out_features = module.weight.shape
        return in_features, out_features


def add_low_rank(network: nn.Module, phase: Phase, recipe: Recipe) -> list[Any]:
    """Give the matrices that the phase names a low-rank addition; return the layers with one."""
    found = {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and begins_with(name, phase.low_rank)
    }
    turned = {isinstance(part, Conv1D) for part in found.values()}
    assert len(turned) == 1, "peft is told once for all layers which way their matrices lie"
    rank = recipe.lora_rank
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(found),
        fan_in_fan_out=turned == {True},
    )  # fmt: skip
    config._register_custom_module({Conv1D: LowRankConv1D})
    inject_adapter_in_model(config, network)
    return [part for part in network.modules() if isinstance(part, LoraLayer)]


def without_low_rank(network: N) -> N:
    """Return a network of the same configuration with the merged matrices under their own names."""
    build: Any = type(network)
    plain: N = build(network.config)
    state = {
        name.replace(".base_layer.", "."): value
        for name, value in network.state_dict().items()
        if "lora_" not in name
    }
    plain.load_state_dict(state)
    return plain
