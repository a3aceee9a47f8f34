"""The GPT-2-shaped decoder equals transformers', and itself with a cache, padding and photos."""

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from embervlm.models.configuration import SPECIAL_TOKENS, PrefixConfig  # noqa: E402
from embervlm.models.decoder_lm import (  # noqa: E402
    DecoderLM,
    _allowed,
    grow_table,
    image_slots,
    load_gpt2,
)
from embervlm.models.published import Published  # noqa: E402

SMALL = PrefixConfig(
    vocabulary_size=50 + len(SPECIAL_TOKENS), text_layers=2, text_width=32, text_heads=4,
    text_hidden=64, text_positions=24, image_tokens=4,
)  # fmt: skip
IMAGE = SMALL.image_token
CONFIG = {"model_type": "gpt2", "n_layer": 2, "n_head": 4, "activation_function": "gelu_new"}


def lively(config: PrefixConfig = SMALL) -> DecoderLM:
    """Return a decoder in evaluation whose weights are large enough for mistakes to show."""
    torch.manual_seed(0)
    decoder = DecoderLM(config)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return decoder.eval()


def published(decoder: DecoderLM) -> dict[str, Tensor]:
    """Return the decoder's weights as a checkpoint, without the special tokens' rows."""
    tensors = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    table = tensors["transformer.wte.weight"]
    tensors["transformer.wte.weight"] = table[: decoder.config.published_vocabulary].clone()
    return tensors


@torch.inference_mode()
@pytest.mark.parametrize(
    ("config", "dtype", "tolerance"),
    [(SMALL, torch.float64, 1e-10), (PrefixConfig(), torch.float32, 1e-4)],
    ids=["small", "ember-37m"],
)
def test_says_what_transformers_says(
    config: PrefixConfig, dtype: torch.dtype, tolerance: float
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.published_vocabulary, n_embd=config.text_width,
            n_layer=config.text_layers, n_head=config.text_heads, n_inner=config.text_hidden,
            n_positions=config.text_positions,
        )
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours = DecoderLM(config).eval()
    report = load_gpt2(ours, Published("gpt2", theirs.config.to_dict(), theirs.state_dict()))
    assert report.dropped == ("lm_head.weight",)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    tokens_BT = torch.randint(config.published_vocabulary, (2, 20))
    states_BTD, _ = ours(tokens_BT)
    logits_BTV = ours.logits(states_BTD)[..., : config.published_vocabulary]
    torch.testing.assert_close(logits_BTV, theirs(tokens_BT).logits, atol=tolerance, rtol=tolerance)


@torch.inference_mode()
def test_loss_is_the_one_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    ours = lively()
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=SMALL.vocabulary_size, n_embd=32, n_layer=2, n_head=4, n_inner=64,
            n_positions=24,
        )
    ).eval()  # fmt: skip
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert missing == ["lm_head.weight"]
    assert not unexpected
    tokens_BT = torch.randint(50, (3, 9))
    learnt_BT = torch.rand(3, 9) < 0.5
    expected = theirs(tokens_BT, labels=tokens_BT.masked_fill(~learnt_BT, -100)).loss
    torch.testing.assert_close(ours.loss(ours(tokens_BT)[0], tokens_BT, learnt_BT), expected)


def test_a_loss_over_nothing_is_0() -> None:
    tokens_BT = torch.randint(50, (1, 4))
    decoder = lively()
    nothing_BT = torch.tensor([[True, False, False, False]])  # the first has none before it
    assert decoder.loss(decoder(tokens_BT)[0], tokens_BT, nothing_BT) == 0


@torch.inference_mode()
def test_cached_steps_say_what_the_whole_says() -> None:
    decoder = lively()
    tokens_BT = torch.randint(50, (3, 12))
    tokens_BT[:2, 1:5] = IMAGE
    image_BND = torch.randn(3, 4, 32)
    whole_BTD, _ = decoder(tokens_BT, image_BND=image_BND)
    states_BTD, cache = decoder(tokens_BT[:, :6], image_BND=image_BND)
    parts = [states_BTD]
    for t in range(6, 12, 2):  # more than one at a time, too
        states_BTD, cache = decoder(tokens_BT[:, t : t + 2], cache=cache)
        parts.append(states_BTD)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole_BTD, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("side", ["before", "behind"])
def test_padding_changes_nothing(side: str) -> None:
    decoder = lively()
    words_BT, padding_BT = torch.randint(50, (2, 7)), torch.randint(50, (2, 3))
    parts = [padding_BT, words_BT] if side == "before" else [words_BT, padding_BT]
    tokens_BT = torch.cat(parts, dim=1)
    where = slice(3, 10) if side == "before" else slice(0, 7)
    mask_BT = torch.zeros(2, 10, dtype=torch.bool)
    mask_BT[:, where] = True
    states_BTD, _ = decoder(tokens_BT, mask_BT=mask_BT)
    assert states_BTD.isfinite().all()
    torch.testing.assert_close(states_BTD[:, where], decoder(words_BT)[0], atol=1e-5, rtol=1e-5)


def test_even_padding_may_read_something() -> None:
    mask_BS = torch.tensor([[False, False, True, True], [False] * 4])
    assert _allowed(mask_BS, 4).any(-1).all()  # some kernels make NaN of a row without


@torch.inference_mode()
def test_rows_mean_the_same_alone_and_in_a_batch() -> None:
    decoder = lively()
    tokens_BT, image_BND = torch.randint(50, (4, 9)), torch.randn(4, 4, 32)
    tokens_BT[::2, 2:6] = IMAGE  # rows with and without a photo
    together_BTD, _ = decoder(tokens_BT, image_BND=image_BND)
    alone = [decoder(tokens_BT[b : b + 1], image_BND=image_BND[b : b + 1])[0] for b in range(4)]
    torch.testing.assert_close(together_BTD, torch.cat(alone), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_token_sees_none_behind_it() -> None:
    decoder = lively()
    tokens_BT = torch.randint(50, (1, 8))
    changed_BT = tokens_BT.clone()
    changed_BT[0, 5:] = (changed_BT[0, 5:] + 1) % 50
    before, after = decoder(tokens_BT)[0], decoder(changed_BT)[0]
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


def test_image_tokens_take_the_places_of_their_marks_in_order() -> None:
    tokens_BT = torch.tensor([[7, IMAGE, IMAGE, 9], [IMAGE, 7, 8, IMAGE], [1, 2, 3, 4]])
    slots_BT = image_slots(tokens_BT, IMAGE, 2)
    assert slots_BT.tolist() == [[-1, 0, 1, -1], [0, -1, -1, 1], [-1, -1, -1, -1]]
    decoder, image_BND = lively(), torch.randn(3, 2, 32)
    x_BTD, words = decoder.embed(tokens_BT, image_BND), decoder.transformer.wte.weight
    assert torch.equal(x_BTD[0], torch.stack([words[7], *image_BND[0], words[9]]))
    assert torch.equal(
        x_BTD[1], torch.stack([image_BND[1, 0], words[7], words[8], image_BND[1, 1]])
    )
    assert torch.equal(x_BTD[2], words[1:5])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_too_few_or_many_image_marks_are_refused(count: int) -> None:
    tokens_BT = torch.tensor([[IMAGE] * count + [7]])
    with pytest.raises(ValueError, match="expected 0 or 4"):
        lively()(tokens_BT, image_BND=torch.zeros(1, 4, 32))


def test_image_marks_without_a_photo_and_overlong_texts_are_refused() -> None:
    decoder = lively()
    with pytest.raises(ValueError, match="expected 0 or 0"):
        decoder(torch.tensor([[IMAGE, 7]]))
    _, cache = decoder(torch.zeros(1, 24, dtype=torch.int64))
    with pytest.raises(ValueError, match="got 25 tokens"):
        decoder(torch.zeros(1, 1, dtype=torch.int64), cache=cache)


@torch.inference_mode()
def test_writes_the_likeliest_words_up_to_the_stop() -> None:
    decoder = lively()
    short, long = torch.randint(50, (1, 3)), torch.randint(50, (1, 6))
    table_VD = decoder.transformer.wte.weight  # <|image|> would win, but is never written
    table_VD[IMAGE] = 20 * table_VD[decoder.logits(decoder(long)[0][0, -1]).argmax()]
    assert decoder.logits(decoder(long)[0][0, -1]).argmax() == IMAGE
    tokens_BT = torch.cat([torch.cat([torch.zeros_like(short), short], dim=1), long])
    mask_BT = torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    written = decoder.write(tokens_BT, stop_token=-1, mask_BT=mask_BT, max_tokens=8)
    for row, expected in zip([short, long], written, strict=True):
        for _ in range(8):  # without a cache, without padding
            scores_V = decoder.logits(decoder(row)[0][0, -1])
            scores_V[IMAGE] = -torch.inf
            row = torch.cat([row, scores_V.argmax().view(1, 1)], dim=1)
        assert row[0, -8:].tolist() == expected
    stop = written[0][2]
    stopped = decoder.write(tokens_BT, stop_token=stop, mask_BT=mask_BT, max_tokens=8)
    assert stopped[0] == written[0][: written[0].index(stop)]
    assert decoder.write(tokens_BT, stop_token=-1, max_tokens=0) == [[], []]


def test_new_rows_lie_near_the_mean_and_differ() -> None:
    table_VD = torch.randn(50, 32)
    grown_VD = grow_table(table_VD, 55, seed=1)
    assert torch.equal(grown_VD[:50], table_VD)
    assert (grown_VD[50:] - table_VD.mean(0)).abs().max() < 0.1
    assert len({tuple(row) for row in grown_VD[50:].tolist()}) == 5
    assert torch.equal(grow_table(table_VD, 55, seed=1), grown_VD)
    assert not torch.equal(grow_table(table_VD, 55, seed=2), grown_VD)


def test_the_report_names_new_and_padded_rows() -> None:
    tensors = published(lively())
    table = tensors["transformer.wte.weight"]
    tensors["transformer.wte.weight"] = torch.cat([table, torch.full((14, 32), 9.0)])
    tensors |= {"transformer.h.0.attn.bias": torch.ones(1, 1, 24, 24)}
    ours = DecoderLM(SMALL)
    report = load_gpt2(ours, Published("a folder", CONFIG, tensors))
    assert report.new == ("transformer.wte.weight[50:55]",)
    assert report.dropped == ("transformer.h.0.attn.bias", "transformer.wte.weight[50:64]")
    assert ours.transformer.wte.weight.shape == (55, 32)
    assert ours.transformer.wte.weight.max() < 5


def test_names_may_lack_their_first_part_and_numbers_may_be_bfloat16() -> None:
    tensors = {
        name.removeprefix("transformer."): tensor.bfloat16()
        for name, tensor in published(lively()).items()
    }
    ours = DecoderLM(SMALL)
    report = load_gpt2(ours, Published("a folder", CONFIG, tensors))
    assert len(report.loaded) == len(ours.state_dict())
    expected = tensors["h.1.mlp.c_fc.weight"].float()
    assert torch.equal(ours.transformer.h[1].mlp.c_fc.weight, expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_head": 2}, "n_head 2"),
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"activation_function": "relu"}, "activation_function 'relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx True"),
    ],
)
def test_another_network_is_refused(change: dict[str, object], sentence: str) -> None:
    tensors = published(lively())
    with pytest.raises(ValueError, match=sentence):
        load_gpt2(DecoderLM(SMALL), Published("a folder", CONFIG | change, tensors))


def test_another_vocabulary_or_head_is_refused() -> None:
    tensors = published(lively())
    table = tensors["transformer.wte.weight"]
    for replaced, sentence in [
        ({"transformer.wte.weight": table[:49]}, "expected at least 50 rows"),
        ({"transformer.wte.weight": table[0]}, "expected at least 50 rows"),
        ({"lm_head.weight": table + 1}, "tied"),
        ({"transformer.wpe.weight": torch.zeros(8, 32)}, r"\(8, 32\), expected \(24, 32\)"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            load_gpt2(DecoderLM(SMALL), Published("a folder", CONFIG, tensors | replaced))
    del tensors["transformer.wte.weight"]
    with pytest.raises(ValueError, match="shape None"):
        load_gpt2(DecoderLM(SMALL), Published("a folder", CONFIG, tensors))
