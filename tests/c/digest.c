/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Digests of the output bits over a fixed set of shapes, inputs from the tests' integer generator: equal lines from two
 * machines or instruction sets mean equal bits.
 */
#include <inttypes.h>
#include <stdio.h>

#include "harness/problem.h"
#include "tests.h"

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *byte = data;
    for (size_t n = 0; n < bytes; n++) hash = (hash ^ byte[n]) * 1099511628211U; /* FNV-1a */
    return hash;
}

#define EMPTY_HASH 14695981039346656037U

static uint64_t hash_arena(uint64_t hash, const guard_arena *arena)
{
    for (size_t n = 0; n < arena->count; n++) hash = hash_bytes(hash, arena->blocks[n].data, arena->blocks[n].bytes);
    return hash;
}

/* The plain LSTM, larger. */
static uint64_t hash_forward(fl_dtype dtype)
{
    static const struct {
        size_t sizes[6], threads;
        bool ragged, indexed;
    } shapes[] = {
        {{9, 1, 1, 1, 1, 1}, 1, false, false},     {{20, 1, 3, 16, 1, 1}, 1, false, false},
        {{37, 5, 23, 77, 1, 1}, 1, false, false},  {{61, 13, 40, 50, 1, 1}, 2, true, false},
        {{30, 4, 12, 33, 3, 1}, 3, false, false},  {{25, 7, 12, 19, 2, 2}, 2, true, false},
        {{30, 3, 256, 41, 2, 1}, 1, false, true},  {{100, 1, 64, 64, 1, 1}, 1, false, false},
        {{2, 60, 30, 128, 1, 1}, 2, false, false}, {{100, 1, 1, 40, 1, 1}, 1, false, false},
    };
    uint64_t hash = EMPTY_HASH;
    for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++) {
        random_seed(n);
        spec s = spec_stack(FL_CELL_LSTM, dtype, shapes[n].sizes);
        problem p;
        result r;
        s.ragged = shapes[n].ragged;
        s.indexed = shapes[n].indexed;
        s.given_state = n % 2 == 0;
        problem_make(&p, &s);
        problem_run(&p, shapes[n].threads, &r);
        hash = hash_arena(hash, &r.outputs);
        result_free(&r);
        problem_free(&p);
    }
    return hash;
}

/* Gates, cell updates and activations, over magnitudes from tiny to saturated. */
static uint64_t hash_pieces(fl_dtype dtype)
{
    enum { B = 5, I = 7, H = 37, COUNT = 1000 };
    const size_t real_size = real_bytes(dtype);
    problem p;
    guard_arena arena = {0};
    uint64_t hash = EMPTY_HASH;
    random_seed(77);
    const spec s = spec_plain(FL_CELL_LSTM, dtype, 1, B, I, H);
    problem_make(&p, &s);
    void *h = guard_new(&arena, B * H, real_size), *gates = guard_new(&arena, B * 4 * H, real_size);
    void *c = guard_new(&arena, B * H, real_size), *x = guard_new(&arena, COUNT, real_size);
    void *out = guard_new(&arena, COUNT, real_size);
    for (ptrdiff_t n = 0; n < B * H; n++) {
        real_put(dtype, h, n, random_real(1.0));
        real_put(dtype, c, n, random_real(3.0));
    }
    for (ptrdiff_t n = 0; n < COUNT; n++)
        real_put(dtype, x, n, random_real(n < COUNT / 2 ? 4.0 : n % 3 == 0 ? 0x1p-10 : 100.0));
    EXPECT_STATUS(fl_gate_matmul(p.stack, B, p.x, I, h, H, gates, 4 * H), FL_OK);
    hash = hash_bytes(hash, gates, B * 4 * H * real_size);
    EXPECT_STATUS(fl_cell_update(dtype, B, H, gates, 4 * H, c, H, h, H, c, H), FL_OK);
    hash = hash_bytes(hash_bytes(hash, h, B * H * real_size), c, B * H * real_size);
    fl_sigmoid(dtype, COUNT, x, out);
    hash = hash_bytes(hash, out, COUNT * real_size);
    fl_tanh(dtype, COUNT, x, out);
    hash = hash_bytes(hash, out, COUNT * real_size);
    guard_release(&arena);
    problem_free(&p);
    return hash;
}

/* Calls, and recorded passes with their gradients, of any options of a kind; and what they were given, which is the same
 * on every machine and of every compiler. */
static uint64_t hash_kind(fl_cell_kind kind, fl_dtype dtype, uint64_t *given)
{
    uint64_t hash = EMPTY_HASH;
    random_seed((uint64_t)kind * 2 + 1);
    for (size_t n = 0; n < (kind == FL_CELL_LSTM ? 80U : 24U); n++) {
        const spec s = spec_random(kind, dtype);
        problem p;
        result r;
        gradients g;
        fl_tape *tape = NULL;
        problem_make(&p, &s);
        *given = hash_arena(*given, &p.inputs);
        problem_run(&p, 1, &r);
        hash = hash_arena(hash, &r.outputs);
        result_free(&r);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        problem_train(&p, tape, n % 2 == 0 ? FL_SAVE_ALL : 3, 1, &r, &g);
        hash = hash_arena(hash_arena(hash_arena(hash, &r.outputs), &g.outputs), &g.of_dx);
        fl_tape_destroy(tape);
        result_free(&r);
        gradients_free(&g);
        problem_free(&p);
    }
    return hash;
}

static void digests(void)
{
    static const char *const names[] = {"f32", "f64"};
    printf("\n");
    for (size_t d = 0; d < DTYPES; d++) {
        const uint64_t forward = hash_forward(dtypes[d]), pieces = hash_pieces(dtypes[d]);
        printf("digest forward %s %016" PRIx64 "\n", names[d], forward);
        printf("digest pieces %s %016" PRIx64 "\n", names[d], pieces);
        for (int kind = 0; kind < FL_CELL_COUNT; kind++) {
            uint64_t given = EMPTY_HASH;
            const uint64_t results = hash_kind((fl_cell_kind)kind, dtypes[d], &given);
            printf("given %s %s %016" PRIx64 "\n", kind_names[kind], names[d], given);
            printf("digest %s %s %016" PRIx64 "\n", kind_names[kind], names[d], results);
        }
    }
}

void print_digests(void) { run_test("digests", digests); }
