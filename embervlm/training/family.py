"""What a run needs to know of a family of networks: its stages, and how a stage is prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from embervlm.training.recipe import Recipe
from embervlm.training.stage_data import Epochs
from embervlm.training.stages import Stage


class SavedTokenizer(Protocol):
    """What turns words into a family's tokens, and is kept beside its networks."""

    def save(self, path: str | Path) -> None:
        """Write all of it as one file."""


@dataclass(frozen=True)
class Prepared:
    """A stage that is ready to run: the network at its start, and what it learns from.

    `teacher` and `validation` are None where there is none; `measure` gives more figures of
    validation.
    """

    network: Any
    tokenizer: SavedTokenizer
    teacher: nn.Module | None
    data: Epochs
    validation: Epochs | None
    measure: Callable[[Any], dict[str, float]] | None


@dataclass(frozen=True)
class Family:
    """Networks of one architecture; `prepare` raises ValueError for what a recipe gets wrong."""

    stages: Mapping[str, Stage]
    prepare: Callable[[Recipe], Prepared]
