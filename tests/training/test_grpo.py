"""GRPO's losses against closed forms, and its draws against the chances they come from."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from small_run import network_of  # noqa: E402

from embervlm.models.configuration import EmberConfig  # noqa: E402
from embervlm.models.modeling import EmberNetwork  # noqa: E402
from embervlm.prompts import END  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import sampling  # noqa: E402
from embervlm.training.grpo import EPSILON, advantages, exact_kl, k3, surrogate  # noqa: E402
from embervlm.training.grpo_trainer import Requests  # noqa: E402
from embervlm.training.sampling import Read, draw, log_chances, read, uniform  # noqa: E402


def test_an_advantage_is_the_distance_from_the_group_in_deviations() -> None:
    found = advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]))
    deviation = math.sqrt(3) / 4
    torch.testing.assert_close(found[0], torch.tensor([1.0, -1, -1, 1]) * 0.5 / (0.5 + EPSILON))
    torch.testing.assert_close(
        found[1], torch.tensor([-0.25, -0.25, -0.25, 0.75]) / (deviation + EPSILON)
    )


@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1.0])
def test_a_group_of_equal_rewards_teaches_nothing(reward: float) -> None:
    assert advantages(torch.full((2, 7), reward)).abs().max() < 1e-6


def test_on_a_bandit_the_gradient_is_the_policy_gradient() -> None:
    # J = sum_k p_k r_k, so dJ / d theta_k = p_k (r_k - J).
    theta_K = torch.tensor([0.3, -0.5, 1.1, 0.0], requires_grad=True)
    reward_K = torch.tensor([1.0, 0.2, 0.0, 0.7])
    log_p_K = theta_K.log_softmax(-1)
    p_K = log_p_K.detach().exp()
    mean = (p_K * reward_K).sum()
    loss_K, _ = surrogate(log_p_K, log_p_K.detach(), reward_K - mean, clip=0.2)
    (p_K * loss_K).sum().backward()  # the mean over all that can be drawn
    torch.testing.assert_close(theta_K.grad, -p_K * (reward_K - mean))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.19, 1.0, -1.19, False),
        (1.5, 1.0, -1.2, True),
        (0.5, 1.0, -0.5, False),
        (0.5, -1.0, 0.8, True),
        (1.5, -1.0, 1.5, False),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_the_ratio_is_clipped_where_it_would_gain(
    ratio: float, advantage: float, loss: float, is_clipped: bool
) -> None:
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    found, clipped = surrogate(new, torch.zeros(1), torch.tensor([advantage]), clip=0.2)
    assert found.item() == pytest.approx(loss)
    assert clipped.item() == is_clipped
    found.sum().backward()
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(0.0 if is_clipped else -ratio * advantage)


def test_the_estimate_is_the_divergence_on_average() -> None:
    new_C, reference_C = torch.randn(2, 6, generator=torch.Generator().manual_seed(1)).log_softmax(
        -1
    )
    estimate_C = k3(new_C, reference_C)
    assert (estimate_C >= 0).all()
    torch.testing.assert_close((new_C.exp() * estimate_C).sum(), exact_kl(new_C, reference_C))
    assert k3(new_C, new_C).abs().max() == 0
    assert exact_kl(new_C, new_C) == 0


# --- draws ----------------------------------------------------------------------------------------


@pytest.fixture
def network(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> EmberNetwork:
    """Return a tiny network whose answers differ, and of at most ten tokens."""
    monkeypatch.setattr(sampling, "MAX_OWN", 10)
    found = network_of(tokenizer).eval()
    torch.nn.init.normal_(found.heads.subset_features.weight, 0, 0.3)
    torch.nn.init.normal_(found.decoder.widen.weight, 0, 0.5)
    torch.nn.init.normal_(found.decoder.copy_query.weight, 0, 0.5)
    return found


def batch_of(config: EmberConfig, tokenizer: Tokenizer, rows: slice) -> dict[str, torch.Tensor]:
    import random

    requests = Requests(config, tokenizer, 1, "validation", 6)
    batch = requests.batch(requests.items(0)[rows], random.Random(0))
    return {**batch, "ngrams": torch.zeros(len(batch["tokens"]), 32)}


@torch.no_grad()
def test_an_answer_does_not_depend_on_the_batch(
    network: EmberNetwork, tokenizer: Tokenizer
) -> None:
    def drawn(rows: slice, keys: range) -> list[tuple[int, str]]:
        found = read(network, batch_of(network.config, tokenizer, rows))
        one = draw(network, found, tokenizer, uniform(5, keys, 3, 192))
        return list(zip(one.sets_BG.flatten().tolist(), one.texts(tokenizer), strict=True))

    together = drawn(slice(0, 6), range(6))
    apart = [one for i in range(6) for one in drawn(slice(i, i + 1), range(i, i + 1))]
    assert together == apart
    assert len(set(together)) > 12
    assert drawn(slice(0, 6), range(1, 7)) != together


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_chances_of_what_was_drawn_are_those_it_was_drawn_by(
    network: EmberNetwork, tokenizer: Tokenizer, temperature: float
) -> None:
    found = read(network, batch_of(network.config, tokenizer, slice(0, 3)), temperature)
    one = draw(network, found, tokenizer, uniform(2, range(3), 4, 192), temperature)
    every = found.repeated(4)
    told_NT = log_chances(network, every, one.written_NT, one.own_NT, temperature)
    cache = network.decoder.begin(every.states_BSD, every.mask_BS, every.source_BS)
    for t in range(1, one.written_NT.shape[1]):
        log_p_NV = network.decoder.step(
            one.written_NT[:, t - 1 : t], cache, network.text.embed.weight, temperature
        )
        torch.testing.assert_close(log_p_NV.logsumexp(-1), torch.zeros(12), atol=1e-4, rtol=0)
        step_N = log_p_NV.gather(-1, one.written_NT[:, t : t + 1])[:, 0]
        torch.testing.assert_close(
            told_NT[:, t - 1], step_N * one.own_NT[:, t], atol=1e-4, rtol=1e-4
        )


@torch.no_grad()
def test_the_likeliest_answer_is_what_the_decoder_writes(
    network: EmberNetwork, tokenizer: Tokenizer
) -> None:
    found = read(network, batch_of(network.config, tokenizer, slice(0, 3)))
    one = draw(network, found, tokenizer, None)
    log_p_NTV = network.decoder(
        one.written_NT[:, :-1],
        found.states_BSD,
        found.mask_BS,
        found.source_BS,
        network.text.embed.weight,
    )
    own_NT = one.own_NT[:, 1:]
    assert torch.equal(log_p_NTV.argmax(-1)[own_NT], one.written_NT[:, 1:][own_NT])
    assert torch.equal(one.sets_BG[:, 0], found.sets_BC.argmax(-1))
    # Nothing is written behind the end.
    ends_NT = one.written_NT == tokenizer.specials[END]
    assert not (ends_NT[:, :-1] & one.own_NT[:, 1:]).any()


@torch.no_grad()
def test_sets_are_drawn_as_often_as_their_chances_say(
    network: EmberNetwork, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MAX_OWN", 1)
    found = read(network, batch_of(network.config, tokenizer, slice(0, 1)))
    sets_BC = torch.full((1, 32), -20.0)
    sets_BC[0, [1, 4, 16]] = torch.tensor([0.5, 0.3, 0.2]).log()
    found = Read(found.states_BSD, found.mask_BS, found.source_BS, sets_BC.log_softmax(-1))
    one = draw(network, found, tokenizer, uniform(3, [0], 2000, 192))
    shares_C = one.sets_BG[0].bincount(minlength=32) / 2000
    torch.testing.assert_close(
        shares_C[[1, 4, 16]], torch.tensor([0.5, 0.3, 0.2]), atol=0.035, rtol=0
    )
