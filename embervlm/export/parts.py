"""Put another part into a model file; all else stays as it is, to the bit.

    replace_part(model, out, {"plan.more.weight": ...}, config={"plan_width": 96}, drop="plan.")

`export/plan_steps.py`, `export/steady.py` and `export/photo_recall.py` use it for parts that are
made behind, or in front of, a finished model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from embervlm.checkpoint import write_with_digest
from embervlm.export.gguf import FORMAT_KEY, TERNARY_KEY, TYPES, Array, format_of, stored

_CONFIG, _TYPE = "embervlm.config", "embervlm.type"


def replace_part(
    model: Path, out: Path, part: Mapping[str, Array], *, config: Mapping[str, Any], drop: str
) -> None:
    """Write `model` to `out`, which may be the same file, with these tensors instead of its own.

    They are stored as the file's type says; see `export.gguf.stored`.

    Args:
        model: a sound model file.
        out: where the new one goes.
        part: float32 tensors by name.
        config: sizes that the file's configuration gets.
        drop: what begins like this goes, whether it is replaced or not.
    """
    reader = gguf.GGUFReader(model)
    unfinished = out.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, "embervlm")
    kind, all_config = Type.F32, {}
    for field in reader.fields.values():
        if not field.name.startswith("embervlm.") or field.name == FORMAT_KEY:
            continue
        content = field.contents()
        if field.name == _CONFIG:
            all_config = {**json.loads(content), **config}
            content = json.dumps(all_config)
        if field.name == _TYPE:
            kind = TYPES[content]
        writer.add_key_value(field.name, content, field.types[0])
    is_ternary = TERNARY_KEY in reader.fields
    writer.add_uint32(FORMAT_KEY, format_of(all_config, is_ternary=is_ternary))
    for tensor in reader.tensors:
        if not tensor.name.startswith(drop):
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    kind = Type.Q4_0 if kind == Type.TQ2_0 else kind
    for name, value in sorted(part.items()):
        for stored_name, (content, stored_kind) in stored(name, value, kind).items():
            writer.add_tensor(stored_name, content, raw_dtype=stored_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = bytearray(unfinished.read_bytes())
    unfinished.unlink()
    write_with_digest(out, whole)
