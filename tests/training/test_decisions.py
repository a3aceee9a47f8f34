"""The decision stage: it learns, it trains what it should, and a stopped run goes on."""

from __future__ import annotations

import random
from pathlib import Path

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
    Settings,
    collate,
    forward,
    loss_of,
    simulated_scene,
    with_typo,
    without_digits,
)


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


def test_a_tiny_network_over_fits_eight_requests(
    network: EmberNetwork, tokenizer: Tokenizer
) -> None:
    items = _items(tokenizer, 8)
    batch = collate(items, None, network.config, random.Random(0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(150):
        loss = loss_of(forward(network, batch), batch, Settings(set_smoothing=0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = forward(network, batch)
    assert torch.equal(logits["subsets"].argmax(-1), batch["subset"])
    assert torch.equal(logits["environment"].argmax(-1), batch["environment"])


def test_every_part_that_decides_gets_a_gradient(
    network: EmberNetwork, tokenizer: Tokenizer
) -> None:
    items = [
        Item(item.sample, item.reading, scene="rough" if i % 2 else None)
        for i, item in enumerate(_items(tokenizer, 12))
    ]
    batch = collate(items, None, network.config, random.Random(0))
    batch["features"].normal_()
    batch["has_view"] |= batch["has_photo"]
    loss_of(forward(network, batch), batch, Settings()).backward()
    frozen = ("vision.", "decoder.", "image.scene.", "ngrams.")
    without = [
        name
        for name, parameter in network.named_parameters()
        if not name.startswith(frozen) and (parameter.grad is None or not parameter.grad.any())
    ]
    assert without == []


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


def test_a_stopped_run_goes_on_where_it_stopped(
    network: EmberNetwork, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from embervlm.training import decisions

    class ThreeRequests(decisions.Mixture):
        def epoch(self, rng: random.Random) -> list[Item]:
            return _items(self.tokenizer, 3)

    mixture = ThreeRequests(Settings(), tokenizer, None)
    decisions.train(network, mixture, Settings(epochs=1, max_tokens=380), tmp_path, None)
    decisions.train(network, mixture, Settings(epochs=2, max_tokens=380), tmp_path, None)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
