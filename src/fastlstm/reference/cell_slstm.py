# SPDX-License-Identifier: BSD-3-Clause
"""sLSTM: exponential gates, a normaliser and a stabiliser.  Gates stand in the order i, f, z, o.

Beck et al., "xLSTM: extended long short-term memory", 2024, section 2.2, with the sigmoid forget gate::

    a_i, a_f, a_z, a_o = W x_t + R h_{t-1} + b            R block-diagonal: each head sees its own part of h
    m_t = max(a_i, log sigmoid(a_f) + m_{t-1})            the stabiliser: no exponential exceeds 1
    i, f = exp(a_i - m_t), exp(log sigmoid(a_f) + m_{t-1} - m_t)
    c_t = f * c_{t-1} + i * tanh(a_z)
    n_t = max(f * n_{t-1} + i, n_floor)
    h_t = sigmoid(a_o) * c_t / n_t

An element whose n is 0 has no past: its m_{t-1} counts as -infinity, so that m_t = a_i, i = 1 and f = 0.
(That is a fresh state, where the authors' code takes m_t = a_i too, if n is 0 in the whole batch; here each
element is looked at by itself.)  Their code has no floor; that of "FlashRNN" (Pöppel, Beck & Hochreiter 2024)
has n_floor = 1.

c and n are those of the unstabilised cell times exp(-m): h does not depend on it where the floor does not
act.  Gradients pass through m all the same, as the states may be asked for, or the floor act; at a tie, the
maximum is a_i.
"""

from typing import NamedTuple

import numpy as np

from .activations import log_sigmoid, sigmoid, sigmoid_slope, tanh, tanh_slope
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
    before: State
    a: Array  # (B, 4H)
    c: Array
    n: Array
    m: Array


class SLSTMCell:
    """One layer in one direction; the formulas are those of the module."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.weights, self.heads, self.n_floor = weights, config.heads, config.n_floor
        rows, width = weights["weight_hh"].shape
        self.blocks = weights["weight_hh"].reshape(4, config.heads, width, width)  # gate, head, to, from
        self.H = rows // 4

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, _Kept]:
        """One step."""
        h, c, n, m = state
        from_h = np.einsum("gkji,bki->bgkj", self.blocks, self._by_head(h)).reshape(-1, 4 * self.H)
        a = x @ self.weights["weight_ih"].T + from_h + total_bias(self.weights)
        a_i, a_f, a_z, a_o = split_gates(a, 4)
        has_past = n != 0
        log_f = np.where(has_past, log_sigmoid(a_f) + m, -np.inf)
        m_new = np.maximum(a_i, log_f)
        i, f = np.exp(a_i - m_new), np.exp(log_f - m_new)
        c_new = f * c + i * tanh(a_z)
        n_new = np.maximum(f * n + i, self.n_floor)
        return (sigmoid(a_o) * c_new / n_new, c_new, n_new, m_new), _Kept(x, state, a, c_new, n_new, m_new)

    def step_back(self, kept: _Kept, dstate: State, grads: Grads) -> tuple[Array, State]:
        """The same step's gradient."""
        h, c, n, m = kept.before
        dh, dc, dn, dm = dstate
        a_i, a_f, a_z, a_o = split_gates(kept.a, 4)
        has_past = n != 0
        log_f = np.where(has_past, log_sigmoid(a_f) + m, -np.inf)
        i, f = np.exp(a_i - kept.m), np.exp(log_f - kept.m)

        o, ratio = sigmoid(a_o), kept.c / kept.n
        dc = dc + dh * o / kept.n
        dn = (dn - dh * o * ratio / kept.n) * (f * n + i >= self.n_floor)
        # c and n are sums of what f keeps and what i lets in; both gates are exponentials.
        dlog_i = (dc * tanh(a_z) + dn) * i
        dlog_f = (dc * c + dn * n) * f
        dm = dm - dlog_i - dlog_f
        is_a_i = a_i >= log_f
        da_i = dlog_i + np.where(is_a_i, dm, 0)
        dlog_f = dlog_f + np.where(is_a_i, 0, dm)
        da_f = dlog_f * sigmoid(-a_f)
        da_z, da_o = dc * i * tanh_slope(a_z), dh * ratio * sigmoid_slope(a_o)

        da = np.concatenate([da_i, da_f, da_z, da_o], axis=-1)
        add_bias_grads(grads, da)
        by_block = da.reshape(-1, *self.blocks.shape[:3])
        dblocks = np.einsum("bgkj,bki->gkji", by_block, self._by_head(h))
        grads["weight_hh"] += dblocks.reshape(grads["weight_hh"].shape)
        dh_before = np.einsum("bgkj,gkji->bki", by_block, self.blocks).reshape(h.shape)
        dx = product_back(da, kept.x, "weight_ih", self.weights, grads)
        return dx, (dh_before, dc * f, dn * f, dlog_f)

    def _by_head(self, h: Array) -> Array:
        return h.reshape(len(h), self.heads, -1)
