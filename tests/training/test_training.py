# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of every parameter, input and initial state: against truths of higher precision, and torch."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest

import fastlstm
from tests.problems.helpers import Case, Config, assert_same_bits
from tests.problems.training import (
    GRADIENT_TOLERANCE,
    SAVES,
    Options,
    Training,
    as_tuple,
    assert_right,
    largest_part,
    next_seed,
    random_training,
)

DTYPES = ("float32", "float64")
EVERYTHING = Options(reset=0.2, dropout=0.4, bptt=4)


@pytest.mark.every_isa
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_configurations(dtype, save, rng):
    for _ in range(20):
        training = random_training(rng, dtype=dtype)
        assert_right(training.run(save=save), training.truth(), (training.config, training.options))


@pytest.mark.every_isa
@pytest.mark.parametrize("H", [1, 2, 7, 13, 17, 31, 33, 65, 77, 130])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_option_at_once_for_odd_sizes(dtype, H):
    for I, B, is_index in ((130, 5, False), (13, 1, False), (1, 9, True), (33, 17, True)):
        config = Config(
            9,
            B,
            I,
            H,
            2,
            B % 2 == 0 or I == 33,
            has_state=True,
            has_lengths=True,
            is_index=is_index,
            dtype=dtype,
        )
        training = Training(config, EVERYTHING)
        truth = training.truth()
        for save in ("all", 2):
            assert_right(training.run(save=save), truth, (config, save))


# The backward pass goes through time in chunks, by T and B alone: many chunks, one of them shorter than the
# others; rows of a batch that are more than a chunk; sequences that end within each of the chunks.
CHUNKED = [
    Config(T=400, B=1, I=3, H=9),
    Config(T=401, B=1, I=7, H=17, L=2, has_state=True),
    Config(T=131, B=5, I=3, H=13, L=3, has_lengths=True, has_state=True),
    Config(T=97, B=7, I=33, H=31, L=2, bidirectional=True, has_lengths=True, has_state=True),
    Config(T=150, B=6, I=17, H=10, L=2, bidirectional=True, is_index=True, has_lengths=True),
    Config(T=60, B=65, I=1, H=7, L=2, has_lengths=True),
    Config(T=5, B=700, I=5, H=8, L=2, bidirectional=True, has_lengths=True, has_state=True),
    Config(T=2, B=1030, I=3, H=5, is_index=True, has_lengths=True),
]


@pytest.mark.every_isa
@pytest.mark.parametrize("save", ["all", "states", 1, 50, 1000])
@pytest.mark.parametrize("config", CHUNKED, ids=str)
def test_sequences_and_batches_of_several_chunks(config, save):
    for options in (Options(), Options(reset=0.02, dropout=0.3, bptt=30)):
        training = Training(config, options)
        assert_right(training.run(save=save), training.truth(), options)


@pytest.mark.parametrize("config", [c for c in CHUNKED if c.B < 100], ids=str)
def test_sequences_of_several_chunks_in_float64(config):
    training = Training(dataclasses.replace(config, dtype="float64"), Options(reset=0.02, bptt=41))
    assert_right(training.run(save=7), training.truth())


def test_is_the_derivative_of_the_forward_pass_itself(rng):
    """Without the reference: central differences of the layer's own results, in float64."""
    training = Training(Config(T=7, B=3, I=4, H=5, L=2, bidirectional=True, has_state=True, dtype="float64"))
    case = training.case
    got = training.run()
    layer = training.layer()
    inputs = dict(case.params) | {"dx": training.x, "dh_0": case.state[0], "dc_0": case.state[1]}

    def value(changed: dict[str, np.ndarray]) -> float:
        layer.load_state_dict({name: changed[name] for name in case.params})
        y, (h, c) = layer(changed["dx"], (changed["dh_0"], changed["dc_0"]))
        return float(
            (y * training.dy).sum() + (h * training.dstate[0]).sum() + (c * training.dstate[1]).sum()
        )

    for name, given in inputs.items():
        for _ in range(4):
            direction = rng.standard_normal(given.shape)
            ahead, behind = (value(inputs | {name: given + s * 1e-5 * direction}) for s in (1, -1))
            expected = (ahead - behind) / 2e-5
            assert float((got[name] * direction).sum()) == pytest.approx(expected, rel=1e-7, abs=1e-7), name


# ---- Results of the recorded pass --------------------------------------------------------------------------


@pytest.mark.every_isa
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_bits_of_a_call(dtype, save, rng):
    for _ in range(20):
        training = random_training(rng, 60, 60, dtype=dtype)
        case, layer = training.case, training.layer()
        tape = training.forward(layer, save, reset=None, training=False)
        assert_same_bits((tape.y, *tape.state), case.run(layer), training.config)


def test_dropout_does_not_act_unless_training(rng):
    for L in (1, 3):
        config = Config(T=9, B=4, I=5, H=11, L=L, has_state=True)
        training, without = Training(config, Options(dropout=0.5)), Training(config)
        layer, plain = training.layer(), without.layer()
        before = copy.deepcopy(layer.rng)
        tape = training.forward(layer, training=False)
        result = tape.backward(training.dy, training.dstate)
        assert_same_bits(result, without.forward(plain).backward(without.dy, without.dstate))
        assert_same_bits(layer.flat_grads, plain.flat_grads)
        assert layer.rng.bit_generator.state == before.bit_generator.state
        training.forward(layer)
        if L > 1:
            before.integers(2**63)
        assert layer.rng.bit_generator.state == before.bit_generator.state


def test_dropout_draws_another_mask_for_each_pass():
    training = Training(Config(T=9, B=4, I=5, H=11, L=2), Options(dropout=0.5))
    layer = training.layer()
    seeds, outputs = [], []
    for _ in range(3):
        seeds.append(next_seed(layer))
        outputs.append(training.forward(layer).y.tobytes())
    assert len(set(seeds)) == len(set(outputs)) == 3


@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_of_everything(bidirectional):
    training = Training(Config(T=6, B=3, I=4, H=7, L=2, bidirectional=bidirectional), Options(dropout=1.0))
    got = training.run()
    assert_right(got, training.truth())
    zero = [name for name in got if name == "dx" or "_l0" in name or name == "weight_ih_l1"]
    # What reaches layer 0 is the gradient of its final states alone; here is none of dy.
    tape = training.forward(layer := training.layer())
    dx, _ = tape.backward(training.dy)
    assert not dx.any()
    assert len(zero) >= 5
    assert not any(layer.grads[name].any() for name in zero if name != "dx")
    assert layer.grads["weight_hh_l1"].any()


# ---- Arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [Config(T=8, B=4, I=6, H=9, L=2, has_state=True, has_lengths=True, seed=s)
                                    for s in range(3)], ids=str)  # fmt: skip
@pytest.mark.parametrize("batch_first", [False, True])
def test_arguments_of_any_kind(config, batch_first):
    training = Training(dataclasses.replace(config, batch_first=batch_first), EVERYTHING)
    expected = training.run()
    case = training.case

    def strided(array: np.ndarray) -> np.ndarray:
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), 7, array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]

    def backwards(array: np.ndarray) -> np.ndarray:
        return array[::-1].copy()[::-1]

    kinds: list[Any] = [
        lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a.astype(np.int32),
        lambda a: a.tolist(),
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(a.dtype.newbyteorder()),
        strided,
        backwards,
    ]
    for kind in kinds:
        layer = training.layer()
        reset = training.reset.tolist() if kind is kinds[1] else np.asfortranarray(training.reset)
        tape = layer.forward(
            kind(training.x),
            [kind(s) for s in case.state],
            lengths=kind(case.lengths) if kind is not strided else case.lengths.tolist(),
            reset=reset,
            bptt=np.int64(training.options.bptt),
            training=np.True_,
        )
        dx, states = tape.backward(kind(training.dy), [kind(s) for s in training.dstate])
        assert_same_bits((tape.y, *tape.state), (expected["y"], expected["h_n"], expected["c_n"]), kind)
        assert_same_bits((dx, *states), (expected["dx"], expected["dh_0"], expected["dc_0"]), kind)
        for name, value in layer.grads.items():
            assert_same_bits(value, expected[name], (kind, name))


@pytest.mark.parametrize("is_index", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("save", ["all", 2])
def test_one_sequence_without_a_batch(save, batch_first, is_index):
    config = Config(T=9, B=1, I=5, H=7, L=2, bidirectional=True, has_state=True, is_index=is_index)
    training = Training(config, Options(reset=0.2, bptt=4))
    expected = training.run()
    layer = Case(dataclasses.replace(config, batch_first=batch_first)).layer()
    layer.load_state_dict(training.case.params)
    tape = layer.forward(
        training.x[:, 0],
        tuple(s[:, 0] for s in training.case.state),
        reset=training.reset[:, 0],
        save=save,
        bptt=4,
    )
    dx, states = tape.backward(training.dy[:, 0], tuple(s[:, 0] for s in training.dstate))
    assert_same_bits(tape.y, expected["y"][:, 0])
    assert_same_bits((*tape.state, *states), tuple(expected[n][:, 0] for n in ("h_n", "c_n", "dh_0", "dc_0")))
    assert dx is None if is_index else assert_same_bits(dx, expected["dx"][:, 0]) is None
    for name, value in layer.grads.items():
        assert_same_bits(value, expected[name], name)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("save", ["all", 4])
def test_what_is_not_given_is_zero(save, bidirectional):
    config = Config(T=9, B=4, I=5, H=7, L=2, bidirectional=bidirectional, has_state=True, has_lengths=True)
    training = Training(config)
    dy = np.where(np.isnan(training.dy), 0, training.dy)
    for has_y, has_h, has_c in itertools.product((False, True), repeat=3):
        given = (
            dy if has_y else None,
            tuple(a if has else None for a, has in zip(training.dstate, (has_h, has_c), strict=True)),
        )
        zeros = (
            np.zeros_like(dy) if given[0] is None else given[0],
            tuple(
                np.zeros_like(full) if a is None else a
                for a, full in zip(given[1], training.dstate, strict=True)
            ),
        )
        results = []
        for arguments in (given, zeros):
            layer = training.layer()
            dx, states = training.forward(layer, save).backward(*arguments)
            results.append((dx, *states, layer.flat_grads))
        for got, expected in zip(*results, strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=str((has_y, has_h, has_c)))
        truth = training.truth(dy=given[0], dstate=given[1])
        assert largest_part(results[0][0], truth["dx"]) <= GRADIENT_TOLERANCE[np.dtype(np.float32)]
    layer = training.layer()
    dx, states = training.forward(layer, save).backward()
    assert not any(a.any() for a in (dx, *states, layer.flat_grads))


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_not_looked_at_and_gets_no_gradient(dtype, rng):
    for _ in range(20):
        training = random_training(rng, has_lengths=True, dtype=dtype)
        got = training.run()
        behind = np.arange(training.config.T)[:, np.newaxis] >= training.case.lengths
        behind = behind.T if training.config.batch_first else behind
        for name in ("y", "dx"):
            if name in got:
                assert not got[name][behind].any()
        training.x = training.case.x  # numbers now, and others
        training.dy = np.where(behind[..., np.newaxis], np.inf, training.dy).astype(dtype)
        assert_same_bits(as_tuple(training.run()), as_tuple(got), training.config)


@pytest.mark.parametrize("D", [1, 2])
def test_a_reset_is_the_same_as_two_sequences(D):
    """Rows cut at a reset, as rows of their own: the same numbers, whatever the direction."""
    config = Config(T=12, B=1, I=5, H=9, L=2, bidirectional=D == 2)
    training = Training(config)
    training.reset = np.zeros((12, 1), bool)
    training.reset[5] = True
    training.dstate = (None, None)
    layer, parts = training.layer(), training.layer()
    dx, _ = training.forward(layer).backward(training.dy)
    for part in (slice(0, 5), slice(5, 12)):
        tape = parts.forward(training.x[part])
        dx_part, _ = tape.backward(training.dy[part])
        assert_same_bits(dx_part, dx[part])
    assert largest_part(layer.flat_grads, parts.flat_grads) <= GRADIENT_TOLERANCE[np.dtype(np.float32)]


def test_truncation_ends_gradients_and_no_states():
    training = Training(Config(T=9, B=2, I=3, H=5, has_state=True), Options(bptt=4))
    layer = training.layer()
    tape = training.forward(layer)
    assert_same_bits((tape.y, *tape.state), training.case.run())
    dy = np.zeros_like(training.dy)
    dy[6] = 1
    dx, (dh_0, dc_0) = tape.backward(dy)
    assert [bool(step.any()) for step in dx] == [t in (4, 5, 6) for t in range(9)]
    assert not dh_0.any()
    assert not dc_0.any()


# ---- Nothing to do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("is_index", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0), (3, 2), (300, 2)])
def test_no_steps_at_all(T, B, is_index, save):
    """T or B is zero, or every length is: state and its gradient pass through, all else is zero."""
    for bidirectional, batch_first in itertools.product((False, True), repeat=2):
        layer = fastlstm.LSTM(4, 5, 2, True, batch_first, bidirectional=bidirectional, rng=0)
        shape = (B, T) if batch_first else (T, B)
        x = np.full(shape, -1) if is_index else np.full((*shape, 4), np.nan, np.float32)
        width = 5 * layer.num_directions
        rng = np.random.default_rng(0)
        states = (2 * layer.num_directions, B, 5)
        state, dstate = (tuple(rng.standard_normal(states).astype(np.float32) for _ in "hc") for _ in "ab")
        layer.flat_grads[:] = 3
        lengths = np.zeros(B, int)
        tape = layer.forward(x, state, lengths=lengths, reset=np.ones(shape, bool), save=save, bptt=1)
        assert_same_bits(tape.state, state)
        assert_same_bits(tape.y, np.zeros((*shape, width), np.float32))
        dx, dstate_0 = tape.backward(np.full((*shape, width), np.nan, np.float32), dstate)
        assert_same_bits(dstate_0, dstate)
        assert dx is None if is_index else assert_same_bits(dx, np.zeros(x.shape, np.float32)) is None
        assert (layer.flat_grads == 3).all()


# ---- Torch, where it is ------------------------------------------------------------------------------------

if importlib.util.find_spec("torch"):  # one more witness where it is there; the reference always is

    def test_agrees_with_torch(rng):
        import torch

        for _ in range(12):
            training = random_training(rng, 40, 20, dtype="float64", is_index=False)
            case, config = training.case, training.config
            training = Training(config)  # torch has neither resets nor this dropout
            if config.has_lengths:
                training.case.lengths = np.maximum(case.lengths, 1)  # torch takes no empty sequence
                training.case.lengths[0] = config.T  # and pads to the longest
                training.x, training.dy = case.x, np.nan_to_num(training.dy)
            case = training.case
            got = training.run()
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
            leaves = {"dx": case.x} | dict(zip(("dh_0", "dc_0"), case.state or (), strict=False))
            leaves = {name: torch.tensor(value, requires_grad=True) for name, value in leaves.items()}
            x = leaves["dx"]
            if config.has_lengths:
                x = torch.nn.utils.rnn.pack_padded_sequence(
                    x, torch.from_numpy(case.lengths), config.batch_first, enforce_sorted=False
                )
            y, (h, c) = twin(x, (leaves["dh_0"], leaves["dc_0"]) if case.state else None)
            if config.has_lengths:
                y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, config.batch_first)
            given = (torch.from_numpy(a) for a in (training.dy, *training.dstate))
            sum((a * b).sum() for a, b in zip((y, h, c), given, strict=True)).backward()
            leaves |= dict(twin.named_parameters())
            for name, leaf in leaves.items():
                assert largest_part(got[name], leaf.grad.numpy()) <= 1e-13, (name, config)
