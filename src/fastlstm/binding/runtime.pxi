# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: threads, instruction sets, and what else the machine is.


cdef size_t as_count(object value, str name) except 0:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    try:
        number = PyNumber_Index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    if number > sys.maxsize:
        raise OverflowError(f"{name}: expected at most {sys.maxsize}, got {number}")
    return number


def count(value, name):
    """`value` as an int of at least 1, or an exception that names the argument."""
    return as_count(value, name)


def real_array(value, name, shape, dtype):
    """Real numbers as a C-contiguous array of this shape, of 1 to 3 dimensions, or an exception with `name`."""
    cdef npy_intp[3] dims
    cdef int typenum = NPY_FLOAT32 if dtype == np.float32 else NPY_FLOAT64, axis, nd = len(shape)
    if not 1 <= nd <= 3:
        raise ValueError(f"shape: expected 1 to 3 dimensions, got {shape}")
    for axis in range(nd):
        dims[axis] = shape[axis]
    return read_operand(value, name, typenum, nd, dims)


cpdef new_lock():
    """A lock, or MemoryError."""
    try:
        return allocate_lock()
    except RuntimeError as error:  # what Python raises instead
        raise MemoryError("expected memory for a lock") from error


cpdef assign_all(assignments):
    """Set attributes, ``(object, name, value)`` each, without a look at signals in between: all, or none."""
    cdef list ready = list(assignments), before = []
    cdef Py_ssize_t done = 0
    for owner, name, _ in ready:
        try:
            before.append((owner, name, PyObject_GenericGetAttr(owner, name), True))
        except AttributeError:
            before.append((owner, name, None, False))
    try:
        for owner, name, value in ready:
            PyObject_GenericSetAttr(owner, name, value)
            done += 1
    except BaseException:  # one found no memory
        for owner, name, value, is_there in before[:done]:
            if is_there:
                PyObject_GenericSetAttr(owner, name, value)
            else:
                owner.__dict__.pop(name, None)
        raise


def set_num_threads(size_t num_threads):
    """fl_set_num_threads."""
    fl_set_num_threads(num_threads)


def get_num_threads():
    """fl_get_num_threads."""
    return fl_get_num_threads()


def set_local_num_threads(size_t num_threads):
    """fl_set_local_num_threads."""
    return fl_set_local_num_threads(num_threads)


def cpu_count():
    """Number of CPUs that this process may use: affinity and cgroup quota, rounded down."""
    return fl_cpu_count()


def isa_active():
    """Name of the instruction set in use."""
    return fl_isa_active().decode()


def isa_table():
    """``(name, built, available)`` of every instruction set, slowest first."""
    cdef fl_isa_info info
    cdef size_t index
    table = []
    for index in range(FL_ISA_COUNT):
        info = fl_isa_get(index)
        table.append((info.name.decode(), bool(info.built), bool(info.available)))
    return table


def probe_fma(dtype, double seconds):
    """Multiply-adds from registers with the active instruction set, in flop/s."""
    cdef fl_dtype code = FL_F32 if np.dtype(dtype) == np.float32 else FL_F64
    cdef double rate
    with nogil:
        rate = fl_probe_fma(code, seconds)
    return rate


def probe_stream(bytes, double seconds):
    """Reading a buffer of that size again and again, in bytes/s."""
    cdef size_t size = as_count(bytes, "bytes")
    cdef double rate
    with nogil:
        rate = fl_probe_stream(size, seconds)
    if rate == 0:
        raise MemoryError(f"bytes: no memory for {bytes}")
    return rate


def set_plan_trials(bint enabled):
    """fl_set_plan_trials."""
    fl_set_plan_trials(enabled)


def plan_trials():
    """fl_get_plan_trials."""
    return bool(fl_get_plan_trials())


PLAN_WAYS = FL_PLAN_WAYS  # the most plans of one kind of call
PASSES = ("forward", "record", "backward", "stream")


def plan_facts():
    """What has been learned of each kind of call: a dict of each fl_plan_facts, its plans under "plans"."""
    cdef fl_plan_facts facts
    cdef fl_plan_way *way
    cdef size_t n
    kinds = []
    while fl_plan_get_facts(len(kinds), &facts) == FL_OK:
        plans = []
        for n in range(facts.ways):
            way = &facts.way[n]
            plans.append({"threads": way.threads, "row_groups": way.row_groups,
                          "direction_groups": way.direction_groups, "layer_groups": way.layer_groups,
                          "hidden_groups": way.hidden_groups, "fetches": bool(way.fetches),
                          "nanoseconds": way.nanoseconds})
        kinds.append({"pass": PASSES[facts.pass_], "dtype": "float32" if facts.dtype == FL_F32 else "float64",
                      "cell": facts.cell, "input_size": facts.input_size, "hidden_size": facts.hidden_size,
                      "num_layers": facts.num_layers, "num_directions": facts.num_directions, "steps": facts.steps,
                      "rows": facts.rows, "max_threads": facts.max_threads, "plans": plans,
                      "chosen": facts.chosen, "is_settled": bool(facts.is_settled)})
    return kinds


def workspace_bytes(Recurrent layer not None, size_t T, size_t B):
    """Scratch memory that ``layer(x)`` takes for x (T, B, I) beside its results."""
    cdef fl_forward_args args
    cdef size_t size = 0
    memset(&args, 0, sizeof(args))
    args.T = T
    args.B = B
    args.num_threads = layer._num_threads
    check(fl_stack_workspace(layer.ready().packed_stack(), &args, &size))
    return size
