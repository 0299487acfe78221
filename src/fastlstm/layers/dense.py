# SPDX-License-Identifier: BSD-3-Clause
"""A dense layer, for what an LSTM is trained with: products of the C core."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..model.checks import checked_flag, checked_reals, checked_sequences
from ..model.guards import gradient_views, parameter_views
from ..model.options import Option, Settings
from ..model.parameters import (
    LoadedKeys,
    NumpyParameters,
    NumpyTape,
    Parameters,
    ParameterSet,
    Values,
    matched,
    uniform,
)
from .embedding import Embedding

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["Dense", "DenseTape"]


class _Layout(NamedTuple):
    """Which parameters there are."""

    in_features: int
    out_features: int
    bias: bool
    tied: Any  # the layer that has the weight, or None
    dtype: np.dtype[Any]

    @property
    def fan(self) -> int:
        return self.in_features

    @property
    def sizes(self) -> str:
        return "in_features, out_features"

    def size(self) -> int:
        return self.out_features * (self.in_features * (self.tied is None) + self.bias)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        if self.tied is None:
            shapes["weight"] = (self.out_features, self.in_features)
        return shapes | ({"bias": (self.out_features,)} if self.bias else {})


def _checked_tied(value: Any, name: str) -> Embedding | None:
    if value is not None and not isinstance(value, Embedding):
        raise TypeError(f"{name}: expected an Embedding or None, got {type(value).__name__}")
    return value


def _refused_tied(o: Settings) -> str | bool:
    table = o["tied"]._parameter_set().layout
    return (table.num_embeddings, table.embedding_dim) != (o["out_features"], o["in_features"]) and (
        f"an Embedding of {o['out_features']} rows, which are out_features, of {o['in_features']} features"
    )


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
    tied : Embedding, optional
        The layer whose table is the weight of this one: one parameter for both, (out_features, in_features).
        See the notes.
    dtype : dtype_like
        float32 or float64.
    rng : optional
        Anything that `numpy.random.default_rng` takes.  All parameters are drawn from
        U(-1/sqrt(in_features), 1/sqrt(in_features)), as in PyTorch.

    Attributes
    ----------
    in_features, out_features, bias, tied, dtype
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

    Notes
    -----
    With `tied` the weight is that of the embedding, always (Press & Wolf, "Using the Output Embedding to
    Improve Language Models", 2017): ``tape.backward`` adds its gradient to the embedding's, so that both are
    summed, and an optimizer, which is given both layers, changes it once.  `params`, `grads`, `zero_grad`,
    `state_dict` and `load_state_dict` are of the weight and the bias, as without a tie, while `flat_params`,
    `flat_grads` and `editing` are of this layer's own parameters: the bias alone.  A deep copy or pickle of
    the layer has a copy of the embedding, the same as that of the model where both are copied together;
    `copy.copy` shares it.

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
    tied: Option[Embedding | None] = Option(_checked_tied, None, _refused_tied)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        tied: Embedding | None = None,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
    ) -> None:
        self._construct(locals())

    def _first_values(self, given: dict[str, Any]) -> Values:
        return uniform(self.rng)

    def _make_layout(self, settings: dict[str, Any], dtype: np.dtype[Any]) -> _Layout:
        tied = settings["tied"]
        if tied is not None and tied.dtype != dtype:
            raise ValueError(f"tied: expected an Embedding of dtype {dtype}, got {tied.dtype}")
        return _Layout(**settings, dtype=dtype)

    # ---- The weight of another layer ----------------------------------------------------------------------

    @property
    def _whole(self) -> ParameterSet:
        """Weight and bias in force, as one set: the same object as long as neither changes."""
        own, tied = self._parameter_set(), self.tied
        if tied is None:
            return own
        table = tied._parameter_set()
        joined: _Joined | None = self.__dict__.get("_joined")
        if joined is None or joined.own is not own or joined.table is not table:
            layout = own.layout._replace(tied=None)
            joined = _Joined(own, table, ParameterSet(layout, np.concatenate([table.flat, own.flat])))
            self.__dict__["_joined"] = joined
        return joined.whole

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        """Weight and bias by name, as read-only views; see `editing` and `load_state_dict`."""
        own = super().params
        return own if self.tied is None else parameter_views({**self.tied.params, **own})

    @property
    def grads(self) -> dict[str, NDArray[Any]]:
        """Gradients by the names of `params`, as writeable views; of a tied weight the embedding's."""
        own = super().grads
        return own if self.tied is None else gradient_views({**self.tied.grads, **own})

    def zero_grad(self) -> None:
        """Set all gradients to zero, that of a tied weight too."""
        super().zero_grad()
        if self.tied is not None:
            self.tied.zero_grad()

    def state_dict(self, *, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Return copies of weight and bias, as of other layers; a tied weight is the embedding's."""
        own = super().state_dict(prefix=prefix)
        return own if self.tied is None else self.tied.state_dict(prefix=prefix) | own

    def _loaded(
        self, mapping: Mapping[str, ArrayLike], prefix: str, strict: bool
    ) -> tuple[LoadedKeys, list[tuple[Parameters, ParameterSet]]]:
        tied = self.tied
        if tied is None:
            return super()._loaded(mapping, prefix, strict)
        keys = matched(mapping, self.params, prefix, strict)
        _, own = super()._loaded(mapping, prefix, False)
        _, table = tied._loaded(mapping, prefix, False)
        # An embedding whose weight is not there, or the same, keeps its set, and its tapes.
        is_same = np.array_equal(table[0][1].flat, tied.flat_params, equal_nan=True)
        return keys, own if is_same else own + table

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
        params, rows = self._whole, _core.read_sequences(x, "x")
        if rows is None:
            return _apply(params, self._read(x, "x"))
        results: Any = [_apply(params, self._read(row, f"x[{n}]")) for n, row in enumerate(rows)]
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
        params, rows = self._whole, _core.read_sequences(x, "x")
        if rows is None:
            kept = _core.kept(self._read(x, "x"))
            return DenseTape(self, params, _apply(params, kept), kept)
        read = [self._read(row, f"x[{n}]") for n, row in enumerate(rows)]
        joined = np.concatenate([np.empty((0, self.in_features), self.dtype), *map(_as_matrix, read)])
        return DenseTape(self, params, _apply(params, joined), joined, [row.shape[:-1] for row in read])

    def _read(self, x: ArrayLike, name: str) -> NDArray[Any]:
        checked = checked_reals(x, name, self.dtype)
        if checked.ndim < 1 or checked.shape[-1] != self.in_features:
            raise ValueError(f"{name}: expected shape (..., {self.in_features}), got {checked.shape}")
        return checked


class _Joined(NamedTuple):
    """The sets of two layers, and what is made of them."""

    own: ParameterSet
    table: ParameterSet
    whole: ParameterSet


class DenseTape(NumpyTape):
    """What `Dense.forward` keeps for one backward.

    Attributes
    ----------
    y : ndarray, (..., out_features), or list of ndarray
        Result of the call, read-only.
    nbytes : int
        Bytes that the tape keeps.
    """

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
        self._all_y = self._y  # of all sequences, where there are some: their shapes without the features
        self._shapes = shapes
        if shapes is not None:
            self._y = _split(self._all_y, shapes)

    def _is_in_force(self) -> bool:
        layer: Any = self._layer
        return layer._whole is self._params

    @property
    def nbytes(self) -> int:
        """Bytes that the tape keeps."""
        return int(self._all_y.nbytes + self._x.nbytes)

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
        rows, x = _as_matrix(self._read(dy)), _as_matrix(self._x)
        params = self._params
        products = _products(params)
        dx, scratch = products.backward(params.flat, x, rows)
        result = dx.reshape(self._x.shape) if self._shapes is None else _split(dx, self._shapes)
        self._add(scratch)
        products.give_back(scratch)
        del self._params  # may make room for those that follow
        return result

    def _add(self, gradients: NDArray[Any]) -> None:
        """Add to the sums of weight and bias, where each belongs: nothing is raised once one has changed."""
        layer: Any = self._layer
        owners = [layer] if layer.tied is None else [layer.tied, layer]
        sums = [owner.flat_grads for owner in owners]
        with contextlib.ExitStack() as locks:
            for owner in owners:
                locks.enter_context(owner._adding)
            try:
                self._is_used = True
                _core.add_flat(gradients, sums)
            except MemoryError:
                self.__dict__["_is_used"] = False  # without a call, which may find no memory
                raise

    def _read(self, dy: Any) -> NDArray[Any]:
        """`dy` as one array, if the tape can still be used."""
        self._check_unused()
        shapes = self._shapes
        if shapes is None:
            return self._checked(dy, "dy", self._y.shape)
        width = self._all_y.shape[-1]
        given = checked_sequences(dy, "dy", len(shapes))
        parts = [
            _as_matrix(self._checked(row, f"dy[{n}]", (*shape, width)))
            for n, (row, shape) in enumerate(zip(given, shapes, strict=True))
        ]
        return np.concatenate([np.empty((0, width), self._all_y.dtype), *parts])


def _products(params: ParameterSet) -> _core.Products:
    """The weights as products take them."""
    products = params.products
    if products is None:
        layout = params.layout
        products = _core.Products(layout.dtype, layout.in_features, layout.out_features)
        params.products = products
    return products


def _apply(params: ParameterSet, x: NDArray[Any]) -> NDArray[Any]:
    y = _products(params).forward(params.flat, _as_matrix(x))
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
    """`x`, contiguous, with all dimensions but the last made one."""
    # reshape could not tell how many rows there are if there are none
    return np.ascontiguousarray(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
