"""Fine-tuning the eye: it learns, it goes on where it stopped, and it counts honestly."""

import json
from pathlib import Path

import numpy as np
import pytest

from embervlm.data.photos import Photo
from embervlm.fleet import ENVIRONMENTS

torch = pytest.importorskip("torch")
training = pytest.importorskip("embervlm.training.vision")

SIZE = 32
TINY = training.Recipe(epochs=2, size=SIZE, batch=8, warmup_steps=2, mean_decay=0.9)


def photo(number: int, environment: str | None, split: str) -> Photo:
    place = f"place-{environment}"
    return Photo(f"{number}.jpg", place, environment, split, f"g{number}", "0" * 16, "none")


@pytest.fixture
def photos() -> list[Photo]:
    """Two environments that differ in colour, and a photo that only has captions."""
    rows = []
    for number in range(48):
        environment = ("underwater", "rough")[number % 2]
        rows.append(photo(number, environment, ("train", "train", "validation")[number % 3]))
    return [*rows, photo(48, None, "train")]


@pytest.fixture
def pixels(photos: list[Photo]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    images = {}
    for row in photos:
        image = random.integers(0, 60, (SIZE + 8, SIZE + 8, 3), dtype=np.uint8)
        image[..., 2 if row.environment == "underwater" else 0] += 150
        images[row.file] = image
    return images


def centred(pixels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {file: image[4:-4, 4:-4] for file, image in pixels.items()}


def fresh() -> "torch.nn.Module":
    torch.manual_seed(1)
    model = training.MobileNetV2()
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(parameter, 0, (2 / parameter[0].numel()) ** 0.5)
    return model


def test_a_view_keeps_its_size_and_depends_on_the_seed_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    for seed in range(60):
        view = training.augment(image, SIZE, np.random.default_rng(seed))
        again = training.augment(image, SIZE, np.random.default_rng(seed))
        assert view.shape == (SIZE, SIZE, 3)
        assert view.dtype == np.uint8
        assert np.array_equal(view, again)
    assert not np.array_equal(view, training.augment(image, SIZE, np.random.default_rng(0)))


def test_colours_change_photo_by_photo_and_stay_in_range() -> None:
    pixels = torch.rand(1, 3, 8, 8).repeat(6, 1, 1, 1) * 2 - 1
    changed = training.jitter_colour(pixels, np.random.default_rng(0))
    assert changed.shape == pixels.shape
    assert changed.min() >= -1
    assert changed.max() <= 127 / 128
    assert len({tuple(row.flatten()[:5].tolist()) for row in changed}) == 6


def test_training_pixels_are_those_of_a_request() -> None:
    from embervlm.imaging import preprocess

    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert np.array_equal(training.to_pixels(image[None])[0].numpy(), preprocess(image, SIZE))


def test_learns_two_environments_and_reports_them(
    tmp_path: Path, photos: list[Photo], pixels: dict[str, np.ndarray]
) -> None:
    recipe = training.Recipe(epochs=6, size=SIZE, batch=8, warmup_steps=2, mean_decay=0.5)
    training.train(recipe, fresh(), photos, pixels, centred(pixels), tmp_path)
    report = training.evaluate(
        [*photos, photo(49, "rough", "test")],
        centred({**pixels, "49.jpg": pixels["1.jpg"]}),
        tmp_path,
    )
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").open()]
    assert losses[-1] < losses[0]
    assert report["train"]["environment"] == 1.0
    assert report["train"]["photos"] == 32
    assert report["test"]["photos"] == 1
    with np.load(tmp_path / "features.npz", allow_pickle=False) as cache:
        assert cache["files"].shape == (50,)
        assert cache["features"].shape == (50, 320)
        assert cache["environment_logits"].shape == (50, len(ENVIRONMENTS))
        assert cache["split"].tolist().count("train") == 33


def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    tmp_path: Path,
    photos: list[Photo],
    pixels: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    training.train(TINY, fresh(), photos, pixels, centred(pixels), whole)

    class StoppedError(Exception):
        pass

    def stop_after_one(*_: object, **__: object) -> None:
        if len(training._metrics(broken)) == 1:
            raise StoppedError

    first = training.jitter_colour
    monkeypatch.setattr(
        training, "jitter_colour", lambda *values: stop_after_one() or first(*values)
    )
    with pytest.raises(StoppedError):
        training.train(TINY, fresh(), photos, pixels, centred(pixels), broken)
    monkeypatch.setattr(training, "jitter_colour", first)
    training.train(TINY, fresh(), photos, pixels, centred(pixels), broken)
    expected = training.load_file(whole / "state.safetensors")
    found = training.load_file(broken / "state.safetensors")
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_refuses_to_go_on_with_another_recipe(
    tmp_path: Path, photos: list[Photo], pixels: dict[str, np.ndarray]
) -> None:
    training.train(TINY, fresh(), photos, pixels, centred(pixels), tmp_path)
    other = training.Recipe(**{**training.asdict(TINY), "seed": 1})
    with pytest.raises(ValueError, match="another recipe"):
        training.train(other, fresh(), photos, pixels, centred(pixels), tmp_path)


def test_balanced_accuracy_weighs_environments_alike() -> None:
    rows = [photo(n, "rough", "test") for n in range(9)] + [photo(9, "paved", "test")]
    scene = np.zeros((10, len(ENVIRONMENTS)), dtype=np.float32)
    scene[:, ENVIRONMENTS.index("rough")] = 1
    outputs = [np.zeros((10, 320), np.float32), scene, np.zeros((10, 2), np.float32)]
    accuracy = training._accuracy(outputs, rows, ["place-paved", "place-rough"])
    assert accuracy["environment"] == 0.9
    assert accuracy["environment_balanced"] == 0.5
    assert accuracy["place"] == 0.1
