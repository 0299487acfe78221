# SPDX-License-Identifier: BSD-3-Clause
"""Steps and clipping: all layers or none, every size, memory that serves again, extreme numbers."""

from __future__ import annotations

import itertools
import math
import sys
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm import optim
from tests.problems.children import FUSED_ISAS, ISAS, in_child
from tests.problems.comparing import assert_same_bits, digest

MAKERS = {
    "SGD": lambda layers, **o: optim.SGD(layers, 0.1, **o),
    "decay": lambda layers, **o: optim.SGD(layers, 0.1, weight_decay=0.01, **o),
    "momentum": lambda layers, **o: optim.SGD(layers, 0.1, momentum=0.9, weight_decay=0.01, **o),
    "nesterov": lambda layers, **o: optim.SGD(layers, 0.1, momentum=0.9, nesterov=True, **o),
    "Adam": lambda layers, **o: optim.Adam(layers, 0.01, weight_decay=0.01, **o),
    "AdamW": lambda layers, **o: optim.AdamW(layers, 0.01, **o),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
# More than two threads get a share of, with a tail.
LARGE = 3 * 2**18 + 77


def of_size(size, dtype="float32", rng=0):
    return fastlstm.Dense(size, 1, bias=False, dtype=dtype, rng=rng)


def trio(dtype="float32"):
    return [
        fastlstm.LSTM(3, 4, rng=0, dtype=dtype),
        fastlstm.GRU(3, 4, rng=1, dtype=dtype),
        of_size(9, dtype),
    ]


def fill(layers, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    for layer in layers:
        layer.flat_grads[...] = scale * rng.standard_normal(layer.flat_grads.shape)


def moments(optimizer):
    return [flat for part in optimizer.state_dict()["layers"] for flat in part.values()]


# ---- Every size, and the same bits -------------------------------------------------------------------------


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sgd_has_the_bits_of_numpy_for_every_size(dtype):
    rng = np.random.default_rng(1)
    lr, momentum, decay = (np.dtype(dtype).type(v) for v in (0.1, 0.9, 0.01))
    for size in (*range(1, 70), 4097):
        plain, heavy = of_size(size, dtype), of_size(size, dtype)
        steps = optim.SGD(plain, 0.1), optim.SGD(heavy, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
        p, q, b = plain.flat_params.copy(), heavy.flat_params.copy(), np.zeros(size, dtype)
        for _ in range(3):
            d = rng.standard_normal(size).astype(dtype)
            for layer, optimizer in zip((plain, heavy), steps, strict=True):
                layer.flat_grads[...] = d
                assert optimizer.step()
            p = p - lr * d
            d = d + decay * q
            b = momentum * b + d
            q = q - lr * (d + momentum * b)
        assert_same_bits(plain.flat_params, p, size)
        assert_same_bits(heavy.flat_params, q, size)
        assert_same_bits(moments(steps[1])[0], b, size)


@every_maker
def test_a_step_has_the_same_bits_on_any_number_of_threads(make):
    found = set()
    for threads in (1, 2, 3, 8):
        with fastlstm.threads(threads):
            layer = of_size(LARGE)
            optimizer = make(layer)
            for seed in range(2):
                fill([layer], seed)
                optimizer.step()
            found.add(digest(layer.flat_params, *moments(optimizer)))
    assert len(found) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_norm_has_the_same_bits_on_any_number_of_threads(dtype):
    found = set()
    for threads in (1, 2, 3, 8):
        with fastlstm.threads(threads):
            layer = of_size(LARGE, dtype)
            fill([layer])
            norm = optim.clip_grad_norm(layer, 1.0)
            found.add((norm, digest(layer.flat_grads)))
    assert len(found) == 1
    expected = np.random.default_rng(0).standard_normal(LARGE).astype(dtype).astype(np.float64)
    assert norm == pytest.approx(math.sqrt(math.fsum(expected**2)), rel=4e-16)


def steps_of_this_isa():
    """Run in a child: digests, of what is fused into multiply-adds nowhere and of Adam."""
    exact, fused = [], []
    for dtype, (name, make) in itertools.product(("float32", "float64"), MAKERS.items()):
        for size in (5, 33, 5001):
            layer = of_size(size, dtype)
            optimizer = make(layer)
            for seed in range(3):
                fill([layer], seed)
                exact.append(optim.clip_grad_norm(layer, 3.0).hex())
                exact.append(digest(layer.flat_grads))
                optimizer.step()
            (fused if "Adam" in name else exact).append(digest(layer.flat_params, *moments(optimizer)))
    return exact, fused


def test_steps_and_clipping_have_the_same_bits_on_every_instruction_set():
    found = {isa: in_child(steps_of_this_isa, isa=isa) for isa in ISAS}
    assert len({str(exact) for exact, _ in found.values()}) == 1
    assert len({str(found[isa][1]) for isa in FUSED_ISAS}) == 1


# ---- All or nothing ----------------------------------------------------------------------------------------


@every_maker
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_last_element_of_the_last_layer_stops_all(make, bad):
    for dtype in ("float32", "float64"):
        layers = [*trio(dtype), of_size(1000, dtype)]
        optimizer = make(layers)
        fill(layers)
        assert optimizer.step()
        fill(layers, 1)
        before, kept = [layer.flat_params.copy() for layer in layers], moments(optimizer)
        for place in (999, 0, 500):
            value, layers[-1].flat_grads[place] = layers[-1].flat_grads[place], bad
            with pytest.raises(FloatingPointError, match=rf"layers\[3\] \(Dense\).*\[0, {place}\]"):
                optimizer.step()
            layers[-1].flat_grads[place] = value
        assert optimizer.num_steps == 1
        for layer, flat in zip(layers, before, strict=True):
            assert_same_bits(layer.flat_params, flat)
        for now, then in zip(moments(optimizer), kept, strict=True):
            assert_same_bits(now, then)
        assert optimizer.step()
        assert optimizer.num_steps == 2


@every_maker
def test_an_interrupt_anywhere_in_a_step_leaves_all_or_nothing(make):
    """KeyboardInterrupt before every line of Python that a step runs, as a signal could raise it."""
    layers = trio()
    optimizer = make(layers)
    fill(layers)
    optimizer.step()
    seen = set()
    for stop_at in itertools.count():
        fill(layers, stop_at)
        before, kept = [layer.flat_params.copy() for layer in layers], moments(optimizer)
        steps, line = optimizer.num_steps, itertools.count()

        def trace(frame, event, argument, line=line, stop_at=stop_at):
            if event == "line" and next(line) == stop_at:
                raise KeyboardInterrupt
            return trace

        previous = sys.gettrace()
        sys.settrace(trace)
        try:
            optimizer.step()
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(previous)
        done = [
            not np.array_equal(layer.flat_params, flat) for layer, flat in zip(layers, before, strict=True)
        ]
        done += [not np.array_equal(now, then) for now, then in zip(moments(optimizer), kept, strict=True)]
        assert len(set(done)) == 1, (stop_at, done)
        assert optimizer.num_steps == steps + done[0]
        seen.add((interrupted, done[0]))
        if not interrupted:
            break
    assert seen >= {(True, False), (False, True)}


# ---- Memory that serves again ------------------------------------------------------------------------------


@every_maker
def test_whoever_has_old_parameters_keeps_them_over_many_steps(make):
    layers = trio()
    optimizer = make(layers)
    x = np.ones((2, 1, 3), np.float32)
    held = []
    for seed in range(12):
        lstm, _, dense = layers
        # One a step, so that it alone holds the memory.
        for part in (
            lstm.flat_params,
            lstm.params["bias_hh_l0"],
            memoryview(lstm.flat_params),
            dense.params["weight"][:, 2:],
            lstm.flat_params.reshape(2, -1)[1],
        )[seed % 5 :][:1]:
            held.append((part, np.array(part)))
        del part
        if seed % 4 == 3:
            stream, tape = lstm.stream(1), dense.forward(np.ones((2, 9), np.float32))
            held.append((lambda stream=stream: (stream.reset(), stream.process(x))[1], lstm(x)[0].copy()))
            held.append((tape.y, tape.y.copy()))
        fill(layers, seed)
        optimizer.step()
        for part, value in held:
            np.testing.assert_array_equal(part() if callable(part) else part, value)


def test_memory_that_nobody_has_serves_again():
    layer = of_size(10_000)
    optimizer = optim.SGD(layer, 0.1)
    addresses = set()
    for seed in range(8):
        fill([layer], seed)
        optimizer.step()
        addresses.add(layer.flat_params.ctypes.data)
    assert len(addresses) <= 3  # the first set, and two that take turns
    assert not layer.flat_params.flags.writeable


def test_first_calls_after_a_change_may_come_from_many_threads():
    """Weights are packed by whoever is first."""
    lstm, x = fastlstm.LSTM(30, 100, 2, rng=0), np.ones((3, 2, 30), np.float32)
    dense, z = fastlstm.Dense(100, 70, rng=0), np.ones((5, 100), np.float32)
    for seed in range(10):
        states = [
            fastlstm.LSTM(30, 100, 2, rng=seed).state_dict(),
            fastlstm.Dense(100, 70, rng=seed).state_dict(),
        ]
        fresh = fastlstm.LSTM(30, 100, 2, rng=seed)(x)[0], fastlstm.Dense(100, 70, rng=seed)(z)
        lstm.load_state_dict(states[0])
        dense.load_state_dict(states[1])
        found, barrier = [], threading.Barrier(6)

        def call(found=found, barrier=barrier):
            barrier.wait()
            found.append((lstm(x)[0], dense(z)))

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        for pair in found:
            assert_same_bits(pair, fresh)


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "residual": 1}, {"merge": "sum", "bidirectional": True}]
)
def test_after_steps_a_layer_is_one_that_was_made_of_its_parameters(options):
    for kind in (fastlstm.LSTM, fastlstm.GRU, fastlstm.SLSTM, fastlstm.MinGRU):
        layer, x = kind(20, 20, rng=0, **options), np.ones((4, 3, 20), np.float32)
        optimizer = optim.Adam(layer, 0.1)
        for seed in range(3):
            fill([layer], seed)
            optimizer.step()
            if seed != 1:  # a set that is never packed comes between two that are
                twin = kind(20, 20, **options)
                twin.load_state_dict(layer.state_dict())
                assert_same_bits(layer(x)[0], twin(x)[0])


# ---- Extreme numbers ---------------------------------------------------------------------------------------


def norm_of(layers):
    return math.sqrt(math.fsum(float(g) ** 2 for layer in layers for g in layer.flat_grads))


@pytest.mark.every_isa
def test_a_norm_is_never_above_the_limit():
    layer = fastlstm.LSTM(16, 16, rng=0)
    for seed in range(200):
        fill([layer], seed)
        optim.clip_grad_norm([layer], 1.0)
        norm = float(np.linalg.norm(layer.flat_grads.astype(np.float64)))
        assert 1 - 3e-7 < norm <= 1.0
        before = layer.flat_grads.copy()
        optim.clip_grad_norm([layer], 1.0)
        assert_same_bits(layer.flat_grads, before)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 100, 2000])
@pytest.mark.parametrize("value", [3e38, 1e30, 1.0, 1e-20, 1e-30, 1e-37, 1e-40, 1.4e-45])
@pytest.mark.parametrize("ratio", [0.5, 1 / 3, 1e-3, 1e-10, 1e-46])
def test_clipping_is_right_at_every_scale(size, value, ratio):
    """Nothing vanishes that float32 can hold, and equal gradients stay equal."""
    layer = of_size(size)
    layer.flat_grads[...] = value
    kept = float(layer.flat_grads[0])
    norm = kept * math.sqrt(size)
    with np.errstate(all="raise"):
        assert optim.clip_grad_norm(layer, norm * ratio) == pytest.approx(norm, rel=1e-14)
    found = layer.flat_grads.astype(np.float64)
    assert (found == found[0]).all()
    assert norm_of([layer]) <= norm * ratio
    assert abs(found[0] - kept * ratio) <= 4e-7 * kept * ratio + 2**-149


def test_clipping_of_float64_is_right_at_the_ends():
    for value, limit in (
        (1.7e308, 1.0),
        (1.7e308, 1e308),
        (1e-300, 1e-310),
        (5e-324, 2e-324),
        (1e160, 1e-300),
    ):
        layer = of_size(3, "float64")
        layer.flat_grads[...] = value
        with np.errstate(all="raise"):
            norm = optim.clip_grad_norm(layer, limit)
        assert norm == pytest.approx(value * math.sqrt(3), rel=1e-14)
        assert np.isfinite(layer.flat_grads).all()
        part = limit / math.sqrt(3)
        assert (np.abs(layer.flat_grads - part) <= 1e-14 * part + 5e-324).all()
        assert (layer.flat_grads <= part).all()


def test_gradients_of_both_dtypes_are_one_norm():
    a, b = of_size(3), of_size(4, "float64")
    a.flat_grads[...], b.flat_grads[...] = 3.0, 4.0
    assert optim.clip_grad_norm([a, b], 1.0) == pytest.approx(math.sqrt(27 + 64), rel=1e-15)
    assert 1 - 3e-7 < norm_of([a, b]) <= 1
    b.flat_grads[2] = 1e300
    optim.clip_grad_norm([a, b], 1.0)
    assert norm_of([a, b]) == pytest.approx(1, rel=1e-14)
    assert not a.flat_grads.any()


@every_maker
def test_the_error_state_of_numpy_changes_nothing(make):
    scales = (1.0, 1e-40, 1e30, 0.0)
    found = []
    for state in ("raise", "ignore"):
        layers = [*trio(), of_size(20, rng=5)]
        optimizer = make(layers, nonfinite="ignore")
        for seed in range(3):
            for layer, scale in zip(layers, scales, strict=True):
                fill([layer], seed, scale)
            with np.errstate(all=state):
                optim.clip_grad_norm(layers, 1.0)
                optimizer.step()
        found.append([layer.flat_params.copy() for layer in layers])
    for a, b in zip(*found, strict=True):
        assert_same_bits(a, b)


def test_an_infinite_limit_and_zero():
    layers = [of_size(3), of_size(2)]
    layers[0].flat_grads[...], layers[1].flat_grads[...] = -2.0, 3e38
    before = [layer.flat_grads.copy() for layer in layers]
    optim.clip_grad_norm(layers, math.inf)
    for layer, flat in zip(layers, before, strict=True):
        assert_same_bits(layer.flat_grads, flat)
    optim.clip_grad_norm(layers, 0.0)
    assert not any(layer.flat_grads.any() for layer in layers)
