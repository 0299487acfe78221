# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of the same bits: for any number of threads, instruction set, and whatever a tape keeps."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

import fastlstm
from fastlstm import losses, optim
from tests.problems.helpers import FUSED_ISAS, ISAS, Config, assert_same_bits, digest, in_child
from tests.problems.training import GRADIENT_TOLERANCE, SAVES, Options, Training, as_tuple, largest_part

EVERYTHING = Options(reset=0.03, dropout=0.3, bptt=17)
# Each is there for a plan: one thread for the steps and the others for the parameters, or rows divided,
# also where all have ended but one thread's; layers, directions, many chunks, panels larger than a cache.
CONFIGS = [
    Config(T=200, B=1, I=17, H=129),
    Config(T=80, B=2, I=130, H=77, L=2, has_state=True),
    Config(T=40, B=13, I=40, H=65, L=3, has_lengths=True),
    Config(T=30, B=33, I=9, H=129, has_lengths=True, has_state=True, bias=False),
    Config(T=37, B=25, I=31, H=33, L=2, bidirectional=True, has_lengths=True, has_state=True),
    Config(T=50, B=5, I=23, H=48, L=2, bidirectional=True, batch_first=True),
    Config(T=60, B=7, I=256, H=66, L=2, is_index=True, has_lengths=True),
    Config(T=20, B=40, I=500, H=31, bidirectional=True, is_index=True),
    Config(T=3, B=600, I=7, H=64),
    Config(T=12, B=8, I=13, H=300),
]
BOTH_DTYPES = [dataclasses.replace(c, dtype=dtype) for c in CONFIGS for dtype in ("float32", "float64")]


def trainings(config: Config) -> list[Training]:
    return [Training(config), Training(config, EVERYTHING)]


@pytest.mark.every_isa
@pytest.mark.parametrize("config", BOTH_DTYPES, ids=str)
def test_the_same_bits_for_any_number_of_threads(config):
    for training, save in zip(trainings(config), ("all", 7), strict=True):
        expected = as_tuple(training.run(training.layer(num_threads=1), save))
        for threads in (2, 3, 4):
            assert_same_bits(as_tuple(training.run_on_threads(threads, save)), expected, (threads, save))


def threads_of_this_process():
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("Threads:")))


def threads_of_one(config):
    """Threads before and after a backward pass on up to 3; that of the forward pass is on one."""
    training = Training(Config(**config))
    layer = training.layer(num_threads=1)
    tape = training.forward(layer)
    before = threads_of_this_process()
    layer.num_threads = 3
    tape.backward(training.dy, training.dstate)
    return [before, threads_of_this_process()]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_these_shapes_do_use_several_threads(config):
    before, after = in_child(threads_of_one, dataclasses.asdict(config))
    assert after == before + 2


@pytest.mark.every_isa
@pytest.mark.parametrize("config", BOTH_DTYPES, ids=str)
def test_the_same_bits_whatever_is_kept(config):
    for training in trainings(config):
        expected = as_tuple(training.run())
        for save in (*SAVES[1:], 16, config.T, config.T + 1, 2**62):
            assert_same_bits(as_tuple(training.run(save=save)), expected, (save, training.options))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_same_bits_for_the_same_pass_again(config):
    training = Training(config)
    layer = training.layer(num_threads=2)
    expected = as_tuple(training.run(layer))
    for save in ("all", "all", "states", "all", 5, 5, "states"):
        assert_same_bits(as_tuple(training.run(layer, save)), expected, save)


def test_the_same_bits_on_memory_that_larger_and_smaller_passes_have_left():
    layer = fastlstm.LSTM(9, 40, 2, bidirectional=True, rng=0)
    rng = np.random.default_rng(0)
    for T, B, save in ((3, 2, "all"), (60, 20, "states"), (5, 7, 2), (61, 3, "all"), (1, 1, 1), (40, 9, 9)):
        x = rng.standard_normal((T, B, 9)).astype(np.float32)
        results = []
        for maker in (lambda: layer, lambda: fastlstm.LSTM(9, 40, 2, bidirectional=True, rng=0)):
            made = maker()
            made.zero_grad()
            tape = made.forward(x, save=save)
            dx, states = tape.backward(np.cos(tape.y))
            results.append((dx, *states, made.flat_grads.copy()))
        assert_same_bits(*results, (T, B, save))


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_alone_has_the_bits_that_it_has_in_a_batch(dtype):
    """Of what belongs to the row: gradients of its input and initial state."""
    training = Training(Config(T=30, B=9, I=13, H=33, L=2, has_state=True, has_lengths=True, dtype=dtype))
    expected = training.run()
    layer, case = training.layer(), training.case
    for b in range(9):
        row = slice(b, b + 1)
        tape = layer.forward(
            training.x[:, row], tuple(s[:, row] for s in case.state), lengths=case.lengths[row]
        )
        dx, states = tape.backward(training.dy[:, row], tuple(s[:, row] for s in training.dstate))
        assert_same_bits(dx, expected["dx"][:, row], b)
        assert_same_bits(states, (expected["dh_0"][:, row], expected["dc_0"][:, row]), b)


def test_indices_and_one_hot_rows_have_the_same_gradients():
    config = Config(T=40, B=6, I=17, H=33, L=2, bidirectional=True, is_index=True, has_lengths=True)
    training = Training(config)
    expected = training.run()
    one_hot = Training(dataclasses.replace(config, is_index=False))
    one_hot.case.params, one_hot.case.lengths = training.case.params, training.case.lengths
    one_hot.dy, one_hot.dstate = training.dy, training.dstate
    one_hot.x = np.eye(17, dtype=np.float32)[training.x]
    got = one_hot.run()
    del got["dx"]
    for name, value in got.items():
        if name.startswith("weight_ih_l0"):  # a sum over all rows, or over those of the index
            assert largest_part(value, expected[name]) <= GRADIENT_TOLERANCE[np.dtype(np.float32)]
        else:
            assert_same_bits(value, expected[name], name)


def digests_of_this_isa(folder):
    found = {}
    for config in BOTH_DTYPES:
        for number, training in enumerate(trainings(config)):
            results = training.run()
            name = f"{config} {number}"
            found[name] = digest(*as_tuple(results))
            np.savez(f"{folder}/{hashlib.sha256(name.encode()).hexdigest()}.npz", **results)
    found["adam"] = digest(*train(2))
    return found


@pytest.fixture(scope="module")
def every_isa(tmp_path_factory):
    folders = {isa: tmp_path_factory.mktemp(isa) for isa in ISAS}
    return folders, {isa: in_child(digests_of_this_isa, str(folders[isa]), isa=isa) for isa in ISAS}


def test_the_same_bits_on_every_instruction_set_with_fused_multiply_add(every_isa):
    _, digests = every_isa
    assert all(len(digests[isa]) == 2 * len(BOTH_DTYPES) + 1 for isa in ISAS)
    for isa in FUSED_ISAS[1:]:
        assert digests[isa] == digests[FUSED_ISAS[0]], (isa, FUSED_ISAS[0])


def test_the_generic_path_differs_by_rounding_alone(every_isa):
    folders, digests = every_isa
    for name in digests["generic"]:
        if name != "adam":
            file = f"{hashlib.sha256(name.encode()).hexdigest()}.npz"
            generic, best = (np.load(folders[isa] / file) for isa in ("generic", ISAS[-1]))
            for array in best:
                error = largest_part(generic[array], best[array])
                assert error <= 2 * GRADIENT_TOLERANCE[best[array].dtype], (name, array)


# ---- Whole trainings ---------------------------------------------------------------------------------------


def train(threads, save="all", steps=60):
    """A few steps of Adam: from the first and last input of each row to their sum; losses and parameters."""
    rng = np.random.default_rng(0)
    layer = fastlstm.LSTM(3, 32, 2, dropout=0.1, num_threads=threads, rng=0)
    head = fastlstm.Dense(32, 1, rng=1)
    adam = optim.Adam([layer, head], lr=2e-2)
    seen = []
    for _ in range(steps):
        x = rng.standard_normal((6, 24, 3)).astype(np.float32)
        target = (x[0, :, :1] + x[-1, :, :1])[np.newaxis]
        tape = layer.forward(x, save=save)
        head_tape = head.forward(tape.y[-1:])
        value, dy = losses.mse(head_tape.y, target)
        seen.append(value)
        adam.zero_grad()
        dy_layer = np.zeros_like(tape.y)
        dy_layer[-1:] = head_tape.backward(dy)
        tape.backward(dy_layer)
        optim.clip_grad_norm([layer, head], 1.0)
        assert adam.step() is True
    return np.array(seen), layer.flat_params, head.flat_params


def test_a_training_learns_and_has_the_same_bits_for_any_number_of_threads():
    expected = train(1)
    seen = expected[0]
    assert seen[-5:].mean() < 0.5 * seen[:5].mean()
    assert_same_bits(train(2), expected)
    assert_same_bits(train(3, save=5), expected)


def test_steps_written_by_hand_are_those_of_the_optimiser():
    training = Training(Config(T=9, B=4, I=5, H=11))
    layer, twin = training.layer(), training.layer()
    sgd = optim.SGD(twin, 0.25)
    for _ in range(3):
        for each in (layer, twin):
            each.zero_grad()
            training.forward(each).backward(training.dy)
        with layer.editing() as flat:
            flat -= np.float32(0.25) * layer.flat_grads
        sgd.step()
        assert_same_bits(layer.flat_params, twin.flat_params)
    y, _ = layer(training.x)
    assert_same_bits(y, twin(training.x)[0])
