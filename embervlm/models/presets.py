"""The presets as networks: build one by its name, and count what it holds.

count_parameters("ember-37m")["total"]               # 37,155,105
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from embervlm.models.configuration import PRESETS, EmberConfig, PrefixConfig, from_metadata
from embervlm.models.ember_37m import Ember37M
from embervlm.models.modeling import EmberNetwork, fill_from


def build(preset: str) -> EmberNetwork | Ember37M:
    """Return the network of a preset with random weights.

    Raises:
        ValueError: there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}.")
    return network_of(PRESETS[preset])


def network_of(config: EmberConfig | PrefixConfig) -> EmberNetwork | Ember37M:
    """Return a network of these sizes with random weights."""
    return EmberNetwork(config) if isinstance(config, EmberConfig) else Ember37M(config)


def load(path: Path) -> EmberNetwork | Ember37M:
    """Read a network of either family, as `modeling.save_network` wrote it.

    Raises:
        ValueError: the file cannot be read, or is no network of this project.
    """
    try:
        with safe_open(path, "pt") as file:
            config = from_metadata(file.metadata(), path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); give the network.safetensors of a run."
        ) from error
    network = network_of(config)
    fill_from(network, path)
    return network


def count_parameters(preset: str) -> dict[str, int]:
    """Return the number of parameters of each part and, under "total", of all; a tied table once.

    No memory is taken for the weights. `ember_37m.py` says how the sum of `ember-37m` is composed.

    Raises:
        ValueError: there is no such preset.
    """
    with torch.device("meta"):
        network = build(preset)
    counts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in network.named_children()
    }
    return counts | {"total": sum(counts.values())}
