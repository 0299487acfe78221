# SPDX-License-Identifier: BSD-3-Clause
"""Files of parameters and states: what is read is what was written, all of it or none."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest

import fastlstm
from fastlstm import optim, schedules
from tests.problems.comparing import assert_same_bits

from .kinds import build, every_kind


@every_kind
def test_one_layer_is_the_file_of_its_state_dict(kind, tmp_path):
    layer, twin = build(kind), build(kind, rng=7)
    fastlstm.save(tmp_path / "one.npz", layer)
    np.savez(tmp_path / "two.npz", **layer.state_dict())
    for name in ("one.npz", "two.npz"):
        fastlstm.load(tmp_path / name, twin)
        assert_same_bits(twin.flat_params, layer.flat_params)
        with np.load(tmp_path / name) as file:
            twin.load_state_dict(file)


def a_model(rng, steps=2):
    lstm, dense = fastlstm.LSTM(3, 4, 2, rng=rng), fastlstm.Dense(4, 2, rng=rng)
    adam = optim.Adam([lstm, dense], 0.5, betas=(0.8, 0.9))
    sgd = optim.SGD([dense], 0.25, momentum=0.9, nesterov=True)
    cycle = schedules.OneCycle(adam, 1.0, 9)
    plateau = schedules.ReduceOnPlateau(sgd, "max", patience=0)
    for _ in range(steps):
        for layer in (lstm, dense):
            layer.flat_grads[...] = rng.standard_normal(layer.flat_grads.shape)
        adam.step()
        sgd.step()
        cycle.step()
        plateau.step(-1.0)
    return {"lstm": lstm, "dense": dense, "adam": adam, "sgd": sgd, "cycle": cycle, "plateau": plateau}


def everything(model):
    return {name: _bytes(each.state_dict()) for name, each in model.items()}


def _bytes(state):
    if isinstance(state, dict):
        return {name: _bytes(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_bytes(value) for value in state]
    return state.tobytes() if isinstance(state, np.ndarray) else (type(state), state)


def test_a_model_goes_on_where_it_was_written(rng, tmp_path):
    model, twin = a_model(rng), a_model(rng, 1)
    path = tmp_path / "model"
    fastlstm.save(path, model)
    assert everything(twin) != everything(model)
    fastlstm.load(path, twin)
    assert everything(twin) == everything(model)
    assert os.listdir(tmp_path) == ["model"]
    fastlstm.load(path, {"dense": twin["dense"]})  # a part of it
    with np.load(path) as file:
        assert {"lstm.weight_ih_l0", "dense.bias", "adam.lr", "adam.layers.1.m"} <= set(file.files)


def test_what_does_not_fit_changes_nothing(rng, tmp_path):
    model = a_model(rng)
    path = tmp_path / "model"
    fastlstm.save(path, model)
    with np.load(path) as file:
        arrays = dict(file)
    changes = {
        "dense.bias": np.ones(3), "adam.lr": np.asarray(-1.0), "plateau.best": np.asarray(np.nan),
        "adam.layers.1.v": np.ones(2), "sgd.momentum": np.asarray("a"),
    }  # fmt: skip
    twin = a_model(rng, 1)
    before = everything(twin)
    for name, value in changes.items():
        np.savez(tmp_path / "bad.npz", **(arrays | {name: value}))
        with pytest.raises((TypeError, ValueError)):
            fastlstm.load(tmp_path / "bad.npz", twin)
        assert everything(twin) == before, name
    del arrays["lstm.bias_hh_l1"]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=r"lstm.bias_hh_l1"):
        fastlstm.load(tmp_path / "bad.npz", twin)
    with pytest.raises(ValueError, match=r"begins with 'more.'"):
        fastlstm.load(path, twin | {"more": twin["adam"]})
    with pytest.raises(FileNotFoundError):
        fastlstm.load(tmp_path / "none", twin)
    assert everything(twin) == before


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_is_the_old_one_until_the_new_one_is_whole(error, tmp_path, monkeypatch):
    layer = build("LSTM")
    path = tmp_path / "model.npz"
    fastlstm.save(path, layer)
    kept = path.read_bytes()

    def fail(file, **_):
        file.write(b"part")
        raise error

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(error):
        fastlstm.save(path, build("LSTM", rng=9))
    assert path.read_bytes() == kept
    assert os.listdir(tmp_path) == ["model.npz"]


def test_a_file_has_the_rights_of_any_other(tmp_path):
    fastlstm.save(tmp_path / "a", build("GRU"))
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.parametrize(
    ("objects", "error"),
    [
        ({}, TypeError), ([fastlstm.GRU(2, 3)], TypeError),
        ({"a.b": fastlstm.GRU(2, 3)}, ValueError),
        ({"": fastlstm.GRU(2, 3)}, ValueError), ({"a": 3}, TypeError), ({"a": fastlstm.GRU}, TypeError),
        ({"a": fastlstm.GRU(2, 3).stream()}, TypeError),
    ],
)  # fmt: skip
def test_what_has_no_state(objects, error, tmp_path):
    for function in (fastlstm.save, fastlstm.load):
        with pytest.raises(error, match=r"^objects"):
            function(tmp_path / "model", objects)
    with pytest.raises(TypeError, match=r"^objects"):
        fastlstm.save(tmp_path / "model", None)  # a load without objects makes them
    assert not os.listdir(tmp_path)
