# SPDX-License-Identifier: BSD-3-Clause
"""Random sequences of calls on a layer, and its tapes, streams, optimizers and copies, against a plain model.

The model has every set of parameters that was in force, by number, and the sum of gradients.  What a call
gives is what a fresh layer of these parameters gives, with the same bits.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

import fastlstm
from tests.objects.kinds import TRAINED, build
from tests.problems.comparing import assert_same_bits
from tests.problems.problem import arrays_of
from tests.problems.running import SAVES, Draws

from .effort import EFFORT, PARTS, SEED, again, count_of

BATCHES = ((1, 1), (4, 3), (9, 2), (40, 5))  # (T, B)
batches = st.integers(0, len(BATCHES) - 1)
saves = st.sampled_from(SAVES)


class Interrupted(Exception):
    """What the handler of the signal raises."""


def interrupted(call, delay):
    """Whether a signal ended the call; it may also come when the call is done, or not at all."""

    def raise_it(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raise_it)
    gc.disable()  # an exception in somebody's callback of the collector would be lost
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        return True
    finally:
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    return False


@dataclasses.dataclass
class Open:
    """A tape, and what the model knows of it."""

    tape: Any
    version: int
    run: tuple[Any, ...]
    y: np.ndarray


class Machine(RuleBasedStateMachine):
    """The layer is `layer`; `versions[version]` are its parameters, `grads` its gradients."""

    @initialize(
        name=st.sampled_from(TRAINED),
        dtype=st.sampled_from(["float32", "float64"]),
        threads=st.integers(1, 3),
    )
    def begin(self, name, dtype, threads):
        self.name, self.dtype = name, dtype
        self.layer = build(name, dtype=dtype)
        self.is_recurrent = hasattr(self.layer, "stream")
        if self.is_recurrent:
            self.layer.num_threads = threads
        self.versions = [self.layer.flat_params.copy()]
        self.version = 0
        self.grads = np.zeros_like(self.versions[0])
        self.tapes: list[Open] = []
        self.streams: list[tuple[Any, Any]] = []
        self.optimizer: Any = None
        self.known: dict[Any, Any] = {}

    # ---- The model -----------------------------------------------------------------------------------------

    def x(self, number):
        T, B = BATCHES[number]
        rng = np.random.default_rng(number)
        if isinstance(self.layer, fastlstm.Embedding):
            return rng.integers(0, self.layer.num_embeddings, (T, B))
        inputs = self.layer.input_size if self.is_recurrent else self.layer.in_features
        return rng.standard_normal((T, B, inputs)).astype(self.dtype)

    def keywords(self, number, has_lengths):
        T, B = BATCHES[number]
        return {"lengths": np.arange(B) % (T + 1)} if has_lengths and self.is_recurrent else {}

    def fresh(self, version):
        layer = build(self.name, dtype=self.dtype)
        with layer.editing() as flat:
            flat[...] = self.versions[version]
        return layer

    def truth(self, version, run):
        """Result and gradients of a run by a fresh layer: y, dx, dstate and the flat gradient."""
        if (version, run) not in self.known:
            layer = self.fresh(version)
            tape = self.record(layer, run, "all")
            y = np.array(tape.y)
            results = tape.backward(np.ones_like(y))
            self.known[version, run] = y, [a.copy() for a in arrays_of([results])], layer.flat_grads.copy()
        return self.known[version, run]

    def record(self, layer, run, save):
        number, has_lengths, training, seed = run
        if not self.is_recurrent:
            return layer.forward(self.x(number))
        rng, layer.rng = layer.rng, Draws(seed)
        try:
            return layer.forward(
                self.x(number), training=training, save=save, **self.keywords(number, has_lengths)
            )
        finally:
            layer.rng = rng

    def changed(self, flat):
        self.versions.append(np.array(flat))
        self.version = len(self.versions) - 1

    def current(self):
        return self.versions[self.version]

    # ---- Calls ---------------------------------------------------------------------------------------------

    def call(self, layer, number, has_lengths):
        y = layer(self.x(number), **self.keywords(number, has_lengths))
        return y[0] if isinstance(y, tuple) else y

    @rule(number=batches, has_lengths=st.booleans())
    def a_call(self, number, has_lengths):
        run = (number, has_lengths, False, 0)
        assert_same_bits(self.call(self.layer, number, has_lengths), self.truth(self.version, run)[0])

    @rule(
        number=batches, has_lengths=st.booleans(), training=st.booleans(), seed=st.integers(0, 3), save=saves
    )
    def record_a_tape(self, number, has_lengths, training, seed, save):
        run = (number, has_lengths, training, seed)
        tape = self.record(self.layer, run, save)
        y = self.truth(self.version, run)[0]
        assert_same_bits(np.array(tape.y), y)
        self.tapes.append(Open(tape, self.version, run, y))
        del self.tapes[:-4]

    @precondition(lambda self: self.tapes)
    @rule(data=st.data(), keeps=st.booleans())
    def go_back(self, data, keeps):
        place = data.draw(st.integers(0, len(self.tapes) - 1))
        opened = self.tapes[place] if keeps else self.tapes.pop(place)
        self.backward(opened)

    def backward(self, opened):
        dy = np.ones_like(opened.y)
        if opened.version != self.version:
            with pytest.raises(RuntimeError, match=r"^tape: expected"):
                opened.tape.backward(dy)
            return
        _, results, grads = self.truth(self.version, opened.run)
        got = opened.tape.backward(dy)
        self.grads += grads
        assert_same_bits(arrays_of([got]), results)
        opened.version = -1  # it is used

    @rule(number=batches, factor=st.sampled_from([0.5, 2.0]))
    def change_gradients(self, number, factor):
        self.layer.flat_grads[...] *= self.grads.dtype.type(factor)
        self.grads *= self.grads.dtype.type(factor)

    @rule()
    def zero_grad(self):
        self.layer.zero_grad()
        self.grads[...] = 0

    @rule()
    def release(self):
        if self.is_recurrent:
            self.layer.release()

    # ---- Parameters ----------------------------------------------------------------------------------------

    @rule(factor=st.sampled_from([0.5, -1.0, 0.75]))
    def edit(self, factor):
        with self.layer.editing() as flat:
            flat *= factor
        self.changed(self.current() * self.grads.dtype.type(factor))

    @rule(data=st.data())
    def load_older_ones(self, data):
        version = data.draw(st.integers(max(0, len(self.versions) - 4), len(self.versions) - 1))
        self.layer.load_state_dict(self.fresh(version).state_dict())
        self.changed(self.versions[version])

    @rule()
    def save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.npz"
            fastlstm.save(path, self.layer)
            other = build(self.name, dtype=self.dtype)
            fastlstm.load(path, other)
        assert_same_bits(other.flat_params, self.current())

    @rule(kind=st.sampled_from(["SGD", "Adam", "AdamW"]), lr=st.sampled_from([1e-3, 0.5]))
    def make_an_optimizer(self, kind, lr):
        self.optimizer = getattr(fastlstm.optim, kind)(self.layer, lr)

    @precondition(lambda self: self.optimizer is not None)
    @rule(delay=st.sampled_from([None, 1e-5, 1e-4]), lr=st.sampled_from([None, 1e-3]))
    def step(self, delay, lr):
        if lr is not None:
            self.optimizer.lr = lr
        twin = pickle.loads(pickle.dumps(self.optimizer))
        twin.layers[0].flat_grads[...] = self.grads
        twin.step()
        before = copy.deepcopy(self.optimizer.state_dict())
        if delay is None:
            assert self.optimizer.step() is True
        else:
            interrupted(self.optimizer.step, delay)
        done = self.optimizer.num_steps != before["num_steps"]
        assert done or delay is not None
        if done:
            self.changed(twin.layers[0].flat_params)
        expected = twin.state_dict() if done else before
        assert_same_bits(moments(self.optimizer.state_dict()), moments(expected))

    @rule(max_norm=st.sampled_from([0.5, 100.0]))
    def clip(self, max_norm):
        if np.isfinite(self.grads).all():
            norm = fastlstm.optim.clip_grad_norm(self.layer, max_norm)
            np.testing.assert_allclose(norm, np.linalg.norm(self.grads.astype("f8")), rtol=1e-9)
            self.grads = self.layer.flat_grads.copy()
            assert np.linalg.norm(self.grads.astype("f8")) <= max(max_norm, 0)

    # ---- What must change nothing --------------------------------------------------------------------------

    @rule(number=batches, which=st.integers(0, 8))
    def fail(self, number, which):
        layer, x = self.layer, self.x(number)
        state = layer.state_dict()
        name = next(iter(state))
        optimizer = fastlstm.optim.Adam(layer)
        wrong = [
            lambda: layer(x[..., np.newaxis, np.newaxis, np.newaxis].astype("S1")),
            lambda: layer.forward(object()),
            lambda: layer.load_state_dict({}),
            lambda: layer.load_state_dict(state | {name: state[name][..., :-1]}),
            lambda: layer.load_state_dict(state | {name: 1j * state[name]}),
            lambda: self.edit_and_raise(),
            lambda: setattr(layer, name, 0),
            lambda: layer.params.update({name: 1}),
            lambda: nonfinite_step(optimizer),
        ]
        before = layer.flat_grads.copy()
        with pytest.raises((TypeError, ValueError, AttributeError, ZeroDivisionError, FloatingPointError)):
            wrong[which]()
        layer.flat_grads[...] = before

    def edit_and_raise(self):
        with self.layer.editing() as flat:
            flat[...] = np.nan
            raise ZeroDivisionError

    @precondition(lambda self: self.tapes)
    @rule(data=st.data())
    def go_back_with_a_wrong_gradient(self, data):
        opened = data.draw(st.sampled_from(self.tapes))
        with pytest.raises((ValueError, TypeError, RuntimeError), match=r"^(dy|tape): expected"):
            opened.tape.backward(np.ones((*opened.y.shape, 1)))

    @rule(number=batches, delay=st.sampled_from([1e-5, 3e-5, 1e-4, 3e-4]), save=saves)
    def interrupt(self, number, delay, save):
        """A signal at any moment of a training pass: its gradients are added, all of them or none."""
        run = (number, False, False, 0)
        y, _, grads = self.truth(self.version, run)
        before = self.layer.flat_grads.copy()

        def both():
            self.record(self.layer, run, save).backward(np.ones_like(y))

        was = interrupted(both, delay)
        is_added = not np.array_equal(self.layer.flat_grads, before)
        assert is_added or was or not grads.any()
        if is_added:
            self.grads += grads

    # ---- Copies --------------------------------------------------------------------------------------------

    @rule(way=st.sampled_from(["pickle", "deepcopy", "copy"]))
    def go_on_with_a_copy(self, way):
        ways = {
            "pickle": lambda a: pickle.loads(pickle.dumps(a)),
            "deepcopy": copy.deepcopy,
            "copy": copy.copy,
        }
        before, self.layer = self.layer, ways[way](self.layer)
        assert not any(array.any() for array in self.layer.grads.values())
        if way != "copy":
            with before.editing() as flat:
                flat[...] = 7  # of the old one alone
        self.grads[...] = 0
        self.tapes.clear()
        self.optimizer = None

    # ---- Streams -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.is_recurrent and not (self.layer.bidirectional or self.layer.reverse))
    @rule(B=st.integers(1, 3), threads=st.integers(1, 2))
    def make_a_stream(self, B, threads):
        stream = self.layer.stream(B, num_threads=threads)
        self.streams.append((stream, self.fresh(self.version).stream(B)))
        del self.streams[:-2]

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), T=st.integers(0, 5), seed=st.integers(0, 3))
    def stream_on(self, data, T, seed):
        stream, twin = data.draw(st.sampled_from(self.streams))
        x = np.random.default_rng(seed).standard_normal((T, stream.batch_size, self.layer.input_size))
        x = x.astype(self.dtype)
        got = stream.process(x)
        steps = [twin.step(x_t).copy() for x_t in x]
        if steps:
            assert_same_bits(got, np.stack(steps))
        assert_same_bits(tuple(arrays_of([stream.state])), tuple(arrays_of([twin.state])))

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), way=st.sampled_from(["reset", "row", "pickle", "state", "wrong"]))
    def change_a_stream(self, data, way):
        place = data.draw(st.integers(0, len(self.streams) - 1))
        stream, twin = self.streams[place]
        if way == "reset":
            stream.reset()
            twin.reset()
        elif way == "row":
            stream.reset([0])
            twin.reset([0])
        elif way == "pickle":
            self.streams[place] = pickle.loads(pickle.dumps(stream)), twin
        elif way == "state":
            stream.state = twin.state
        else:
            with pytest.raises((TypeError, ValueError)):
                stream.state = None if data.draw(st.booleans()) else np.zeros(1)
            with pytest.raises((TypeError, ValueError)):
                stream.process("x")

    # ---- Threads -------------------------------------------------------------------------------------------

    @rule(number=batches, count=st.integers(2, 4))
    def on_threads(self, number, count):
        """Calls and training passes side by side: each right, and all gradients summed."""
        run = (number, False, False, 0)
        y, results, grads = self.truth(self.version, run)
        # The same gradient from each, so that the order of the sums does not matter.
        self.together(count, lambda: self.check_passes(run, y, results))
        for _ in range(2 * count):
            self.grads += grads

    def check_passes(self, run, y, results):
        for save in ("all", 1):
            if self.is_recurrent:  # training=False draws nothing, so that `rng` stays
                tape = self.layer.forward(self.x(run[0]), training=False, save=save)
            else:
                tape = self.layer.forward(self.x(run[0]))
            assert_same_bits(np.array(tape.y), y)
            assert_same_bits(self.call(self.layer, run[0], False), y)
            assert_same_bits(arrays_of([tape.backward(np.ones_like(y))]), results)

    @rule(number=batches)
    def change_while_others_call(self, number):
        """Calls in other threads see one set of parameters or the other, never a mixture."""
        other = self.version - 1 if self.version else 0
        run = (number, False, False, 0)
        allowed = [self.truth(version, run)[0].tobytes() for version in (self.version, other)]
        states = [self.fresh(version).state_dict() for version in (other, self.version)]

        def read():
            for _ in range(6):
                assert np.array(self.call(self.layer, number, False)).tobytes() in allowed

        def write():
            for turn in range(6):
                self.layer.load_state_dict(states[turn % 2])

        self.together(3, read, write)
        self.changed(self.current())

    def together(self, count, work, other=None):
        failures = []

        def guarded(function):
            try:
                function()
            except BaseException as error:
                failures.append(error)

        works = [work] * count + [other] * (other is not None)
        threads = [threading.Thread(target=guarded, args=(function,)) for function in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    # ---- What always holds ---------------------------------------------------------------------------------

    @invariant()
    def all_is_as_the_model_says(self):
        if not hasattr(self, "layer"):
            return
        assert_same_bits(self.layer.flat_params, self.current())
        assert_same_bits(self.layer.flat_grads, self.grads)
        for opened in self.tapes:
            assert_same_bits(np.array(opened.tape.y), opened.y)


def moments(state):
    return tuple(flat for kept in state["layers"] for flat in kept.values())


def nonfinite_step(optimizer):
    optimizer.layers[0].flat_grads[...] = np.inf
    optimizer.step()


@pytest.mark.parametrize("part", PARTS)
def test_any_sequence_of_calls(request, part):
    """Shrunk by hypothesis where it fails: the steps that are printed are a program."""
    count = count_of(32) // len(PARTS)
    if EFFORT == 0 and part:
        return
    machine: Any = hypothesis.seed(SEED + (part if EFFORT else 0))(
        type("Machine", (Machine,), {"__module__": __name__})
    )
    settings = hypothesis.settings(
        max_examples=max(4, count), stateful_step_count=30, deadline=None, database=None, derandomize=False,
        print_blob=True, suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    try:
        with np.errstate(all="ignore"):
            run_machine(machine, settings=settings)
    except BaseException:
        print(again(request.node.nodeid, SEED).replace("CAMPAIGN=0", f"CAMPAIGN={EFFORT:g}"))
        raise
