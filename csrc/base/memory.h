/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Checked sizes, aligned memory, and the two ways in which a call has memory: a workspace, one block that grows and is
 * kept, and an arena, which deals out such a block.
 */
#ifndef FL_MEMORY_H
#define FL_MEMORY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/exact.h"

#define FL_ALIGNMENT 128 /* two cache lines: processors fetch them in pairs; and the widest vector */

/* *total += a * b * c, false where the result does not fit ptrdiff_t. */
static inline bool fl_add_product(size_t *total, size_t a, size_t b, size_t c)
{
    size_t product;
    return !__builtin_mul_overflow(a, b, &product) && !__builtin_mul_overflow(product, c, &product) &&
           !__builtin_add_overflow(*total, product, total) && *total <= (size_t)PTRDIFF_MAX / 2;
}

static inline size_t fl_round_up(size_t bytes) { return (bytes + FL_ALIGNMENT - 1) & ~(size_t)(FL_ALIGNMENT - 1); }

/* FL_ALIGNMENT-aligned memory, not initialised; null when there is none.  Large blocks ask for huge pages. */
void *fl_allocate(size_t bytes);
void fl_release(void *memory);

/* ---- Arena -------------------------------------------------------------------------------------------------- */

/* The same walk measures and places, so what is measured is what is taken: where the block is too small, or null, places are
 * null, and `used` says how large it has to be. */
typedef struct fl_arena {
    char *memory;
    size_t bytes, used;
    bool overflows; /* some size did not fit */
} fl_arena;

/* A place for count * each * bytes, in lines of its own, and a line behind it that vectors may read. */
static inline void *fl_arena_take(fl_arena *arena, size_t count, size_t each, size_t bytes)
{
    const size_t place = arena->used;
    size_t end = place;
    if (count == 0)
        return arena->memory; /* nothing is there to be read */
    if (!fl_add_product(&end, count, each, bytes) || !fl_add_product(&end, FL_ALIGNMENT, 1, 1)) {
        arena->overflows = true;
        return NULL;
    }
    arena->used = fl_round_up(end);
    return arena->used <= arena->bytes ? arena->memory + place : NULL;
}

/* ---- Workspace ---------------------------------------------------------------------------------------------- */

/* Memory that a call leaves for the next one. */
typedef struct fl_workspace {
    size_t bytes;
    void *memory;
    bool is_fixed;    /* it never shrinks */
    size_t few, most; /* calls in a row that needed little, and the largest of their needs */
    size_t turn;      /* calls that used it: alternates the order in which weights are walked, see fl_steps */
} fl_workspace;

/* A block of which FL_FEW_CALLS calls in a row need no more than 1 / FL_FEW_PART shrinks to the most that they needed, unless
 * it is small anyway.  So a long sequence among short ones leaves nothing for good, and calls of like sizes find their memory
 * as it was. */
#define FL_FEW_CALLS 4
#define FL_FEW_PART 8
#define FL_FEW_BYTES ((size_t)1 << 20)

/* Make it at least that large, for a call that needs so much; its content is lost.  False, and an empty one, when out of
 * memory. */
bool fl_workspace_fit(fl_workspace *workspace, size_t bytes);
void fl_workspace_free(fl_workspace *workspace); /* of one that was allocated; null is allowed */

static inline fl_arena fl_arena_of(const fl_workspace *workspace)
{
    const fl_arena arena = {.memory = workspace->memory, .bytes = workspace->bytes};
    return arena;
}

#endif
