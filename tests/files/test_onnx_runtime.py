# SPDX-License-Identifier: BSD-3-Clause
"""Layers as ONNX graphs: ONNX Runtime computes what the layers do, and reading them back gives them again."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import fastlstm
from tests.objects.kinds import FAMILY, I, batch, build

H = 6
MORE = {
    "no forget gate": lambda: fastlstm.LSTM(I, H, 2, forget_gate=False),
    "coupled": lambda: fastlstm.LSTM(I, H, coupled="f_from_i", peephole=True, batch_first=True),
    "relu": lambda: fastlstm.RNN(I, H, nonlinearity="relu", bidirectional=True, merge="sum"),
    "any": lambda: fastlstm.LSTM(
        I, H, activations=["HardSigmoid", ("Elu", 0.5), ("ScaledTanh", 1.2, 0.7)], bidirectional=True
    ),
    "clipped": lambda: fastlstm.GRU(I, H, gate_clip=0.7, reverse=True),
    "without": lambda: fastlstm.MGU(I, H, 2, bias=False),
    "minimal": lambda: fastlstm.MinGRU(I, H, bidirectional=True),
    "off": lambda: fastlstm.LSTM(I, H, zoneout_c=0.5, zoneout_eval="off"),
}
REFUSED = ("SLSTM", "MinLSTM", "projected", "gate", "haste", "zoneout", "heads", "all joined", "reverse")


def made(kind):
    return MORE[kind]() if kind in MORE else build(kind)


def session(model):
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", [kind for kind in (*FAMILY, *MORE) if kind not in REFUSED])
@pytest.mark.parametrize("states", [False, True])
def test_the_runtime_computes_what_the_layer_does(kind, states, rng, tmp_path):
    layer = made(kind)
    sizes = layer.hidden_size
    if states and isinstance(sizes, tuple):
        with pytest.raises(ValueError, match=r"^states: expected False"):
            fastlstm.to_onnx(layer, states=True)
        return
    x = batch(layer)
    x = np.ascontiguousarray(x.swapaxes(0, 1)) if layer.batch_first else x
    firsts = {}
    if states:
        shape = (layer.num_layers * layer.num_directions, 3, sizes)
        names = ("h_0", "c_0") if type(layer) is fastlstm.LSTM else ("h_0",)
        firsts = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name in names}
    given = tuple(firsts.values()) if len(firsts) == 2 else next(iter(firsts.values()), None)
    y, state = layer(x, given)
    run = session(fastlstm.to_onnx(layer, states=states))
    names = [output.name for output in run.get_outputs()]
    results = dict(zip(names, run.run(None, {"x": x} | firsts), strict=True))
    assert names[0] == "y"
    np.testing.assert_allclose(results["y"], y, rtol=0, atol=2e-6)
    for letter, member in zip("hc", state if type(layer) is fastlstm.LSTM else (state,), strict=False):
        if isinstance(sizes, tuple):
            for number, each in enumerate(member):
                np.testing.assert_allclose(results[f"{letter}_n_l{number}"], each, rtol=0, atol=2e-6)
        else:
            np.testing.assert_allclose(results[f"{letter}_n"], member, rtol=0, atol=2e-6)
    fastlstm.save(tmp_path / "a.onnx", layer)
    assert len(fastlstm.load(tmp_path / "a.onnx").layers) == layer.num_layers


@pytest.mark.parametrize("kind", REFUSED)
def test_what_onnx_has_not_is_refused(kind):
    with pytest.raises(ValueError, match=r"^\w+: expected .*ONNX (has|can)"):
        fastlstm.to_onnx(build(kind))


def test_a_chain_and_layers_side_by_side(rng):
    emb, lstm, head = fastlstm.Embedding(9, 4, rng=0), fastlstm.LSTM(4, 3, rng=1), fastlstm.Dense(3, 2, rng=2)
    index = rng.integers(0, 9, (5, 2))
    y, (h_n, _) = lstm(emb(index))
    run = session(fastlstm.to_onnx([emb, lstm, head]))
    assert [output.name for output in run.get_outputs()] == ["y", "h_n_1", "c_n_1"]
    out, last, _ = run.run(None, {"x": index})
    np.testing.assert_allclose(out, head(y), rtol=0, atol=1e-6)
    np.testing.assert_allclose(last, h_n, rtol=0, atol=1e-6)
    run = session(
        fastlstm.to_onnx({"emb": emb, "lstm": lstm, "head": fastlstm.Dense(3, 2, bias=False, rng=3)})
    )
    assert [value.name for value in run.get_inputs()] == ["emb.x", "lstm.x", "head.x"]
    assert [value.name for value in run.get_outputs()] == [
        "emb.y",
        "lstm.y",
        "lstm.h_n",
        "lstm.c_n",
        "head.y",
    ]
    feed = {"emb.x": index, "lstm.x": emb(index), "head.x": y}
    np.testing.assert_allclose(run.run(["lstm.y"], feed)[0], y, rtol=0, atol=1e-6)


def test_layers_in_float64():
    layer = fastlstm.GRU(I, H, dtype="float64", rng=0)
    model = fastlstm.to_onnx(layer)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers: expected at least one"),
        ([fastlstm.GRUCell(2, 3)], "layers: expected LSTM"),
        ([3], "layers: expected"),
    ],
)
def test_layers_are_checked(layers, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        fastlstm.to_onnx(layers)
