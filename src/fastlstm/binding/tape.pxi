# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: a forward pass that is recorded, and its backward pass.


cdef size_t read_save(object save) except? 12345:
    if isinstance(save, str):
        if save == "all":
            return FL_SAVE_ALL
        if save == "states":
            return FL_SAVE_STATES
        raise ValueError(f"save: expected 'all', 'states' or an integer of at least 1, got {save!r}")
    return as_count(save, "save")


cdef uint64_t read_seed(object seed) except? 12345:
    if not (0 <= PyNumber_Index(seed) < 2**63):
        raise ValueError(f"seed: expected an integer from 0 to 2**63 - 1, got {seed}")
    return seed


cdef class Tape:
    """What ``forward`` of a layer keeps for its backward pass.

    Attributes
    ----------
    y : ndarray, (T, B, D*P), (B, T, D*P) or (T, D*P), or list of ndarray
        Output of the layer, read-only because the backward pass reads it again, unless it was asked for otherwise.
    state : ndarray or tuple of ndarray
        Final states, as those of a call.
    cells : ndarray, list of ndarray or None
        As those of a call, where they were asked for.
    nbytes : int
        Bytes that are kept beside `y` and copies of the arguments.
    """

    cdef Recurrent _layer
    cdef tuple _parts     # the layer's parameters of that time
    cdef Record _record   # of one stack, where x is one array
    cdef object _rows     # a pass of passes/parts.py, where rows lie otherwise or stacks are several
    cdef ndarray _h_n, _c_n
    cdef object _dx_shape
    cdef size_t _bptt
    cdef bint _batched, _is_used, _is_busy
    cdef size_t _readers  # backward passes under way that keep the tape
    cdef readonly object y, state, cells
    cdef readonly size_t nbytes

    def __init__(self):
        raise TypeError("Tape: forward of a layer makes tapes")

    def __reduce__(self):
        raise TypeError("Tape: expected to be used in the process that made it; pickle the layer instead")

    def backward(self, dy=None, dstate=None, dcells=None, *, grads=None, keep=False):
        """Backpropagation through the recorded pass; gradients of parameters are added to ``layer.grads``.

        A tape serves once, unless it is kept: the layer keeps its memory, for the next tape.  After an exception the
        gradients of the layer are what they were, and the tape may be used again.

        Parameters
        ----------
        dy : array_like, shaped as `y`, optional
            Gradient of the output; None is zero.  What stands behind the end of a row is not looked at.
        dstate : as `state`, optional
            Gradients of the final states; None, also for a member, is zero.
        dcells : array_like, shaped as `cells`, optional
            Gradient of the cells, where they were asked for; None is zero.
        grads : ndarray, shaped as ``layer.flat_params``, optional
            Receives the gradients of the parameters, laid out as these: written, not added, whatever stands there.
            ``layer.grads`` stay what they are, and the layer may have got other parameters since.  Writeable,
            contiguous, of the layer's dtype; unspecified after an exception.
        keep : bool
            Whether the tape may be used again, also by several threads at once.

        Returns
        -------
        dx : ndarray, shaped as x, or None
            Gradient of the input, zero behind the end of each row; None where the input was integers.
        dstate_0 : as `state`
            Gradients of the initial states.

        Raises
        ------
        RuntimeError
            The tape has been used, or is in use, or the layer has got other parameters since.
        TypeError, ValueError
            An argument does not fit; the message names it, what was expected and what came.
        """
        cdef bint keeps, is_apart
        cdef ndarray target = None
        cdef Weights first
        if not isinstance(keep, (bool, np.bool_)):
            raise TypeError(f"keep: expected a bool, got {type(keep).__name__}")
        keeps = keep
        if self._is_used:
            raise RuntimeError("tape: expected one backward for each forward, got a second one (keep=True allows that)")
        if self._is_busy or self._readers != 0 and not keeps:
            raise RuntimeError("tape: expected one call at a time, got one while another runs (keep=True allows that)")
        # First of all: while arguments are read, other threads may run.
        if keeps:
            self._readers += 1
        else:
            self._is_busy = True
        try:
            if grads is not None:
                first = <Weights>self._parts[0]
                target = flat_buffer(grads, "grads", first.typenum, PyArray_SIZE(first.flat), True)
            elif self._layer._parts is not self._parts:
                raise RuntimeError("tape: expected the parameters of its forward, got others since: call forward "
                                   "again")
            elif not hasattr(type(self._layer), "flat_grads"):
                raise TypeError("grads: expected an array, as packed weights have no gradients, got None")
            is_apart = keeps or target is not None or self._record is not None and self._record.reserve is not None
            if dcells is not None and self.cells is None:
                raise ValueError("dcells: expected None without return_cells, got a gradient of cells")
            if PyArray_Check(self.y):
                dy = None if dy is None else read_one(dy, "dy")
                dcells = None if dcells is None else read_one(dcells, "dcells")
            scratch = gradient_scratch(self._layer) if target is None else target
            if self._record is not None:
                records = [self._record]
                result = self.run_back(dy, dstate, scratch, is_apart)
            else:
                records = self._rows.records
                result = self._rows.backward(dy, dstate, dcells, self._bptt, scratch, bool(is_apart))
            # All that can fail is done: nothing is raised once gradients have changed.
            if target is None:
                add_gradients(self._layer, scratch, None if is_apart else records[0])
            if keeps:
                return result
            self._is_used = True
            # What was packed serves the weights that follow.
            self._record = self._rows = self._parts = None
            for record in records:
                give_back(self._layer, record)
            return result
        finally:
            if keeps:
                self._readers -= 1
            else:
                self._is_busy = False

    cdef tuple run_back(self, dy, dstate, ndarray scratch, bint is_apart):
        """Of one stack, where x is one array: the results; gradients of parameters go to `scratch`."""
        cdef Recurrent layer = self._layer
        cdef Record record = self._record
        cdef Weights weights = record.weights
        cdef fl_backward_args args
        cdef ndarray dy_read, dh_n, dc_n, dx = None, dh_0, dc_0 = None, y = <ndarray>self.y
        cdef int nd = PyArray_NDIM(self._h_n), axis, axis_t = self._batched and layer._batch_first
        cdef npy_intp itemsize = PyArray_ITEMSIZE(y)
        cdef npy_intp[3] dims
        memset(&args, 0, sizeof(args))
        if dy is not None:
            dy_read = read_operand(dy, "dy", weights.typenum, PyArray_NDIM(y), PyArray_DIMS(y))
            args.dy = PyArray_DATA(dy_read)
            args.dy_stride_t = PyArray_STRIDES(dy_read)[axis_t] // itemsize
            args.dy_stride_b = PyArray_STRIDES(dy_read)[1 - axis_t] // itemsize
        if dstate is not None:
            for axis in range(nd):
                dims[axis] = PyArray_DIMS(self._h_n)[axis]
            dh_n, dc_n = read_state(read_members(dstate, "dstate", weights), DSTATE_NAMES, weights, nd, dims, True)
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
            args.dx_stride_t = PyArray_STRIDES(dx)[axis_t] // itemsize
            args.dx_stride_b = PyArray_STRIDES(dx)[1 - axis_t] // itemsize
        args.bptt = self._bptt
        args.num_threads = layer._num_threads
        record.run_back(&args, scratch, is_apart)
        return dx, final_state(weights, dh_0, dc_0)
