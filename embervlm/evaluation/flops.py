"""Floating-point operations of one decision, worked out from the shapes of the network.

    count = decision_flops(config, tokens=32, mentions=1)
    count["vision"], sum(count.values())

A multiplication and an addition are two operations, as PyTorch's `FlopCounterMode` counts, against
which the tests hold this. Counted are the products of matrices and the convolutions; norms,
activations, sums and look-ups are not, and neither is the decoder, which writes nothing unless own
words are asked for. Quantised weights change what an operation costs, not how many there are.

Axes: T tokens of the request, N image tokens, S = N + T states, D width, W width of the fusion, R
width of a thought, M width of a slot, C image channels, E environments.
"""

from __future__ import annotations

from embervlm.fleet import ACTIONS, ENVIRONMENTS
from embervlm.models.configuration import EmberConfig
from embervlm.scenario import FLAGS, QUANTITIES

_ROBOTS, _SETS = 5, 32
# One score for each robot, each pair of them, and the empty set (`models.heads`).
_SET_FEATURES = _ROBOTS + _ROBOTS * (_ROBOTS - 1) // 2 + 1
_STEPS = 5


def decision_flops(
    config: EmberConfig,
    tokens: int,
    mentions: int = 0,
    *,
    with_photo: bool = True,
    slots_in_use: bool = True,
) -> dict[str, int]:
    """Return the operations of each part for one request with one photo, or without.

    Raises:
        ValueError: the network for photos is another one than MobileNetV2, whose shapes are known.
    """
    if config.vision != "mobilenet-v2":
        raise ValueError(
            f"The operations of {config.vision} are not known here; count mobilenet-v2's."
        )
    T, N, D, C, E = tokens, config.image_tokens, config.text_width, config.image_width, 10
    assert len(ENVIRONMENTS) == E
    parts = {"vision": 0}
    if with_photo:
        parts["vision"] = mobilenet_flops(config.image_size) + 2 * C * E
    places = N - 1
    parts["image tokens"] = 2 * places * C * D + 2 * E * D
    states = N + T
    if config.is_fused:
        states = T
        if config.fusion == "both":
            states += 2
            parts["image tokens"] += 2 * C * D + 2 * E * D
    parts["reader"] = config.text_layers * layer_flops(states, D, config.text_hidden)
    if config.embed_width:
        parts["reader"] += 2 * T * config.embed_width * D
    if config.is_fused:
        W = config.fusion_width
        both_ways = sum(
            2 * (Q * D * W + K * D * 2 * W + 2 * Q * K * W + Q * W * D) for Q, K in ((T, N), (N, T))
        )
        parts["fusion"] = config.fusion_layers * both_ways
    if config.memory_slots:
        M, K = config.memory_width, config.memory_slots if slots_in_use else 0
        parts["memory"] = 2 * (D * M + 2 * K * M + M * D)
    outputs = _SET_FEATURES + _ROBOTS + 1 + E + len(ACTIONS) + len(FLAGS) + 1
    if config.reasoning_width:
        R = config.reasoning_width
        parts["reasoning"] = _STEPS * 2 * (R * D + 2 * T * D + D * R + 2 * (2 * R * R) + R * D)
        outputs += 1
    roles = mentions * D * (len(QUANTITIES) + 1)
    parts["heads"] = 2 * (D * outputs + _SET_FEATURES * _SETS + roles)
    return parts


def layer_flops(states: int, width: int, hidden: int) -> int:
    """Return those of one reader layer: 2 S (4 D^2 + 2 D H) of matrices, 4 S^2 D of attention."""
    return 2 * states * (4 * width**2 + 2 * width * hidden) + 4 * states**2 * width


def mobilenet_flops(side: int) -> int:
    """Return those of MobileNetV2 1.0 without its last convolution, of a photo of `side` pixels."""
    from embervlm.models.vision import STAGES, STEM_CHANNELS

    side = -(-side // 2)
    total, width = 2 * 9 * 3 * STEM_CHANNELS * side**2, STEM_CHANNELS
    for expansion, channels, repeats, first_stride in STAGES:
        for index in range(repeats):
            hidden = width * expansion
            if expansion > 1:
                total += 2 * width * hidden * side**2
            if index == 0:
                side = -(-side // first_stride)
            total += 2 * 9 * hidden * side**2 + 2 * hidden * channels * side**2
            width = channels
    return total
