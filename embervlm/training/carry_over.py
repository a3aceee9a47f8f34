"""From one stage to the next: read a network's file, take what fits, and report on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from embervlm.checkpoint import load_checkpoint
from embervlm.models.bitnet import latent_of
from embervlm.models.configuration import EmberConfig, PrefixConfig, config_of, from_metadata


@dataclass(frozen=True)
class Loaded:
    """What a network took from a file: names that were loaded, stayed new, or were left."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def summary(self) -> str:
        """Return the numbers, and the parts that stayed new or were left."""

        def parts(names: Sequence[str]) -> str:
            found = sorted({name.split(".")[0] for name in names})
            return f" ({', '.join(found)})" if found else ""

        return (
            f"{len(self.loaded)} tensors loaded, {len(self.new)} new{parts(self.new)}, "
            f"{len(self.dropped)} left{parts(self.dropped)}"
        )


def read_config(path: Path) -> EmberConfig | PrefixConfig:
    """Return the configuration of a run's network, or of a GGUF model: it names the family.

    Raises:
        ValueError: it is neither.
    """
    if path.suffix == ".gguf":
        return config_of(load_checkpoint(path).config)
    try:
        with safe_open(path, "pt") as file:
            return from_metadata(file.metadata(), path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); give the network.safetensors of a run, or a GGUF "
            "model."
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of a run's network, or of a GGUF model, in floats.

    A ternary matrix of a model comes as weights that have these ternary values.
    """
    if path.suffix == ".gguf":
        model = load_checkpoint(path)
        found = {name: torch.from_numpy(value) for name, value in model.weights.items()}
        return found | {name: latent_of(found[name]) for name in model.ternary}
    return load_file(path)


def load_start(network: nn.Module, path: Path) -> Loaded:
    """Take from a network's file what has the same name and shape.

    Raises:
        ValueError: see `read_config`; or nothing in the file fits.
    """
    read_config(path)
    found = read_weights(path)
    ours = network.state_dict()
    fits = {k: v for k, v in found.items() if k in ours and ours[k].shape == v.shape}
    if not fits:
        raise ValueError(f"Nothing in {path} fits this network; give one of this project.")
    network.load_state_dict(fits, strict=False)
    return Loaded(tuple(fits), tuple(set(ours) - set(fits)), tuple(set(found) - set(fits)))
