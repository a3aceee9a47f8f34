"""Operations are those that PyTorch counts; formats are measured; energy is not made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from embervlm.checkpoint import load_checkpoint
from embervlm.evaluation.efficiency import Efficiency, network_size
from embervlm.evaluation.flops import decision_flops, mobilenet_flops
from embervlm.evaluation.run import run
from embervlm.export.quantize import quantize
from embervlm.models.configuration import BitMarConfig, EmberConfig
from embervlm.models.modeling import EmberNetwork

SMALL = EmberConfig(
    vocabulary_size=64, text_layers=2, text_width=64, text_heads=4, text_hidden=96,
    decoder_layers=1, decoder_width=32, decoder_heads=2, decoder_hidden=64, image_size=64,
    ngram_rows=64,
)  # fmt: skip
BITMAR = BitMarConfig(
    vocabulary_size=64, text_layers=2, text_width=64, text_heads=4, text_hidden=64,
    decoder_layers=1, decoder_width=32, decoder_heads=2, decoder_hidden=64, embed_width=32,
    fusion_width=32, image_grid=2, image_tokens=5, memory_slots=4, memory_width=32,
    reasoning_width=32, ngram_rows=64, image_size=64,
)  # fmt: skip


def counted(config: EmberConfig, tokens: int, mentions: int, *, with_photo: bool) -> int:
    network = EmberNetwork(config).eval()
    if network.memory is not None:
        network.memory.written_at.fill_(1)
    tokens_BT = torch.ones(1, tokens, dtype=torch.int64)
    has_B = torch.tensor([with_photo])
    # The fused attention of a CPU is not among what the counter knows; that of single products is.
    math = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), math, FlopCounterMode(display=False) as counter:
        features = torch.zeros(1, *config.features_shape)
        scene_BE = torch.full((1, 10), 0.1)
        if with_photo:
            pixels = torch.zeros(1, 3, config.image_size, config.image_size)
            features, scene_BE = network.see(pixels)
        encoded = network.encode(
            tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool), features, scene_BE, has_B,
            has_B,
        )  # fmt: skip
        network.decide(encoded, None)
        if mentions:
            network.roles(encoded, torch.zeros(1, mentions, dtype=torch.int64))
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, embed_width=32),
        BITMAR,
        replace(BITMAR, fusion="fiber", memory_slots=0, linear="full"),
    ],
)
@pytest.mark.parametrize("with_photo", [True, False])
def test_operations_are_those_that_pytorch_counts(config: EmberConfig, with_photo: bool) -> None:
    ours = decision_flops(config, 7, 2, with_photo=with_photo)
    assert sum(ours.values()) == counted(config, 7, 2, with_photo=with_photo)


def test_known_size_of_mobilenet() -> None:
    # 300 M multiplications at 224 px with the last convolution and the classifier (table 4).
    whole = mobilenet_flops(224) / 2 + 320 * 1280 * 49 + 1280 * 1000
    assert whole == pytest.approx(300e6, rel=0.01)


def test_each_format_has_its_own_row(
    small_data: Path, tiny_model: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    measured = Efficiency(quantize, photo, watts=6.0, co2e_g_per_kwh=500.0, backend="reference")
    only = ["efficiency"]
    run("validation", tiny_model, "reference", None, out, False, only, efficiency=measured)
    report: dict[str, Any] = json.loads(out.read_text("utf-8"))
    rows = report["tables"]["efficiency"]
    assert list(rows) == ["as it is", "q8_0", "q4_0"]
    assert rows["q4_0"]["megabytes"]["value"] < rows["q8_0"]["megabytes"]["value"]
    for row in rows.values():
        assert row["exact_set"]["n"] == 16
        kilojoules = row["kilojoules_per_1000"]["value"]
        assert kilojoules == pytest.approx(6 * row["request_ms"]["value"] / 1000, abs=1e-3)
        assert row["co2e_g_per_1000"]["value"] == pytest.approx(kilojoules / 7.2, abs=1e-3)


def test_energy_is_counted_or_stated_or_unknown() -> None:
    stated = Efficiency(quantize, Path("photo"), watts=5.0)
    assert stated.joules(20.0, None) == pytest.approx(0.1)
    assert stated.joules(20.0, 0.3) == 0.3
    assert Efficiency(quantize, Path("photo")).joules(20.0, None) is None
    with pytest.raises(ValueError, match="--watts is -1; give a number of 0 or more"):
        Efficiency(quantize, Path("photo"), watts=-1.0)


def test_parameters_are_those_of_the_file(tiny_model: Path) -> None:
    weights = load_checkpoint(tiny_model).weights
    size = network_size(tiny_model)
    expected = sum(array.size for array in weights.values()) / 1e6
    assert size["million_parameters"].value == pytest.approx(expected)
    assert size["million_flops"].value > 0
