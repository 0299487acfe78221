# SPDX-License-Identifier: BSD-3-Clause
"""LSTM with its options, and one step of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.checks import checked_flag, checked_limit, checked_probability
from ..model.options import Activations, CellOption, Option, checked_size, choice, hidden_sizes
from .base import RecurrentCell, RecurrentLayer

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["LSTM", "LSTMCell"]


class LSTM(RecurrentLayer):
    """A stack of LSTM layers over whole sequences, with the shapes and meaning of ``torch.nn.LSTM``.

    A call returns ``y, (h_n, c_n)``; for training, ``forward`` returns a tape, whose ``backward`` adds to the
    gradients of the layer::

        y, (h_n, c_n) = lstm(x, state=None, *, lengths=None, mask=None, reset=None, offsets=None, pad="zero",
                             return_cells=False, out=None)
        tape = lstm.forward(x, state=None, *, lengths=None, mask=None, reset=None, offsets=None, pad="zero",
                            return_cells=False, training=True, save="all", bptt=None)
        dx, (dh_0, dc_0) = tape.backward(dy=None, dstate=None, dcells=None)

    For each time step, with W = weight_ih, U = weight_hh and b = bias_ih + bias_hh (Hochreiter & Schmidhuber
    1997, with the forget gate of Gers, Schmidhuber & Cummins 2000)::

        a_i, a_f, a_g, a_o = W x_t + U h_{t-1} + b
        c_t = sigmoid(a_f) * c_{t-1} + sigmoid(a_i) * tanh(a_g)
        h_t = sigmoid(a_o) * tanh(c_t)

    All options together, where those that are not chosen change nothing (p = weight_ch, z masks of zoneout)::

        i, f = f(clip(a_i + p_i c_{t-1})), f(clip(a_f + p_f c_{t-1})),  g = g(clip(a_g))
        c' = clip_cell(f * c_{t-1} + i * g)
        o = f(clip(a_o + p_o c')),  h' = o * h(c')
        c_t, h_t = z_c c_{t-1} + (1 - z_c) c', z_h h_{t-1} + (1 - z_h) h'
        h_t = clip_proj(weight_hr h' + bias_hr)                  # with a projection

    Letters of shapes: T time, B batch, I input features, H hidden units, P = `proj_size` or H, L layers, D
    directions, G gates that have weights.

    Parameters
    ----------
    input_size : int
        I, features of the input.
    hidden_size : int, or list or tuple of int
        H, hidden units of each direction; a sequence has one H for each layer.
    num_layers : int
        L; layer l > 0 reads the output of layer l - 1.  With a sequence of sizes it follows from that.
    bias : bool
        Whether the layers have biases.
    batch_first : bool
        Whether `x` and `y` are (B, T, features) instead of (T, B, features).  States are always (L*D, B, H).
    dropout : float
        Probability from 0 to 1 of dropping an output between layers.  It acts in ``forward`` unless told
        otherwise, and not in a call.  One layer alone has nothing between: then there is a UserWarning.
    bidirectional : bool
        Whether each layer has a second direction, from the end to the start: D = 2, else D = 1.
    proj_size : int
        P, width of a projection of h, less than H; 0 is none (Sak, Senior & Beaufays 2014).
    peephole : bool
        Whether the gates see the cell state through a diagonal ``weight_ch``, the output gate the new one
        (Gers, Schraudolph & Schmidhuber 2002).
    coupled : {None, "f_from_i", "i_from_f"}
        f = 1 - i (ONNX's ``input_forget``), or i = 1 - f (Greff et al. 2017): G = 3.
    forget_gate : bool
        False is the cell of 1997, with f = 1: G = 3.
    proj_bias : bool
        Whether the projection has a bias.
    proj_clip, cell_clip, gate_clip : float, optional
        Limits of the projected h; of c, before anything else sees it; of what goes into the activations of
        gates and candidate.  Gradients are 0 where something is clipped, and where the projected h just
        reaches its limit.
    layer_norm : {None, "gate", "haste"}
        "gate": each gate's ``W x + U h + p c`` is normalised and scaled by ``weight_ln``, then gets its bias
        (TensorFlow Lite; eps 1e-8).  "haste": ``W x`` and ``U h``, all gates in one, are normalised and
        scaled by ``weight_ln_ih`` and ``weight_ln_hh``, and h = o * tanh(norm(c) * ``weight_ln_c`` +
        ``bias_ln_c``) (the haste library; eps 1e-5).  After Ba, Kiros & Hinton 2016.
    zoneout_c, zoneout_h : float
        Probabilities that an element of c or h keeps its old value, in training (Krueger et al. 2017).
    zoneout_eval : {"expectation", "off"}
        Else: old and new value weighted by the probability, or the new one.
    recurrent_dropout : float
        Probability, in training, of dropping an element of h in ``U h``, the same ones in all steps of a
        sequence, others scaled by 1 / (1 - p).
    recurrent_dropout_masks : {"gate", "tied"}
        Whether each gate has a mask of its own (Keras), or all have one (Gal & Ghahramani 2016).
    activations : sequence of 3, optional
        f of the gates, g of the candidate, h of the output; each a name of ONNX or a tuple of a name and its
        alpha and beta: Sigmoid, Tanh, Relu, Affine, LeakyRelu, ThresholdedRelu, ScaledTanh, HardSigmoid, Elu,
        Softsign, Softplus.
    forget_bias : float, optional
        First value of the forget gate's ``bias_ih``; that of its ``bias_hh`` is then 0.
    input_dropout : float
        Probability, in training, of dropping an element of x, the same ones in all steps of a sequence,
        others scaled by 1 / (1 - p) (Gal & Ghahramani 2016).  Integer input then becomes one-hot rows.
    dropout_masks : {"step", "sequence"}
        Whether `dropout` between layers has a mask for each step (PyTorch), or one for all steps (Gal &
        Ghahramani 2016; with `input_dropout` and a tied `recurrent_dropout` this is their variational
        dropout).
    init : {"torch", "keras"}
        First values: all from U(-1/sqrt(H), 1/sqrt(H)), or ``weight_ih`` and ``weight_hr`` Glorot uniform,
        ``weight_hh`` orthogonal, diagonals still from that U, biases 0 but 1 for the forget gate of an LSTM.
        Scales of norms are 1, shifts 0.
    reverse : bool
        Whether the one direction runs from each row's own last step to its first.
    reverse_order : {"aligned", "processing"}
        Whether the output of such a step stands at the time of its input, or the first one computed first.
    residual : int, optional
        k: the input of each layer l >= k is added to its output (Wu et al. 2016).
    merge : {"concat", "sum", "average"}
        What becomes of the outputs of two directions, in each layer.
    dtype : dtype_like
        float32 or float64.
    num_threads : int, optional
        Most threads for a call of this layer; None is the limit of `threads` or `set_num_threads`.
    rng : optional
        Anything that `numpy.random.default_rng` takes.  The parameters are drawn from it; the layer keeps the
        generator for dropout and zoneout.

    Attributes
    ----------
    input_size, hidden_size, num_layers, num_directions, bias, batch_first, dropout, bidirectional, dtype
        As above, and so the other options but `forget_bias` and `init`; read-only.
    num_threads : int or None
        As above; can be set.
    params : dict of str to ndarray
        Parameters by PyTorch's names (``weight_ih_l0``, ``bias_hh_l1_reverse``, ...): read-only views.
        Shapes are: ``weight_ih`` (G*H, I), ``weight_hh`` (G*H, P), ``bias_ih``, ``bias_hh`` (G*H,), and where
        there are such, ``weight_ch`` ((G-1)*H,), ``weight_hr`` (P, H), ``bias_hr`` (P,), ``weight_ln``,
        ``weight_ln_ih``, ``weight_ln_hh`` (G*H,), ``weight_ln_c``, ``bias_ln_c`` (H,).  Gates stand in the
        order i, f, g, o.
    flat_params : ndarray
        All parameters in one read-only buffer, in the order of `params`.
    grads : dict of str to ndarray
        Gradients by the same names, to which ``tape.backward`` adds: writeable views.
    flat_grads : ndarray
        All gradients in one buffer, laid out as `flat_params`.
    rng : numpy.random.Generator
        What ``forward`` draws the seed of its masks from.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument does not fit, or two do not go together; the message names it, what was expected and what
        came.

    Notes
    -----
    Arguments of a call:

    ``x`` : array_like, (T, B, I), (B, T, I) if `batch_first`, or (T, I) for one sequence
        Any dtype that NumPy casts to the layer's with ``casting="same_kind"``, and any strides; where the
        dtype is the layer's and features are contiguous, it is read where it stands, and so are objects with
        ``__dlpack__``.  An integer dtype always means indices, with one dimension less: the input is the
        one-hot row of each index.  Complex, bool, string, object and masked arrays raise TypeError.

        Or a list of arrays (T_b, I), one for each sequence of the batch: ``y`` is then a list, too.
    ``state`` : pair of array_like ``(h_0, c_0)``, (L*D, B, P) and (L*D, B, H), optional
        Without B for one sequence.  Index ``layer * D + direction``.  None is zero.  Where `hidden_size` is a
        sequence, each of the two is a list of L arrays (D, B, width).
    ``lengths`` : array_like of integers, (B,), optional
        Steps of each row, 0 to T.  What is behind its end is no step: it is not looked at, the final states
        of a row are those at its own end, the given state where the length is 0, and the reverse direction
        starts there.
    ``mask`` : array_like of bool, as x without I, optional
        False where there is no step either: the state is held, and nothing is computed.
    ``reset`` : array_like of bool, as x without I, optional
        Where a new sequence begins: no state passes between the step and the one before it, in neither
        direction, and a forward direction that begins there drops the given state.  A reverse direction takes
        the given state at its own first step in any case.  At a masked step it counts for the next one.
    ``offsets`` : array_like of integers, (B + 1,), optional
        x is (N, I), all sequences one behind the other, of which row b is ``x[offsets[b]:offsets[b + 1]]``;
        so is y.
    ``pad`` : "zero" or "hold"
        What stands in y where there is no step: zeros, or the last output in the order of the direction, and
        before its first step the given h.
    ``return_cells`` : bool
        Whether c of the last layer at every step is a third result, shaped and padded as y.
    ``out`` : ndarray of the shape and dtype of ``y``, optional
        Receives ``y``; C-contiguous, writeable, apart from the memory of all other arguments.  After an
        exception its content is unspecified.

    Results are ``y`` (T, B, D*P), (B, T, D*P) or (T, D*P), or with P in place of D*P where directions are
    merged, the last layer's hidden states with the forward direction first, and ``h_n`` and ``c_n``, shaped
    as ``state``.  T = 0 and B = 0 give empty results.

    ``forward`` takes the same but ``out``, and beside it:

    ``training`` : bool
        Whether masks are drawn.  Their seed is one draw from `rng`, where any act at all;
        ``fastlstm.reference`` has their definition.
    ``save`` : "all", "states" or int
        What is kept for the backward pass, from fast to small: gates and cell states; cell states, from which
        gates are computed again; or with an integer k >= 1 a state every k steps, from which everything is.
    ``bptt`` : int, optional
        Truncation: with k, no gradient passes between steps n*k - 1 and n*k of a row, in neither direction,
        while states do; with `reverse` steps are counted from its end.  The gradient of the given state is
        that of its first piece.

    The tape has ``y`` (read-only), ``state`` and ``cells``, the results of a call, and ``nbytes``, the bytes
    that it keeps, of each row for its own steps alone.  ``backward`` takes ``dy``, shaped as ``y`` and not
    looked at where that is zero for want of a step, ``dstate``, a pair ``(dh_n, dc_n)`` shaped as the states,
    and ``dcells``; None, also for one of the pair, is zero.  It adds the gradients of the parameters to
    `grads`, both biases getting the same, and returns those of ``x``, which is zero where there is no step
    and None for indices, and of the given state.  A tape is for one ``backward``, and for the parameters of
    its ``forward``: else RuntimeError.  After any exception gradients are as they were, and the tape can
    still be used if an argument was at fault.  The equations are those of ``fastlstm.reference``.

    A call releases the GIL unless it takes only microseconds; several threads may call one layer.  An
    argument that another thread changes meanwhile gives unspecified numbers.  Signal handlers run during a
    call, so Ctrl-C stops it.

    Examples
    --------
    >>> import numpy as np
    >>> lstm = LSTM(3, 4, num_layers=2, rng=0)
    >>> y, (h_n, c_n) = lstm(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h_n.shape, c_n.shape
    ((5, 2, 4), (2, 2, 4), (2, 2, 4))
    >>> tape = lstm.forward(np.ones((5, 2, 3), np.float32), lengths=[5, 0])
    >>> dx, (dh_0, dc_0) = tape.backward(np.ones_like(tape.y))
    >>> dx.shape, bool(dx[:, 1].any()), bool(lstm.grads["weight_hh_l1"].any())
    ((5, 2, 3), False, True)
    >>> y, _ = lstm([np.ones((5, 3), np.float32), np.ones((2, 3), np.float32)])
    >>> [part.shape for part in y]
    [(5, 4), (2, 4)]
    """

    _kind = "lstm"
    _keras_forget_bias = 1.0

    proj_size = CellOption(
        checked_size,
        0,
        lambda o: (
            o["proj_size"] >= min(hidden_sizes(o)) and f"0, or less than hidden_size = {min(hidden_sizes(o))}"
        ),
    )
    peephole = CellOption(
        checked_flag,
        False,
        lambda o: (
            o["layer_norm"] == "haste" and "False with layer_norm='haste', whose norms have no place for them"
        ),
    )
    coupled = CellOption(
        choice(None, "f_from_i", "i_from_f"),
        None,
        lambda o: (
            not o["forget_gate"] and "None with forget_gate=False, as there is no forget gate to couple"
        ),
        field="coupling",
    )
    forget_gate = CellOption(
        checked_flag, True, field="coupling", as_field=lambda has: None if has else "no_forget_gate"
    )
    proj_bias = Option(
        checked_flag,
        False,
        lambda o: not o["proj_size"] and "False without proj_size, as nothing is projected",
    )
    proj_clip = CellOption(
        checked_limit,
        None,
        lambda o: not o["proj_size"] and "None without proj_size, as nothing is projected",
    )
    cell_clip = CellOption(checked_limit)
    gate_clip = CellOption(checked_limit)
    layer_norm = CellOption(choice(None, "gate", "haste"))
    zoneout_c = CellOption(checked_probability, 0.0)
    zoneout_h = CellOption(
        checked_probability,
        0.0,
        lambda o: (
            o["proj_size"] and "0 with proj_size, as the projected h has no elements of its own to keep"
        ),
    )
    zoneout_eval = CellOption(
        choice("expectation", "off"),
        "expectation",
        field="zoneout_expectation",
        as_field=lambda value: value == "expectation",
    )
    recurrent_dropout = CellOption(checked_probability, 0.0)
    recurrent_dropout_masks = CellOption(
        choice("gate", "tied"),
        "gate",
        field="recurrent_dropout_tied",
        as_field=lambda value: value == "tied",
    )
    activations = Activations(f="Sigmoid", g="Tanh", h="Tanh")

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peephole: bool = False,
        coupled: str | None = None,
        forget_gate: bool = True,
        proj_bias: bool = False,
        proj_clip: float | None = None,
        cell_clip: float | None = None,
        gate_clip: float | None = None,
        layer_norm: str | None = None,
        zoneout_c: float = 0.0,
        zoneout_h: float = 0.0,
        zoneout_eval: str = "expectation",
        recurrent_dropout: float = 0.0,
        recurrent_dropout_masks: str = "gate",
        activations: Sequence[Any] | None = None,
        forget_bias: float | None = None,
        input_dropout: float = 0.0,
        dropout_masks: str = "step",
        init: str = "torch",
        reverse: bool = False,
        reverse_order: str = "aligned",
        residual: int | None = None,
        merge: str = "concat",
        dtype: DTypeLike = np.float32,
        num_threads: int | None = None,
        rng: Any = None,
    ) -> None:
        self._construct(locals())


class LSTMCell(RecurrentCell):
    """One time step of one LSTM layer, with the shapes and meaning of ``torch.nn.LSTMCell``.

    A call returns ``h, c``::

        h, c = cell(x, state=None, out=None)

    The equations are those of `LSTM`.  Letters of shapes: B batch, I input features, H hidden units.

    Parameters
    ----------
    input_size : int
        I, features of the input.
    hidden_size : int
        H, hidden units.
    bias : bool
        Whether the cell has biases.
    dtype : dtype_like
        float32 or float64.
    num_threads : int, optional
        Most threads for a call of this cell; None is the limit of `threads` or `set_num_threads`.
    rng : optional
        Anything that `numpy.random.default_rng` takes.  All parameters are drawn from U(-1/sqrt(H),
        1/sqrt(H)), as in PyTorch.

    Attributes
    ----------
    input_size, hidden_size, bias, dtype
        As above; read-only.
    num_threads : int or None
        As above; can be set.
    params : dict of str to ndarray
        ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``: read-only views.
    flat_params : ndarray
        All parameters in one read-only buffer, in the order of `params`.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument does not fit; the message names it, what was expected and what came.

    Notes
    -----
    Arguments of a call, which is otherwise as one of `LSTM`:

    ``x`` : array_like, (B, I) or (I,); or integers (B,) or (), the indices of one-hot rows
        The input of the step.
    ``state`` : pair of array_like ``(h, c)``, each (B, H), or (H,) without B, optional
        None is zero.
    ``out`` : pair of ndarray, shaped as ``state``, optional
        Receive ``(h, c)``; of the cell's dtype, C-contiguous, writeable, apart from each other and from the
        memory of all other arguments.

    Examples
    --------
    >>> import numpy as np
    >>> cell = LSTMCell(3, 4, rng=0)
    >>> h, c = cell(np.ones((2, 3), np.float32))
    >>> h, c = cell(np.ones((2, 3), np.float32), (h, c))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    _kind = "lstm"
