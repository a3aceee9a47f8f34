"""`ember-37m` put together: its size, its gradients, and that it learns."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from embervlm.models.configuration import PRESETS, SPECIAL_TOKENS, PrefixConfig  # noqa: E402
from embervlm.models.ember_37m import Ember37M, Projector, start_from_published  # noqa: E402
from embervlm.models.presets import build, count_parameters  # noqa: E402

TINY = PrefixConfig(
    vocabulary_size=20 + len(SPECIAL_TOKENS), text_layers=2, text_width=32, text_heads=2,
    text_hidden=64, text_positions=32, image_size=64, image_widths=(8, 8, 16, 16),
    image_depths=(1, 1, 1, 1), image_tokens=4, dropout=0.0,
)  # fmt: skip
STOP = 0


def batch(samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tokens, mask, which are learnt, and photos: the same question, other answers."""
    torch.manual_seed(0)
    prompt_BT = torch.tensor([[1] + [TINY.image_token] * 4 + [2, 3]]).expand(samples, -1)
    answer_BT = torch.randint(4, 20, (samples, 6))
    tokens_BT = torch.cat([prompt_BT, answer_BT, torch.full((samples, 1), STOP)], dim=1)
    learnt_BT = torch.arange(tokens_BT.shape[1]).expand_as(tokens_BT) >= prompt_BT.shape[1]
    pixels_BCHW = torch.rand(samples, 3, 64, 64) * 2 - 1
    return tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool), learnt_BT, pixels_BCHW


def caption_loss(
    network: Ember37M, tokens_BT: Tensor, mask_BT: Tensor, learnt_BT: Tensor, image_BND: Tensor
) -> Tensor:
    states_BTD, _ = network.decoder(tokens_BT, mask_BT=mask_BT, image_BND=image_BND)
    loss: Tensor = network.decoder.loss(states_BTD, tokens_BT, learnt_BT)
    return loss


def test_the_preset_has_the_documented_size() -> None:
    counts = count_parameters("ember-37m")
    assert abs(counts["total"] / 37.2e6 - 1) < 0.01
    assert counts == {
        "vision": 4_717_792, "projector": 296_448, "decoder": 30_341_376, "reader": 1_774_464,
        "heads": 25_025, "total": 37_155_105,
    }  # fmt: skip


def test_counts_what_a_built_network_holds() -> None:
    held = sum(parameter.numel() for parameter in build("ember-nano").parameters())
    assert count_parameters("ember-nano")["total"] == held
    with pytest.raises(ValueError, match="choose from ember-nano, ember-37m"):
        count_parameters("ember-38m")


def test_the_special_tokens_stand_behind_gpt_2_s() -> None:
    config = PrefixConfig()
    assert config.vocabulary_size == 50262
    assert config.published_vocabulary == 50257
    assert config.image_token == 50261


def test_a_configuration_comes_back_from_json() -> None:
    for config in PRESETS.values():
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="Unknown configuration keys"):
        PrefixConfig.from_dict({"widht": 3})


def test_photos_become_as_many_tokens_as_asked_for() -> None:
    features_BNC = torch.randn(2, 49, 384)
    for image_tokens in (1, 9, 49):
        projector = Projector(PrefixConfig(image_tokens=image_tokens))
        assert projector(features_BNC).shape == (2, image_tokens, 384)
    for image_tokens in (0, 8, 64):
        with pytest.raises(ValueError, match="expected a square"):
            Projector(PrefixConfig(image_tokens=image_tokens))


def test_a_coarser_grid_is_the_mean_of_its_places() -> None:
    projector = Projector(replace(TINY, image_tokens=1))
    features_BNC = torch.randn(3, 4, 16)
    expected_BNC = projector(features_BNC.mean(1, keepdim=True))
    torch.testing.assert_close(projector(features_BNC), expected_BNC)


def test_photos_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(3, 64, 64\)"):
        Ember37M(TINY).see(torch.zeros(1, 3, 96, 64))


def test_gradients_reach_every_parameter() -> None:
    tokens_BT, mask_BT, learnt_BT, pixels_BCHW = batch(4)
    network = Ember37M(TINY).eval()  # a norm with the batch's statistics hides biases before it
    # A fresh block is the identity: its last norm multiplies by 0, which stops the gradient.
    for name, parameter in network.vision.named_parameters():
        if name.endswith("conv2.bn.weight"):
            torch.nn.init.ones_(parameter)
    image_BND = network.see(pixels_BCHW)
    states_BTD, pooled_BD = network.encode(tokens_BT, mask_BT, image_BND)
    loss = caption_loss(network, tokens_BT, mask_BT, learnt_BT, image_BND)
    for logits in network.decide(pooled_BD).values():
        loss = loss + logits.square().mean()
    marks_BM = torch.tensor([[5, 7]]).expand(4, -1)
    (loss + network.roles(states_BTD, marks_BM).square().mean()).backward()
    untouched = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]
    assert untouched == []


@torch.inference_mode()
def test_a_request_means_the_same_alone_padded_and_in_a_batch() -> None:
    tokens_BT, mask_BT, _, pixels_BCHW = batch(4)
    tokens_BT[1, 1:5] = 7  # one without a photo
    mask_BT[2, -3:] = False
    network = Ember37M(TINY).eval()
    _, together_BD = network.encode(tokens_BT, mask_BT, network.see(pixels_BCHW))
    for b in range(4):
        length = int(mask_BT[b].sum())
        image_BND = None if b == 1 else network.see(pixels_BCHW[b : b + 1])
        row = tokens_BT[b : b + 1, :length], mask_BT[b : b + 1, :length], image_BND
        torch.testing.assert_close(network.encode(*row)[1][0], together_BD[b], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_mean_is_over_words_alone() -> None:
    tokens_BT, mask_BT, _, pixels_BCHW = batch(1)
    mask_BT[0, -2:] = False
    network = Ember37M(TINY).eval()
    states_BTD, pooled_BD = network.encode(tokens_BT, mask_BT, network.see(pixels_BCHW))
    words_WD = torch.cat([states_BTD[0, :1], states_BTD[0, 5:-2]])  # 1 to 4 are the photo
    torch.testing.assert_close(pooled_BD[0], words_WD.mean(0))


@torch.inference_mode()
def test_the_state_of_the_first_word_knows_the_last() -> None:
    tokens_BT, mask_BT, _, _ = batch(1)
    tokens_BT[:, 1:5] = 7
    network = Ember37M(TINY).eval()
    before, _ = network.encode(tokens_BT, mask_BT, None)
    tokens_BT[0, -1] = 9
    after, _ = network.encode(tokens_BT, mask_BT, None)
    assert not torch.allclose(before[0, 0], after[0, 0], atol=1e-4)


def test_learns_to_caption_8_photos_by_heart() -> None:
    tokens_BT, mask_BT, learnt_BT, pixels_BCHW = batch(8)
    network = Ember37M(TINY)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        loss = caption_loss(network, tokens_BT, mask_BT, learnt_BT, network.see(pixels_BCHW))
        if loss < 0.02:
            print("STEPS", _)
            break
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        image_BND = network.see(pixels_BCHW)
        assert caption_loss(network, tokens_BT, mask_BT, learnt_BT, image_BND) < 0.05
        # The questions are the same, so what is written was read off the photos.
        written = network.decoder.write(tokens_BT[:, :7], STOP, image_BND=image_BND, max_tokens=9)
        assert written == tokens_BT[:, 7:-1].tolist()
        others_BND = image_BND.roll(1, dims=0)
        assert caption_loss(network, tokens_BT, mask_BT, learnt_BT, others_BND) > 1


def write(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "model.safetensors")


@torch.no_grad()
def test_starts_from_both_published_files_in_their_published_shapes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Ember37M(PrefixConfig())
    vision = {name: tensor.clone() for name, tensor in network.vision.state_dict().items()}
    language = {name: tensor.clone() for name, tensor in network.decoder.state_dict().items()}
    language["transformer.wte.weight"] = language["transformer.wte.weight"][:50257].clone()
    assert sum(tensor.numel() for tensor in language.values()) == 30_339_456
    heads = {f"head.{head}.l.weight": torch.zeros(1000, 384) for head in ("head", "head_dist")}
    write(tmp_path / "vision", vision | heads, {"architecture": "repvit_m0_9"})
    shape = {"model_type": "gpt2", "n_layer": 6, "n_head": 6, "activation_function": "gelu_new"}
    write(tmp_path / "language", language, shape)
    for parameter in network.parameters():
        parameter.zero_()
    reports = start_from_published(
        network, vision=tmp_path / "vision", language=tmp_path / "language"
    )
    assert [len(report.loaded) for report in reports] == [699, len(language)]
    assert set(reports[0].dropped) == set(heads)
    assert reports[1].new == ("transformer.wte.weight[50257:50262]",)
    for name, tensor in vision.items():
        assert torch.equal(network.vision.state_dict()[name], tensor)
    for name, tensor in language.items():
        assert torch.equal(network.decoder.state_dict()[name][: len(tensor)], tensor)
