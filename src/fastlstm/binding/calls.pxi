# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: the calls of the layers.


cdef class Layer:
    """What layers and cells share.

    Weights are replaced as a whole, so that a call in another thread keeps those it began with.
    """

    cdef Weights _weights     # of the first part
    cdef tuple _parts
    cdef size_t _num_threads  # 0: the limit of the process or thread

    @property
    def _packed(self):
        """The packed weights in use: of the stack, or of each of its layers."""
        return self._parts

    @_packed.setter
    def _packed(self, tuple parts not None):
        for part in parts:
            if not isinstance(part, Weights):
                raise TypeError(f"_packed: expected Weights, got {type(part).__name__}")
        self._parts, self._weights = parts, <Weights?>parts[0]

    @property
    def num_threads(self):
        """Most threads for a call of this layer; None is the limit of the calling thread or the process."""
        return self._num_threads or None

    @num_threads.setter
    def num_threads(self, value):
        self._num_threads = 0 if value is None else as_count(value, "num_threads")

    def __getattribute__(self, name):
        # The slot of a call has no signature to tell, and a method in its place would make small calls slower by a
        # fifth: who asks for the attribute gets a method, who calls the layer the slot.
        if name == "__call__":
            return PyObject_GenericGetAttr(self, "_call")
        if name == "__signature__":
            return inspect.signature(PyObject_GenericGetAttr(self, "_call"))
        return PyObject_GenericGetAttr(self, name)

    @property
    def dtype(self):
        return self.ready().dtype

    def release(self):
        """Give back the memory that calls, tapes and gradients have left for the next ones.

        Parameters and `flat_grads` stay, and so does what tapes that have not been used and calls that run hold.  The
        next call takes memory anew.
        """
        cdef Weights part
        self.ready()
        for part in self._parts:
            part.release()

    cdef inline Weights ready(self):
        if self._weights is None:
            raise RuntimeError(f"{type(self).__name__}: __init__ has not been called")
        return self._weights


# Compared by identity first: the default, and what a caller writes as a literal.
cdef str ZERO = "zero"


# ---- A call of one stack on one array ------------------------------------------------------------------------

cdef struct direct_call:
    input_view x
    fl_record_args args  # of a pass that is not recorded, `call` alone
    bint has_run         # y is there already, and is read


cdef tuple fill_direct(Recurrent layer, Weights weights, x, state, lengths, out, bint is_kept, direct_call *call):
    """Point the C core at what a caller gives, and at memory for the results.

    Returns ``(x, h_0, c_0, lengths, y, h_n, c_n)`` as the C core has them; where they are kept, nobody else can change
    what it reads.
    """
    cdef fl_forward_args *args = &call.args.call
    cdef input_view *view = &call.x
    cdef bint batch_first = layer._batch_first
    cdef npy_intp[3] y_dims
    cdef npy_intp[3] state_dims
    cdef ndarray x_read, h_0 = None, c_0 = None, lengths_read = None, y, h_n, c_n = None
    cdef int batched, axis_t
    memset(&call.args, 0, sizeof(call.args))
    x_read = read_input(x, weights, True, batch_first, view)
    if is_kept and not view.is_index:  # indices are a copy already
        x_read = own_copy(x_read)
        read_input(x_read, weights, True, batch_first, view)
    batched = view.batched
    put_input(args, view)
    args.num_threads = layer._num_threads

    state_dims[0] = <npy_intp>weights.rows()
    state_dims[1] = <npy_intp>view.B
    state_dims[1 + batched] = <npy_intp>weights.width
    if state is not None:
        h_0, c_0 = read_state(read_members(state, "state", weights), STATE_NAMES, weights, 2 + batched, state_dims,
                              False)
        if is_kept:
            h_0, c_0 = own_copy(h_0), None if c_0 is None else own_copy(c_0)
        args.h0 = PyArray_DATA(h_0)
        if c_0 is not None:
            args.c0 = PyArray_DATA(c_0)
    if lengths is not None:
        lengths_read = read_lengths(lengths, view.T, view.B, batched)
        args.lengths = <const int64_t *>PyArray_DATA(lengths_read)

    axis_t = batched and batch_first
    y_dims[1 - axis_t] = <npy_intp>view.B
    y_dims[axis_t] = <npy_intp>view.T
    y_dims[1 + batched] = <npy_intp>(weights.shape.num_directions * weights.width)
    if out is None:
        y = <ndarray>PyArray_EMPTY(2 + batched, y_dims, weights.typenum, 0)
    elif call.has_run:
        y = read_operand(out, "y", weights.typenum, 2 + batched, y_dims)
    else:
        check_out(out, "out", weights.typenum, 2 + batched, y_dims)
        check_apart_from_read(out, "out", x, x_read, "x")
        check_apart_from(out, "out", state, "state")
        check_apart(out, "out", h_0, "state")
        check_apart(out, "out", c_0, "state")
        check_apart_from(out, "out", lengths, "lengths")
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
    return x_read, h_0, c_0, lengths_read, y, h_n, c_n


cdef int check_direct(fl_status status, Recurrent layer, Weights weights, x, lengths, tuple arrays,
                      direct_call *call) except -1:
    """Raise what a status of such a call means."""
    if status == FL_ERROR_INDEX:
        raise wrong_index(x, weights, arrays[3], layer._batch_first)
    if status == FL_ERROR_LENGTH:
        raise wrong_length(lengths, call.x.T)
    return check(status)


cdef class Recurrent(Layer):
    """The calls of layers over sequences.

    One stack on one array is the direct case, which is all here.  Where rows do not lie as in an array with T and B, or
    stacks are several, `_run_rows` and `_record_rows` of layers/base.py find them and call the C core for each stack.
    """

    cdef bint _batch_first
    cdef double _dropout
    cdef bint _is_tied              # one mask for all steps
    cdef bint _is_direct            # one part, forward or bidirectional
    cdef Record _spare              # the first of those whose tapes have been used
    cdef size_t _spare_count
    cdef ndarray _gradient_scratch  # of a backward pass that is done
    cdef object _adding             # a lock, held while gradients are added to those of the layer

    def __cinit__(self, *arguments, **keywords):
        self._adding = new_lock()

    def release(self):
        """Give back the memory that calls, tapes and gradients have left for the next ones.

        Parameters and `flat_grads` stay, and so does what tapes that have not been used and calls that run hold.  The
        next call takes memory anew.
        """
        Layer.release(self)
        while self._spare is not None:
            take_record(self)
        self._gradient_scratch = None

    @property
    def _direct(self):
        """What the weights do not say: whether the batch is first, dropout, one mask for all steps, direct calls."""
        return self._batch_first, self._dropout, self._is_tied, self._is_direct

    @_direct.setter
    def _direct(self, tuple values not None):
        self._batch_first, self._dropout, self._is_tied, self._is_direct = values

    def __call__(self, x, state=None, *, lengths=None, mask=None, reset=None, offsets=None, pad="zero",
                 return_cells=False, out=None):
        if (self._is_direct and mask is None and reset is None and offsets is None and return_cells is False
                and pad is ZERO):
            if PyArray_CheckExact(x):
                return self.call_direct(x, state, lengths, out)
            rows = sequences_of(x, "x")
            if rows is None:
                return self.call_direct(x, state, lengths, out)
        self.ready()
        given = {"x": x, "lengths": lengths, "mask": mask, "reset": reset, "offsets": offsets}
        return self._run_rows(given, state, pad, return_cells, out)

    def _call(self, x, state=None, *, lengths=None, mask=None, reset=None, offsets=None, pad="zero",
              return_cells=False, out=None):
        """Run the layer over whole sequences; the class says what arguments and results are."""
        return self(x, state, lengths=lengths, mask=mask, reset=reset, offsets=offsets, pad=pad,
                    return_cells=return_cells, out=out)

    cdef tuple call_direct(self, x, state, lengths, out):
        cdef Weights weights = self.ready()
        cdef direct_call call
        call.has_run = False
        cdef tuple arrays = fill_direct(self, weights, x, state, lengths, out, False, &call)
        cdef fl_status status = run_forward(weights.packed_stack(), &call.args.call,
                                            weights.work(call.x.T, call.x.B) > TINY_WORK)
        if status != FL_OK:
            check_direct(status, self, weights, x, lengths, arrays, &call)
        return arrays[4], final_state(weights, arrays[5], arrays[6])

    def forward(self, x, state=None, *, lengths=None, mask=None, reset=None, offsets=None, pad="zero",
                return_cells=False, training=True, save="all", bptt=None, reserve=None, out=None, copy=True, seed=None):
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
            What is kept: gates and states (of an LSTM without options 20 H bytes a time step, row, layer and direction,
            in float32); states (at most 8 H), from which the gates are computed again; or the states before
            every k-th step (about 8 H / k), from which the rest is.  Gradients have the same bits.
        bptt : int, optional
            k: the gradient of the state does not pass between steps n*k - 1 and n*k, n = 1, 2, ...
        reserve : writeable buffer, optional
            Memory for what is kept, aligned to 8 bytes, of `reserve_size` bytes at least: it is the caller's, who may
            move what is in it, and find the pass again with `tape`.
        out : ndarray, shaped as `y`, optional
            Receives y, as in a call.  It must stay as it is until the last backward pass is done.
        copy : bool
            Whether arguments are copied and `y` is read-only; else both are the caller's, and must stay as they are
            until the last backward pass is done.
        seed : int, optional
            From 0 to 2**63 - 1: what masks are drawn from, instead of a draw of `rng`.

        `reserve` and `out` are for one array x without `mask`, `offsets`, `pad` and `return_cells`, and a layer that
        runs forward or in both directions without merged directions, sums or sizes of its own for each layer.

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
        return self.record(x, state, (lengths, mask, reset, offsets), (pad, return_cells), (training, save, bptt),
                           (reserve, out, copy, seed), False)

    def tape(self, x, state=None, *, y, reserve, lengths=None, reset=None, training=True, save="all", bptt=None,
             seed=None):
        """Find a pass again that `forward` has run with a `reserve`, in this process or on the same kind of machine.

        Parameters
        ----------
        x, state, lengths, reset, training, save, bptt, seed
            As they were; arrays may have moved, and stay as they are until the last backward pass is done.  A pass that
            drew masks must have been given its seed.
        y : ndarray
            The output of that pass.
        reserve : buffer
            What it has left, with the parameters that are in force now.  Another content gives other gradients.

        Returns
        -------
        Tape
            Without final states.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the message names it, what was expected and what came.
        """
        return self.record(x, state, (lengths, None, reset, None), (ZERO, False), (training, save, bptt),
                           (reserve, y, False, seed), True)

    def reserve_size(self, size_t T, size_t B=1, *, lengths=None, save="all"):
        """Bytes that ``forward(x, reserve=...)`` needs for x of so many steps and rows.

        Parameters
        ----------
        T, B : int
            Steps and rows.
        lengths : array_like of int, (B,), optional
            As of `forward`.
        save : "all", "states" or int
            As of `forward`.

        Returns
        -------
        int

        Raises
        ------
        TypeError, ValueError, OverflowError
            An argument does not fit.
        """
        cdef fl_record_args args
        cdef ndarray lengths_read = None
        cdef size_t bytes = 0
        cdef Weights weights = self.ready()
        if len(self._parts) != 1:
            raise ValueError("reserve: expected a layer that is one stack, got one of several parts")
        memset(&args, 0, sizeof(args))
        args.call.T, args.call.B = T, B
        args.save = read_save(save)
        if lengths is not None:
            lengths_read = read_lengths(lengths, T, B, True)
            args.call.lengths = <const int64_t *>PyArray_DATA(lengths_read)
        status = fl_reserve_size(weights.packed_stack(), &args, &bytes)
        if status == FL_ERROR_LENGTH:
            raise wrong_length(lengths, T)
        check(status)
        return bytes

    cdef Tape record(self, x, state, tuple rows_given, tuple results_given, tuple training_given, tuple memory_given,
                     bint has_run):
        """`forward`; or `tape`, of a pass that has run."""
        cdef Tape tape
        cdef bint is_direct
        lengths, mask, reset, offsets = rows_given
        pad, return_cells = results_given
        training, save, bptt = training_given
        reserve, out, copy, seed = memory_given
        cdef size_t save_steps = read_save(save), bptt_steps = 0 if bptt is None else as_count(bptt, "bptt")
        if not isinstance(training, (bool, np.bool_)):
            raise TypeError(f"training: expected a bool, got {type(training).__name__}")
        if not isinstance(copy, (bool, np.bool_)):
            raise TypeError(f"copy: expected a bool, got {type(copy).__name__}")
        if seed is not None:
            seed = read_seed(seed)
        self.ready()
        tape = Tape.__new__(Tape)
        tape._layer, tape._parts, tape._bptt = self, self._parts, bptt_steps
        is_direct = (self._is_direct and mask is None and offsets is None and return_cells is False and pad is ZERO
                     and read_sequences(x, "x") is None)
        if is_direct:
            self.record_direct(tape, x, state, lengths, reset, training, save_steps, memory_given, has_run)
            return tape
        for name, value in (("reserve", reserve), ("out", out)):
            if value is not None:
                raise ValueError(f"{name}: expected None but of one array and one stack, got a value")
        given = {"x": x, "lengths": lengths, "mask": mask, "reset": reset, "offsets": offsets}
        rows = self._record_rows(given, state, pad, return_cells, training, save_steps, seed)
        tape._rows = rows
        tape.y, tape.state, tape.cells, tape.nbytes = rows.y, rows.state, rows.cells, rows.nbytes
        return tape

    cdef int record_direct(self, Tape tape, x, state, lengths, reset, bint training, size_t save, tuple memory,
                           bint has_run) except -1:
        cdef Weights weights = <Weights>tape._parts[0]
        cdef direct_call call
        reserve, out, copy, seed = memory
        call.has_run = has_run
        cdef tuple arrays = fill_direct(self, weights, x, state, lengths, out, copy, &call)
        cdef fl_status status
        cdef ndarray y = <ndarray>arrays[4], flags = None
        cdef Record record
        tape._h_n, tape._c_n = <ndarray>arrays[5], <ndarray>arrays[6]
        tape._batched = call.x.batched
        if not call.x.is_index:
            tape._dx_shape = np.shape(arrays[0])
        if reset is not None:
            flags = read_flags(reset, "reset", call.x.T, call.x.B, call.x.batched, self._batch_first)
            call.args.reset = <const uint8_t *>PyArray_DATA(flags)
        call.args.save = save
        if training and (weights.draws or self._dropout > 0 and weights.shape.num_layers > 1):
            call.args.dropout = self._dropout
            call.args.dropout_tied = self._is_tied
            call.args.draws = weights.draws
            if seed is None and has_run:
                raise ValueError("seed: expected that of the pass, which drew masks, got None")
            call.args.seed = self.rng.integers(2**63) if seed is None else seed

        record = take_record(self) if reserve is None else Record()
        record.pins = arrays, flags
        if reserve is None:
            status = record.run(weights, &call.args)
        else:
            status = record.run_in(weights, &call.args, read_reserve(reserve, not has_run), has_run)
        if status != FL_OK:
            check_direct(status, self, weights, x, lengths, arrays, &call)
        tape._record = record
        tape.nbytes = record.nbytes
        tape.y = frozen(y) if out is None and copy else y
        tape.state = None if has_run else final_state(weights, arrays[5], arrays[6])
        return 0


# ---- Memory of training that serves again ----------------------------------------------------------------------

@cython.nonecheck(True)
cpdef ndarray gradient_scratch(Recurrent layer):
    """A flat buffer like the parameters', for `add_gradients`."""
    cdef ndarray scratch = layer._gradient_scratch, flat = layer.ready().flat
    layer._gradient_scratch = None  # another thread makes its own
    if scratch is None or PyArray_SIZE(scratch) != PyArray_SIZE(flat) or PyArray_TYPE(scratch) != PyArray_TYPE(flat):
        scratch = buffer(PyArray_SIZE(flat), PyArray_TYPE(flat), False)
    return scratch


cdef Record take_record(Recurrent layer):
    cdef Record record = layer._spare
    if record is None:
        return Record()
    layer._spare, record.next_spare = record.next_spare, None
    layer._spare_count -= 1
    return record


@cython.nonecheck(True)
cpdef int give_back(Recurrent layer, Record record) except -1:
    """Keep the memory of a record that is no longer needed."""
    record.forget()
    if layer._spare_count < <size_t>len(layer._parts):
        record.next_spare, layer._spare = layer._spare, record
        layer._spare_count += 1
    return 0


# ---- One step ------------------------------------------------------------------------------------------------

cdef class Step(Layer):
    """The call of `fastlstm.LSTMCell` and its relatives: one step of one layer with at most one state beside h."""

    @property
    def _packed(self):
        """The packed weights in use."""
        return self._parts

    @_packed.setter
    def _packed(self, tuple parts not None):
        cdef Weights weights = <Weights?>parts[0]
        if len(parts) != 1 or weights.rows() != 1 or weights.states > 1 or weights.width != weights.shape.hidden_size:
            raise ValueError("_packed: expected those of one layer and direction, got others")
        self._parts, self._weights = parts, weights

    def __call__(self, x, state=None, out=None):
        cdef Weights weights = self.ready()
        cdef bint has_c = weights.states != 0
        cdef input_view view
        cdef fl_forward_args args
        cdef fl_status status
        cdef npy_intp[2] dims
        cdef ndarray x_read, h_0 = None, c_0 = None, h_n, c_n = None
        cdef double[256] small
        cdef void *y = small
        cdef int nd
        memset(&args, 0, sizeof(args))
        x_read = read_input(x, weights, False, False, &view)
        put_input(&args, &view)
        args.num_threads = self._num_threads
        nd = 1 + view.batched
        dims[0] = <npy_intp>view.B
        dims[nd - 1] = <npy_intp>weights.shape.hidden_size
        if state is not None:
            h_0, c_0 = read_state(read_members(state, "state", weights), STATE_NAMES, weights, nd, dims, False)
            args.h0 = PyArray_DATA(h_0)
            if has_c:
                args.c0 = PyArray_DATA(c_0)
        if out is None:
            h_n = <ndarray>PyArray_EMPTY(nd, dims, weights.typenum, 0)
            if has_c:
                c_n = <ndarray>PyArray_EMPTY(nd, dims, weights.typenum, 0)
        else:
            h_out, c_out = read_pair(out, "out") if has_c else (out, None)
            check_out(h_out, "out[0]" if has_c else "out", weights.typenum, nd, dims)
            name = "out[0]" if has_c else "out"
            check_apart_from_read(h_out, name, x, x_read, "x")
            check_apart_from(h_out, name, state, "state")
            check_apart(h_out, name, h_0, "state")
            check_apart(h_out, name, c_0, "state")
            if has_c:
                check_out(c_out, "out[1]", weights.typenum, nd, dims)
                check_apart_from_read(c_out, "out[1]", x, x_read, "x")
                check_apart_from(c_out, "out[1]", state, "state")
                check_apart(c_out, "out[1]", h_0, "state")
                check_apart(c_out, "out[1]", c_0, "state")
                check_apart(c_out, "out[1]", <ndarray>h_out, "out[0]")
                c_n = <ndarray>c_out
            h_n = <ndarray>h_out
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
        status = run_forward(weights.packed_stack(), &args, weights.work(1, view.B) > TINY_WORK)
        if y != <void *>small:
            PyMem_Free(y)
        if status != FL_OK:
            if status == FL_ERROR_INDEX:
                raise wrong_index(x, weights, None, False)
            check(status)
        return (h_n, c_n) if has_c else h_n

    def _call(self, x, state=None, out=None):
        """One step; the class says what arguments and results are."""
        return self(x, state, out)
