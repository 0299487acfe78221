# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: what optimisers do with flat buffers.


cdef ndarray flat_buffer(object value, str name, int typenum, npy_intp size, bint writes):
    if not (is_plain(value, typenum) and PyArray_NDIM(<ndarray>value) == 1
            and PyArray_IS_C_CONTIGUOUS(<ndarray>value) and PyArray_SIZE(<ndarray>value) == size
            and (not writes or PyArray_ISCARRAY(<ndarray>value))):
        raise ValueError(f"{name}: expected a {'writeable ' if writes else ''}flat buffer of {size} elements of "
                         f"one dtype for all, got {np.shape(value)} of {getattr(value, 'dtype', type(value))}")
    return <ndarray>value


cdef int flat_typenum(object value, str name) except -1:
    """Of float32 or float64."""
    cdef int typenum = PyArray_TYPE(<ndarray?>value)
    if typenum != NPY_FLOAT32 and typenum != NPY_FLOAT64:
        raise ValueError(f"{name}: expected float32 or float64, got {value.dtype}")
    return typenum


cdef inline fl_dtype dtype_of(int typenum) noexcept:
    return FL_F32 if typenum == NPY_FLOAT32 else FL_F64


def all_finite(ndarray values not None):
    """Whether a contiguous array of float32 or float64 has neither infinite elements nor NaN."""
    cdef fl_dtype dtype = dtype_of(flat_typenum(values, "values"))
    cdef size_t size = <size_t>PyArray_SIZE(values)
    cdef void *data = PyArray_DATA(values)
    cdef bint result
    if not PyArray_IS_C_CONTIGUOUS(values):
        raise ValueError("values: expected a contiguous array, got another")
    with nogil:
        result = fl_all_finite(dtype, size, data)
    return result


# ---- Whether anybody else holds a set of parameters -------------------------------------------------------------

cdef object getrefcount = sys.getrefcount
cdef list alone = [object()]
cdef Py_ssize_t count_alone = getrefcount(alone[0])


def is_unshared(list sets not None, size_t n):
    """Whether the list has the only reference to its set `n` of parameters, and nobody has a view of it."""
    return getrefcount(sets[n]) == count_alone and getrefcount(sets[n].flat) == count_alone


# ---- Steps -----------------------------------------------------------------------------------------------------

# By how much results stay below the limit, so that who sums their squares in float64 finds no more: of float32 arrays,
# and where one is of float64.
cdef double SHORT_MARGIN = 2.0 ** -36
cdef double LONG_MARGIN = 2.0 ** -48

# Elements of all layers: less take a few microseconds, and keep the GIL.
cdef size_t TINY_STEP = 20000


cdef struct flat_work:
    fl_dtype dtype
    size_t size
    const void *params
    const void *grads
    void *new_params
    void *first   # moments
    void *second
    # Of a layer of whose tables some words alone have gradients; 0 of any other.
    size_t tables
    fl_table table[2]
    fl_columns words[2]
    void *new_words[2]
    void *words_room
    size_t table_begin[2]
    size_t table_size


cdef struct step_work:
    flat_work *flats
    size_t count
    bint is_adam, checks
    fl_adam_args adam
    fl_sgd_args sgd


cdef int point_at_work(flat_work *work, params, new_params, grads, tuple moments) except -1:
    """All checked; `new_params` may be read-only, as it is not in force yet."""
    cdef int typenum = flat_typenum(params, "params")
    cdef npy_intp size = PyArray_SIZE(<ndarray>params)
    memset(work, 0, sizeof(work[0]))
    work.dtype, work.size = dtype_of(typenum), <size_t>size
    work.params = PyArray_DATA(flat_buffer(params, "params", typenum, size, False))
    work.new_params = PyArray_DATA(flat_buffer(new_params, "new_params", typenum, size, False))
    work.grads = PyArray_DATA(flat_buffer(grads, "grads", typenum, size, False))
    if len(moments) > 0:
        work.first = PyArray_DATA(flat_buffer(moments[0], "moments", typenum, size, True))
    if len(moments) > 1:
        work.second = PyArray_DATA(flat_buffer(moments[1], "moments", typenum, size, True))
    return 0


cdef list point_at_words(flat_work *work, Words words):
    """The words, their gradients, room for what they are then, each for each table, and what else the step needs."""
    cdef size_t n
    cdef list result = []
    cdef size_t size
    cdef ndarray room
    used = np.empty(0, np.int64) if words.used is None else words.used
    work.tables, work.table_size = words.count, words.extent
    for n in range(words.count):
        work.table[n], work.table_begin[n], work.words[n] = words.tables[n], words.begins[n], words.columns(n)
        result.append(passing(work.words[n].count * work.table[n].width, words.typenum))
        work.new_words[n] = PyArray_DATA(<ndarray>result[n])
    size = fl_sgd_words_room(&words.tables[0], work.words[0].count)
    room = passing(size, words.typenum)
    work.words_room = PyArray_DATA(room)
    memset(work.words_room, 0, size * <size_t>PyArray_ITEMSIZE(room))
    return [used, words.values, result, room]


cdef inline size_t gap_of(const flat_work *f, size_t n, size_t *size) noexcept nogil:
    """Where what is no table begins, and its elements: before table `n`, or behind the last."""
    cdef size_t begin = f.table_begin[n - 1] + f.table_size if n > 0 else 0
    size[0] = (f.table_begin[n] if n < f.tables else f.size) - begin
    return begin


cdef bint words_are_finite(const flat_work *f) noexcept nogil:
    cdef size_t n, begin, size, real_size = 4 if f.dtype == FL_F32 else 8
    for n in range(f.tables + 1):
        begin = gap_of(f, n, &size)
        if not fl_all_finite(f.dtype, size, <const char *>f.grads + begin * real_size):
            return False
    for n in range(f.tables):
        if not fl_all_finite(f.dtype, f.words[n].count * f.table[n].width, f.words[n].values):
            return False
    return True


cdef void step_words(const flat_work *f, const fl_sgd_args *args) noexcept nogil:
    cdef size_t n, begin, size, real_size = 4 if f.dtype == FL_F32 else 8
    cdef const char *params = <const char *>f.params
    cdef char *new_params = <char *>f.new_params
    for n in range(f.tables + 1):
        begin = gap_of(f, n, &size)
        fl_sgd_step(f.dtype, size, args, <const char *>f.grads + begin * real_size, params + begin * real_size,
                    new_params + begin * real_size, NULL)
    for n in range(f.tables):
        begin = f.table_begin[n]
        fl_sgd_words(&f.table[n], &f.words[n], args.lr, params + begin * real_size, new_params + begin * real_size,
                     f.new_words[n], f.words_room)


cdef ptrdiff_t run_steps(const step_work *w) noexcept nogil:
    """All steps, or none and the index of the first layer with a gradient that is not finite."""
    cdef size_t n
    cdef const flat_work *f
    cdef bint fine
    # Where there are moments, nothing may be written before all is known; new parameters alone are in nobody's way.
    for n in range(w.count):
        f = w.flats + n
        if w.checks and f.first != NULL and not fl_all_finite(f.dtype, f.size, f.grads):
            return <ptrdiff_t>n
    for n in range(w.count):
        f = w.flats + n
        if f.tables != 0:
            if w.checks and not words_are_finite(f):
                return <ptrdiff_t>n
            step_words(f, &w.sgd)
        elif w.is_adam:
            fl_adam_step(f.dtype, f.size, &w.adam, f.grads, f.params, f.new_params, f.first, f.second)
        else:
            fine = fl_sgd_step(f.dtype, f.size, &w.sgd, f.grads, f.params, f.new_params, f.first)
            if w.checks and f.first == NULL and not fine:
                return <ptrdiff_t>n
    return -1


cdef Weights first_weights(layer):
    """Those that a layer has, if it is recurrent."""
    return (<Recurrent>layer)._weights if isinstance(layer, Recurrent) else None


def optimiser_step(list changes not None, list before not None, list after not None, list grads not None,
                   list moments not None, list tables not None, dict options not None, num_steps, bint checks):
    """One step over the flat buffers of several layers, which puts the new parameters in force.

    All of it, or nothing: after the checks nothing can raise, and no signal is handled before the end.

    Parameters
    ----------
    changes : list of tuple
        What puts the new parameters in force, as `assign_all` takes it, and what else a step changes.
    before, after : list of ParameterSet
        Parameters in force, and those to be written, which nobody else has.
    grads : list of ndarray
    moments : list of tuple of ndarray
        None, that of SGD, or both of Adam, which are changed.
    tables : list of (Words or None)
        What `local_words` says of each layer.
    options : dict
        Of the step: ``lr`` and ``weight_decay``, with ``betas``, ``eps`` and ``decoupled`` or with ``momentum`` and
        ``nesterov``.
    num_steps : int
        Number of the step, from 1.
    checks : bool
        Whether all gradients must be finite.

    Returns
    -------
    int
        Index of a layer with a gradient that is not, in which case nothing has changed; else -1.
    """
    cdef size_t n, total = 0, count = <size_t>len(before)
    cdef ptrdiff_t bad
    cdef step_work work
    cdef list words = [None] * count
    cdef list weights = [None] * count
    work.count, work.checks, work.is_adam = count, checks, "betas" in options
    if work.is_adam:
        (work.adam.beta1, work.adam.beta2), work.adam.eps = options["betas"], options["eps"]
        work.adam.lr, work.adam.weight_decay = options["lr"], options["weight_decay"]
        work.adam.decoupled, work.adam.step = options["decoupled"], num_steps
    else:
        work.sgd.lr, work.sgd.weight_decay = options["lr"], options["weight_decay"]
        work.sgd.momentum, work.sgd.nesterov = options["momentum"], options["nesterov"]
    work.flats = <flat_work *>PyMem_Malloc(count * sizeof(flat_work))
    if work.flats == NULL:
        raise MemoryError
    try:
        for n in range(count):
            point_at_work(work.flats + n, before[n].flat, after[n].flat, grads[n], moments[n])
            total += work.flats[n].size
            if tables[n] is not None:
                words[n] = point_at_words(work.flats + n, <Words?>tables[n])
                weights[n] = first_weights(changes[n][0])
        if total < TINY_STEP:
            bad = run_steps(&work)
        else:
            with nogil:
                bad = run_steps(&work)
        if bad < 0:
            assign_all(changes)
            for n in range(count):
                if weights[n] is not None and getrefcount(weights[n]) == count_alone:
                    first_weights(changes[n][0]).take_over(weights[n], words[n][0], words[n][2])
        return bad
    finally:
        PyMem_Free(work.flats)


# ---- Clipping --------------------------------------------------------------------------------------------------

cdef double sum_all_squares(const flat_work *flats, size_t count, double scale) noexcept nogil:
    cdef double total = 0.0
    cdef size_t n
    for n in range(count):
        total += fl_sum_squares(flats[n].dtype, flats[n].size, flats[n].grads, scale)
    return total


cdef double clip(flat_work *flats, size_t count, double limit) noexcept nogil:
    """The norm; all arrays are shrunk where it is above the limit."""
    cdef double total = sum_all_squares(flats, count, 1.0), most = 0.0, norm, factor, margin = SHORT_MARGIN
    cdef int exponent = 0, own = 0
    cdef size_t n
    # Squares of float64 may go out of range where numbers do not: divide by a power of two near the largest.
    if total == total and not 1e-280 < total < 1e300:
        for n in range(count):
            most = max(most, fl_largest(flats[n].dtype, flats[n].size, flats[n].grads))
        if most > 0.0 and most < INFINITY:
            frexp(most, &exponent)
            exponent = max(exponent, -1000)  # so that the reciprocal is finite
            total = sum_all_squares(flats, count, ldexp(1.0, -exponent))
    norm = sqrt(total)  # times 2^exponent
    if not norm < INFINITY or ldexp(norm, exponent) <= limit:
        return ldexp(norm, exponent)
    for n in range(count):
        if flats[n].dtype == FL_F64:
            margin = LONG_MARGIN
    factor = frexp(limit / norm * (1.0 - margin), &own)
    for n in range(count):
        if limit == 0.0:
            memset(<void *>flats[n].grads, 0, flats[n].size * (4 if flats[n].dtype == FL_F32 else 8))
        else:
            fl_shrink(flats[n].dtype, flats[n].size, factor, own - exponent, <void *>flats[n].grads)
    return ldexp(norm, exponent)


def clip_gradients(list grads not None, double limit):
    """Shrink arrays so that their norm together is at most `limit`; returns the norm before."""
    cdef size_t n, total = 0, count = <size_t>len(grads)
    cdef double norm
    cdef int typenum
    cdef flat_work *flats = <flat_work *>PyMem_Malloc(count * sizeof(flat_work))
    if flats == NULL:
        raise MemoryError
    try:
        for n in range(count):
            typenum = flat_typenum(grads[n], "grads")
            flats[n].dtype, flats[n].size = dtype_of(typenum), <size_t>PyArray_SIZE(<ndarray>grads[n])
            flats[n].grads = PyArray_DATA(flat_buffer(grads[n], "grads", typenum, <npy_intp>flats[n].size, True))
            total += flats[n].size
        if total < TINY_STEP:
            norm = clip(flats, count, limit)
        else:
            with nogil:
                norm = clip(flats, count, limit)
        return norm
    finally:
        PyMem_Free(flats)
