"""The space of photos and words: how it is judged, that it is learnt, and that nothing else is."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_run import network_of  # noqa: E402

from embervlm.data.photos import TABLE, load_photos  # noqa: E402
from embervlm.export.gguf import checkpoint_of  # noqa: E402
from embervlm.models.modeling import EmberNetwork, load_network, save_network  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import matching  # noqa: E402
from embervlm.training.matching import Captioned, Settings, figures, fit, with_match  # noqa: E402

QUICK = Settings(width=8, steps=150, rate=1e-2)


def pairs_of(photos: int, seed: int) -> Captioned:
    """Photos and two captions of each, which know the same four things about it, among noise."""
    known = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 24, generator=known), torch.randn(4, 40, generator=known)
    drawn = torch.Generator().manual_seed(seed)
    about_N4 = torch.randn(photos, 4, generator=drawn)
    photo_C = torch.arange(photos).repeat_interleave(2)
    seen_ND = about_N4 @ maps[0] + 0.5 * torch.randn(photos, 24, generator=drawn)
    read_CD = about_N4[photo_C] @ maps[1] + 0.5 * torch.randn(2 * photos, 40, generator=drawn)
    return Captioned(seen_ND + 3, read_CD - 2, photo_C, seen_ND, read_CD)


def judged(held: Captioned, photo: torch.nn.Linear, words: torch.nn.Linear) -> dict[str, float]:
    with torch.no_grad():
        return figures(photo(held.photos_ND), words(held.words_CD), held.photo_C)


def test_figures_of_three_photos_by_hand() -> None:
    seen_NM = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    read_CM = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0], [-1.0, 1.0]])
    found = figures(seen_NM, read_CM, torch.tensor([0, 1, 0, 2]))
    half = 0.5**0.5
    # own: 1, 1, 0, half; the others: 0, -1, 0, 0, 1, 0, -half, half
    assert found["cosine_matched"] == pytest.approx((2 + half) / 4, abs=1e-4)
    assert found["cosine_mismatched"] == 0
    # The third caption lies nearer to another's photo; the fourth as near to one as to its own.
    assert found["recall_1"] == 0.5
    assert found["recall_5"] == 1
    assert found["chance_1"] == pytest.approx(1 / 3, abs=1e-4)
    assert (found["photos"], found["captions"]) == (3, 4)


def test_what_all_share_does_not_count_where_it_is_taken_away() -> None:
    drawn = torch.Generator().manual_seed(0)
    seen_NM, read_CM = (torch.randn(40, 8, generator=drawn) for _ in range(2))
    shared_M = torch.full((8,), 3.0)
    found = figures(seen_NM + shared_M, read_CM + shared_M, torch.arange(40))
    assert found["cosine_matched"] > 0.8
    assert abs(found["centred_matched"]) < 0.2
    assert found["recall_5"] < 0.4


def test_photos_that_were_not_trained_on_lie_near_their_own_captions() -> None:
    learnt, held = pairs_of(120, 1), pairs_of(60, 2)
    found = judged(held, *fit(learnt, QUICK))
    assert found["cosine_matched"] > 0.75
    assert found["cosine_mismatched"] < 0.35
    assert found["centred_matched"] > 0.6
    assert found["recall_5"] > 5 * found["chance_5"]


def test_each_setting_changes_what_is_learnt() -> None:
    learnt = pairs_of(40, 1)
    few = replace(QUICK, steps=3, batch=20)
    photo, words = fit(learnt, few)
    again = fit(learnt, few)
    assert torch.equal(photo.weight, again[0].weight) and torch.equal(words.bias, again[1].bias)
    changes = {
        "steps": 4, "batch": 10, "rate": 1e-3, "weight_decay": 0.0, "dropout": 0.0, "nearness": 2.0,
        "contrast": 1.0, "ceiling": 1.0, "shared": 0.0, "average": 0.0, "seed": 2,
    }  # fmt: skip
    for name, value in changes.items():
        other, _ = fit(learnt, replace(few, **{name: value}))
        assert not torch.equal(photo.weight, other.weight), name
    assert fit(learnt, replace(few, width=4))[0].out_features == 4


def test_the_reader_s_own_space_is_what_was_judged_before(tokenizer: Tokenizer) -> None:
    """Without projections: the photo's token, and the mean over the words' states."""
    network = network_of(tokenizer, "bitmar").eval()
    tokens_BT = torch.tensor([[5, 6, 7], [8, 9, 0]])
    mask_BT = tokens_BT > 0
    features_BPC = torch.randn(2, 4, 320)
    blank_B = torch.zeros(2, dtype=torch.bool)
    with torch.no_grad():
        encoded = network.encode(
            tokens_BT, mask_BT, features_BPC, torch.rand(2, 10), blank_B, blank_B
        )
        read_BD = network.place_words(*network.read_alone(tokens_BT, mask_BT))
        seen_BD = network.place_photo(features_BPC)
        expected_BD = torch.nn.functional.normalize(network.image.summary(features_BPC), dim=-1)
    torch.testing.assert_close(read_BD, torch.nn.functional.normalize(encoded.pooled_BD, dim=-1))
    torch.testing.assert_close(seen_BD, expected_BD)


def everything_said(network: EmberNetwork) -> dict[str, torch.Tensor]:
    """All logits for requests with and without a photo, and the words that would come next."""
    drawn = torch.Generator().manual_seed(4)
    tokens_BT = torch.randint(1, 60, (4, 7), generator=drawn)
    mask_BT = torch.arange(7)[None] < torch.tensor([[7], [5], [3], [7]])
    has_B = torch.tensor([True, False, True, False])
    features = torch.randn(4, *network.config.features_shape, generator=drawn)
    scene_BE = torch.rand(4, 10, generator=drawn).softmax(-1)
    with torch.no_grad():
        encoded = network.encode(tokens_BT, mask_BT, features, scene_BE, has_B, has_B)
        said = network.decide(encoded, [[1, 2], [3], [], [4]])
        said["roles"] = network.roles(encoded, torch.zeros(4, 1, dtype=torch.int64))
        source_BS = torch.cat(
            [tokens_BT.new_full((4, network.config.image_tokens), -1), tokens_BT], dim=1
        )
        said["words"] = network.decoder(
            tokens_BT, encoded.states_BSD, encoded.mask_BS, source_BS, network.text.embed.weight
        )
    return said


def write_photos(folder: Path) -> None:
    """Write captions and features of a few photos of each split, as a vision run leaves them."""
    found = {}
    for split, count in (("train", 24), ("validation", 8)):
        found |= {
            p.file: split for p in [p for p in load_photos(TABLE) if p.split == split][:count]
        }
    (folder / "photos").mkdir(parents=True)
    with (folder / "photos" / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for n, name in enumerate(found):
            said = ["a dog runs", "a brown dog on grass"] if n % 2 else ["two boats at sea"]
            file.write(json.dumps({"file": name, "captions": said}) + "\n")
    kinds_NC = np.arange(len(found))[:, None] % 2 * np.linspace(1, -1, 320)[None]
    noise_NC = np.random.default_rng(0).normal(size=(len(found), 320))
    np.savez(
        folder / "features.npz",
        files=np.array(list(found)),
        features=(kinds_NC * 3 + noise_NC).astype(np.float16),
    )


def test_the_step_adds_a_space_and_changes_no_decision(
    tokenizer: Tokenizer, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    write_photos(tmp_path)
    network = network_of(tokenizer, "bitmar").eval()
    before = everything_said(network)
    save_network(network, tmp_path / "network.safetensors")
    words = [
        "matching", "--model", tmp_path / "network.safetensors", "--vision", tmp_path,
        "--tokenizer", tokenizer_file, "--shared", tmp_path, "--out", tmp_path / "match",
        "--width", 8, "--threads", 1,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    matching.main()
    after = load_network(tmp_path / "match" / "network.safetensors").eval()
    assert after.config == replace(network.config, match_width=8)
    for name, value in everything_said(after).items():
        assert torch.equal(value, before[name]), name
    weights = after.state_dict()
    assert set(weights) - set(network.state_dict()) == {
        f"match.{side}.{kind}" for side in ("photo", "words") for kind in ("weight", "bias")
    }
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name]), name
    # What the file says of validation is what the written network does.
    told = json.loads((tmp_path / "match" / "matching.json").read_text("utf-8"))
    held = matching.read_split(after, tokenizer, tmp_path, tmp_path, "validation")
    found = figures(held.seen_NM, held.read_CM, held.photo_C)
    assert told["after"] == pytest.approx(found, abs=2e-4)
    assert told["after"]["cosine_matched"] > told["before"]["cosine_matched"] + 0.2
    # Once more, over the space that is there.
    again = with_match(after, *fit(held, replace(QUICK, width=4, steps=2)))
    assert again.config.match_width == 4


def test_an_exported_file_is_without_it(tokenizer: Tokenizer) -> None:
    plain = network_of(tokenizer, "bitmar")
    network = with_match(plain, torch.nn.Linear(320, 8), torch.nn.Linear(64, 8))
    ours, theirs = (checkpoint_of(one, tokenizer, {}) for one in (network, plain))
    assert ours.config == theirs.config
    assert set(ours.weights) == set(theirs.weights)


def test_words_lie_where_they_do_alone(tokenizer: Tokenizer) -> None:
    network = with_match(
        network_of(tokenizer, "bitmar"), torch.nn.Linear(320, 8), torch.nn.Linear(64, 8)
    ).eval()
    tokens_BT = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    with torch.no_grad():
        together_BM = network.place_words(*network.read_alone(tokens_BT, tokens_BT > 0))
        alone_1M = network.place_words(
            *network.read_alone(tokens_BT[1:, :2], tokens_BT[1:, :2] > 0)
        )
    torch.testing.assert_close(together_BM[1:], alone_1M, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together_BM.norm(dim=-1), torch.ones(2))


def test_a_split_without_captions_is_a_sentence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_photos(tmp_path)
    with pytest.raises(ValueError, match="No photo of the split test has a caption in"):
        matching.read_split(network_of(tokenizer, "bitmar"), tokenizer, tmp_path, tmp_path, "test")
