# SPDX-License-Identifier: BSD-3-Clause
"""The gated recurrent unit, in both of its forms.  Gates stand in the order r (reset), z (update), n (new).

Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
2014: equations 5 to 8, where the reset gate acts on h before the recurrent product (``reset_after=False``,
and the ONNX operator's ``linear_before_reset=0``).  The first version of the same paper has it act on the
product, and so have cuDNN, ``torch.nn.GRU`` and ``linear_before_reset=1`` (``reset_after=True``)::

    r, z = f(clip(a_r)), f(clip(a_z))                with a = W x_t + b_ih + U h_{t-1} + b_hh
    n = g(clip(W_n x_t + b_n + r * (U_n h_{t-1} + b_rn)))      reset_after
    n = g(clip(W_n x_t + b_n + U_n (r * h_{t-1}) + b_rn))      not reset_after
    h_t = (1 - z) * n + z * h_{t-1}
"""

from typing import NamedTuple

import numpy as np

from .cell_base import (
    Array,
    Grads,
    Noise,
    State,
    Weights,
    activate,
    activate_back,
    add_grad,
    product_back,
    split_gates,
)
from .config import Config


class _Kept(NamedTuple):
    x: Array
    h: Array  # before the step
    a_r: Array
    a_z: Array
    a_n: Array
    r: Array
    z: Array
    n: Array
    from_h: Array  # reset_after: U_n h + b_rn


class GRUCell:
    """One layer in one direction; the formulas are those of the module."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.reset_after, self.limit = config.reset_after, config.gate_clip
        self.f, self.g = config.functions()
        self.weights = weights
        H = weights["weight_hh"].shape[1]
        # The recurrent weights of r and z, and of n, are used at different places.
        self.parts = {"rz": weights["weight_hh"][: 2 * H], "n": weights["weight_hh"][2 * H :]}
        self.biases = [weights.get(kind, np.zeros(3 * H, weights["weight_hh"].dtype)) for kind in _BIASES]

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, _Kept]:
        """One step."""
        (h,) = state
        x_r, x_z, x_n = split_gates(x @ self.weights["weight_ih"].T + self.biases[0], 3)
        b_r, b_z, b_n = split_gates(self.biases[1], 3)
        h_r, h_z = split_gates(h @ self.parts["rz"].T, 2)
        a_r, a_z = x_r + (h_r + b_r), x_z + (h_z + b_z)
        r, z = activate(self.f, a_r, self.limit), activate(self.f, a_z, self.limit)
        from_h = (h if self.reset_after else r * h) @ self.parts["n"].T + b_n
        a_n = x_n + (r * from_h if self.reset_after else from_h)
        n = activate(self.g, a_n, self.limit)
        return ((1 - z) * n + z * h,), _Kept(x, h, a_r, a_z, a_n, r, z, n, from_h)

    def step_back(self, kept: _Kept, dstate: State, grads: Grads) -> tuple[Array, State]:
        """The same step's gradient."""
        (dh,) = dstate
        x, h, r, z, n = kept.x, kept.h, kept.r, kept.z, kept.n
        da_z = activate_back(self.f, kept.a_z, self.limit, dh * (h - n))
        da_n = activate_back(self.g, kept.a_n, self.limit, dh * (1 - z))
        dh_before = dh * z
        # From n through the recurrent product, which the reset gate follows or precedes.
        dfrom_h = da_n * r if self.reset_after else da_n
        dread = dfrom_h @ self.parts["n"]
        dr = da_n * kept.from_h if self.reset_after else dread * h
        dh_before = dh_before + (dread if self.reset_after else dread * r)
        da_r = activate_back(self.f, kept.a_r, self.limit, dr)
        da_rz = np.concatenate([da_r, da_z], axis=-1)
        dh_before = dh_before + da_rz @ self.parts["rz"]

        read = h if self.reset_after else r * h
        grads["weight_hh"] += np.concatenate([da_rz.T @ h, dfrom_h.T @ read])
        add_grad(grads, "bias_hh", np.concatenate([da_rz, dfrom_h], axis=-1))
        da = np.concatenate([da_rz, da_n], axis=-1)
        add_grad(grads, "bias_ih", da)
        return product_back(da, x, "weight_ih", self.weights, grads), (dh_before,)


_BIASES = ("bias_ih", "bias_hh")
