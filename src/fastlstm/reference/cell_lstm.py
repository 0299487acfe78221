# SPDX-License-Identifier: BSD-3-Clause
"""The LSTM with all of its options.  Gates stand in the order i (input), f (forget), g (candidate), o.

Equations, and what options make of each::

    a = W x_t + U h_{t-1} + b             Hochreiter & Schmidhuber 1997
        U (h_{t-1} * mask)                recurrent dropout: Gal & Ghahramani 2016
        + p * c                           peepholes: Gers & Schmidhuber 2000; o sees the new c: Gers,
                                          Schraudolph & Schmidhuber 2002
        normalised                        Ba, Kiros & Hinton 2016
        clip(a)                           the ONNX operator, and so are f, g and h as arguments
    i, f, o = f(a_i), f(a_f), f(a_o)      the forget gate: Gers, Schmidhuber & Cummins 2000
        f = 1                             the cell of 1997
        f = 1 - i                         coupled gates: Greff et al. 2017; ONNX's ``input_forget``
        i = 1 - f                         TensorFlow Lite's LSTM without an input gate
    g = g(a_g)
    chat = f * c_{t-1} + i * g
        clip(chat)                        ``cell_clip`` of TensorFlow and TensorFlow Lite: the peephole of o,
                                          and h, see the clipped c
    hhat = o * h(chat)
        o * h(normalised chat)            Ba, Kiros & Hinton 2016
    c_t, h_t = chat, hhat
        z * old + (1 - z) * new           zoneout: Krueger et al. 2017
        h_t = clip(W_hr hhat + b_hr)      projection: Sak, Senior & Beaufays 2014

- Ba, Kiros & Hinton, "Layer normalization", 2016
- Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", 2016
- Gers & Schmidhuber, "Recurrent nets that time and count", 2000
- Gers, Schmidhuber & Cummins, "Learning to forget: continual prediction with LSTM", 2000
- Gers, Schraudolph & Schmidhuber, "Learning precise timing with LSTM recurrent networks", 2002
- Greff, Srivastava, Koutnik, Steunebrink & Schmidhuber, "LSTM: a search space odyssey", 2017
- Hochreiter & Schmidhuber, "Long short-term memory", 1997
- Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", 2017
- Sak, Senior & Beaufays, "Long short-term memory recurrent neural network architectures for large scale
  acoustic modeling", 2014
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from .activations import clip, clip_slope
from .cell_base import (
    Array,
    Grads,
    Noise,
    State,
    Weights,
    activate,
    activate_back,
    add_bias_grads,
    add_grad,
    product_back,
    split_gates,
    total_bias,
)
from .config import Config

GATE_NORM_EPS = 1e-8  # TensorFlow Lite
HASTE_NORM_EPS = 1e-5  # torch.nn.LayerNorm, and the Haste library


class _Kept(NamedTuple):
    """What a step leaves for its gradient."""

    before: State
    noise: Noise
    inputs: "_GateInputs"
    gates: dict[str, Array]  # after activation
    c_unclipped: Array
    c_hat: Array
    c_read: Array  # what h(...) is taken of: c_hat, or that normalised
    normal: "_Normal | None"
    h_hat: Array
    h_unclipped: Array | None  # projected


class LSTMCell:
    """One layer in one direction; the formulas are those of the module."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.config, self.weights = config, weights
        self.f, self.g, self.h = config.functions()
        bias = total_bias(weights)
        self.biases = self.by_gate(bias) if np.ndim(bias) else dict.fromkeys(config.gates, bias)
        self.peepholes = self.by_gate(weights.get("weight_ch"), self.sigmoid_gates)
        self.gammas = self.by_gate(weights.get("weight_ln"))

    @property
    def sigmoid_gates(self) -> str:
        """Gates that can have a peephole."""
        return self.config.gates.replace("g", "")

    def by_gate(self, a: Array | None, gates: str | None = None) -> dict[str, Array]:
        """Parts of an array, views of it; none of what is not there."""
        gates = gates or self.config.gates
        return {} if a is None else dict(zip(gates, split_gates(a, len(gates)), strict=True))

    # ---- Forward ----

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, _Kept]:
        """One step."""
        config = self.config
        h, c = state
        inputs = _GateInputs(self, x, h, noise.recurrent)
        gates = self._input_and_forget(inputs, c)
        gates["g"] = self._activate("g", inputs.gate("g", c))
        c_unclipped = gates["f"] * c + gates["i"] * gates["g"]
        c_hat = clip(c_unclipped, config.cell_clip)
        gates["o"] = self._activate("o", inputs.gate("o", c_hat))

        c_read, normal = c_hat, None
        if config.layer_norm == "haste":
            normal = _Normal(c_hat, HASTE_NORM_EPS)
            c_read = normal.value * self.weights["weight_ln_c"] + self.weights["bias_ln_c"]
        h_hat = gates["o"] * self.h(c_read)
        h_new, h_unclipped = self._project(h_hat)
        after = _mix(h, h_new, noise.zoneout_h), _mix(c, c_hat, noise.zoneout_c)
        kept = _Kept(state, noise, inputs, gates, c_unclipped, c_hat, c_read, normal, h_hat, h_unclipped)
        return after, kept

    def _input_and_forget(self, inputs: "_GateInputs", c: Array) -> dict[str, Array]:
        present = self.config.gates
        gates = {name: self._activate(name, inputs.gate(name, c)) for name in "if" if name in present}
        if "i" not in gates:
            gates["i"] = 1 - gates["f"]
        if "f" not in gates:
            gates["f"] = 1 - gates["i"] if self.config.coupled else np.ones_like(c)
        return gates

    def _activate(self, name: str, a: Array) -> Array:
        return activate(self.g if name == "g" else self.f, a, self.config.gate_clip)

    def _project(self, h_hat: Array) -> tuple[Array, Array | None]:
        if not self.config.proj_size:
            return h_hat, None
        projected = h_hat @ self.weights["weight_hr"].T + self.weights.get("bias_hr", 0)
        return clip(projected, self.config.proj_clip), projected

    # ---- Backward ----

    def step_back(self, kept: _Kept, dstate: State, grads: Grads) -> tuple[Array, State]:
        """The same step's gradient."""
        config, gates, noise = self.config, kept.gates, kept.noise
        c = kept.before[1]
        dh, dc = dstate
        dh_before, dh_hat = _mix_back(dh, noise.zoneout_h)
        dc_before, dc_hat = _mix_back(dc, noise.zoneout_c)

        dh_hat = self._project_back(kept, dh_hat, grads)
        dgates = {"o": dh_hat * self.h(kept.c_read)}
        dc_read = dh_hat * gates["o"] * self.h.slope(kept.c_read)
        if kept.normal is not None:
            add_grad(grads, "weight_ln_c", dc_read * kept.normal.value)
            add_grad(grads, "bias_ln_c", dc_read)
            dc_read = kept.normal.back(dc_read * self.weights["weight_ln_c"])
        dc_hat = dc_hat + dc_read + self._gate_back(kept, "o", dgates["o"], grads)

        dc_sum = dc_hat * clip_slope(kept.c_unclipped, config.cell_clip)
        dgates |= {"i": dc_sum * gates["g"], "f": dc_sum * c, "g": dc_sum * gates["i"]}
        if config.coupled == "f_from_i":
            dgates["i"] = dgates["i"] - dgates["f"]
        if config.coupled == "i_from_f":
            dgates["f"] = dgates["f"] - dgates["i"]
        dc_before = dc_before + dc_sum * gates["f"]
        for name in config.gates.replace("o", ""):
            dc_before = dc_before + self._gate_back(kept, name, dgates[name], grads)
        dx, dh_read = kept.inputs.finish_back(grads)
        return dx, (dh_before + dh_read, dc_before)

    def _gate_back(self, kept: _Kept, name: str, dgate: Array, grads: Grads) -> Any:
        """Gradient of the cell state that the gate sees."""
        function = self.g if name == "g" else self.f
        da = activate_back(function, kept.inputs.values[name], self.config.gate_clip, dgate)
        return kept.inputs.gate_back(name, da, grads)

    def _project_back(self, kept: _Kept, dh: Array, grads: Grads) -> Array:
        if kept.h_unclipped is None:
            return dh
        limit, dprojected = self.config.proj_clip, dh
        if limit is not None:  # 0 at the limit too: whether h was clipped, h itself cannot tell there
            dprojected = dh * (np.abs(kept.h_unclipped) < limit)
        add_grad(grads, "bias_hr", dprojected)
        return product_back(dprojected, kept.h_hat, "weight_hr", self.weights, grads)


def _mix(old: Array, new: Array, weight: Any) -> Array:
    """Zoneout: how much of the old value stays, in masks of 0 and 1 or in numbers."""
    return new if isinstance(weight, float) and weight == 0 else weight * old + (1 - weight) * new


def _mix_back(dmixed: Array, weight: Any) -> tuple[Any, Array]:
    """Gradients of the old and the new value."""
    return weight * dmixed, (1 - weight) * dmixed


class _GateInputs:
    """What the gates' activations are taken of, in one step: gate by gate, as o waits for the new c.

    With s = W x + U h for all gates (rows of one product)::

        s + p * c + b                                     plain, or with peepholes
        gamma * norm_H(s + p * c) + b                     layer_norm="gate": each gate by itself; as in
                                                          TensorFlow Lite
        gamma_ih * norm(W x) + gamma_hh * norm(U h) + b   layer_norm="haste": all gates together; Ba et al.
                                                          2016, equations 20 to 22, as in the Haste library
    """

    def __init__(self, cell: LSTMCell, x: Array, h: Array, masks: Array | None) -> None:
        self.cell, self.x = cell, x
        config, weights = cell.config, cell.weights
        self.recurrent = _RecurrentProduct(weights["weight_hh"], len(config.gates), h, masks)
        from_x, from_h = x @ weights["weight_ih"].T, self.recurrent.value()
        if config.layer_norm == "haste":
            self.normal_x = _Normal(from_x, HASTE_NORM_EPS)
            self.normal_h = _Normal(from_h, HASTE_NORM_EPS)
            from_x = self.normal_x.value * weights["weight_ln_ih"]
            from_h = self.normal_h.value * weights["weight_ln_hh"]
        self.sums = cell.by_gate(from_x + from_h)
        self.seen: dict[str, Array] = {}  # the c of each peephole
        self.normals: dict[str, _Normal] = {}
        self.values: dict[str, Array] = {}
        self.dvalues: dict[str, Array] = {}
        self.dsums: dict[str, Array] = {}

    def gate(self, name: str, c: Array) -> Array:
        """The input of one gate, which may look at `c`."""
        total = self.sums[name]
        if name in self.cell.peepholes:
            self.seen[name] = c
            total = total + self.cell.peepholes[name] * c
        if name in self.cell.gammas:
            self.normals[name] = _Normal(total, GATE_NORM_EPS)
            total = self.cell.gammas[name] * self.normals[name].value
        self.values[name] = total + self.cell.biases[name]
        return self.values[name]

    def gate_back(self, name: str, dvalue: Array, grads: Grads) -> Any:
        """Gradient of the `c` that the gate looked at."""
        self.dvalues[name] = dvalue
        if name in self.cell.gammas:
            self.cell.by_gate(grads["weight_ln"])[name] += (dvalue * self.normals[name].value).sum(axis=0)
            dvalue = self.normals[name].back(dvalue * self.cell.gammas[name])
        self.dsums[name] = dvalue
        if name not in self.cell.peepholes:
            return 0
        part = self.cell.by_gate(grads["weight_ch"], self.cell.sigmoid_gates)[name]
        part += (dvalue * self.seen[name]).sum(axis=0)
        return dvalue * self.cell.peepholes[name]

    def finish_back(self, grads: Grads) -> tuple[Array, Array]:
        """Gradients of x and h, when those of all gates are known."""
        dvalues, dsums = (
            np.concatenate([d[g] for g in self.cell.config.gates], axis=-1)
            for d in (self.dvalues, self.dsums)
        )
        add_bias_grads(grads, dvalues)
        dfrom_x = dfrom_h = dsums
        if self.cell.config.layer_norm == "haste":
            add_grad(grads, "weight_ln_ih", dsums * self.normal_x.value)
            add_grad(grads, "weight_ln_hh", dsums * self.normal_h.value)
            dfrom_x = self.normal_x.back(dsums * self.cell.weights["weight_ln_ih"])
            dfrom_h = self.normal_h.back(dsums * self.cell.weights["weight_ln_hh"])
        dx = product_back(dfrom_x, self.x, "weight_ih", self.cell.weights, grads)
        return dx, self.recurrent.back(dfrom_h, grads)


class _RecurrentProduct:
    """``U h``, or ``U (h * mask)`` with masks that stay the same for a whole sequence.

    Gal & Ghahramani 2016: one mask for all gates is their tied form, a mask for each their untied one, and
    Keras's.  (Semeniuta, Severyn & Barth, "Recurrent dropout without memory loss", 2016, drop g in place of
    h; that is not offered.)
    """

    def __init__(self, U: Array, count: int, h: Array, masks: Array | None) -> None:
        self.U, self.masks = U, masks
        self.blocks = [U] if masks is None or len(masks) == 1 else np.split(U, count)
        self.reads: list[Array] = [h] if masks is None else [h * mask for mask in masks]

    def value(self) -> Array:
        parts = [read @ block.T for read, block in zip(self.reads, self.blocks, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def back(self, dvalue: Array, grads: Grads) -> Array:
        parts = split_gates(dvalue, len(self.blocks))
        grads["weight_hh"] += np.concatenate([d.T @ r for d, r in zip(parts, self.reads, strict=True)])
        dreads: Iterable[Array] = (d @ block for d, block in zip(parts, self.blocks, strict=True))
        if self.masks is not None:
            dreads = (d * mask for d, mask in zip(dreads, self.masks, strict=True))
        return np.asarray(sum(dreads))


class _Normal:
    """``(z - mean) / sqrt(variance + eps)`` over the last axis, with the biased variance.

    Ba, Kiros & Hinton 2016, equation 3.
    """

    def __init__(self, z: Array, eps: float) -> None:
        centred = z - z.mean(axis=-1, keepdims=True)
        self.deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + eps)
        self.value = centred / self.deviation

    def back(self, dvalue: Array) -> Array:
        """Gradient of z."""
        along = (dvalue * self.value).mean(axis=-1, keepdims=True)
        return np.asarray(
            (dvalue - dvalue.mean(axis=-1, keepdims=True) - self.value * along) / self.deviation
        )
