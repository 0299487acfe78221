# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: from what a caller gives to pointers and strides, or an exception that names the
# argument, what was expected and what came.  Each function tests for the one common case first and inline, a
# plain ndarray of the right dtype; all else is converted, or diagnosed, at leisure.


# ---- Shapes ------------------------------------------------------------------------------------------------

cdef tuple shape_of(int nd, const npy_intp *dims):
    cdef list shape = []
    cdef int axis
    for axis in range(nd):
        shape.append(dims[axis])
    return tuple(shape)


cdef inline bint has_shape(ndarray array, int nd, const npy_intp *dims) noexcept:
    cdef int axis
    if PyArray_NDIM(array) != nd:
        return False
    for axis in range(nd):
        if PyArray_DIMS(array)[axis] != dims[axis]:
            return False
    return True


# ---- Memory --------------------------------------------------------------------------------------------------

@cython.final
cdef class Block:
    """Memory of the C core, which is taken and given back without the GIL: that takes long where it is much."""

    cdef void *memory

    def __dealloc__(self):
        with nogil:
            fl_release(self.memory)


cdef ndarray buffer(npy_intp size, int typenum, bint is_zero):
    """A flat array on memory of its own; its content is not set, or zero."""
    cdef Block block = Block.__new__(Block)
    cdef size_t bytes = <size_t>size * (sizeof(float) if typenum == NPY_FLOAT32 else sizeof(double))
    cdef ndarray array
    with nogil:
        block.memory = fl_allocate(bytes)
        if is_zero and block.memory != NULL:
            memset(block.memory, 0, bytes)
    if block.memory == NULL:
        raise MemoryError(f"expected {bytes} bytes, got none")
    array = PyArray_SimpleNewFromData(1, &size, typenum, block.memory)
    set_array_base(array, block)
    return array


def flat_array(npy_intp size, dtype, bint is_zero):
    """`buffer` for parameters and gradients, of float32 or float64."""
    return buffer(size, NPY_FLOAT32 if dtype == np.float32 else NPY_FLOAT64, is_zero)


# Bytes from which an array is worth a Block: what others take and give back under the GIL takes 0.1 ms.
cdef npy_intp LARGE = 1 << 20


cpdef ndarray own_array(ndarray array):
    """A C-contiguous, writeable copy; a large one is made, and given back at its end, without the GIL."""
    cdef Block block
    cdef ndarray result
    cdef size_t bytes = <size_t>(PyArray_SIZE(array) * PyArray_ITEMSIZE(array))
    cdef void *to
    cdef void *source_data
    if <npy_intp>bytes < LARGE or PyArray_TYPE(array) != NPY_FLOAT32 and PyArray_TYPE(array) != NPY_FLOAT64:
        return PyArray_NewCopy(array, NPY_CORDER)
    block = Block.__new__(Block)
    with nogil:
        block.memory = fl_allocate(bytes)
    if block.memory == NULL:
        raise MemoryError(f"expected {bytes} bytes, got none")
    result = PyArray_SimpleNewFromData(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array), block.memory)
    set_array_base(result, block)
    if PyArray_ISBEHAVED_RO(array) and PyArray_IS_C_CONTIGUOUS(array):
        to, source_data = block.memory, PyArray_DATA(array)
        with nogil:
            memcpy(to, source_data, bytes)
    else:
        result[...] = array
    return result


# ---- Conversion --------------------------------------------------------------------------------------------

cdef inline bint is_plain(object value, int typenum) noexcept:
    """Whether `value` is an ndarray itself, of this dtype, aligned and in native byte order."""
    return (PyArray_CheckExact(value) and PyArray_TYPE(<ndarray>value) == typenum
            and PyArray_ISBEHAVED_RO(<ndarray>value))


cdef inline bint has_row_strides(ndarray array) noexcept:
    """Whether the last dimension is contiguous and the other strides can be counted in elements."""
    cdef int axis, last = PyArray_NDIM(array) - 1
    cdef npy_intp itemsize = PyArray_ITEMSIZE(array)
    for axis in range(last):
        if PyArray_STRIDES(array)[axis] & (itemsize - 1) and PyArray_DIMS(array)[axis] > 1:
            return False
    return (last < 0 or PyArray_STRIDES(array)[last] == itemsize or PyArray_DIMS(array)[last] <= 1
            or PyArray_SIZE(array) == 0)


cpdef ndarray read_array(object value, str name):
    """Any array-like as an ndarray, without a copy where there is one already."""
    if PyArray_CheckExact(value):
        return <ndarray>value
    if isinstance(value, ndarray):
        masked = sys.modules.get("numpy.ma")
        if masked is not None and isinstance(value, masked.MaskedArray):
            raise TypeError(f"{name}: expected an array without a mask, got a masked array (fill it first)")
        return np.asarray(value)
    if value is None:
        raise TypeError(f"{name}: expected an array, got None")
    cdef list members = members_of(value, name)
    if members is not None:
        return stacked(members, name)
    try:
        if hasattr(value, "__dlpack__"):
            value = without_lazy_bits(value)
            try:
                return np.from_dlpack(value)
            except (BufferError, RuntimeError, TypeError, ValueError):
                pass  # what it cannot export, it may still know how to convert, or say why not
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}: {error}") from error


cdef without_lazy_bits(value):
    """A tensor of torch whose sign or conjugate is a note beside the memory: an export would lose the note."""
    for is_lazy, resolve in (("is_neg", "resolve_neg"), ("is_conj", "resolve_conj")):
        if hasattr(value, is_lazy) and hasattr(value, resolve) and getattr(value, is_lazy)():
            value = getattr(value, resolve)()
    return value


cdef ndarray convert(ndarray array, str name, int typenum):
    """Real numbers of any dtype as a C-contiguous ndarray of this one; casts as NumPy's "same_kind" does."""
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    with np.errstate(under="ignore", invalid="ignore"):  # overflow is for the caller to ignore or raise, as in NumPy
        return PyArray_FROM_OTF(array, typenum, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST)


cdef ndarray as_int64(ndarray array):
    """A C-contiguous copy of integers; those that do not fit become negative, which no caller allows."""
    if is_plain(array, NPY_INT64):
        return PyArray_NewCopy(array, NPY_CORDER)
    return PyArray_FROM_OTF(array, NPY_INT64,
                            NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST | NPY_ARRAY_ENSURECOPY)


cdef ndarray read_operand(object value, str name, int typenum, int nd, const npy_intp *dims):
    """A C-contiguous array of exactly this shape."""
    cdef bint fits = is_plain(value, typenum)
    cdef ndarray array = <ndarray>value if fits else read_array(value, name)
    if not has_shape(array, nd, dims):
        raise ValueError(f"{name}: expected shape {shape_of(nd, dims)}, got {np.shape(array)}")
    if fits and PyArray_IS_C_CONTIGUOUS(array):
        return array
    return convert(array, name, typenum)


# ---- Input -------------------------------------------------------------------------------------------------

cdef struct input_view:
    bint is_index           # data points at int64 indices of one-hot rows
    bint batched            # a dimension B was given
    size_t T, B
    const void *data
    ptrdiff_t stride_t, stride_b  # in elements
    int64_t index           # where data points if x is an int


cdef ndarray read_input(object x, Weights weights, bint has_time, bint batch_first, input_view *view):
    """View x (T, B, I), (B, T, I) if `batch_first`, or (T, I); without time (B, I) or (I,).

    Integers are indices, and have no dimension I; they are copied, so that they stay in range while the GIL
    is released.  `view` points into the result, or into itself where that is None.
    """
    cdef ndarray array
    cdef int nd, axis_t, axis_b
    cdef npy_intp itemsize
    cdef object given = None
    view.T = view.B = 1
    view.stride_t = view.stride_b = 0
    if is_plain(x, weights.typenum) and has_row_strides(<ndarray>x):
        array = <ndarray>x
        view.is_index = False
    elif not has_time and PyLong_CheckExact(x):
        view.is_index = True
        view.batched = False
        view.index = x if 0 <= x < weights.shape.input_size else -1
        view.data = &view.index
        return None
    elif is_plain(x, NPY_INT64):
        array = as_int64(<ndarray>x)
        view.is_index = True
    else:
        array = read_one(x, "x")
        given = array.dtype
        view.is_index = array.dtype.kind in "iu"
        if view.is_index:
            array = as_int64(array)
        elif not (is_plain(array, weights.typenum) and has_row_strides(array)):
            array = convert(array, "x", weights.typenum)
    nd = PyArray_NDIM(array) + view.is_index
    view.batched = nd == 2 + has_time
    if (not view.batched and nd != 1 + has_time or
            not view.is_index and <size_t>PyArray_DIMS(array)[nd - 1] != weights.shape.input_size):
        raise wrong_input(array, given or array.dtype, weights, has_time, batch_first, view.is_index)
    itemsize = PyArray_ITEMSIZE(array)
    axis_t = view.batched and batch_first
    axis_b = 1 - axis_t if has_time else 0
    view.data = PyArray_DATA(array)
    if has_time:
        view.T = <size_t>PyArray_DIMS(array)[axis_t]
        view.stride_t = PyArray_STRIDES(array)[axis_t] // itemsize
    if view.batched:
        view.B = <size_t>PyArray_DIMS(array)[axis_b]
        view.stride_b = PyArray_STRIDES(array)[axis_b] // itemsize
    return array


cdef inline void put_input(fl_forward_args *args, const input_view *view) noexcept:
    if view.is_index:
        args.x_index = <const int64_t *>view.data
    else:
        args.x = view.data
    args.T = view.T
    args.B = view.B
    args.x_stride_t = view.stride_t
    args.x_stride_b = view.stride_b


cdef wrong_input(ndarray array, given, Weights weights, bint has_time, bint batch_first, bint is_index):
    letters = ("B, T" if batch_first else "T, B") if has_time else "B"
    unbatched = "T" if has_time else ""
    if is_index:
        expected = f"shape ({letters}) or ({unbatched}) of integers, which are indices of one-hot rows"
    else:
        unbatched = f"T, {weights.shape.input_size}" if has_time else f"{weights.shape.input_size},"
        expected = f"shape ({letters}, {weights.shape.input_size}) or ({unbatched})"
    return ValueError(f"x: expected {expected}, got {np.shape(array)} of {given}")


cdef wrong_index(object x, Weights weights, object lengths, bint batch_first):
    """Why the C core found an index outside of 0 ... I - 1 in the first `lengths` steps of a row."""
    cdef object array = read_array(x, "x")
    bad = (array < 0) | (array >= weights.shape.input_size)
    if lengths is not None:
        axis_t = 1 if batch_first and array.ndim == 2 else 0
        inside = np.arange(array.shape[axis_t]) < lengths[:, None]
        bad &= inside if axis_t else inside.T.reshape(bad.shape)
    where = np.argwhere(bad)
    if not len(where):
        return ValueError("x: changed while it was being read")
    place = tuple(where[0].tolist())
    return ValueError(f"x{list(place) if place else ''}: expected an index from 0 to "
                      f"{weights.shape.input_size - 1}, got {array[place]}")


cdef ndarray read_lengths(object lengths, size_t T, size_t B, bint batched):
    """A copy as int64 (B,), which nobody changes while the GIL is released; the C core checks integers."""
    if is_plain(lengths, NPY_INT64) and PyArray_NDIM(<ndarray>lengths) == 1 and (
            <size_t>PyArray_DIMS(<ndarray>lengths)[0] == B):
        return as_int64(<ndarray>lengths)
    cdef object array = read_one(lengths, "lengths")
    kind = array.dtype.kind
    if kind not in "iuf":
        raise TypeError(f"lengths: expected integers, got dtype {array.dtype}")
    if not batched and np.shape(array) == ():
        array = array.reshape(1)
    if np.shape(array) != (B,):
        raise ValueError(f"lengths: expected shape ({B},), got {np.shape(array)}")
    if kind == "f" and not np.all((array >= 0) & (array <= T) & (array == np.floor(array))):
        raise wrong_length(array, T)
    return as_int64(array)


cdef wrong_length(object lengths, size_t T):
    array = np.reshape(read_array(lengths, "lengths"), -1)
    for row, length in enumerate(array.tolist()):
        if not (0 <= length <= T and length == int(length)):
            return ValueError(f"lengths[{row}]: expected an integer from 0 to T = {T}, got {length}")
    return ValueError("lengths: changed while they were being read")


cpdef ndarray read_flags(value, str name, size_t T, size_t B, bint batched, bint batch_first):
    """Booleans as uint8 (T, B), C-contiguous; a copy."""
    cdef object array = read_one(value, name)
    cdef bint swapped = batch_first and batched
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: expected booleans, got dtype {array.dtype}")
    cdef tuple expected = (T,)
    if batched:
        expected = (B, T) if swapped else (T, B)
    if np.shape(array) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {np.shape(array)}")
    return np.array(array.T if swapped else array, np.uint8, order="C", copy=True).reshape(T, B)


@cython.final
@cython.internal
cdef class Frozen:
    """Owns memory that nobody can write to any more: outputs of tapes, which other tapes keep without a copy.

    A read-only flag says nothing of that: an owner may set it back, and views made before may write.  Views of
    this, which has no buffer, cannot become writeable.
    """

    cdef ndarray array


cpdef ndarray frozen(ndarray array):
    """A read-only view of a contiguous array that nobody else has, for good."""
    cdef Frozen owner = Frozen.__new__(Frozen)
    cdef ndarray view = PyArray_SimpleNewFromData(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array),
                                                  PyArray_DATA(array))
    owner.array = array
    set_array_base(view, owner)
    PyArray_CLEARFLAGS(view, NPY_ARRAY_WRITEABLE)
    return view


cdef ndarray own_copy(ndarray array):
    """A copy, unless nobody can write to the array: it must stay as it is until the backward pass."""
    cdef object owner = array
    while PyArray_Check(owner):
        owner = get_array_base(<ndarray>owner)
    return array if isinstance(owner, Frozen) else own_array(array)


# ---- Output ------------------------------------------------------------------------------------------------

cdef int check_out(object out, str name, int typenum, int nd, const npy_intp *dims) except -1:
    """Whether `out` can be written as it is."""
    if (PyArray_CheckExact(out) and PyArray_TYPE(<ndarray>out) == typenum and PyArray_ISCARRAY(<ndarray>out)
            and has_shape(<ndarray>out, nd, dims)):
        return 0
    if not isinstance(out, ndarray):
        raise TypeError(f"{name}: expected an ndarray, got {type(out).__name__}")
    cdef object array = read_array(out, name)
    expected = np.dtype(np.float32 if typenum == NPY_FLOAT32 else np.float64)
    if not has_shape(array, nd, dims):
        raise ValueError(f"{name}: expected shape {shape_of(nd, dims)}, got {np.shape(array)}")
    if array.dtype != expected:
        raise ValueError(f"{name}: expected dtype {expected}, got {array.dtype}")
    flags = array.flags
    for is_so, expected, got in ((flags.c_contiguous, "a C-contiguous", f"one with strides {array.strides}"),
                                 (flags.aligned, "an aligned", "a misaligned one"),
                                 (flags.writeable, "a writeable", "a read-only one")):
        if not is_so:
            raise ValueError(f"{name}: expected {expected} array, got {got}")
    return 0


cdef inline bint extents_meet(ndarray a, ndarray b) noexcept:
    """Whether the bytes from the first to the last element of two arrays have any in common."""
    cdef uintptr_t a_begin, a_end, b_begin, b_end
    extent(a, &a_begin, &a_end)
    extent(b, &b_begin, &b_end)
    return a_begin < b_end and b_begin < a_end


cdef inline void extent(ndarray array, uintptr_t *begin, uintptr_t *end) noexcept:
    cdef int axis
    cdef npy_intp count, stride
    begin[0] = end[0] = <uintptr_t>PyArray_DATA(array)
    for axis in range(PyArray_NDIM(array)):
        count = PyArray_DIMS(array)[axis]
        if count == 0:
            end[0] = begin[0] = 0
            return
        stride = PyArray_STRIDES(array)[axis] * (count - 1)
        if stride < 0:
            begin[0] -= <uintptr_t>-stride
        else:
            end[0] += <uintptr_t>stride
    end[0] += <uintptr_t>PyArray_ITEMSIZE(array)


cdef int check_apart(object out, str name, ndarray other, str other_name) except -1:
    """Whether writing `out` leaves `other` as it is."""
    if other is not None and extents_meet(<ndarray>out, other) and np.shares_memory(out, other):
        raise ValueError(f"{name}: expected memory apart from {other_name}, got an array that overlaps it")
    return 0


cdef int check_apart_from(object out, str name, object value, str value_name) except -1:
    """`check_apart` for whatever a caller gave: an array of any type, or a container of them."""
    cdef list members
    cdef size_t n
    if value is None or isinstance(value, (int, float)):
        return 0
    if PyArray_Check(value):
        return check_apart(out, name, <ndarray>value, value_name)
    members = members_of(value, value_name)
    if members is None:
        return check_apart(out, name, read_array(value, value_name), value_name)
    for n in range(<size_t>len(members)):
        item = members[n]
        if not (isinstance(item, (int, float)) or PyArray_Check(item) and not extents_meet(<ndarray>out,
                                                                                           <ndarray>item)):
            check_apart_from(out, name, item, f"{value_name}[{n}]")
    return 0


cdef int check_apart_from_read(object out, str name, value, ndarray read, str value_name) except -1:
    """`read` is what was made of `value`: perhaps a view of memory that it only stands for."""
    if value is not read:
        check_apart_from(out, name, value, value_name)
    return check_apart(out, name, read, value_name)


# ---- Parameters that another library keeps ---------------------------------------------------------------------

def memory_equals(ndarray flat not None, addresses, sizes):
    """Whether a flat array has the bytes that stand at each address, so many elements, one after the other.

    Whoever gives addresses keeps what stands there, and its sizes are right.
    """
    cdef const char *own = <const char *>PyArray_DATA(flat)
    cdef size_t left = <size_t>PyArray_SIZE(flat), real_size = <size_t>PyArray_ITEMSIZE(flat), size
    for address, count in zip(addresses, sizes):
        size = count
        if size > left:
            raise ValueError(f"sizes: expected a sum of {PyArray_SIZE(flat)}, got more")
        if memcmp(own, <const void *><uintptr_t>address, size * real_size) != 0:
            return False
        own += size * real_size
        left -= size
    return left == 0


def gathered_memory(addresses, sizes, dtype):
    """A new flat array of what stands at each address, so many elements: see `memory_equals`."""
    cdef ndarray flat = flat_array(sum(sizes), np.dtype(dtype), False)
    cdef char *own = <char *>PyArray_DATA(flat)
    cdef size_t real_size = <size_t>PyArray_ITEMSIZE(flat), size
    for address, count in zip(addresses, sizes):
        size = count
        memcpy(own, <const void *><uintptr_t>address, size * real_size)
        own += size * real_size
    return flat
