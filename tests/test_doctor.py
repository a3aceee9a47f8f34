"""The doctor tells what is here and calls a fault what keeps a decision from being made."""

from pathlib import Path

import pytest

from embervlm import checkpoint, doctor


def test_names_the_parts_and_their_versions() -> None:
    found = {finding.what: finding for finding in doctor.examine()}
    assert {"Python", "model", "engine", "SQLite", "numpy", "pillow", "torch", "gguf"} <= set(found)
    assert not found["numpy"].fault


def test_a_damaged_model_and_a_missing_engine_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)

    def absent() -> None:
        raise ValueError("not compiled here: install a C compiler")

    monkeypatch.setattr(doctor, "library", absent)
    found = {finding.what: finding for finding in doctor.examine()}
    assert found["model"].fault
    assert "cannot be read" in found["model"].found
    assert "compiler" in found["engine"].found
    assert not found["engine"].fault, "the other backends still decide"
