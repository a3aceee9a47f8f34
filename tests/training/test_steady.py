"""A steady eye sees damaged views as its teacher sees clean ones, and goes into a file alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
gguf = pytest.importorskip("gguf", reason="needs the gguf package")

from embervlm.backends.native import NativeBackend  # noqa: E402
from embervlm.checkpoint import SHIPPED, load_checkpoint  # noqa: E402
from embervlm.export.steady import put_eye  # noqa: E402
from embervlm.training.steady import (  # noqa: E402
    Settings,
    damage,
    eye_of,
    loss_of,
    recoloured,
    shown_to_copy,
    train,
    with_words,
)
from embervlm.training.vision import to_pixels  # noqa: E402

WORDS = ["go", "roof", "Bridge"]


def photos(count: int, size: int = 64) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return {f"{i}.jpg": c.repeat(size // 8, 0).repeat(size // 8, 1) for i, c in enumerate(coarse)}


def test_damage_keeps_the_form_and_changes_the_pixels() -> None:
    (view,) = photos(1).values()
    for seed in range(20):
        shown = damage(view, WORDS, np.random.default_rng(seed))
        assert (shown.shape, shown.dtype) == (view.shape, np.uint8)
        assert (shown != view).any()
        again = damage(view, WORDS, np.random.default_rng(seed))
        assert np.array_equal(shown, again)


def test_words_are_painted_over_a_copy() -> None:
    from PIL import Image

    clean = Image.new("RGB", (64, 64), "grey")
    shown = with_words(clean, WORDS, np.random.default_rng(0))
    assert np.asarray(clean).std() == 0 < np.asarray(shown).std()


def test_some_views_are_clean_and_the_others_damaged_in_their_own_colours_or_none() -> None:
    views = np.stack(list(photos(6).values()))
    random = np.random.default_rng(0)
    clean = shown_to_copy(views, WORDS, Settings(clean=1.0), random)
    assert np.array_equal(clean, views)
    damaged = shown_to_copy(views, WORDS, Settings(clean=0.0), random)
    assert all((a != b).any() for a, b in zip(damaged, views, strict=True))
    grey = recoloured(views, 1.0, random)
    assert (grey.shape, grey.dtype) == (views.shape, np.uint8)
    assert (grey == grey[..., :1]).all()
    assert (recoloured(views, 0.0, random) != recoloured(views, 0.0, random)).any()


def test_loss_is_nothing_where_both_see_the_same_and_one_where_nothing_is_seen() -> None:
    view = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    scene = torch.zeros(8, 3)
    assert loss_of((view, scene), (view, scene), 1.0).item() == pytest.approx(0)
    mean = view.mean(0).expand_as(view)
    assert loss_of((mean, scene), (view, scene), 1.0).item() == pytest.approx(1)


def test_learns_and_goes_into_the_file_alone(tmp_path: Path) -> None:
    eye = eye_of(SHIPPED)
    before = [weight.clone() for weight in eye.parameters()]
    pixels = photos(16)
    settings = Settings(epochs=2, batch=8, learning_rate=1e-3, warmup=1, mean_decay=0.0)
    steady = train(settings, eye, pixels, list(pixels), WORDS, tmp_path, 32)
    assert all(torch.equal(a, b) for a, b in zip(before, eye.parameters(), strict=True))
    batch = to_pixels(np.stack(list(pixels.values())))
    with torch.no_grad():
        assert not torch.equal(steady(batch)[0], eye(batch)[0])

    out = tmp_path / "out.gguf"
    put_eye(SHIPPED, tmp_path / "eye.safetensors", out)
    own, new = load_checkpoint(SHIPPED).weights, load_checkpoint(out).weights
    changed = {name for name in own if not np.array_equal(own[name], new[name])}
    assert changed
    assert all(name.startswith("vision.") for name in changed)
    for name, value in steady.state_dict().items():
        assert np.allclose(new[name], value, atol=0.02 * float(value.abs().max()) + 1e-6)
    assert NativeBackend.load(out).propose("look", None).team is not None


def test_refuses_an_eye_of_another_model(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="holds no eye"):
        put_eye(SHIPPED, tmp_path / "none.safetensors", tmp_path / "out.gguf")
    save_file({"vision.stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="trained for another model"):
        put_eye(SHIPPED, tmp_path / "other.safetensors", tmp_path / "out.gguf")


def test_teacher_and_copy_see_through_a_table_of_looks_that_stays(tiny_model: Path) -> None:
    eye = eye_of(tiny_model)
    assert eye.recall is not None
    assert not any(weight.requires_grad for weight in eye.recall.parameters())
    backend = NativeBackend.load(tiny_model)
    pixels_CHW = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    _, wanted = backend.engine.see(pixels_CHW)
    with torch.no_grad():
        _, scene_BE = eye(torch.from_numpy(pixels_CHW)[None])
    np.testing.assert_allclose(scene_BE[0].numpy(), wanted, rtol=1e-3, atol=1e-3)
