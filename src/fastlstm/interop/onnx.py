# SPDX-License-Identifier: BSD-3-Clause
"""The recurrent operators of ONNX, opset 22, as functions over the compiled layers.

ONNX's gates, layouts and attributes are put into terms of `LSTM`, `GRU` and `RNN`: one layer for each
direction, as directions may differ in their activations.  What the operators compute is said by the ONNX
operator specification, which ``onnx.defs.get_schema("LSTM", 22).doc`` holds; what it leaves open is said in
`onnx_lstm`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..layers.gru import GRU
from ..layers.lstm import LSTM
from ..layers.rnn import RNN
from ..model import options as layer_options
from ..model.checks import checked_array, checked_choice, checked_limit, checked_number, is_finite
from ..model.options import ACTIVATIONS
from ..model.parameters import restore

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array = NDArray[Any]

__all__ = ["onnx_gru", "onnx_lstm", "onnx_rnn"]

# Blocks of rows in the order in which ONNX has them, by the letters of fl_cell_facts: g is ONNX's c, n its h.
_Layer = type[LSTM] | type[GRU] | type[RNN]
_ROWS: dict[_Layer, str] = {LSTM: "iofg", GRU: "zrn", RNN: "h"}
_PEEPHOLES = "iof"
_FUNCTIONS = {name.lower(): name for name in ACTIVATIONS}
# Whether each direction of the operator runs from the end.
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
# Types of the operands, by what they are computed in.
_COMPUTED_IN: dict[str, DTypeLike] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float32,
    "bfloat16": np.float32,
}


# ---- The operators -----------------------------------------------------------------------------------------


@np.errstate(all="ignore")  # as in the layers: results say what happened
def onnx_lstm(
    X: ArrayLike,
    W: ArrayLike,
    R: ArrayLike,
    B: ArrayLike | None = None,
    sequence_lens: ArrayLike | None = None,
    initial_h: ArrayLike | None = None,
    initial_c: ArrayLike | None = None,
    P: ArrayLike | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    layout: int = 0,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    input_forget: int = 0,
    zero_length: str = "state",
) -> tuple[Array, Array, Array]:
    """ONNX's operator LSTM, opset 22, by the compiled kernels.

    The equations are those of the ONNX operator specification; ``clip(a)`` limits a to +-`clip`, and (.) is
    the elementwise product::

        i = f(clip(W_i x_t + R_i H_{t-1} + P_i (.) C_{t-1} + Wb_i + Rb_i))
        f = f(clip(W_f x_t + R_f H_{t-1} + P_f (.) C_{t-1} + Wb_f + Rb_f))    # 1 - i with input_forget
        c = g(clip(W_c x_t + R_c H_{t-1} + Wb_c + Rb_c))
        C_t = f (.) C_{t-1} + i (.) c
        o = f(clip(W_o x_t + R_o H_{t-1} + P_o (.) C_t + Wb_o + Rb_o))
        H_t = o (.) h(C_t)

    Each call packs the weights.  Where the same ones are used again and again, an `LSTM`, which keeps them
    packed, is faster.

    Parameters
    ----------
    X : array_like, (T, B, I), or (B, T, I) with ``layout=1``
        Input.  Its dtype, float32, float64, float16 or bfloat16 (of ml_dtypes), is that of all other operands
        and of the results; the latter two are computed in float32 and rounded at the end.  Lists of numbers
        are float64 as X, and else of its dtype.
    W : array_like, (D, 4*H, I)
        Weights of the input, gates in the order i, o, f, c.  D is 2 where bidirectional, else 1.
    R : array_like, (D, 4*H, H)
        Weights of the recurrence.
    B : array_like, (D, 8*H), optional
        Biases Wb and Rb, one behind the other.  None is zero.
    sequence_lens : array_like of integers, (B,), optional
        Steps of each row, 0 to T.  Y is zero behind them, and X is not looked at there; the final states are
        those at a row's own end, and the reverse direction begins there.  None is T.
    initial_h, initial_c : array_like, (D, B, H), or (B, D, H) with ``layout=1``, optional
        States before the first step.  None is zero.
    P : array_like, (D, 3*H), optional
        Peepholes, gates in the order i, o, f.  None is zero.
    hidden_size : int, optional
        H.  It follows from `R`, and is only checked.
    direction : {"forward", "reverse", "bidirectional"}
        From the first step to the last, from the last to the first, or both.  Y stands in the order of X in
        any case.
    layout : {0, 1}
        Whether time or batch is the first dimension.
    activations : sequence of 3*D str, optional
        f of the gates, g of the candidate, h of the output, of each direction: Sigmoid, Tanh, Relu, Affine,
        LeakyRelu, ThresholdedRelu, ScaledTanh, HardSigmoid, Elu, Softsign or Softplus, in upper or lower
        case.  None is Sigmoid, Tanh, Tanh.
    activation_alpha, activation_beta : sequence of float, optional
        Parameters of the activations.  From left to right, each function that has an alpha takes the next
        one, and likewise beta; the others take none.  Where none is left, there are the defaults of ONNX's
        operators of the same names: LeakyRelu 0.01, HardSigmoid 0.2 and 0.5, Elu 1, ThresholdedRelu 1.
        Affine and ScaledTanh need theirs.  Numbers that no function takes are refused: they would mean
        another order.
    clip : float, optional
        Limit of what goes into f and g, more than 0.  What goes into h is not limited, as in ONNX Runtime.
    input_forget : {0, 1}
        1 couples the forget gate to the input gate, f = 1 - i; the forget gate's weights are then not used.
    zero_length : {"state", "zero"}
        Final states of a row without steps, of which ONNX says nothing: the given ones, so that a sequence
        may come in pieces; or zero, as in ONNX Runtime.  Y is zero there.

    Returns
    -------
    Y : ndarray, (T, D, B, H), or (B, T, D, H) with ``layout=1``
        H of every step.
    Y_h, Y_c : ndarray, (D, B, H), or (B, D, H) with ``layout=1``
        States behind each row's last step.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.

    Notes
    -----
    Threads are those of `threads` or `set_num_threads`.

    Examples
    --------
    >>> import numpy as np
    >>> X, W, R = (np.ones(shape, np.float32) for shape in [(5, 2, 3), (1, 16, 3), (1, 16, 4)])
    >>> Y, Y_h, Y_c = onnx_lstm(X, W, R, activations=["HardSigmoid", "Tanh", "Tanh"], activation_alpha=[0.3])
    >>> Y.shape, Y_h.shape, Y_c.shape
    ((5, 1, 2, 4), (1, 2, 4), (1, 2, 4))
    """
    call = _Call(LSTM, (X, W, R, B), sequence_lens, hidden_size, direction, layout, zero_length)
    states = (call.state(initial_h, "initial_h"), call.state(initial_c, "initial_c"))
    peepholes = call.operand(P, "P", (call.D, 3 * call.H))
    coupled = _checked_integer(input_forget, "input_forget", (0, 1)) == 1
    options = call.read_options(activations, activation_alpha, activation_beta, clip)
    options |= {"peephole": P is not None, "coupled": "f_from_i" if coupled else None}
    Y, Y_h, Y_c = call.run(options, states, peepholes)
    return Y, Y_h, Y_c


@np.errstate(all="ignore")  # as in the layers: results say what happened
def onnx_gru(
    X: ArrayLike,
    W: ArrayLike,
    R: ArrayLike,
    B: ArrayLike | None = None,
    sequence_lens: ArrayLike | None = None,
    initial_h: ArrayLike | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    layout: int = 0,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    linear_before_reset: int = 0,
    zero_length: str = "state",
) -> tuple[Array, Array]:
    """ONNX's operator GRU, opset 22, by the compiled kernels.

    The equations are those of the ONNX operator specification, with `clip` as of `onnx_lstm`::

        z = f(clip(W_z x_t + R_z H_{t-1} + Wb_z + Rb_z))
        r = f(clip(W_r x_t + R_r H_{t-1} + Wb_r + Rb_r))
        h = g(clip(W_h x_t + R_h (r (.) H_{t-1}) + Wb_h + Rb_h))      # linear_before_reset = 0
        h = g(clip(W_h x_t + r (.) (R_h H_{t-1} + Rb_h) + Wb_h))      # else
        H_t = (1 - z) (.) h + z (.) H_{t-1}

    Parameters
    ----------
    X, sequence_lens, initial_h
        As of `onnx_lstm`.
    W : array_like, (D, 3*H, I)
        Weights of the input, gates in the order z, r, h.
    R : array_like, (D, 3*H, H)
        Weights of the recurrence.
    B : array_like, (D, 6*H), optional
        Biases Wb and Rb, one behind the other.  None is zero.
    hidden_size, direction, layout, activation_alpha, activation_beta, clip, zero_length
        As of `onnx_lstm`.
    activations : sequence of 2*D str, optional
        f of the gates and g of the candidate, of each direction.  None is Sigmoid, Tanh.
    linear_before_reset : int
        Whether the reset gate acts behind the recurrent product.

    Returns
    -------
    Y : ndarray, (T, D, B, H), or (B, T, D, H) with ``layout=1``
        H of every step.
    Y_h : ndarray, (D, B, H), or (B, D, H) with ``layout=1``
        H behind each row's last step.

    Raises
    ------
    TypeError, ValueError
        As of `onnx_lstm`.

    Examples
    --------
    >>> import numpy as np
    >>> X, W, R = (np.ones(shape, np.float32) for shape in [(2, 5, 3), (2, 12, 3), (2, 12, 4)])
    >>> Y, Y_h = onnx_gru(X, W, R, direction="bidirectional", layout=1)
    >>> Y.shape, Y_h.shape
    ((2, 5, 2, 4), (2, 2, 4))
    """
    call = _Call(GRU, (X, W, R, B), sequence_lens, hidden_size, direction, layout, zero_length)
    states = (call.state(initial_h, "initial_h"),)
    options = call.read_options(activations, activation_alpha, activation_beta, clip)
    options["reset_after"] = _checked_integer(linear_before_reset, "linear_before_reset") != 0
    Y, Y_h = call.run(options, states)
    return Y, Y_h


@np.errstate(all="ignore")  # as in the layers: results say what happened
def onnx_rnn(
    X: ArrayLike,
    W: ArrayLike,
    R: ArrayLike,
    B: ArrayLike | None = None,
    sequence_lens: ArrayLike | None = None,
    initial_h: ArrayLike | None = None,
    *,
    hidden_size: int | None = None,
    direction: str = "forward",
    layout: int = 0,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    zero_length: str = "state",
) -> tuple[Array, Array]:
    """ONNX's operator RNN, opset 22, by the compiled kernels.

    The equation is that of the ONNX operator specification, with `clip` as of `onnx_lstm`::

        H_t = f(clip(W x_t + R H_{t-1} + Wb + Rb))

    Parameters
    ----------
    X, sequence_lens, initial_h
        As of `onnx_lstm`.
    W : array_like, (D, H, I)
        Weights of the input.
    R : array_like, (D, H, H)
        Weights of the recurrence.
    B : array_like, (D, 2*H), optional
        Biases Wb and Rb, one behind the other.  None is zero.
    hidden_size, direction, layout, activation_alpha, activation_beta, clip, zero_length
        As of `onnx_lstm`.
    activations : sequence of D str, optional
        f of each direction.  Two may be given also for one direction, as ONNX's default value has it; then
        the first counts.  None is Tanh.

    Returns
    -------
    Y : ndarray, (T, D, B, H), or (B, T, D, H) with ``layout=1``
        H of every step.
    Y_h : ndarray, (D, B, H), or (B, D, H) with ``layout=1``
        H behind each row's last step.

    Raises
    ------
    TypeError, ValueError
        As of `onnx_lstm`.

    Examples
    --------
    >>> import numpy as np
    >>> X, W, R = (np.ones(shape, np.float32) for shape in [(5, 2, 3), (1, 4, 3), (1, 4, 4)])
    >>> Y, Y_h = onnx_rnn(X, W, R, direction="reverse", activations=["Relu"], clip=2.0)
    >>> bool((Y_h[0] == Y[0, 0]).all()), float(Y.max())
    (True, 2.0)
    """
    call = _Call(RNN, (X, W, R, B), sequence_lens, hidden_size, direction, layout, zero_length)
    states = (call.state(initial_h, "initial_h"),)
    options = call.read_options(activations, activation_alpha, activation_beta, clip)
    Y, Y_h = call.run(options, states)
    return Y, Y_h


# ---- What they share ---------------------------------------------------------------------------------------


class _Call:
    """One call's operands, checked, in the dtype to compute in.

    Letters: T time, B batch, I input features, H hidden units, D directions, G gates.
    """

    def __init__(
        self,
        cls: _Layer,
        operands: tuple[Any, Any, Any, Any],
        sequence_lens: Any,
        hidden_size: Any,
        direction: Any,
        layout: Any,
        zero_length: Any,
    ) -> None:
        X, W, R, B = operands
        self.cls = cls
        self.is_reverse = _DIRECTIONS[checked_choice(direction, "direction", _DIRECTIONS)]
        self.batch_first = _checked_integer(layout, "layout", (0, 1)) == 1
        self.is_zero = checked_choice(zero_length, "zero_length", ("state", "zero")) == "zero"

        x = checked_array(X, "X")
        if x.dtype.name not in _COMPUTED_IN:
            raise TypeError(f"X: expected {', '.join(_COMPUTED_IN)}, got {x.dtype}")
        self.dtype = x.dtype.newbyteorder("=")  # of operands and results
        self.inner = np.dtype(_COMPUTED_IN[x.dtype.name])  # of the layers
        if x.ndim != 3 or x.shape[2] == 0:
            axes = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ValueError(f"X: expected shape {axes} with at least 1 feature, got {x.shape}")
        self.x = x.astype(self.inner, copy=False)
        self.B, self.T = x.shape[:2] if self.batch_first else x.shape[1::-1]

        D, G, I = len(self.is_reverse), len(_ROWS[cls]), x.shape[2]
        if hidden_size is None:
            shape = np.shape(checked_array(R, "R"))
            if len(shape) != 3 or shape[2] == 0:
                rows = "H" if G == 1 else f"{G}*H"
                raise ValueError(f"R: expected shape ({D}, {rows}, H) with H of at least 1, got {shape}")
            H = shape[2]
        else:
            H = _core.count(hidden_size, "hidden_size")
        self.D, self.H = D, H
        self.sizes = {"input_size": I, "hidden_size": H, "batch_first": self.batch_first, "dtype": self.inner}
        self.R = self._checked(R, "R", (D, G * H, H))  # first, as H comes from it
        self.W = self._checked(W, "W", (D, G * H, I))
        self.biases = self.operand(B, "B", (D, 2 * G * H))
        self.lengths = None if sequence_lens is None else self._checked_lengths(sequence_lens)

    # ---- Operands ------------------------------------------------------------------------------------------

    def _checked(self, value: Any, name: str, shape: tuple[int, ...]) -> Array:
        array = checked_array(value, name)
        is_list = not hasattr(value, "dtype") and array.dtype.kind in "fiu"  # which has no dtype of its own
        if array.dtype.name != self.dtype.name and not is_list:
            raise TypeError(f"{name}: expected {self.dtype}, as X, got {array.dtype}")
        if array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
        return array.astype(self.inner, copy=False)

    def operand(self, value: Any, name: str, shape: tuple[int, ...]) -> Array | None:
        """An operand that may be missing."""
        return None if value is None else self._checked(value, name, shape)

    def state(self, value: Any, name: str) -> Array | None:
        """An initial state as (D, B, H)."""
        if not self.batch_first:
            return self.operand(value, name, (self.D, self.B, self.H))
        array = self.operand(value, name, (self.B, self.D, self.H))
        return None if array is None else array.swapaxes(0, 1)

    def _checked_lengths(self, value: Any) -> Array:
        array = checked_array(value, "sequence_lens")
        if array.dtype.kind not in "iu":
            raise TypeError(f"sequence_lens: expected integers, got {array.dtype}")
        if array.shape != (self.B,):
            raise ValueError(f"sequence_lens: expected shape ({self.B},), got {array.shape}")
        bad = np.flatnonzero((array < 0) | (array > self.T))
        if len(bad):
            raise ValueError(f"sequence_lens[{bad[0]}]: expected 0 to {self.T}, got {array[bad[0]]}")
        return array

    def blocks(self, rows: Array, order: str, gates: str) -> Array:
        """Blocks of H rows that stand in `order`, put in the order of `gates`."""
        parts = rows.reshape(len(order), self.H, *rows.shape[1:])
        return np.concatenate([parts[order.index(gate)] for gate in gates])

    # ---- Attributes ----------------------------------------------------------------------------------------

    def read_options(self, names: Any, alpha: Any, beta: Any, clip: Any) -> dict[str, Any]:
        """Options of the layers; "activations" has those of all directions."""
        return {
            "activations": _read_activations(self.cls, self.D, names, alpha, beta),
            "gate_clip": checked_limit(clip, "clip"),
        }

    # ---- The layers ----------------------------------------------------------------------------------------

    def run(
        self, options: dict[str, Any], states: tuple[Array | None, ...], peepholes: Array | None = None
    ) -> list[Array]:
        """Y and final states."""
        rows, functions = _ROWS[self.cls], options["activations"]
        results: list[list[Array]] = []
        for d, reverse in enumerate(self.is_reverse):
            named = {"weight_ih_l0": self.W[d], "weight_hh_l0": self.R[d]}
            if self.biases is not None:
                named["bias_ih_l0"], named["bias_hh_l0"] = np.split(self.biases[d], 2)
            own = {"bias": self.biases is not None, "reverse": reverse, "activations": functions[d]}
            config = layer_options.defaults(self.cls) | self.sizes | options | own | {"num_threads": None}
            fields = layer_options.fields(self.cls, layer_options.checked(self.cls, config))
            gates, _states, _width = _core.cell_facts(fields, self.H)
            params = {name: self.blocks(value, rows, gates) for name, value in named.items()}
            if peepholes is not None:
                params["weight_ch_l0"] = self.blocks(peepholes[d], _PEEPHOLES, gates.replace("g", ""))
            layer: Any = restore(self.cls, config, params)  # a constructor would draw others first
            y, finals = layer(self.x, self._state_of(d, states), lengths=self.lengths)
            members = finals if len(states) > 1 else (finals,)
            if self.is_zero:
                is_empty = np.full(self.B, self.T == 0) if self.lengths is None else self.lengths == 0
                for member in members:
                    member[0, is_empty] = 0
            results.append([y, *(member[0] for member in members)])
        Y, *finals = zip(*results, strict=True)
        return [self._joined(Y, 2 if self.batch_first else 1)] + [
            self._joined(member, 1 if self.batch_first else 0) for member in finals
        ]

    def _state_of(self, d: int, states: tuple[Array | None, ...]) -> Any:
        """State of one direction's layer; of several members, those that are missing are zero."""
        if all(state is None for state in states):
            return None
        zeros = np.zeros((1, self.B, self.H), self.inner)
        members = tuple(zeros if state is None else state[d : d + 1] for state in states)
        return members if len(members) > 1 else members[0]

    def _joined(self, parts: Sequence[Array], axis: int) -> Array:
        """Results of each direction as one, with directions along `axis`, in the dtype of X."""
        whole = np.expand_dims(parts[0], axis) if len(parts) == 1 else np.stack(parts, axis)
        return whole.astype(self.dtype, copy=False)


def _checked_integer(value: Any, name: str, choices: tuple[int, ...] | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if choices is not None and number not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(str, choices))}, got {number}")
    return number


# ---- Activations -------------------------------------------------------------------------------------------


def _read_activations(cls: _Layer, D: int, names: Any, alpha: Any, beta: Any) -> list[tuple[Any, ...]]:
    """Activations of each direction as its layer takes them, each with its parameters."""
    functions = _read_names(cls, D, names)
    given = {"activation_alpha": alpha, "activation_beta": beta}
    numbers = {name: _read_numbers(value, name) for name, value in given.items()}
    left = {name: iter(values) for name, values in numbers.items()}
    entries = [_with_parameters(f"activations[{n}]", function, left) for n, function in enumerate(functions)]
    for name, values in left.items():
        more, count = len(list(values)), len(numbers[name])
        if more:
            raise ValueError(
                f"{name}: expected {count - more} numbers at most, as so many are taken by "
                f"{', '.join(functions)}, got {count}"
            )
    count = len(cls.activations.roles)
    return [tuple(entries[d * count : (d + 1) * count]) for d in range(D)]


def _read_names(cls: _Layer, D: int, names: Any) -> list[str]:
    roles = cls.activations.roles
    if names is None:
        return list(roles.values()) * D
    count = len(roles) * D
    expected = f"{count} names ({', '.join(roles)}{' of each direction' if D > 1 else ''})"
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence):
        raise TypeError(f"activations: expected a sequence of {expected}, got {type(names).__name__}")
    # The default value that the specification writes for RNN has a second one even for one direction.
    if len(names) not in ((1, 2) if count == 1 else (count,)):
        raise ValueError(f"activations: expected {expected}, got {len(names)}")
    functions = []
    for n, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"activations[{n}]: expected a string, got {type(name).__name__}")
        if name.lower() not in _FUNCTIONS:
            raise ValueError(f"activations[{n}]: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
        functions.append(_FUNCTIONS[name.lower()])
    return functions


def _read_numbers(values: Any, name: str) -> list[float]:
    if values is None:
        return []
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise TypeError(f"{name}: expected a sequence of numbers, got {type(values).__name__}")
    return [
        checked_number(value, f"{name}[{n}]", "a finite number", is_finite) for n, value in enumerate(values)
    ]


def _with_parameters(role: str, function: str, left: dict[str, Iterator[float]]) -> tuple[str | float, ...]:
    """A function and its parameters: the next ones of `left`, else the defaults."""
    entry: list[str | float] = [function]
    for default, (name, values) in zip(ACTIVATIONS[function], left.items(), strict=False):
        value = next(values, default)
        if value is None:
            raise ValueError(
                f"{name}: expected a number for {role}, {function}, which has no default, got none"
            )
        entry.append(value)
    return tuple(entry)
