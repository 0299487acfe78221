# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of the whole family: every option against central differences, and truncation piece by piece."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from fastlstm import reference
from fastlstm.reference import Config, backward, forward
from tests.problems.cells import ACTIVATIONS, CELLS, EVERY_OPTION, random_config
from tests.problems.problem import Problem, arrays_of, random_problem, rebuilt, transformed

# Differences of longdouble: the error of a step of 1e-6 is of the order 1e-12, and so is that of rounding.
STEP, NOISE = 1e-6, 1e-10
WIDE = np.longdouble


class Differences:
    """The value of a problem as a function of its named arrays, and the gradients that `backward` says."""

    def __init__(self, problem: Problem, training: bool = True) -> None:
        self.problem, self.training = problem, training
        self.inputs = {name: value.astype(WIDE) for name, value in problem.params.items()}
        if problem.x.dtype.kind == "f":
            self.inputs["x"] = problem.x.astype(WIDE)
        for number, member in enumerate(arrays_of(problem.state)):
            self.inputs[f"state {number}"] = member.astype(WIDE)

    def arguments(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        problem = self.problem
        members = iter([value for name, value in inputs.items() if name.startswith("state")])
        return {
            "params": {name: inputs[name] for name in problem.params},
            "x": inputs.get("x", problem.x),
            "state": rebuilt(problem.state, members),
        }

    def value(self, inputs: dict[str, np.ndarray]) -> Any:
        problem = self.problem
        result = problem.forward(self.training, **self.arguments(inputs))
        total = (result.y * np.nan_to_num(problem.dy)).sum()
        for a, da in zip(arrays_of(result.state), arrays_of(problem.dstate), strict=True):
            total += (a * da).sum()
        return (
            total if problem.dcells is None else total + (result.cells * np.nan_to_num(problem.dcells)).sum()
        )

    def gradients(self) -> dict[str, np.ndarray]:
        dx, dstate, grads = self.problem.backward(self.training, **self.arguments(self.inputs))
        members = {f"state {number}": member for number, member in enumerate(arrays_of(dstate))}
        return grads | members | ({} if dx is None else {"x": dx})

    def assert_right(self, rng: np.random.Generator, elements: int = 2) -> None:
        """All of every array along a random direction, and some single elements of it."""
        got = self.gradients()
        for name, value in self.inputs.items():
            assert got[name].shape == value.shape
            directions = [rng.standard_normal(value.shape)]
            for place in rng.integers(0, value.size, min(elements, value.size)):
                directions.append(np.zeros(value.shape))
                directions[-1].flat[place] = 1
            for direction in directions:
                ahead, behind = (
                    self.value(self.inputs | {name: value + sign * STEP * direction}) for sign in (1, -1)
                )
                expected = (ahead - behind) / (2 * WIDE(STEP))
                error = abs((got[name] * direction).sum() - expected)
                assert error <= 1e-6 * abs(expected) + NOISE, (name, self.problem.config, error, expected)


# ---- Every option ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_OPTION)
def test_of_every_option_at_depth_three_in_both_directions(name, rng):
    cell, options = EVERY_OPTION[name]
    config = Config(cell, 3, 6, 3, bidirectional=True, **({"dropout": 0.2} | options))
    has: dict[str, Any] = {"has_state": True, "has_lengths": True, "has_mask": True, "has_reset": True}
    problem = random_problem(config, rng, T=4, B=3, bptt=None, is_index=False, is_batched=True, **has)
    Differences(problem).assert_right(rng, elements=1)


def test_the_table_holds_every_option():
    used = {name for _, options in EVERY_OPTION.values() for name in options}
    of_stacks = {"num_layers", "batch_first", "bidirectional", "reverse", "reverse_order"}
    changes_nothing = {"cell", "input_size", "hidden_size", "init", "forget_bias"}
    fields = {field.name for field in dataclasses.fields(Config)}
    assert used == fields - of_stacks - changes_nothing


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_size": (4, 2, 5), "bidirectional": True},
        {"hidden_size": (4, 2, 5), "proj_size": 2, "peephole": True},
        {"residual": 0, "input_size": 4},
        {"residual": 1, "bidirectional": True, "dropout": 0.4},
        {"residual": 1, "bidirectional": True, "merge": "sum"},
        {"residual": 0, "bidirectional": True, "merge": "average", "input_size": 4},
        {"bidirectional": True, "merge": "average", "batch_first": True},
        {"reverse": True, "dropout": 0.4},
        {"reverse": True, "reverse_order": "processing"},
        {"zoneout_c": 0.3, "zoneout_h": 0.2, "reverse": True},
    ],
)
@pytest.mark.parametrize("is_index", [False, True])
def test_of_every_stack(options, is_index, rng):
    config = Config("LSTM", **({"input_size": 3, "hidden_size": 4, "num_layers": 3} | options))
    if "merge" not in options and "residual" not in options:
        options = options | {"pad": "hold"}
    problem = random_problem(
        config,
        rng,
        T=5,
        B=4,
        bptt=None,
        is_index=is_index,
        has_state=True,
        has_mask=True,
        pad=options.get("pad", "zero"),
    )
    Differences(problem).assert_right(rng)


@pytest.mark.parametrize("cell", CELLS)
def test_of_random_configurations(cell, rng):
    for _ in range(8):
        problem = random_problem(random_config(rng, cell=cell), rng, bptt=None)
        Differences(problem).assert_right(rng, elements=1)


@pytest.mark.parametrize("entry", ACTIVATIONS)
def test_of_every_activation_in_every_place(entry, rng):
    for cell, count in (("LSTM", 3), ("GRU", 2), ("RNN", 1)):
        for place in range(count):
            entries = ["Sigmoid", "Tanh", "Tanh"][:count]
            entries[place] = entry
            config = Config(cell, 2, 3, activations=tuple(entries))
            problem = random_problem(
                config, rng, T=3, B=2, bptt=None, is_index=False, has_mask=False, has_lengths=False
            )
            Differences(problem).assert_right(rng)


@pytest.mark.parametrize("zoneout_eval", ["expectation", "off"])
def test_of_zoneout_outside_of_training(zoneout_eval, rng):
    config = Config("LSTM", 3, 4, zoneout_c=0.3, zoneout_h=0.2, zoneout_eval=zoneout_eval)
    problem = random_problem(config, rng, bptt=None, is_index=False)
    Differences(problem, training=False).assert_right(rng)


def test_of_every_element_of_a_small_layer(rng):
    for cell in CELLS:
        config = Config(cell, 2, 2, bidirectional=True)
        problem = random_problem(
            config, rng, T=3, B=2, bptt=None, is_index=False, has_state=True, is_batched=True
        )
        differences = Differences(problem)
        got = differences.gradients()
        for name, value in differences.inputs.items():
            expected = np.zeros(value.shape, WIDE)
            for place in np.ndindex(value.shape):
                step = np.zeros(value.shape, WIDE)
                step[place] = STEP
                ahead, behind = (
                    differences.value(differences.inputs | {name: value + s * step}) for s in (1, -1)
                )
                expected[place] = (ahead - behind) / (2 * WIDE(STEP))
            error = np.abs(got[name] - expected)
            assert (error <= 1e-6 * np.abs(expected) + NOISE).all(), (cell, name)


# ---- By hand -----------------------------------------------------------------------------------------------


def test_nothing_passes_where_a_clip_acts(rng):
    config = Config("LSTM", 2, 3, cell_clip=1e-7)
    has = dict.fromkeys(["is_index", "has_mask", "has_lengths", "has_reset"], False)
    problem = random_problem(config, rng, T=1, B=2, is_batched=True, **has)
    _, (_, dc), grads = problem.backward()
    assert not dc.any()
    assert not grads["weight_ih_l0"][:9].any()  # i, f, g lead to c alone
    assert grads["weight_ih_l0"][9:].all()
    problem.config = Config("LSTM", 2, 3, gate_clip=1e-7)
    _, (_, dc), grads = problem.backward()
    assert not any(grad.any() for grad in grads.values())
    assert dc.all()


def test_a_mingru_is_what_one_computes_by_hand():
    # z = 1/2 with slope 1/4: h = h_0 / 2 + a_h / 2, and dh/da_z = (a_h - h_0) / 4.
    params = {"weight_ih_l0": np.array([[0.0], [3.0]]), "bias_ih_l0": np.zeros(2)}
    dx, dh, grads = backward(Config("MinGRU", 1, 1), params, [[2.0]], [[4.0]], dy=[[8.0]])
    assert dh == 4
    np.testing.assert_array_equal(grads["bias_ih_l0"], [8 * (6 - 4) / 4, 4])
    np.testing.assert_array_equal(grads["weight_ih_l0"], [[8], [8]])
    assert dx == 4 * 3


def test_the_stabiliser_of_an_slstm_has_the_gradient_of_a_scale(rng):
    """Outputs are those of c exp(k), n exp(k) and m - k for every k: so dm = c dc + n dn."""
    problem = random_problem(
        Config("SLSTM", 3, 4, heads=2), rng, has_state=True, has_reset=False, pad="zero", bptt=None
    )
    _, (_, dc, dn, dm), _ = problem.backward(dstate=None, dcells=None)
    _, c, n, _ = problem.state
    np.testing.assert_allclose(dm, c * dc + n * dn, atol=1e-13)
    assert dc.any()


def test_no_gradient_passes_to_a_past_that_is_none(rng):
    config = Config("SLSTM", 3, 4, bidirectional=True)
    problem = random_problem(config, rng, has_state=True, has_mask=False, has_lengths=False, pad="zero")
    h, c, n, m = problem.state
    is_none = rng.random(n.shape) < 0.5
    _, (dh, dc, dn, dm), _ = problem.backward(state=(h, c, np.where(is_none, 0, n), m))
    for d in (dc, dn, dm):
        assert not d[is_none].any()
    assert dh.any()


# ---- Truncation --------------------------------------------------------------------------------------------


def walk(
    config: Config, times: np.ndarray, reset: np.ndarray, k: int | None, is_cut_in_time: bool
) -> list[tuple[np.ndarray, bool]]:
    """Pieces of a row's real steps in the order of walking, and whether a state enters each.

    A layer alone is cut every k steps from where it begins; both directions of one every k steps in time.
    """
    edges = [0, *(times + 1)]
    is_start = np.array([reset[s:e].any() for s, e in itertools.pairwise(edges)], bool)
    count = len(times)
    order = np.arange(count)[:: -1 if config.reverse else 1]
    # The boundary before the walked step s lies between it and the one walked before.
    starts = [is_start[order[s] + config.reverse] if s or not config.reverse else False for s in range(count)]
    pieces = []
    for s in range(count):
        number = max(order[s], order[s - 1]) if is_cut_in_time else s
        if s == 0 or starts[s] or (k and number % k == 0):
            pieces.append(([], not starts[s]))
        pieces[-1][0].append(times[order[s]])
    return [(np.array(piece), enters) for piece, enters in pieces]


def in_pieces(problem: Problem, is_cut_in_time: bool = False) -> Any:
    """Gradients of a layer of one direction: rows by themselves, in pieces between boundaries."""
    config = dataclasses.replace(problem.config, reverse=False, batch_first=False)
    first = (lambda a: a.swapaxes(0, 1)) if problem.config.batch_first else (lambda a: a)
    x, dy, dcells = (None if a is None else first(a) for a in (problem.x, problem.dy, problem.dcells))
    T, B = x.shape[:2]
    is_real, reset = np.ones((T, B), bool), np.zeros((T, B), bool)
    if "lengths" in problem.keywords:
        is_real &= np.arange(T)[:, None] < problem.keywords["lengths"]
    is_real &= first(problem.keywords["mask"]) if "mask" in problem.keywords else True
    reset |= first(problem.keywords["reset"]) if "reset" in problem.keywords else False

    dx = np.zeros((T, B, config.input_size))
    grads = {name: np.zeros_like(value) for name, value in problem.params.items()}
    dgiven = [np.zeros_like(member) for member in arrays_of(problem.dstate)]
    for b in range(B):
        row = rebuilt(problem.dstate, iter([a[:, b : b + 1] for a in arrays_of(problem.dstate)]))
        state = rebuilt(problem.dstate, iter([np.zeros_like(a) for a in arrays_of(row)]))
        if problem.state is not None:
            state = rebuilt(state, iter([a[:, b : b + 1] for a in arrays_of(problem.state)]))
        pieces = walk(
            problem.config, np.flatnonzero(is_real[:, b]), reset[:, b], problem.bptt, is_cut_in_time
        )
        entering = []
        for times, enters in pieces:
            state = state if enters else None
            entering.append(state)
            state = forward(config, problem.params, x[times, b : b + 1], state).state
        for number in reversed(range(len(pieces))):
            times, enters = pieces[number]
            dpart, dstate, more = backward(
                config,
                problem.params,
                x[times, b : b + 1],
                entering[number],
                dy=dy[times, b : b + 1],
                dstate=row,
                dcells=None if dcells is None else dcells[times, b : b + 1],
            )
            dx[times, b] = 0 if dpart is None else dpart[:, 0]
            grads = {name: grads[name] + more[name] for name in grads}
            row = dstate if number == 0 and enters else None
        for member, d in zip(dgiven, arrays_of(row) or itertools.repeat(0), strict=False):
            member[:, b : b + 1] = d
    return first(dx), dgiven, grads


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_truncation_and_resets_are_pieces_one_by_one(cell, reverse, rng):
    fixed: dict[str, Any] = {
        "num_layers": 1,
        "hidden_size": 4,
        "reverse": reverse,
        "reverse_order": "aligned",
    }
    for k in (1, 2, 3, 5, 8, 9, None):
        config = random_config(rng, cell=cell, bidirectional=False, residual=None, **fixed)
        problem = random_problem(config, rng, T=9, B=5, is_batched=True, pad="zero", bptt=k)
        dx, dstate, grads = problem.backward(training=False)
        expected_dx, *expected = in_pieces(problem)
        if dx is not None:
            np.testing.assert_allclose(dx, expected_dx, atol=1e-13)
        for a, b in zip(arrays_of([dstate, grads]), arrays_of(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
        if k == 1:
            whole = arrays_of(problem.backward(training=False, bptt=None)[2])
            assert any((a != b).any() for a, b in zip(arrays_of(grads), whole, strict=True))


def test_truncation_and_resets_of_a_stack_are_layers_piece_by_piece(rng):
    """Layers of one direction by themselves, both of which are cut at the same steps in time."""
    fixed: dict[str, Any] = {"merge": "concat", "residual": None, "reverse": False, "zoneout_c": 0.0}
    fixed |= {"zoneout_h": 0.0, "recurrent_dropout": 0.0, "hidden_size": 4, "reverse_order": "aligned"}
    for number in range(32):
        config = random_config(rng, cell=CELLS[number % 8], **fixed)
        problem = random_problem(
            config, rng, T=int(rng.integers(1, 9)), is_batched=True, has_mask=False, is_index=False,
            pad="zero", bptt=int(rng.integers(1, 6)),
        )  # fmt: skip
        x, T, B = problem.time_first(problem.x), *problem.time_first(problem.x).shape[:2]
        dx, dstate, grads = problem.backward()
        keywords = {n: problem.time_first(v) if n == "reset" else v for n, v in problem.keywords.items()}
        single = []
        for layer in range(config.num_layers):
            masks = np.ones(x.shape)
            if layer and config.dropout:
                masks = reference.dropout_mask(problem.seed, layer - 1, T, B, x.shape[2], config.dropout)
                x = x * masks
            for d, suffix in enumerate(config.suffixes):
                index, end = layer * config.num_directions + d, f"_l{layer}{suffix}"
                params = {n.removesuffix(end): v for n, v in problem.params.items() if n.endswith(end)}
                one = dataclasses.replace(
                    config, input_size=x.shape[2], num_layers=1, bidirectional=False, batch_first=False,
                    reverse=d == 1, dropout=0.0,
                )  # fmt: skip
                part = dataclasses.replace(
                    problem,
                    config=one,
                    params={f"{n}_l0": v for n, v in params.items()},
                    x=x,
                    state=transformed(lambda a, k=index: a[k : k + 1], problem.state),
                    dstate=transformed(lambda a, k=index: a[k : k + 1], problem.dstate),
                    keywords=keywords,
                )
                single.append((layer, end, masks, part))
            x = np.concatenate([p.forward().y for n, _, _, p in single if n == layer], axis=-1)
        dy, dcells = problem.time_first(problem.dy), problem.time_first(problem.dcells)
        expected_state = []
        for layer in reversed(range(config.num_layers)):
            dinput: Any = 0
            states = []
            for d, (_, end, masks, part) in enumerate(s for s in single if s[0] == layer):
                width = dy.shape[-1] // config.num_directions
                own = slice(d * width, (d + 1) * width)
                part.dy = dy[..., own]
                cells = slice(4 * d, 4 * d + 4)
                part.dcells = None if dcells is None else dcells[..., cells]
                dpart, dgiven, more = in_pieces(part, is_cut_in_time=config.bidirectional)
                dinput = dinput + dpart * masks
                states.append(dgiven)
                for name, value in more.items():
                    np.testing.assert_allclose(
                        grads[name.removesuffix("_l0") + end], value, atol=1e-12, err_msg=f"{name} {config}"
                    )
            expected_state = [
                np.concatenate(members) for members in zip(*states, strict=True)
            ] + expected_state
            dy, dcells = dinput, None
        np.testing.assert_allclose(problem.time_first(dx), dy, atol=1e-12)
        members = len(arrays_of(problem.dstate))
        for m, member in enumerate(arrays_of(dstate)):
            np.testing.assert_allclose(member, np.concatenate(expected_state[m::members]), atol=1e-12)


# ---- Sequences, and what is not looked at ------------------------------------------------------------------


def test_rows_moved_together_have_the_same_gradients(rng):
    for number in range(42):
        config = random_config(rng, cell=CELLS[number % 7], batch_first=False)
        problem = random_problem(config, rng, is_batched=True, has_mask=True, has_reset=False, pad="zero")
        T, B = problem.x.shape[:2]
        is_real = problem.keywords["mask"].copy()
        if "lengths" in problem.keywords:
            is_real &= np.arange(T)[:, None] < problem.keywords["lengths"]
        times, rows = np.argsort(~is_real, axis=0, kind="stable"), np.arange(B)
        moved = {"x": problem.x[times, rows], "dy": problem.dy[times, rows], "lengths": is_real.sum(axis=0)}
        moved["dcells"] = None if problem.dcells is None else problem.dcells[times, rows]
        dx, dstate, grads = problem.backward()
        dx_moved, *expected = problem.backward(mask=None, **moved)
        for a, b in zip(arrays_of([dstate, grads]), arrays_of(expected), strict=True):
            np.testing.assert_array_equal(a, b)
        if dx is not None:
            np.testing.assert_array_equal(dx[times, rows], dx_moved)
            assert not dx[~is_real].any()


def test_no_gradient_is_a_zero_gradient(rng):
    for number in range(16):
        problem = random_problem(random_config(rng, cell=CELLS[number % 8]), rng)
        zeros = {
            name: rebuilt(value, iter([0 * np.nan_to_num(a) for a in arrays_of(value)]))
            for name, value in (("dy", problem.dy), ("dstate", problem.dstate), ("dcells", problem.dcells))
        }
        cases = [({name: None}, {name: zero}) for name, zero in zeros.items()]
        if isinstance(problem.dstate, tuple):  # of some members of a state alone
            for k in range(len(problem.dstate)):
                absent, none = list(problem.dstate), list(problem.dstate)
                absent[k], none[k] = None, zeros["dstate"][k]
                cases.append(({"dstate": tuple(absent)}, {"dstate": tuple(none)}))
        for absent, zero in cases:
            got, expected = problem.backward(**absent), problem.backward(**zero)
            for a, b in zip(arrays_of(got), arrays_of(expected), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("message", "cell", "changes"),
    [
        (r"dy: expected shape \(4, 3, 2\), got \(4, 3, 1\)", "GRU", {"dy": np.zeros((4, 3, 1))}),
        (r"dcells: expected shape \(4, 3, 2\), got \(4, 2\)", "LSTM", {"dcells": np.zeros((4, 2))}),
        ("dcells: expected None, as GRU has no cell state", "GRU", {"dcells": np.zeros((4, 3, 2))}),
        (r"dstate\[1\]: expected shape \(1, 3, 2\)", "LSTM", {"dstate": (None, np.zeros((3, 2)))}),
        (r"dstate: expected shape \(1, 3, 2\)", "GRU", {"dstate": np.zeros((3, 2))}),
        ("bptt: expected at least 1, got 0", "RNN", {"bptt": 0}),
    ],
)
def test_what_does_not_fit_is_an_error(message, cell, changes, rng):
    problem = random_problem(Config(cell, 3, 2), rng, T=4, B=3, is_batched=True)
    with pytest.raises(ValueError, match=f"^{message}"):
        problem.backward(**changes)
