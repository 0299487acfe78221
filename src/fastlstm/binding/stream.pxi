# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: a layer that keeps its state.


cdef class Stream:
    """The calls of a stream; `stream` of a layer makes one."""

    cdef Weights _weights
    cdef fl_stream *stream
    cdef bint busy  # a call has released the GIL
    cdef readonly bint batch_first
    cdef readonly size_t batch_size

    def __cinit__(self, Weights weights not None, batch_size, bint batch_first):
        self.batch_size = as_count(batch_size, "batch_size")
        self.batch_first = batch_first
        if weights.shape.num_directions != 1:
            raise ValueError("stream: expected a unidirectional layer, got a bidirectional one, which needs "
                             "the end of a sequence first")
        self._weights = weights
        check(fl_stream_create(weights.stack, self.batch_size, &self.stream))

    def __dealloc__(self):
        fl_stream_destroy(self.stream)

    @property
    def weights(self):
        """The packed weights of the layer at the time when the stream was made."""
        return self._weights

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

    cdef ndarray advance(self, x, out, bint has_time):
        cdef Weights weights = self._weights
        cdef input_view view
        cdef fl_stream_io io
        cdef fl_status status
        cdef npy_intp[3] dims
        cdef ndarray x_read, y
        cdef int nd, axis_t
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
            check_apart_from_inputs(out, "out", x, x_read, None, None)
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
        if <double>view.T * <double>view.B * weights.step_work <= TINY_WORK:
            status = fl_stream_process(self.stream, view.T, &io)
        else:
            status = self.run_released(view.T, &io)
        if status != FL_OK:
            if status == FL_ERROR_INDEX:
                raise wrong_index(x, weights, None, False)
            check(status)
        return y

    cdef fl_status run_released(self, size_t T, fl_stream_io *io) except *:
        cdef PyThreadState *thread
        cdef fl_status status
        cdef bytes h = None, c = None
        if T > 1:
            io.interrupt = check_signals
            io.interrupt_context = &thread
            h = PyBytes_FromStringAndSize(<char *>fl_stream_h(self.stream), self.h_bytes())
            if self._weights.states != 0:
                c = PyBytes_FromStringAndSize(<char *>fl_stream_c(self.stream), self.c_bytes())
        self.busy = True
        thread = PyEval_SaveThread()
        status = fl_stream_process(self.stream, T, io)
        PyEval_RestoreThread(thread)
        self.busy = False
        if status == FL_ERROR_INTERRUPTED:
            memcpy(fl_stream_h(self.stream), PyBytes_AsString(h), self.h_bytes())
            if self._weights.states != 0:
                memcpy(fl_stream_c(self.stream), PyBytes_AsString(c), self.c_bytes())
        return status

    cdef size_t h_bytes(self) noexcept:
        cdef fl_stack_shape *shape = &self._weights.shape
        return shape.num_layers * self.batch_size * self._weights.width * (4 if shape.dtype == FL_F32 else 8)

    cdef size_t c_bytes(self) noexcept:
        """Of the states beside h."""
        return self.h_bytes() // self._weights.width * self._weights.states * self._weights.shape.hidden_size

    cdef int check_idle(self) except -1:
        if self.busy:
            raise RuntimeError("the stream is in use by another thread; give each thread its own")
        return 0

    def reset(self):
        """Set the state to zero."""
        self.check_idle()
        memset(fl_stream_h(self.stream), 0, self.h_bytes())
        if self._weights.states != 0:
            memset(fl_stream_c(self.stream), 0, self.c_bytes())

    @property
    def state(self):
        """The kept state as a call gives it, each array (L, B, width): copies when read; can be set.

        Where `batch_size` is 1, (L, width) can be set too.
        """
        cdef Weights weights = self._weights
        cdef ndarray h, c = None
        self.check_idle()
        h = new_state(weights, self.batch_size, weights.width)
        memcpy(PyArray_DATA(h), fl_stream_h(self.stream), self.h_bytes())
        if weights.states != 0:
            c = new_state(weights, self.batch_size, weights.states * weights.shape.hidden_size)
            memcpy(PyArray_DATA(c), fl_stream_c(self.stream), self.c_bytes())
        return final_states(weights, h, c)

    @state.setter
    def state(self, value):
        cdef Weights weights = self._weights
        cdef npy_intp[3] dims
        cdef ndarray h, c
        cdef int nd = 3
        first = value[0] if weights.states != 0 and isinstance(value, (tuple, list)) and len(value) > 0 else value
        if self.batch_size == 1 and np.ndim(first) == 2:
            nd = 2
        dims[0] = <npy_intp>weights.shape.num_layers
        dims[1] = <npy_intp>self.batch_size
        dims[nd - 1] = <npy_intp>weights.width
        h, c = read_states(value, STATE_NAMES, weights, nd, dims)
        self.check_idle()
        memcpy(fl_stream_h(self.stream), PyArray_DATA(h), self.h_bytes())
        if weights.states != 0:
            memcpy(fl_stream_c(self.stream), PyArray_DATA(c), self.c_bytes())
