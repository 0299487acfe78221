# SPDX-License-Identifier: BSD-3-Clause
"""Stacks of layers over batches of sequences: `forward` and `backward` of every cell with every option.

A layer is a cell in one or two directions; a stack passes the merged output of each layer to the next.  Read
batches.py for what happens to rows of unequal length, and cell_base.py for what a cell is.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .batches import Batch, Walk, read_state, spread, spread_back, state_as_given
from .cell_base import Cell, Grads, Noise, State
from .cell_gru import GRUCell
from .cell_lstm import LSTMCell
from .cell_mgu import MGUCell
from .cell_minimal import MinGRUCell, MinLSTMCell
from .cell_rnn import IndRNNCell, RNNCell
from .cell_slstm import SLSTMCell
from .config import Config, cell_shapes, param_shapes
from .direction import Direction, draw_noise
from .draws import INPUT, TIED, dropout_mask, variational_mask

Array = NDArray[Any]

__all__ = ["Result", "backward", "forward"]

_CELLS: dict[str, type[Cell]] = {
    "LSTM": LSTMCell,
    "GRU": GRUCell,
    "MGU": MGUCell,
    "RNN": RNNCell,
    "IndRNN": IndRNNCell,
    "SLSTM": SLSTMCell,
    "MinGRU": MinGRUCell,
    "MinLSTM": MinLSTMCell,
}


class Result(NamedTuple):
    """What a call returns; shapes in `forward`."""

    y: Array
    state: Any
    cells: Array | None


def forward(
    config: Config,
    params: Mapping[str, ArrayLike],
    x: ArrayLike,
    state: Any = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    pad: str = "zero",
    training: bool = False,
    seed: int = 0,
    dtype: DTypeLike | None = None,
) -> Result:
    """A stack of layers over a batch of sequences.

    Letters: T time, B batch, I input, H hidden, P width of h (``proj_size``, or H), L layers, D directions,
    W width of the output: D*P, or P where the directions are summed or averaged.

    Parameters
    ----------
    config : Config
        Cell and options.
    params : mapping of str to array_like
        By the names and in the shapes of `param_shapes`.
    x : array_like, (T, B, I), or (B, T, I) if ``batch_first``, or (T, I) unbatched
        Input.  Integers are always indices, of one dimension less: the input is the one-hot row of each.
        Steps that are not real are not looked at.
    state : optional
        None is zero.  One array where h is all of the state, or a tuple of its members: (h, c) of an LSTM,
        (h, c, n, m) of an sLSTM.  Each (L*D, B, width), unbatched (L*D, width), of width P for h and H for
        the others; index ``layer * D + direction``.  Where ``hidden_size`` is a sequence, each member is a
        sequence of L arrays (D, B, width).
    lengths : array_like of int, (B,), or (1,) unbatched, optional
        Real steps are those before it, 0 to T.
    mask : array_like of bool, (T, B), or (B, T) if ``batch_first``, or (T,) unbatched, optional
        Real steps are those where it is True, and before `lengths`.  All others are removed from the row's
        sequence: no cell sees them, and the state stays.  A row without real steps returns its given state.
    reset : array_like of bool, shaped as `mask`, optional
        Where a new sequence begins: no state passes between the step and the one before it, in neither
        direction, and a forward direction that begins there drops the given state.  A reverse direction
        takes the given state at its own first step in any case.  At a step that is not real, it holds for
        the next real one.
    pad : {"zero", "hold"}
        What the output is at steps that are not real: 0; or in each direction that of the last real step in
        its own order, and the given state of the last layer before the first.  (Keras's layers with a mask
        hold; ONNX's and PyTorch's are zero.)
    training : bool
        Whether dropout, recurrent dropout and zoneout draw their masks.
    seed : int
        Of those masks; see draws.py.  In an index of draws, t is the position of a step among the real steps
        of its row, and T is that of `x`.
    dtype : dtype_like, optional
        Floating dtype to compute in; None is that of `params`.

    Returns
    -------
    y : ndarray, (T, B, W), or (B, T, W), or (T, W)
        Output of the last layer, forward direction first where they are concatenated.
    state : as the argument
        States at each row's own end.
    cells : ndarray, (T, B, D*H), or None
        LSTM and sLSTM: c of the last layer after each step, directions side by side, padded as `y`.

    Raises
    ------
    ValueError
        If a shape, a name, a length or an index does not fit, or if ``pad="hold"`` meets a residual or a
        merged output, of which there is no last state.
    """
    run = _Run(config, params, x, state, lengths, mask, reset, pad, training, seed, dtype)
    output, cells, final = run.forward()
    y = run.padded(run.divided(output), 0)
    return Result(
        y, state_as_given(config, final, run.batch), None if cells is None else run.padded(cells, 1)
    )


def backward(
    config: Config,
    params: Mapping[str, ArrayLike],
    x: ArrayLike,
    state: Any = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    pad: str = "zero",
    training: bool = False,
    seed: int = 0,
    dtype: DTypeLike | None = None,
    bptt: int | None = None,
    dy: ArrayLike | None = None,
    dstate: Any = None,
    dcells: ArrayLike | None = None,
) -> tuple[Array | None, Any, dict[str, Array]]:
    """Gradients of ``sum(y * dy) + sum(state * dstate) + sum(cells * dcells)``, through time.

    Backpropagation through time: Werbos, "Backpropagation through time: what it does and how to do it", 1990.
    Truncation: Williams & Peng, "An efficient gradient-based algorithm for on-line training of recurrent
    network trajectories", 1990.

    Parameters
    ----------
    config, params, x, state, lengths, mask, reset, pad, training, seed, dtype
        As in `forward`.
    bptt : int, optional
        Truncation: with k, no gradient passes between the real steps n*k - 1 and n*k of a row, in neither
        direction.  With ``reverse`` the steps are counted as they are walked, from the row's last one.
        States pass as ever.
    dy, dcells : array_like, shaped as `y` and `cells`, optional
        None is zero.  What stands where these are padded with zeros is not looked at.
    dstate : as the state, optional
        None is zero, also for one of its members.

    Returns
    -------
    dx : ndarray, shaped as `x`, or None where that holds indices
        Zero at steps that are not real.
    dstate : as the state
        Of the given one.
    grads : dict of str to ndarray
        By the names of `param_shapes`, in their order.

    Raises
    ------
    ValueError
        As `forward`, and if `bptt`, `dy`, `dstate` or `dcells` does not fit.
    """
    run = _Run(config, params, x, state, lengths, mask, reset, pad, training, seed, dtype, bptt)
    output, cells, _ = run.forward(is_recorded=True)
    dfinal = run.read_state(dstate, "dstate")
    if dcells is not None and cells is None:
        raise ValueError(f"dcells: expected None, as {config.cell} has no cell state, got an array")
    dheld: list[list[Array]] = []  # of the given state of the last layer, by member and direction
    dparts, dgiven = run.padded_back(dy, "dy", [part.shape[-1] for part in run.divided(output)])
    dheld.append(dgiven)
    dcell_parts = None
    if cells is not None:
        dcell_parts, dgiven = run.padded_back(dcells, "dcells", [part.shape[-1] for part in cells])
        dheld.append(dgiven)
    dinput, dinitial, grads = run.backward(np.concatenate(dparts, axis=-1), dcell_parts, dfinal)
    if pad == "hold":
        D = config.num_directions
        for direction, held in enumerate(zip(*dheld, strict=True), start=len(dinitial) - D):
            sums = [d + more for d, more in zip(dinitial[direction], held, strict=False)]
            dinitial[direction] = (*sums, *dinitial[direction][len(sums) :])
    dx = None if run.batch.is_index else run.batch.as_given(_in_time(dinput, run.batch))
    return dx, state_as_given(config, dinitial, run.batch), grads


# ---- One pass --------------------------------------------------------------------------------------------


class _Run:
    """A stack and a batch, on rows of real steps alone; `forward` keeps what `backward` needs.

    A state is here a list of one tuple of members (B, width) for each layer and direction.
    """

    def __init__(
        self,
        config: Config,
        params: Mapping[str, ArrayLike],
        x: ArrayLike,
        state: Any,
        lengths: ArrayLike | None,
        mask: ArrayLike | None,
        reset: ArrayLike | None,
        pad: str,
        training: bool,
        seed: int,
        dtype: DTypeLike | None,
        bptt: int | None = None,
    ) -> None:
        self.config, self.seed, self.training = config, seed, training
        self.params = _checked_params(config, params, dtype)
        self.dtype = next(iter(self.params.values())).dtype
        self.batch = batch = Batch.read(config, x, lengths, mask, reset, self.dtype)
        self.state = self.read_state(state, "state")
        if pad not in ("zero", "hold"):
            raise ValueError(f"pad: expected 'zero' or 'hold', got {pad!r}")
        is_held, D = pad == "hold", config.num_directions
        if is_held and (config.residual is not None or config.merge != "concat"):
            raise ValueError("pad: expected 'zero' with residual or a merge that is no 'concat', got 'hold'")
        if bptt is not None and bptt < 1:
            raise ValueError(f"bptt: expected at least 1, got {bptt}")
        in_order_of_processing = config.reverse_order == "processing"
        cuts = batch.cuts(bptt, config.reverse)
        reverses = [config.reverse or direction == 1 for direction in range(D)]
        self.walks = [Walk(batch.lengths, is_reverse, batch.is_start, cuts) for is_reverse in reverses]
        # Where the output of each direction comes from, at each time.
        self.sources = [batch.sources(is_reverse, is_held, in_order_of_processing) for is_reverse in reverses]
        self.parts: list[Direction] = []  # of each layer and direction

    def read_state(self, given: Any, name: str) -> list[State]:
        """A state, or a gradient of one, from an argument."""
        return read_state(self.config, given, name, self.batch, self.dtype)

    def forward(self, is_recorded: bool = False) -> tuple[Array, list[Array] | None, list[State]]:
        """Output of the last layer (T, B, W), its c in each direction (T, B, H), and the final state."""
        config, D, sequence = self.config, self.config.num_directions, self.batch.x
        final: list[State] = []
        all_cells: list[Array] = []
        for layer in range(config.num_layers):
            sequence = sequence * self._dropout(layer)
            outputs, all_cells = [], []
            for direction in range(D):
                part = self._direction(layer, direction)
                y, cells, state = part.forward(sequence, self.state[layer * D + direction], is_recorded)
                self.parts.append(part)
                outputs.append(y)
                all_cells.append(cells)
                final.append(state)
            merged = _merged(config.merge, outputs)
            sequence = merged + sequence if self._is_residual(layer) else merged
        return sequence, all_cells if "c" in config.states else None, final

    def backward(
        self, doutput: Array, dcells: list[Array] | None, dstate: list[State]
    ) -> tuple[Array, list[State], Grads]:
        """Gradients of the input, of the given state, and of the parameters."""
        config, D = self.config, self.config.num_directions
        grads = {name: np.zeros_like(value) for name, value in self.params.items()}
        dgiven = list(dstate)
        for layer in reversed(range(config.num_layers)):
            dinput: Any = doutput if self._is_residual(layer) else 0
            douts = _merged_back(config.merge, doutput, D)
            for d, suffix in enumerate(config.suffixes):
                index = layer * D + d
                part_grads = {kind: grads[f"{kind}_l{layer}{suffix}"] for kind in cell_shapes(config, layer)}
                dcell = dcells[d] if dcells is not None and layer == config.num_layers - 1 else None
                dpart, dgiven[index] = self.parts[index].backward(douts[d], dcell, dstate[index], part_grads)
                dinput = dinput + dpart
            doutput = dinput * self._dropout(layer)
        return doutput, dgiven, grads

    def divided(self, output: Array) -> list[Array]:
        """The output of each direction, or of both where they are joined."""
        if self.config.merge != "concat":
            return [output]
        return np.split(output, self.config.num_directions, axis=-1)

    def padded(self, parts: list[Array], member: int) -> Array:
        """A result from its parts, which are a member of the state after each step: all that is returned."""
        given = [state[member] for state in self.state[-self.config.num_directions :]]
        spreads = [spread(*of_part) for of_part in zip(parts, given, self.sources, strict=False)]
        return self.batch.as_given(np.concatenate(spreads, axis=-1))

    def padded_back(
        self, dresult: ArrayLike | None, name: str, widths: list[int]
    ) -> tuple[list[Array], list[Array]]:
        """Gradients of the parts of a result, and of the given member, which held results come from."""
        T, B = self.batch.is_real.shape
        whole = np.zeros((T, B, sum(widths)), self.dtype)
        if dresult is not None:
            expected = self.batch.as_given(whole).shape
            if np.shape(dresult) != expected:
                raise ValueError(f"{name}: expected shape {expected}, got {np.shape(dresult)}")
            whole = self.batch.as_computed(np.asarray(dresult, self.dtype))
        wholes = np.split(whole, len(widths), axis=-1)
        dparts, dgiven = zip(*map(spread_back, wholes, self.sources), strict=True)
        return list(dparts), list(dgiven)

    def _direction(self, layer: int, direction: int) -> Direction:
        config, (T, B) = self.config, self.batch.is_real.shape
        suffix = f"_l{layer}{config.suffixes[direction]}"
        weights = {kind: self.params[kind + suffix] for kind in cell_shapes(config, layer)}
        index = layer * config.num_directions + direction
        noise = draw_noise(config, index, layer, T, B, self.training, self.seed, self.dtype)
        zoneout_c, zoneout_h, recurrent = noise
        noise = Noise(self._as_walked(zoneout_c), self._as_walked(zoneout_h), recurrent)
        return Direction(_CELLS[config.cell](config, weights), self.walks[direction], noise)

    def _dropout(self, layer: int) -> Any:
        """What the input of a layer is multiplied with."""
        p = self.config.dropout if layer else self.config.input_dropout
        if not (p and self.training):
            return 1
        T, B = self.batch.is_real.shape
        width = self.config.input_width(layer)
        if layer == 0:
            return variational_mask(self.seed + INPUT, 0, B, width, p, self.dtype)
        if self.config.dropout_masks == "sequence":
            return variational_mask(self.seed + TIED, layer - 1, B, width, p, self.dtype)
        return self._as_walked(dropout_mask(self.seed, layer - 1, T, B, width, p, self.dtype))

    def _as_walked(self, mask: Any) -> Any:
        """A mask by time from one by step: with ``reverse`` draws follow the order of processing."""
        if not (self.config.reverse and isinstance(mask, np.ndarray)):
            return mask
        lengths, time = self.walks[0].lengths, np.arange(len(mask))[:, np.newaxis]
        return np.take_along_axis(mask, np.maximum(lengths - 1 - time, 0)[:, :, np.newaxis], axis=0)

    def _is_residual(self, layer: int) -> bool:
        """Whether a layer's input, as the layer reads it, is added to its output.

        Wu et al., "Google's neural machine translation system", 2016, section 3.1.
        """
        return self.config.residual is not None and layer >= self.config.residual


def _merged(merge: str, outputs: list[Array]) -> Array:
    """One output of all directions."""
    if merge == "concat":
        return np.concatenate(outputs, axis=-1)
    total = np.asarray(sum(outputs[1:], outputs[0]))
    return total / len(outputs) if merge == "average" else total


def _merged_back(merge: str, doutput: Array, count: int) -> list[Array]:
    if merge == "concat":
        return np.split(doutput, count, axis=-1)
    return [doutput / count if merge == "average" else doutput] * count


def _in_time(dx: Array, batch: Batch) -> Array:
    """Gradients of rows of real steps at the times of these steps; zero elsewhere."""
    return spread(dx, np.zeros_like(dx, shape=dx.shape[1:]), batch.sources(False, False))


def _checked_params(
    config: Config, params: Mapping[str, ArrayLike], dtype: DTypeLike | None
) -> dict[str, Array]:
    shapes, arrays = param_shapes(config), {name: np.asarray(value) for name, value in params.items()}
    if arrays.keys() != shapes.keys():
        raise ValueError(f"params: expected {sorted(shapes)}, got {sorted(arrays)}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"params[{name!r}]: expected shape {shape}, got {arrays[name].shape}")
    if dtype is None:
        dtype = np.result_type(*arrays.values())
        dtype = dtype if np.issubdtype(dtype, np.floating) else np.float64
    return {name: np.asarray(arrays[name], dtype) for name in shapes}
