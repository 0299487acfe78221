# SPDX-License-Identifier: BSD-3-Clause
"""The recurrent operators of ONNX: their own cases, random calls, and two other ways to compute them.

`by_reference` puts a call into the terms of `fastlstm.reference`; `by_the_text` is the text of ONNX's
specification written down step by step, without activations and clip, and depends on nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import onnx

import fastlstm
from fastlstm import reference

FUNCTIONS = {"LSTM": fastlstm.onnx_lstm, "GRU": fastlstm.onnx_gru, "RNN": fastlstm.onnx_rnn}
# Gates in ONNX's order, with the letters of `fastlstm.reference`.
GATES = {"LSTM": "iofg", "GRU": "zrn", "RNN": "h"}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
# How many activations there are, and what they are by default.
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# Parameters of each activation: the defaults, None where there is none.
PARAMETERS: dict[str, tuple[float | None, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Affine": (None, None),
    "LeakyRelu": (0.01,),
    "ThresholdedRelu": (1.0,),
    "ScaledTanh": (None, None),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0,),
    "Softsign": (),
    "Softplus": (),
}


@dataclasses.dataclass
class Call:
    """One call of an operator: its inputs by name, and its attributes as they are given.

    `functions` are the activations that the attributes mean, (name, parameters ...) each.
    """

    op: str
    inputs: dict[str, Any]
    attributes: dict[str, Any]
    functions: tuple[tuple[Any, ...], ...]

    @property
    def directions(self) -> tuple[bool, ...]:
        """Of each direction, whether it runs from the end."""
        names = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        return names[self.attributes.get("direction", "forward")]

    def run(self, **other: Any) -> tuple[np.ndarray, ...]:
        """What the package computes; `other` inputs and attributes replace those of the call."""
        return FUNCTIONS[self.op](**self.inputs | self.attributes | other)


# ---- The cases of the onnx package -------------------------------------------------------------------------


def node_cases() -> dict[str, Any]:
    """All cases of the three operators that the onnx package generates, by name."""
    node = importlib.import_module("onnx.backend.test.case.node")
    for op in FUNCTIONS:  # importing a module generates its cases
        importlib.import_module(f"onnx.backend.test.case.node.{op.lower()}")
    cases = {case.name: case for case in node._NodeTestCases}
    return {name: case for name, case in cases.items() if case.model.graph.node[0].op_type in FUNCTIONS}


def run_node(case: Any, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Run the one node of a case; outputs by name."""
    (node,) = case.model.graph.node
    (version,) = {entry.version for entry in case.model.opset_import if entry.domain in ("", "ai.onnx")}
    assert version >= 14, "layout came with opset 14"
    given = iter(inputs)
    named = {slot: next(given) for slot, name in zip(INPUTS, node.input, strict=False) if name}
    attributes = {entry.name: _plain(onnx.helper.get_attribute_value(entry)) for entry in node.attribute}
    outputs = FUNCTIONS[node.op_type](**named, **attributes)
    return {name: array for name, array in zip(node.output, outputs, strict=False) if name}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, (int, float)) else [_plain(item) for item in value]


# ---- Random calls ------------------------------------------------------------------------------------------


def random_call(rng: np.random.Generator, op: str, dtype: Any, **fixed: Any) -> Call:
    """A call with any of the optional inputs and attributes; `fixed` attributes are as given."""

    def coin(p: float = 0.5) -> bool:
        return bool(rng.random() < p)

    # With unbounded activations for gates and candidate, numbers are squared in each step: few steps.
    T, B, I, H = (int(n) for n in rng.integers(1, (6, 8, 8, 8)))
    G = len(GATES[op])
    attributes: dict[str, Any] = {"direction": str(rng.choice(["forward", "reverse", "bidirectional"]))}
    D = 1 + (fixed.get("direction", attributes["direction"]) == "bidirectional")
    if coin():
        attributes["layout"] = int(rng.integers(2))
    if coin():
        attributes["hidden_size"] = H
    if coin(0.4):
        attributes["clip"] = float(rng.choice(np.float32([0.1, 0.5, 1.5])))
    functions: tuple[tuple[Any, ...], ...] = tuple((name,) for name in ACTIVATIONS[op]) * D
    if coin(0.7):
        functions, named = _random_activations(rng, len(functions))
        attributes |= named
    if op == "LSTM" and coin():
        attributes["input_forget"] = int(rng.integers(2))
    if op == "GRU" and coin(0.7):
        attributes["linear_before_reset"] = int(rng.integers(2))
    attributes |= fixed

    def drawn(*shape: int) -> np.ndarray:
        return rng.uniform(-0.7, 0.7, shape).astype(dtype)

    def laid(*shape: int) -> np.ndarray:
        return drawn(shape[1], shape[0], *shape[2:]) if attributes.get("layout") else drawn(*shape)

    optional = {
        "B": lambda: drawn(D, 2 * G * H),
        "sequence_lens": lambda: rng.integers(0, T + 1, B).astype(np.int32),
        "initial_h": lambda: laid(D, B, H),
        "initial_c": lambda: laid(D, B, H),
        "P": lambda: drawn(D, 3 * H),
    }
    if op != "LSTM":
        del optional["initial_c"], optional["P"]
    inputs = {"X": laid(T, B, I), "W": drawn(D, G * H, I), "R": drawn(D, G * H, H)}
    inputs |= {name: make() for name, make in optional.items() if coin(0.6)}
    return Call(op, inputs, attributes, functions)


def _random_activations(
    rng: np.random.Generator, count: int
) -> tuple[tuple[tuple[Any, ...], ...], dict[str, Any]]:
    """Activations, and the attributes that say so; numbers at the end of the lists may be left out."""
    names = [str(name) for name in rng.choice(list(PARAMETERS), count)]
    functions = [[name] for name in names]
    attributes: dict[str, Any] = {"activations": [_recased(rng, name) for name in names]}
    for number, attribute in enumerate(("activation_alpha", "activation_beta")):
        takers = [n for n, name in enumerate(names) if len(PARAMETERS[name]) > number]
        must = [k + 1 for k, n in enumerate(takers) if PARAMETERS[names[n]][number] is None]
        given = int(rng.integers(max(must, default=0), len(takers) + 1))
        values = [float(value) for value in rng.uniform(0.1, 0.9, given).astype(np.float32)]
        for k, n in enumerate(takers):
            functions[n].append(values[k] if k < given else PARAMETERS[names[n]][number])
        if values or rng.random() < 0.5:
            attributes[attribute] = values
    return tuple(map(tuple, functions)), attributes


def _recased(rng: np.random.Generator, name: str) -> str:
    return [name, name.lower(), name.upper()][int(rng.integers(3))]


# ---- By the reference --------------------------------------------------------------------------------------


def by_reference(call: Call) -> list[np.ndarray]:
    """What `fastlstm.reference` computes for a call, in float64."""
    op, inputs, attributes = call.op, call.inputs, call.attributes
    is_swapped = attributes.get("layout", 0) == 1
    wide = {name: value.astype(np.float64) for name, value in inputs.items() if name != "sequence_lens"}
    for name in ("X", "initial_h", "initial_c"):
        if is_swapped and name in wide:
            wide[name] = wide[name].swapaxes(0, 1)
    X, R = wide["X"], wide["R"]
    B, H, count = X.shape[1], R.shape[2], len(ACTIVATIONS[op])
    results = []
    for d, is_reverse in enumerate(call.directions):
        options: dict[str, Any] = {
            "bias": "B" in wide,
            "reverse": is_reverse,
            "gate_clip": attributes.get("clip"),
            "activations": call.functions[d * count : (d + 1) * count],
        }
        if op == "LSTM":
            options["peephole"] = "P" in wide
            options["coupled"] = "f_from_i" if attributes.get("input_forget") else None
        if op == "GRU":
            options["reset_after"] = attributes.get("linear_before_reset", 0) != 0
        config = reference.Config(op, X.shape[2], H, **options)

        def rows(matrix: np.ndarray, order: str, gates: str) -> np.ndarray:
            by_gate = dict(zip(order, np.split(matrix, len(order)), strict=True))
            return np.concatenate([by_gate[gate] for gate in gates])

        params = {"weight_ih_l0": wide["W"][d], "weight_hh_l0": R[d]}
        if "B" in wide:
            params["bias_ih_l0"], params["bias_hh_l0"] = np.split(wide["B"][d], 2)
        params = {name: rows(value, GATES[op], config.gates) for name, value in params.items()}
        if "P" in wide:
            params["weight_ch_l0"] = rows(wide["P"][d], "iof", config.gates.replace("g", ""))
        names = ("initial_h", "initial_c") if op == "LSTM" else ("initial_h",)
        members = [wide.get(name, np.zeros((len(R), B, H)))[d : d + 1] for name in names]
        state = tuple(members) if op == "LSTM" else members[0]
        y, final, _ = reference.forward(config, params, X, state, lengths=inputs.get("sequence_lens"))
        results.append([y[:, np.newaxis], *(final if op == "LSTM" else (final,))])
    Y, *finals = zip(*results, strict=True)
    whole = [np.concatenate(Y, axis=1), *(np.concatenate(member) for member in finals)]
    if is_swapped:
        return [whole[0].transpose(2, 0, 1, 3), *(member.swapaxes(0, 1) for member in whole[1:])]
    return whole


# ---- By the text -------------------------------------------------------------------------------------------


def _f(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_step(Xt, Ht, Ct, W, R, B, P):
    """Equations of LSTM for one row and one direction, where `Ht` and `Ct` are those of the step before."""
    Wi, Wo, Wf, Wc = np.split(W, 4)
    Ri, Ro, Rf, Rc = np.split(R, 4)
    Wbi, Wbo, Wbf, Wbc, Rbi, Rbo, Rbf, Rbc = np.split(B, 8)
    Pi, Po, Pf = np.split(P, 3)
    it = _f(Xt @ Wi.T + Ht @ Ri.T + Pi * Ct + Wbi + Rbi)
    ft = _f(Xt @ Wf.T + Ht @ Rf.T + Pf * Ct + Wbf + Rbf)
    ct = np.tanh(Xt @ Wc.T + Ht @ Rc.T + Wbc + Rbc)
    Ct = ft * Ct + it * ct
    ot = _f(Xt @ Wo.T + Ht @ Ro.T + Po * Ct + Wbo + Rbo)
    return ot * np.tanh(Ct), Ct


def gru_step(Xt, Ht, _, W, R, B, linear_before_reset):
    """Equations of GRU."""
    Wz, Wr, Wh = np.split(W, 3)
    Rz, Rr, Rh = np.split(R, 3)
    Wbz, Wbr, Wbh, Rbz, Rbr, Rbh = np.split(B, 6)
    zt = _f(Xt @ Wz.T + Ht @ Rz.T + Wbz + Rbz)
    rt = _f(Xt @ Wr.T + Ht @ Rr.T + Wbr + Rbr)
    if linear_before_reset:
        ht = np.tanh(Xt @ Wh.T + rt * (Ht @ Rh.T + Rbh) + Wbh)
    else:
        ht = np.tanh(Xt @ Wh.T + (rt * Ht) @ Rh.T + Rbh + Wbh)
    return (1 - zt) * ht + zt * Ht, None


def rnn_step(Xt, Ht, _, W, R, B):
    """The equation of RNN."""
    Wb, Rb = np.split(B, 2)
    return np.tanh(Xt @ W.T + Ht @ R.T + Wb + Rb), None


def by_the_text(call: Call) -> list[np.ndarray]:
    """The specification in plain loops, without activations and clip; time is the first dimension."""
    given = {"initial_h": None, "initial_c": None} | call.inputs
    X, W, R = given["X"], given["W"], given["R"]
    T, B, _ = X.shape
    D, rows, H = R.shape
    biases = given.get("B", np.zeros((D, 2 * rows)))
    lens = given.get("sequence_lens", [T] * B)
    Y = np.zeros((T, D, B, H))
    Y_h, Y_c = (
        np.zeros((D, B, H)) if value is None else value.copy() for value in map(given.get, INPUTS[5:7])
    )
    for d, is_reverse in enumerate(call.directions):
        for b in range(B):
            times = range(lens[b])
            for t in reversed(times) if is_reverse else times:
                now = (X[t, b], Y_h[d, b], Y_c[d, b], W[d], R[d], biases[d])
                if call.op == "LSTM":
                    h, Y_c[d, b] = lstm_step(*now, given.get("P", np.zeros((D, 3 * H)))[d])
                elif call.op == "GRU":
                    h, _ = gru_step(*now, call.attributes.get("linear_before_reset"))
                else:
                    h, _ = rnn_step(*now)
                Y[t, d, b] = Y_h[d, b] = h
    return [Y, Y_h, Y_c] if call.op == "LSTM" else [Y, Y_h]
