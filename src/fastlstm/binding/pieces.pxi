# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: the pieces of a step, as kernels.py exports them.


cdef ndarray read_real(object value, str name, int *typenum):
    """Any array-like as an ndarray; raises `typenum` to float64 unless it is float32 or less."""
    cdef ndarray array = read_array(value, name)
    if PyArray_TYPE(array) != NPY_FLOAT32 and PyArray_TYPE(array) != NPY_FLOAT16:
        typenum[0] = NPY_FLOAT64
    return array


cdef Weights pack_one(weight_ih, weight_hh, bias, int typenum, tuple source=None):
    cdef npy_intp[1] dims
    for name, weight in (("weight_ih", weight_ih), ("weight_hh", weight_hh)):
        if weight.ndim != 2 or 0 in weight.shape:
            expected = "(4 * H, I)" if name == "weight_ih" else "(4 * H, H)"
            raise ValueError(f"{name}: expected shape {expected}, got {weight.shape}")
    if bias is not None:
        dims[0] = 4 * <npy_intp>weight_hh.shape[1]
        bias = read_operand(bias, "bias", typenum, 1, dims)
    dtype = np.float32 if typenum == NPY_FLOAT32 else np.float64
    arrays = [{"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias}]
    return Weights(dtype, (weight_ih.shape[1], weight_hh.shape[1], 1, 1), {}, arrays, source)


def packed(weight_ih, weight_hh, bias=None):
    """Pack the weights of one layer for `gate_matmul`, once instead of at every call.

    Parameters
    ----------
    weight_ih : array_like, (4H, I)
        Input weights, gates in the order i, f, g, o.
    weight_hh : array_like, (4H, H)
        Recurrent weights.
    bias : array_like, (4H,), optional
        Bias; none is zero.

    Returns
    -------
    Weights
        Takes the place of `weight_ih` in `gate_matmul`; it does not change with the arrays.

    Raises
    ------
    TypeError, ValueError
        An argument is not real or has a wrong shape.
    """
    cdef int typenum = NPY_FLOAT32
    source = (
        read_real(weight_ih, "weight_ih", &typenum).copy(),
        read_real(weight_hh, "weight_hh", &typenum).copy(),
        None if bias is None else read_real(bias, "bias", &typenum).copy(),
    )
    return pack_one(source[0], source[1], source[2], typenum, source)


def gate_matmul(x, h, weight_ih, weight_hh=None, bias=None, out=None):
    """Gates before their activation: ``x @ weight_ih.T + h @ weight_hh.T + bias`` in one pass.

    Parameters
    ----------
    x : array_like, (B, I) or (I,)
        Input, of a floating dtype.
    h : array_like, (B, H) or (H,)
        Hidden state.
    weight_ih : array_like, (4H, I), or Weights
        Input weights, gates in the order i, f, g, o; or all weights as returned by `packed`.
    weight_hh : array_like, (4H, H)
        Recurrent weights; not given with packed ones.
    bias : array_like, (4H,), optional
        Bias; not given with packed weights.
    out : ndarray, (B, 4H) or (4H,), optional
        Receives the result: of its dtype, C-contiguous, not overlapping an input.

    Returns
    -------
    ndarray, (B, 4H) or (4H,)
        Pre-activation gates in the order i, f, g, o; `out` if given.  float64 where an array is, else
        float32; with packed weights their dtype.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """
    cdef Weights weights
    cdef input_view view
    cdef npy_intp[2] dims
    cdef ndarray x_read, h_read, gates
    cdef fl_stack *stack
    cdef fl_status status
    cdef size_t H
    cdef int nd, typenum = NPY_FLOAT32
    if isinstance(weight_ih, Weights):
        weights = <Weights>weight_ih
        if weight_hh is not None or bias is not None:
            raise TypeError("weight_hh, bias: expected None with packed weights, which hold them")
        if (weights.shape.num_layers != 1 or weights.shape.num_directions != 1
                or not weights.has_no_options()):
            raise ValueError("weight_ih: expected the weights of one layer and direction of an LSTM without "
                             "options, got others")
    else:
        x, h = read_real(x, "x", &typenum), read_real(h, "h", &typenum)
        weight_ih = read_real(weight_ih, "weight_ih", &typenum)
        weight_hh = read_real(weight_hh, "weight_hh", &typenum)
        bias = None if bias is None else read_real(bias, "bias", &typenum)
        weights = pack_one(weight_ih, weight_hh, bias, typenum)
    H = weights.shape.hidden_size
    if not is_plain(x, weights.typenum) and read_array(x, "x").dtype.kind in "iu":
        raise TypeError(f"x: expected a floating dtype, got {read_array(x, 'x').dtype}")
    x_read = read_input(x, weights, False, False, &view)
    nd = 1 + view.batched
    dims[0] = <npy_intp>view.B
    dims[nd - 1] = <npy_intp>H
    h_read = read_operand(h, "h", weights.typenum, nd, dims)
    dims[nd - 1] = 4 * <npy_intp>H
    if out is None:
        gates = <ndarray>PyArray_EMPTY(nd, dims, weights.typenum, 0)
    else:
        check_out(out, "out", weights.typenum, nd, dims)
        check_apart_from_read(out, "out", x, x_read, "x")
        check_apart_from_read(out, "out", h, h_read, "h")
        if not isinstance(weight_ih, Weights):
            check_apart(out, "out", <ndarray>weight_ih, "weight_ih")
            check_apart(out, "out", <ndarray>weight_hh, "weight_hh")
            check_apart(out, "out", <ndarray>bias, "bias")
        gates = <ndarray>out
    stack = weights.packed_stack()
    with nogil:
        status = fl_gate_matmul(stack, view.B, view.data, view.stride_b, PyArray_DATA(h_read),
                                <ptrdiff_t>H, PyArray_DATA(gates), 4 * <ptrdiff_t>H)
    check(status)
    return gates


def cell_update(gates, c, out=None):
    """One elementwise cell update: ``c' = f * c + i * g`` and ``h' = o * tanh(c')``.

    Parameters
    ----------
    gates : array_like, (B, 4H) or (4H,)
        Pre-activation gates in the order i, f, g, o.
    c : array_like, (B, H) or (H,)
        Cell state.
    out : tuple of ndarray, (B, H) or (H,), optional
        Receive the new ``(h, c)``: of the result's dtype, C-contiguous, apart from each other and from the
        inputs, except that ``out[1]`` may be `c` itself.

    Returns
    -------
    h, c : ndarray, (B, H) or (H,)
        The new hidden state and cell state.  float64 where an array is, else float32.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """
    cdef npy_intp[2] dims
    cdef ndarray gates_read, c_read, h_out, c_out
    cdef size_t B, H
    cdef fl_dtype dtype
    cdef fl_status status
    cdef int nd, axis, typenum = NPY_FLOAT32
    gates, c = read_real(gates, "gates", &typenum), read_real(c, "c", &typenum)
    nd = PyArray_NDIM(<ndarray>c)
    if nd != 1 and nd != 2:
        raise ValueError(f"c: expected shape (B, H) or (H,), got {c.shape}")
    for axis in range(nd):
        dims[axis] = PyArray_DIMS(<ndarray>c)[axis]
    c_read = read_operand(c, "c", typenum, nd, dims)
    H = <size_t>dims[nd - 1]
    B = <size_t>dims[0] if nd == 2 else 1
    if out is None:
        h_out = <ndarray>PyArray_EMPTY(nd, dims, typenum, 0)
        c_out = <ndarray>PyArray_EMPTY(nd, dims, typenum, 0)
    else:
        h_given, c_given = read_pair(out, "out")
        check_out(h_given, "out[0]", typenum, nd, dims)
        check_out(c_given, "out[1]", typenum, nd, dims)
        h_out, c_out = <ndarray>h_given, <ndarray>c_given
        check_apart(h_out, "out[0]", c_out, "out[1]")
        check_apart(h_out, "out[0]", <ndarray>c, "c")
        check_apart(h_out, "out[0]", <ndarray>gates, "gates")
        check_apart(c_out, "out[1]", <ndarray>gates, "gates")
        if not (c_read is c and PyArray_DATA(c_out) == PyArray_DATA(c_read)):
            check_apart(c_out, "out[1]", <ndarray>c, "c")
    dims[nd - 1] *= 4
    gates_read = read_operand(gates, "gates", typenum, nd, dims)
    dtype = FL_F32 if typenum == NPY_FLOAT32 else FL_F64
    with nogil:
        status = fl_cell_update(dtype, B, H, PyArray_DATA(gates_read), 4 * <ptrdiff_t>H,
                                PyArray_DATA(c_read), <ptrdiff_t>H, PyArray_DATA(h_out), <ptrdiff_t>H,
                                PyArray_DATA(c_out), <ptrdiff_t>H)
    check(status)
    return h_out, c_out


def sigmoid(x, out=None):
    """Logistic function, ``1 / (1 + exp(-x))``, elementwise.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    out : ndarray, optional
        Receives the result: of its shape and dtype, C-contiguous; may be `x` itself, else apart from it.

    Returns
    -------
    ndarray
        Same shape; float32 where `x` is float32 or float16, else float64.  `out` if given.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """
    return activate(x, out, fl_sigmoid)


def tanh(x, out=None):
    """Hyperbolic tangent, elementwise.

    Parameters
    ----------
    x : array_like
        Real numbers of any shape.
    out : ndarray, optional
        Receives the result: of its shape and dtype, C-contiguous; may be `x` itself, else apart from it.

    Returns
    -------
    ndarray
        Same shape; float32 where `x` is float32 or float16, else float64.  `out` if given.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """
    return activate(x, out, fl_tanh)


ctypedef void (*activation)(fl_dtype dtype, size_t n, const void *x, void *out) noexcept nogil


cdef ndarray activate(x, out, activation function):
    cdef ndarray x_read, y
    cdef fl_dtype dtype
    cdef size_t n
    cdef int typenum = NPY_FLOAT32
    x = read_real(x, "x", &typenum)
    x_read = read_operand(x, "x", typenum, PyArray_NDIM(<ndarray>x), PyArray_DIMS(<ndarray>x))
    if out is None:
        y = <ndarray>PyArray_EMPTY(PyArray_NDIM(x_read), PyArray_DIMS(x_read), typenum, 0)
    else:
        check_out(out, "out", typenum, PyArray_NDIM(x_read), PyArray_DIMS(x_read))
        y = <ndarray>out
        if not (x_read is x and PyArray_DATA(y) == PyArray_DATA(x_read)):
            check_apart(y, "out", <ndarray>x, "x")
    dtype = FL_F32 if typenum == NPY_FLOAT32 else FL_F64
    n = <size_t>PyArray_SIZE(x_read)
    with nogil:
        function(dtype, n, PyArray_DATA(x_read), PyArray_DATA(y))
    return y
