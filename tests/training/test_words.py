# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of single words: a step that knows which were used gives the bits of one that does not.

Who holds `flat_grads` may write to it at any time, so all words may have a gradient: that is the other layer.
"""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm import optim
from tests.problems.comparing import assert_same_bits

WORDS = 60  # of which the batches use fewer than a quarter


def lstm(**options):
    return fastlstm.LSTM(WORDS, 7, num_layers=2, rng=0, **options)


LAYERS = {
    "LSTM": lstm,
    "LSTM, both directions": lambda: lstm(bidirectional=True),
    "LSTM, float64": lambda: lstm(dtype="f8"),
    "LSTM, reversed": lambda: lstm(reverse=True),
    "LSTM, of several stacks": lambda: fastlstm.LSTM(WORDS, (5, 9), rng=0),
    "LSTM, projected": lambda: lstm(proj_size=3),
    "GRU, whole rows": lambda: fastlstm.GRU(WORDS, 18, reset_after=False, rng=0),
    "GRU": lambda: fastlstm.GRU(WORDS, 33, rng=0),
    "minimal LSTM": lambda: fastlstm.MinLSTM(WORDS, 21, rng=0),
    "RNN": lambda: fastlstm.RNN(WORDS, 70, rng=0),
    "Embedding": lambda: fastlstm.Embedding(WORDS, 5, rng=0),
    "Embedding, padded": lambda: fastlstm.Embedding(WORDS, 5, padding_idx=3, rng=0),
    "Embedding, larger than a part": lambda: fastlstm.Embedding(WORDS, 700, dtype="f8", rng=0),
}


def batches(count=6):
    """Indices (T, B) of few words, not the same ones each time; the first and the last word among them."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield rng.choice([0, WORDS - 1, *rng.integers(0, WORDS, 5), 3], (4, 3))


def learn(layer, optimizer, x, passes=1):
    """One step, whose gradients several passes add up."""
    optimizer.zero_grad()
    for n in range(passes):
        tape = layer.forward((x + n) % WORDS)
        tape.backward(np.cos(np.arange(tape.y.size).reshape(tape.y.shape)))
    return optimizer.step()


def packed_step(layer):
    """Whether the last step knew which words it changed: then nothing was added to flat_grads."""
    words = layer.__dict__.get("_words")
    return words is not None and not layer.__dict__["_flat_grads"].reshape(-1)[:WORDS].any()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("passes", [1, 2])
def test_steps_that_know_the_words_have_the_bits_of_others(name, passes):
    one, other = LAYERS[name](), LAYERS[name]()
    held = other.flat_grads
    steps = [optim.SGD(layer, lr=0.3) for layer in (one, other)]
    for x in batches():
        for layer, optimizer in zip((one, other), steps, strict=True):
            assert learn(layer, optimizer, x, passes)
        assert_same_bits(one.flat_params, other.flat_params)
        for indices in (x, np.arange(WORDS)[:, None]):  # what was packed again is all there is
            left, right = one.forward(indices).y, other.forward(indices).y
            assert_same_bits(left, right)
    assert packed_step(one)
    assert np.count_nonzero(held)
    assert_same_bits(one.flat_grads, held)


@pytest.mark.parametrize("name", ["LSTM, both directions", "Embedding"])
def test_whoever_asks_for_gradients_gets_all_and_may_write_to_them(name):
    one, other = LAYERS[name](), LAYERS[name]()
    held = other.flat_grads
    steps = [optim.SGD(layer, lr=0.3) for layer in (one, other)]
    for turn, x in enumerate(batches(12)):
        for layer, optimizer in zip((one, other), steps, strict=True):
            optimizer.zero_grad()
            tape = layer.forward(x)
            tape.backward(np.ones_like(tape.y))
            if turn % 4 == 1:
                optim.clip_grad_norm(layer, 0.1)
            if turn % 4 == 2:
                layer.flat_grads[...] += 0.25  # of words that were not used, too
            if turn % 4 == 3:
                tape = layer.forward((x + 1) % WORDS)
                tape.backward(np.ones_like(tape.y))
            optimizer.step()
        assert_same_bits(one.flat_params, other.flat_params)
        assert_same_bits(one(np.arange(WORDS)[:, None])[0], other(np.arange(WORDS)[:, None])[0])
    assert_same_bits(one.flat_grads, held)


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW, "momentum", "decay"])
def test_steps_that_change_all_words_do(kind):
    """Of words that were not used: moments go on, and parameters decay."""
    options = {"momentum": {"momentum": 0.9}, "decay": {"weight_decay": 0.1}}.get(kind, {})
    maker = optim.SGD if options else kind
    one, other = (fastlstm.GRU(WORDS, 5, rng=0) for _ in range(2))
    held = other.flat_grads
    steps = [maker(layer, lr=0.01, **options) for layer in (one, other)]
    for x in batches():
        for layer, optimizer in zip((one, other), steps, strict=True):
            learn(layer, optimizer, x)
        assert_same_bits(one.flat_params, other.flat_params)
        assert_same_bits(one(x)[0], other(x)[0])
    assert held.any()


def test_streams_tapes_and_copies_keep_the_parameters_that_they_began_with():
    layer = lstm()
    optimizer = optim.SGD(layer, lr=0.5)
    x = next(batches())
    for _ in range(3):
        learn(layer, optimizer, x)
    want = layer(x)[0]
    stream, params, twin = layer.stream(3), layer.params, pickle.loads(pickle.dumps(layer))
    kept = {name: value.copy() for name, value in params.items()}
    for _ in range(3):
        learn(layer, optimizer, x)
    assert np.abs(layer(x)[0] - want).max() > 1e-3
    assert_same_bits(np.stack([stream.step(row) for row in x]), want)
    assert_same_bits(twin(x)[0], want)
    for name, value in params.items():
        assert_same_bits(value, kept[name])


def test_a_gradient_that_is_not_finite_changes_nothing():
    for name in ("LSTM", "Embedding"):
        layer = LAYERS[name]()
        optimizer = optim.SGD(layer, lr=0.5)
        skipping = optim.SGD(layer, lr=0.5, nonfinite="skip")
        x = next(batches())
        for _ in range(2):
            learn(layer, optimizer, x)
        before = layer.flat_params.copy()
        for each in (skipping, optimizer):
            optimizer.zero_grad()
            tape = layer.forward(x)
            dy = np.ones_like(tape.y)
            dy[0, 0] = np.nan
            tape.backward(dy)
            if each is skipping:
                assert each.step() is False
            else:
                with pytest.raises(FloatingPointError, match="expected finite gradients, got nan in grads"):
                    each.step()
            assert_same_bits(layer.flat_params, before)
        assert learn(layer, optimizer, x)
        assert np.isfinite(layer.flat_params).all()


def test_denormal_parameters_become_zero_as_in_any_step():
    one, other = (fastlstm.GRU(WORDS, 5, rng=0) for _ in range(2))
    held = other.flat_grads
    for layer in (one, other):
        optimizer = optim.SGD(layer, lr=0.5)
        for n, x in enumerate(batches()):
            if n == 3:
                with layer.editing() as flat:
                    flat[::7] = 1e-40
            learn(layer, optimizer, x)
    assert_same_bits(one.flat_params, other.flat_params)
    assert not np.any((np.abs(one.flat_params) < 1e-38) & (one.flat_params != 0))
    assert held.any()


def test_threads_that_add_gradients_lose_none():
    layer, other = (fastlstm.Embedding(WORDS, 8, rng=0) for _ in range(2))
    held = other.flat_grads
    for each in (layer, other):
        optim.SGD(each, lr=0.1).zero_grad()
        tape = each.forward([0])
        tape.backward(np.zeros_like(tape.y))
        each.zero_grad()

    def add(each):
        for word in range(12):
            tape = each.forward([word])
            tape.backward(np.ones_like(tape.y))

    threads = [threading.Thread(target=add, args=(layer,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        layer.grads["weight"].sum()  # asks for them meanwhile
    for thread in threads:
        thread.join()
    for _ in range(4):
        add(other)
    assert_same_bits(layer.flat_grads, held)
