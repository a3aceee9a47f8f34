"""What a recipe needs of the machine, looked at before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from embervlm.training.energy import check_country
from embervlm.training.recipe import Recipe


def check_machine(recipe: Recipe) -> None:
    """Check that this machine can do what the recipe says.

    Raises:
        ValueError: a package or a key of it is missing, or the number type is not to be had here.
    """
    precision(recipe)
    for name in recipe.reports:
        if find_spec(name) is None:
            raise ValueError(
                f"report_to names {name}, which is not installed; 'pip install {name}', or leave "
                "it out of report_to."
            )
    if recipe.country:
        check_country(recipe.country)
    if "wandb" in recipe.reports:
        _check_wandb()


def _check_wandb() -> None:
    import wandb

    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
        raise ValueError(
            "report_to names wandb, which is not logged in; run 'wandb login', or set "
            "WANDB_MODE=offline."
        )


def precision(recipe: Recipe) -> str:
    """Return bf16, fp16 or none: the recipe's, or for auto bf16 where the processor is fast.

    Raises:
        ValueError: fp16 without a graphics card: its gradients need scaling, which PyTorch does
            there alone.
    """
    kind = recipe.mixed_precision
    if kind == "fp16" and not torch.cuda.is_available():
        raise ValueError(
            "mixed_precision is fp16, which needs a CUDA graphics card; on a processor bf16, none "
            "and auto can be had."
        )
    if kind != "auto":
        return kind
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "none"
