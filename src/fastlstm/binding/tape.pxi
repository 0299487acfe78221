# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: a forward pass that is recorded, and its backward pass.


cdef ndarray own_copy(ndarray array):
    """A copy, unless nobody can write to the array: it must stay as it is until the backward.

    The outputs of other tapes are such arrays.
    """
    if PyArray_CHKFLAGS(array, NPY_ARRAY_OWNDATA) and not PyArray_ISWRITEABLE(array):
        return array
    return PyArray_NewCopy(array, NPY_CORDER)


cdef ndarray read_flags(object flags, str name, size_t T, size_t B, bint batched, bint batch_first):
    """Booleans as uint8 (T, B), C-contiguous; a copy."""
    cdef object array = read_array(flags, name)
    cdef bint swapped = batch_first and batched
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: expected booleans, got dtype {array.dtype}")
    cdef tuple expected = (T,)
    if batched:
        expected = (B, T) if swapped else (T, B)
    if array.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")
    if swapped:
        array = array.T
    return np.array(array, np.uint8, order="C", copy=True).reshape(T, B)


cdef size_t read_save(object save) except? 12345:
    if isinstance(save, str):
        if save == "all":
            return FL_SAVE_ALL
        if save == "states":
            return FL_SAVE_STATES
        raise ValueError(f"save: expected 'all', 'states' or an integer of at least 1, got {save!r}")
    return as_count(save, "save")


cdef class Tape:
    """What ``forward`` of a layer keeps for its one backward pass.

    Attributes
    ----------
    y : ndarray, (T, B, D*P), (B, T, D*P) or (T, D*P)
        Output of the layer, read-only because the backward pass reads it again.
    state : ndarray or tuple of ndarray
        Final states, as those of a call.
    cells : ndarray or None
        As those of a call, where they were asked for.
    nbytes : int
        Bytes that are kept beside `y` and copies of the arguments.
    """

    cdef Recurrent _layer
    cdef Weights _weights
    cdef Record _record  # None when it has been used
    cdef object _dx_shape
    cdef ndarray _x, _h_0, _c_0, _lengths, _reset, _h_n, _c_n  # as the C core reads or wrote them
    cdef size_t _bptt
    cdef int _batched
    cdef bint _busy  # a backward pass has begun
    cdef readonly object y, state, cells
    cdef readonly size_t nbytes

    def __init__(self):
        raise TypeError("Tape: forward of a layer makes tapes")

    def __reduce__(self):
        raise TypeError("Tape: expected to be used in the process that made it; pickle the layer instead")

    def backward(self, dy=None, dstate=None, dcells=None):
        """Backpropagation through the recorded pass; gradients of parameters are added to ``layer.grads``.

        A tape serves once: the layer keeps its memory, for the next tape.  After an exception the gradients of the
        layer are what they were, and the tape may be used again.

        Parameters
        ----------
        dy : array_like, shaped as `y`, optional
            Gradient of the output; None is zero.  What stands behind the end of a row is not looked at.
        dstate : as `state`, optional
            Gradients of the final states; None, also for a member, is zero.
        dcells : array_like, shaped as `cells`, optional
            Gradient of the cells, where they were asked for; None is zero.

        Returns
        -------
        dx : ndarray, shaped as x, or None
            Gradient of the input, zero behind the end of each row; None where the input was integers.
        dstate_0 : as `state`
            Gradients of the initial states.

        Raises
        ------
        RuntimeError
            The tape has been used, or the layer has got other parameters since.
        TypeError, ValueError
            An argument does not fit; the message names it, what was expected and what came.
        """
        if self._record is None:
            raise RuntimeError("tape: expected one backward for each forward, got a second one")
        if self._busy:
            raise RuntimeError("tape: expected one call at a time, got one while another runs")
        self._busy = True  # first of all: while arguments are read, other threads may run
        try:
            return self.run_back(dy, dstate, dcells)
        finally:
            self._busy = False

    cdef tuple run_back(self, dy, dstate, dcells):
        cdef Weights weights = self._weights
        cdef Record record = self._record
        cdef fl_backward_args args
        cdef ndarray dy_read, dh_n, dc_n, dx = None, dh_0, dc_0 = None, scratch, flat
        cdef size_t real_size
        if self._layer._weights is not weights:
            raise RuntimeError("tape: expected the parameters of its forward, got others since: call forward "
                               "again")
        if dcells is not None:
            raise ValueError("dcells: expected None without return_cells, got a gradient of cells")
        memset(&args, 0, sizeof(args))
        cdef int axis_t = self._batched and self._layer.batch_first
        cdef ndarray y = <ndarray>self.y
        cdef int nd = PyArray_NDIM(self._h_n)
        real_size = <size_t>PyArray_ITEMSIZE(y)
        if dy is not None:
            dy_read = read_operand(dy, "dy", weights.typenum, PyArray_NDIM(y), PyArray_DIMS(y))
            args.dy = PyArray_DATA(dy_read)
            args.dy_stride_t = PyArray_STRIDES(dy_read)[axis_t] // <npy_intp>real_size
            args.dy_stride_b = PyArray_STRIDES(dy_read)[1 - axis_t] // <npy_intp>real_size
        if dstate is not None:
            dh_n, dc_n = read_dstate(dstate, weights, self._h_n, self._c_n)
            if dh_n is not None:
                args.dh_n = PyArray_DATA(dh_n)
            if dc_n is not None:
                args.dc_n = PyArray_DATA(dc_n)
        dh_0 = <ndarray>PyArray_EMPTY(nd, PyArray_DIMS(self._h_n), weights.typenum, 0)
        args.dh0 = PyArray_DATA(dh_0)
        if self._c_n is not None:
            dc_0 = <ndarray>PyArray_EMPTY(nd, PyArray_DIMS(self._c_n), weights.typenum, 0)
            args.dc0 = PyArray_DATA(dc_0)
        if self._dx_shape is not None:
            dx = np.empty(self._dx_shape, weights.dtype)
            args.dx = PyArray_DATA(dx)
            args.dx_stride_t = PyArray_STRIDES(dx)[axis_t] // <npy_intp>real_size
            args.dx_stride_b = PyArray_STRIDES(dx)[1 - axis_t] // <npy_intp>real_size
        args.bptt = self._bptt
        args.num_threads = self._layer._num_threads

        flat_params = weights.source.flat
        flat = flat_buffer(self._layer.flat_grads, "flat_grads", weights.typenum, flat_params.size, True)
        scratch = self._layer.take_scratch(flat_params)
        record.run_back(&args, <ndarray>flat_params, scratch)
        fl_add(weights.shape.dtype, <size_t>PyArray_SIZE(scratch), PyArray_DATA(scratch), PyArray_DATA(flat))
        self._layer._gradient_scratch = scratch
        self._record = None
        self._layer.keep_record(record)
        self._x = self._h_0 = self._c_0 = self._lengths = self._reset = None
        return dx, final_states(weights, dh_0, dc_0)


cdef tuple read_dstate(object dstate, Weights weights, ndarray h_n, ndarray c_n):
    """Gradients of ``(h_n, c_n)`` as the C core reads them; None for zero."""
    cdef tuple members
    cdef ndarray dh = None, dc = None
    cdef npy_intp[3] dims
    cdef int nd = PyArray_NDIM(h_n), axis
    members = read_members(dstate, "dstate", weights) if weights.states != 0 else (dstate,)
    if members[0] is not None:
        dh = read_operand(members[0], DSTATE_NAMES[weights.states != 0], weights.typenum, nd, PyArray_DIMS(h_n))
    if weights.states == 0 or all(item is None for item in members[1:]):
        return dh, None
    for axis in range(nd):
        dims[axis] = PyArray_DIMS(h_n)[axis]
    dims[nd - 1] = <npy_intp>weights.shape.hidden_size
    beside = [np.zeros(shape_of(nd, dims), weights.dtype) if item is None
              else read_operand(item, name, weights.typenum, nd, dims)
              for item, name in zip(members[1:], DSTATE_NAMES[2:])]
    dc = beside[0] if weights.states == 1 else np.concatenate(beside, axis=-1)
    return dh, dc
