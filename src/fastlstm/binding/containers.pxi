# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: what is one array, and what is a batch of sequences.
#
# docs/semantics.md has the rule.  Containers are lists, tuples and what else has a length and members without saying
# that it is an array.

# Of lists in lists; NumPy's own is 64.
cdef int MOST_LEVELS = 32


cdef bint is_array_object(object value) except -1:
    """Whether an object says itself that it is an array."""
    if PyArray_Check(value) or PyObject_CheckBuffer(value):
        return True
    for name in ("__array__", "__array_interface__", "__array_struct__", "__dlpack__"):
        if hasattr(value, name):
            return True
    return False


cdef list members_of(object value, str name):
    """The members of a container; None for all else."""
    if PyList_CheckExact(value):
        return <list>value
    if PyTuple_CheckExact(value):
        return list(<tuple>value)
    if isinstance(value, (int, float, complex, str, range, dict, np.generic)) or is_array_object(value):
        return None
    if hasattr(value, "batch_sizes") and hasattr(value, "sorted_indices"):
        raise TypeError(f"{name}: expected an array or a list of arrays, got a {type(value).__name__} "
                        "(torch.nn.utils.rnn.unpack_sequence makes the list)")
    if hasattr(value, "__len__") and hasattr(value, "__getitem__") and not hasattr(value, "keys"):
        return list(value)
    return None


cdef plain(object value, str name, int level):
    """A container as lists in lists of what NumPy reads, and any array as an ndarray."""
    cdef list members, result = []
    if isinstance(value, (int, float, np.generic)):
        return value
    members = members_of(value, name)
    if members is None:
        return read_array(value, name)
    if level == MOST_LEVELS:
        raise ValueError(f"{name}: expected an array, got lists in lists of more than {MOST_LEVELS} levels")
    for member in members:
        result.append(plain(member, name, level + 1))
    return result


cdef ndarray stacked(list members, str name):
    """One array of the members of a container."""
    cdef size_t n
    cdef list rows = []
    for n, member in enumerate(members):
        rows.append(member if isinstance(member, (int, float)) else plain(member, f"{name}[{n}]", 1))
    try:
        return np.asarray(rows)
    except (TypeError, ValueError, OverflowError) as error:
        shape = "inhomogeneous" in str(error)
        got = "lists of unequal lengths" if shape else f"a list: {error}"
        raise TypeError(f"{name}: expected an array, or a list of arrays for sequences, got {got}") from error


cdef list sequences_of(object x, str name):
    """The sequences where x is a batch of them, each an ndarray or a container that is one array; else None.

    It is a batch where a member is an array with time: of two dimensions or more, or of one and of integers.
    """
    cdef list members = members_of(x, name), result
    cdef size_t n, count
    cdef bint is_batch = False, is_plain_list = True
    if members is None:
        return None
    count = <size_t>len(members)
    if count == 0:
        return []
    for n in range(count):
        if not (PyArray_CheckExact(members[n]) and PyArray_NDIM(<ndarray>members[n]) == 2):
            is_plain_list = False
            break
    if is_plain_list:
        return members
    result = []
    for n, member in enumerate(members):
        if not (PyArray_CheckExact(member) or isinstance(member, (int, float, np.generic))
                or members_of(member, f"{name}[{n}]") is not None):
            member = read_array(member, f"{name}[{n}]")
        if PyArray_Check(member) and (PyArray_NDIM(<ndarray>member) > 1 or PyArray_NDIM(<ndarray>member) == 1
                                      and member.dtype.kind in "iu"):
            is_batch = True
        result.append(member)
    if is_batch:
        return result
    for n, member in enumerate(result):
        if not isinstance(member, (int, float, np.generic)) and not PyArray_Check(member):
            check_numbers_only(member, f"{name}[{n}]")
    return None


cdef int check_numbers_only(object value, str name) except -1:
    """Whether a list in a list has no arrays: they could be steps or sequences."""
    for item in members_of(value, name):
        if PyArray_CheckExact(item) and PyArray_NDIM(<ndarray>item) == 0:
            continue
        if not isinstance(item, (int, float, np.generic, list, tuple)) and is_array_object(item) and (
                PyArray_NDIM(read_array(item, name)) != 0):
            raise TypeError(f"{name}: expected an array or a list of numbers, got a list of arrays, which may be steps "
                            "or sequences (make each sequence one array)")
    return 0


cpdef list read_sequences(x, str name):
    """The sequences where x is a batch of them (see docs/semantics.md), each an array-like; None for one array."""
    return None if PyArray_CheckExact(x) else sequences_of(x, name)


cpdef ndarray read_one(object value, str name):
    """Any array-like that is not a batch of sequences."""
    cdef list rows
    if PyArray_CheckExact(value):
        return <ndarray>value
    rows = sequences_of(value, name)
    if rows is not None and len(rows) != 0:
        raise TypeError(f"{name}: expected one array, got a list of arrays, which is a batch of sequences")
    return read_array(value, name)


cpdef list split_sequences(ndarray array, ndarray bounds):
    """Views of rows ``bounds[n]`` to ``bounds[n + 1]`` of a contiguous array, writeable if it is."""
    cdef list result = []
    cdef npy_intp[3] dims
    cdef int axis, nd = PyArray_NDIM(array), typenum = PyArray_TYPE(array)
    cdef npy_intp row_bytes = PyArray_ITEMSIZE(array), begin, end
    cdef size_t n, count = <size_t>PyArray_SIZE(bounds)
    cdef int64_t *bound = <int64_t *>PyArray_DATA(bounds)
    cdef bint is_writeable = PyArray_ISWRITEABLE(array)
    cdef char *data = <char *>PyArray_DATA(array)
    cdef ndarray view
    if not (1 <= nd <= 3 and PyArray_IS_C_CONTIGUOUS(array) and is_plain(bounds, NPY_INT64)
            and PyArray_IS_C_CONTIGUOUS(bounds)):
        raise ValueError(f"array, bounds: expected contiguous ones, got {np.shape(array)}, {np.shape(bounds)}")
    for axis in range(1, nd):
        dims[axis] = PyArray_DIMS(array)[axis]
        row_bytes *= dims[axis]
    for n in range(1, count):
        begin, end = bound[n - 1], bound[n]
        if not 0 <= begin <= end <= PyArray_DIMS(array)[0]:
            raise ValueError(f"bounds: expected rows of {PyArray_DIMS(array)[0]}, got {begin} to {end}")
        dims[0] = end - begin
        view = PyArray_SimpleNewFromData(nd, dims, typenum, data + begin * row_bytes)
        set_array_base(view, array)
        if not is_writeable:
            PyArray_CLEARFLAGS(view, NPY_ARRAY_WRITEABLE)
        result.append(view)
    return result
