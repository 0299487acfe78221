# SPDX-License-Identifier: BSD-3-Clause
"""A layer from names and shapes alone: the same layer, or an exception that names the array that is wrong."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import fastlstm
from tests.objects.kinds import CELLS_OF_ONE_STEP, FAMILY, build, every_kind
from tests.problems.comparing import assert_same_bits

# Options that weights do not show.
UNSEEN = (
    "reset_after",
    "nonlinearity",
    "activations",
    "coupled",
    "merge",
    "residual",
    "reverse",
    "reverse_order",
    "dropout",
    "proj_clip",
    "cell_clip",
    "gate_clip",
    "zoneout_c",
    "zoneout_h",
    "recurrent_dropout",
    "n_floor",
)
# Kinds that another of the same shapes hides.
HIDDEN = ("MinGRU", "MinLSTM", "SLSTM")


def unseen(layer):
    return {
        name: getattr(layer, name)
        for name, option in type(layer)._options.items()
        if name in UNSEEN and getattr(layer, name) != option.default
    }


@pytest.mark.parametrize("kind", [*FAMILY, *CELLS_OF_ONE_STEP])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_say_what_the_layer_is(kind, dtype):
    layer = build(kind, dtype=dtype)
    cls = type(layer).__name__
    mapping = layer.state_dict(prefix="net.rnn.") | {"net.weight": np.ones((2, 2)), "bias": np.ones(3), 3: 4}
    twin = fastlstm.from_state_dict(mapping, kind=cls if cls in HIDDEN else None, **unseen(layer))
    assert repr(twin) == repr(layer)
    assert_same_bits(twin.flat_params, layer.flat_params)
    assert twin.rng is not None


@every_kind
def test_bfloat16_is_read_in_every_form(kind):
    layer = build(kind)
    brain = {name: value.astype(ml_dtypes.bfloat16) for name, value in layer.state_dict().items()}
    forms = {
        "ml_dtypes": brain,
        "bits": {name: value.view(np.uint16) for name, value in brain.items()},
        "raw": {name: value.view("V2") for name, value in brain.items()},
        "big": {name: value.view(np.uint16).astype(">u2") for name, value in brain.items()},
    }
    for form in forms.values():
        layer.load_state_dict(form)
        for name, value in layer.params.items():
            assert_same_bits(value, brain[name].astype(np.float32))


def test_a_layer_takes_the_weights_of_its_cell():
    cell = fastlstm.GRUCell(3, 4, rng=0)
    layer = fastlstm.from_state_dict(cell.state_dict(), kind="GRU")
    x = np.ones((1, 2, 3), np.float32)
    assert_same_bits(layer(x)[0][0], cell(x[0]))


def test_of_several_layers_one_is_named():
    both = fastlstm.LSTM(3, 4, rng=0).state_dict(prefix="a.") | fastlstm.GRU(3, 4).state_dict(prefix="b.")
    with pytest.raises(ValueError, match=r"^prefix: expected one of \['a.', 'b.'\]"):
        fastlstm.from_state_dict(both)
    assert type(fastlstm.from_state_dict(both, prefix="b.")) is fastlstm.GRU
    with pytest.raises(ValueError, match=r"^mapping: expected 'c.weight_ih_l0', got none, and layers at"):
        fastlstm.from_state_dict(both, prefix="c.")


def test_short_names_are_those_of_files_of_arrays():
    gru = fastlstm.GRU(3, 4, rng=0)
    short = {f"enc_{name[0]}_{name.split('_')[1]}": value for name, value in gru.state_dict().items()}
    assert sorted(short) == ["enc_b_hh", "enc_b_ih", "enc_w_hh", "enc_w_ih"]
    assert_same_bits(fastlstm.from_state_dict(short, kind="GRU").flat_params, gru.flat_params)


def test_one_bias_is_no_bias_of_pytorch():
    cell = fastlstm.LSTMCell(3, 4, bias=False).state_dict() | {"bias": np.ones(16)}
    with pytest.raises(ValueError, match=r"^mapping: expected 'bias_ih' and 'bias_hh', got 'bias'"):
        fastlstm.from_state_dict(cell)


def a_set(**changes):
    layer = fastlstm.LSTM(3, 4, 3, bidirectional=True, proj_size=2, rng=0)
    return {name: value for name, value in (layer.state_dict() | changes).items() if value is not None}


@pytest.mark.parametrize("name", list(a_set()))
def test_a_missing_array_is_named(name):
    others = [other for other in a_set() if other.rpartition("_l")[0] == name.rpartition("_l")[0]]
    with pytest.raises(ValueError, match="expected") as caught:
        fastlstm.from_state_dict(a_set(**{name: None}))
    said = str(caught.value)
    # Without its first hidden matrix a set is one of other sizes, and then another of the arrays is wrong.
    assert any(other in said for other in others) or name in ("weight_hr_l0", "weight_hh_l0"), said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_hh_l1": np.ones((3, 3))}, r"^weight_hh_l1: expected shape \(16, 2\), got \(3, 3\)"),
        ({"weight_ih_l0": np.ones(3)}, r"^weight_ih_l0: expected 2 dimensions, none of them 0, got \(3,\)"),
        ({"weight_ih_l0": np.ones((0, 3))}, r"^weight_ih_l0: expected 2 dimensions"),
        ({"weight_hh_l0": np.ones((16, 7))}, r"^weight_hh_l0: expected shape"),
        ({"bias_hr_l1": np.ones(3)}, r"got 'bias_hr_l1' as well"),
        ({"weight_ih_l9": np.ones((16, 3))}, r"expected 'weight_ih_l3', got none, and others of layer 9"),
        ({"weight_ih": np.ones((16, 3))}, r"expected 'weight_ih_l0', got none"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        fastlstm.from_state_dict(a_set(**changes))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mapping": 3}, TypeError, "^mapping: expected a mapping"),
        ({"mapping": {}}, ValueError, r"^mapping: expected names such as 'weight_ih_l0', got \[\]"),
        ({"prefix": 3}, TypeError, "^prefix: expected a str"),
        ({"kind": 3}, TypeError, "^kind: expected None or the name of a class, got int"),
        ({"kind": "lstm"}, ValueError, "^kind: expected one of"),
        ({"kind": "LSTMCell"}, ValueError, "^kind: expected a layer, as names have numbers"),
        ({"hidden_size": 5}, ValueError, "^hidden_size: expected 4, as the weights have it, got 5"),
        ({"nonlinearity": "relu"}, ValueError, r"unknown \['nonlinearity'\]"),
        ({"dtype": np.float16}, ValueError, "^dtype: expected float32 or float64"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        fastlstm.from_state_dict(**({"mapping": a_set()} | arguments))
