"""The data sets by name, as the command line has them: `gsm8k:PATH`, `mathvista:PATH` ...

load_set("gsm8k:grade-school-math/test.jsonl", limit=100).sentence()
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from embervlm.reasoner.mathvista import load_mathvista
from embervlm.reasoner.mmlu import load_mmlu, load_mmmu
from embervlm.reasoner.problems import Loaded
from embervlm.reasoner.word_problems import load_gsm8k, load_simulated

SETS: dict[str, Callable[..., Loaded]] = {
    "gsm8k": load_gsm8k,
    "mathvista": load_mathvista,
    "mmlu": load_mmlu,
    "mmmu": load_mmmu,
    "simulated": load_simulated,
}


def load_set(name: str, *, limit: int | None = None) -> Loaded:
    """Load the set that a command line names.

    Raises:
        ValueError: there is no such set, or its files are not as its publisher has them.
    """
    kind, mark, path = name.partition(":")
    if kind not in SETS or not mark or not path:
        raise ValueError(
            f"There is no set {name!r}; give {', '.join(f'{one}:PATH' for one in SETS)}."
        )
    return SETS[kind](Path(path), limit=limit)
