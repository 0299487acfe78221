# SPDX-License-Identifier: BSD-3-Clause
"""A dense layer, for what an LSTM is trained with: products of the C core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..model.checks import checked_flag, checked_reals
from ..model.options import Option
from ..model.parameters import NumpyParameters, NumpyTape, ParameterSet, Values, kept_for_backward, uniform

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["Dense", "DenseTape"]


class _Layout(NamedTuple):
    """Which parameters there are."""

    in_features: int
    out_features: int
    bias: bool
    dtype: np.dtype[Any]

    @property
    def fan(self) -> int:
        return self.in_features

    @property
    def sizes(self) -> str:
        return "in_features, out_features"

    def size(self) -> int:
        return self.out_features * (self.in_features + self.bias)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes | ({"bias": (self.out_features,)} if self.bias else {})


class Dense(NumpyParameters):
    """A dense layer, ``y = x W' + b``, with the shapes and meaning of ``torch.nn.Linear``.

    ``layer(x)`` returns y; ``tape = layer.forward(x)`` keeps what the gradient needs: ``tape.y``, and
    ``dx = tape.backward(dy)``, which adds to `grads`.

    Parameters
    ----------
    in_features : int
        Features of the input.
    out_features : int
        Features of the output.
    bias : bool
        Whether there is a bias.
    dtype : dtype_like
        float32 or float64.
    rng : optional
        Anything that `numpy.random.default_rng` takes.  All parameters are drawn from
        U(-1/sqrt(in_features), 1/sqrt(in_features)), as in PyTorch.

    Attributes
    ----------
    in_features, out_features, bias, dtype
        As above; read-only.
    params : dict of str to ndarray
        ``weight`` (out_features, in_features) and ``bias`` (out_features,): read-only views.
    flat_params : ndarray
        All parameters in one read-only buffer, in the order of `params`.
    grads, flat_grads
        Their gradients, likewise but writeable.
    rng : numpy.random.Generator
        The generator of the layer.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument does not fit; the message names it, what was expected and what came.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Dense(3, 2, rng=0)
    >>> tape = layer.forward(np.ones((5, 4, 3), np.float32))
    >>> dx = tape.backward(np.ones_like(tape.y))
    >>> tape.y.shape, dx.shape, layer.grads["bias"].tolist()
    ((5, 4, 2), (5, 4, 3), [20.0, 20.0])
    """

    in_features = Option(_core.count)
    out_features = Option(_core.count)
    bias = Option(checked_flag, True, is_shown=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
    ) -> None:
        self._construct(locals())

    def _first_values(self, given: dict[str, Any]) -> Values:
        return uniform(self.rng)

    def _make_layout(self, settings: dict[str, Any], dtype: np.dtype[Any]) -> _Layout:
        return _Layout(**settings, dtype=dtype)

    def __call__(self, x: ArrayLike) -> NDArray[Any]:
        """Return y.

        Parameters
        ----------
        x : array_like, (..., in_features), or list of arrays
            Real numbers; cast as NumPy does with ``casting="same_kind"``.  A list or tuple of arrays with two
            dimensions or more, as a layer returns it for a list, is a batch of sequences.

        Returns
        -------
        ndarray, (..., out_features), or list of ndarray
            Of the layer's dtype; a list, of arrays in memory of their own, where `x` is a batch of sequences.
            Denormal numbers count as zero.

        Raises
        ------
        TypeError, ValueError
            `x` does not hold real numbers, or its last dimension is not `in_features`.
        """
        params, parts = self._parameter_set(), _sequences(x)
        if parts is None:
            return _apply(params, self._read(x, "x"))
        results: Any = [_apply(params, self._read(part, f"x[{n}]")) for n, part in enumerate(parts)]
        return results  # type: ignore[no-any-return]

    def forward(self, x: ArrayLike) -> DenseTape:
        """Return a tape with y, for one backward.

        Parameters
        ----------
        x : array_like, (..., in_features), or list of arrays
            As in a call.  It is copied, unless nobody can write to it, as to the `y` of a tape.

        Returns
        -------
        DenseTape
            With `y`.
        """
        params, parts = self._parameter_set(), _sequences(x)
        if parts is None:
            kept = kept_for_backward(self._read(x, "x"))
            return DenseTape(self, params, _apply(params, kept), kept)
        read = [self._read(part, f"x[{n}]") for n, part in enumerate(parts)]
        rows = [_as_matrix(part) for part in read]
        kept = np.concatenate(rows) if rows else np.empty((0, self.in_features), self.dtype)
        return DenseTape(self, params, _apply(params, kept), kept, [part.shape[:-1] for part in read])

    def _read(self, x: ArrayLike, name: str) -> NDArray[Any]:
        checked = checked_reals(x, name, self.dtype)
        if checked.ndim < 1 or checked.shape[-1] != self.in_features:
            raise ValueError(f"{name}: expected shape (..., {self.in_features}), got {checked.shape}")
        return checked


class DenseTape(NumpyTape):
    """What `Dense.forward` keeps for one backward.

    Attributes
    ----------
    y : ndarray, (..., out_features), or list of ndarray
        Result of the call, read-only.
    nbytes : int
        Bytes that the tape keeps.
    """

    y: Any

    def __init__(
        self,
        layer: Dense,
        params: ParameterSet,
        y: NDArray[Any],
        x: NDArray[Any],
        shapes: list[tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__(layer, params, y)
        self._x = x
        self._all_y = y  # of all sequences, where there are some: their shapes without the features
        self._shapes = shapes
        if shapes is not None:
            self.y = _split(y, shapes)

    @property
    def nbytes(self) -> int:
        """Bytes that the tape keeps."""
        return self._all_y.nbytes + self._x.nbytes

    def backward(self, dy: ArrayLike) -> Any:
        """Add the gradients of the parameters to `Dense.grads`; return that of the input.

        Parameters
        ----------
        dy : array_like, or list of arrays, shaped as `y`
            Gradient of `y`.

        Returns
        -------
        ndarray, or list of ndarray, shaped as the input
            ``dx = dy W``; ``dW = dy' x`` and ``db`` is the sum of `dy` over all rows.

        Raises
        ------
        RuntimeError
            The tape has been used, or the parameters have been changed since.
        TypeError, ValueError
            `dy` does not fit; nothing has changed, and the tape can still be used.
        """
        rows, x = np.ascontiguousarray(_as_matrix(self._read(dy))), self._x
        flat, flat_grads = self._params.flat, self._layer.flat_grads
        products = _products(self._params)
        dx, scratch = products.backward(flat, _as_matrix(x), rows)
        self._is_used = True
        _core.add_flat(scratch, flat_grads)
        products.give_back(scratch)
        del self._params  # may make room for those that follow
        return dx.reshape(x.shape) if self._shapes is None else _split(dx, self._shapes)

    def _read(self, dy: Any) -> NDArray[Any]:
        """`dy` as one array, if the tape can still be used."""
        self._check_use()
        if self._shapes is None:
            return self._checked(dy, "dy", self._all_y.shape)
        if not isinstance(dy, (list, tuple)):
            raise TypeError(f"dy: expected a list of {len(self._shapes)} arrays, got {type(dy).__name__}")
        if len(dy) != len(self._shapes):
            raise ValueError(f"dy: expected a list of {len(self._shapes)} arrays, got {len(dy)}")
        parts = [self._checked(part, f"dy[{n}]", self.y[n].shape) for n, part in enumerate(dy)]
        return np.concatenate([_as_matrix(part) for part in parts]) if parts else self._all_y


def _sequences(x: Any) -> Sequence[Any] | None:
    """`x` if it is a batch of sequences: a list or tuple with an array of 2 dimensions or more, or empty."""
    if not isinstance(x, (list, tuple)):
        return None
    is_batch = len(x) == 0 or any(
        (isinstance(part, np.ndarray) or hasattr(part, "__array__") or hasattr(part, "__dlpack__"))
        and len(getattr(part, "shape", ())) >= 2
        for part in x
    )
    return x if is_batch else None


def _products(params: ParameterSet) -> _core.Products:
    """The weights as products take them."""
    products = params.products
    if products is None:
        layout = params.layout
        products = _core.Products(layout.dtype, layout.in_features, layout.out_features)
        params.products = products
    return products


def _apply(params: ParameterSet, x: NDArray[Any]) -> NDArray[Any]:
    rows = np.ascontiguousarray(_as_matrix(x))
    y = _products(params).forward(params.flat, rows)
    if x.ndim == 2:
        return y
    y = y.view()
    y.shape = (*x.shape[:-1], y.shape[1])
    return y


def _split(rows: NDArray[Any], shapes: list[tuple[int, ...]]) -> list[NDArray[Any]]:
    """Sequences of rows, which stand one behind the other."""
    parts, begin = [], 0
    for shape in shapes:
        end = begin + math.prod(shape)
        parts.append(rows[begin:end].reshape(*shape, rows.shape[1]))
        begin = end
    return parts


def _as_matrix(x: NDArray[Any]) -> NDArray[Any]:
    """`x` with all dimensions but the last made one."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # reshape could not tell them if there are none
