# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, cdivision=True, binding=False, auto_pickle=False, autotestdict=False
# cython: embedsignature=True, embedsignature.format=clinic
"""The binding: checks and converts arguments, allocates results, calls the C core, raises.

It knows parameters by the names of fl_weights alone (model/layouts.py has the others) and loops over no elements
(csrc/ does).  Layers, streams, kernels.py and runtime.py are built on it.  A call through the Python C API costs more
than the arithmetic of a small step, hence cdef classes with checks inline, ndarrays instead of typed memoryviews, and
no wrappers in Python.

It has no list comprehensions: where an item finds no memory, what Cython 3.3 makes of them gives it back twice.
"""
import inspect
import os
import sys
from _thread import allocate_lock

import numpy as np

cimport cython
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.list cimport PyList_CheckExact
from cpython.tuple cimport PyTuple_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject_GenericGetAttr
from libc.math cimport INFINITY, frexp, ldexp, sqrt
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset
from numpy cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_ENSURECOPY, NPY_ARRAY_FORCECAST, NPY_CORDER, NPY_FLOAT16, NPY_FLOAT32,
    NPY_ARRAY_WRITEABLE, NPY_FLOAT64, NPY_INT64, NPY_INTP, NPY_UINT8, PyArray_CLEARFLAGS, PyArray_Check,
    PyArray_CheckExact, PyArray_DATA, PyArray_DIMS, PyArray_EMPTY, PyArray_FROM_OTF, PyArray_IS_C_CONTIGUOUS,
    PyArray_ISBEHAVED_RO, PyArray_ISCARRAY, PyArray_ISWRITEABLE, PyArray_ITEMSIZE, PyArray_NDIM, PyArray_NewCopy,
    PyArray_SimpleNewFromData, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, get_array_base, import_array, ndarray,
    npy_intp, set_array_base,
)

from _capi cimport *

import_array()

include "containers.pxi"
include "arrays.pxi"


# ---- Calls into the C core ---------------------------------------------------------------------------------

# Work of a call in multiply-adds; sigmoid or tanh counts for about ten.  A call of less than this takes under
# two microseconds on a vector unit.  Releasing the GIL and taking it back costs about a tenth of one, and a
# whole switch interval where another thread snatches it.
cdef double TINY_WORK = 60000.0


cdef int check(fl_status status) except -1:
    """Raise for a status that no caller has explained better."""
    if status == FL_OK:
        return 0
    if status == FL_ERROR_INTERRUPTED:
        return -1  # the callback left the exception of the signal handler
    text = fl_status_text(status).decode()
    if status == FL_ERROR_MEMORY:
        raise MemoryError(text)
    if status == FL_ERROR_SIZE:
        raise OverflowError(text)
    raise ValueError(text)


cdef int check_signals(void *context) noexcept nogil:
    """Interrupt callback; `context` is where the thread state is kept while the GIL is released."""
    cdef PyThreadState **thread = <PyThreadState **>context
    PyEval_RestoreThread(thread[0])
    cdef int pending = PyErr_CheckSignals()
    thread[0] = PyEval_SaveThread()
    return pending


cdef fl_status run_forward(const fl_stack *stack, fl_forward_args *args, bint release_gil) noexcept:
    """fl_stack_forward; FL_ERROR_INTERRUPTED comes with a Python exception set."""
    cdef PyThreadState *thread
    cdef fl_status status
    if not release_gil:
        return fl_stack_forward(stack, args)
    args.interrupt = check_signals
    args.interrupt_context = &thread
    thread = PyEval_SaveThread()
    status = fl_stack_forward(stack, args)
    PyEval_RestoreThread(thread)
    return status


include "weights.pxi"
include "states.pxi"
include "rows.pxi"
include "calls.pxi"
include "tape.pxi"
include "stream.pxi"
include "pieces.pxi"
include "optimisers.pxi"
include "products.pxi"
include "words.pxi"
include "runtime.pxi"


# ---- Import ------------------------------------------------------------------------------------------------

cdef extern from *:
    """
    #if defined(__clang__)
    #define FL_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FL_COMPILER "gcc " __VERSION__
    #else
    #define FL_COMPILER "unknown"
    #endif
    """
    const char *FL_COMPILER

compiler = FL_COMPILER.decode()


cdef select_isa(str max_isa):
    cdef bytes name = (max_isa or "").encode()
    if fl_isa_select(<const char *>name if max_isa else NULL) != FL_OK:
        names = ", ".join(name for name, is_built, _ in isa_table() if is_built)
        raise ImportError(f"FASTLSTM_MAX_ISA: expected one of {names}, the most that may be used, got {max_isa!r}")


cdef int threads_asked(str text):
    """A number of threads in decimal digits, the first of those for nested levels (``4,2``); 0 for anything else."""
    cdef str first = text.split(",")[0].strip()
    return int(first) if len(first) < 10 and first.isascii() and first.isdecimal() else 0


cdef tuple threads_from_environment():
    """The number of threads that this process insists on or 0, that of a wish or 0, and where it came from."""
    cdef str asked = os.environ.get("FASTLSTM_NUM_THREADS", "")
    if asked.strip():
        if threads_asked(asked) == 0:
            raise ImportError(f"FASTLSTM_NUM_THREADS: expected an integer of at least 1, got {asked!r}")
        return threads_asked(asked), 0, "FASTLSTM_NUM_THREADS"
    # Containers set it to the count of the host: it is a wish, which the CPUs that there are may not fulfil.
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if threads_asked(asked) != 0 and <size_t>threads_asked(asked) <= fl_cpu_count():
        return 0, threads_asked(asked), "OMP_NUM_THREADS"
    return 0, threads_asked(asked), "CPUs that this process may use"


cdef plans_from_environment():
    asked = os.environ.get("FASTLSTM_PLANS") or "measured"
    if asked not in ("measured", "estimated"):
        raise ImportError(f"FASTLSTM_PLANS: expected measured or estimated, got {asked!r}")
    fl_set_plan_trials(asked == "measured")


select_isa(os.environ.get("FASTLSTM_MAX_ISA"))
plans_from_environment()
initial_num_threads, wished_num_threads, initial_num_threads_source = threads_from_environment()
fl_set_default_num_threads(wished_num_threads)
fl_set_num_threads(initial_num_threads)
