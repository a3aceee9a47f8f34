"""GRPO's losses against closed forms, and its draws against the chances they come from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from small_run import network_of  # noqa: E402

from embervlm.models.configuration import EmberConfig  # noqa: E402
from embervlm.models.modeling import EmberNetwork  # noqa: E402
from embervlm.prompts import END  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import sampling  # noqa: E402
from embervlm.training.grpo import (  # noqa: E402
    EPSILON,
    advantages,
    advantages_over_value,
    choice_sums,
    exact_kl,
    grpo_sums,
    k3,
    surrogate,
    value_loss,
)
from embervlm.training.grpo_trainer import Requests  # noqa: E402
from embervlm.training.sampling import (  # noqa: E402
    Read,
    draw,
    log_chances,
    numbers_for,
    read,
    uniform,
)


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


def of_two(theta_3: torch.Tensor) -> torch.Tensor:
    """Return the loss of two outcomes, drawn three times, whose policy and value are `theta_3`."""
    log_p_BC, value_B = theta_3[:2].log_softmax(-1)[None], theta_3[2:].sigmoid()
    rewards_BG = torch.tensor([[1.0, 0.0, 0.7]], dtype=torch.float64)
    old_BG = torch.tensor([[-0.5, -0.9, -0.6]], dtype=torch.float64)
    reference_BC = torch.tensor([[0.3, 0.7]], dtype=torch.float64).log()
    found = choice_sums(
        "set", log_p_BC, torch.tensor([[0, 1, 0]]), rewards_BG - 0.4, reference_BC,
        clip=0.5, old_BG=old_BG,
    )  # fmt: skip
    assert found["clipped_set"] == 0
    return found["set"] + 0.3 * found["kl_set"] + 0.5 * value_loss(value_B, rewards_BG).sum()


def test_on_two_outcomes_the_gradient_is_the_difference_quotient() -> None:
    theta_3 = torch.tensor([0.2, -0.3, 0.4], dtype=torch.float64, requires_grad=True)
    of_two(theta_3).backward()
    with torch.no_grad():
        steps_33 = 1e-6 * torch.eye(3, dtype=torch.float64)
        slopes = [(of_two(theta_3 + s) - of_two(theta_3 - s)) / 2e-6 for s in steps_33]
    assert theta_3.grad is not None
    assert theta_3.grad.abs().min() > 0.01
    torch.testing.assert_close(theta_3.grad, torch.stack(slopes), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("baseline", ["group", "value"])
def test_either_baseline_raises_the_reward_of_a_bandit(baseline: str) -> None:
    drawn = torch.Generator().manual_seed(4)
    worth_C = torch.tensor([0.1, 0.9, 0.4, 0.0, 0.5, 0.2])
    theta_C = torch.zeros(6, requires_grad=True)
    value_B = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([theta_C, value_B], lr=0.5)
    earned = []
    for _ in range(150):
        log_p_BC = theta_C.log_softmax(-1)[None]
        chosen_BG = torch.multinomial(log_p_BC.detach().exp(), 8, True, generator=drawn)
        rewards_BG = worth_C[chosen_BG]
        expected_B = value_B.sigmoid()
        over_BG = {
            "group": advantages(rewards_BG),
            "value": advantages_over_value(rewards_BG, expected_B.detach()),
        }[baseline]
        found = choice_sums("set", log_p_BC, chosen_BG, over_BG, log_p_BC.detach(), clip=0.2)
        optimizer.zero_grad()
        ((found["set"] + value_loss(expected_B, rewards_BG).sum()) / 8).backward()
        optimizer.step()
        earned.append(float(rewards_BG.mean()))
    assert sum(earned[:5]) / 5 < 0.6
    assert sum(earned[-20:]) / 20 > 0.8
    # The value follows what is earned.
    assert value_B.sigmoid().item() == pytest.approx(sum(earned[-20:]) / 20, abs=0.15)


def test_the_gradient_of_a_whole_network_is_the_difference_quotient(tokenizer: Tokenizer) -> None:
    network = network_of(tokenizer, "bitmar").eval()
    torch.nn.init.normal_(network.heads.primary.weight, 0, 0.3)
    batch = batch_of(network.config, tokenizer, slice(0, 3))
    with torch.no_grad():
        found = read(network, batch)
        one = draw(network, found, tokenizer, uniform(2, range(3), 4, numbers_for(network)))
    drawn = torch.Generator().manual_seed(5)
    rewards_BG = torch.rand(3, 4, generator=drawn)
    batch |= {
        "sets": one.sets_BG, "written": one.written_NT, "own": one.own_NT, "first": one.first_BG,
        "advantage_set": rewards_BG - 0.5, "advantage_primary": 0.6 - rewards_BG,
        "advantage_words": rewards_BG.flatten(), "worth": rewards_BG,
        "reference_sets": found.sets_BC,
        "reference_words": torch.zeros(12, one.own_NT.shape[1] - 1),
        "reference_primary": torch.randn(3, 6, generator=drawn).log_softmax(-1),
        "old_primary": found.first_BO.gather(-1, one.first_BG) - 0.05,
    }  # fmt: skip
    names = ("primary", "kl_primary", "value", "set")

    def loss() -> torch.Tensor:
        sums = grpo_sums(network, batch, None, clip=0.2, temperature=1.0)
        return torch.stack([sums[name] for name in names]).double().sum()

    heads = network.heads
    loss().backward()
    with torch.no_grad():
        for bias, places in ((heads.primary.bias, (0, 5)), (heads.value.bias, (0,))):
            for place in places:
                ends = []
                for step in (0.01, -0.02):
                    bias[place] += step
                    ends.append(loss().item())
                bias[place] += 0.01
                slope = (ends[0] - ends[1]) / 0.02
                assert bias.grad[place].item() == pytest.approx(slope, rel=0.02, abs=2e-3)


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


@torch.no_grad()
def test_whom_to_send_first_is_drawn_by_its_own_chances(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MAX_OWN", 1)
    network = network_of(tokenizer, "bitmar").eval()
    numbers = numbers_for(network)
    assert numbers == network.config.decoder_positions + 1
    found = read(network, batch_of(network.config, tokenizer, slice(0, 1)))
    chances_O = torch.tensor([0.4, 0.0, 0.25, 0.0, 0.05, 0.3])
    found = replace(found, first_BO=chances_O.log()[None])
    one = draw(network, found, tokenizer, uniform(3, [0], 2000, numbers))
    shares_O = one.first_BG[0].bincount(minlength=6) / 2000
    torch.testing.assert_close(shares_O, chances_O, atol=0.035, rtol=0)
    # Drawn by a number of its own: it says nothing of the set.
    sets_G, is_last_G = one.sets_BG[0].float(), (one.first_BG[0] == 5).float()
    assert abs(torch.corrcoef(torch.stack([sets_G, is_last_G]))[0, 1]) < 0.08
    assert draw(network, found, tokenizer, None).first_BG.tolist() == [[0]]
    plain = network_of(tokenizer).eval()
    found = read(plain, batch_of(plain.config, tokenizer, slice(0, 1)))
    assert found.first_BO is found.value_B is None
    assert draw(plain, found, tokenizer, None).first_BG is None
