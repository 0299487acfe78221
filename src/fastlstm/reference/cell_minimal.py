# SPDX-License-Identifier: BSD-3-Clause
"""Cells whose gates do not see the state: minGRU and minLSTM.

Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs all we needed?", 2024, sections 3.1 and 3.2, without
their variant in logarithms (whose candidate has another activation).  All gates of a sequence are one
product, and the state is a scan.
"""

from typing import NamedTuple

import numpy as np

from .activations import log_sigmoid, sigmoid
from .cell_base import (
    Array,
    Grads,
    Noise,
    State,
    Weights,
    add_bias_grads,
    product_back,
    split_gates,
    total_bias,
)
from .config import Config


class _Kept(NamedTuple):
    x: Array
    h: Array  # before the step
    a: Array


class MinGRUCell:
    """``z = sigmoid(a_z)``, ``h_t = (1 - z) * h_{t-1} + z * a_h``, with ``a_z, a_h = W x_t + b``.

    z weighs the new value, as in the paper; the z of a GRU weighs the old one.
    """

    def __init__(self, config: Config, weights: Weights) -> None:
        self.weights = weights

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, _Kept]:
        """One step."""
        (h,) = state
        a = x @ self.weights["weight_ih"].T + total_bias(self.weights)
        a_z, a_h = split_gates(a, 2)
        return (sigmoid(-a_z) * h + sigmoid(a_z) * a_h,), _Kept(x, h, a)

    def step_back(self, kept: _Kept, dstate: State, grads: Grads) -> tuple[Array, State]:
        """The same step's gradient."""
        (dh,) = dstate
        a_z, a_h = split_gates(kept.a, 2)
        z, keep = sigmoid(a_z), sigmoid(-a_z)
        da = np.concatenate([dh * (a_h - kept.h) * z * keep, dh * z], axis=-1)
        add_bias_grads(grads, da)
        return product_back(da, kept.x, "weight_ih", self.weights, grads), (dh * keep,)


class MinLSTMCell:
    """``f, i = sigmoid(a_f), sigmoid(a_i)``, ``h_t = f / (f + i) * h_{t-1} + i / (f + i) * a_h``.

    ``a_f, a_i, a_h = W x_t + b``.  The two weights are computed as sigmoid(+-d) with d = log f - log i, which
    is the same and exists where both gates underflow.
    """

    def __init__(self, config: Config, weights: Weights) -> None:
        self.weights = weights

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, _Kept]:
        """One step."""
        (h,) = state
        a = x @ self.weights["weight_ih"].T + total_bias(self.weights)
        a_f, a_i, a_h = split_gates(a, 3)
        d = log_sigmoid(a_f) - log_sigmoid(a_i)
        return (sigmoid(d) * h + sigmoid(-d) * a_h,), _Kept(x, h, a)

    def step_back(self, kept: _Kept, dstate: State, grads: Grads) -> tuple[Array, State]:
        """The same step's gradient."""
        (dh,) = dstate
        a_f, a_i, a_h = split_gates(kept.a, 3)
        d = log_sigmoid(a_f) - log_sigmoid(a_i)
        keep, take = sigmoid(d), sigmoid(-d)
        dd = dh * (kept.h - a_h) * keep * take
        da = np.concatenate([dd * sigmoid(-a_f), -dd * sigmoid(-a_i), dh * take], axis=-1)
        add_bias_grads(grads, da)
        return product_back(da, kept.x, "weight_ih", self.weights, grads), (dh * keep,)
