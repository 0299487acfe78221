# SPDX-License-Identifier: BSD-3-Clause
"""A training step of the other cells in JAX: autodiff through the scan, products of all steps outside of it.

That is the faster of the two ways of the plain LSTM's race, where unrolling gained with one row alone.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.cells import Form
from benchmarks.data import Array
from benchmarks.peers import jax_peer
from benchmarks.peers.base import Case, Prepared, gradients

jax: Any = import_module("jax")
jnp: Any = import_module("jax.numpy")


class Peer(jax_peer.Peer):
    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        unrolls = (1, 4) if case.shape.B == 1 else (1,)
        return {
            f"jit, vjp of the scan, unroll={unroll}": partial(_prepared, case, unroll) for unroll in unrolls
        }


def _prepared(case: Case, unroll: int) -> Prepared:
    shape = case.shape
    weights = {name.removesuffix("_l0"): jax.device_put(value) for name, value in case.params.items()}
    lengths = shape.lengths()
    is_real = None
    if lengths is not None:
        is_real = jax.device_put((np.arange(shape.T)[:, None] < np.array(lengths))[:, :, None])
    arguments = (jax.device_put(case.x), weights, jax.device_put(case.dy), is_real)
    function = jax.jit(partial(_gradients, shape.form, unroll)).lower(*arguments).compile()

    def call() -> Any:
        return jax.block_until_ready(function(*arguments))

    def answer() -> tuple[Array, ...]:
        dx, grads = call()
        return gradients(
            case, np.asarray(dx), {f"{name}_l0": np.asarray(grad) for name, grad in grads.items()}
        )

    return Prepared(call, answer)


def _gradients(form: Form, unroll: int, x: Any, weights: Any, dy: Any, is_real: Any) -> Any:
    """Gradients of x (T, B, I) and of the weights."""
    T, B, I = x.shape
    from_x = (x.reshape(T * B, I) @ weights["weight_ih"].T + weights["bias_ih"]).reshape(T, B, -1)
    # Added to the recurrent product of each step, so that its gradient is that of the product.
    offsets = jnp.zeros_like(from_x)
    inner = {name: weights[name] for name in ("weight_ch", "weight_hr") if name in weights}
    scan = partial(_recurrence, form, unroll, weights["weight_hh"], weights["bias_hh"], is_real)
    y, pull = jax.vjp(scan, from_x, offsets, inner)
    dfrom_x, doffsets, dinner = pull(dy)
    dfrom_x, doffsets = dfrom_x.reshape(T * B, -1), doffsets.reshape(T * B, -1)
    before = jnp.concatenate([jnp.zeros_like(y[:1]), y[:-1]]).reshape(T * B, -1)
    grads = {
        "weight_ih": dfrom_x.T @ x.reshape(T * B, I),
        "weight_hh": doffsets.T @ before,
        "bias_ih": dfrom_x.sum(axis=0),
        "bias_hh": doffsets.sum(axis=0),
        **dinner,
    }
    return (dfrom_x @ weights["weight_ih"]).reshape(x.shape), grads


def _recurrence(
    form: Form, unroll: int, weight_hh: Any, bias_hh: Any, is_real: Any, from_x: Any, offsets: Any, inner: Any
) -> Any:
    """y (T, B, P), zero where a step is not real."""
    B, H = from_x.shape[1], from_x.shape[2] // form.gates
    initial = jnp.zeros((B, weight_hh.shape[1]), from_x.dtype), jnp.zeros((B, H), from_x.dtype)

    def step(carry: Any, inputs: Any) -> Any:
        from_x_t, offset, is_real_t = inputs
        from_h = carry[0] @ weight_hh.T + bias_hh + offset
        after = STEPS[form.cell](form, inner, carry, from_x_t, from_h)
        if is_real_t is None:
            return after, after[0]
        held = tuple(jnp.where(is_real_t, new, old) for new, old in zip(after, carry, strict=True))
        return held, jnp.where(is_real_t, after[0], 0)

    inputs = (from_x, offsets, is_real)
    return jax.lax.scan(step, initial, inputs, unroll=min(unroll, len(from_x)))[1]


def _lstm(form: Form, inner: Any, carry: Any, from_x: Any, from_h: Any) -> Any:
    _, c = carry
    parts = jnp.split(from_x + from_h, form.gates, axis=-1)
    is_coupled = form.gates == 3
    i, g, o = (parts[0], parts[-2], parts[-1])
    f = None if is_coupled else parts[1]
    p_i = p_f = p_o = 0.0
    if form.peepholes:
        p_i, p_f, p_o = jnp.split(inner["weight_ch"], 3)
    i = jax.nn.sigmoid(i + p_i * c)
    f = 1 - i if f is None else jax.nn.sigmoid(f + p_f * c)
    c = f * c + i * jnp.tanh(g)
    h = jax.nn.sigmoid(o + p_o * c) * jnp.tanh(c)
    return (h @ inner["weight_hr"].T if form.is_projected else h), c


def _gru(form: Form, inner: Any, carry: Any, from_x: Any, from_h: Any) -> Any:
    h, c = carry
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (jnp.split(part, 3, axis=-1) for part in (from_x, from_h))
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    return (1 - z) * jnp.tanh(x_n + r * h_n) + z * h, c


def _rnn(form: Form, inner: Any, carry: Any, from_x: Any, from_h: Any) -> Any:
    return jnp.tanh(from_x + from_h), carry[1]


STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
