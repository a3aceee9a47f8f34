"""embervlm: decide which robots to send, from a photo and a request, offline.

    import embervlm
    model = embervlm.EmberVLM.from_pretrained()
    decision = model.select_robots(image="flood.jpg", task="reach the people on the roof")

The public names below are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AttentionVisualizer": "embervlm.evaluation.attention_visualizer",
    "CarbonTracker": "embervlm.training.carbon_tracker",
    "Decision": "embervlm.scenario",
    "EmberVLM": "embervlm.ember_vlm",
    "Feedback": "embervlm.scenario",
    "Fleet": "embervlm.fleet",
    "Needs": "embervlm.scenario",
    "Robot": "embervlm.fleet",
    "Scenario": "embervlm.scenario",
    "Selector": "embervlm.selector",
    "upload_to_huggingface": "embervlm.hub",
}
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from embervlm.ember_vlm import EmberVLM
    from embervlm.fleet import Fleet, Robot
    from embervlm.hub import upload_to_huggingface
    from embervlm.scenario import Decision, Feedback, Needs, Scenario
    from embervlm.selector import Selector


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `--help` stays fast."""
    if name not in _HOME:
        raise AttributeError(f"module 'embervlm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
