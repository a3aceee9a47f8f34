"""What lmms-eval finds by the entry point `lmms_eval.models`: the model `embervlm`.

python -m lmms_eval --model embervlm --tasks embervlm_requests --include_path suite
python -m lmms_eval --model embervlm --model_args model=run/network.safetensors --tasks mme
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return where the model's class is; lmms-eval imports it when the model is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="embervlm", simple_class_path="embervlm.suites.lmms_model.EmberVLM"
    )
