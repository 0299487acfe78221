# SPDX-License-Identifier: BSD-3-Clause
"""The minimal gated unit: a GRU whose reset and update gates are one.  Its gates are f (forget), n (new).

Zhou et al., "Minimal gated unit for recurrent neural networks", 2016: equations 9 to 11::

    f = sigmoid(W_f x_t + b_f + U_f h_{t-1} + b_rf)
    n = tanh(W_n x_t + b_n + U_n (f * h_{t-1}) + b_rn)
    h_t = (1 - f) * h_{t-1} + f * n
"""

from typing import NamedTuple

import numpy as np

from .activations import sigmoid, tanh
from .cell_base import Array, Grads, Noise, State, Weights, add_grad, product_back
from .config import Config


class _Kept(NamedTuple):
    x: Array
    h: Array  # before the step
    f: Array
    n: Array


class MGUCell:
    """One layer in one direction; the formulas are those of the module."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.weights, self.H = weights, weights["weight_hh"].shape[1]
        zero = np.zeros(2 * self.H, weights["weight_hh"].dtype)
        self.bias = weights.get("bias_ih", zero) + weights.get("bias_hh", zero)

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, _Kept]:
        """One step."""
        (h,) = state
        H, U = self.H, self.weights["weight_hh"]
        a = x @ self.weights["weight_ih"].T + self.bias
        f = sigmoid(a[..., :H] + h @ U[:H].T)
        n = tanh(a[..., H:] + (f * h) @ U[H:].T)
        return ((1 - f) * h + f * n,), _Kept(x, h, f, n)

    def step_back(self, kept: _Kept, dstate: State, grads: Grads) -> tuple[Array, State]:
        """The same step's gradient."""
        (dh,) = dstate
        x, h, f, n = kept
        H, U = self.H, self.weights["weight_hh"]
        da_n = dh * f * (1 - n * n)
        dread = da_n @ U[H:]  # of f * h
        da_f = (dh * (n - h) + dread * h) * f * (1 - f)
        grads["weight_hh"] += np.concatenate([da_f.T @ h, da_n.T @ (f * h)])
        da = np.concatenate([da_f, da_n], axis=-1)
        add_grad(grads, "bias_ih", da)
        add_grad(grads, "bias_hh", da)
        dh_before = dh * (1 - f) + dread * f + da_f @ U[:H]
        return product_back(da, x, "weight_ih", self.weights, grads), (dh_before,)
