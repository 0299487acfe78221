# SPDX-License-Identifier: BSD-3-Clause
"""Torch as one more witness; the reference is the one that is always there."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import warnings

import numpy as np
import pytest
import torch

import fastlstm
from fastlstm.reference import Config
from tests.problems.comparing import TOLERANCE, assert_close, assert_same_bits, largest_errors
from tests.problems.problem import arrays_of, make_problem, problem_of
from tests.problems.running import called, constructor_arguments, expected_results, named, trained

T, B, I, H = 4, 3, 5, 7
TWINS = {
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "RNN": ("RNN", {"nonlinearity": "tanh"}),
    "relu": ("RNN", {"nonlinearity": "relu"}),
    "projected": ("LSTM", {"proj_size": 4}),
}
# Options of torch's layers too, which a problem may have as it likes.
DRAWN = {"input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional"}
every_twin = pytest.mark.parametrize("name", TWINS)


def tensors(state):
    return state if isinstance(state, tuple) else (state,)


def twin_of(problem, dtype):
    """Torch's layer of the same options and parameters."""
    options = constructor_arguments(problem.config)
    kind = getattr(torch.nn, problem.config.cell)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that dropout of one layer does nothing
        layer = kind(**options, dtype=dtype)
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in problem.params.items()})
    return layer


def by_torch(problem, dtype=torch.float32, has_gradients=False):
    """Results of torch for a problem of floats; with gradients of all that it was given."""
    twin = twin_of(problem, dtype)
    states = [torch.tensor(s, requires_grad=True) for s in arrays_of(problem.state)]
    leaf = torch.tensor(problem.x, requires_grad=True)
    x, batch_first = leaf, problem.config.batch_first
    lengths = problem.keywords.get("lengths")
    if lengths is not None:
        pack = torch.nn.utils.rnn.pack_padded_sequence
        x = pack(x, torch.from_numpy(lengths), batch_first, enforce_sorted=False)
    given = (tuple(states) if len(states) > 1 else states[0]) if states else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a projection takes longer
        y, state = twin(x, given)
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first)
    results = named("y", y.detach().numpy())
    results |= named("state", tuple(s.detach().numpy() for s in tensors(state)))
    if not has_gradients:
        return results
    dy = torch.from_numpy(np.nan_to_num(problem.dy))
    dstate = [torch.from_numpy(d) for d in arrays_of(problem.dstate)]
    sum((a * b).sum() for a, b in zip((y, *tensors(state)), (dy, *dstate), strict=True)).backward()
    results |= {"dx0": leaf.grad.numpy()}
    results |= {f"dstate{k}": s.grad.numpy() for k, s in enumerate(states)}
    return results | {f"d{name}": value.grad.numpy() for name, value in twin.named_parameters()}


def problem_of_torch(seed, name, dtype, largest=40, **fixed):
    """One with what torch has: every option that it lacks at its default, no resets, masks or empty rows;
    the longest row is whole.
    """
    cell, options = TWINS[name]
    ours = inspect.signature(getattr(fastlstm, cell)).parameters
    options = {
        field.name: ours[field.name].default
        for field in dataclasses.fields(Config)
        if field.name in ours and field.name not in DRAWN
    } | options
    size = int(np.random.default_rng(seed).integers(5, largest + 1))
    problem = problem_of(
        seed, cell, dtype, largest=largest, hidden_size=size, **options, is_index=False, is_batched=True,
        has_mask=False, has_reset=False, has_cells=False, pad="zero", bptt=None, **fixed,
    )  # fmt: skip
    if "lengths" in problem.keywords:
        lengths = np.maximum(problem.keywords["lengths"], 1)
        lengths[0] = problem.time_first(problem.x).shape[0]
        problem.keywords["lengths"] = lengths
        problem.x, problem.dy = np.nan_to_num(problem.x), np.nan_to_num(problem.dy)
    return problem


@every_twin
def test_results_and_gradients_agree_with_torch(name):
    for seed in range(12):
        problem = problem_of_torch(seed, name, "float64")
        expected = by_torch(problem, torch.float64, has_gradients=True)
        for got in (trained(problem), expected_results(problem, True, np.float64)):
            got = {key: value for key, value in got.items() if key in expected}
            errors = largest_errors(got, expected)
            assert max(errors.values()) <= 1e-13, (errors, problem.config)


def test_the_error_is_at_most_twice_that_of_torch(rng):
    worst_of_all = np.zeros(2)
    # The largest of a few errors is chance, so the comparison one by one is for configurations with many
    # outputs; the largest over all configurations is compared as well.
    for seed in range(60):
        sizes = [int(np.rint(np.exp(rng.uniform(0, np.log(n))))) for n in (100, 20, 300, 300)]
        problem = make_problem(*sizes, int(rng.integers(1, 4)), bidirectional=seed % 2 == 0, seed=seed)
        truth = expected_results(problem, None, np.float64)
        theirs = {name: value for name, value in by_torch(problem).items() if name in truth}
        errors = [
            max(largest_errors(got, truth, is_strict=True).values()) for got in (called(problem), theirs)
        ]
        print(errors)
        worst_of_all = np.maximum(worst_of_all, errors)
        if truth["y0"].size >= 2000:
            assert errors[0] <= 2 * errors[1], problem.config
    assert worst_of_all[0] <= 2 * worst_of_all[1]
    assert worst_of_all[0] <= TOLERANCE[np.dtype(np.float32)]


@every_twin
@pytest.mark.parametrize("two", [False, True])
def test_parameters_have_the_names_shapes_and_order_of_torch(name, two):
    cell, options = TWINS[name]
    for L, bias in itertools.product((1, 2, 3), (False, True)):
        given = options | {"num_layers": L, "bias": bias, "bidirectional": two, "batch_first": two}
        layer, twin = getattr(fastlstm, cell)(I, H, rng=0, **given), getattr(torch.nn, cell)(I, H, **given)
        shapes = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
        assert list(layer.state_dict()) == list(shapes)
        assert {key: value.shape for key, value in layer.state_dict().items()} == shapes
        # Either takes the other's.
        x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
        for source in (layer, twin):
            if source is twin:
                layer.load_state_dict(twin.state_dict())
            else:
                twin.load_state_dict({k: torch.from_numpy(v) for k, v in layer.state_dict().items()})
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected, state = twin(torch.from_numpy(x))
            y, own = layer(torch.from_numpy(x))
            assert isinstance(y, np.ndarray)
            assert_close((y, *arrays_of(own)), (expected.numpy(), *(s.numpy() for s in tensors(state))))


@pytest.mark.parametrize(
    ("name", "options"),
    [("LSTMCell", {}), ("GRUCell", {}), ("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"})],
)
@pytest.mark.parametrize("bias", [False, True])
def test_cells_are_those_of_torch(name, options, bias):
    cell = getattr(fastlstm, name)(I, H, bias, rng=0, **options)
    twin = getattr(torch.nn, name)(I, H, bias, **options)
    assert list(cell.state_dict()) == list(twin.state_dict())
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in cell.state_dict().items()})
    x = torch.randn(3, I)
    with torch.no_grad():
        expected = tuple(a.numpy() for a in tensors(twin(x)))
    assert_close(tuple(arrays_of(cell(x))), expected)


def test_torch_tensors_are_taken():
    lstm = fastlstm.LSTM(I, H, rng=0)
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    assert_same_bits(lstm(torch.from_numpy(x))[0], lstm(x)[0])
    assert_same_bits(lstm(torch.zeros(T, B, dtype=torch.int64))[0], lstm(np.zeros((T, B), int))[0])
    state = tuple(torch.ones(1, B, H) for _ in "hc")
    assert_same_bits(lstm(x, state), lstm(x, tuple(s.numpy() for s in state)))
