# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: what optimisers do with flat buffers.


cdef ndarray flat_buffer(object value, str name, int typenum, npy_intp size, bint writes):
    if not (is_plain(value, typenum) and PyArray_NDIM(<ndarray>value) == 1
            and PyArray_IS_C_CONTIGUOUS(<ndarray>value) and PyArray_SIZE(<ndarray>value) == size
            and (not writes or PyArray_ISCARRAY(<ndarray>value))):
        raise ValueError(f"{name}: expected a {'writeable ' if writes else ''}flat buffer of {size} elements of "
                         f"one dtype for all, got {np.shape(value)} of {getattr(value, 'dtype', type(value))}")
    return <ndarray>value


def all_finite(ndarray values not None):
    """Whether a contiguous array of float32 or float64 has neither infinite elements nor NaN."""
    cdef int typenum = PyArray_TYPE(values)
    cdef size_t size = <size_t>PyArray_SIZE(values)
    cdef void *data = PyArray_DATA(values)
    cdef bint result
    if (typenum != NPY_FLOAT32 and typenum != NPY_FLOAT64) or not PyArray_IS_C_CONTIGUOUS(values):
        raise ValueError(f"values: expected a contiguous array of float32 or float64, got {values.dtype}")
    with nogil:
        result = fl_all_finite(FL_F32 if typenum == NPY_FLOAT32 else FL_F64, size, data)
    return result


def adam_step(params, new_params, grads, m, v, *, double lr, double beta1, double beta2, double eps,
              double weight_decay, bint decoupled, size_t step):
    """One step of Adam over flat buffers; `m` and `v` are updated, `new_params` (may be `params`) written."""
    cdef fl_adam_args args
    cdef int typenum = PyArray_TYPE(<ndarray?>params)
    cdef npy_intp size = PyArray_SIZE(<ndarray>params)
    cdef size_t n = <size_t>size
    if typenum != NPY_FLOAT32 and typenum != NPY_FLOAT64:
        raise ValueError(f"params: expected float32 or float64, got {params.dtype}")
    cdef void *p = PyArray_DATA(flat_buffer(params, "params", typenum, size, False))
    cdef void *new = PyArray_DATA(flat_buffer(new_params, "new_params", typenum, size, True))
    cdef void *g = PyArray_DATA(flat_buffer(grads, "grads", typenum, size, False))
    cdef void *first = PyArray_DATA(flat_buffer(m, "m", typenum, size, True))
    cdef void *second = PyArray_DATA(flat_buffer(v, "v", typenum, size, True))
    args.lr, args.beta1, args.beta2, args.eps = lr, beta1, beta2, eps
    args.weight_decay, args.decoupled, args.step = weight_decay, decoupled, step
    with nogil:
        fl_adam_step(FL_F32 if typenum == NPY_FLOAT32 else FL_F64, n, &args, g, p, new, first, second)
