# SPDX-License-Identifier: BSD-3-Clause
"""ONNX files: nodes of any graph, weights through nodes that move them, and data that is not elsewhere."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastlstm
from tests.problems.comparing import assert_same_bits

I, H = 3, 4
OPSET = [helper.make_opsetid("", 17)]


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model_of(nodes, tensors, inputs=("X",), outputs=("Y",)):
    def values(names):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), tensors)
    return helper.make_model(graph, opset_imports=OPSET)


def load(model, tmp_path, name="m.onnx"):
    (tmp_path / name).write_bytes(model.SerializeToString())
    return fastlstm.load(tmp_path / name)


def weights(rng, G=4, D=1, dtype=np.float32):
    shapes = {"W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H), "P": (D, 3 * H)}
    return {name: rng.uniform(-1, 1, shape).astype(dtype) for name, shape in shapes.items()}


CASES = {
    "LSTM": {},
    "peepholes": {"input_forget": 1, "clip": 0.75},
    "reverse": {"direction": "reverse"},
    "both": {"direction": "bidirectional"},
    "batch": {"layout": 1},
    "activations": {
        "activations": ["hardsigmoid", "Elu", "Tanh"],
        "activation_alpha": [0.25, 0.5],
        "activation_beta": [0.375],
    },
    "GRU": {},
    "GRU after": {"linear_before_reset": 1},
    "RNN": {"activations": ["Relu"]},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_node_is_a_layer_that_computes_it(name, dtype, rng, tmp_path):
    attributes = CASES[name]
    kind = name.split()[0] if name.split()[0] in ("GRU", "RNN") else "LSTM"
    G, D = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 1 + (name == "both")
    own = weights(rng, G, D, dtype)
    used = ["W", "R", "B"] + (["P"] if name == "peepholes" else [])
    operands = ["X", "W", "R", "B"] + (["", "", "", "P"] if name == "peepholes" else [])
    node = helper.make_node(kind, operands, ["Y"], "net", hidden_size=H, **attributes)
    rest = tensor("rest", np.arange(3))
    model = load(model_of([node], [tensor(each, own[each]) for each in used] + [rest]), tmp_path)
    layer = model.layers["net"]
    assert list(model.arrays) == ["rest"]
    assert layer.dtype == (np.float64 if dtype == np.float64 else np.float32)
    x = rng.standard_normal((5, 2, I)).astype(layer.dtype)
    function = getattr(fastlstm, f"onnx_{kind.lower()}")
    Y = function(
        x,
        *(own[each].astype(layer.dtype) for each in used[:3]),
        **({"P": own["P"].astype(layer.dtype)} if "P" in used else {}),
        **attributes,
    )[0]
    axes = (0, 1, 2, 3) if layer.batch_first else (0, 2, 1, 3)
    assert_same_bits(layer(x)[0], Y.transpose(axes).reshape(*x.shape[:2], D * H))


def through(rng):
    """Weights by the ways that exporters take, and what they are in the end."""
    own = weights(rng)
    W, R, B = own["W"], own["R"], own["B"]
    quantized = np.round(R / 0.01).astype(np.int8)
    nodes = [
        helper.make_node("Unsqueeze", ["w", "axis0"], ["W"]),
        helper.make_node("Constant", [], ["axis0"], value=tensor("", np.array([0]))),
        helper.make_node("Transpose", ["wt"], ["w"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["r8", "scale", "zero"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["R"]),
        helper.make_node("Split", ["b"], ["b1", "b2"], axis=0),
        helper.make_node("Concat", ["b1", "b2"], ["b12"], axis=0),
        helper.make_node("Cast", ["b12"], ["b32"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["b32", "zero64", "end64"], ["bs"]),
        helper.make_node("Unsqueeze", ["bs", "axis0"], ["B0"]),
        helper.make_node("Mul", ["B0", "one"], ["B"]),
    ]
    tensors = [
        tensor("wt", W[0].T),
        tensor("r8", quantized + np.int8(3)),
        tensor("scale", np.float32(0.01)),
        tensor("zero", np.int8(3)),
        tensor("shape", np.array([1, -1, H])),
        tensor("one", np.float32(1)),
        tensor("b", np.concatenate([B[0].astype(np.float64), [9.0, 9.0]])),
        tensor("zero64", np.array([0])),
        tensor("end64", np.array([-2])),
    ]
    return nodes, tensors, {"W": W, "R": (quantized * np.float32(0.01)).astype(np.float32), "B": B}


def lstm_node(name="net", operands=("X", "W", "R", "B")):
    return helper.make_node("LSTM", operands, ["Y"], name, hidden_size=H)


def assert_is(layer, own):
    x = np.linspace(-1, 1, 6 * I, dtype=np.float32).reshape(6, 1, I)
    Y = fastlstm.onnx_lstm(x, own["W"], own["R"], own["B"])[0]
    np.testing.assert_allclose(layer(x)[0], Y[:, 0], rtol=0, atol=1e-6)


def test_weights_come_through_nodes(rng, tmp_path):
    nodes, tensors, own = through(rng)
    assert_is(load(model_of([*nodes, lstm_node()], tensors), tmp_path).layers["net"], own)


def test_nodes_hide_in_graphs_that_see_the_outer_names(rng, tmp_path):
    nodes, tensors, own = through(rng)
    other = weights(rng)
    value = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)]
    inner = helper.make_graph([lstm_node()], "then", [], value)
    shadows = [tensor(name, other[name]) for name in "WRB"]
    shadowed = helper.make_graph([lstm_node()], "else", [], value, shadows)
    branch = helper.make_node("If", ["c"], ["Y"], "if", then_branch=inner, else_branch=shadowed)
    model = load(model_of([*nodes, branch], tensors, ("X", "c")), tmp_path)
    assert set(model.layers) == {"net", "if/else_branch/net"} or set(model.layers) == {
        "net",
        "if/then_branch/net",
    }
    by_path = dict(model.layers.items())
    first = "then_branch" if "if/else_branch/net" in by_path else "else_branch"
    assert_is(by_path["net"], own if first == "then_branch" else other)
    assert_is(
        by_path[next(name for name in by_path if name != "net")], other if first == "then_branch" else own
    )


def test_a_quantized_node_is_dequantized(rng, tmp_path):
    own = weights(rng)
    quantized = {name: np.round(own[name] / 0.02).astype(np.int8) for name in "WR"}
    operands = ["X", "W", "R", "B", "", "", "", "", "ws", "wz", "rs", "rz"]
    node = helper.make_node(
        "DynamicQuantizeLSTM", operands, ["Y"], "q", domain="com.microsoft", hidden_size=H
    )
    scales = np.full((1, 4 * H), 0.02, np.float32)
    tensors = [
        tensor("W", quantized["W"].swapaxes(1, 2)),
        tensor("R", quantized["R"].swapaxes(1, 2)),
        tensor("B", own["B"]),
        tensor("ws", scales),
        tensor("wz", np.zeros((1, 4 * H), np.int8)),
        tensor("rs", np.float32([0.02])),
        tensor("rz", np.int8([0])),
    ]
    real = {name: (quantized[name] * np.float32(0.02)).astype(np.float32) for name in "WR"} | {"B": own["B"]}
    assert_is(load(model_of([node], tensors), tmp_path).layers["q"], real)


def test_first_states_that_are_constants(rng, tmp_path):
    own, h = weights(rng), rng.standard_normal((1, 1, H)).astype(np.float32)
    node = helper.make_node("LSTM", ["X", "W", "R", "B", "", "h", "c"], ["Y"], "net", hidden_size=H)
    shape, zeros = tensor("shape", np.array([1, 1, H])), helper.make_node("ConstantOfShape", ["shape"], ["c"])
    tensors = [tensor(name, own[name]) for name in "WRB"] + [tensor("h", h), shape]
    model = load(model_of([zeros, node], tensors), tmp_path)
    assert_same_bits(model.states["net"][0], h)
    assert not model.states["net"][1].any()
    x = np.ones((2, 1, I), np.float32)
    expected = fastlstm.onnx_lstm(x, own["W"], own["R"], own["B"], initial_h=h)[0]
    assert_same_bits(model.layer(x, model.states["net"])[0], expected[:, 0])


def test_directions_that_differ_are_two_layers(rng, tmp_path):
    own = weights(rng, 1, 2)
    node = helper.make_node(
        "RNN",
        ["X", "W", "R", "B"],
        ["Y"],
        "n",
        hidden_size=H,
        direction="bidirectional",
        activations=["Tanh", "Relu"],
    )
    model = load(model_of([node], [tensor(name, own[name]) for name in "WRB"]), tmp_path)
    x = rng.standard_normal((5, 2, I)).astype(np.float32)
    Y = fastlstm.onnx_rnn(
        x, own["W"], own["R"], own["B"], direction="bidirectional", activations=["Tanh", "Relu"]
    )[0]
    assert_same_bits(model.layers["n.forward"](x)[0], Y[:, 0])
    assert_same_bits(model.layers["n.reverse"](x)[0], Y[:, 1])


def test_weights_that_are_computed_are_told(rng, tmp_path):
    own = weights(rng)
    with pytest.warns(
        UserWarning, match=r"m.onnx: node 'net': left out, as W are computed when the model runs"
    ):
        model = load(
            model_of([lstm_node()], [tensor(name, own[name]) for name in "RB"], ("X", "W")), tmp_path
        )
    assert not model.layers


def test_local_functions_are_put_in_place(rng, tmp_path):
    own = weights(rng)
    function = helper.make_function(
        "local",
        "F",
        ["x", "w", "r", "b"],
        ["y"],
        [helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], "inner", hidden_size=H)],
        OPSET,
    )
    model = model_of(
        [helper.make_node("F", ["X", "W", "R", "B"], ["Y"], "call", domain="local")],
        [tensor(n, own[n]) for n in "WRB"],
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert_is(load(model, tmp_path).layer, own)


# ---- What a file may not do --------------------------------------------------------------------------------


def with_data_elsewhere(rng, **facts):
    own = weights(rng)
    tensors = [tensor(name, own[name]) for name in "WRB"]
    data = tensors[0].raw_data
    tensors[0].ClearField("raw_data")
    tensors[0].data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin", "offset": "4", "length": str(len(data))} | facts).items():
        tensors[0].external_data.add(key=key, value=value)
    return model_of([lstm_node()], tensors), data, own


def test_data_beside_the_model(rng, tmp_path):
    model, data, own = with_data_elsewhere(rng)
    (tmp_path / "w.bin").write_bytes(b"head" + data)
    assert_is(load(model, tmp_path).layers["net"], own)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"location": "../w.bin"}, "location: expected a file in the folder of the model"),
        ({"location": "/etc/passwd"}, "location: expected a file in the folder of the model"),
        ({"location": "a/../../w.bin"}, "location: expected a file in the folder of the model"),
        ({"location": "link.bin"}, "location: expected a file in the folder of the model"),
        ({"location": ""}, "location: expected a file in the folder of the model"),
        ({"location": "none.bin"}, "location: expected a file in the folder of the model, got none"),
        ({"offset": "5"}, "expected 192 bytes within the 196 of 'w.bin'"),
        ({"offset": "-1"}, "expected 192 bytes within"),
        ({"offset": "x"}, "expected an offset and a length"),
        ({"length": "191"}, "expected 192 bytes within"),
    ],
)
def test_data_is_nowhere_else(facts, message, rng, tmp_path):
    model, data, _ = with_data_elsewhere(rng, **facts)
    folder = tmp_path / "inner"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "w.bin").write_bytes(b"head" + data)
    os.symlink(tmp_path / "w.bin", folder / "link.bin")
    with pytest.raises(ValueError, match=rf"m.onnx: initializer 'W'.*{message}"):
        load(model, folder)


def with_tensor(**changes):
    own = weights(np.random.default_rng(0))
    return [changes.get(name, tensor(name, own[name])) for name in "WRB"]


def lying(**fields):
    return TensorProto(name="W", data_type=1, **fields)


@pytest.mark.parametrize(
    ("nodes", "tensors", "message"),
    [
        (
            [lstm_node()],
            with_tensor(W=lying(dims=[1, 16, 3], raw_data=b"1234")),
            "initializer 'W': expected 192 bytes",
        ),
        (
            [lstm_node()],
            with_tensor(W=lying(dims=[10**6, 10**6], raw_data=b"")),
            "initializer 'W': expected 4000000000000 bytes",
        ),
        ([lstm_node()], with_tensor(W=lying(dims=[-1, 16, 3])), "initializer 'W': expected a shape of sizes"),
        (
            [lstm_node()],
            with_tensor(W=lying(dims=[1, 16, 3], float_data=[1.0])),
            "initializer 'W': expected 48 numbers",
        ),
        (
            [lstm_node()],
            with_tensor(W=TensorProto(name="W", data_type=99, dims=[1])),
            "initializer 'W': expected a type of numbers",
        ),
        (
            [lstm_node()],
            with_tensor(W=tensor("W", np.ones((1, 15, 3), np.float32))),
            r"node 'net': .*W: expected shape \(1, 16, 3\)",
        ),
        (
            [lstm_node()],
            with_tensor(W=tensor("W", np.ones((1, 16, 3), np.int64))),
            "node 'net': .*W: expected real numbers",
        ),
        (
            [lstm_node()],
            with_tensor(R=tensor("R", np.ones(3, np.float32))),
            "node 'net': .*R: expected 3 dimensions",
        ),
        (
            [helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], "net", hidden_size=9)],
            with_tensor(),
            "node 'net': .*hidden_size",
        ),
        (
            [helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], "net", direction="up")],
            with_tensor(),
            "node 'net': .*direction",
        ),
        (
            [helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], "net", activations=["Gelu"] * 3)],
            with_tensor(),
            r"node 'net': .*activations\[0\]",
        ),
        (
            [helper.make_node("Expand", ["w", "s"], ["W"]), lstm_node()],
            [tensor("w", np.float32([[[1]]])), tensor("s", np.array([10**5, 10**5, 3])), *with_tensor()[1:]],
            "expected at most .* bytes of arrays",
        ),
        (
            [helper.make_node("ConstantOfShape", ["s"], ["W"]), lstm_node()],
            [tensor("s", np.array([10**4, 10**4, 3])), *with_tensor()[1:]],
            "expected at most .* bytes of arrays",
        ),
        (
            [helper.make_node("Add", ["w", "v"], ["W"]), lstm_node()],
            [
                tensor("w", np.ones((10**4, 1), np.float32)),
                tensor("v", np.ones((1, 10**4), np.float32)),
                *with_tensor()[1:],
            ],
            "expected at most .* bytes of arrays",
        ),
        (
            [helper.make_node("Reshape", ["w", "s"], ["W"]), lstm_node()],
            [tensor("w", np.ones(3, np.float32)), tensor("s", np.array([5])), *with_tensor()[1:]],
            "Reshape.*: expected operands that go together",
        ),
        ([], [], "graph: expected nodes"),
    ],
)
def test_what_is_wrong_is_named(nodes, tensors, message, tmp_path):
    with pytest.raises(ValueError, match=rf"m.onnx: .*{message}"):
        load(model_of(nodes, tensors), tmp_path)


def test_names_that_run_in_a_circle(tmp_path):
    nodes = [
        helper.make_node("Identity", ["W2"], ["W"]),
        helper.make_node("Identity", ["W"], ["W2"]),
        lstm_node(),
    ]
    with pytest.warns(UserWarning, match="left out"):
        assert not load(model_of(nodes, with_tensor()[1:]), tmp_path).layers


def test_bytes_that_are_no_model(tmp_path):
    for data in (b"\xff" * 40, b"\x08", onnx.ModelProto().SerializeToString(), b"{}"):
        (tmp_path / "m.onnx").write_bytes(data)
        with pytest.raises(ValueError, match=r"m.onnx: .*expected .*, got "):
            fastlstm.load(tmp_path / "m.onnx")
