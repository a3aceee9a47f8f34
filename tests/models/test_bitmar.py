"""The parts of bitmar: each against another way to compute it, and what evaluation leaves alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from embervlm.models.configuration import BitMarConfig, EmberConfig, config_of
from embervlm.models.episodic_memory import EpisodicMemory
from embervlm.models.fusion import CrossRead, Fusion
from embervlm.models.modeling import EmberNetwork, Encoded, grid_of, load_network, save_network

SMALL = BitMarConfig(
    vocabulary_size=64,
    text_layers=2,
    text_width=64,
    text_heads=4,
    text_hidden=64,
    decoder_layers=2,
    decoder_width=32,
    decoder_heads=2,
    decoder_hidden=64,
    embed_width=32,
    fusion_width=32,
    image_grid=2,
    image_tokens=5,
    memory_slots=4,
    memory_width=32,
    reasoning_width=32,
    ngram_rows=64,
    dropout=0.0,
)


def network_of(**switches: object) -> EmberNetwork:
    torch.manual_seed(0)
    network = EmberNetwork(replace(SMALL, **switches))
    with torch.no_grad():  # gates begin shut
        for name, parameter in network.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.5)
    return network


def inputs_of(count: int = 6) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 9, (count,), generator=drawn)
    return {
        "tokens_BT": torch.randint(0, 64, (count, 9), generator=drawn),
        "mask_BT": torch.arange(9)[None] < lengths[:, None],
        "features_BC": torch.randn(count, 4, 320, generator=drawn),
        "scene_BE": torch.rand(count, 10, generator=drawn).softmax(-1),
        "has_photo_B": torch.arange(count) % 2 == 0,
        "has_view_B": torch.arange(count) % 4 == 0,
    }


def logits_of(network: EmberNetwork, encoded: Encoded) -> Tensor:
    logits = network.decide(encoded, None).values()
    return torch.cat([value.reshape(len(value), -1) for value in logits], dim=1)


def test_switched_off_it_is_ember_nano() -> None:
    off = {"linear": "full", "embed_width": 0, "fusion": "prefix", "image_grid": 0}
    config = replace(SMALL, **off, image_tokens=2, memory_slots=0, reasoning_width=0)
    values = config.to_dict()
    torch.manual_seed(0)
    ours = EmberNetwork(config)
    torch.manual_seed(0)
    ember = EmberNetwork(EmberConfig.from_dict(values))
    inputs = inputs_of()
    inputs["features_BC"] = inputs["features_BC"].mean(1)
    torch.testing.assert_close(
        logits_of(ours.eval(), ours.encode(**inputs)),
        logits_of(ember.eval(), ember.encode(**inputs)),
    )
    assert set(ours.state_dict()) == set(ember.state_dict())


@pytest.mark.parametrize(
    "switches",
    [{}, {"linear": "full"}, {"memory_slots": 0}, {"reasoning_width": 0}, {"match_width": 8},
     {"fusion": "prefix", "image_grid": 0, "image_tokens": 2}],
)  # fmt: skip
def test_each_switch_is_saved_and_loaded(tmp_path, switches: dict[str, object]) -> None:
    network = network_of(**switches).eval()
    save_network(network, tmp_path / "network.safetensors")
    back = load_network(tmp_path / "network.safetensors").eval()
    assert back.config == network.config
    assert isinstance(back.config, BitMarConfig)
    inputs = inputs_of()
    if not network.config.image_grid:
        inputs["features_BC"] = inputs["features_BC"].mean(1)
    torch.testing.assert_close(
        logits_of(back, back.encode(**inputs)), logits_of(network, network.encode(**inputs))
    )


def test_a_batch_answers_as_its_rows_do_one_by_one() -> None:
    network, inputs = network_of().eval(), inputs_of()
    together = logits_of(network, network.encode(**inputs))
    for i in range(len(together)):
        length = int(inputs["mask_BT"][i].sum())
        one = {name: value[i : i + 1] for name, value in inputs.items()}
        one["tokens_BT"], one["mask_BT"] = one["tokens_BT"][:, :length], one["mask_BT"][:, :length]
        torch.testing.assert_close(
            logits_of(network, network.encode(**one))[0], together[i], rtol=1e-4, atol=1e-4
        )


def test_shut_gates_leave_the_words_as_they_were_read() -> None:
    fusion = Fusion(SMALL)
    for layer in fusion.layers:
        for reads in (layer.text_reads, layer.image_reads):
            reads.gate.data.zero_()
    words_BTD, image_BND = torch.randn(2, 5, 64), torch.randn(2, 5, 64)
    mask_BT = torch.ones(2, 5, dtype=torch.bool)
    read_BTD, seen_BND = fusion(words_BTD, mask_BT, image_BND)
    torch.testing.assert_close(read_BTD, words_BTD)
    torch.testing.assert_close(seen_BND, image_BND)


def test_with_both_a_whole_photo_stands_in_front_of_the_words() -> None:
    """Its places are read behind the reader, from what they were before it."""
    network, inputs = network_of(fusion="both").eval(), inputs_of()
    tokens_BT, mask_BT, *photo = inputs.values()
    features_BPC, *others = photo
    whole_BSD = network.text(tokens_BT, mask_BT, network.image(features_BPC.mean(1), *others))
    fused_BTD, image_BND = network.fusion(whole_BSD[:, 2:], mask_BT, network.image(*photo))
    expected_BSD = torch.cat([image_BND, fused_BTD], dim=1)
    torch.testing.assert_close(network.encode(**inputs).states_BSD, expected_BSD)
    behind = network_of(fusion="fiber").eval().encode(**inputs).states_BSD
    assert (expected_BSD - behind).abs().max() > 0.1


def test_cross_attention_is_what_its_formula_says() -> None:
    torch.manual_seed(2)
    read = CrossRead(replace(SMALL, linear="full"))
    read.gate.data.fill_(0.7)
    x_QD, from_KD = torch.randn(3, 64), torch.randn(5, 64)
    mask_K = torch.tensor([True, True, False, True, True])
    k_KW, v_KW = read.keys_values(from_KD).chunk(2, dim=-1)
    parts = []
    for h in range(SMALL.fusion_heads):
        part = slice(h * 8, h * 8 + 8)
        scores_QK = read.query(x_QD)[:, part] @ k_KW[:, part].T / 8**0.5
        scores_QK[:, ~mask_K] = float("-inf")
        parts.append(scores_QK.softmax(-1) @ v_KW[:, part])
    expected_QD = torch.tanh(torch.tensor(0.7)) * read.out(torch.cat(parts, dim=-1))
    found_BQD = read(x_QD[None], from_KD[None], mask_K[None])
    torch.testing.assert_close(found_BQD[0], expected_QD)
    torch.testing.assert_close(read.shares(x_QD[None], from_KD[None]).sum(-1), torch.ones(1, 3))


def test_words_show_where_they_look() -> None:
    fusion = network_of().fusion
    shares = fusion.looked_at(
        torch.randn(2, 5, 64), torch.ones(2, 5, dtype=torch.bool), torch.randn(2, 5, 64)
    )
    assert shares.shape == (2, 2, 5, 5)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 2, 5))


def test_memory_reads_by_attention_over_the_slots_in_use() -> None:
    memory = EpisodicMemory(SMALL)
    assert not memory.read(torch.randn(3, 32)).any()
    torch.manual_seed(3)
    memory.slots[:3] = torch.randn(3, 32)
    memory.written_at[:3] = torch.arange(3)
    key_M = torch.randn(32)
    weights = [torch.exp(key_M @ memory.slots[i] / 32**0.5) for i in range(3)]
    expected_M = sum(w * memory.slots[i] for i, w in enumerate(weights)) / sum(weights)
    torch.testing.assert_close(memory.read(key_M[None])[0], expected_M)


def test_memory_writes_to_the_slot_alike_or_to_the_one_longest_unwritten() -> None:
    memory = EpisodicMemory(SMALL)
    kinds_KM = torch.eye(32)[:5] * 5
    memory.write(kinds_KM[:4])
    torch.testing.assert_close(memory.slots, kinds_KM[:4])
    memory.write(kinds_KM[:1] * 3)  # alike: it moves a little
    torch.testing.assert_close(memory.slots[0], kinds_KM[0] * 1.1)
    assert memory.writes.tolist() == [2, 1, 1, 1]
    memory.write(kinds_KM[4:])  # the second is the one longest unwritten now
    torch.testing.assert_close(memory.slots[1], kinds_KM[4])
    assert memory.writes.tolist() == [2, 1, 1, 1]
    found = memory.statistics()
    assert found["active_slots"] == 4
    assert found["active_share"] == 1.0
    assert found["usage_max"] == 2
    assert found["slot_similarity"] == pytest.approx(0.0, abs=1e-6)


def test_evaluation_writes_nothing_and_does_not_depend_on_the_order() -> None:
    network, inputs = network_of(), inputs_of()
    network.train()
    network.encode(**inputs)
    assert int(network.memory.clock) == 6
    network.eval()
    before = {name: value.clone() for name, value in network.memory.state_dict().items()}
    first = logits_of(network, network.encode(**inputs))
    turned = {name: value.flip(0) for name, value in inputs.items()}
    second = logits_of(network, network.encode(**turned)).flip(0)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(network, network.encode(**inputs)), first, rtol=0, atol=0)
    for name, value in network.memory.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_each_head_reads_the_step_that_answers_its_question() -> None:
    network = network_of().eval()
    encoded = network.encode(**inputs_of())
    assert encoded.thoughts_BKD.shape == (6, 5, 64)
    before = network.heads(encoded.pooled_BD, encoded.thoughts_BKD)
    changed = encoded.thoughts_BKD.clone()
    changed[:, 3] += 1  # selection
    after = network.heads(encoded.pooled_BD, changed)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"primary"}


def test_the_grid_is_the_photo_s_places_row_by_row() -> None:
    places_BCHW = torch.arange(2 * 3 * 5 * 5).float().reshape(2, 3, 5, 5)
    grid_BPC = grid_of(places_BCHW, 5)
    assert grid_BPC.shape == (2, 25, 3)
    torch.testing.assert_close(grid_BPC[1, 7], places_BCHW[1, :, 1, 2])


def test_a_network_looks_at_places_and_their_mean_says_where_it_is() -> None:
    network = network_of().eval()
    pixels_BCHW = torch.randn(1, 3, 64, 64).clamp(-1, 1)
    features_BPC, scene_BE = network.look(pixels_BCHW)
    assert features_BPC.shape == (1, 4, 320)
    torch.testing.assert_close(
        network.image.scene(network.vision(pixels_BCHW)), scene_BE, rtol=1e-4, atol=1e-4
    )


def test_a_configuration_says_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="linear is 'int4'; there are full, ternary"):
        replace(SMALL, linear="int4")
    with pytest.raises(ValueError, match="fiber and both need a grid of 1 or more"):
        replace(SMALL, image_grid=0)
    with pytest.raises(ValueError, match="a grid of 2 gives 5"):
        replace(SMALL, image_tokens=2)
    with pytest.raises(ValueError, match="the family is 'bitfish'"):
        config_of({"family": "bitfish"})
