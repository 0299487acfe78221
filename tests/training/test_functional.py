# SPDX-License-Identifier: BSD-3-Clause
"""Passes whose memory is the caller's: the bits of a tape, again, from anywhere; weights without a layer."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_same_bits
from tests.problems.problem import arrays_of, make_problem, problem_of
from tests.problems.running import SAVES, make_layer
from tests.problems.running import recorded as recorded_pass

ANYTHING = np.nan  # what stands in a buffer for gradients


def recorded(problem, layer, **keywords):
    """A pass whose masks, if there are any, are always the same."""
    return recorded_pass(problem, layer, **({"seed": 5} | keywords))


def problem_with(cell, seed=0, **keywords):
    return make_problem(19, 4, 5, 9, 2, cell=cell, has_lengths=True, has_state=True, seed=seed, **keywords)


def results(tape, problem, **keywords):
    """Gradients of x and of states, one array after the other."""
    return arrays_of(tape.backward(problem.dy, problem.dstate, **keywords))


def alone(layer, problem, **keywords):
    """What an ordinary tape gives: gradients of arguments, and those of parameters."""
    layer.zero_grad()
    got = results(recorded(problem, layer, **keywords), problem)
    return got, layer.flat_grads.copy()


def assert_all_same(got, expected, what=""):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert_same_bits(a, b, what)


# ---- Gradients into the caller's buffer, and tapes that are kept -------------------------------------------


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_into_a_buffer_are_those_of_the_layer(cell, save):
    problem = problem_with(cell)
    layer = make_layer(problem)
    expected, gradients = alone(layer, problem, save=save)
    layer.zero_grad()
    tape = recorded(problem, layer, save=save)
    for keep in (True, True, False):
        flat = np.full_like(layer.flat_params, ANYTHING)
        assert_all_same(results(tape, problem, grads=flat, keep=keep), expected, keep)
        assert_same_bits(flat, gradients, keep)
    assert not layer.flat_grads.any()
    with pytest.raises(
        RuntimeError, match=r"^tape: expected one backward for each forward, got a second one"
    ):
        tape.backward()


@pytest.mark.parametrize("seed", range(24))
def test_any_form_of_call_goes_to_a_buffer(seed):
    problem = problem_of(seed, list(CELLS)[seed % len(CELLS)], "float32" if seed % 2 else "float64")
    layer = make_layer(problem)
    layer.zero_grad()
    expected = arrays_of(recorded(problem, layer).backward(problem.dy, problem.dstate, problem.dcells))
    gradients = layer.flat_grads.copy()
    tape = recorded(problem, layer)
    for _ in range(2):
        flat = np.full_like(layer.flat_params, ANYTHING)
        got = arrays_of(tape.backward(problem.dy, problem.dstate, problem.dcells, grads=flat, keep=True))
        assert_all_same(got, expected, seed)
        assert_same_bits(flat, gradients, seed)


def test_tape_that_is_kept_adds_each_time():
    problem = problem_with("LSTM")
    layer = make_layer(problem)
    gradients = alone(layer, problem)[1]
    layer.zero_grad()
    tape = recorded(problem, layer)
    for _ in range(3):
        tape.backward(problem.dy, problem.dstate, keep=True)
    assert_same_bits(layer.flat_grads, gradients + gradients + gradients)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SLSTM"])
def test_indices_have_gradients_in_a_buffer(kind, rng):
    layer = getattr(fastlstm, kind)(7, 6, num_layers=2, rng=0)
    x = rng.integers(0, 5, (9, 3))
    dy = rng.standard_normal((9, 3, 6)).astype(np.float32)
    tape = layer.forward(x)
    tape.backward(dy, keep=True)
    flat = np.full_like(layer.flat_params, ANYTHING)
    dx, _ = tape.backward(dy, grads=flat)
    assert dx is None
    assert_same_bits(flat, layer.flat_grads)


def test_new_parameters_do_not_matter_to_a_buffer():
    problem = problem_with("LSTM")
    layer = make_layer(problem)
    expected, gradients = alone(layer, problem)
    tape = recorded(problem, layer)
    with layer.editing() as flat_params:
        flat_params *= 2
    flat = np.empty_like(layer.flat_params)
    assert_all_same(results(tape, problem, grads=flat, keep=True), expected)
    assert_same_bits(flat, gradients)
    with pytest.raises(RuntimeError, match="others since"):
        tape.backward(problem.dy)


@pytest.mark.parametrize("has_reserve", [False, True])
def test_threads_go_back_through_one_tape_at_once(has_reserve):
    problem = problem_with("LSTM")
    layer = make_layer(problem, num_threads=1)
    expected, gradients = alone(layer, problem, save=3)
    reserve = np.empty(layer.reserve_size(19, 4, lengths=problem.keywords["lengths"], save=3), np.uint8)
    tape = recorded(problem, layer, save=3, **({"reserve": reserve} if has_reserve else {}))
    wrong, barrier = [], threading.Barrier(3)

    def go_back():
        barrier.wait()
        for _ in range(20):
            flat = np.full_like(layer.flat_params, ANYTHING)
            got = results(tape, problem, grads=flat, keep=True)
            same = all(a.tobytes() == b.tobytes() for a, b in zip(got, expected, strict=True))
            if not same or flat.tobytes() != gradients.tobytes():
                wrong.append(flat)

    threads = [threading.Thread(target=go_back) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("grads", "error"),
    [
        (np.zeros(3, np.float32), ValueError),
        ("float64", ValueError),
        ("read-only", ValueError),
        ("strided", ValueError),
        ([0.0], ValueError),
    ],
)
def test_wrong_buffers_are_refused(grads, error):
    layer = fastlstm.LSTM(2, 3, rng=0)
    size = layer.flat_params.size
    if isinstance(grads, str):
        grads = {
            "float64": np.zeros(size),
            "read-only": np.broadcast_to(np.float32(0), size).copy(),
            "strided": np.zeros(2 * size, np.float32)[::2],
        }[grads]
        if grads.dtype == np.float32 and grads.flags.c_contiguous:
            grads.flags.writeable = False
    tape = layer.forward(np.zeros((2, 1, 2), np.float32))
    with pytest.raises(error, match=r"^grads: expected "):
        tape.backward(grads=grads)
    with pytest.raises(TypeError, match=r"^keep: expected a bool"):
        tape.backward(keep=1)
    tape.backward()


# ---- The caller's reserve ----------------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["all", "states", 4])
@pytest.mark.parametrize("cell", CELLS)
def test_pass_is_found_again_in_its_reserve(cell, save):
    problem = problem_with(cell)
    layer = make_layer(problem)
    expected, gradients = alone(layer, problem, save=save)
    plain = recorded(problem, layer, save=save)
    reserve = np.empty(layer.reserve_size(19, 4, lengths=problem.keywords["lengths"], save=save), np.uint8)
    out = np.full_like(plain.y, ANYTHING)
    tape = recorded(problem, layer, save=save, reserve=reserve, out=out)
    assert tape.y is out
    assert_same_bits(out, plain.y)
    flat = np.full_like(layer.flat_params, ANYTHING)
    assert_all_same(results(tape, problem, grads=flat), expected)
    assert_same_bits(flat, gradients)
    moved = memoryview(bytearray(reserve.tobytes()))
    keywords = {
        name: problem.keywords[name] for name in ("lengths", "reset", "training") if name in problem.keywords
    }
    keywords |= {"save": save, "seed": 5, "bptt": problem.bptt}
    again = layer.tape(problem.x, problem.state, y=out.copy(), reserve=moved, **keywords)
    assert again.state is None
    flat[...] = ANYTHING
    assert_all_same(results(again, problem, grads=flat), expected)
    assert_same_bits(flat, gradients)


def test_arguments_are_copied_unless_they_are_lent(rng):
    layer = fastlstm.LSTM(3, 4, rng=0)
    x = rng.standard_normal((5, 2, 3)).astype(np.float32)
    dy = np.ones((5, 2, 4), np.float32)
    expected = layer.forward(x).backward(dy)[0]
    tape = layer.forward(x.copy(), copy=False)
    assert tape.y.flags.writeable
    assert_same_bits(tape.backward(dy)[0], expected)
    lent = x.copy()
    tape, kept = layer.forward(lent, copy=False), layer.forward(lent)
    lent[...] = 0
    flat, other = np.empty_like(layer.flat_params), np.empty_like(layer.flat_params)
    tape.backward(dy, grads=flat)
    kept.backward(dy, grads=other)
    assert (flat != other).any()  # the one looks at what it was lent
    assert not kept.y.flags.writeable


def test_seed_takes_the_place_of_a_draw(rng):
    layer = fastlstm.LSTM(3, 4, 2, dropout=0.5, rng=0)
    x = rng.standard_normal((5, 2, 3)).astype(np.float32)
    before = copy.deepcopy(layer.rng.bit_generator.state)
    first, second, other = (layer.forward(x, seed=seed).y for seed in (3, 3, 4))
    assert layer.rng.bit_generator.state == before
    assert_same_bits(first, second)
    assert (first != other).any()
    reserve = np.empty(layer.reserve_size(5, 2), np.uint8)
    tape = layer.forward(x, seed=3, reserve=reserve)
    with pytest.raises(ValueError, match=r"^seed: expected that of the pass"):
        layer.tape(x, y=tape.y, reserve=reserve)
    for wrong in (-1, 2**63):
        with pytest.raises(ValueError, match=r"^seed: expected an integer from 0"):
            layer.forward(x, seed=wrong)


def test_wrong_reserves_are_refused():
    layer = fastlstm.LSTM(2, 3, rng=0)
    x = np.zeros((4, 2, 2), np.float32)
    size = layer.reserve_size(4, 2)
    right = np.empty(size, np.uint8)
    for reserve, error in (
        (right[:-1].copy(), ValueError),
        (np.empty(size + 8, np.uint8)[1 : size + 1], ValueError),
        (bytes(size), ValueError),  # cannot be written
        ("reserve", TypeError),
        (3, TypeError),
    ):
        with pytest.raises(error, match=r"^reserve: expected "):
            layer.forward(x, reserve=reserve)
    tape = layer.forward(x, reserve=right)
    assert layer.tape(x, y=tape.y, reserve=bytes(right)).nbytes == size  # which is read alone
    with pytest.raises(ValueError, match=r"^reserve: expected at least"):
        layer.tape(np.zeros((9, 2, 2), np.float32), y=np.zeros((9, 2, 3), np.float32), reserve=right)
    with pytest.raises(ValueError, match=r"^reserve: expected None"):
        layer.forward([x[:, 0]], reserve=right)
    with pytest.raises(ValueError, match=r"^out: expected None"):
        layer.forward(x, mask=np.ones((4, 2), bool), out=np.empty((4, 2, 3), np.float32))
    with pytest.raises(ValueError, match=r"^reserve: expected a layer that is one stack"):
        fastlstm.LSTM(2, (3, 4), rng=0).reserve_size(4, 2)
    with pytest.raises(ValueError, match=r"^lengths\[1\]"):
        layer.reserve_size(4, 2, lengths=[1, 5])
    with pytest.raises(OverflowError):
        layer.reserve_size(2**62, 2)
    assert layer.reserve_size(4, 2, save="states") < size


# ---- Weights as an argument --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(24))
def test_packed_weights_are_called_as_a_layer(seed):
    problem = problem_of(seed, list(CELLS)[seed % len(CELLS)], "float32" if seed % 2 else "float64")
    layer = make_layer(problem)
    layer.zero_grad()
    expected = recorded(problem, layer)
    gradients = arrays_of(expected.backward(problem.dy, problem.dstate, problem.dcells))
    for packed in (
        fastlstm.pack(layer.flat_params, layer),
        pickle.loads(pickle.dumps(fastlstm.pack(layer.params, layer))),
    ):
        tape = recorded(problem, packed)
        assert_all_same(arrays_of(tape.y), arrays_of(expected.y), seed)
        flat = np.full_like(layer.flat_params, ANYTHING)
        got = arrays_of(tape.backward(problem.dy, problem.dstate, problem.dcells, grads=flat))
        assert_all_same(got, gradients, seed)
        assert_same_bits(flat, layer.flat_grads, seed)


def test_packed_weights_follow_each_other(rng):
    layer = fastlstm.LSTM(3, 5, num_layers=2, rng=0)
    x = rng.standard_normal((6, 2, 3)).astype(np.float32)
    packed = fastlstm.pack(layer.params, {"kind": "LSTM", "input_size": 3, "hidden_size": 5, "num_layers": 2})
    doubled = packed.with_params(2 * packed.flat_params)
    assert_same_bits(packed(x)[0], layer(x)[0])
    layer.load_state_dict({name: 2 * value for name, value in layer.params.items()})
    assert_same_bits(doubled(x)[0], layer(x)[0])
    assert doubled.config == packed.config
    stream = doubled.stream(2)
    assert_same_bits(stream.process(x), layer(x)[0])
    assert fastlstm.pack(packed.flat_params, packed.config)(x)[0].tobytes() == packed(x)[0].tobytes()
    assert not packed.flat_params.flags.writeable


def test_wrong_packing_is_refused(rng):
    config = {"kind": "LSTM", "input_size": 3, "hidden_size": 5}
    layer = fastlstm.LSTM(3, 5, rng=0)
    with pytest.raises(ValueError, match=r"^config\['kind'\]: expected one of LSTM"):
        fastlstm.pack(layer.params, config | {"kind": "lstm"})
    with pytest.raises(TypeError, match=r"^config: expected a mapping or a layer"):
        fastlstm.pack(layer.params, "LSTM")
    with pytest.raises(ValueError, match="unknown"):
        fastlstm.pack(layer.params, config | {"hidden": 5})
    with pytest.raises(ValueError, match=r"^params: expected shape"):
        fastlstm.pack(layer.flat_params[1:], config)
    with pytest.raises(ValueError, match=r"^mapping: expected the names"):
        fastlstm.pack({}, config)
    with pytest.raises(TypeError, match=r"^Packed: expected to be made by pack"):
        fastlstm.Packed()
    packed = fastlstm.pack(layer.params, config)
    tape = packed.forward(np.zeros((2, 1, 3), np.float32))
    with pytest.raises(TypeError, match=r"^grads: expected an array"):
        tape.backward()
    with pytest.raises(AttributeError, match="config"):
        packed.config = {}
