# SPDX-License-Identifier: BSD-3-Clause
"""What lasts is done without the GIL: other threads get it from what a call gives up by itself."""

from __future__ import annotations

import collections
import functools
import itertools
import operator
import sys
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm import _core, optim
from fastlstm.model.parameters import ParameterSet

CALLS, TRIES = 50, 16
BEGIN, END, OTHER = "begin", "end", "other"


def other_runs(call):
    """Whether another thread runs while `call`, which must be code in C, is called again and again.

    The other thread always wants the GIL.  A call in C is asked for it and need not listen; where it gives
    the GIL up, the interpreter waits until the other has had it.  From one mark to the next there is nothing
    but calls in C, so that nobody else gives it up.  How fast anything is decides nothing: a try in which the
    other thread had no CPU to ask on is made again, with twice as many calls.
    """
    seen, ends = [END], threading.Event()

    def run():
        while not ends.is_set():
            if seen[-1] is not OTHER:
                seen.append(OTHER)

    other = threading.Thread(target=run)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other.start()
    try:
        for attempt in range(TRIES):
            calls = itertools.chain(
                [functools.partial(seen.append, BEGIN)],
                itertools.repeat(call, CALLS << attempt),
                [functools.partial(seen.append, END)],
            )
            collections.deque(map(operator.call, calls), maxlen=0)
            begin = len(seen) - 1 - seen[::-1].index(BEGIN)
            if seen[begin + 1] is OTHER:
                return True
        return False
    finally:
        ends.set()
        sys.setswitchinterval(before)
        other.join()


def made_lstm():
    layer = fastlstm.LSTM(600, 600, rng=0)
    x = np.ones((2, 1, 600), np.float32)
    tape = layer.forward(x)
    tape.backward(tape.y)  # all buffers are there
    return layer


def a_step():
    layer = fastlstm.Dense(700, 700, rng=0)
    now = layer._parameter_set()
    new = ParameterSet(now.layout, _core.flat_array(now.flat.size, now.flat.dtype, False))
    options = optim.SGD(layer, lr=0.1)._step_options()
    grads = layer.flat_grads
    return functools.partial(_core.optimiser_step, [], [now], [new], [grads], [()], [None], options, 1, True)


def a_call():
    layer, x = made_lstm(), np.ones((2, 1, 600), np.float32)
    return functools.partial(layer, x)


def a_recorded_call():
    layer, x = made_lstm(), np.ones((2, 1, 600), np.float32)
    return functools.partial(layer.forward, x)


# Code in C, that copies, zeroes, takes and gives back memory, computes.
LASTING = {
    "copy": lambda: functools.partial(_core.own_array, made_lstm().flat_params),
    "zeros": lambda: functools.partial(_core.flat_array, 2**20, np.dtype("float32"), True),
    "release": lambda: made_lstm().release,
    "call": a_call,
    "recorded call": a_recorded_call,
    "step": a_step,
    "clipping": lambda: functools.partial(_core.clip_gradients, [made_lstm().flat_grads], 1e-3),
}


@pytest.mark.parametrize("name", LASTING)
def test_other_threads_run_beside_what_lasts(name):
    assert other_runs(LASTING[name]())


def test_code_that_keeps_the_gil_is_noticed():
    assert not other_runs(functools.partial(sum, range(10)))


def is_of_the_core(array):
    """Whether an array's memory is taken and given back without the GIL."""
    while isinstance(array, np.ndarray):
        array = array.base
    return type(array).__name__ == "Block"


def test_large_arrays_that_the_package_makes_are_given_back_without_the_gil():
    layer = made_lstm()
    adam = optim.Adam(layer)
    state = adam.state_dict()["layers"][0]
    with layer.editing() as flat:
        pass
    arrays = [layer.flat_params, layer.flat_grads, flat, *state.values(), *adam._buffers[0].values()]
    arrays += [array for array in layer.state_dict().values() if array.nbytes >= 2**20]
    assert len(arrays) == 9
    assert all(is_of_the_core(array) for array in arrays)
    adam.load_state_dict(adam.state_dict())
    adam.step()
    assert all(is_of_the_core(array) for array in [layer.flat_params, *adam._buffers[0].values()])
