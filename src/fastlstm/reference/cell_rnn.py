# SPDX-License-Identifier: BSD-3-Clause
"""The plain recurrent cell and the independently recurrent one.  Read cell_gru.py or cell_lstm.py next."""

from typing import NamedTuple

from .cell_base import (
    Array,
    Grads,
    Noise,
    State,
    Weights,
    activate,
    activate_back,
    add_bias_grads,
    add_grad,
    product_back,
    total_bias,
)
from .config import Config


class _Kept(NamedTuple):
    x: Array
    h: Array  # before the step
    a: Array


class RNNCell:
    """``h_t = f(clip(W x_t + U h_{t-1} + b))``: Elman, "Finding structure in time", 1990."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.weights, self.limit = weights, config.gate_clip
        (self.f,) = config.functions()
        self.bias = total_bias(weights)

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, _Kept]:
        """One step."""
        (h,) = state
        a = x @ self.weights["weight_ih"].T + h @ self.weights["weight_hh"].T + self.bias
        return (activate(self.f, a, self.limit),), _Kept(x, h, a)

    def step_back(self, kept: _Kept, dstate: State, grads: Grads) -> tuple[Array, State]:
        """The same step's gradient."""
        (dh,) = dstate
        da = activate_back(self.f, kept.a, self.limit, dh)
        add_bias_grads(grads, da)
        dx = product_back(da, kept.x, "weight_ih", self.weights, grads)
        return dx, (product_back(da, kept.h, "weight_hh", self.weights, grads),)


class IndRNNCell:
    """``h_t = f(W x_t + u * h_{t-1} + b)``: each unit sees its own past alone.

    Li, Li, Cook, Zhu & Gao, "Independently recurrent neural network (IndRNN): building a longer and deeper
    RNN", 2018.  u is ``weight_hh``, (H,).
    """

    def __init__(self, config: Config, weights: Weights) -> None:
        self.weights = weights
        (self.f,) = config.functions()

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, _Kept]:
        """One step."""
        (h,) = state
        a = x @ self.weights["weight_ih"].T + self.weights["weight_hh"] * h + total_bias(self.weights)
        return (self.f(a),), _Kept(x, h, a)

    def step_back(self, kept: _Kept, dstate: State, grads: Grads) -> tuple[Array, State]:
        """The same step's gradient."""
        (dh,) = dstate
        da = dh * self.f.slope(kept.a)
        add_bias_grads(grads, da)
        add_grad(grads, "weight_hh", da * kept.h)
        dx = product_back(da, kept.x, "weight_ih", self.weights, grads)
        return dx, (da * self.weights["weight_hh"],)
