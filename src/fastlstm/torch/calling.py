# SPDX-License-Identifier: BSD-3-Clause
"""A call of a module: whether the kernels take it, function of autograd or operator, packed sequences."""

from __future__ import annotations

import json
import warnings
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence

from .operators import Run, apply_directly, forward_op

__all__: list[str] = []

Tensor = torch.Tensor


class Kind(NamedTuple):
    """What a module is, as a call has to know it."""

    config: str  # as `fastlstm.pack` takes it, in JSON
    rows: int  # L * D
    width: int  # of h
    beside: int  # width of c, or 0
    draws: bool  # whether masks are drawn in training


def kind_of(options: dict[str, Any]) -> Kind:
    """`Kind` of a configuration."""
    from ..layers.packed import blank

    packed = blank(options)
    layout = packed._layout
    if len(layout.states) > 2:
        raise ValueError(f"kind: expected one with the states h and c at most, got {options['kind']}")
    beside = layout.hidden(0) if "c" in layout.states else 0
    drops = packed._plan.dropout > 0 and layout.num_layers > 1
    rows = layout.num_layers * layout.num_directions
    return Kind(json.dumps(options), rows, layout.width(0), beside, bool(packed._packed[0].draws or drops))


def obstacle(x: Any, weights: list[Tensor]) -> str:
    """Why the kernels cannot take x with these weights; nothing where they can."""
    if not isinstance(x, Tensor):
        return f"input is {type(x).__name__}"
    first = weights[0]
    if x.device.type != "cpu" or first.device.type != "cpu":
        return f"tensors are on {x.device} and {first.device}"
    if x.dtype not in (torch.float32, torch.float64) or first.dtype != x.dtype:
        return f"input is {x.dtype} and weights are {first.dtype}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if x.layout is not torch.strided:
        return f"input is {x.layout}"
    return ""


_told: set[str] = set()


def checked_model(model: Any) -> torch.nn.Module:
    """`model`, or a TypeError where it is no module."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return model


def tell(name: str, reason: str) -> None:
    """Warn once of each reason for which torch's own layer runs."""
    text = f"{name}: torch's own layer runs instead of fastlstm's kernels, as {reason}"
    if text not in _told:
        _told.add(text)
        warnings.warn(text, UserWarning, stacklevel=4)


def run(
    kind: Kind,
    weights: list[Tensor],
    x: Tensor,
    state: tuple[Tensor | None, Tensor | None],
    lengths: Tensor | None,
    reset: Tensor | None,
    training: bool,
    is_frozen: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n and c_n of x (T, B, I)."""
    h, c = state
    seed = torch.randint(2**62, (1,)) if training and kind.draws else None
    needs = torch.is_grad_enabled() and (
        x.requires_grad
        or any(weight.requires_grad for weight in weights)
        or (h is not None and h.requires_grad)
        or (c is not None and c.requires_grad)
    )
    is_traced = torch.compiler.is_compiling()
    if not needs and not is_traced:
        needs = torch.autograd.forward_ad._current_level >= 0  # it says that there is no forward mode
    if needs or seed is not None:
        is_traced = is_traced or torch._C._are_functorch_transforms_active()
        apply = Run.apply if is_traced else apply_directly
        y, h_n, c_n, _ = apply(x, h, c, lengths, reset, seed, kind.config, training, is_frozen, *weights)
    else:
        y, h_n, c_n, _ = forward_op(
            x, h, c, lengths, reset, weights, kind.config, False, False, None, is_frozen
        )
    return y, h_n, c_n


def checked_reset(reset: Any, shape: tuple[int, ...]) -> Tensor | None:
    """As booleans: what is not 0, which episode starts of other libraries are in floating point."""
    if reset is None:
        return None
    if not isinstance(reset, Tensor):
        raise TypeError(f"reset: expected a tensor, got {type(reset).__name__}")
    if tuple(reset.shape) != shape:
        raise ValueError(f"reset: expected shape {shape}, got {tuple(reset.shape)}")
    return reset if reset.dtype == torch.bool else reset != 0


def checked_lengths(lengths: Any, B: int) -> Tensor | None:
    """As int64 on the CPU."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths)
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if tuple(lengths.shape) != (B,):
        raise ValueError(f"lengths: expected shape ({B},), got {tuple(lengths.shape)}")
    return lengths.to("cpu", torch.int64)


def padded(x: PackedSequence) -> tuple[Tensor, Tensor]:
    """The rows of a packed sequence (T, B, I), and their lengths."""
    T = x.batch_sizes.numel()
    rows, lengths = torch._VF._pad_packed_sequence(x.data, x.batch_sizes, False, 0.0, T)  # type: ignore[attr-defined]
    return rows, lengths


def packed_like(x: PackedSequence, y: Tensor, lengths: Tensor) -> PackedSequence:
    """An output (T, B, P) as the input was packed."""
    data, sizes = torch._VF._pack_padded_sequence(y, lengths, False)  # type: ignore[attr-defined]
    return PackedSequence(data, sizes, x.sorted_indices, x.unsorted_indices)


def permuted(state: Tensor | None, order: Tensor | None) -> Tensor | None:
    """Rows (dimension 1) in another order."""
    return state if state is None or order is None else state.index_select(1, order)


def checked_state(
    hx: Any, kind: Kind, B: int, is_batched: bool, x: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """H and c (L*D, B, width), from what torch's layers take."""
    if hx is None:
        return None, None
    members = hx if kind.beside else (hx,)
    if not isinstance(members, (tuple, list)) or len(members) != 1 + (kind.beside != 0):
        expected = "a pair of tensors (h, c)" if kind.beside else "a tensor"
        raise TypeError(f"hx: expected {expected}, got {type(hx).__name__}")
    result: list[Tensor | None] = []
    for n, (member, width) in enumerate(zip(members, (kind.width, kind.beside), strict=False)):
        name = f"hx[{n}]" if kind.beside else "hx"
        if not isinstance(member, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(member).__name__}")
        expected_shape = (kind.rows, B, width) if is_batched else (kind.rows, width)
        if tuple(member.shape) != expected_shape:
            raise ValueError(f"{name}: expected shape {expected_shape}, got {tuple(member.shape)}")
        if member.dtype != x.dtype or member.device != x.device:
            raise TypeError(
                f"{name}: expected {x.dtype} on {x.device}, got {member.dtype} on {member.device}"
            )
        result.append(member if is_batched else member.unsqueeze(1))
    return result[0], result[1] if kind.beside else None


def run_layer(
    kind: Kind,
    weights: list[Tensor],
    x: Any,
    hx: Any,
    batch_first: bool,
    lengths: Any,
    reset: Any,
    training: bool,
    is_frozen: bool,
) -> tuple[Any, Any]:
    """What torch's layers return for x, a tensor or a packed sequence."""
    if isinstance(x, PackedSequence):
        if lengths is not None or reset is not None:
            raise ValueError(
                "lengths, reset: expected None with a packed sequence, which has lengths, got a value"
            )
        rows, steps = padded(x)
        h, c = checked_state(hx, kind, rows.shape[1], True, rows)
        h, c = permuted(h, x.sorted_indices), permuted(c, x.sorted_indices)
        y, h_n, c_n = run(kind, weights, rows, (h, c), steps, None, training, is_frozen)
        h_n = permuted(h_n, x.unsorted_indices)  # type: ignore[assignment]
        result = packed_like(x, y, steps)
        if not kind.beside:
            return result, h_n
        return result, (h_n, permuted(c_n, x.unsorted_indices))
    if x.dim() not in (2, 3):
        raise ValueError(f"input: expected 2 or 3 dimensions, got shape {tuple(x.shape)}")
    is_batched = x.dim() == 3
    given = tuple(x.shape[:-1])
    if not is_batched:
        x = x.unsqueeze(1)
    elif batch_first:
        x = x.transpose(0, 1)
    flags = checked_reset(reset, given)
    if flags is not None:
        flags = flags.unsqueeze(1) if not is_batched else flags.transpose(0, 1) if batch_first else flags
    B = x.shape[1]
    state = checked_state(hx, kind, B, is_batched, x)
    y, h_n, c_n = run(kind, weights, x, state, checked_lengths(lengths, B), flags, training, is_frozen)
    if not is_batched:
        y, h_n = y.squeeze(1), h_n.squeeze(1)
        c_n = c_n.squeeze(1) if kind.beside else c_n
    elif batch_first:
        y = y.transpose(0, 1)
    return y, (h_n, c_n) if kind.beside else h_n


def run_cell(kind: Kind, weights: list[Tensor], x: Any, hx: Any, is_frozen: bool) -> Any:
    """What torch's cells return: the state after one step."""
    if x.dim() not in (1, 2):
        raise ValueError(f"input: expected 1 or 2 dimensions, got shape {tuple(x.shape)}")
    is_batched = x.dim() == 2
    rows = x.unsqueeze(0) if is_batched else x.reshape(1, 1, -1)
    if hx is not None:
        hx = tuple(member.unsqueeze(0) for member in hx) if kind.beside else hx.unsqueeze(0)
    state = checked_state(hx, kind, rows.shape[1], is_batched, x)
    _, h_n, c_n = run(kind, weights, rows, state, None, None, False, is_frozen)
    h_n = h_n.squeeze(0) if is_batched else h_n.reshape(-1)
    if not kind.beside:
        return h_n
    return h_n, c_n.squeeze(0) if is_batched else c_n.reshape(-1)
