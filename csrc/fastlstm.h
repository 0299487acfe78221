/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The whole public C API of fastlstm: recurrent layers on packed weights.  Read this file first, then
 * forward.c (the driver), kernels.h (what an instruction set supplies) and tile_body.h (the kernel).
 *
 * Letters used everywhere: T time, B batch, I input features, H hidden units, L layers, D directions.
 * Gates stand in the order of fl_cell_kind in every array that crosses this API, as in PyTorch: i, f, g, o of an LSTM.
 * Arrays are of the dtype of the layer, row-major; strides count elements, not bytes; pointers are aligned to
 * the element.  No argument array is modified unless it is named an output.  Outputs must not overlap inputs,
 * except where a comment allows it.
 *
 * Thread safety: a packed layer may be used by any number of threads at once as long as none of them packs or
 * destroys it.  A stream belongs to one thread at a time.
 */
#ifndef FASTLSTM_H
#define FASTLSTM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Visible in the binary it is linked into, and no further, unless FL_SHARED says that it is a shared library, which is
 * being built where FL_BUILDING is defined too. */
#if !defined(FL_API)
#if defined(_WIN32) && defined(FL_SHARED) && defined(FL_BUILDING)
#define FL_API __declspec(dllexport)
#elif defined(_WIN32) && defined(FL_SHARED)
#define FL_API __declspec(dllimport)
#elif defined(_WIN32)
#define FL_API
#elif defined(FL_SHARED)
#define FL_API __attribute__((visibility("default")))
#else
#define FL_API __attribute__((visibility("hidden")))
#endif
#endif

typedef enum fl_status {
    FL_OK = 0,
    FL_ERROR_ARGUMENT,    /* a null pointer, a zero size or a value out of its range */
    FL_ERROR_SIZE,        /* a product of sizes does not fit ptrdiff_t */
    FL_ERROR_MEMORY,      /* out of memory; nothing was changed */
    FL_ERROR_LENGTH,      /* lengths[b] < 0 or > T */
    FL_ERROR_INDEX,       /* an integer input is < 0 or >= input_size */
    FL_ERROR_INTERRUPTED, /* the interrupt callback asked to stop; outputs are unspecified */
    FL_ERROR_ISA          /* an instruction set that is unknown, or not built */
} fl_status;

/* One English sentence for a status; never null, never freed. */
FL_API const char *fl_status_text(fl_status status);

typedef enum fl_dtype { FL_F32 = 0, FL_F64 = 1 } fl_dtype;

/* ---- Instruction sets ------------------------------------------------------------------------------------- */

typedef struct fl_isa_info {
    const char *name; /* "generic", "avx2", "avx512", "neon" */
    bool built;       /* compiled into this library */
    bool available;   /* built, and this machine and its operating system run it */
} fl_isa_info;

#define FL_ISA_COUNT 4
/* All instruction sets that fastlstm knows, slowest first; index < FL_ISA_COUNT. */
FL_API fl_isa_info fl_isa_get(size_t index);
/* Choose the best available instruction set that is not above `max_isa` (null: no cap), which this machine may lack.  Call
 * it once, before any other thread uses the library and before any layer exists.  FL_ERROR_ISA: unknown, or not built. */
FL_API fl_status fl_isa_select(const char *max_isa);
FL_API const char *fl_isa_active(void);

/* ---- Threads ---------------------------------------------------------------------------------------------- */

/* Number of CPUs that this process may use: floor(min(affinity, cgroup quota)), at least 1. */
FL_API size_t fl_cpu_count(void);
/* Upper limit of threads for a call in this process, which may be above fl_cpu_count(); 0 restores the default.  A call uses
 * fewer where more would not gain.  Results do not depend on it. */
FL_API void fl_set_num_threads(size_t num_threads);
/* The default: this many, but never more than fl_cpu_count(); 0, as at the start: fl_cpu_count(). */
FL_API void fl_set_default_num_threads(size_t most);
/* The limit in force for the calling thread: its local limit if set, else the process's. */
FL_API size_t fl_get_num_threads(void);
/* Limit for calls made by the calling thread only; 0 removes it.  Returns the one that was set before, or 0. */
FL_API size_t fl_set_local_num_threads(size_t num_threads);

/* ---- Cells ------------------------------------------------------------------------------------------------- */

/* The formulas are those of src/fastlstm/reference/; G is the number of gates, whose rows stand in this order. */
typedef enum fl_cell_kind {
    FL_CELL_LSTM,    /* i f g o; without f or i where the gates are coupled, without f where there is no forget gate */
    FL_CELL_GRU,     /* r z n */
    FL_CELL_RNN,     /* one */
    FL_CELL_INDRNN,  /* one; weight_hh is a diagonal (H) */
    FL_CELL_SLSTM,   /* i f z o; weight_hh is block-diagonal: (4H, H / heads) */
    FL_CELL_MINGRU,  /* z h; no weight_hh */
    FL_CELL_MINLSTM, /* f i h; no weight_hh */
    FL_CELL_MGU,     /* f n */
    FL_CELL_COUNT
} fl_cell_kind;

typedef enum fl_coupling { FL_COUPLING_NONE, FL_F_FROM_I, FL_I_FROM_F, FL_NO_FORGET_GATE } fl_coupling;

typedef enum fl_layer_norm { FL_LAYER_NORM_NONE, FL_LAYER_NORM_GATE, FL_LAYER_NORM_HASTE } fl_layer_norm;

/* Those of ONNX; FL_ACTIVATION_DEFAULT is the cell's own. */
typedef enum fl_activation_kind {
    FL_ACTIVATION_DEFAULT,
    FL_SIGMOID, /* 1 / (1 + exp(-x)) */
    FL_TANH,
    FL_RELU,             /* max(0, x) */
    FL_AFFINE,           /* alpha x + beta */
    FL_LEAKY_RELU,       /* x >= 0 ? x : alpha x */
    FL_THRESHOLDED_RELU, /* x >= alpha ? x : 0 */
    FL_SCALED_TANH,      /* alpha tanh(beta x) */
    FL_HARD_SIGMOID,     /* min(max(alpha x + beta, 0), 1) */
    FL_ELU,              /* x >= 0 ? x : alpha (exp(x) - 1) */
    FL_SOFTSIGN,         /* x / (1 + |x|) */
    FL_SOFTPLUS,         /* log(1 + exp(x)) */
    FL_ACTIVATION_COUNT
} fl_activation_kind;

typedef struct fl_activation {
    fl_activation_kind kind;
    double alpha, beta;
} fl_activation;

/* All zero: PyTorch's LSTM.  Options of another kind of cell must be zero. */
typedef struct fl_cell_options {
    fl_cell_kind kind;
    fl_activation activations[3]; /* LSTM: f, g, h; GRU: f, g; RNN and IndRNN: f, which is FL_TANH by default */
    double gate_clip;             /* of pre-activations, LSTM, GRU, RNN; 0: none, likewise the other clips */
    /* LSTM: */
    fl_coupling coupling;
    fl_layer_norm layer_norm;
    bool peephole;
    double cell_clip;
    size_t proj_size; /* P; 0: none, h is as wide as c */
    double proj_clip;
    double zoneout_c, zoneout_h; /* probabilities that an element keeps its old value */
    bool zoneout_expectation;    /* in a pass that does not draw: mix by the probabilities; else nothing is kept */
    double recurrent_dropout;    /* of h in the recurrent product, in a pass that draws */
    bool recurrent_dropout_tied; /* one mask for all gates, not one for each */
    /* GRU: */
    bool reset_before; /* r acts on h before the recurrent product of n, not after */
    /* SLSTM: */
    size_t heads; /* 0 is 1 */
    double n_floor;
} fl_cell_options;

/* Options by name, for those who bind to this library: the names are those of the fields above, enumerations are `text`
 * ("lstm", "gru", ...; "f_from_i", "i_from_f", "no_forget_gate"; "gate", "haste"; null is zero), all others `number`.
 * FL_ERROR_ARGUMENT: no such field, or no such value. */
FL_API fl_status fl_cell_set_option(fl_cell_options *options, const char *name, const char *text, double number);
/* activations[index], `name` as in ONNX ("Sigmoid"); null is the cell's own. */
FL_API fl_status fl_cell_set_activation(fl_cell_options *options, size_t index, const char *name, double alpha,
                                        double beta);

typedef struct fl_cell_facts {
    const char *gates;  /* a letter for each gate that has weights, in the order of rows: "ifgo" */
    const char *states; /* a letter for each state: "hc" */
    size_t width;       /* P: of h */
    bool draws;         /* has masks of its own in a pass that draws */
} fl_cell_facts;

/* FL_ERROR_ARGUMENT: options that do not go together. */
FL_API fl_status fl_cell_get_facts(const fl_cell_options *options, size_t hidden_size, fl_cell_facts *facts);

/* ---- Layers ------------------------------------------------------------------------------------------------ */

typedef struct fl_stack_shape {
    fl_dtype dtype;
    size_t input_size;     /* I >= 1 */
    size_t hidden_size;    /* H >= 1 */
    size_t num_layers;     /* L >= 1; layer l > 0 has D*P inputs, with P = H where there is no projection */
    size_t num_directions; /* D: 1, or 2 for bidirectional */
    fl_cell_options cell;
} fl_stack_shape;

/* One layer and direction as PyTorch lays it out, row-major; G*H rows, gates one after the other.  What the cell does not
 * have is not looked at. */
typedef struct fl_weights {
    const void *weight_ih;    /* (G*H, I_l) */
    const void *weight_hh;    /* (G*H, P), or as the kind of the cell says */
    const void *bias_ih;      /* (G*H) or null */
    const void *bias_hh;      /* (G*H) or null */
    const void *weight_ch;    /* peepholes: (n*H) of the n sigmoid gates that there are, in the order of the gates */
    const void *weight_hr;    /* projection: (P, H) */
    const void *bias_hr;      /* (P) or null */
    const void *weight_ln_ih; /* layer norm: (G*H), "gate" has this one alone */
    const void *weight_ln_hh; /* (G*H) */
    const void *weight_ln_c, *bias_ln_c; /* (H) */
} fl_weights;

/* One of them: `dims` dimensions, none where the cell has no such parameter. */
typedef struct fl_parameter_facts {
    const char *name; /* of the field */
    size_t dims, shape[2];
    bool is_optional;
} fl_parameter_facts;

#define FL_PARAMETER_COUNT 11
/* Parameter `index` of a layer, in the order of fl_weights.  FL_ERROR_ARGUMENT, FL_ERROR_SIZE: index or layer too large, or
 * a shape that fl_stack_create would not take. */
FL_API fl_status fl_parameter_get_facts(const fl_stack_shape *shape, size_t layer, size_t index,
                                        fl_parameter_facts *facts);

typedef struct fl_stack fl_stack;

/* A layer stack with all weights zero.  FL_ERROR_ARGUMENT, FL_ERROR_SIZE, FL_ERROR_MEMORY. */
FL_API fl_status fl_stack_create(const fl_stack_shape *shape, fl_stack **stack);
FL_API void fl_stack_destroy(fl_stack *stack); /* null is allowed */
/* Give back the memory that a call left for the next one; null is allowed, and calls may run meanwhile. */
FL_API void fl_stack_release(const fl_stack *stack);
/* Copy one layer and direction's weights into the packed layout of the active instruction set.  FL_ERROR_ARGUMENT: one is
 * missing that is not optional (fl_parameter_get_facts). */
FL_API fl_status fl_stack_pack(fl_stack *stack, size_t layer, size_t direction, const fl_weights *weights);

/* Some columns of a matrix (width, K), and what belongs to them. */
typedef struct fl_columns {
    size_t count;
    const int64_t *index; /* ascending, each once */
    const void *values;   /* (count, width): one column behind the other */
} fl_columns;

/* fl_stack_pack into a stack that holds weights already, whose weight_ih differs from the new one in these columns alone;
 * `values` are the new ones.  All else is packed as always; null: all is. */
FL_API fl_status fl_stack_repack(fl_stack *stack, size_t layer, size_t direction, const fl_weights *weights,
                                 const fl_columns *columns);

/* About how many multiply-adds a step of one row costs: for callers who want to know whether a call takes long; 0 for a
 * shape that fl_stack_create would not take. */
FL_API double fl_shape_step_work(const fl_stack_shape *shape);

typedef struct fl_forward_args {
    size_t T, B; /* either may be 0 */
    /* Input, one of the two.  x: element (t, b, i) is x[t * x_stride_t + b * x_stride_b + i].
     * x_index: (T, B) with strides likewise; the input is the one-hot row of that index, 0 <= index < I. */
    const void *x;
    const int64_t *x_index;
    ptrdiff_t x_stride_t, x_stride_b;
    const int64_t *lengths; /* (B), or null for T everywhere; see below */
    /* States before the first step, contiguous, or null for zeros; index l*D + d.  h (L*D, B, P); c (L*D, B, n*H) for the n
     * states beside h that the cell has: c, or c, n, m. */
    const void *h0, *c0;
    void *y; /* output: element (t, b, d*P + j) at y[t * y_stride_t + b * y_stride_b + d*P + j] */
    ptrdiff_t y_stride_t, y_stride_b;
    /* (B), or null: row b stands where row x_at[b] or y_at[b] would, in x, y and cells.  With strides for it, rows may lie one
     * behind the other in packed data, or begin at their last step; so with y_at nothing is written behind the end of a row. */
    const ptrdiff_t *x_at, *y_at;
    void *cells; /* output or null: c of the last layer at every step, (t, b, d*H + j) with strides as y has */
    ptrdiff_t cells_stride_t, cells_stride_b;
    void *h_n, *c_n;    /* outputs, shaped as h0 and c0; h_n may be h0 and c_n may be c0 */
    size_t num_threads; /* 0: fl_get_num_threads() */
    /* Called by the calling thread about every 20 ms of a long call; non-zero stops it.  May be null. */
    int (*interrupt)(void *context);
    void *interrupt_context;
} fl_forward_args;

/* The whole stack over a whole batch of sequences.  A row b runs for lengths[b] steps: y is zero from there on,
 * h_n and c_n are the states after its own last step (the given state where the length is 0), and the reverse
 * direction starts at its own last step. */
FL_API fl_status fl_stack_forward(const fl_stack *stack, const fl_forward_args *args);
/* Bytes of scratch memory that fl_stack_forward takes for these arguments, beside the outputs. */
FL_API fl_status fl_stack_workspace(const fl_stack *stack, const fl_forward_args *args, size_t *bytes);

/* ---- Training: a forward pass that is recorded, and its backward pass -------------------------------------
 *
 * fl_forward and fl_backward share no object: what the one leaves to the other is bytes of the caller, the reserve.  A tape
 * is a reserve that brings its memory. */

/* fl_record_args.save: keep gates and states; keep states, recompute gates; k >= 1: keep the states before every k-th
 * step, recompute the rest.  Gradients have the same bits in each. */
#define FL_SAVE_ALL ((size_t)0)
#define FL_SAVE_STATES SIZE_MAX

typedef struct fl_record_args {
    /* As for fl_stack_forward, with the same bits; h_n must not be h0, nor c_n c0.  What x, x_index, lengths, h0, c0, y and
     * `reset` point at must stay as it is until the backward pass is done. */
    fl_forward_args call;
    size_t save;
    /* (T, B), or null: where not 0, no state passes between steps t - 1 and t of row b, in either direction. */
    const uint8_t *reset;
    /* Outputs of all layers but the last are multiplied by 0 with this probability p, else by 1 / (1 - p); the mask is a
     * function of the seed and the place alone (fl_dropout). */
    double dropout;
    bool dropout_tied; /* one mask for all steps of a row: the seed plus 4, places without the time */
    uint64_t seed;
    bool draws;        /* the cell's own masks, of zoneout and recurrent dropout, are drawn, likewise */
    size_t first_cell; /* their places begin with this cell: for a stack that is made of several */
} fl_record_args;

/* Gradients of one layer and direction's parameters, shaped as in fl_weights: overwritten.  A bias may be null. */
typedef struct fl_gradients {
    void *weight_ih, *weight_hh, *bias_ih, *bias_hh, *weight_ch, *weight_hr, *bias_hr;
    void *weight_ln_ih, *weight_ln_hh, *weight_ln_c, *bias_ln_c;
} fl_gradients;

typedef struct fl_backward_args {
    const fl_weights *weights; /* (L*D): what the layer was packed from */
    const void *dy;            /* gradient of y, strides as for y; null: zero.  Padding is not looked at. */
    ptrdiff_t dy_stride_t, dy_stride_b;
    const void *dcells; /* gradient of cells, strides as for them; null: zero */
    ptrdiff_t dcells_stride_t, dcells_stride_b;
    const void *dh_n, *dc_n; /* shaped as the states, each may be null: zero */
    void *dx;                /* output, null where not wanted; zero in the padding, which is not written with dx_at */
    ptrdiff_t dx_stride_t, dx_stride_b;
    const ptrdiff_t *dx_at, *dy_at; /* as x_at, y_at: of dx, and of dy and dcells */
    void *dh0, *dc0;                /* outputs, shaped as the states */
    const fl_gradients *gradients;  /* (L*D) */
    bool
        keeps_index_gradient; /* of x_index: weight_ih of layer 0 is not written, but kept for fl_tape_index_gradient */
    size_t bptt;              /* k >= 1: no gradient of the state passes between steps nk - 1 and nk; 0: all do */
    size_t num_threads;       /* 0: fl_get_num_threads() */
    int (*interrupt)(void *context); /* as in fl_forward_args */
    void *interrupt_context;
} fl_backward_args;

/* Bytes of the reserve of a pass with these arguments: of each row for its own steps alone.  Pointers are not looked at, but
 * for `lengths`.  FL_ERROR_ARGUMENT, FL_ERROR_SIZE, FL_ERROR_LENGTH. */
FL_API fl_status fl_reserve_size(const fl_stack *stack, const fl_record_args *args, size_t *bytes);

/* The pass, which fills `reserve`, of at least fl_reserve_size() bytes and aligned to the element; on lines of 128 bytes it is
 * fastest.  What is in it may be copied elsewhere.  FL_ERROR_ARGUMENT too: it is too small. */
FL_API fl_status fl_forward(const fl_stack *stack, const fl_record_args *args, void *reserve, size_t bytes);

/* Backpropagation through the pass that fl_forward ran with these arguments and a layer packed from the same weights, on the
 * same machine and instruction set.  Arrays may have moved, but hold what they held; the final states and cells are not looked
 * at.  The reserve is read alone: the pass may be repeated, from any threads, also at once.  A reserve of another pass gives
 * other numbers, and no worse.  `keeps_index_gradient` must be false.  Outputs are unspecified after an error. */
FL_API fl_status fl_backward(const fl_stack *stack, const fl_record_args *args, const void *reserve, size_t bytes,
                             const fl_backward_args *back);

typedef struct fl_tape fl_tape;

/* Empty.  A tape can record again and again; its memory grows as needed and is kept.  It belongs to one thread at a
 * time. */
FL_API fl_status fl_tape_create(fl_tape **tape);
FL_API void fl_tape_destroy(fl_tape *tape); /* null is allowed */
/* Bytes that the last recorded pass keeps for its backward pass, its reserve and little more; and that reserve, null where
 * there is none: fl_backward takes both, as long as the tape records nothing else. */
FL_API size_t fl_tape_bytes(const fl_tape *tape);
FL_API const void *fl_tape_reserve(const fl_tape *tape);

FL_API fl_status fl_stack_record(const fl_stack *stack, const fl_record_args *args, fl_tape *tape);
/* Backpropagation through the pass that `tape` recorded with this layer; may be repeated.  Outputs are unspecified after
 * an error. */
FL_API fl_status fl_stack_backward(const fl_stack *stack, fl_tape *tape, const fl_backward_args *args);

/* The gradient of weight_ih of layer 0 in one direction that the last backward pass kept: of columns that the input named;
 * those of all others are zero.  It stays until the tape is used again.  FL_ERROR_ARGUMENT: there is none. */
FL_API fl_status fl_tape_index_gradient(const fl_tape *tape, size_t direction, fl_columns *columns);

/* The mask that `dropout` of fl_record_args puts on elements `first` and on: out = x * mask, n elements; out may be x.  A p
 * outside [0, 1] is its nearest end, NaN is 0. */
FL_API void fl_dropout(fl_dtype dtype, double p, uint64_t seed, uint64_t first, size_t n, const void *x, void *out);

/* ---- Optimisers: one pass over flat buffers of n elements ------------------------------------------------- */

/* Whether no element is infinite or NaN. */
FL_API bool fl_all_finite(fl_dtype dtype, size_t n, const void *x);
/* out += x */
FL_API void fl_add(fl_dtype dtype, size_t n, const void *x, void *out);

typedef struct fl_sgd_args {
    double lr, momentum, weight_decay;
    bool nesterov;
} fl_sgd_args;

/* b is updated; null: no momentum.  new_params may be params.  Whether all gradients are finite; the rest is done anyway. */
FL_API bool fl_sgd_step(fl_dtype dtype, size_t n, const fl_sgd_args *args, const void *grads, const void *params,
                        void *new_params, void *b);

/* A table of words, contiguous: rows of it, or columns. */
typedef struct fl_table {
    fl_dtype dtype;
    size_t words, width; /* width: elements of a word */
    bool by_columns;     /* element j of word w stands at j * words + w; else at w * width + j */
} fl_table;

/* fl_add for these words of a table alone. */
FL_API void fl_add_words(const fl_table *table, const fl_columns *words, void *out);
/* fl_sgd_step of a table without momentum and decay whose gradients are zero but those of these words.  What they are then is
 * also left in new_values (count, width).  `room` has fl_sgd_words_room elements, which are zero, or as another step left them. */
FL_API void fl_sgd_words(const fl_table *table, const fl_columns *words, double lr, const void *params,
                         void *new_params, void *new_values, void *room);
FL_API size_t fl_sgd_words_room(const fl_table *table, size_t count);

typedef struct fl_adam_args {
    double lr, beta1, beta2, eps;
    double weight_decay;
    bool decoupled; /* AdamW: parameters decay by lr * weight_decay; else weight_decay * parameter joins the gradient */
    uint64_t step;  /* 1, 2, ...: of the bias corrections */
} fl_adam_args;

/* m and v are updated; new_params may be params. */
FL_API void fl_adam_step(fl_dtype dtype, size_t n, const fl_adam_args *args, const void *grads, const void *params,
                         void *new_params, void *m, void *v);

/* Sum of (scale x)^2, in double and in one order, whatever the threads; scale is a power of two. */
FL_API double fl_sum_squares(fl_dtype dtype, size_t n, const void *x, double scale);
/* max |x|, NaN apart; 0 where n is 0. */
FL_API double fl_largest(fl_dtype dtype, size_t n, const void *x);
/* x = x * factor * 2^exponent, rounded towards zero, so that no element is above that; 1/2 <= factor < 1, exponent <= 0. */
FL_API void fl_shrink(fl_dtype dtype, size_t n, double factor, int exponent, void *x);

/* ---- Dense layers ----------------------------------------------------------------------------------------- */

/* Weights (out_features, in_features), row-major, as the products of one pass take them: y = x weight' + bias, or
 * dx = dy weight. */
typedef enum fl_dense_pass { FL_DENSE_FORWARD, FL_DENSE_BACKWARD } fl_dense_pass;

typedef struct fl_dense_shape {
    fl_dtype dtype;
    size_t in_features, out_features; /* >= 1 */
} fl_dense_shape;

/* Packs them; *packed is null, and then memory for fl_dense_release, or what an earlier call for this shape and pass left
 * there.  FL_ERROR_ARGUMENT, FL_ERROR_SIZE, FL_ERROR_MEMORY: *packed stays as it is. */
FL_API fl_status fl_dense_pack(const fl_dense_shape *shape, fl_dense_pass pass, const void *weight, void **packed);
FL_API void fl_dense_release(void *packed); /* null is allowed */

typedef struct fl_dense_args {
    fl_dense_shape shape;
    size_t rows;        /* may be 0; arrays of rows are contiguous */
    const void *packed; /* for this pass; backward null where dx is not wanted */
    const void *x;      /* (rows, in_features) */
    const void *bias;   /* (out_features), or null; forward alone */
    void *y;            /* (rows, out_features), output of the forward pass */
    const void *dy;     /* likewise, gradient of y; backward: */
    void *dx;           /* output (rows, in_features), or null */
    void *dweight;      /* output (out_features, in_features) */
    void *dbias;        /* output (out_features), or null */
    size_t num_threads; /* 0: fl_get_num_threads() */
} fl_dense_args;

/* The same bits for any number of rows beside each other and of threads; denormal numbers are zero.  FL_ERROR_ARGUMENT,
 * FL_ERROR_SIZE, FL_ERROR_MEMORY: nothing was changed. */
FL_API fl_status fl_dense_forward(const fl_dense_args *args);
FL_API fl_status fl_dense_backward(const fl_dense_args *args);

/* ---- Streams: a unidirectional layer stack that keeps its state ------------------------------------------- */

typedef struct fl_stream fl_stream;

/* State zero; with one thread all memory that fl_stream_process will need is taken here.  The layer must outlive the
 * stream.  num_threads: most threads of a call of this stream; 0: fl_get_num_threads() at each. */
FL_API fl_status fl_stream_create(const fl_stack *stack, size_t B, size_t num_threads, fl_stream **stream);
FL_API void fl_stream_destroy(fl_stream *stream); /* null is allowed */

/* What a stream reads and writes; each field as in fl_forward_args. */
typedef struct fl_stream_io {
    const void *x;
    const int64_t *x_index;
    ptrdiff_t x_stride_t, x_stride_b;
    void *y;
    ptrdiff_t y_stride_t, y_stride_b;
    int (*interrupt)(void *context);
    void *interrupt_context;
} fl_stream_io;

/* T steps for all B rows from the kept state.  A stream of one thread allocates nothing, takes no lock and makes no system
 * call (without `interrupt`): safe in a real-time thread. */
FL_API fl_status fl_stream_process(fl_stream *stream, size_t T, const fl_stream_io *io);
/* The kept state, shaped as h0 and c0, readable and writable between calls; c is null where the cell has none. */
FL_API void *fl_stream_h(fl_stream *stream);
FL_API void *fl_stream_c(fl_stream *stream);

/* ---- Plans: how calls are divided among threads ------------------------------------------------------------- */

typedef enum fl_pass { FL_PASS_FORWARD, FL_PASS_RECORD, FL_PASS_BACKWARD, FL_PASS_STREAM } fl_pass;

#define FL_PLAN_WAYS 4

/* What has been learned of one kind of call.  Where no doubt is, as with one thread and weights that lie near, or threads
 * that are worth their while on any machine, nothing is measured. */
typedef struct fl_plan_facts {
    fl_pass pass;
    fl_dtype dtype;
    fl_cell_kind cell;
    int variant; /* of the cell: options that decide how it is computed */
    size_t input_size, hidden_size, width, num_layers, num_directions;
    size_t steps; /* the largest power of two that is no more than the mean steps of a row */
    size_t rows, max_threads;
    size_t ways; /* plans that are tried */
    struct fl_plan_way {
        size_t threads, row_groups, direction_groups, layer_groups, hidden_groups;
        bool fetches;       /* weights that lie far are fetched ahead for few rows too */
        double nanoseconds; /* a step, as measured last; 0: not yet */
    } way[FL_PLAN_WAYS];
    size_t chosen;   /* the plan in force */
    bool is_settled; /* it is; else plans are taken in turn */
} fl_plan_facts;

/* Whether calls try plans and keep the fastest, as they do from the start; false: each takes the plan of least estimated
 * time.  Results do not depend on it. */
FL_API void fl_set_plan_trials(bool enabled);
FL_API bool fl_get_plan_trials(void);
/* Kind `index` of those that are remembered; FL_ERROR_ARGUMENT behind the last. */
FL_API fl_status fl_plan_get_facts(size_t index, fl_plan_facts *facts);

/* ---- The pieces ------------------------------------------------------------------------------------------- */

/* gates (B, 4H) = x (B, I) weight_ih' + h (B, H) weight_hh' + bias, of layer 0, direction 0; ld* are row strides. */
FL_API fl_status fl_gate_matmul(const fl_stack *stack, size_t B, const void *x, ptrdiff_t ldx, const void *h,
                                ptrdiff_t ldh, void *gates, ptrdiff_t ldg);
/* Elementwise cell update of B rows: gates (B, 4H) before activation, c (B, H); outputs h_out, c_out (B, H).
 * c_out may be c. */
FL_API fl_status fl_cell_update(fl_dtype dtype, size_t B, size_t H, const void *gates, ptrdiff_t ldg, const void *c,
                                ptrdiff_t ldc, void *h_out, ptrdiff_t ldh_out, void *c_out, ptrdiff_t ldc_out);
/* out may be x. */
FL_API void fl_sigmoid(fl_dtype dtype, size_t n, const void *x, void *out);
FL_API void fl_tanh(fl_dtype dtype, size_t n, const void *x, void *out);

/* ---- What this machine can do (for benchmarks) ------------------------------------------------------------ */

/* Multiply-adds from registers, all lanes of the active instruction set, for about `seconds`: flop/s. */
FL_API double fl_probe_fma(fl_dtype dtype, double seconds);
/* Reading a buffer of `bytes` again and again for about `seconds`: bytes/s; 0 when out of memory. */
FL_API double fl_probe_stream(size_t bytes, double seconds);

#ifdef __cplusplus
}
#endif
#endif
