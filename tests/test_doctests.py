"""The examples in docstrings are true."""

import doctest
import importlib

import pytest

MODULES = (
    "data.example", "data.mixture", "data.public", "data.robot_requests", "hub.remote",
    "evaluation.robustness", "explaining", "fleet", "memory.chain",
    "live", "memory.entries", "memory.free_text", "memory.home", "memory.lessons", "planning",
    "planning.costs", "planning.graph", "planning.limits", "prompts",
    "quantities", "reading", "reasoner.equations", "reasoner.judging", "reasoner.metrics",
    "reasoner.prompts", "scoring", "suites.comparison", "suites.export", "suites.scorers",
    "training.teacher_prompts",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(f"embervlm.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
