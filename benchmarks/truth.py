# SPDX-License-Identifier: BSD-3-Clause
"""The float64 answer of a case, by `fastlstm.reference`."""

from typing import Any

from benchmarks.data import Array
from benchmarks.peers.base import Case, gradients
from benchmarks.shapes import Shape


def answer(case: Case) -> tuple[Array, ...]:
    """What every contestant's answer is compared with.

    Parameters
    ----------
    case : Case
        Its values are taken as they are, in float32, and everything is computed in float64.

    Returns
    -------
    tuple of ndarray
        y, h_n and, where the cell has one, c_n; of a training step what `gradients` returns.
    """
    from fastlstm import reference

    shape, params, x = case.shape, case.params, case.x
    if not shape.is_family:
        options: dict[str, Any] = {"bidirectional": shape.directions == 2, "dtype": "float64"}
        if shape.is_training:
            dx, _, grads = reference.lstm_backward(x, params, dy=case.dy, **options)
            assert dx is not None
            return gradients(case, dx, grads)
        y, (h_n, c_n) = reference.lstm(x, params, case.state, **options)
        return y, h_n, c_n
    config = reference_config(shape)
    lengths = shape.lengths()
    if shape.is_training:
        dx, _, grads = reference.backward(config, params, x, lengths=lengths, dy=case.dy, dtype="float64")
        assert dx is not None
        return gradients(case, dx, grads)
    result = reference.forward(config, params, x, lengths=lengths, dtype="float64")
    return (result.y, *(result.state if shape.form.has_c else (result.state,)))


def reference_config(shape: Shape) -> Any:
    """The shape's layer as the reference names it."""
    from fastlstm import reference

    return reference.Config(
        shape.form.cell,
        shape.I,
        shape.H,
        shape.layers,
        bidirectional=shape.directions == 2,
        **shape.form.arguments(shape.H),
    )
