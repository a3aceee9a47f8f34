"""The losses of GRPO: group relative policy optimisation (DeepSeekMath, Shao et al. 2024, 4.1).

Of each request a group of G answers is drawn. An answer is worth more or less than its group,

    A_i = (r_i - mean(r)) / (std(r) + EPSILON)

and what was drawn becomes likelier where A > 0, rarer where A < 0, by the clipped surrogate of PPO
(Schulman et al. 2017, eq. 7), with ratio = p / p_old:

    - min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)

An answer is a set, then words. The set comes first and the words cannot change what it earned, so
each is credited with what comes after it ("reward to go"): the set with the sum of all rewards,
the words with those of `rewards.OF_WORDS`. The set is not one token among fifty: its surrogate is a
mean over answers, that of the words a mean over all tokens of the step (DAPO, Yu et al. 2025, 3.3),
and both count alike.

A network that reasons in steps (`bitmar`) draws one thing more, whom to send first, its policy over
six outcomes. It is paid by whether that robot is in the right set, and trained like the set.

The group is one baseline. The other is the network's value head (actor-critic: Sutton and Barto
2018, 13.5, of a single step), one number for the whole answer, 0 to 1, learnt on what answers earn:

    R = (r + r_first) / 2      A = R - value      loss of the value = (value - R)^2

Each choice of the answer then has the same A; a group need not differ to teach, and nothing is
divided.

All are held near the network that the stage began with, the reference: the words by the estimator
k3 = p_ref / p - log(p_ref / p) - 1 of each drawn token (Schulman 2020, "Approximating KL
divergence"), set and outcome by the sum over all 32 or 6, which is the KL divergence itself.

Axes: B requests, G answers to each, N = B G, T tokens, C sets (or outcomes).
"""

from __future__ import annotations

from torch import Tensor

from embervlm.models.modeling import EmberNetwork
from embervlm.training.sampling import log_chances, read

# DeepSeekMath divides by the plain deviation; a group without spread then has none to divide by.
EPSILON = 1e-4

Batch = dict[str, Tensor]


def advantages(rewards_BG: Tensor) -> Tensor:
    """Return how far each reward is above its group's mean, in deviations of the group.

    All zero where a group's rewards are the same. Computed in float64: the mean of equal numbers
    must be that number.
    """
    rewards_BG = rewards_BG.double()
    centred_BG = rewards_BG - rewards_BG.mean(-1, keepdim=True)
    spread_B1 = rewards_BG.std(-1, correction=0, keepdim=True)
    return (centred_BG / (spread_B1 + EPSILON)).float()


def advantages_over_value(rewards_BG: Tensor, value_B: Tensor) -> Tensor:
    """Return how far each reward is above what the network thought its answer was worth."""
    return rewards_BG - value_B[:, None]


def value_loss(value_B: Tensor, rewards_BG: Tensor) -> Tensor:
    """Return the squared error of a value for each answer; it is least at the mean reward."""
    return (value_B[:, None] - rewards_BG).square()


def surrogate(new: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return the loss of each choice, and where it is clipped (and so has no gradient).

    `new` and `old` are log-probabilities of what was chosen, of the same shape.
    """
    ratio = (new - old).exp()
    plain, clipped = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    return -plain.minimum(clipped), clipped < plain


def k3(new: Tensor, reference: Tensor) -> Tensor:
    """Return the estimate of KL(new || reference) at each chosen token: 0 or more, 0 where they
    agree, and right on average over what `new` chooses."""
    log_ratio = reference - new
    return log_ratio.exp() - log_ratio - 1


def exact_kl(new_BC: Tensor, reference_BC: Tensor) -> Tensor:
    """Return KL(new || reference) of two distributions in logarithms, a number a row."""
    return (new_BC.exp() * (new_BC - reference_BC)).sum(-1)


def choice_sums(
    name: str,
    log_p_BC: Tensor,
    chosen_BG: Tensor,
    advantage_BG: Tensor,
    reference_BC: Tensor,
    *,
    clip: float,
    old_BG: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return surrogate, divergence and number of clipped choices of one distribution, by `name`.

    `old_BG` are the log-probabilities of what was chosen when it was drawn; None: the present ones.
    """
    new_BG = log_p_BC.gather(-1, chosen_BG)
    loss_BG, clipped_BG = surrogate(
        new_BG, new_BG.detach() if old_BG is None else old_BG, advantage_BG, clip
    )
    return {
        name: loss_BG.sum(),
        f"kl_{name}": exact_kl(log_p_BC, reference_BC).sum(),
        f"clipped_{name}": clipped_BG.sum(),
    }


def grpo_sums(
    network: EmberNetwork,
    batch: Batch,
    teacher: EmberNetwork | None,
    clip: float,
    temperature: float,
) -> dict[str, Tensor]:
    """Return the sums of surrogates and divergences, and how many choices are clipped.

    A batch of drawn answers holds, beside the request's tensors and `ngrams`: `sets` (B, G) and
    `written`, `own` (N, T) as `sampling.Drawn` has them, `advantage_set` (B, G),
    `advantage_words` (N,), the log-probabilities `reference_sets` (B, C) and `reference_words`
    (N, T - 1), and those from when it was drawn, `old_set` (B, G) and `old_words` (N, T - 1),
    unless it is trained on but once: then they are the present ones. Of a network that reasons in
    steps also `first`, `advantage_primary`, `reference_primary` and `old_primary` for whom to send
    first, and `worth` (B, G), which the value learns.
    """
    found = read(network, batch, temperature)
    sets_BC, sets_BG = found.sets_BC, batch["sets"]
    own_NT = batch["own"]
    words_NT = log_chances(
        network, found.repeated(sets_BG.shape[1]), batch["written"], own_NT, temperature
    )
    weight_NT = own_NT[:, 1:].float()
    words_loss_NT, words_clipped_NT = surrogate(
        words_NT,
        batch.get("old_words", words_NT.detach()),
        batch["advantage_words"][:, None].expand_as(words_NT),
        clip,
    )
    sums = {
        **choice_sums(
            "set", sets_BC, sets_BG, batch["advantage_set"], batch["reference_sets"],
            clip=clip, old_BG=batch.get("old_set"),
        ),
        "words": (words_loss_NT * weight_NT).sum(),
        "kl_words": (k3(words_NT, batch["reference_words"]) * weight_NT).sum(),
        "clipped_words": (words_clipped_NT * weight_NT).sum(),
    }  # fmt: skip
    if found.first_BO is None or found.value_B is None:
        return sums
    return {
        **sums,
        **choice_sums(
            "primary", found.first_BO, batch["first"], batch["advantage_primary"],
            batch["reference_primary"], clip=clip, old_BG=batch.get("old_primary"),
        ),
        "value": value_loss(found.value_B, batch["worth"]).sum(),
    }  # fmt: skip


def grpo_counts(batch: Batch) -> dict[str, Tensor]:
    """Return the number of answers, of their own tokens, and of requests."""
    answers, words = batch["sets"].new_tensor(batch["sets"].numel()), batch["own"][:, 1:].sum()
    requests = answers.new_tensor(len(batch["sets"]))
    return {
        **dict.fromkeys(("set", "clipped_set", "primary", "clipped_primary", "value"), answers),
        **dict.fromkeys(("words", "kl_words", "clipped_words"), words),
        **dict.fromkeys(("kl_set", "kl_primary"), requests),
    }
