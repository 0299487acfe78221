# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: states of a layer, or their gradients, as a caller has them and as the C core has them.
#
# A caller has one array for each letter of fl_cell_facts.states, (L*D, B, width), or (L*D, width) of one sequence;
# where layers differ in size, a list of an array for each layer.  The C core has h, and beside it all other
# states side by side, of each stack that a layer is packed in.


cdef tuple names_of(str name, str end):
    """What messages call a state, and its members."""
    return name + end, f"{name}[0]{end}", f"{name}[1]{end}", f"{name}[2]{end}", f"{name}[3]{end}"


cdef tuple STATE_NAMES = names_of("state", "")
cdef tuple DSTATE_NAMES = names_of("dstate", "")


cdef inline tuple read_pair(object value, str name):
    cdef tuple pair
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: expected a pair (h, c) of arrays, got {type(value).__name__}")
    pair = tuple(value)  # itself if it is one
    if len(pair) != 2:
        raise ValueError(f"{name}: expected a pair (h, c) of arrays, got {len(pair)} items")
    return pair


cdef bint has_whole(tuple members) except -1:
    """Whether a member of a tuple is a state by itself: an array, or its absence."""
    for member in members:
        if member is None or is_array_object(member) and PyArray_NDIM(read_array(member, "state")) > 1:
            return True
    return False


cdef bint is_absent(tuple members):
    """Whether all members but the first are None."""
    cdef Py_ssize_t n
    for n in range(1, len(members)):
        if members[n] is not None:
            return False
    return True


cdef tuple read_members(object state, str name, Weights weights, bint is_listed=False):
    """The members of a state: h, and those beside it."""
    if weights.states == 0:
        if not is_listed and isinstance(state, tuple) and has_whole(<tuple>state):
            raise TypeError(f"{name}: expected an array, as there is one state h, got a tuple of {len(state)}")
        return (state,)
    if weights.states == 1:
        return read_pair(state, name)
    letters = f"({', '.join(weights.letters)})"
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{name}: expected arrays {letters}, got {type(state).__name__}")
    if <size_t>len(state) != 1 + weights.states:
        raise ValueError(f"{name}: expected arrays {letters}, got {len(state)} items")
    return tuple(state)


cdef tuple read_state(tuple members, tuple names, Weights weights, int nd, npy_intp *dims, bint may_lack):
    """``(h, beside)`` of one stack, contiguous; None where there is none, or where members may be None.

    `dims` are those of h, whose last is its width; `names` are for messages, as STATE_NAMES.
    """
    cdef npy_intp width = dims[nd - 1]
    cdef ndarray h = None, beside = None
    if not may_lack or members[0] is not None:
        h = read_operand(members[0], <str>names[1 if weights.states != 0 else 0], weights.typenum, nd, dims)
    if weights.states == 0 or may_lack and is_absent(members):
        return h, None
    dims[nd - 1] = <npy_intp>weights.shape.hidden_size
    if weights.states == 1:
        beside = read_operand(members[1], <str>names[2], weights.typenum, nd, dims)
    else:
        arrays = []
        for member, called in zip(members[1:], names[2:]):
            arrays.append(np.zeros(shape_of(nd, dims), weights.dtype) if may_lack and member is None
                          else read_operand(member, called, weights.typenum, nd, dims))
        beside = np.concatenate(arrays, axis=-1)
    dims[nd - 1] = width
    return h, beside


def read_states(tuple parts not None, state, str name, size_t B, bint batched, bint is_listed, bint may_lack):
    """``(h, beside)`` of each stack of a layer, (L*D, B, width) or None; `is_listed` where layers differ in size."""
    cdef Weights first = <Weights?>parts[0], part
    cdef npy_intp[3] dims
    cdef int nd = 2 + batched
    cdef tuple members, names = names_of(name, "")
    if state is None:
        return [(None, None)] * len(parts)
    members = read_members(state, name, first, is_listed)
    dims[1] = <npy_intp>B
    if not is_listed:
        dims[0] = 0
        for part in parts:
            dims[0] += <npy_intp>part.rows()
        dims[nd - 1] = <npy_intp>first.width
        h, beside = read_state(members, names, first, nd, dims, may_lack)
        return list(zip(split_rows(h, len(parts), B), split_rows(beside, len(parts), B)))
    for n, member in enumerate(members):
        check_listed(member, names[n + (first.states != 0)], len(parts), may_lack)
    result = []
    for index, part in enumerate(parts):
        own = []
        for member in members:
            own.append(None if member is None else member[index])
        dims[0], dims[nd - 1] = <npy_intp>part.rows(), <npy_intp>part.width
        h, beside = read_state(tuple(own), names_of(name, f"[{index}]"), part, nd, dims, may_lack)
        result.append((split_rows(h, 1, B)[0], split_rows(beside, 1, B)[0]))
    return result


cdef list split_rows(array, size_t count, size_t B):
    """An array for each of `count` stacks of equal size."""
    if array is None:
        return [None] * count
    return np.split(array.reshape(array.shape[0], B, array.shape[array.ndim - 1]), count)


cdef int check_listed(member, str name, size_t count, bint may_lack) except -1:
    if may_lack and member is None:
        return 0
    if not isinstance(member, (tuple, list)):
        raise TypeError(f"{name}: expected an array for each of {count} layers, got {type(member).__name__}")
    if <size_t>len(member) != count:
        raise ValueError(f"{name}: expected an array for each of {count} layers, got {len(member)}")
    return 0


cdef tuple split_members(Weights weights, h, beside):
    """The states of one stack, each an array."""
    if weights.states == 0:
        return (h,)
    if weights.states == 1:
        return h, beside
    return (h, *map(np.ascontiguousarray, np.split(beside, weights.states, axis=-1)))


cdef inline object final_state(Weights weights, h, beside):
    """The state of one stack as a caller has it, with B or without."""
    if weights.states == 1:
        return h, beside
    return h if weights.states == 0 else split_members(weights, h, beside)


def states_as_given(tuple parts not None, list states not None, bint batched, bint is_listed):
    """What `read_states` reads, from ``(h, beside)`` of each stack."""
    cdef list of_parts = [], result = [], arrays
    for part, (h, beside) in zip(parts, states):
        of_parts.append(split_members(<Weights?>part, h, beside))
    for members in zip(*of_parts):
        arrays = []
        for array in members:
            arrays.append(np.ascontiguousarray(array if batched else array[:, 0]))
        if is_listed:
            result.append(tuple(arrays))
        else:
            result.append(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
    return tuple(result) if len(result) > 1 else result[0]


cdef ndarray new_state(Weights weights, size_t B, size_t width):
    cdef npy_intp[3] dims
    dims[0], dims[1], dims[2] = <npy_intp>weights.rows(), <npy_intp>B, <npy_intp>width
    return <ndarray>PyArray_EMPTY(3, dims, weights.typenum, 0)


cdef const void *state_data(object value, str name, Weights weights, size_t B, size_t width) except? NULL:
    """Of a contiguous (L*D, B, width); null for None."""
    cdef npy_intp[3] dims
    if value is None:
        return NULL
    dims[0], dims[1], dims[2] = <npy_intp>weights.rows(), <npy_intp>B, <npy_intp>width
    if read_operand(value, name, weights.typenum, 3, dims) is not value:
        raise ValueError(f"{name}: expected a contiguous array of {weights.dtype}, got another")
    return PyArray_DATA(<ndarray>value)
