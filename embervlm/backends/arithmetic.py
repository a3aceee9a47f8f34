"""What a transformer is made of, in NumPy, for the backends that have no graph of their own for it.

Axes: T what asks, S what is read, D width, H heads.
"""

from __future__ import annotations

import math

import numpy as np

from embervlm.backends.base import Array

_ERF_COEFFICIENTS = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def softmax(logits: Array) -> Array:
    """Return probabilities along the last axis."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: Array = shares / shares.sum(-1, keepdims=True)
    return probabilities


def layer_norm(x: Array, weight_D: Array, bias_D: Array, epsilon: float) -> Array:
    """Return the rows with mean 0 and variance 1, scaled and shifted."""
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    result: Array = centred / spread * weight_D + bias_D
    return result


def attend(q_TD: Array, k_SD: Array, v_SD: Array, heads: int, *, is_causal: bool = False) -> Array:
    """Return what each row reads (T, D); with `is_causal` row t reads rows 0 to t."""
    T, D = q_TD.shape
    q, k, v = (x.reshape(len(x), heads, D // heads).transpose(1, 0, 2) for x in (q_TD, k_SD, v_SD))
    scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(D // heads))
    if is_causal:
        scores = np.where(np.tri(T, len(k_SD), dtype=bool), scores, np.float32(-np.inf))
    read: Array = (softmax(scores) @ v).transpose(1, 0, 2).reshape(T, D)
    return read


def gelu(x: Array) -> Array:
    """Exact GELU; erf by Abramowitz and Stegun 7.1.26, error below 1.5e-7."""
    z = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = np.zeros_like(t)
    for coefficient in reversed(_ERF_COEFFICIENTS):
        series = (series + np.float32(coefficient)) * t
    erf = np.sign(x) * (1.0 - series * np.exp(-z * z))
    result: Array = (0.5 * x * (1.0 + erf)).astype(np.float32)
    return result
