# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: passes of the C core over rows that lie anywhere.
#
# passes/batch.py and passes/parts.py say where; they have checked what a caller gave, and what is checked here is
# that no pointer can leave its array.


@cython.final
@cython.internal
cdef class Reserve:
    """Holds the memory of a reserve."""

    cdef ndarray array


# ---- Calls ---------------------------------------------------------------------------------------------------

cdef fl_status run_record(const fl_stack *stack, fl_record_args *args, fl_tape *tape, void *reserve,
                          size_t bytes) noexcept:
    """A recorded pass without the GIL, in memory of the tape, or where that is null in a reserve.

    FL_ERROR_INTERRUPTED comes with a Python exception set, here and below.
    """
    cdef PyThreadState *thread
    cdef fl_status status
    args.call.interrupt = check_signals
    args.call.interrupt_context = &thread
    thread = PyEval_SaveThread()
    if tape != NULL:
        status = fl_stack_record(stack, args, tape)
    else:
        status = fl_forward(stack, args, reserve, bytes)
    PyEval_RestoreThread(thread)
    return status


cdef fl_status run_backward(const fl_stack *stack, fl_tape *tape, fl_backward_args *args) noexcept:
    """fl_stack_backward without the GIL."""
    cdef PyThreadState *thread
    cdef fl_status status
    args.interrupt = check_signals
    args.interrupt_context = &thread
    thread = PyEval_SaveThread()
    status = fl_stack_backward(stack, tape, args)
    PyEval_RestoreThread(thread)
    return status


cdef fl_status run_backward_apart(const fl_stack *stack, const fl_record_args *recorded, const void *reserve,
                                  size_t bytes, fl_backward_args *args) noexcept:
    """fl_backward without the GIL."""
    cdef PyThreadState *thread
    cdef fl_status status
    args.interrupt = check_signals
    args.interrupt_context = &thread
    thread = PyEval_SaveThread()
    status = fl_backward(stack, recorded, reserve, bytes, args)
    PyEval_RestoreThread(thread)
    return status


cdef Reserve read_reserve(object reserve, bint writes):
    """The bytes of a caller, which stay where they are as long as the result lives."""
    cdef Reserve result = Reserve.__new__(Reserve)
    try:
        result.array = np.frombuffer(reserve, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise type(error)(f"reserve: expected a contiguous buffer, got {type(reserve).__name__}: {error}") from None
    if writes and not PyArray_ISWRITEABLE(result.array):
        raise ValueError("reserve: expected a writeable buffer, got a read-only one")
    if <uintptr_t>PyArray_DATA(result.array) % 8 != 0:
        raise ValueError("reserve: expected a buffer aligned to 8 bytes, got a misaligned one")
    return result


# ---- Where rows lie ------------------------------------------------------------------------------------------

@cython.final
cdef class Input:
    """Where x lies: B rows of at most T steps, each from its first step in the order of processing.

    Made by `strided_input`, `packed_input` and `listed_input`.
    """

    cdef readonly size_t T, B
    cdef readonly object lengths  # int64 (B,), or None for T everywhere
    cdef readonly bint is_index
    cdef object pin               # keeps the memory
    cdef const void *data
    cdef ptrdiff_t stride_t, stride_b  # in elements
    cdef ndarray at               # first steps of the rows, in units of stride_b; or None

    cdef void fill(self, fl_forward_args *args) noexcept:
        args.T = self.T
        args.B = self.B
        if self.is_index:
            args.x_index = <const int64_t *>self.data
        else:
            args.x = self.data
        args.x_stride_t = self.stride_t
        args.x_stride_b = self.stride_b
        if self.at is not None:
            args.x_at = <const ptrdiff_t *>PyArray_DATA(self.at)
        if self.lengths is not None:
            args.lengths = <const int64_t *>PyArray_DATA(<ndarray>self.lengths)


cdef size_t length_of(object lengths, size_t T, size_t b) noexcept:
    return <size_t>(<int64_t *>PyArray_DATA(<ndarray>lengths))[b] if lengths is not None else T


cdef Input new_input(Weights weights, ndarray x, int ndim, size_t T, size_t B, lengths):
    """Checks of the last dimension, and of `lengths`, which say how far rows reach."""
    cdef Input result = Input.__new__(Input)
    cdef npy_intp[1] dims
    cdef size_t b
    result.is_index = PyArray_TYPE(x) == NPY_INT64
    if not (is_plain(x, NPY_INT64 if result.is_index else weights.typenum) and (result.is_index or has_row_strides(x))
            and PyArray_NDIM(x) == ndim + (not result.is_index)
            and (result.is_index or <size_t>PyArray_DIMS(x)[ndim] == weights.shape.input_size)):
        raise ValueError(f"x: expected {ndim} dimensions and I = {weights.shape.input_size}, got {np.shape(x)}")
    if lengths is not None:
        dims[0] = <npy_intp>B
        lengths = read_operand(lengths, "lengths", NPY_INT64, 1, dims)
        for b in range(B):
            if not 0 <= (<int64_t *>PyArray_DATA(<ndarray>lengths))[b] <= <int64_t>T:
                raise ValueError(f"lengths[{b}]: expected an integer from 0 to T = {T}, got {lengths[b]}")
    result.T, result.B = T, B
    result.lengths = lengths
    result.pin = x
    result.data = PyArray_DATA(x)
    return result


cdef ndarray places(size_t B):
    cdef npy_intp[1] dims
    dims[0] = <npy_intp>B
    return <ndarray>PyArray_EMPTY(1, dims, NPY_INTP, 0)


def strided_input(Weights weights not None, ndarray x not None, lengths, bint reverse):
    """Input (T, B, I), or indices (T, B) in int64; if `reverse`, rows run from their last step to their first."""
    cdef Input result
    cdef npy_intp itemsize = PyArray_ITEMSIZE(x)
    cdef size_t b, length
    if PyArray_NDIM(x) < 2:
        raise ValueError(f"x: expected (T, B, I) or (T, B), got {np.shape(x)}")
    result = new_input(weights, x, 2, <size_t>PyArray_DIMS(x)[0], <size_t>PyArray_DIMS(x)[1], lengths)
    result.stride_t = PyArray_STRIDES(x)[0] // itemsize
    result.stride_b = PyArray_STRIDES(x)[1] // itemsize
    if reverse:
        result.at = places(result.B)
        for b in range(result.B):
            length = length_of(result.lengths, result.T, b)
            (<ptrdiff_t *>PyArray_DATA(result.at))[b] = (<ptrdiff_t>b * result.stride_b + (
                <ptrdiff_t>(length - 1) * result.stride_t if length != 0 else 0))
        result.stride_b = 1  # any distance can be said in elements
        result.stride_t = -result.stride_t
    return result


def packed_input(Weights weights not None, ndarray x not None, size_t T, Frame frame not None,
                 ndarray lengths not None):
    """Input (N, I), or indices (N,) in int64, whose rows lie as `frame` says."""
    cdef Input result = new_input(weights, x, 1, T, <size_t>PyArray_SIZE(lengths), lengths)
    cdef ptrdiff_t stride = PyArray_STRIDES(x)[0] // PyArray_ITEMSIZE(x)
    if <size_t>PyArray_DIMS(x)[0] != frame.rows:
        raise ValueError(f"x: expected {frame.rows} rows, got {np.shape(x)}")
    frame.check(result)
    result.at = frame.at
    result.stride_b = stride * (1 if frame.at is not None else frame.step_b)
    result.stride_t = stride * frame.step_t
    return result


def listed_input(Weights weights not None, list arrays not None, size_t T, ndarray lengths not None, bint reverse):
    """Input as one C-contiguous array (T_b, I) for each row, as `read_rows` gives them."""
    cdef Input result
    cdef ndarray array
    cdef size_t b, B = <size_t>len(arrays), length
    cdef npy_intp itemsize = 4 if weights.typenum == NPY_FLOAT32 else 8
    cdef ptrdiff_t width = <ptrdiff_t>weights.shape.input_size
    cdef ptrdiff_t *at
    cdef const char *base = NULL
    if B == 0:
        raise ValueError("x: expected at least one array, got none")
    result = new_input(weights, <ndarray?>arrays[0], 1, T, B, lengths)
    result.pin = arrays
    result.at = places(B)
    at = <ptrdiff_t *>PyArray_DATA(result.at)
    for b in range(B):
        array = <ndarray?>arrays[b]
        length = length_of(result.lengths, T, b)
        if not (is_row(array, weights) and <size_t>PyArray_DIMS(array)[0] == length):
            raise ValueError(f"x[{b}]: expected a contiguous array of {length} steps, got {np.shape(array)}")
        if length == 0:
            at[b] = 0
            continue
        if base == NULL:  # an array without elements may stand anywhere, aligned or not
            result.data = PyArray_DATA(array)
            base = <const char *>result.data
        at[b] = (<const char *>PyArray_DATA(array) - base) // itemsize
        if reverse:
            at[b] += <ptrdiff_t>(length - 1) * width
    result.stride_b = 1
    result.stride_t = -width if reverse else width
    return result


cdef inline bint is_row(object array, Weights weights) noexcept:
    """Whether this is a sequence (T, I) as the C core reads it."""
    return (is_plain(array, weights.typenum) and PyArray_NDIM(<ndarray>array) == 2
            and <size_t>PyArray_DIMS(<ndarray>array)[1] == weights.shape.input_size
            and PyArray_IS_C_CONTIGUOUS(<ndarray>array))


def read_rows(Weights weights not None, list rows not None):
    """Sequences of a batch: ``(arrays, bounds)``, each array C-contiguous (T_b, I), or (T_b,) of indices in int64.

    ``bounds[b]`` are all steps before those of row b.
    """
    cdef input_view view
    cdef npy_intp[1] dims
    cdef size_t b, B = <size_t>len(rows)
    cdef ndarray bounds, array
    cdef list arrays = []
    cdef int64_t *bound
    dims[0] = <npy_intp>B + 1
    bounds = <ndarray>PyArray_EMPTY(1, dims, NPY_INT64, 0)
    bound = <int64_t *>PyArray_DATA(bounds)
    bound[0] = 0
    for b in range(B):
        row = rows[b]
        if not is_row(row, weights):
            try:
                row = read_input(row, weights, True, False, &view)
                if view.batched:
                    raise ValueError(f"x: expected shape (T, {weights.shape.input_size}), or (T,) of integers, "
                                     f"got {np.shape(row)}")
            except (TypeError, ValueError) as error:
                text = str(error).removeprefix("x")
                raise type(error)(f"x[{b}]{text}") from None
            row = np.ascontiguousarray(row)
        array = <ndarray>row
        if b != 0 and PyArray_NDIM(array) != PyArray_NDIM(<ndarray>arrays[0]):
            raise TypeError(f"x[{b}]: expected an array like x[0], of {arrays[0].dtype}, got {array.dtype}")
        arrays.append(array)
        bound[b + 1] = bound[b] + PyArray_DIMS(array)[0]
    return arrays, bounds


@cython.final
cdef class Frame:
    """Where rows of features stand in a contiguous array of `rows` of them: step s of row b is at
    ``at[b] + s * step_t``, or without `at` at ``b * step_b + s * step_t``."""

    cdef readonly size_t rows
    cdef readonly ptrdiff_t step_t, step_b
    cdef readonly ndarray at

    def __cinit__(self, size_t rows, ptrdiff_t step_t, ptrdiff_t step_b=0, ndarray at=None):
        self.rows, self.step_t, self.step_b = rows, step_t, step_b
        if at is not None and not (is_plain(at, NPY_INTP) and PyArray_NDIM(at) == 1
                                   and PyArray_IS_C_CONTIGUOUS(at)):
            raise ValueError(f"at: expected (B,) of intp, got {np.shape(at)} of {at.dtype}")
        self.at = at

    cdef int check(self, Input x) except -1:
        """Whether all steps of all rows have a place."""
        cdef size_t b, steps
        cdef ptrdiff_t first, last
        if self.at is not None and <size_t>PyArray_SIZE(self.at) != x.B:
            raise ValueError(f"at: expected {x.B} rows, got {PyArray_SIZE(self.at)}")
        for b in range(x.B):
            # Without `at` the C core writes zeros behind the end of a row.
            steps = x.T if self.at is None else length_of(x.lengths, x.T, b)
            if steps == 0:
                continue
            first = (<ptrdiff_t *>PyArray_DATA(self.at))[b] if self.at is not None else <ptrdiff_t>b * self.step_b
            last = first + <ptrdiff_t>(steps - 1) * self.step_t
            if not (0 <= first < <ptrdiff_t>self.rows and 0 <= last < <ptrdiff_t>self.rows):
                raise ValueError(f"frame: expected rows below {self.rows}, got {first} to {last}")
        return 0

    cdef char *place(self, object array, str name, Weights weights, size_t width, bint writes,
                     ptrdiff_t *stride_t, ptrdiff_t *stride_b) except? NULL:
        """Data and strides of an array of such rows."""
        if not (is_plain(array, weights.typenum) and PyArray_IS_C_CONTIGUOUS(<ndarray>array)
                and <size_t>PyArray_SIZE(<ndarray>array) == self.rows * width
                and (not writes or PyArray_ISWRITEABLE(<ndarray>array))):
            raise ValueError(f"{name}: expected {self.rows} rows of {width} elements, got {np.shape(array)}")
        stride_t[0] = self.step_t * <ptrdiff_t>width
        stride_b[0] = <ptrdiff_t>width * (self.step_b if self.at is None else 1)
        return <char *>PyArray_DATA(<ndarray>array)


# ---- What a caller gives, for Python ---------------------------------------------------------------------------

def read_sequence(Weights weights not None, x, bint batch_first):
    """x as an ndarray of the layer's dtype or of int64, laid out as given, and whether it has a dimension B."""
    cdef input_view view
    cdef ndarray array = read_input(x, weights, True, batch_first, &view)
    return array, bool(view.batched)


def read_step(Weights weights not None, x):
    """x of one time step, (B, I) or (I,), as an ndarray of the layer's dtype or of int64; an int stays one."""
    cdef input_view view
    cdef ndarray array = read_input(x, weights, False, False, &view)
    return x if array is None else array


def read_row_lengths(lengths, size_t T, size_t B, bint batched):
    """A copy of `lengths` as int64 (B,), from 0 to T: they are reckoned with before the C core sees them."""
    array = read_lengths(lengths, T, B, batched)
    if np.any(array < 0) or np.any(array > T):
        raise wrong_length(lengths, T)
    return array


def kept(array):
    """The array, or a copy if anyone could write to it: it must stay as it is until the backward pass."""
    return None if array is None else own_copy(array)


def check_result(out, tuple shape not None, dtype, list given not None):
    """Whether `out` can receive a result, and is apart from what was given, pairs of name and value."""
    cdef npy_intp[3] dims
    cdef int axis, nd = <int>len(shape)
    for axis in range(min(nd, 3)):
        dims[axis] = shape[axis]
    check_out(out, "out", NPY_FLOAT32 if dtype == np.float32 else NPY_FLOAT64, nd, dims)
    for name, value in given:
        check_apart_from(out, "out", value, name)


# ---- A pass of one stack -------------------------------------------------------------------------------------

@cython.final
cdef class StackCall:
    """One call of the C core, pointed at rows: of x, and of y and c at every step, which it writes.

    States are ``(h, beside)``, each (L*D, B, width), those beside h side by side; None is zero, and of the final ones
    what there is not.
    """

    cdef fl_forward_args args
    cdef Weights weights
    cdef Input x
    cdef Frame frame
    cdef object pins         # other arrays that are read
    cdef readonly tuple final

    def __cinit__(self, Weights weights not None, Input x not None, Frame frame not None, tuple state not None, y,
                  c_steps):
        cdef size_t D = weights.shape.num_directions, beside = weights.states * weights.shape.hidden_size
        cdef fl_forward_args *args = &self.args
        cdef ndarray h_n, c_n = None
        self.weights, self.x, self.frame = weights, x, frame
        self.pins = state, y
        h_0, c_0 = state
        x.fill(args)
        frame.check(x)
        args.h0 = state_data(h_0, "h_0", weights, x.B, weights.width)
        args.c0 = state_data(c_0, "c_0", weights, x.B, beside)
        args.y = frame.place(y, "y", weights, D * weights.width, True, &args.y_stride_t, &args.y_stride_b)
        if frame.at is not None:
            args.y_at = <const ptrdiff_t *>PyArray_DATA(frame.at)
        if c_steps is not None:
            args.cells = frame.place(c_steps, "cells", weights, D * weights.shape.hidden_size, True,
                                     &args.cells_stride_t, &args.cells_stride_b)
        h_n = new_state(weights, x.B, weights.width)
        args.h_n = PyArray_DATA(h_n)
        if weights.states != 0:
            c_n = new_state(weights, x.B, beside)
            args.c_n = PyArray_DATA(c_n)
        self.final = h_n, c_n

    def run(self, size_t num_threads):
        """Compute."""
        self.args.num_threads = num_threads
        check(run_forward(self.weights.packed_stack(), &self.args, True))

    def record(self, Recurrent layer not None, reset, size_t save, double dropout, uint64_t seed, bint draws,
               size_t first):
        """Compute, and keep what the backward pass needs in a `Record`.

        What the arguments are arrays of must not change until that is done.  `first` is the index of the stack's first
        layer and direction among those that draw masks from one seed.
        """
        cdef fl_record_args args
        cdef npy_intp[2] dims
        cdef Record record
        memset(&args, 0, sizeof(args))
        args.call = self.args
        args.call.num_threads = layer._num_threads
        args.save = save
        args.dropout = dropout
        args.dropout_tied = layer._is_tied
        args.seed = seed
        args.draws = draws
        args.first_cell = first
        if reset is not None:
            dims[0], dims[1] = <npy_intp>self.x.T, <npy_intp>self.x.B
            if not (is_plain(reset, NPY_UINT8) and has_shape(<ndarray>reset, 2, dims)
                    and PyArray_IS_C_CONTIGUOUS(<ndarray>reset)):
                raise ValueError(f"reset: expected {shape_of(2, dims)} of uint8, got {np.shape(reset)}")
            args.reset = <const uint8_t *>PyArray_DATA(<ndarray>reset)
        record = take_record(layer)
        record.pins = self, reset
        check(record.run(self.weights, &args))
        record.call = self
        return record


@cython.final
cdef class Record:
    """A recorded pass of one stack, and what it still reads; its memory serves again and again."""

    cdef fl_tape *tape
    cdef Weights weights
    cdef StackCall call  # of rows that lie anywhere
    cdef object pins
    cdef Record next_spare
    cdef bint is_index  # whether the input was
    cdef fl_record_args args   # of the pass; what they point at is among the pins
    cdef Reserve reserve  # of the caller; None: the tape's
    cdef readonly size_t nbytes

    def __cinit__(self):
        check(fl_tape_create(&self.tape))

    def __dealloc__(self):
        with nogil:
            fl_tape_destroy(self.tape)

    cdef int forget(self) except -1:
        self.weights = None
        self.call = None
        self.pins = None
        self.reserve = None
        return 0

    cdef fl_status run(self, Weights weights, fl_record_args *args) except *:
        cdef fl_status status = run_record(weights.packed_stack(), args, self.tape, NULL, 0)
        if status == FL_OK:
            self.nbytes = fl_tape_bytes(self.tape)
            self.know(weights, args)
        return status

    cdef fl_status run_in(self, Weights weights, fl_record_args *args, Reserve reserve, bint has_run) except *:
        """`run` in memory of the caller, where it may have been run before."""
        cdef fl_status status
        cdef size_t needed = 0, bytes = <size_t>PyArray_SIZE(reserve.array)
        status = fl_reserve_size(weights.packed_stack(), args, &needed)
        if status == FL_OK and needed > bytes:
            raise ValueError(f"reserve: expected at least {needed} bytes, got {bytes}")
        if status == FL_OK and not has_run:
            status = run_record(weights.packed_stack(), args, NULL, PyArray_DATA(reserve.array), bytes)
        if status == FL_OK:
            self.nbytes = needed
            self.reserve = reserve
            self.know(weights, args)
        return status

    cdef void know(self, Weights weights, fl_record_args *args) noexcept:
        self.weights = weights
        self.is_index = args.call.x_index != NULL
        self.args = args[0]
        self.args.call.interrupt = NULL
        self.args.call.interrupt_context = NULL

    cdef int run_back(self, fl_backward_args *args, ndarray scratch, bint is_apart) except -1:
        """Gradients of the parameters go to `scratch`, which is laid out as they are.

        If `is_apart`, no memory is used that belongs to the tape, so that several threads may come here at once; else
        the gradient of weights of an index input stays there: `add_gradients`.
        """
        cdef Weights weights = self.weights
        cdef fl_status status
        cdef fl_stack *stack = weights.packed_stack()
        first = <fl_weights *>PyMem_Malloc(weights.rows() * (sizeof(fl_weights) + sizeof(fl_gradients)))
        if first == NULL:
            raise MemoryError
        point_at_parameters(weights, scratch, first, args)
        args.keeps_index_gradient = not is_apart
        if not is_apart:
            status = run_backward(stack, self.tape, args)
        elif self.reserve is not None:
            status = run_backward_apart(stack, &self.args, PyArray_DATA(self.reserve.array),
                                        <size_t>PyArray_SIZE(self.reserve.array), args)
        else:
            status = run_backward_apart(stack, &self.args, fl_tape_reserve(self.tape), fl_tape_bytes(self.tape), args)
        PyMem_Free(first)
        check(status)
        return 0

    def backward(self, dy, dcells, tuple dstate not None, Frame dx_frame, dx, ndarray scratch not None, size_t bptt,
                 size_t num_threads, bint is_apart=False):
        """The backward pass: writes `dx` unless that is None, and the gradients of the parameters to `scratch`.

        `dstate` is ``(dh_n, dbeside_n)``; those of the initial state are returned.  `dx_frame` says how dx lies.
        """
        cdef Weights weights = self.weights
        cdef Input x = self.call.x
        cdef Frame frame = self.call.frame
        cdef fl_backward_args args
        cdef ndarray dh_0, dc_0 = None
        cdef size_t D = weights.shape.num_directions, H = weights.shape.hidden_size
        memset(&args, 0, sizeof(args))
        if dy is not None:
            args.dy = frame.place(dy, "dy", weights, D * weights.width, False, &args.dy_stride_t,
                                  &args.dy_stride_b)
        if dcells is not None:
            args.dcells = frame.place(dcells, "dcells", weights, D * H, False, &args.dcells_stride_t,
                                      &args.dcells_stride_b)
        if frame.at is not None:
            args.dy_at = <const ptrdiff_t *>PyArray_DATA(frame.at)
        dh_n, dc_n = dstate
        args.dh_n = state_data(dh_n, "dh_n", weights, x.B, weights.width)
        args.dc_n = state_data(dc_n, "dc_n", weights, x.B, weights.states * H)
        if dx is not None:
            dx_frame.check(x)
            args.dx = dx_frame.place(dx, "dx", weights, weights.shape.input_size, True, &args.dx_stride_t,
                                     &args.dx_stride_b)
            if dx_frame.at is not None:
                args.dx_at = <const ptrdiff_t *>PyArray_DATA(dx_frame.at)
        dh_0 = new_state(weights, x.B, weights.width)
        args.dh0 = PyArray_DATA(dh_0)
        if weights.states != 0:
            dc_0 = new_state(weights, x.B, weights.states * H)
            args.dc0 = PyArray_DATA(dc_0)
        args.bptt = bptt
        args.num_threads = num_threads
        flat_buffer(scratch, "scratch", weights.typenum, PyArray_SIZE(weights.flat), True)
        self.run_back(&args, scratch, is_apart)
        return dh_0, dc_0


@cython.nonecheck(True)
cpdef int add_gradients(Recurrent layer, ndarray scratch, Record first) except -1:
    """Add gradients of all parameters to those of the layer, which keeps `scratch` for a next pass.

    `first` is the pass of the first stack, where it has the gradients of weights of an index input; else None.
    """
    cdef Weights weights = layer.ready()
    cdef fl_dtype dtype = weights.shape.dtype
    cdef size_t size = <size_t>PyArray_SIZE(scratch), real_size = <size_t>PyArray_ITEMSIZE(scratch)
    cdef size_t n, begin, end = 0
    cdef ndarray flat
    cdef char *source = <char *>PyArray_DATA(scratch)
    cdef char *sums
    cdef Words words = words_of(layer) if first is not None and first.is_index else None
    cdef fl_columns columns
    cdef fl_tape *tape = first.tape if first is not None else NULL
    cdef bint is_beside
    with layer._adding:  # without the GIL, two threads could add at once
        is_beside = words is not None and words.add_tape(tape)
        flat = flat_buffer(layer.__dict__["_flat_grads"] if is_beside else layer.flat_grads, "flat_grads",
                           weights.typenum, <npy_intp>size, True)
        sums = <char *>PyArray_DATA(flat)
        with nogil:
            if words is None:
                fl_add(dtype, size, source, sums)
            else:
                for n in range(words.count + 1):
                    begin = words.gap(n, size, &end)
                    fl_add(dtype, end - begin, source + begin * real_size, sums + begin * real_size)
                for n in range(0 if is_beside else words.count):
                    fl_tape_index_gradient(tape, n, &columns)  # fails for no tape alone
                    fl_add_words(&words.tables[n], &columns, sums + words.begins[n] * real_size)
    layer._gradient_scratch = scratch
    return 0


def drop_rows(ndarray rows not None, size_t T, size_t B, lengths, double p, uint64_t seed, size_t layer,
              bint is_tied=False):
    """A copy of the output of a layer, (N, W), with the dropout that the C core puts between layers.

    With `is_tied` all steps of a row have one mask, whose places are without the time.
    Rows are (T, B) where `lengths` is None, else the steps of each row of the batch one behind the other.
    """
    cdef size_t width = <size_t>PyArray_DIMS(rows)[1], count = <size_t>PyArray_DIMS(rows)[0], b, t, n, at = 0
    cdef size_t real_size = <size_t>PyArray_ITEMSIZE(rows)
    cdef fl_dtype dtype = FL_F32 if PyArray_TYPE(rows) == NPY_FLOAT32 else FL_F64
    cdef size_t steps = 1 if is_tied else T
    cdef uint64_t first = <uint64_t>layer * steps * B * width
    cdef ndarray result = PyArray_NewCopy(rows, NPY_CORDER)
    cdef char *data = <char *>PyArray_DATA(result)
    if lengths is None:
        with nogil:
            for t in range(T if is_tied else 1):
                fl_dropout(dtype, p, seed, first, count * width // (T if is_tied else 1), data, data)
                data += B * width * real_size
        return result
    for b in range(B):
        n = length_of(lengths, T, b)
        if n > count - at:
            raise ValueError(f"lengths: expected a sum of {count}, got more")
        with nogil:
            for t in range(n):
                fl_dropout(dtype, p, seed, first + ((0 if is_tied else <uint64_t>t) * B + b) * width, width, data,
                           data)
                data += width * real_size
        at += n
    return result
