# SPDX-License-Identifier: BSD-3-Clause
"""What lasts is done without the GIL: other threads get it from what a call gives up by itself."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest

import fastlstm
from fastlstm import optim

# Who gives the GIL up may get it back before another thread has a CPU; who keeps it never gives it up.
TRIES = 200


class Beside:
    """A thread that counts as long as it gets the GIL."""

    def __init__(self):
        self.count, self.ends = 0, False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._before = sys.getswitchinterval()
        sys.setswitchinterval(1e4)  # nobody is made to give it up
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.ends = True
        sys.setswitchinterval(self._before)
        self._thread.join()

    def _run(self):
        while not self.ends:
            self.count += 1
            time.sleep(1e-5)  # without the GIL, so that the other gets it


def made_lstm():
    layer = fastlstm.LSTM(600, 600, rng=0)
    x = np.ones((2, 1, 600), np.float32)
    tape = layer.forward(x)
    tape.backward(tape.y)  # all buffers are there
    return layer


def trained(kind, **options):
    layer = fastlstm.Dense(1500, 1500, rng=0)
    optimizer = kind(layer, lr=0.1, **options)
    layer.flat_grads[...] = 1
    optimizer.step()
    return optimizer


def left_editing(layer):
    with layer.editing():
        pass


# What is made beforehand, and what is then done with it, which takes milliseconds.
LASTING = {
    "release": (made_lstm, lambda layer: layer.release()),
    "flat_grads": (lambda: fastlstm.LSTM(600, 600, rng=0), lambda layer: layer.flat_grads),
    "zero_grad": (made_lstm, lambda layer: layer.zero_grad()),
    "state_dict": (made_lstm, lambda layer: layer.state_dict()),
    "load_state_dict": (made_lstm, lambda layer: layer.load_state_dict(layer.params)),
    "editing": (made_lstm, left_editing),
    "step": (lambda: trained(optim.Adam), lambda optimizer: optimizer.step()),
    "moments": (lambda: trained(optim.Adam), lambda optimizer: optimizer.state_dict()),
    "clipping": (lambda: trained(optim.SGD), lambda o: optim.clip_grad_norm(o.layers, 1e-3)),
}


@pytest.mark.parametrize("name", LASTING)
def test_other_threads_run_beside_what_lasts(name):
    make, act = LASTING[name]
    for _ in range(TRIES):
        thing = make()
        with Beside() as beside:
            while beside.count == 0:
                time.sleep(1e-5)
            before = beside.count
            act(thing)
            has_run = beside.count > before
        if has_run:
            return
    raise AssertionError(f"{name} kept the GIL {TRIES} times")


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
