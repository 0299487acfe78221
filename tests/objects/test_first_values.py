# SPDX-License-Identifier: BSD-3-Clause
"""First values of parameters: as torch or Keras draws them, from the generator that was given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits

from .kinds import COPIES, FAMILY, H, I, build, every_kind


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_are_drawn_as_torch_draws_them(name):
    layer = build(name, dtype=np.float64)
    for key, value in layer.params.items():
        if "_ln" in key:
            assert (value == key.startswith("weight")).all(), key
            continue
        size = layer.hidden_size
        size = size if isinstance(size, int) else size[int(key.split("_l")[1][0])]
        assert np.abs(value).max() <= size**-0.5
        assert np.unique(value).size == value.size, key
    assert_same_bits(build(name, dtype=np.float64).flat_params, layer.flat_params)


def test_values_as_of_torch_are_uniform():
    for size, dtype in itertools.product((1, 16, 100), (np.float32, np.float64)):
        flat = fastlstm.LSTM(50, size, 2, dtype=dtype, rng=0).flat_params
        bound = 1 / np.sqrt(size)
        assert np.abs(flat).max() <= bound * (1 + 1e-7)
        if flat.size > 10_000:
            assert np.abs(flat).max() > 0.99 * bound
            assert abs(flat.mean()) < 0.05 * bound
            assert flat.std() == pytest.approx(bound / np.sqrt(3), rel=0.03)


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_are_drawn_as_keras_draws_them(name):
    layer = build(name, dtype=np.float64, init="keras")
    for key, value in layer.params.items():
        if key.startswith("bias"):
            rest = value.copy()
            gates = "" if not isinstance(layer, fastlstm.LSTM) else "fgo" if layer.coupled else "ifgo"
            if key.startswith("bias_ih") and gates:
                size = value.size // len(gates)
                forget = slice(gates.index("f") * size, (gates.index("f") + 1) * size)
                assert (value[forget] == 1).all()
                rest[forget] = 0
            assert not rest.any(), key
        elif key.startswith("weight_hh") and value.ndim == 2:
            small = value.T @ value if value.shape[0] >= value.shape[1] else value @ value.T
            np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12, err_msg=key)
        elif key.startswith(("weight_ih", "weight_hr")):
            assert 0.5 < np.abs(value).max() / np.sqrt(6 / sum(value.shape)) <= 1, key


def test_orthogonal_matrices_have_no_preferred_sign():
    signs = [
        np.sign(np.linalg.det(fastlstm.RNN(1, 3, init="keras", rng=seed).params["weight_hh_l0"]))
        for seed in range(40)
    ]
    assert abs(sum(signs)) < 30


@pytest.mark.parametrize(("options", "gates"), [({}, "ifgo"), ({"coupled": "i_from_f"}, "fgo")])
@pytest.mark.parametrize("init", ["torch", "keras"])
def test_forget_bias(options, gates, init):
    layer = fastlstm.LSTM(I, H, 2, forget_bias=-1.5, init=init, rng=0, **options)
    plain = fastlstm.LSTM(I, H, 2, init=init, rng=0, **options)
    for key, value in layer.params.items():
        blocks = value.reshape(len(gates), H, -1)
        expected = plain.params[key].reshape(blocks.shape).copy()
        if key.startswith("bias"):
            expected[gates.index("f")] = -1.5 if key.startswith("bias_ih") else 0
        assert_same_bits(blocks, expected, key)


@pytest.mark.parametrize("make", [fastlstm.LSTM, fastlstm.LSTMCell])
def test_rng_is_anything_that_default_rng_takes(make):
    def flat(rng):
        return make(3, 4, rng=rng).flat_params.copy()

    assert_same_bits(flat(7), flat(7))
    assert_same_bits(flat(np.random.default_rng(7)), flat(7))
    assert_same_bits(flat(np.random.SeedSequence(7)), flat(7))
    assert_same_bits(flat([7, 8]), flat([7, 8]))
    assert not np.array_equal(flat(7), flat(8))
    assert not np.array_equal(flat(None), flat(None))
    generator = np.random.default_rng(7)
    assert not np.array_equal(flat(generator), flat(generator))
    assert np.unique(flat(7)).size == flat(7).size
    with pytest.raises((TypeError, ValueError)):
        flat("seed")


@every_kind
def test_the_generator_goes_on_after_the_parameters(kind):
    layer, generator = build(kind, rng=0), np.random.default_rng(0)
    twin = build(kind, rng=generator)
    assert_same_bits(twin.flat_params, layer.flat_params)
    assert twin.rng is generator
    expected = generator.bit_generator.state
    for duplicate in COPIES.values():
        assert duplicate(layer).rng.bit_generator.state == expected
    assert layer.rng.random() == generator.random()
    assert build(kind, rng=0).rng.bit_generator.state == expected
    fresh = COPIES["deepcopy"](layer)
    fresh.rng.random(5)
    assert layer.rng.bit_generator.state == generator.bit_generator.state
