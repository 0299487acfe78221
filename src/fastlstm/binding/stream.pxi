# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: a layer that keeps its state.


cdef bint is_one_row(object rows):
    return not isinstance(rows, slice) and np.ndim(rows) == 0


cdef object rows_chosen(object rows, size_t batch_size):
    """Which rows of a batch are meant: their numbers, (n,)."""
    if isinstance(rows, slice):
        return np.arange(batch_size)[rows]
    cdef object given = read_array(rows, "rows")
    if given.dtype == np.bool_:
        if given.shape != (batch_size,):
            raise ValueError(f"rows: expected booleans of shape ({batch_size},), got {given.shape}")
        return np.flatnonzero(given)
    if given.size == 0 and given.ndim == 1:
        return np.empty(0, np.intp)
    if given.dtype.kind not in "iu":
        raise TypeError(f"rows: expected integers, booleans or a slice, got dtype {given.dtype}")
    if given.ndim > 1:
        raise ValueError(f"rows: expected an integer, or one dimension, got shape {given.shape}")
    numbers = given.reshape(-1)
    wrong = numbers[(numbers < 0) | (numbers >= batch_size)]
    if len(wrong) > 0:
        raise ValueError(f"rows: expected numbers from 0 to {batch_size - 1}, got {wrong[0]}")
    return numbers.astype(np.intp)


cdef class Stream:
    """The calls of a stream, which ``stream`` of a layer makes.

    Where the layer is more than one stack, or more than that, there is a stream for each, and `_through` of
    passes/streams.py leads x through them.

    Parameters
    ----------
    parts : tuple of Weights
        What the layer is made of.
    batch_size : int
    num_threads : int or None
        Most threads of a call; None: as many as other calls may have.
    batch_first, is_listed, joins : bool
        Whether `process` takes (B, T, features), states are lists of arrays, outputs of layers are added to.
    """

    cdef tuple parts
    cdef Weights _weights        # the first of them
    cdef fl_stream *stream       # of the one stack
    cdef tuple several           # of each, else
    cdef bint busy  # a call has released the GIL, or is in one of several streams
    cdef bint is_listed
    cdef readonly bint batch_first
    cdef readonly size_t batch_size
    cdef size_t _num_threads

    def __cinit__(self, tuple parts not None, batch_size, num_threads, bint batch_first, bint is_listed=False,
                  bint joins=False):
        cdef Weights first = <Weights?>parts[0]
        cdef fl_stack *stack
        cdef fl_status status
        self.batch_size = as_count(batch_size, "batch_size")
        self._num_threads = 0 if num_threads is None else as_count(num_threads, "num_threads")
        self.batch_first = batch_first
        self.is_listed = is_listed
        self.parts, self._weights = parts, first
        if first.shape.num_directions != 1:
            raise ValueError("stream: expected a unidirectional layer, got a bidirectional one, which needs "
                             "the end of a sequence first")
        if len(parts) > 1 or joins:
            several = []
            for part in parts:
                several.append(Stream((part,), batch_size, num_threads, batch_first))
            self.several = tuple(several)
        else:
            stack = first.packed_stack()
            with nogil:
                status = fl_stream_create(stack, self.batch_size, self._num_threads, &self.stream)
            if status == FL_ERROR_MEMORY or status == FL_ERROR_SIZE:
                raise (MemoryError if status == FL_ERROR_MEMORY else OverflowError)(
                    f"batch_size: expected a stream that fits into memory, got {self.batch_size} rows")
            check(status)

    def __dealloc__(self):
        with nogil:
            fl_stream_destroy(self.stream)

    @property
    def _first(self):
        """The packed weights of the layer at the time when the stream was made, of the first stack."""
        return self._weights

    @property
    def num_threads(self):
        """Most threads of a call; None: as many as other calls may have."""
        return self._num_threads or None

    @property
    def _streams(self):
        """The streams of each stack, where there are several or more than a stack."""
        return self.several

    # ---- Calls -------------------------------------------------------------------------------------------------

    def step(self, x, out=None):
        """One time step.

        Parameters
        ----------
        x : array_like, (I,) or (B, I); or int, or integers (B,)
            Input; integers mean one-hot rows.  Without B only where `batch_size` is 1.
        out : ndarray, (P,) or (B, P), optional
            Receives the output: of the layer's dtype, C-contiguous, not overlapping `x`.

        Returns
        -------
        ndarray, (P,) or (B, P)
            The last layer's hidden state; `out` if given.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the message names it, what was expected and what came.
        RuntimeError
            Another thread is in a call of this stream.
        """
        return self.advance(x, out, False)

    def process(self, x, out=None):
        """As many time steps as `x` has; the same bits as one step after the other.

        Parameters
        ----------
        x : array_like, (T, I), (T, B, I), or (B, T, I) if `batch_first`; or integers without I
            Input; integers mean one-hot rows.  Without B only where `batch_size` is 1.
        out : ndarray, as `x` with P in place of I, optional
            Receives the output: of the layer's dtype, C-contiguous, not overlapping `x`.

        Returns
        -------
        ndarray, as `x` with P in place of I
            The last layer's hidden states; `out` if given.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the message names it, what was expected and what came.
        RuntimeError
            Another thread is in a call of this stream.

        Notes
        -----
        When a signal handler raises, as Ctrl-C does, the stream has its state of before the call.
        """
        return self.advance(x, out, True)

    cdef object advance(self, x, out, bint has_time):
        cdef Weights weights = self._weights
        cdef input_view view
        cdef fl_stream_io io
        cdef fl_status status
        cdef npy_intp[3] dims
        cdef ndarray x_read, y
        cdef int nd, axis_t
        if self.stream == NULL:
            return self.advance_all(x, out, has_time)
        x_read = read_input(x, weights, has_time, self.batch_first, &view)
        if view.B != self.batch_size:
            raise ValueError(f"x: expected B = batch_size = {self.batch_size}, got {view.B}")
        nd = 1 + has_time + view.batched
        axis_t = view.batched and self.batch_first
        dims[1 - axis_t if has_time else 0] = <npy_intp>view.B
        if has_time:
            dims[axis_t] = <npy_intp>view.T
        dims[nd - 1] = <npy_intp>weights.width
        if out is None:
            y = <ndarray>PyArray_EMPTY(nd, dims, weights.typenum, 0)
        else:
            check_out(out, "out", weights.typenum, nd, dims)
            check_apart_from_read(out, "out", x, x_read, "x")
            y = <ndarray>out
        memset(&io, 0, sizeof(io))
        if view.is_index:
            io.x_index = <const int64_t *>view.data
        else:
            io.x = view.data
        io.x_stride_t = view.stride_t
        io.x_stride_b = view.stride_b
        io.y = PyArray_DATA(y)
        if has_time:
            io.y_stride_t = PyArray_STRIDES(y)[axis_t] // PyArray_ITEMSIZE(y)
        io.y_stride_b = PyArray_STRIDES(y)[1 - axis_t if has_time else 0] // PyArray_ITEMSIZE(y)
        self.check_idle()
        if weights.work(view.T, view.B) <= TINY_WORK:
            status = fl_stream_process(self.stream, view.T, &io)
        else:
            status = self.run_released(view.T, &io)
        if status != FL_OK:
            if status == FL_ERROR_INDEX:
                raise wrong_index(x, weights, None, False)
            check(status)
        return y

    cdef object advance_all(self, x, out, bint has_time):
        """`advance`, of several streams."""
        self.check_idle()
        self.busy = True
        try:
            return self._through(x, out, has_time)
        finally:
            self.busy = False

    cdef fl_status run_released(self, size_t T, fl_stream_io *io) except *:
        cdef PyThreadState *thread
        cdef fl_status status
        cdef tuple before = None
        if T > 1:
            io.interrupt = check_signals
            io.interrupt_context = &thread
            before = self.copied()
        self.busy = True
        thread = PyEval_SaveThread()
        status = fl_stream_process(self.stream, T, io)
        PyEval_RestoreThread(thread)
        self.busy = False
        if status == FL_ERROR_INTERRUPTED:
            self.put(before[0], before[1])
        return status

    cdef int check_idle(self) except -1:
        if self.busy:
            raise RuntimeError("the stream is in use by another thread; give each thread its own")
        return 0

    # ---- The state ---------------------------------------------------------------------------------------------

    cdef inline size_t bytes_of(self, size_t width) noexcept:
        """Of a state of the one stack."""
        cdef Weights weights = self._weights
        return weights.rows() * self.batch_size * width * (4 if weights.shape.dtype == FL_F32 else 8)

    cdef inline size_t width_beside(self) noexcept:
        """Of the states beside h."""
        cdef Weights weights = self._weights
        return weights.states * weights.shape.hidden_size

    cdef tuple copied(self):
        """``(h, beside)`` of the one stack."""
        cdef Weights weights = self._weights
        cdef size_t width = self.width_beside()
        cdef ndarray h = new_state(weights, self.batch_size, weights.width), beside = None
        memcpy(PyArray_DATA(h), fl_stream_h(self.stream), self.bytes_of(weights.width))
        if width != 0:
            beside = new_state(weights, self.batch_size, width)
            memcpy(PyArray_DATA(beside), fl_stream_c(self.stream), self.bytes_of(width))
        return h, beside

    cdef int put(self, ndarray h, ndarray beside) except -1:
        """Set the state of the one stack."""
        memcpy(fl_stream_h(self.stream), PyArray_DATA(h), self.bytes_of(self._weights.width))
        if beside is not None:
            memcpy(fl_stream_c(self.stream), PyArray_DATA(beside), self.bytes_of(self.width_beside()))
        return 0

    cdef int put_all(self, list states) except -1:
        """Set the states of all stacks: nothing here asks for memory, so that all are set."""
        cdef tuple each = self.each(), pair
        cdef Py_ssize_t n
        for n in range(len(each)):
            pair = <tuple?>states[n]
            (<Stream>each[n]).put(<ndarray>pair[0], <ndarray>pair[1])
        return 0

    cdef int put_rows(self, numbers, list states) except -1:
        """Set the states of some rows, ``(h, beside)`` of each stack."""
        cdef Stream stream
        cdef list whole = []
        self.check_idle()
        for stream, (h, beside) in zip(self.each(), states):
            own, own_beside = stream.copied()
            own[:, numbers] = h
            if own_beside is not None:
                own_beside[:, numbers] = beside
            whole.append((own, own_beside))
        return self.put_all(whole)

    cdef tuple each(self):
        """The streams of one stack."""
        return (self,) if self.several is None else self.several

    cdef tuple views(self):
        """``(h, beside)`` of the one stack, in its own memory: no longer than a call that nobody interrupts."""
        cdef Weights weights = self._weights
        cdef npy_intp[3] dims
        cdef ndarray beside = None
        dims[0], dims[1], dims[2] = <npy_intp>weights.rows(), <npy_intp>self.batch_size, <npy_intp>weights.width
        h = PyArray_SimpleNewFromData(3, dims, weights.typenum, fl_stream_h(self.stream))
        if self.width_beside() != 0:
            dims[2] = <npy_intp>self.width_beside()
            beside = PyArray_SimpleNewFromData(3, dims, weights.typenum, fl_stream_c(self.stream))
        return h, beside

    def reset(self, rows=None):
        """Set the state to zero.

        Parameters
        ----------
        rows : int, slice, or array_like of integers, or of bool (B,), optional
            Which of the B sequences begin anew; None is all.

        Raises
        ------
        TypeError, ValueError
            `rows` does not name sequences of the batch.
        RuntimeError
            Another thread is in a call of this stream.
        """
        cdef Stream stream
        if rows is not None:
            numbers = rows_chosen(rows, self.batch_size)
            self.put_rows(numbers, [(0, 0)] * len(self.each()))
            return
        self.check_idle()
        for stream in self.each():
            memset(fl_stream_h(stream.stream), 0, stream.bytes_of(stream._weights.width))
            if stream.width_beside() != 0:
                memset(fl_stream_c(stream.stream), 0, stream.bytes_of(stream.width_beside()))

    def read_rows(self, rows):
        """The states of some sequences of the batch.

        Parameters
        ----------
        rows : int, slice, or array_like of integers, or of bool (B,)
            Which.

        Returns
        -------
        ndarray, or tuple of ndarray or of tuples of ndarray
            As `state` with as many sequences as there are rows, in their order; without B for an int.  Copies.

        Raises
        ------
        TypeError, ValueError
            `rows` does not name sequences of the batch.
        RuntimeError
            Another thread is in a call of this stream.
        """
        cdef Stream stream
        numbers = rows_chosen(rows, self.batch_size)
        self.check_idle()
        states = []
        for stream in self.each():
            h, beside = stream.views()
            states.append((np.ascontiguousarray(h[:, numbers]),
                           None if beside is None else np.ascontiguousarray(beside[:, numbers])))
        return states_as_given(self.parts, states, not is_one_row(rows), self.is_listed)

    def write_rows(self, rows, state):
        """Set the states of some sequences of the batch; the others stay what they are.

        Parameters
        ----------
        rows : int, slice, or array_like of integers, or of bool (B,)
            Which, each once.
        state : as of `read_rows`
            Their states.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; nothing has changed.
        RuntimeError
            Another thread is in a call of this stream.
        """
        cdef Stream stream
        numbers = rows_chosen(rows, self.batch_size)
        if len(np.unique(numbers)) != len(numbers):
            raise ValueError(f"rows: expected each row once, got {numbers.tolist()}")
        if state is None:
            raise TypeError("state: expected arrays, got None (reset sets zeros)")
        states = read_states(self.parts, state, "state", len(numbers), not is_one_row(rows), self.is_listed, False)
        self.put_rows(numbers, states)

    @property
    def state(self):
        """The kept state as a call gives it, each array (L, B, width): copies when read; can be set.

        Where `batch_size` is 1, (L, width) can be set too.
        """
        cdef Stream stream
        self.check_idle()
        states = []
        for stream in self.each():
            states.append(stream.copied())
        return states_as_given(self.parts, states, True, self.is_listed)

    @state.setter
    def state(self, value):
        cdef Stream stream
        first = value
        if self._weights.states != 0 and isinstance(value, (tuple, list)) and len(value) > 0:
            first = value[0]
        cdef bint batched = self.is_listed or self.batch_size != 1 or np.ndim(first) != 2
        if value is None:
            raise TypeError("state: expected arrays, got None (reset sets zeros)")
        states = read_states(self.parts, value, "state", self.batch_size, batched, self.is_listed, False)
        self.check_idle()
        self.put_all(list(states))
