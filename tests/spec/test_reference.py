# SPDX-License-Identifier: BSD-3-Clause
"""The specification itself: against cells computed by hand, a loop over scalars, and torch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fastlstm import reference
from tests.problems.helpers import Case, Config, largest_error, random_config, random_params


def scalar_sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a > -700 else 0.0


def scalar_direction(xs, h, c, w_ih, w_hh, bias):
    """One direction over one row of one layer, number by number; `bias` is None or the sum of both."""
    H = len(h)
    ys = []
    for x in xs:
        gates = []
        for row in range(4 * H):
            a = 0.0 if bias is None else bias[row]
            a += math.fsum(w * v for w, v in zip(w_ih[row], x, strict=True))
            a += math.fsum(w * v for w, v in zip(w_hh[row], h, strict=True))
            gates.append(a)
        i, f, g, o = (gates[k * H : (k + 1) * H] for k in range(4))
        c = [scalar_sigmoid(f[j]) * c[j] + scalar_sigmoid(i[j]) * math.tanh(g[j]) for j in range(H)]
        h = [scalar_sigmoid(o[j]) * math.tanh(c[j]) for j in range(H)]
        ys.append(h)
    return ys, h, c


def scalar_stack(case: Case):
    """The whole stack, row by row: a shorter row is a shorter list, the reverse direction a reversed one."""
    config = case.config
    T, B, D, H = config.T, config.B, config.D, config.H
    x = np.eye(config.I)[case.x] if config.is_index else case.x
    x = x.swapaxes(0, 1) if config.batch_first else x
    y = np.zeros((T, B, D * H))
    h_n, c_n = np.zeros((2, config.L * D, B, H))
    for b in range(B):
        length = T if case.lengths is None else case.lengths[b]
        rows = x[:length, b].tolist()
        for layer in range(config.L):
            outputs = []
            for direction, suffix in enumerate(("", "_reverse")[:D]):
                index = layer * D + direction
                h, c = ([0.0] * H,) * 2 if case.state is None else (s[index, b].tolist() for s in case.state)
                named = {
                    name: value for name, value in case.params.items() if name.endswith(f"_l{layer}{suffix}")
                }
                bias = None
                if config.bias:
                    bias = (named[f"bias_ih_l{layer}{suffix}"] + named[f"bias_hh_l{layer}{suffix}"]).tolist()
                w_ih = named[f"weight_ih_l{layer}{suffix}"].tolist()
                w_hh = named[f"weight_hh_l{layer}{suffix}"].tolist()
                ys, h, c = scalar_direction(rows[::-1] if direction else rows, h, c, w_ih, w_hh, bias)
                h_n[index, b], c_n[index, b] = h, c
                outputs.append(ys[::-1] if direction else ys)
            rows = [list(itertools.chain(*parts)) for parts in zip(*outputs, strict=True)]
        if length:
            y[:length, b] = rows
    return y.swapaxes(0, 1) if config.batch_first else y, h_n, c_n


def test_a_cell_of_one_unit_is_what_one_computes_by_hand():
    # Pre-activations i, f, g, o = log 3, 0, atanh(1/2), log 1/3: sigmoids 3/4, 1/2, 1/4 and tanh 1/2.
    params = {
        "weight_ih": [[math.log(3)], [0.0], [math.atanh(0.5) / 2], [0.0]],
        "weight_hh": [[0.0], [0.0], [math.atanh(0.5)], [0.0]],
        "bias_ih": [0.0, -1.0, 0.0, -math.log(3)],
        "bias_hh": [0.0, 1.0, 0.0, 0.0],
    }
    h, c = reference.lstm_cell([[1.0]], ([[0.5]], [[-2.0]]), params)
    assert c == pytest.approx(0.5 * -2 + 0.75 * 0.5, rel=1e-15)
    assert h == pytest.approx(0.25 * math.tanh(-0.625), rel=1e-15)


def test_gates_stand_in_the_order_i_f_g_o():
    gates = np.array([[100.0, -100.0, 100.0, 100.0]])  # writes 1 over whatever c was, and shows it
    h, c = reference.cell_update(gates, np.array([[5.0]]))
    assert c == pytest.approx(1.0, abs=1e-15)
    assert h == pytest.approx(math.tanh(1.0), abs=1e-15)
    kept = reference.cell_update(np.array([[-100.0, 100.0, 3.0, -100.0]]), np.array([[5.0]]))
    assert kept[1] == pytest.approx(5.0, abs=1e-15)
    assert kept[0] == pytest.approx(0.0, abs=1e-15)


def test_activations_neither_overflow_nor_warn():
    x = np.array([-np.inf, -1e308, -1000, -1, -5e-324, 0.0, 5e-324, 1, 1000, 1e308, np.inf, np.nan])
    with np.errstate(all="raise"):
        sigmoid, tanh = reference.sigmoid(x), reference.tanh(x)
    e = math.exp(-1)
    expected = [0, 0, 0, e / (1 + e), 0.5, 0.5, 0.5, 1 / (1 + e), 1, 1, 1, np.nan]
    np.testing.assert_allclose(sigmoid, expected, rtol=1e-15)
    expected = [-1, -1, -1, -math.tanh(1), -5e-324, 0, 5e-324, math.tanh(1), 1, 1, 1, np.nan]
    np.testing.assert_allclose(tanh, expected, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_everything_is_computed_in_the_dtype_of_the_parameters(dtype, rng):
    params = random_params(rng, 3, 4, 2, dtype=dtype)
    y, (h, c) = reference.lstm(rng.standard_normal((5, 2, 3)), params)
    assert [a.dtype for a in (y, h, c)] == [np.dtype(dtype)] * 3
    y, (h, c) = reference.lstm(rng.standard_normal((5, 2, 3)), params, dtype=np.float64)
    assert [a.dtype for a in (y, h, c)] == [np.dtype(np.float64)] * 3
    assert reference.sigmoid(np.ones(2, dtype)).dtype == dtype
    assert reference.tanh(np.ones(2, dtype)).dtype == dtype


def test_agrees_with_a_loop_over_scalars(rng):
    for _ in range(60):
        case = Case(random_config(rng, 6, 7, B=int(rng.integers(1, 6)), dtype="float64"))
        assert largest_error(case.truth(np.float64), scalar_stack(case)) <= 1e-14, case.config


def test_agrees_with_torch(rng):
    torch = pytest.importorskip("torch")
    for _ in range(40):
        case = Case(random_config(rng, 40, 30, dtype="float64", is_index=False))
        config = case.config
        if config.has_lengths:
            case.lengths = np.maximum(case.lengths, 1)  # torch takes no empty sequence
            case.lengths[0] = config.T  # and pads to the longest
        twin = torch.nn.LSTM(
            config.I,
            config.H,
            config.L,
            bias=config.bias,
            batch_first=config.batch_first,
            bidirectional=config.bidirectional,
            dtype=torch.float64,
        )
        twin.load_state_dict({name: torch.from_numpy(value) for name, value in case.params.items()})
        x = torch.from_numpy(case.x)
        state = None if case.state is None else tuple(map(torch.from_numpy, case.state))
        with torch.no_grad():
            if config.has_lengths:
                x = torch.nn.utils.rnn.pack_padded_sequence(
                    x, torch.from_numpy(case.lengths), config.batch_first, enforce_sorted=False
                )
            y, (h, c) = twin(x, state)
            if config.has_lengths:
                y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, config.batch_first)
        expected = tuple(a.numpy() for a in (y, h, c))
        assert largest_error(case.truth(np.float64), expected) <= 1e-14, config


def test_unbatched_is_a_batch_of_one(rng):
    params = random_params(rng, 3, 4, 2, bidirectional=True, dtype=np.float64)
    state = tuple(rng.standard_normal((2, 4, 4)))
    for x in (rng.standard_normal((5, 3)), rng.integers(0, 3, 5)):
        for batch_first in (False, True):
            y, (h, c) = reference.lstm(x, params, state, bidirectional=True, batch_first=batch_first)
            assert (y.shape, h.shape, c.shape) == ((5, 8), (4, 4), (4, 4))
            in_batch = tuple(s[:, np.newaxis] for s in state)
            y1, (h1, c1) = reference.lstm(x[:, np.newaxis], params, in_batch, bidirectional=True)
            assert largest_error((y, h, c), (y1[:, 0], h1[:, 0], c1[:, 0])) == 0


def test_integers_are_one_hot_rows(rng):
    case = Case(Config(T=6, B=4, I=5, H=3, L=2, is_index=True, has_lengths=True, dtype="float64"))
    indexed = case.truth(np.float64)
    case.x = np.eye(5)[case.x]
    assert largest_error(indexed, case.truth(np.float64)) <= 1e-15


def test_an_empty_row_returns_the_given_state():
    case = Case(Config(T=4, B=3, I=2, H=3, L=2, bidirectional=True, has_state=True, dtype="float64"))
    case.lengths = np.array([0, 4, 0])
    y, h, c = case.truth(np.float64)
    assert not y[:, ::2].any()
    assert y[:, 1].all()
    assert case.state is not None
    np.testing.assert_array_equal(h[:, ::2], case.state[0][:, ::2])
    np.testing.assert_array_equal(c[:, ::2], case.state[1][:, ::2])


@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_no_steps_or_no_rows_is_an_empty_result(T, B):
    case = Case(Config(T=T, B=B, I=2, H=3, L=2, has_state=True, dtype="float64"))
    y, h, c = case.truth(np.float64)
    assert y.shape == (T, B, 3)
    assert case.state is not None
    np.testing.assert_array_equal(h, case.state[0])
    np.testing.assert_array_equal(c, case.state[1])


def test_the_given_state_is_not_modified(rng):
    case = Case(Config(T=4, B=3, I=2, H=3, has_state=True, has_lengths=True, dtype="float64"))
    assert case.state is not None
    before = [s.copy() for s in case.state]
    case.truth(np.float64)
    np.testing.assert_array_equal(case.state, before)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("x: expected 2 or 3 dimensions", {"x": np.zeros((1, 4, 3, 2))}),
        ("x: expected 1 or 2 dimensions if integers", {"x": np.zeros((4, 3, 2), int)}),
        ("x: expected 2 features", {"x": np.zeros((4, 3, 5))}),
        ("x: expected indices from 0 to 1, got 0 to 2", {"x": [[0, 1], [2, 0]]}),
        ("x: expected indices from 0 to 1, got -1 to 0", {"x": [[0, -1]]}),
        (r"state\[0\]: expected shape \(1, 3, 3\)", {"state": (np.zeros((1, 4, 3)), np.zeros((1, 3, 3)))}),
        (r"state\[1\]: expected shape \(1, 3, 3\)", {"state": (np.zeros((1, 3, 3)), np.zeros((3, 3)))}),
        ("lengths: expected 3 integers", {"lengths": [1, 2]}),
        ("lengths: expected 3 integers", {"lengths": [1.0, 2.0, np.nan]}),
        ("lengths: expected values from 0 to 4, got 1 to 5", {"lengths": [1, 5, 2]}),
        ("lengths: expected values from 0 to 4, got -1 to 2", {"lengths": [1, -1, 2]}),
        ("params: expected weights of 2 direction", {"bidirectional": True}),
    ],
)
def test_what_does_not_fit_is_an_error(message, changes, rng):
    arguments = {"x": np.zeros((4, 3, 2)), "params": random_params(rng, 2, 3, dtype=np.float64)}
    with pytest.raises(ValueError, match=message):
        reference.lstm(**(arguments | changes))
