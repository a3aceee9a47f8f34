"""The mean of the weights over a run's steps, newer ones counting more (Polyak, Juditsky 1992).

    mean = keep * mean + (1 - keep) * weights,    keep = min(memory, step / (step + 10))

so that the first steps, far from where the run ends, are forgotten soon. Where FSDP has cut the
weights among processes, each keeps the mean of its own share; `whole` puts the shares together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

# After how many steps the mean holds half of its past at least.
_SOON = 10


class MovingAverage:
    """The mean of a module's trainable weights; empty with a memory of 0.

    Made when the module is as it will be trained: FSDP puts other parameters in place of its own.
    """

    def __init__(self, module: nn.Module, memory: float) -> None:
        self.memory, self._module = memory, module
        self.mean = {name: p.detach().clone() for name, p in self._moving().items()}

    def _moving(self) -> dict[str, nn.Parameter]:
        if not self.memory:
            return {}
        return {name: p for name, p in self._module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Draw the mean nearer to the weights, as after each step of the optimiser."""
        keep = min(self.memory, step / (step + _SOON))
        for name, p in self._moving().items():
            self.mean[name].lerp_(p.detach(), 1 - keep)

    def exchange(self) -> dict[str, Tensor]:
        """Put the mean into the module; return the weights that were there."""
        held = {name: p.detach().clone() for name, p in self._moving().items()}
        self.put(self.mean)
        return held

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights into the module."""
        for name, p in self._moving().items():
            p.copy_(weights[name])

    def whole(self) -> dict[str, Tensor]:
        """Return the mean, no longer cut; all processes must ask."""
        return {name: whole_tensor(mean) for name, mean in self.mean.items()}

    def load(self, found: Mapping[str, Tensor]) -> None:
        """Take back what `whole` gave."""
        for name, p in self._moving().items():
            value = found[name].to(p.device)
            if isinstance(p, DTensor):
                value = distribute_tensor(value, p.device_mesh, p.placements)
            self.mean[name] = value


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor that FSDP may have cut as one; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Have a module's weights uncut meanwhile, for what is called beside its `forward`; all
    processes must ask."""
    cut = cast(FSDPModule, module) if isinstance(module, FSDPModule) else None
    if cut is not None:
        cut.unshard()
    try:
        yield
    finally:
        if cut is not None:
            cut.reshard()
