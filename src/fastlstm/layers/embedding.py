# SPDX-License-Identifier: BSD-3-Clause
"""A table of vectors in NumPy, for what an LSTM is trained with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..model.checks import checked_array, checked_index, checked_sequences
from ..model.options import Option, Settings
from ..model.parameters import Filler, NumpyParameters, NumpyTape, ParameterSet, Values, normal

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Embedding", "EmbeddingTape"]

# Elements that are added at a time, so that their addresses stay in cache.
CHUNK = 2**18


class _Layout(NamedTuple):
    """Which parameters there are."""

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    dtype: np.dtype[Any]

    @property
    def fan(self) -> int:
        return self.embedding_dim

    @property
    def sizes(self) -> str:
        return "num_embeddings, embedding_dim"

    def size(self) -> int:
        return self.num_embeddings * self.embedding_dim

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.num_embeddings, self.embedding_dim)}


def _checked_padding(value: Any, name: str) -> int | None:
    return None if value is None else checked_index(value, name, None)


def _refused_padding(o: Settings) -> str | bool:
    count = o["num_embeddings"]
    return not -count <= o["padding_idx"] < count and f"a row from {-count} to {count - 1}"


class Embedding(NumpyParameters):
    """A table of vectors, ``y = weight[x]``, with the shapes and meaning of ``torch.nn.Embedding``.

    ``layer(x)`` returns y; ``tape = layer.forward(x)`` keeps what the gradient needs: ``tape.y``, and
    ``tape.backward(dy)``, which adds to `grads` and returns None, as indices have no gradient.

    Parameters
    ----------
    num_embeddings : int
        Rows of the table.
    embedding_dim : int
        Features of each row.
    padding_idx : int, optional
        A row, from -num_embeddings to num_embeddings - 1, that stands for no word: it is zero at first and
        gets no gradient, so that training leaves it as it is.  The attribute counts from 0.
    dtype : dtype_like
        float32 or float64.
    rng : optional
        Anything that `numpy.random.default_rng` takes.  All parameters are drawn from N(0, 1), as in PyTorch.

    Attributes
    ----------
    num_embeddings, embedding_dim, padding_idx, dtype
        As above; read-only.
    params : dict of str to ndarray
        ``weight`` (num_embeddings, embedding_dim): a read-only view.
    flat_params : ndarray
        The same as one read-only buffer.
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
    >>> layer = Embedding(10, 3, rng=0)
    >>> tape = layer.forward([[1, 2], [1, 9]])
    >>> tape.backward(np.ones_like(tape.y))
    >>> tape.y.shape, layer.grads["weight"].sum(axis=1).tolist()
    ((2, 2, 3), [0.0, 6.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0])
    """

    num_embeddings = Option(_core.count)
    embedding_dim = Option(_core.count)
    padding_idx: Option[int | None] = Option(_checked_padding, None, _refused_padding)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
    ) -> None:
        self._construct(locals())

    def _first_values(self, given: dict[str, Any]) -> Values:
        draws = normal(self.rng)

        def values(layout: _Layout) -> Iterable[NDArray[Any] | Filler]:
            fill: Any
            (fill,) = draws(layout)

            def table(out: NDArray[Any]) -> None:
                fill(out)
                if layout.padding_idx is not None:
                    out[layout.padding_idx] = 0

            return (table,)

        return values

    def _make_layout(self, settings: dict[str, Any], dtype: np.dtype[Any]) -> _Layout:
        if settings["padding_idx"] is not None:
            settings["padding_idx"] %= settings["num_embeddings"]
        return _Layout(**settings, dtype=dtype)

    def __call__(self, x: Any) -> Any:
        """Return the rows of the table that `x` names.

        Parameters
        ----------
        x : array_like of integers, any shape
            Indices from 0 to num_embeddings - 1; or a list of arrays (T_b,), for which y is a list.

        Returns
        -------
        ndarray, (*x.shape, embedding_dim), or list of ndarray
            Of the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            `x` does not hold integers, or one is out of range.
        """
        params, (index, bounds) = self._parameter_set(), self._read(x)
        y = _apply(params, index)
        return y if bounds is None else _core.split_sequences(y, bounds)

    def forward(self, x: Any) -> EmbeddingTape:
        """Return a tape with y, for one backward.

        Parameters
        ----------
        x : array_like of integers, any shape
            As in a call; it is copied.

        Returns
        -------
        EmbeddingTape
            With `y`.
        """
        params, (index, bounds) = self._parameter_set(), self._read(x)
        return EmbeddingTape(self, params, _apply(params, index), index, bounds)

    def _own_words(self) -> _core.Words:
        """What is known of the gradients of single rows."""
        words: _core.Words | None = self.__dict__.get("_words")
        if words is None:
            table = 0, self.num_embeddings, self.embedding_dim, False
            words = self.__dict__.setdefault("_words", _core.Words(self.dtype, [table]))
        return words

    def _read(self, x: Any) -> tuple[NDArray[np.intp], NDArray[np.int64] | None]:
        """`x` as indices that nobody else can change, and the bounds of sequences if it is a list of them."""
        rows = _core.read_sequences(x, "x")
        if rows is None:
            return self._checked(checked_array(x, "x"), "x"), None
        given = [self._checked(checked_array(row, f"x[{b}]"), f"x[{b}]") for b, row in enumerate(rows)]
        for b, row in enumerate(given):
            if row.ndim != 1:
                raise ValueError(f"x[{b}]: expected shape (T,) in a list of arrays, got {row.shape}")
        bounds = np.cumsum([0, *map(len, given)], dtype=np.int64)
        return np.concatenate([np.empty(0, np.intp), *given]), bounds

    def _checked(self, given: NDArray[Any], name: str) -> NDArray[np.intp]:
        if given.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected integers, got dtype {given.dtype}")
        is_bad = (given < 0) | (given >= self.num_embeddings)
        if is_bad.any():
            place = tuple(np.argwhere(is_bad)[0].tolist())
            raise ValueError(
                f"{name}{list(place) if place else ''}: expected an index from 0 to "
                f"{self.num_embeddings - 1}, got {given[place]}"
            )
        return given.astype(np.intp, order="C")


class EmbeddingTape(NumpyTape):
    """What `Embedding.forward` keeps for one backward.

    Attributes
    ----------
    y : ndarray, (*x.shape, embedding_dim)
        Result of the call, read-only.
    nbytes : int
        Bytes that the tape keeps.
    """

    def __init__(
        self,
        layer: Embedding,
        params: ParameterSet,
        y: NDArray[Any],
        index: NDArray[np.intp],
        bounds: NDArray[np.int64] | None,
    ) -> None:
        super().__init__(layer, params, y)
        self._index, self._bounds = index, bounds
        self._nbytes = y.nbytes + index.nbytes
        self._width = layer.embedding_dim
        if bounds is not None:
            self._y = _core.split_sequences(self._y, bounds)

    @property
    def nbytes(self) -> int:
        """Bytes that the tape keeps."""
        return self._nbytes

    def backward(self, dy: Any) -> None:
        """Add the gradient of the table to `Embedding.grads`.

        Parameters
        ----------
        dy : array_like, shaped as `y`
            Gradient of `y`.  What belongs to one row of the table is added in the order of `x`, so that the
            bits are always the same.

        Raises
        ------
        RuntimeError
            The tape has been used, or the parameters have been changed since.
        TypeError, ValueError
            `dy` does not fit; nothing has changed, and the tape can still be used.
        """
        checked = self._check_listed(dy) if self._bounds is not None else self._check(dy)
        rows, place = np.unique(self._index, return_inverse=True)
        sums = np.zeros((rows.size, checked.shape[-1]), checked.dtype)
        padding = self._params.layout.padding_idx
        with np.errstate(all="ignore"):  # what overflows or is not finite gives what it gives
            _add_rows(sums, place.reshape(-1), checked.reshape(place.size, checked.shape[-1]))
            if padding is not None:
                sums[rows == padding] = 0
        with self._layer._adding:
            layer: Any = self._layer
            if layer._own_words().add(rows, [sums]):
                self.__dict__["_is_used"] = True  # without a call, which may find no memory
                return
            grad = self._layer.grads["weight"]
            with np.errstate(all="ignore"):  # whose end may find no memory: before anything has changed
                sums += grad[rows]
            try:
                self._is_used = True
                grad[rows] = sums
            except (MemoryError, SystemError):  # NumPy may find no memory for the exception itself
                self.__dict__["_is_used"] = False  # without a call, which may find no memory
                raise

    def _check_listed(self, dy: Any) -> NDArray[Any]:
        """Gradients of a list of sequences, as one array."""
        self._check_unused()
        width = self._width
        counts = np.diff(np.asarray(self._bounds)).tolist()
        rows = checked_sequences(dy, "dy", len(counts))
        dtype = self._layer.dtype
        arrays = [
            _core.real_array(row, f"dy[{b}]", (count, width), dtype)
            for b, (row, count) in enumerate(zip(rows, counts, strict=True))
        ]
        return np.concatenate([np.empty((0, width), dtype), *arrays])


def _apply(params: ParameterSet, index: NDArray[np.intp]) -> NDArray[Any]:
    return np.asarray(params.views["weight"].take(index, axis=0))


def _add_rows(sums: NDArray[Any], index: NDArray[np.intp], values: NDArray[Any]) -> None:
    """``sums[index[n]] += values[n]`` for each n in turn; `sums` is contiguous.

    ufunc.at adds single elements about three times as fast as rows, and four times as fast as sorting the
    rows and adding them with reduceat (100 000 rows of 128 into 50, NumPy 2.4: 34, 111 and 95 ms).
    """
    features = sums.shape[1]
    step = max(1, CHUNK // features)
    for begin in range(0, len(index), step):
        part = index[begin : begin + step, np.newaxis] * features + np.arange(features)
        with np.errstate(all="ignore"):
            np.add.at(sums.reshape(-1), part.reshape(-1), values[begin : begin + step].reshape(-1))
