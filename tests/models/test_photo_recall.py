"""A photo is told by the looks near it: what they lack is lost, how strong it is stays."""

from __future__ import annotations

import numpy as np
import pytest

from embervlm.models.configuration import BitMarConfig, EmberConfig

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")

# Each of these imports one of the two.
from embervlm.export.photo_recall import table_of  # noqa: E402
from embervlm.models.modeling import EmberNetwork  # noqa: E402
from embervlm.models.photo_recall import PhotoRecall  # noqa: E402

CHANNELS = 24


def features(count: int) -> np.ndarray:
    """Photos of six places: a mean for each, and a little of their own."""
    random = np.random.default_rng(0)
    places = random.normal(0, 1, (6, CHANNELS))
    own = random.normal(0, 0.2, (count, CHANNELS))
    return (places[np.arange(count) % 6] + own).astype(np.float32)


def recall_of(seen_PC: np.ndarray, width: int, rows: int, sharpness: float) -> PhotoRecall:
    pytest.importorskip("sklearn")
    config = EmberConfig(image_width=CHANNELS, recall_width=width, recall_rows=rows)
    recall = PhotoRecall(config)
    table = table_of(seen_PC, width, rows, sharpness)
    recall.load_state_dict(
        {name.removeprefix("recall."): torch.from_numpy(t) for name, t in table.items()}
    )
    return recall


def test_a_photo_of_the_table_stays_as_it_is() -> None:
    seen_PC = features(30)
    recall = recall_of(seen_PC, CHANNELS, 30, sharpness=1e4)
    told_PC = recall(torch.from_numpy(seen_PC)).detach().numpy()
    np.testing.assert_allclose(told_PC, seen_PC, rtol=1e-3, atol=1e-3)


def test_two_views_end_nearer_to_each_other_than_they_began() -> None:
    seen_PC = features(60)
    recall = recall_of(seen_PC, 8, 40, sharpness=32)
    random = np.random.default_rng(1)
    damaged_PC = (seen_PC + random.normal(0, 0.3, seen_PC.shape)).astype(np.float32)
    with torch.no_grad():
        told, damaged = (recall(torch.from_numpy(f)).numpy() for f in (seen_PC, damaged_PC))
    before = np.linalg.norm(damaged_PC - seen_PC, axis=1)
    assert (np.linalg.norm(damaged - told, axis=1) < before).all()
    # And they still differ from those of other places as they did.
    assert np.corrcoef(told.ravel(), seen_PC.ravel())[0, 1] > 0.95


def test_nothing_seen_at_all_is_the_mean_photo() -> None:
    seen_PC = features(30)
    recall = recall_of(seen_PC, CHANNELS, 30, sharpness=32)
    mean_BC = torch.from_numpy(seen_PC.mean(0, keepdims=True))
    assert torch.allclose(recall(mean_BC), mean_BC, atol=1e-3)


def test_a_table_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="30 photos of 24 channels make at most 30 looks 24 wide"):
        table_of(features(30), width=8, rows=31)


def test_the_network_looks_through_its_table() -> None:
    torch.manual_seed(0)
    config = EmberConfig(image_size=32, ngram_rows=8, recall_width=16, recall_rows=20)
    network = EmberNetwork(config).eval()
    assert network.recall is not None
    pixels_BCHW = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features_BC, scene_BE = network.look(pixels_BCHW)
        told_BC = network.recall(network.vision(pixels_BCHW))
    assert torch.equal(features_BC, told_BC)
    assert torch.equal(scene_BE, network.image.scene(told_BC))


@pytest.mark.parametrize(
    "sizes", [{"recall_width": 8}, {"recall_rows": 8}, {"recall_width": 8, "recall_rows": 0}]
)
def test_half_a_table_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected both or neither"):
        EmberConfig(**sizes)


def test_a_grid_has_no_table() -> None:
    with pytest.raises(ValueError, match="neither with a grid"):
        BitMarConfig(recall_width=8, recall_rows=8)
