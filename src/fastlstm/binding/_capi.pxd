# SPDX-License-Identifier: BSD-3-Clause
"""The C API of csrc/fastlstm.h, which explains it, and what Cython does not declare of Python's."""
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef extern from "fastlstm.h" nogil:
    ctypedef enum fl_status:
        FL_OK
        FL_ERROR_ARGUMENT
        FL_ERROR_SIZE
        FL_ERROR_MEMORY
        FL_ERROR_LENGTH
        FL_ERROR_INDEX
        FL_ERROR_INTERRUPTED
        FL_ERROR_ISA

    const char *fl_status_text(fl_status status)

    ctypedef enum fl_dtype:
        FL_F32
        FL_F64

    ctypedef struct fl_isa_info:
        const char *name
        bint built
        bint available

    const size_t FL_ISA_COUNT
    fl_isa_info fl_isa_get(size_t index)
    fl_status fl_isa_select(const char *max_isa)
    const char *fl_isa_active()

    size_t fl_cpu_count()
    void fl_set_num_threads(size_t num_threads)
    void fl_set_default_num_threads(size_t most)
    size_t fl_get_num_threads()
    size_t fl_set_local_num_threads(size_t num_threads)

    # Its fields are set by name.
    ctypedef struct fl_cell_options:
        pass

    fl_status fl_cell_set_option(fl_cell_options *options, const char *name, const char *text, double number)
    fl_status fl_cell_set_activation(fl_cell_options *options, size_t index, const char *name, double alpha,
                                     double beta)

    ctypedef struct fl_cell_facts:
        const char *gates
        const char *states
        size_t width
        bint draws

    fl_status fl_cell_get_facts(const fl_cell_options *options, size_t hidden_size, fl_cell_facts *facts)

    ctypedef struct fl_stack_shape:
        fl_dtype dtype
        size_t input_size
        size_t hidden_size
        size_t num_layers
        size_t num_directions
        fl_cell_options cell

    # FL_PARAMETER_COUNT pointers, and so fl_gradients.
    ctypedef struct fl_weights:
        pass

    ctypedef struct fl_parameter_facts:
        const char *name
        size_t dims
        size_t shape[2]
        bint is_optional

    enum: FL_PARAMETER_COUNT

    fl_status fl_parameter_get_facts(const fl_stack_shape *shape, size_t layer, size_t index,
                                     fl_parameter_facts *facts)

    ctypedef struct fl_stack:
        pass

    fl_status fl_stack_create(const fl_stack_shape *shape, fl_stack **stack)
    void fl_stack_destroy(fl_stack *stack)
    void fl_stack_release(const fl_stack *stack)
    fl_status fl_stack_pack(fl_stack *stack, size_t layer, size_t direction, const fl_weights *weights)

    ctypedef struct fl_columns:
        size_t count
        const int64_t *index
        const void *values

    fl_status fl_stack_repack(fl_stack *stack, size_t layer, size_t direction, const fl_weights *weights,
                              const fl_columns *columns)

    double fl_shape_step_work(const fl_stack_shape *shape)

    ctypedef struct fl_forward_args:
        size_t T
        size_t B
        const void *x
        const int64_t *x_index
        ptrdiff_t x_stride_t
        ptrdiff_t x_stride_b
        const int64_t *lengths
        const void *h0
        const void *c0
        void *y
        ptrdiff_t y_stride_t
        ptrdiff_t y_stride_b
        const ptrdiff_t *x_at
        const ptrdiff_t *y_at
        void *cells
        ptrdiff_t cells_stride_t
        ptrdiff_t cells_stride_b
        void *h_n
        void *c_n
        size_t num_threads
        int (*interrupt)(void *context) noexcept nogil
        void *interrupt_context

    fl_status fl_stack_forward(const fl_stack *stack, const fl_forward_args *args)
    fl_status fl_stack_workspace(const fl_stack *stack, const fl_forward_args *args, size_t *bytes)

    ctypedef struct fl_tape:
        pass

    fl_status fl_tape_create(fl_tape **tape)
    void fl_tape_destroy(fl_tape *tape)
    size_t fl_tape_bytes(const fl_tape *tape)
    const void *fl_tape_reserve(const fl_tape *tape)

    const size_t FL_SAVE_ALL
    const size_t FL_SAVE_STATES

    ctypedef struct fl_record_args:
        fl_forward_args call
        size_t save
        const uint8_t *reset
        double dropout
        bint dropout_tied
        uint64_t seed
        bint draws
        size_t first_cell

    fl_status fl_stack_record(const fl_stack *stack, const fl_record_args *args, fl_tape *tape)

    fl_status fl_reserve_size(const fl_stack *stack, const fl_record_args *args, size_t *bytes)
    fl_status fl_forward(const fl_stack *stack, const fl_record_args *args, void *reserve, size_t bytes)

    ctypedef struct fl_gradients:
        pass

    ctypedef struct fl_backward_args:
        const fl_weights *weights
        const void *dy
        ptrdiff_t dy_stride_t
        ptrdiff_t dy_stride_b
        const void *dcells
        ptrdiff_t dcells_stride_t
        ptrdiff_t dcells_stride_b
        const void *dh_n
        const void *dc_n
        void *dx
        ptrdiff_t dx_stride_t
        ptrdiff_t dx_stride_b
        const ptrdiff_t *dx_at
        const ptrdiff_t *dy_at
        void *dh0
        void *dc0
        const fl_gradients *gradients
        bint keeps_index_gradient
        size_t bptt
        size_t num_threads
        int (*interrupt)(void *context) noexcept nogil
        void *interrupt_context

    fl_status fl_stack_backward(const fl_stack *stack, fl_tape *tape, const fl_backward_args *args)
    fl_status fl_backward(const fl_stack *stack, const fl_record_args *args, const void *reserve, size_t bytes,
                          const fl_backward_args *back)

    fl_status fl_tape_index_gradient(const fl_tape *tape, size_t direction, fl_columns *columns)

    void fl_dropout(fl_dtype dtype, double p, uint64_t seed, uint64_t first, size_t n, const void *x, void *out)

    bint fl_all_finite(fl_dtype dtype, size_t n, const void *x)
    void fl_add(fl_dtype dtype, size_t n, const void *x, void *out)

    ctypedef struct fl_sgd_args:
        double lr
        double momentum
        double weight_decay
        bint nesterov

    bint fl_sgd_step(fl_dtype dtype, size_t n, const fl_sgd_args *args, const void *grads, const void *params,
                     void *new_params, void *b)

    ctypedef struct fl_table:
        fl_dtype dtype
        size_t words
        size_t width
        bint by_columns

    void fl_add_words(const fl_table *table, const fl_columns *words, void *out)
    void fl_sgd_words(const fl_table *table, const fl_columns *words, double lr, const void *params,
                      void *new_params, void *new_values, void *room)
    size_t fl_sgd_words_room(const fl_table *table, size_t count)

    double fl_sum_squares(fl_dtype dtype, size_t n, const void *x, double scale)
    double fl_largest(fl_dtype dtype, size_t n, const void *x)
    void fl_shrink(fl_dtype dtype, size_t n, double factor, int exponent, void *x)

    ctypedef struct fl_adam_args:
        double lr
        double beta1
        double beta2
        double eps
        double weight_decay
        bint decoupled
        uint64_t step

    void fl_adam_step(fl_dtype dtype, size_t n, const fl_adam_args *args, const void *grads, const void *params,
                      void *new_params, void *m, void *v)

    ctypedef enum fl_dense_pass:
        FL_DENSE_FORWARD
        FL_DENSE_BACKWARD

    ctypedef struct fl_dense_shape:
        fl_dtype dtype
        size_t in_features
        size_t out_features

    fl_status fl_dense_pack(const fl_dense_shape *shape, fl_dense_pass which, const void *weight, void **packed)
    void fl_dense_release(void *packed)

    ctypedef struct fl_dense_args:
        fl_dense_shape shape
        size_t rows
        const void *packed
        const void *x
        const void *bias
        void *y
        const void *dy
        void *dx
        void *dweight
        void *dbias
        size_t num_threads

    fl_status fl_dense_forward(const fl_dense_args *args)
    fl_status fl_dense_backward(const fl_dense_args *args)

    ctypedef struct fl_stream:
        pass

    fl_status fl_stream_create(const fl_stack *stack, size_t B, size_t num_threads, fl_stream **stream)
    void fl_stream_destroy(fl_stream *stream)

    ctypedef struct fl_stream_io:
        const void *x
        const int64_t *x_index
        ptrdiff_t x_stride_t
        ptrdiff_t x_stride_b
        void *y
        ptrdiff_t y_stride_t
        ptrdiff_t y_stride_b
        int (*interrupt)(void *context) noexcept nogil
        void *interrupt_context

    fl_status fl_stream_process(fl_stream *stream, size_t T, const fl_stream_io *io)
    void *fl_stream_h(fl_stream *stream)
    void *fl_stream_c(fl_stream *stream)

    fl_status fl_gate_matmul(const fl_stack *stack, size_t B, const void *x, ptrdiff_t ldx, const void *h,
                             ptrdiff_t ldh, void *gates, ptrdiff_t ldg)
    fl_status fl_cell_update(fl_dtype dtype, size_t B, size_t H, const void *gates, ptrdiff_t ldg,
                             const void *c, ptrdiff_t ldc, void *h_out, ptrdiff_t ldh_out, void *c_out,
                             ptrdiff_t ldc_out)
    void fl_sigmoid(fl_dtype dtype, size_t n, const void *x, void *out)
    void fl_tanh(fl_dtype dtype, size_t n, const void *x, void *out)

    enum: FL_PLAN_WAYS

    ctypedef struct fl_plan_way "struct fl_plan_way":
        size_t threads
        size_t row_groups
        size_t direction_groups
        size_t layer_groups
        size_t hidden_groups
        bint fetches
        double nanoseconds

    ctypedef struct fl_plan_facts:
        int pass_ "pass"
        fl_dtype dtype
        int cell
        size_t input_size
        size_t hidden_size
        size_t num_layers
        size_t num_directions
        size_t steps
        size_t rows
        size_t max_threads
        size_t ways
        fl_plan_way way[FL_PLAN_WAYS]
        size_t chosen
        bint is_settled

    void fl_set_plan_trials(bint enabled)
    bint fl_get_plan_trials()
    fl_status fl_plan_get_facts(size_t index, fl_plan_facts *facts)

    double fl_probe_fma(fl_dtype dtype, double seconds)
    double fl_probe_stream(size_t bytes, double seconds)


# Declared here without an exception value: fl_stack_forward runs between the two calls, and the interrupt
# callback takes the same thread state back for a moment.
cdef extern from "base/memory.h" nogil:
    void *fl_allocate(size_t bytes)
    void fl_release(void *memory)


cdef extern from "Python.h" nogil:
    ctypedef struct PyThreadState:
        pass

    int PyObject_GenericSetAttr(object owner, object name, object value) except -1
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *state)
    int PyErr_CheckSignals() noexcept


cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object)
