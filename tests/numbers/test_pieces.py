# SPDX-License-Identifier: BSD-3-Clause
"""The pieces on NumPy arrays against their readable twins; their last bits are in test_numerics.py."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from fastlstm import kernels, reference
from tests.problems.comparing import assert_close, assert_same_bits

DTYPES = [np.float32, np.float64]
SIZES = [(1, 1, 1), (1, 3, 16), (2, 17, 5), (6, 4, 33), (7, 65, 40), (13, 1, 24), (50, 30, 129), (3, 300, 20)]


def operands(rng, B, I, H, dtype):
    shapes = ((B, I), (B, H), (4 * H, I), (4 * H, H), (4 * H,))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def assert_product(got, arguments):
    """Within what chains of multiply-adds may lose: length times the rounding of the sum of magnitudes."""
    wide = [a.astype(np.longdouble) for a in arguments]
    truth = reference.gate_matmul(*wide)
    magnitude = reference.gate_matmul(*map(np.abs, wide))
    length = sum(a.shape[1] for a in arguments[:2]) + 1
    assert got.shape == truth.shape
    assert (np.abs(got - truth) <= length * np.finfo(got.dtype).eps * magnitude).all()


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gate_matmul_against_the_reference(size, dtype, rng):
    arguments = operands(rng, *size, dtype)
    got = kernels.gate_matmul(*arguments)
    assert got.dtype == dtype
    assert_product(got, arguments)
    assert_product(kernels.gate_matmul(*arguments[:4]), arguments[:4])


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_matmul_of_small_integers_is_exact(dtype, rng):
    """No rounding to hide in: every product in its place, in the order i, f, g, o."""
    for B, I, H in SIZES:
        shapes = ((B, I), (B, H), (4 * H, I), (4 * H, H), (4 * H,))
        arguments = [rng.integers(-9, 10, shape).astype(dtype) for shape in shapes]
        np.testing.assert_array_equal(kernels.gate_matmul(*arguments), reference.gate_matmul(*arguments))


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_weights_give_the_same_bits(dtype, rng):
    for size in SIZES:
        x, h, *weights = operands(rng, *size, dtype)
        for used in (weights, weights[:2]):
            packed = kernels.packed(*used)
            expected = kernels.gate_matmul(x, h, *used)
            assert_same_bits(kernels.gate_matmul(x, h, packed), expected)
            out = np.full_like(expected, np.nan)
            assert kernels.gate_matmul(x, h, packed, out=out) is out
            assert_same_bits(out, expected)
            assert_same_bits(kernels.gate_matmul(x[0], h[0], packed), expected[0])


def test_packed_weights_do_not_change_with_the_arrays(rng):
    x, h, *weights = operands(rng, 3, 5, 7, np.float32)
    packed = kernels.packed(*weights)
    expected = kernels.gate_matmul(x, h, packed)
    for weight in weights:
        weight[...] = np.nan
    assert_same_bits(kernels.gate_matmul(x, h, packed), expected)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_cell_update_against_the_reference(dtype, rng):
    tolerance = 4 * np.finfo(dtype).eps
    for B, _, H in SIZES:
        gates = (3 * rng.standard_normal((B, 4 * H))).astype(dtype)
        c = rng.standard_normal((B, H)).astype(dtype)
        got = kernels.cell_update(gates, c)
        truth = reference.cell_update(gates.astype(np.longdouble), c.astype(np.longdouble))
        for a, b in zip(got, truth, strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b.astype(dtype), rtol=tolerance, atol=4 * tolerance)
        assert_same_bits(kernels.cell_update(gates[0], c[0]), tuple(a[0] for a in got))
        out = (np.empty_like(c), np.empty_like(c))
        h_new, c_new = kernels.cell_update(gates, c, out=out)
        assert h_new is out[0]
        assert c_new is out[1]
        assert_same_bits(out, got)


def test_cell_update_in_place_of_c(rng):
    gates, c = rng.standard_normal((7, 80)), rng.standard_normal((7, 20))
    expected = kernels.cell_update(gates, c)
    h = np.empty((7, 20))
    assert_same_bits(kernels.cell_update(gates, c, out=(h, c)), expected)
    assert_same_bits(c, expected[1])


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_against_the_reference(dtype, bias, rng):
    for B, I, H in ((1, 1, 1), (2, 5, 16), (7, 40, 33), (64, 30, 100)):
        cell = fastlstm.LSTMCell(I, H, bias, dtype=dtype, rng=0)
        x = rng.standard_normal((B, I)).astype(dtype)
        state = tuple(rng.standard_normal((B, H)).astype(dtype) for _ in "hc")
        params = {name: value.astype(np.longdouble) for name, value in cell.state_dict().items()}
        assert_close(cell(x, state), reference.lstm_cell(x, state, params))
        assert_same_bits(cell(x), cell(x, tuple(np.zeros((B, H), dtype) for _ in "hc")))
        assert_same_bits(cell(x[0], tuple(s[0] for s in state)), tuple(a[0] for a in cell(x, state)))
        index = rng.integers(0, I, B)
        assert_same_bits(cell(index, state), cell(np.eye(I, dtype=dtype)[index], state))
        assert_same_bits(cell(int(index[0]))[0], cell(index[:1])[0][0])


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_activations_of_any_shape_dtype_and_layout(name, rng):
    function, twin = getattr(kernels, name), getattr(reference, name)
    for shape in ((), (0,), (1,), (5,), (3, 0, 2), (2, 3, 4), (1, 1, 1, 1, 7)):
        for dtype in DTYPES:
            x = rng.standard_normal(shape).astype(dtype)
            got = function(x)
            assert got.dtype == dtype
            assert got.shape == shape
            np.testing.assert_allclose(
                got, twin(x.astype(np.longdouble)).astype(dtype), rtol=4 * np.finfo(dtype).eps
            )
    x = rng.standard_normal((6, 8))
    assert_same_bits(function(np.asfortranarray(x)), function(x))
    assert_same_bits(function(x[::-2, ::3]), function(x[::-2, ::3].copy()))
    assert_same_bits(function(x.astype(">f8")), function(x))
    assert_same_bits(function(x.tolist()), function(x))
    assert function(x.astype(np.float16)).dtype == np.float32
    assert_same_bits(function([1, 2, 3]), function([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_activations_into_out_and_in_place(name, rng):
    function = getattr(kernels, name)
    for dtype in DTYPES:
        x = rng.standard_normal((5, 37)).astype(dtype)
        expected = function(x)
        out = np.full_like(x, np.nan)
        assert function(x, out=out) is out
        assert_same_bits(out, expected)
        kept = x.copy()
        assert_same_bits(function(x), expected)
        assert_same_bits(x, kept)
        assert function(x, out=x) is x
        assert_same_bits(x, expected)


def test_mixed_dtypes_are_computed_in_the_wider_one(rng):
    arguments = operands(rng, 3, 5, 7, np.float32)
    for which in range(5):
        mixed = list(arguments)
        mixed[which] = mixed[which].astype(np.float64)
        got = kernels.gate_matmul(*mixed)
        assert got.dtype == np.float64
        assert_same_bits(got, kernels.gate_matmul(*(a.astype(np.float64) for a in arguments)))
    gates, c = np.ones((2, 8)), np.ones((2, 2), np.float32)
    assert kernels.cell_update(gates, c)[0].dtype == np.float64


def test_strided_operands(rng):
    arguments = operands(rng, 6, 10, 8, np.float32)
    expected = kernels.gate_matmul(*arguments)
    strided = [np.repeat(a, 2, axis=-1)[..., ::2] for a in arguments]
    assert_same_bits(kernels.gate_matmul(*strided), expected)
    assert_same_bits(kernels.gate_matmul(*(np.asfortranarray(a) for a in arguments)), expected)


def test_no_rows_is_an_empty_result():
    empty = kernels.gate_matmul(np.ones((0, 3)), np.ones((0, 4)), np.ones((16, 3)), np.ones((16, 4)))
    assert empty.shape == (0, 16)
    h, c = kernels.cell_update(np.ones((0, 16)), np.ones((0, 4)))
    assert h.shape == c.shape == (0, 4)


def changed(**changes):
    """gate_matmul of B=2, I=3, H=4 with some arguments replaced."""
    arguments = {
        "x": np.ones((2, 3)),
        "h": np.ones((2, 4)),
        "weight_ih": np.ones((16, 3)),
        "weight_hh": np.ones((16, 4)),
        "bias": np.ones(16),
    }
    return kernels.gate_matmul(**(arguments | changes))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("x", np.ones((2, 4)), ValueError),
        ("x", np.ones((2, 2, 3)), ValueError),
        ("x", np.ones((2, 3), int), TypeError),
        ("x", np.ones((2, 3), complex), TypeError),
        ("h", np.ones((2, 5)), ValueError),
        ("h", np.ones((3, 4)), ValueError),
        ("h", np.ones(4), ValueError),
        ("weight_ih", np.ones((15, 3)), ValueError),
        ("weight_ih", np.ones(16), ValueError),
        ("weight_ih", np.ones((16, 0)), ValueError),
        ("weight_hh", np.ones((16, 3, 1)), ValueError),
        ("weight_hh", np.ones((12, 4)), ValueError),
        ("weight_hh", None, (TypeError, ValueError)),
        ("bias", np.ones(15), ValueError),
        ("bias", np.ones((1, 16)), ValueError),
        ("bias", np.ones(16, bool), TypeError),
        ("out", np.ones((2, 15)), ValueError),
        ("out", np.ones((2, 16), np.float32), ValueError),
        ("out", np.ones((16, 2)).T, ValueError),
        ("out", [[0.0] * 16] * 2, TypeError),
    ],
)
def test_gate_matmul_refuses_what_does_not_fit(name, value, error):
    with pytest.raises(error, match=rf"^{name}: expected .*, got "):
        changed(**{name: value})


def test_gate_matmul_with_packed_and_other_weights_is_an_error():
    packed = kernels.packed(np.ones((16, 3)), np.ones((16, 4)))
    for extra in ({"weight_hh": np.ones((16, 4))}, {"bias": np.ones(16)}):
        with pytest.raises(TypeError, match="packed"):
            kernels.gate_matmul(np.ones((2, 3)), np.ones((2, 4)), packed, **extra)
    with pytest.raises(ValueError, match=r"^x: expected .*, got "):
        kernels.gate_matmul(np.ones((2, 4)), np.ones((2, 4)), packed)


def test_outs_that_overlap_are_errors():
    memory = np.ones(400)
    x, out = memory[:6].reshape(2, 3), memory[5:37].reshape(2, 16)
    with pytest.raises(ValueError, match=r"^out: expected .*, got "):
        changed(x=x, out=out)
    gates, c, h = np.ones((2, 16)), np.ones((2, 4)), np.ones((2, 4))
    inside = gates.reshape(-1)[:8].reshape(2, 4)
    for pair in ((c, h), (h, inside), (inside, h), (h, h)):
        with pytest.raises(ValueError, match=r"^out(\[[01]\])?: expected .*, got "):
            kernels.cell_update(gates, c, out=pair)
    for function in (kernels.sigmoid, kernels.tanh):
        with pytest.raises(ValueError, match=r"^out: expected .*, got "):
            function(memory[:50], out=memory[1:51])


@pytest.mark.parametrize(
    ("gates", "c", "name"),
    [
        (np.ones((2, 15)), np.ones((2, 4)), "gates"),
        (np.ones((3, 16)), np.ones((2, 4)), "gates"),
        (np.ones(16), np.ones((2, 4)), "gates"),
        (np.ones((2, 16)), np.ones((1, 2, 4)), "c"),
        (np.ones((2, 16)), np.ones(()), "c"),
    ],
)
def test_cell_update_refuses_what_does_not_fit(gates, c, name):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, got "):
        kernels.cell_update(gates, c)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_activations_refuse_what_is_not_real_or_does_not_fit(name):
    function = getattr(kernels, name)
    for bad in (np.ones(3, complex), np.ones(3, bool), "text", None, np.array(["a"])):
        with pytest.raises(TypeError, match=r"^x: expected .*got "):
            function(bad)
    for out in (np.ones(4), np.ones(3, np.float32), np.ones(6)[::2]):
        with pytest.raises(ValueError, match=r"^out: expected .*got "):
            function(np.ones(3), out=out)
    with pytest.raises(TypeError, match=r"^out: expected .*got "):
        function(np.ones(3), out=[0.0, 0.0, 0.0])
