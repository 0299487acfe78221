# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: the calls of the layers.


cdef class Layer:
    """What layers and cells share.

    Weights are replaced as a whole, so that a call in another thread keeps those it began with.
    """

    cdef Weights _weights
    cdef size_t _num_threads  # 0: the limit of the process or thread

    @property
    def weights(self):
        """The packed weights in use; `layers` sets them."""
        return self.ready()

    @weights.setter
    def weights(self, Weights weights not None):
        self._weights = weights

    @property
    def num_threads(self):
        """Most threads for a call of this layer; None is the limit of the calling thread or the process."""
        return self._num_threads or None

    @num_threads.setter
    def num_threads(self, value):
        self._num_threads = 0 if value is None else as_count(value, "num_threads")

    @property
    def dtype(self):
        return self.ready().dtype

    @property
    def input_size(self):
        return self.ready().input_size

    @property
    def hidden_size(self):
        return self.ready().hidden_size

    cdef inline Weights ready(self):
        if self._weights is None:
            raise RuntimeError(f"{type(self).__name__}: __init__ has not been called")
        return self._weights


# Compared by identity first: the default, and what a caller writes as a literal.
cdef str ZERO = "zero"


cdef inline bint is_ragged(object x) except -1:
    return PyList_CheckExact(x) and is_list_of_arrays(<list>x)


cdef bint is_list_of_arrays(list x) except -1:
    """Whether x is a list of arrays (T_b, I), or of indices (T_b,)."""
    if len(x) == 0:
        return False
    first = x[0]
    if not PyArray_Check(first):
        if not hasattr(first, "__dlpack__"):
            return False
        first = read_array(first, "x[0]")
    return PyArray_NDIM(<ndarray>first) == 2 or (PyArray_NDIM(<ndarray>first) == 1
                                                 and first.dtype.kind in "iu")


cdef tuple STATE_NAMES = ("state", "state[0]", "state[1]", "state[2]", "state[3]")
cdef tuple DSTATE_NAMES = ("dstate", "dstate[0]", "dstate[1]", "dstate[2]", "dstate[3]")


cdef tuple read_states(object state, tuple names, Weights weights, int nd, npy_intp *dims):
    """``(h, c)`` as the C core reads them, from what the states of the cell are; c may be None.

    `dims` are those of h; of the states beside it the last one is H.
    """
    cdef npy_intp width = dims[nd - 1]
    cdef tuple members
    cdef ndarray h
    if weights.states == 0:
        return read_operand(state, names[0], weights.typenum, nd, dims), None
    if weights.has_pair:
        members = read_pair(state, names[0])
        return (read_operand(members[0], names[1], weights.typenum, nd, dims),
                read_operand(members[1], names[2], weights.typenum, nd, dims))
    members = read_members(state, names[0], weights)
    h = read_operand(members[0], names[1], weights.typenum, nd, dims)
    dims[nd - 1] = <npy_intp>weights.shape.hidden_size
    beside = [read_operand(item, name, weights.typenum, nd, dims) for item, name in zip(members[1:], names[2:])]
    dims[nd - 1] = width
    return h, beside[0] if weights.states == 1 else np.concatenate(beside, axis=-1)


cdef tuple read_members(object state, str name, Weights weights):
    """The members of a state or of its gradient."""
    if weights.states == 1:
        return read_pair(state, name)
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{name}: expected arrays (h, c, n, m), got {type(state).__name__}")
    if len(state) != 4:
        raise ValueError(f"{name}: expected arrays (h, c, n, m), got {len(state)} items")
    return tuple(state)


cdef object final_states(Weights weights, ndarray h_n, ndarray c_n):
    """The other way round."""
    if weights.states == 0:
        return h_n
    if weights.states == 1:
        return h_n, c_n
    return (h_n, *[np.ascontiguousarray(part) for part in np.split(c_n, weights.states, axis=-1)])


cdef int check_apart_from_states(object out, object state, Weights weights) except -1:
    if weights.states == 0:
        return check_apart(out, "out", state, "state")
    for n, item in enumerate(state):
        check_apart(out, "out", item, f"state[{n}]")
    return 0


cdef class Recurrent(Layer):
    """The calls of layers over sequences.

    What is not plain goes through `_call_in_full` and `_forward_in_full`, which are in recurrent.py: rows that do
    not lie as in an array with T and B, and stacks whose layers are packed one by one.
    """

    cdef bint batch_first
    cdef double dropout
    cdef readonly tuple parts       # Weights of the stack, or of each of its layers
    cdef bint is_plain              # one part, forward or bidirectional
    cdef Record _spare              # whose tape has been used
    cdef list _spares               # and those of other parts
    cdef ndarray _gradient_scratch  # that of a backward pass, likewise

    def __cinit__(self, *args, **kwargs):
        self._spares = []

    @property
    def weights(self):
        """The packed weights in use, of the first part; `layers` sets them all at once."""
        return self.ready()

    @weights.setter
    def weights(self, weights):
        cdef tuple parts = weights if isinstance(weights, tuple) else (weights,)
        for part in parts:
            if not isinstance(part, Weights):
                raise TypeError(f"weights: expected Weights, got {type(part).__name__}")
        self.parts, self._weights = parts, <Weights?>parts[0]

    cdef ndarray take_scratch(self, params):
        """A flat buffer like the parameters'."""
        cdef ndarray scratch = self._gradient_scratch
        self._gradient_scratch = None  # another thread makes its own
        if scratch is None or PyArray_SIZE(scratch) != params.size or scratch.dtype != params.dtype:
            scratch = np.empty(params.size, params.dtype)
        return scratch

    def gradient_scratch(self):
        """A flat buffer like the parameters', for `add_gradients`."""
        return self.take_scratch(self.ready().source.flat)

    cdef Record take_record(self):
        cdef Record record = self._spare
        self._spare = None
        if record is not None:
            return record
        return self._spares.pop() if self._spares else Record()

    cdef int keep_record(self, Record record) except -1:
        record.forget()
        if self._spare is None:
            self._spare = record
        elif len(self._spares) + 1 < len(self.parts):
            self._spares.append(record)
        return 0

    def give_back(self, Record record not None):
        """Keep the memory of a record that is no longer needed."""
        self.keep_record(record)

    def configure(self, bint batch_first, double dropout, bint is_plain):
        """Set what the weights do not say."""
        self.batch_first = batch_first
        self.dropout = dropout
        self.is_plain = is_plain

    def __call__(self, x, state=None, *, lengths=None, mask=None, reset=None, offsets=None, pad="zero",
                 return_cells=False, out=None):
        if (self.is_plain and mask is None and reset is None and offsets is None and return_cells is False
                and pad is ZERO and not is_ragged(x)):
            return self.call_plain(x, state, lengths, out)
        self.ready()
        return self._call_in_full(x, state, lengths=lengths, mask=mask, reset=reset, offsets=offsets, pad=pad,
                                  return_cells=return_cells, out=out)

    cdef tuple call_plain(self, x, state, lengths, out):
        cdef Weights weights = self.ready()
        cdef bint batch_first = self.batch_first
        cdef input_view view
        cdef fl_forward_args args
        cdef fl_status status
        cdef npy_intp[3] y_dims
        cdef npy_intp[3] state_dims
        cdef ndarray x_read, h_0, c_0, y, h_n, c_n = None, lengths_read = None
        cdef tuple pair
        cdef int batched, axis_t
        memset(&args, 0, sizeof(args))

        x_read = read_input(x, weights, True, batch_first, &view)
        batched = view.batched
        if view.is_index:
            args.x_index = <const int64_t *>view.data
        else:
            args.x = view.data
        args.T = view.T
        args.B = view.B
        args.x_stride_t = view.stride_t
        args.x_stride_b = view.stride_b
        args.num_threads = self._num_threads

        state_dims[0] = <npy_intp>(weights.shape.num_layers * weights.shape.num_directions)
        state_dims[1] = <npy_intp>view.B
        state_dims[1 + batched] = <npy_intp>weights.width
        if state is not None and weights.has_pair:
            pair = read_pair(state, "state")
            h_0 = read_operand(pair[0], "state[0]", weights.typenum, 2 + batched, state_dims)
            c_0 = read_operand(pair[1], "state[1]", weights.typenum, 2 + batched, state_dims)
            args.h0 = PyArray_DATA(h_0)
            args.c0 = PyArray_DATA(c_0)
        elif state is not None:
            h_0, c_0 = read_states(state, STATE_NAMES, weights, 2 + batched, state_dims)
            args.h0 = PyArray_DATA(h_0)
            if c_0 is not None:
                args.c0 = PyArray_DATA(c_0)
        if lengths is not None:
            lengths_read = read_lengths(lengths, &view)
            args.lengths = <const int64_t *>PyArray_DATA(lengths_read)

        axis_t = batched and batch_first
        y_dims[1 - axis_t] = <npy_intp>view.B
        y_dims[axis_t] = <npy_intp>view.T
        y_dims[1 + batched] = <npy_intp>(weights.shape.num_directions * weights.width)
        if out is None:
            y = <ndarray>PyArray_EMPTY(2 + batched, y_dims, weights.typenum, 0)
        else:
            check_out(out, "out", weights.typenum, 2 + batched, y_dims)
            check_apart_from_inputs(out, "out", x, x_read, None, None)
            if state is not None:
                check_apart_from_states(out, state, weights)
            if lengths is not None:
                check_apart(out, "out", lengths, "lengths")
            y = <ndarray>out
        args.y = PyArray_DATA(y)
        args.y_stride_t = PyArray_STRIDES(y)[axis_t] // PyArray_ITEMSIZE(y)
        args.y_stride_b = PyArray_STRIDES(y)[1 - axis_t] // PyArray_ITEMSIZE(y)
        h_n = <ndarray>PyArray_EMPTY(2 + batched, state_dims, weights.typenum, 0)
        args.h_n = PyArray_DATA(h_n)
        if weights.states != 0:
            state_dims[1 + batched] = <npy_intp>(weights.states * weights.shape.hidden_size)
            c_n = <ndarray>PyArray_EMPTY(2 + batched, state_dims, weights.typenum, 0)
            args.c_n = PyArray_DATA(c_n)

        status = run_forward(weights.stack, &args,
                             <double>view.T * <double>view.B * weights.step_work > TINY_WORK)
        if status != FL_OK:
            if status == FL_ERROR_INDEX:
                raise wrong_index(x, weights, lengths_read, batch_first)
            if status == FL_ERROR_LENGTH:
                raise wrong_length(lengths, &view)
            check(status)
        if weights.states == 1:
            return y, (h_n, c_n)
        return y, final_states(weights, h_n, c_n)

    def forward(self, x, state=None, *, lengths=None, mask=None, reset=None, offsets=None, pad="zero",
                return_cells=False, training=True, save="all", bptt=None):
        """Call the layer and keep what the backward pass needs.

        The output has the same bits as that of a call.  Letters of shapes as for the layer.

        Parameters
        ----------
        x, state, lengths, mask, offsets, pad, return_cells
            As in a call; copies are kept, but of read-only arrays that own their memory.
        reset : array_like of bool, (T, B), (B, T) if `batch_first`, or (T,) for one sequence, optional
            As in a call: no state, and no gradient of it, passes between this step and the one before.
        training : bool
            Whether dropout and zoneout draw masks.  They come from one draw of `rng`, whatever the number of threads.
        save : "all", "states" or int
            What is kept: gates and states (of a plain LSTM 20 H bytes a time step, row, layer and direction,
            in float32); states (at most 8 H), from which the gates are computed again; or the states before
            every k-th step (about 8 H / k), from which the rest is.  Gradients have the same bits.
        bptt : int, optional
            k: the gradient of the state does not pass between steps n*k - 1 and n*k, n = 1, 2, ...

        Returns
        -------
        Tape
            With the results, and the backward pass.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the message names it, what was expected and what came.
        MemoryError
            What is to be kept does not fit into memory.
        """
        cdef Tape tape
        cdef size_t save_steps = read_save(save), bptt_steps = 0 if bptt is None else as_count(bptt, "bptt")
        if not isinstance(training, (bool, np.bool_)):
            raise TypeError(f"training: expected a bool, got {type(training).__name__}")
        if (mask is not None or offsets is not None or pad is not ZERO or return_cells is not False
                or not self.is_plain or is_ragged(x)):
            self.ready()
            return self._forward_in_full(x, state, lengths=lengths, mask=mask, reset=reset, offsets=offsets, pad=pad,
                                         return_cells=return_cells, training=training, save=save_steps,
                                         bptt=bptt_steps)
        tape = Tape.__new__(Tape)
        tape._bptt = bptt_steps
        self.record_plain(tape, x, state, lengths, reset, training, save_steps)
        return tape

    cdef int record_plain(self, Tape tape, x, state, lengths, reset, bint training, size_t save) except -1:
        cdef Weights weights = self.ready()
        cdef input_view view
        cdef fl_record_args args
        cdef fl_status status
        cdef npy_intp[3] y_dims
        cdef npy_intp[3] state_dims
        cdef ndarray y, h_n, c_n = None
        cdef Record record
        cdef int batched, axis_t
        memset(&args, 0, sizeof(args))
        tape._layer = self
        tape._weights = weights
        args.save = save
        tape._x = read_input(x, weights, True, self.batch_first, &view)
        batched = view.batched
        if view.is_index:
            args.call.x_index = <const int64_t *>view.data
        else:
            tape._x = own_copy(tape._x)
            read_input(tape._x, weights, True, self.batch_first, &view)
            args.call.x = view.data
            tape._dx_shape = np.shape(tape._x)
        tape._batched = batched
        args.call.T = view.T
        args.call.B = view.B
        args.call.x_stride_t = view.stride_t
        args.call.x_stride_b = view.stride_b
        args.call.num_threads = self._num_threads

        state_dims[0] = <npy_intp>(weights.shape.num_layers * weights.shape.num_directions)
        state_dims[1] = <npy_intp>view.B
        state_dims[1 + batched] = <npy_intp>weights.width
        if state is not None:
            tape._h_0, tape._c_0 = read_states(state, STATE_NAMES, weights, 2 + batched, state_dims)
            tape._h_0 = own_copy(tape._h_0)
            args.call.h0 = PyArray_DATA(tape._h_0)
            if tape._c_0 is not None:
                tape._c_0 = own_copy(tape._c_0)
                args.call.c0 = PyArray_DATA(tape._c_0)
        if lengths is not None:
            tape._lengths = read_lengths(lengths, &view)
            args.call.lengths = <const int64_t *>PyArray_DATA(tape._lengths)
        if reset is not None:
            tape._reset = read_flags(reset, "reset", view.T, view.B, batched, self.batch_first)
            args.reset = <const uint8_t *>PyArray_DATA(tape._reset)

        axis_t = batched and self.batch_first
        y_dims[1 - axis_t] = <npy_intp>view.B
        y_dims[axis_t] = <npy_intp>view.T
        y_dims[1 + batched] = <npy_intp>(weights.shape.num_directions * weights.width)
        y = <ndarray>PyArray_EMPTY(2 + batched, y_dims, weights.typenum, 0)
        args.call.y = PyArray_DATA(y)
        args.call.y_stride_t = PyArray_STRIDES(y)[axis_t] // PyArray_ITEMSIZE(y)
        args.call.y_stride_b = PyArray_STRIDES(y)[1 - axis_t] // PyArray_ITEMSIZE(y)
        h_n = <ndarray>PyArray_EMPTY(2 + batched, state_dims, weights.typenum, 0)
        args.call.h_n = PyArray_DATA(h_n)
        if weights.states != 0:
            state_dims[1 + batched] = <npy_intp>(weights.states * weights.shape.hidden_size)
            c_n = <ndarray>PyArray_EMPTY(2 + batched, state_dims, weights.typenum, 0)
            args.call.c_n = PyArray_DATA(c_n)
        if training and (weights.draws or self.dropout > 0 and weights.shape.num_layers > 1):
            args.dropout = self.dropout
            args.draws = weights.draws
            args.seed = self.rng.integers(2**63)

        record = self.take_record()
        status = record.run(weights, &args)
        if status != FL_OK:
            if status == FL_ERROR_INDEX:
                raise wrong_index(x, weights, tape._lengths, self.batch_first)
            if status == FL_ERROR_LENGTH:
                raise wrong_length(lengths, &view)
            check(status)
        tape._record = record
        tape.nbytes = record.nbytes
        y.setflags(write=False)
        tape.y = y
        tape._h_n, tape._c_n = h_n, c_n
        tape.state = final_states(weights, h_n, c_n)
        return 0


cdef class Cell(Layer):
    """The call of `fastlstm.LSTMCell` and of other cells with at most one state beside h."""

    @property
    def weights(self):
        """The packed weights in use."""
        return self.ready()

    @weights.setter
    def weights(self, Weights weights not None):
        if (weights.shape.num_layers * weights.shape.num_directions != 1 or weights.states > 1
                or weights.width != weights.shape.hidden_size):
            raise ValueError("weights: expected those of one layer and direction, got others")
        self._weights = weights

    def __call__(self, x, state=None, out=None):
        cdef Weights weights = self.ready()
        cdef bint has_c = weights.states != 0
        cdef input_view view
        cdef fl_forward_args args
        cdef fl_status status
        cdef npy_intp[2] dims
        cdef object h_given = None, c_given = None
        cdef ndarray x_read, h_0, c_0, h_n, c_n = None
        cdef double[256] small
        cdef void *y = small
        cdef int batched
        memset(&args, 0, sizeof(args))

        x_read = read_input(x, weights, False, False, &view)
        batched = view.batched
        if view.is_index:
            args.x_index = <const int64_t *>view.data
        else:
            args.x = view.data
        args.T = 1
        args.B = view.B
        args.x_stride_b = view.stride_b
        args.num_threads = self._num_threads

        dims[0] = <npy_intp>view.B
        dims[batched] = <npy_intp>weights.shape.hidden_size
        if state is not None and has_c:
            h_given, c_given = read_pair(state, "state")
            h_0 = read_operand(h_given, "state[0]", weights.typenum, 1 + batched, dims)
            c_0 = read_operand(c_given, "state[1]", weights.typenum, 1 + batched, dims)
            args.h0 = PyArray_DATA(h_0)
            args.c0 = PyArray_DATA(c_0)
        elif state is not None:
            h_given = state
            h_0 = read_operand(state, "state", weights.typenum, 1 + batched, dims)
            args.h0 = PyArray_DATA(h_0)
        if out is None:
            h_n = <ndarray>PyArray_EMPTY(1 + batched, dims, weights.typenum, 0)
            if has_c:
                c_n = <ndarray>PyArray_EMPTY(1 + batched, dims, weights.typenum, 0)
        elif has_c:
            h_out, c_out = read_pair(out, "out")
            check_out(h_out, "out[0]", weights.typenum, 1 + batched, dims)
            check_out(c_out, "out[1]", weights.typenum, 1 + batched, dims)
            check_apart_from_inputs(h_out, "out[0]", x, x_read, h_given, c_given)
            check_apart_from_inputs(c_out, "out[1]", x, x_read, h_given, c_given)
            check_apart(c_out, "out[1]", h_out, "out[0]")
            h_n, c_n = <ndarray>h_out, <ndarray>c_out
        else:
            check_out(out, "out", weights.typenum, 1 + batched, dims)
            check_apart_from_inputs(out, "out", x, x_read, None, None)
            check_apart(out, "out", state, "state")
            h_n = <ndarray>out
        args.h_n = PyArray_DATA(h_n)
        if has_c:
            args.c_n = PyArray_DATA(c_n)
        # The C core writes the output of the step and the state after it; here they are the same.
        cdef size_t y_bytes = <size_t>PyArray_SIZE(h_n) * <size_t>PyArray_ITEMSIZE(h_n)
        if y_bytes > sizeof(small):
            y = PyMem_Malloc(y_bytes)
            if y == NULL:
                raise MemoryError
        args.y = y
        args.y_stride_b = <ptrdiff_t>weights.shape.hidden_size
        status = run_forward(weights.stack, &args, <double>view.B * weights.step_work > TINY_WORK)
        if y != <void *>small:
            PyMem_Free(y)
        if status != FL_OK:
            if status == FL_ERROR_INDEX:
                raise wrong_index(x, weights, None, False)
            check(status)
        return (h_n, c_n) if has_c else h_n
