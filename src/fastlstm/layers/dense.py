# SPDX-License-Identifier: BSD-3-Clause
"""A dense layer in NumPy, for what an LSTM is trained with."""

from __future__ import annotations

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
        x : array_like, (..., in_features)
            Real numbers; cast as NumPy does with ``casting="same_kind"``.

        Returns
        -------
        ndarray, (..., out_features)
            Of the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            `x` does not hold real numbers, or its last dimension is not `in_features`.
        """
        return _apply(self._parameter_set(), self._read(x))

    def forward(self, x: ArrayLike) -> DenseTape:
        """Return a tape with y, for one backward.

        Parameters
        ----------
        x : array_like, (..., in_features)
            As in a call.  It is copied, unless it is read-only, as the `y` of a tape is.

        Returns
        -------
        DenseTape
            With `y`.
        """
        params, checked = self._parameter_set(), self._read(x)
        return DenseTape(self, params, _apply(params, checked), kept_for_backward(checked, x))

    def _read(self, x: ArrayLike) -> NDArray[Any]:
        checked = checked_reals(x, "x", self.dtype)
        if checked.ndim < 1 or checked.shape[-1] != self.in_features:
            raise ValueError(f"x: expected shape (..., {self.in_features}), got {checked.shape}")
        return checked


class DenseTape(NumpyTape):
    """What `Dense.forward` keeps for one backward.

    Attributes
    ----------
    y : ndarray, (..., out_features)
        Result of the call, read-only.
    nbytes : int
        Bytes that the tape keeps.
    """

    def __init__(self, layer: Dense, params: ParameterSet, y: NDArray[Any], x: NDArray[Any]) -> None:
        super().__init__(layer, params, y)
        self._x = x

    @property
    def nbytes(self) -> int:
        """Bytes that the tape keeps."""
        return self.y.nbytes + self._x.nbytes

    def backward(self, dy: ArrayLike) -> NDArray[Any]:
        """Add the gradients of the parameters to `Dense.grads`; return that of the input.

        Parameters
        ----------
        dy : array_like, shaped as `y`
            Gradient of `y`.

        Returns
        -------
        ndarray, shaped as the input
            ``dx = dy W``; ``dW = dy' x`` and ``db`` is the sum of `dy` over all rows.

        Raises
        ------
        RuntimeError
            The tape has been used, or the parameters have been changed since.
        TypeError, ValueError
            `dy` does not fit; nothing has changed, and the tape can still be used.
        """
        rows, x = _as_matrix(self._check(dy)), self._x
        views, sums = self._params.views, self._layer.grads
        dx: NDArray[Any] = (rows @ views["weight"]).reshape(x.shape)
        dweight, dbias = rows.T @ _as_matrix(x), rows.sum(axis=0)
        self._is_used = True
        sums["weight"] += dweight
        if "bias" in sums:
            sums["bias"] += dbias
        return dx


def _apply(params: ParameterSet, x: NDArray[Any]) -> NDArray[Any]:
    # One product of two matrices: NumPy would make one of each matrix in a stack.
    weight = params.views["weight"]
    y: NDArray[Any] = _as_matrix(x) @ weight.T
    if "bias" in params.views:
        y += params.views["bias"]
    return y.reshape(*x.shape[:-1], len(weight))


def _as_matrix(x: NDArray[Any]) -> NDArray[Any]:
    """`x` with all dimensions but the last made one."""
    rows = 1
    for size in x.shape[:-1]:  # reshape could not tell them if there are none
        rows *= size
    return x.reshape(rows, x.shape[-1])
