# SPDX-License-Identifier: BSD-3-Clause
"""The operators of ONNX: its own cases, random calls against the reference, what is open, errors."""

from __future__ import annotations

import collections

import ml_dtypes
import numpy as np
import pytest

import fastlstm
from tests.interop.onnx_cases import (
    ACTIVATIONS,
    FUNCTIONS,
    GATES,
    PARAMETERS,
    Call,
    by_reference,
    by_the_text,
    node_cases,
    random_call,
    run_node,
)

NODE_CASES = node_cases()
OPS = tuple(FUNCTIONS)
SEEDS = range(100)
TOLERANCE = {np.dtype(np.float64): 1e-14, np.dtype(np.float32): 1e-6}


def assert_close(got, want, dtype):
    """All outputs, relative to the largest number of each."""
    assert len(got) == len(want)
    for array, truth in zip(got, want, strict=True):
        assert np.isfinite(truth).all()
        assert array.shape == truth.shape
        assert array.dtype == dtype
        error = np.abs(array - truth).max(initial=0)
        assert error <= TOLERANCE[np.dtype(dtype)] * max(1, np.abs(truth).max(initial=0))


def call_of(op, seed, dtype=np.float64, **fixed) -> Call:
    return random_call(np.random.default_rng([OPS.index(op), seed]), op, dtype, **fixed)


# ---- Against others ----------------------------------------------------------------------------------------


def test_the_onnx_package_has_cases_of_every_operator():
    counts = collections.Counter(case.model.graph.node[0].op_type for case in NODE_CASES.values())
    assert set(counts) == set(OPS)
    assert min(counts.values()) >= 6


@pytest.mark.parametrize("name", NODE_CASES)
def test_cases_of_the_onnx_package(name):
    case = NODE_CASES[name]
    names = [entry.name for entry in case.model.graph.output]
    assert case.data_sets
    for inputs, outputs in case.data_sets:
        got = run_node(case, inputs)
        assert set(got) == set(names)
        for output, want in zip(names, outputs, strict=True):
            assert got[output].shape == want.shape
            assert got[output].dtype == want.dtype
            np.testing.assert_allclose(got[output], want, rtol=1e-5, atol=1e-7)


@pytest.mark.every_isa
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_calls_agree_with_the_reference(op, dtype):
    for seed in SEEDS:
        call = call_of(op, seed, dtype)
        print(seed, call.attributes, list(call.inputs))
        assert_close(call.run(), by_reference(call), dtype)


@pytest.mark.parametrize("op", OPS)
def test_random_calls_have_everything(op):
    """The test above sees every input, missing and given, every value of an attribute, every activation."""
    calls = [call_of(op, seed) for seed in SEEDS]
    optional = {"B", "sequence_lens", "initial_h"} | ({"initial_c", "P"} if op == "LSTM" else set())
    for name in optional:
        assert {name in call.inputs for call in calls} == {True, False}
    values = {
        "direction": {"forward", "reverse", "bidirectional"},
        "layout": {None, 0, 1},
        "clip": {None, *map(float, np.float32([0.1, 0.5, 1.5]))},
    }
    values |= {"LSTM": {"input_forget": {None, 0, 1}}, "GRU": {"linear_before_reset": {None, 0, 1}}}.get(
        op, {}
    )
    for name, expected in values.items():
        assert {call.attributes.get(name) for call in calls} == expected
    assert any(0 in call.inputs.get("sequence_lens", ()) for call in calls)
    count = len(ACTIVATIONS[op])
    for role in range(count):
        seen = {function[0] for call in calls for function in call.functions[role::count]}
        assert seen == set(PARAMETERS)
    assert any(
        call.functions[:count] != call.functions[count:] for call in calls if len(call.directions) == 2
    )


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_the_text_of_the_specification(op, direction):
    for seed in range(10):
        call = call_of(op, seed, direction=direction, layout=0)
        kept = call.attributes.keys() & {"direction", "linear_before_reset"}
        call.attributes = {name: call.attributes[name] for name in kept}
        assert_close(call.run(), by_the_text(call), np.float64)


# ---- Layouts, missing inputs, types ------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_layout_is_only_the_order_of_dimensions(op, direction):
    call = call_of(op, 3, direction=direction, layout=0)
    turned = {
        name: value.swapaxes(0, 1) if name in ("X", "initial_h", "initial_c") else value
        for name, value in call.inputs.items()
    }
    Y, *finals = call.run()
    other, *others = call.run(**turned, layout=1)
    assert np.array_equal(other, Y.transpose(2, 0, 1, 3))
    for final, turned_final in zip(finals, others, strict=True):
        assert np.array_equal(turned_final, final.swapaxes(0, 1))


@pytest.mark.parametrize("op", OPS)
def test_missing_inputs_are_zero(op):
    T, B, I, H, D = 5, 3, 2, 4, 2
    rows = len(GATES[op]) * H
    rng = np.random.default_rng(1)
    inputs = {
        "X": rng.standard_normal((T, B, I)),
        "W": rng.standard_normal((D, rows, I)),
        "R": rng.standard_normal((D, rows, H)),
    }
    zeros = {
        "B": np.zeros((D, 2 * rows)),
        "initial_h": np.zeros((D, B, H)),
        "sequence_lens": np.full(B, T, np.int32),
    }
    if op == "LSTM":
        zeros |= {"initial_c": np.zeros((D, B, H)), "P": np.zeros((D, 3 * H))}
    bare = FUNCTIONS[op](**inputs, direction="bidirectional")
    for names in [*([name] for name in zeros), list(zeros)]:
        given = {name: zeros[name] for name in names}
        for want, got in zip(bare, FUNCTIONS[op](**inputs, **given, direction="bidirectional"), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)
    # What stands in place of an omitted input is no operand.
    nothing = FUNCTIONS[op](**inputs, **dict.fromkeys(zeros), direction="bidirectional")
    assert all(map(np.array_equal, nothing, bare))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_float32_rounded_once(op, dtype):
    for seed in range(10):
        call = call_of(op, seed, dtype)
        wide = {
            name: value if name == "sequence_lens" else value.astype(np.float32)
            for name, value in call.inputs.items()
        }
        for got, want in zip(call.run(), call.run(**wide), strict=True):
            assert got.dtype == dtype
            assert np.array_equal(got, want.astype(dtype))


def test_other_forms_of_the_same_numbers():
    call = call_of("LSTM", 2, np.float32)
    want = call.run()
    swapped = {name: value.astype(value.dtype.newbyteorder()) for name, value in call.inputs.items()}
    strided = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in call.inputs.items()}
    lists = {name: value if name == "X" else value.tolist() for name, value in call.inputs.items()}
    for other in (swapped, strided, lists):
        for got, array in zip(call.run(**other), want, strict=True):
            assert got.dtype == np.float32
            assert got.dtype.isnative
            assert np.array_equal(got, array)


def test_arguments_stay_as_they_are():
    call = call_of("LSTM", 2)
    before = {name: value.copy() for name, value in call.inputs.items()}
    for value in call.inputs.values():
        value.flags.writeable = False
    results = call.run(zero_length="zero")
    assert all(np.array_equal(call.inputs[name], value) for name, value in before.items())
    for result in results:
        result[...] = 1  # what a caller gets is the caller's


# ---- Lengths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_what_is_behind_the_end_of_a_row_is_not_looked_at(op):
    T, B, I, H = 6, 4, 3, 5
    rng = np.random.default_rng(5)
    rows = len(GATES[op]) * H
    X, W, R = (rng.standard_normal(shape) for shape in [(T, B, I), (2, rows, I), (2, rows, H)])
    lens = np.array([6, 1, 0, 4])
    for b, steps in enumerate(lens):
        X[steps:, b] = np.nan
    Y, *finals = FUNCTIONS[op](X, W, R, sequence_lens=lens, direction="bidirectional")
    for b, steps in enumerate(lens):
        alone, *ends = FUNCTIONS[op](X[:steps, b : b + 1], W, R, direction="bidirectional")
        np.testing.assert_allclose(Y[:steps, :, b], alone[:, :, 0], rtol=0, atol=1e-14)
        assert not Y[steps:, :, b].any()
        for final, end in zip(finals, ends, strict=True):
            np.testing.assert_allclose(final[:, b], end[:, 0], rtol=0, atol=1e-14)
        # The last step of each direction is where the other one begins.
        if steps:
            assert np.array_equal(finals[0][0, b], Y[steps - 1, 0, b])
            assert np.array_equal(finals[0][1, b], Y[0, 1, b])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("layout", [0, 1])
def test_rows_without_steps(op, layout):
    lens = np.array([0, 3, 0], np.int32)
    T, B, I, H = 3, 3, 2, 4
    rng = np.random.default_rng(2)
    rows = len(GATES[op]) * H
    states = {"initial_h": rng.standard_normal((2, B, H))}
    if op == "LSTM":
        states["initial_c"] = rng.standard_normal((2, B, H))
    if layout:
        states = {name: value.swapaxes(0, 1) for name, value in states.items()}
    X = rng.standard_normal((B, T, I) if layout else (T, B, I))
    W, R = rng.standard_normal((2, rows, I)), rng.standard_normal((2, rows, H))
    attributes = {"direction": "bidirectional", "layout": layout}

    def of_rows(array):
        return array if layout else array.swapaxes(0, 1)

    kept, zero = (
        FUNCTIONS[op](X, W, R, sequence_lens=lens, **states, **attributes, zero_length=rule)
        for rule in ("state", "zero")
    )
    assert np.array_equal(kept[0], zero[0])
    assert not kept[0][lens == 0].any() if layout else not kept[0][:, :, lens == 0].any()
    for given, held, none in zip(states.values(), kept[1:], zero[1:], strict=True):
        assert np.array_equal(of_rows(held)[lens == 0], of_rows(given)[lens == 0])
        assert not of_rows(none)[lens == 0].any()
        assert np.array_equal(of_rows(none)[1], of_rows(held)[1])
        assert of_rows(none)[1].any()
    # No step at all is the same for every row.
    empty = X[:, :0] if layout else X[:0]
    for rule in ("state", "zero"):
        Y, *finals = FUNCTIONS[op](empty, W, R, **states, **attributes, zero_length=rule)
        assert Y.shape == ((B, 0, 2, H) if layout else (0, 2, B, H))
        for given, final in zip(states.values(), finals, strict=True):
            assert np.array_equal(final, given if rule == "state" else np.zeros_like(given))


def test_no_rows():
    Y, Y_h = fastlstm.onnx_gru(np.zeros((3, 0, 2)), np.zeros((1, 12, 2)), np.zeros((1, 12, 4)))
    assert Y.shape == (3, 1, 0, 4)
    assert Y_h.shape == (1, 0, 4)


# ---- Activations -------------------------------------------------------------------------------------------


def outputs_of(**attributes):
    return call_of("LSTM", 7, direction="forward", layout=0).run(
        **{"activations": None, "activation_alpha": None, "activation_beta": None} | attributes
    )


def test_numbers_go_from_left_to_right_to_those_that_take_any():
    given = outputs_of(
        activations=["HARDSIGMOID", "tanh", "scaledTanh"],
        activation_alpha=[0.3, 1.2],
        activation_beta=[0.4, 0.7],
    )
    call = call_of("LSTM", 7, direction="forward", layout=0)
    call.functions = (("HardSigmoid", 0.3, 0.4), ("Tanh",), ("ScaledTanh", 1.2, 0.7))
    assert_close(given, by_reference(call), np.float64)


def test_numbers_at_the_end_may_be_missing():
    names = ["LeakyRelu", "HardSigmoid", "Elu"]
    all_given = outputs_of(activations=names, activation_alpha=[0.3, 0.2, 1.0], activation_beta=[0.5])
    some = outputs_of(activations=names, activation_alpha=[0.3])
    assert all(map(np.array_equal, all_given, some))
    other = outputs_of(activations=names)
    assert not np.array_equal(other[0], some[0])


def test_defaults_are_those_of_the_operators():
    for op, names in ACTIVATIONS.items():
        call = call_of(op, 7, direction="forward", layout=0)
        rest = {"activation_alpha": None, "activation_beta": None}
        named = call.run(activations=list(names), **rest)
        assert all(map(np.array_equal, named, call.run(activations=None, **rest)))


def test_rnn_takes_the_default_value_of_the_specification():
    call = call_of("RNN", 4, direction="forward")
    call.attributes |= {"activation_alpha": [], "activation_beta": []}
    Y, _ = call.run(activations=["Relu", "Tanh"])
    assert np.array_equal(Y, call.run(activations=["Relu"])[0])
    assert not np.array_equal(Y, call.run(activations=["Tanh"])[0])


# ---- Errors ------------------------------------------------------------------------------------------------

X, W, R = np.zeros((5, 2, 3), np.float32), np.zeros((1, 16, 3), np.float32), np.zeros((1, 16, 4), np.float32)
WRONG = [
    ({"X": np.zeros((5, 3), np.float32)}, "X: expected shape (T, B, I) with at least 1 feature, got (5, 3)"),
    (
        {"X": np.zeros((5, 2, 0), np.float32), "layout": 1},
        "X: expected shape (B, T, I) with at least 1 feature, got (5, 2, 0)",
    ),
    ({"X": np.zeros((5, 2, 3), int)}, "X: expected float64, float32, float16, bfloat16, got int64"),
    (
        {"X": np.ma.zeros((5, 2, 3))},
        "X: expected an array without a mask, got a masked array (fill it first)",
    ),
    ({"W": W[0]}, "W: expected shape (1, 16, 3), got (16, 3)"),
    ({"W": W.astype(float)}, "W: expected float32, as X, got float64"),
    ({"W": [["a"]]}, "W: expected float32, as X, got <U1"),
    ({"R": R[0]}, "R: expected shape (1, 4*H, H) with H of at least 1, got (16, 4)"),
    ({"R": R[:, :, :0]}, "R: expected shape (1, 4*H, H) with H of at least 1, got (1, 16, 0)"),
    ({"R": R[:, :12]}, "R: expected shape (1, 16, 4), got (1, 12, 4)"),
    ({"R": R[:, :, :3]}, "R: expected shape (1, 12, 3), got (1, 16, 3)"),
    ({"hidden_size": 3}, "R: expected shape (1, 12, 3), got (1, 16, 4)"),
    ({"hidden_size": 0}, "hidden_size: expected at least 1, got 0"),
    ({"B": np.zeros((1, 16), np.float32)}, "B: expected shape (1, 32), got (1, 16)"),
    ({"B": np.zeros((1, 32))}, "B: expected float32, as X, got float64"),
    ({"P": np.zeros((1, 16), np.float32)}, "P: expected shape (1, 12), got (1, 16)"),
    ({"initial_h": np.zeros((2, 2, 4), np.float32)}, "initial_h: expected shape (1, 2, 4), got (2, 2, 4)"),
    (
        {"initial_c": np.zeros((1, 5, 4), np.float32), "layout": 1},
        "initial_c: expected shape (5, 1, 4), got (1, 5, 4)",
    ),
    ({"sequence_lens": [1, 2, 3]}, "sequence_lens: expected shape (2,), got (3,)"),
    ({"sequence_lens": [1.0, 2.0]}, "sequence_lens: expected integers, got float64"),
    ({"sequence_lens": [True, True]}, "sequence_lens: expected integers, got bool"),
    ({"sequence_lens": [5, 6]}, "sequence_lens[1]: expected 0 to 5, got 6"),
    ({"sequence_lens": np.int32([-1, 5])}, "sequence_lens[0]: expected 0 to 5, got -1"),
    ({"direction": "bidirectional"}, "R: expected shape (2, 16, 4), got (1, 16, 4)"),
    (
        {"direction": "backward"},
        "direction: expected 'forward' or 'reverse' or 'bidirectional', got 'backward'",
    ),
    ({"direction": None}, "direction: expected 'forward' or 'reverse' or 'bidirectional', got None"),
    ({"direction": 1}, "direction: expected 'forward' or 'reverse' or 'bidirectional', got int"),
    ({"layout": 2}, "layout: expected 0 or 1, got 2"),
    ({"layout": 1.0}, "layout: expected an integer, got float"),
    ({"input_forget": -1}, "input_forget: expected 0 or 1, got -1"),
    ({"zero_length": "hold"}, "zero_length: expected 'state' or 'zero', got 'hold'"),
    ({"clip": 0.0}, "clip: expected None or a number above 0, got 0.0"),
    ({"clip": -1.0}, "clip: expected None or a number above 0, got -1.0"),
    ({"clip": float("nan")}, "clip: expected None or a number above 0, got nan"),
    ({"clip": "1"}, "clip: expected None or a number above 0, got str"),
    ({"activations": ["Tanh"]}, "activations: expected 3 names (f, g, h), got 1"),
    ({"activations": "Tanh"}, "activations: expected a sequence of 3 names (f, g, h), got str"),
    ({"activations": ["Tanh", 1, "Tanh"]}, "activations[1]: expected a string, got int"),
    (
        {"activations": ["Tanh", "Tanh", "Swish"]},
        f"activations[2]: expected one of {', '.join(PARAMETERS)}, got 'Swish'",
    ),
    (
        {"activations": ["Sigmoid", "Affine", "Tanh"], "activation_alpha": [1.0]},
        "activation_beta: expected a number for activations[1], Affine, which has no default, got none",
    ),
    (
        {"activations": ["Elu", "ScaledTanh", "Tanh"], "activation_alpha": [1.0], "activation_beta": [1.0]},
        "activation_alpha: expected a number for activations[1], ScaledTanh, which has no default, got none",
    ),
    (
        {"activations": ["Sigmoid", "LeakyRelu", "Tanh"], "activation_alpha": [0.0, 0.3, 0.0]},
        "activation_alpha: expected 1 numbers at most, as so many are taken by Sigmoid, LeakyRelu, Tanh, got",
    ),
    (
        {"activation_beta": [1.0]},
        "activation_beta: expected 0 numbers at most, as so many are taken by Sigmoid, ",
    ),
    ({"activation_alpha": 1.0}, "activation_alpha: expected a sequence of numbers, got float"),
    ({"activation_alpha": [float("inf")]}, "activation_alpha[0]: expected a finite number, got inf"),
    ({"activation_alpha": [None]}, "activation_alpha[0]: expected a finite number, got NoneType"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_errors_name_the_argument(wrong, message):
    with pytest.raises((TypeError, ValueError)) as error:
        fastlstm.onnx_lstm(**{"X": X, "W": W, "R": R} | wrong)
    assert str(error.value).startswith(message)


def test_errors_of_the_others():
    with pytest.raises(TypeError, match=r"^linear_before_reset: expected an integer, got float$"):
        fastlstm.onnx_gru(X, W[:, :12], R[:, :12], linear_before_reset=0.5)
    with pytest.raises(ValueError, match=r"^activations: expected 2 names \(f, g\), got 3$"):
        fastlstm.onnx_gru(X, W[:, :12], R[:, :12], activations=["Tanh"] * 3)
    with pytest.raises(
        ValueError, match=r"^R: expected shape \(2, H, H\) with H of at least 1, got \(4, 4\)$"
    ):
        fastlstm.onnx_rnn(X, W[:, :4], R[0, :4], direction="bidirectional")
    pair = np.repeat(W[:, :4], 2, axis=0), np.repeat(R[:, :4], 2, axis=0)
    with pytest.raises(ValueError, match=r"^activations: expected 2 names \(f of each direction\), got 1$"):
        fastlstm.onnx_rnn(X, *pair, direction="bidirectional", activations=["Tanh"])


@pytest.mark.parametrize("op", OPS)
def test_the_error_state_of_numpy_has_no_influence(op):
    """As where half precision underflows at the end."""
    call = call_of(op, 0, np.float16)
    for name in ("activations", "activation_alpha", "activation_beta"):
        call.attributes.pop(name, None)
    call.inputs["X"] *= np.float16(1e-4)
    call.inputs["W"] *= np.float16(1e-4)
    call.inputs.pop("B", None)
    expected = call.run()
    with np.errstate(all="raise"):
        got = call.run()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
