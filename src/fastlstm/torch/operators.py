# SPDX-License-Identifier: BSD-3-Clause
"""The operators ``fastlstm::forward`` and ``fastlstm::backward``, and the function of autograd around them.

They are functions of tensors alone: weights are arguments, and what the one leaves to the other is a tensor,
the reserve.  So they can be traced, exported, and run from any thread.  Autograd stands outside of the
operators: an operator that brings it costs ten times as much a call.
"""

from __future__ import annotations

import functools
import json
import weakref
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import _core
from ..layers.packed import Packed, blank

__all__: list[str] = []

Tensor = torch.Tensor

LIBRARY = torch.library.Library("fastlstm", "DEF")
LIBRARY.define(
    "forward(Tensor x, Tensor? h, Tensor? c, Tensor? lengths, Tensor? reset, Tensor[] weights, str config, "
    "bool records, bool training, Tensor? seed, bool is_frozen) -> (Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "backward(Tensor? dy, Tensor? dh, Tensor? dc, Tensor x, Tensor? h, Tensor? c, Tensor? lengths, "
    "Tensor? reset, Tensor y, Tensor reserve, Tensor[] weights, str config, bool training, Tensor? seed, "
    "bool is_frozen) -> (Tensor, Tensor, Tensor, Tensor)"
)


class Template(NamedTuple):
    """What is the same for all weights of a configuration."""

    packed: Packed
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]  # elements of each parameter
    rows: int  # L * D
    width: int  # of h
    beside: int  # width of the state beside h, or 0
    features: int  # of y
    per_step: int  # elements of the reserve: reserve_size is this for each step and row, and
    constant: int


@functools.lru_cache(maxsize=1024)
def template(config: str, dtype: torch.dtype) -> Template:
    """The facts of a configuration, as `pack` takes it in JSON."""
    real = np.dtype("float32" if dtype == torch.float32 else "float64")
    packed = blank(json.loads(config) | {"dtype": real.name})
    layout = packed._layout
    shapes = tuple(layout.shapes().values())
    # Linear in T * B, as a shape must be that is known before the call: arrays begin on lines of their own.
    first, many = packed.reserve_size(1), packed.reserve_size(129)
    per_step = (many - first) // 128 // real.itemsize
    constant = first // real.itemsize - per_step + 4 * 128
    directions = layout.num_directions
    beside = layout.hidden(0) if "c" in layout.states else 0
    return Template(
        packed,
        shapes,
        tuple(int(np.prod(shape)) for shape in shapes),
        layout.num_layers * directions,
        layout.width(0),
        beside,
        layout.width(0) * directions,
        per_step,
        constant,
    )


# ---- Weights that are packed -------------------------------------------------------------------------------


class _Entry(NamedTuple):
    addresses: tuple[int, ...]
    packed: Packed


# By the identity of the first weight, as long as it lives; then by what is made of it.
_packed: dict[int, tuple[weakref.ref[Tensor], dict[Any, _Entry]]] = {}


def _entries_of(weight: Tensor) -> dict[Any, _Entry]:
    """What is kept for a weight; where it is new, nothing yet."""
    known = _packed.get(id(weight))
    if known is None or known[0]() is not weight:
        number = id(weight)
        known = weakref.ref(weight, lambda gone: _drop(number, gone)), {}
        _packed[number] = known
    return known[1]


def _drop(number: int, gone: weakref.ref[Tensor]) -> None:
    known = _packed.get(number)
    if known is not None and known[0] is gone:  # and not of another tensor in its place
        _packed.pop(number, None)


def packed_weights(weights: list[Tensor], config: str, is_frozen: bool) -> Packed:
    """What these weights are packed to: again where a byte of them has changed since.

    Neither address nor version of a tensor says whether it has: fused optimisers and ``.data`` move neither.
    """
    first = weights[0]
    entries = _entries_of(first)
    key = config, first.dtype
    entry = entries.get(key)
    addresses = tuple(weight.data_ptr() for weight in weights)
    if is_frozen and entry is not None and entry.addresses == addresses:
        return entry.packed  # type: ignore[no-any-return]
    facts = template(config, first.dtype)
    kept = weights
    if not all(weight.is_contiguous() for weight in weights):
        kept = [weight.contiguous() for weight in weights]
    places = [weight.data_ptr() for weight in kept]
    _check_weights(kept, facts)
    if entry is not None and _core.memory_equals(entry.packed.flat_params, places, facts.sizes):
        if entry.addresses != addresses:
            entries[key] = _Entry(addresses, entry.packed)
        return entry.packed  # type: ignore[no-any-return]
    flat = _core.gathered_memory(places, facts.sizes, facts.packed.dtype)
    before = facts.packed if entry is None else entry.packed
    packed = before._with_flat(flat)
    entries[key] = _Entry(addresses, packed)
    return packed


def forget(weight: Tensor) -> None:
    """Pack anew what begins with this weight, when it is used next."""
    _packed.pop(id(weight), None)


def _check_weights(weights: list[Tensor], facts: Template) -> None:
    """Whether reading so many elements from where these tensors lie stays inside of them."""
    if len(weights) != len(facts.sizes):
        raise ValueError(f"weights: expected {len(facts.sizes)} tensors, got {len(weights)}")
    dtype = weights[0].dtype
    for n, (weight, size) in enumerate(zip(weights, facts.sizes, strict=True)):
        if weight.numel() != size:
            raise ValueError(f"weights[{n}]: expected shape {facts.shapes[n]}, got {tuple(weight.shape)}")
        if weight.dtype != dtype or weight.device.type != "cpu":
            got = f"{weight.dtype} on {weight.device}"
            raise ValueError(f"weights[{n}]: expected {dtype} on the CPU, got {got}")


# ---- Operators ---------------------------------------------------------------------------------------------


def _array(tensor: Tensor | None) -> Any:
    """A view of a tensor.

    Its storage cannot be resized from here on, as that of sharded weights is: they are read by address.
    """
    return None if tensor is None else tensor.detach().numpy()


def _state(h: Tensor | None, c: Tensor | None) -> Any:
    if h is None:
        return None
    return _array(h) if c is None else (_array(h), _array(c))


def _seed(seed: Tensor | None) -> int | None:
    return None if seed is None else int(seed)


class _threads:
    """No more threads than torch may have, which has 1 in workers of a DataLoader."""

    __slots__ = ("before",)

    def __enter__(self) -> None:
        most = min(torch.get_num_threads(), _core.get_num_threads())
        self.before = _core.set_local_num_threads(most)

    def __exit__(self, *error: object) -> None:
        _core.set_local_num_threads(self.before)


def _outputs(facts: Template, x: Tensor) -> tuple[Tensor, int, int]:
    T, B = x.shape[0], x.shape[1]
    return x.new_empty((T, B, facts.features)), T, B


def _forward(
    x: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    weights: list[Tensor],
    config: str,
    records: bool,
    training: bool,
    seed: Tensor | None,
    is_frozen: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    packed = packed_weights(weights, config, is_frozen)
    facts = template(config, x.dtype)
    y, T, B = _outputs(facts, x)
    state, steps, flags = _state(h, c), _array(lengths), _array(reset)
    with _threads():
        if records:
            reserve = x.new_empty(T * B * facts.per_step + facts.constant)
            tape = packed.forward(
                _array(x),
                state,
                lengths=steps,
                reset=flags,
                training=training,
                reserve=reserve.numpy(),
                out=y.numpy(),
                copy=False,
                seed=_seed(seed),
            )
            final = tape.state
        else:
            reserve = x.new_empty(0)
            final = packed(_array(x), state, lengths=steps, reset=flags, out=y.numpy())[1]
    h_n, c_n = final if facts.beside else (final, None)
    return (
        y,
        torch.from_numpy(h_n),
        x.new_empty(0) if c_n is None else torch.from_numpy(c_n),
        reserve,
    )


def _forward_fake(
    x: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    weights: list[Tensor],
    config: str,
    records: bool,
    training: bool,
    seed: Tensor | None,
    is_frozen: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    facts = template(config, x.dtype)
    y, T, B = _outputs(facts, x)
    h_n = x.new_empty((facts.rows, B, facts.width))
    c_n = x.new_empty((facts.rows, B, facts.beside) if facts.beside else (0,))
    return y, h_n, c_n, x.new_empty(T * B * facts.per_step + facts.constant if records else 0)


def _backward(
    dy: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    x: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    y: Tensor,
    reserve: Tensor,
    weights: list[Tensor],
    config: str,
    training: bool,
    seed: Tensor | None,
    is_frozen: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    packed = packed_weights(weights, config, is_frozen)
    facts = template(config, x.dtype)
    flat = x.new_empty(sum(facts.sizes))
    with _threads():
        tape = packed.tape(
            _array(x),
            _state(h, c),
            y=_array(y),
            reserve=_array(reserve),
            lengths=_array(lengths),
            reset=_array(reset),
            training=training,
            seed=_seed(seed),
        )
        dstate: Any = None
        if dh is not None or dc is not None:
            dstate = (_array(dh), _array(dc)) if facts.beside else _array(dh)
        dx, dinitial = tape.backward(_array(dy), dstate, grads=flat.numpy(), keep=True)
    dh_0, dc_0 = dinitial if facts.beside else (dinitial, None)
    return (
        torch.from_numpy(dx),
        torch.from_numpy(dh_0),
        x.new_empty(0) if dc_0 is None else torch.from_numpy(dc_0),
        flat,
    )


def _backward_fake(
    dy: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    x: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    y: Tensor,
    reserve: Tensor,
    weights: list[Tensor],
    config: str,
    training: bool,
    seed: Tensor | None,
    is_frozen: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    facts = template(config, x.dtype)
    B = x.shape[1]
    return (
        x.new_empty(tuple(x.shape)),
        x.new_empty((facts.rows, B, facts.width)),
        x.new_empty((facts.rows, B, facts.beside) if facts.beside else (0,)),
        x.new_empty(sum(facts.sizes)),
    )


LIBRARY.impl("forward", _forward, "CPU")
LIBRARY.impl("backward", _backward, "CPU")
torch.library.register_fake("fastlstm::forward", _forward_fake, lib=LIBRARY)
torch.library.register_fake("fastlstm::backward", _backward_fake, lib=LIBRARY)

forward_op = torch.ops.fastlstm.forward.default
backward_op = torch.ops.fastlstm.backward.default


class Run(torch.autograd.Function):
    """A recorded pass; its outputs are y, h_n, c_n (without elements where there is none) and the reserve."""

    @staticmethod
    def forward(  # type: ignore[override]
        x: Tensor,
        h: Tensor | None,
        c: Tensor | None,
        lengths: Tensor | None,
        reset: Tensor | None,
        seed: Tensor | None,
        config: str,
        training: bool,
        is_frozen: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the operator."""
        result: tuple[Tensor, Tensor, Tensor, Tensor] = forward_op(
            x, h, c, lengths, reset, list(weights), config, True, training, seed, is_frozen
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        """Keep what the backward pass reads."""
        x, h, c, lengths, reset, seed, config, training, is_frozen, *weights = inputs
        y, _, c_n, reserve = output
        ctx.mark_non_differentiable(*((reserve,) if c_n.numel() or c is not None else (reserve, c_n)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h, c, lengths, reset, seed, y, reserve, *weights)
        ctx.settings = config, training, is_frozen

    @staticmethod
    def backward(ctx: Any, dy: Any, dh: Any, dc: Any, _: Any) -> tuple[Any, ...]:  # type: ignore[override]
        """Run the operator, and give each weight its part of the flat gradient."""
        # Whoever wants a graph of this gets one that raises: torch's decorator looks at the gradients that
        # come in alone, and drops the rest in silence.
        wants_graph = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        with torch.no_grad():
            grads = Run._gradients(ctx, dy, dh, dc)
        if not wants_graph:
            return grads
        found = [n for n, grad in enumerate(grads) if grad is not None]
        fail = torch._C._functions.DelayedError(
            "fastlstm: expected a layer that is differentiated once, got a second time", len(found)
        )
        marked = fail(*[grads[n].detach().requires_grad_() for n in found])
        result = list(grads)
        for n, grad in zip(found, marked, strict=True):
            result[n] = grad
        return tuple(result)

    @staticmethod
    def _gradients(ctx: Any, dy: Any, dh: Any, dc: Any) -> tuple[Any, ...]:
        x, h, c, lengths, reset, seed, y, reserve, *weights = ctx.saved_tensors
        config, training, is_frozen = ctx.settings
        dx, dh_0, dc_0, flat = backward_op(
            dy, dh, dc, x, h, c, lengths, reset, y, reserve, weights, config, training, seed, is_frozen
        )
        parts = torch.split_with_sizes(flat, [weight.numel() for weight in weights])
        grads = [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]
        return (
            dx,
            None if h is None else dh_0,
            None if c is None else dc_0,
            None,
            None,
            None,
            None,
            None,
            None,
            *grads,
        )


# The same without torch's look at the signature of `forward`, which takes as long as a small pass; for calls
# that nothing traces or transforms.
apply_directly = super(torch.autograd.Function, Run).apply
