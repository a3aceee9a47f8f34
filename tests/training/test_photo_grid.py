"""The eye's features of places on disk, of MobileNetV2 and of DINOv2 from a local folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from embervlm.models.dinov2 import Dinov2Vision  # noqa: E402
from embervlm.models.vision import MobileNetV2  # noqa: E402
from embervlm.training.photo_grid import fit_scene, grids  # noqa: E402


def photo(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


def test_a_grid_s_mean_is_what_the_eye_says_of_the_photo() -> None:
    torch.manual_seed(0)
    vision = MobileNetV2().eval()
    found_NPC = grids(vision, [photo(i, 160) for i in range(2)], 5)
    assert found_NPC.shape == (2, 25, 320)
    assert found_NPC.dtype == np.float16
    pixels_BCHW = torch.from_numpy(photo(1, 160)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        whole_BC = vision((pixels_BCHW - 128) / 128)
    np.testing.assert_allclose(found_NPC[1].astype(np.float32).mean(0), whole_BC[0], atol=2e-3)


def test_dinov2_sees_what_its_own_processor_shows_it(dinov2_folder: Path) -> None:
    vision = Dinov2Vision.from_pretrained(str(dinov2_folder)).eval()
    pixels_HWC = photo(3, 56)
    processor = transformers.BitImageProcessorPil(
        do_resize=False, do_center_crop=False, image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    shown = processor(pixels_HWC, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected_BTC = vision.model(shown).last_hidden_state[:, 1:]
        pixels_BCHW = (torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None].float() - 128) / 128
        found_BCHW = vision.places(pixels_BCHW)
    assert found_BCHW.shape == (1, 32, 4, 4)
    torch.testing.assert_close(
        found_BCHW.flatten(2).transpose(1, 2), expected_BTC, atol=1e-4, rtol=1e-4
    )
    assert grids(vision, [pixels_HWC], 2).shape == (1, 4, 32)


def test_a_name_that_cannot_be_had_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded as DINOv2 .*; give its folder"):
        Dinov2Vision.from_pretrained(str(tmp_path / "nothing"))


def test_the_place_is_learnt_from_the_photos_that_have_one() -> None:
    torch.manual_seed(0)
    kinds_EC = torch.randn(10, 16)
    place_N = torch.arange(60) % 3
    features_NC = kinds_EC[place_N] + 0.1 * torch.randn(60, 16)
    scene = fit_scene(features_NC, torch.where(torch.arange(60) < 50, place_N, -1))
    assert (scene(features_NC).argmax(-1) == place_N).all()
