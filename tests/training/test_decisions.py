"""What a decision is learnt from: the draws, and the tensors that are made of them."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from embervlm.data.sample import (  # noqa: E402
    from_photo_request,
    from_scenario,
    robots_of,
    subset_of,
)
from embervlm.data.scenarios import load  # noqa: E402
from embervlm.fleet import ENVIRONMENTS  # noqa: E402
from embervlm.models.configuration import EmberConfig  # noqa: E402
from embervlm.models.modeling import EmberNetwork  # noqa: E402
from embervlm.prompts import read_task  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training.decisions import (  # noqa: E402
    IGNORED,
    Item,
    Mixture,
    Photos,
    Settings,
    collate,
    forward,
    simulated_scene,
    with_typo,
    with_words_lost,
    without_digits,
)
from embervlm.training.stages import views_sum  # noqa: E402


@pytest.fixture
def network(tokenizer: Tokenizer) -> EmberNetwork:
    torch.manual_seed(0)
    return EmberNetwork(
        EmberConfig(
            vocabulary_size=len(tokenizer),
            text_layers=2,
            text_width=32,
            text_heads=4,
            text_hidden=64,
            text_positions=400,
            decoder_width=32,
            decoder_hidden=64,
            dropout=0.0,
        )
    )


def _items(tokenizer: Tokenizer, count: int) -> list[Item]:
    rows = load("scenarios", "train")[:count]
    return [Item(from_scenario(row), read_task(row["task"], tokenizer, 380)) for row in rows]


def test_a_photo_that_goes_along_does_not_give_the_place_away(
    network: EmberNetwork, tokenizer: Tokenizer
) -> None:
    plain = _items(tokenizer, 1)[0]
    settled = from_photo_request(load("photo_requests", "train")[0], "paved", None)
    items = [
        plain,
        Item(plain.sample, plain.reading, scene="rough"),
        Item(settled, plain.reading, scene="paved"),
    ]
    batch = collate(items, None, network.config, random.Random(0))
    paved = ENVIRONMENTS.index("paved")
    assert batch["environment"].tolist() == [plain.sample.environment, IGNORED, paved]
    assert (batch["subset"] != IGNORED).all()


def test_photos_that_have_other_views_are_decided_alike_in_two(
    network: EmberNetwork, tokenizer: Tokenizer
) -> None:
    drawn = torch.Generator().manual_seed(0)
    features_PC = torch.randn(4, *network.config.features_shape, generator=drawn)
    features_PC[3] = features_PC[2]
    scenes_PE = torch.full((4, len(ENVIRONMENTS)), 1 / len(ENVIRONMENTS))
    photos = Photos(features_PC, scenes_PE, {}, {}, {0: [1], 1: [0], 2: [3], 3: [2]})
    plain = _items(tokenizer, 1)[0]

    def apart(*rows: int | None) -> float:
        items = [Item(plain.sample, plain.reading, photo=row) for row in rows]
        batch = collate(items, photos, network.config, random.Random(0), two_views=1.0)
        assert batch["other_rows"].tolist() == [i for i, row in enumerate(rows) if row is not None]
        network.eval()
        return views_sum(network, forward(network, batch), batch).item()

    same, other, none = apart(None, 2), apart(None, 0), apart(None, None)
    assert none == 0
    # Of yes and no the distance has a least value above 0: that of chances from themselves.
    assert other > same + 1e-4


def test_a_sample_keeps_its_robots() -> None:
    for row in load("scenarios", "validation"):
        assert set(robots_of(from_scenario(row).subset)) == set(row["suited"])
    assert subset_of(["No Robot"]) == 0


def test_a_simulated_scene_is_a_distribution_that_its_place_leads() -> None:
    rng = random.Random(1)
    for place in ENVIRONMENTS:
        shares = simulated_scene(place, rng)
        assert abs(sum(shares) - 1) < 1e-6
        assert max(range(len(shares)), key=shares.__getitem__) == ENVIRONMENTS.index(place)


def test_lost_words_are_plain_ones() -> None:
    task = "Do not carry the old 16 kg generator upstairs, look at its quiet neighbour instead"
    found = {with_words_lost(task, random.Random(seed)) for seed in range(60)}
    assert len(found) > 20
    for text in found:
        assert "not" in text.split()
        assert "16 kg" in text
        assert set(text.split()) <= set(task.split())
    assert with_words_lost("look", random.Random(3)) == "look"


def test_a_typo_leaves_numbers_alone() -> None:
    rng = random.Random(2)
    for _ in range(50):
        assert "16 kg" in with_typo("Carry the 16 kg generator upstairs quickly", rng)


def test_dropped_digits_leave_the_marks_in_place(tokenizer: Tokenizer) -> None:
    digits = {tokenizer.encode(str(d))[0] for d in range(10)}
    reading = read_task("carry 16 kg for 200 m", tokenizer, 100)
    bare = without_digits(reading, digits)
    assert [bare.tokens[m] for m in bare.marks] == [reading.tokens[m] for m in reading.marks]
    assert not digits & set(bare.tokens)


def test_redrawn_requests_teach_their_roles_alone(tokenizer: Tokenizer) -> None:
    mixture = Mixture(Settings(redraw=1.0, max_tokens=400), tokenizer, None)
    items = [item for item in mixture.epoch(random.Random(0)) if item.roles is not None]
    assert len(items) > 0.95 * len(mixture.with_numbers)
    batch = collate(items[:16], None, EmberConfig(vocabulary_size=len(tokenizer)), random.Random(0))
    assert (batch["roles"] != IGNORED).any(1).all()
    assert (batch["subset"] == IGNORED).all()
    assert not batch["has_needs"].any()
    less = Mixture(Settings(redraw=0.0), tokenizer, None).epoch(random.Random(0))
    assert all(item.roles is None for item in less)
