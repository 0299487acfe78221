# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of the specification: against central differences, pieces one by one, and torch."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest

from fastlstm import reference
from tests.problems.helpers import Case, Config, random_config, random_params

# Differences of longdouble: the error of a step of 1e-6 is of the order 1e-12, and so is that of rounding.
STEP, NOISE = 1e-6, 1e-10


class Problem:
    """A configuration with every option of a backward pass, and a random gradient of all results."""

    def __init__(self, config: Config, reset: float = 0.0, dropout: float = 0.0, bptt: int | None = None):
        self.case = case = Case(config)
        rng = np.random.default_rng([config.seed, 1])
        self.options: dict[str, Any] = {
            "lengths": case.lengths,
            "batch_first": config.batch_first,
            "bidirectional": config.bidirectional,
            "dropout": dropout,
            "dropout_seed": int(rng.integers(2**63)),
        }
        if reset:
            self.options["reset"] = rng.random(np.shape(case.x)[:2]) < reset
        self.bptt = bptt
        self.inputs = {name: value.astype(np.longdouble) for name, value in case.params.items()}
        if not config.is_index:
            self.inputs["x"] = case.x.astype(np.longdouble)
        if case.state is not None:
            self.inputs |= zip(("h_0", "c_0"), (s.astype(np.longdouble) for s in case.state), strict=True)
        y, (h, c) = self.forward(self.inputs)
        self.dy, self.dh, self.dc = (rng.standard_normal(a.shape) for a in (y, h, c))

    def arguments(self, inputs: dict[str, np.ndarray]) -> tuple[Any, ...]:
        params = {name: inputs[name] for name in self.case.params}
        state = (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None
        return inputs.get("x", self.case.x), params, state

    def forward(self, inputs):
        return reference.lstm(*self.arguments(inputs), **self.options)

    def backward(self, **changes):
        """Gradients by the names of `inputs`, and those of the initial states in any case."""
        options = {"dy": self.dy, "dstate": (self.dh, self.dc), "bptt": self.bptt} | self.options | changes
        dx, (dh_0, dc_0), grads = reference.lstm_backward(*self.arguments(self.inputs), **options)
        assert list(grads) == list(self.case.params)
        assert (dx is None) == self.case.config.is_index
        return grads | {"h_0": dh_0, "c_0": dc_0} | ({} if dx is None else {"x": dx})

    def value(self, inputs) -> Any:
        y, (h, c) = self.forward(inputs)
        return (y * self.dy).sum() + (h * self.dh).sum() + (c * self.dc).sum()

    def difference(self, name: str, direction: np.ndarray) -> Any:
        """Central difference of the value along `direction`."""
        ahead, behind = (
            self.value(self.inputs | {name: self.inputs[name] + sign * STEP * direction}) for sign in (1, -1)
        )
        return (ahead - behind) / (2 * np.longdouble(STEP))


def assert_is_gradient(problem: Problem, rng: np.random.Generator, elements: int = 3) -> None:
    """All of every array along two random directions, and some single elements of it."""
    got = problem.backward()
    for name, value in problem.inputs.items():
        assert got[name].shape == value.shape, name
        assert got[name].dtype == np.longdouble
        directions = list(rng.standard_normal((2, *value.shape)))
        for place in rng.integers(0, value.size, min(elements, value.size)):
            directions.append(np.zeros(value.shape))
            directions[-1].flat[place] = 1
        for direction in directions:
            expected = problem.difference(name, direction)
            error = abs((got[name] * direction).sum() - expected)
            assert error <= 1e-6 * abs(expected) + NOISE, (name, problem.case.config)


def small_config(rng: np.random.Generator, **fixed: Any) -> Config:
    return random_config(rng, 4, 6, **({"B": int(rng.integers(1, 6)), "dtype": "float64"} | fixed))


def test_is_the_derivative_of_the_forward_pass(rng):
    for _ in range(24):
        reset, dropout = rng.choice([0.0, 0.3], 2)
        assert_is_gradient(Problem(small_config(rng), reset, dropout), rng)


@pytest.mark.parametrize("is_index", [False, True])
def test_is_the_derivative_with_every_option_at_once(is_index, rng):
    config = Config(
        T=5,
        B=5,
        I=3,
        H=4,
        L=3,
        bidirectional=True,
        has_state=True,
        has_lengths=True,
        is_index=is_index,
        dtype="float64",
    )
    assert_is_gradient(Problem(config, reset=0.3, dropout=0.4), rng, elements=4)


def test_every_element_of_a_small_layer(rng):
    config = Config(T=3, B=2, I=2, H=2, bidirectional=True, has_state=True, dtype="float64")
    problem = Problem(config, reset=0.2)
    got = problem.backward()
    for name, value in problem.inputs.items():
        expected = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            direction = np.zeros(value.shape)
            direction[place] = 1
            expected[place] = problem.difference(name, direction)
        np.testing.assert_allclose(got[name].astype(float), expected, rtol=1e-6, atol=NOISE, err_msg=name)


def test_a_cell_of_one_unit_is_what_one_computes_by_hand():
    # All pre-activations 0: i, f, o = 1/2 with slope 1/4, g = 0 with slope 1; c = c_0/2 = 0, tanh' = 1.
    params = {"weight_ih_l0": np.zeros((4, 1)), "weight_hh_l0": np.array([[1.0], [2.0], [3.0], [4.0]])}
    state = np.zeros((1, 1)), np.zeros((1, 1))
    dx, (dh_0, dc_0), grads = reference.lstm_backward([[5.0]], params, state, dy=[[8.0]])
    # dc = 8/2 = 4; da_g = 4/2 = 2; all others 0, as g, c_0 and tanh(c) are.
    assert dc_0 == 2
    assert dh_0 == 2 * 3
    assert dx == 0
    np.testing.assert_array_equal(grads["weight_ih_l0"], [[0], [0], [10], [0]])
    np.testing.assert_array_equal(grads["weight_hh_l0"], np.zeros((4, 1)))


# ---- Truncation --------------------------------------------------------------------------------------------


def in_pieces(problem: Problem, k: int):
    """The gradients of truncation for one layer in one direction, from pieces that know nothing of it.

    Each piece of k steps gets as its state what the piece before left, a constant to it; but the last piece
    alone has final states, and the first alone gives gradients of the initial ones.
    """
    x, params, state = problem.arguments(problem.inputs)
    T = len(x)
    dx, grads, first = [], dict.fromkeys(params, 0), None
    for begin in range(0, T, k):
        steps = slice(begin, begin + k)
        dstate = (problem.dh, problem.dc) if begin + k >= T else None
        dpart, d0, more = reference.lstm_backward(
            x[steps], params, state, dy=problem.dy[steps], dstate=dstate
        )
        _, state = reference.lstm(x[steps], params, state)
        first = d0 if first is None else first
        dx.append(dpart)
        grads = {name: grads[name] + more[name] for name in params}
    return grads | {"h_0": first[0], "c_0": first[1], "x": np.concatenate(dx)}


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 8, 9])
def test_truncation_is_pieces_one_by_one(k):
    problem = Problem(Config(T=8, B=3, I=3, H=4, has_state=True, dtype="float64"), bptt=k)
    expected = in_pieces(problem, k)
    got = problem.backward()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name].astype(float), value.astype(float), rtol=1e-13, err_msg=name)
    whole = problem.backward(bptt=None)
    assert np.array_equal(got["weight_hh_l0"], whole["weight_hh_l0"]) == (k >= 8)


def by_layers(problem: Problem):
    """All options from layers of one direction and one row each, which are pieces between boundaries.

    A row of a direction is walked in its own order; a new piece begins where no gradient passes, and it gets
    the state that the one before left, or zero where no state passes either.
    """
    config, options = problem.case.config, problem.options
    x, params, state = problem.arguments(problem.inputs)
    x = np.eye(config.I)[x] if config.is_index else x
    dy = problem.dy
    reset = options.get("reset")
    reset = np.zeros(x.shape[:2], bool) if reset is None else reset
    if config.batch_first:
        x, dy, reset = (a.swapaxes(0, 1) for a in (x, dy, reset))
    T, B, D, H = config.T, config.B, config.D, config.H
    lengths = np.full(B, T) if options["lengths"] is None else options["lengths"]
    h_0, c_0 = np.zeros((2, config.L * D, B, H), np.longdouble) if state is None else state

    def piece(layer, direction):
        suffix = f"_l{layer}{('', '_reverse')[direction]}"
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 2 + 2 * config.bias]
        return {f"{kind}_l0": params[kind + suffix] for kind in kinds}, suffix.removeprefix("_l0")

    def pieces(b, direction):
        """Times of each piece in the order of walking, and whether a state enters it."""
        ends = []
        for t in range(1, lengths[b]):
            if reset[t, b] or (problem.bptt and t % problem.bptt == 0):
                ends.append(t)
        spans = list(itertools.pairwise([0, *ends, lengths[b]]))
        if direction:
            return [(np.arange(e - 1, s - 1, -1), e == lengths[b] or not reset[e, b]) for s, e in spans[::-1]]
        return [(np.arange(s, e), not reset[s, b]) for s, e in spans]

    inputs, starts = [x], {}
    for layer in range(config.L):
        if layer and options["dropout"]:
            arguments = (options["dropout_seed"], layer - 1, T, B, D * H, options["dropout"], np.longdouble)
            inputs[-1] = inputs[-1] * reference.dropout_mask(*arguments)
        y = np.zeros((T, B, D * H), np.longdouble)
        for direction, b in itertools.product(range(D), range(B)):
            index = layer * D + direction
            weights, _ = piece(layer, direction)
            s = h_0[index, b][None], c_0[index, b][None]
            for times, enters in pieces(b, direction) if lengths[b] else ():
                s = s if enters else tuple(np.zeros_like(a) for a in s)
                starts[index, b, times[0]] = s
                y[times, b, direction * H : (direction + 1) * H], s = reference.lstm(
                    inputs[-1][times, b], weights, s
                )
        inputs.append(y)

    grads = {name: np.zeros(value.shape, np.longdouble) for name, value in params.items()}
    dh_0, dc_0 = np.zeros((2, config.L * D, B, H), np.longdouble)
    dsequence = dy
    for layer in reversed(range(config.L)):
        dinput = np.zeros(inputs[layer].shape, np.longdouble)
        for direction, b in itertools.product(range(D), range(B)):
            index = layer * D + direction
            weights, _ = piece(layer, direction)
            ds = problem.dh[index, b][None], problem.dc[index, b][None]
            for times, enters in reversed(pieces(b, direction) if lengths[b] else []):
                dpart, ds, more = reference.lstm_backward(
                    inputs[layer][times, b],
                    weights,
                    starts[index, b, times[0]],
                    dy=dsequence[times, b, direction * H : (direction + 1) * H],
                    dstate=ds,
                )
                dinput[times, b] += dpart
                for name, value in more.items():
                    grads[name.removesuffix("_l0") + f"_l{layer}{('', '_reverse')[direction]}"] += value
                is_first = times[0] == (lengths[b] - 1 if direction else 0)
                if not (is_first and enters):
                    ds = None
            dh_0[index, b], dc_0[index, b] = (0, 0) if ds is None else (ds[0][0], ds[1][0])
        if layer and options["dropout"]:
            arguments = (options["dropout_seed"], layer - 1, T, B, D * H, options["dropout"], np.longdouble)
            dinput = dinput * reference.dropout_mask(*arguments)
        dsequence = dinput
    dx = dsequence.swapaxes(0, 1) if config.batch_first else dsequence
    return grads | {"h_0": dh_0, "c_0": dc_0} | ({} if config.is_index else {"x": dx})


def test_truncation_and_resets_are_pieces_one_by_one(rng):
    for _ in range(30):
        reset, dropout = rng.choice([0.0, 0.3], 2)
        config = small_config(rng, T=int(rng.integers(1, 9)))
        problem = Problem(config, reset, dropout, bptt=int(rng.integers(1, 6)))
        got, expected = problem.backward(), by_layers(problem)
        for name, value in expected.items():
            error = np.abs(got[name] - value).max(initial=0)
            assert error <= 1e-16 * max(1, np.abs(value).max(initial=0)), (name, config, problem.bptt)


# ---- Ends, boundaries, and what is not looked at -----------------------------------------------------------


def test_padding_is_not_looked_at(rng):
    for is_index in (False, True):
        config = Config(
            T=6, B=4, I=3, H=4, L=2, bidirectional=True, has_lengths=True, is_index=is_index, dtype="float64"
        )
        problem = Problem(config, dropout=0.3)
        expected = problem.backward()
        behind = np.arange(6)[:, None] >= problem.case.lengths
        assert behind.any()
        problem.dy[behind] = np.nan
        if is_index:
            problem.case.x[behind] = -7
        else:
            problem.inputs["x"][behind] = np.nan
        got = problem.backward()
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, name)
        if not is_index:
            assert not got["x"][behind].any()


def test_an_empty_row_passes_the_gradient_of_its_states_on():
    config = Config(T=4, B=3, I=2, H=3, L=2, bidirectional=True, has_state=True, dtype="float64")
    problem = Problem(config, reset=1.0, bptt=1)
    got = problem.backward(lengths=[0, 4, 0])
    np.testing.assert_array_equal(got["h_0"][:, ::2], problem.dh[:, ::2])
    np.testing.assert_array_equal(got["c_0"][:, ::2], problem.dc[:, ::2])
    assert not got["x"][:, ::2].any()
    # The forward directions of the other row drop the given state, the reverse ones take it.
    assert not got["h_0"][::2, 1].any()
    assert got["h_0"][1::2, 1].all()


def test_a_reset_is_a_new_sequence(rng):
    params = random_params(rng, 3, 4, bidirectional=True, dtype=np.float64)
    x, reset = rng.standard_normal((7, 1, 3)), np.zeros((7, 1), bool)
    state = tuple(rng.standard_normal((2, 2, 1, 4)))
    reset[3] = True
    y, (h, c) = reference.lstm(x, params, state, reset=reset, bidirectional=True)
    nothing = np.zeros((1, 4))
    # The forward direction enters the first piece with its state, the reverse direction the last one.
    for begin, end, first in ((0, 3, 0), (3, 7, 1)):
        entering = tuple(np.stack([s[0], nothing] if first == 0 else [nothing, s[1]]) for s in state)
        expected, (h_n, c_n) = reference.lstm(x[begin:end], params, entering, bidirectional=True)
        np.testing.assert_allclose(y[begin:end], expected, rtol=1e-14)
        np.testing.assert_allclose((h[1 - first], c[1 - first]), (h_n[1 - first], c_n[1 - first]), rtol=1e-14)
    reset[0] = True
    dropped = reference.lstm(x, params, state, reset=reset, bidirectional=True)[0]
    started = reference.lstm(
        x, params, tuple(np.stack([nothing, s[1]]) for s in state), reset=reset, bidirectional=True
    )[0]
    np.testing.assert_array_equal(dropped, started)
    assert not np.array_equal(dropped[0], y[0])
    nan = np.full((2, 1, 4), np.nan)
    nan[1] = 0
    assert np.isfinite(reference.lstm(x, params, (nan, nan), reset=reset, bidirectional=True)[0]).all()


def test_unbatched_is_a_batch_of_one(rng):
    params = random_params(rng, 3, 4, 2, bidirectional=True, dtype=np.float64)
    x, dy = rng.standard_normal((6, 3)), rng.standard_normal((6, 8))
    state, dstate = (tuple(rng.standard_normal((2, 4, 4))) for _ in range(2))
    reset = rng.random(6) < 0.4
    options = {"bidirectional": True, "bptt": 4, "dropout": 0.3, "dropout_seed": 9}
    dx, d0, grads = reference.lstm_backward(x, params, state, dy=dy, dstate=dstate, reset=reset, **options)
    assert dx is not None
    assert (dx.shape, d0[0].shape, d0[1].shape) == ((6, 3), (4, 4), (4, 4))
    in_batch = [tuple(s[:, None] for s in pair) for pair in (state, dstate)]
    dx_1, d0_1, grads_1 = reference.lstm_backward(
        x[:, None], params, in_batch[0], dy=dy[:, None], dstate=in_batch[1], reset=reset[:, None], **options
    )
    np.testing.assert_array_equal(dx, dx_1[:, 0])
    np.testing.assert_array_equal(d0, [d[:, 0] for d in d0_1])
    for name, value in grads.items():
        np.testing.assert_array_equal(value, grads_1[name])


def test_no_gradient_is_a_zero_gradient(rng):
    problem = Problem(Config(T=4, B=2, I=3, H=4, L=2, has_state=True, dtype="float64"))
    for dy, dh, dc in itertools.product((0, 1), repeat=3):
        expected = problem.backward(dy=problem.dy * dy, dstate=(problem.dh * dh, problem.dc * dc))
        pair = problem.dh if dh else None, problem.dc if dc else None
        got = problem.backward(dy=problem.dy if dy else None, dstate=pair if dh or dc else None)
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, name)


@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_no_steps_or_no_rows_have_no_gradient(T, B):
    problem = Problem(Config(T=T, B=B, I=2, H=3, L=2, has_state=True, dtype="float64"), dropout=0.5, bptt=1)
    got = problem.backward()
    np.testing.assert_array_equal(got["h_0"], problem.dh)
    np.testing.assert_array_equal(got["c_0"], problem.dc)
    assert got["x"].shape == (T, B, 2)
    assert not any(got[name].any() for name in problem.case.params)


# ---- Dropout -----------------------------------------------------------------------------------------------


def scalar_splitmix(seed: int, n: int) -> int:
    mask = 2**64 - 1
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_splitmix_is_that_of_its_authors():
    # The first numbers of the seed 1234567, as the authors' program gives them.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [scalar_splitmix(1234567, n) for n in range(3)] == expected


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_a_mask_is_a_function_of_place_and_seed(p):
    T, B, F, seed = 3, 2, 5, 2**63 - 1
    for layer in range(3):
        mask = reference.dropout_mask(seed, layer, T, B, F, p)
        assert mask.shape == (T, B, F)
        for t, b, j in np.ndindex(T, B, F):
            number = scalar_splitmix(seed, ((layer * T + t) * B + b) * F + j)
            kept = (number >> 32) >= int(p * 2**32)
            assert mask[t, b, j] == (pytest.approx(1 / (1 - p), rel=1e-15) if kept else 0)
    assert reference.dropout_mask(1, 0, 2, 2, 2, 0.5, np.float32).dtype == np.float32


def test_an_element_is_dropped_below_the_threshold_and_kept_at_it():
    number = scalar_splitmix(5, 0) >> 32
    for threshold in (number, number + 1):
        mask = reference.dropout_mask(5, 0, 1, 1, 1, threshold / 2**32)
        assert (mask[0, 0, 0] > 0) == (number >= threshold)


def test_a_mask_drops_as_many_as_it_should():
    for p in (0.1, 0.5, 0.9):
        mask = reference.dropout_mask(3, 0, 100, 10, 50, p)
        assert (mask == 0).mean() == pytest.approx(p, abs=0.01)
        assert mask.mean() == pytest.approx(1, abs=0.05)


def test_dropout_is_between_layers_alone(rng):
    params = random_params(rng, 3, 4, 2, bidirectional=True, dtype=np.float64)
    x = rng.standard_normal((5, 2, 3))
    one = {name: value for name, value in params.items() if "_l0" in name}
    plain = reference.lstm(x, one, bidirectional=True)
    dropped = reference.lstm(x, one, bidirectional=True, dropout=0.5, dropout_seed=7)
    np.testing.assert_array_equal(plain[0], dropped[0])
    two = {name.replace("_l1", "_l0"): value for name, value in params.items() if "_l1" in name}
    masked = plain[0] * reference.dropout_mask(7, 0, 5, 2, 8, 0.5)
    expected = reference.lstm(masked, two, bidirectional=True)[0]
    got = reference.lstm(x, params, bidirectional=True, dropout=0.5, dropout_seed=7)[0]
    np.testing.assert_array_equal(got, expected)


# ---- Errors, dtypes, torch ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (r"dy: expected shape \(4, 3, 3\), got \(4, 3, 2\)", {"dy": np.zeros((4, 3, 2))}),
        (r"dy: expected shape \(4, 3, 3\), got \(4, 3\)", {"dy": np.zeros((4, 3))}),
        (r"dstate\[0\]: expected shape \(1, 3, 3\)", {"dstate": (np.zeros((1, 3, 4)), None)}),
        (r"dstate\[1\]: expected shape \(1, 3, 3\)", {"dstate": (None, np.zeros(3))}),
        (
            r"reset: expected booleans of shape \(4, 3\), got shape \(3, 4\)",
            {"reset": np.zeros((3, 4), bool)},
        ),
        (r"reset: expected booleans of shape \(4, 3\).* of int64", {"reset": np.zeros((4, 3), np.int64)}),
        ("bptt: expected at least 1, got 0", {"bptt": 0}),
    ],
)
def test_what_does_not_fit_is_an_error(message, changes, rng):
    arguments = {"x": np.zeros((4, 3, 2)), "params": random_params(rng, 2, 3, dtype=np.float64)}
    with pytest.raises(ValueError, match=message):
        reference.lstm_backward(**(arguments | changes))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_everything_is_computed_in_the_dtype_of_the_parameters(dtype, rng):
    params = random_params(rng, 3, 4, 2, dtype=dtype)
    x, dy = rng.standard_normal((5, 2, 3)), rng.standard_normal((5, 2, 4))
    dx, states, grads = reference.lstm_backward(x, params, dy=dy, dropout=0.5)
    assert {a.dtype for a in (dx, *states, *grads.values())} == {np.dtype(dtype)}
    wider = reference.lstm_backward(x, params, dy=dy, dropout=0.5, dtype=np.longdouble)
    assert {a.dtype for a in (wider[0], *wider[1], *wider[2].values())} == {np.dtype(np.longdouble)}
    for name, value in grads.items():
        scale = float(np.abs(wider[2][name]).max())
        np.testing.assert_allclose(
            value.astype(float), wider[2][name].astype(float), atol=40 * np.finfo(dtype).eps * scale
        )


def test_nothing_given_is_modified(rng):
    problem = Problem(Config(T=4, B=3, I=2, H=3, L=2, has_state=True, has_lengths=True), reset=0.3, bptt=2)
    given = [*problem.inputs.values(), problem.dy, problem.dh, problem.dc, problem.options["reset"]]
    before = [a.copy() for a in given]
    problem.backward()
    for a, b in zip(given, before, strict=True):
        np.testing.assert_array_equal(a, b)


if importlib.util.find_spec("torch"):  # one more witness where it is there; the differences always are

    def test_agrees_with_torch(rng):
        import torch

        for _ in range(30):
            problem = Problem(random_config(rng, 30, 20, dtype="float64", is_index=False))
            case, config = problem.case, problem.case.config
            if config.has_lengths:
                case.lengths = np.maximum(case.lengths, 1)  # torch takes no empty sequence
                case.lengths[0] = config.T  # and pads to the longest
                problem.options["lengths"] = case.lengths
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
            leaves = {"x": case.x} | dict(zip(("h_0", "c_0"), case.state or (), strict=False))
            leaves = {name: torch.tensor(value, requires_grad=True) for name, value in leaves.items()}
            x = leaves["x"]
            if config.has_lengths:
                x = torch.nn.utils.rnn.pack_padded_sequence(
                    x, torch.from_numpy(case.lengths), config.batch_first, enforce_sorted=False
                )
            y, (h, c) = twin(x, (leaves["h_0"], leaves["c_0"]) if case.state else None)
            if config.has_lengths:
                y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, config.batch_first)
            given = (torch.from_numpy(a) for a in (problem.dy, problem.dh, problem.dc))
            sum((a * b).sum() for a, b in zip((y, h, c), given, strict=True)).backward()
            leaves |= dict(twin.named_parameters())
            got = problem.backward()
            for name, leaf in leaves.items():
                expected = leaf.grad.numpy()
                error = np.abs(got[name].astype(float) - expected).max(initial=0)
                assert error <= 1e-13 * max(1, np.abs(expected).max(initial=0)), (name, config)
