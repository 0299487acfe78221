/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Checked sizes and aligned memory: every size that reaches an allocation or a pointer goes through here.
 */
#ifndef FL_MEMORY_H
#define FL_MEMORY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FL_ALIGNMENT 128 /* two cache lines: processors fetch them in pairs; and the widest vector */

/* *total += a * b * c, false where the result does not fit ptrdiff_t. */
static inline bool fl_add_product(size_t *total, size_t a, size_t b, size_t c)
{
    size_t product;
    return !__builtin_mul_overflow(a, b, &product) && !__builtin_mul_overflow(product, c, &product) &&
           !__builtin_add_overflow(*total, product, total) && *total <= (size_t)PTRDIFF_MAX / 2;
}

static inline size_t fl_round_up(size_t bytes) { return (bytes + FL_ALIGNMENT - 1) & ~(size_t)(FL_ALIGNMENT - 1); }

/* A place for count * each * bytes from *total on, in lines of its own; false where it does not fit. */
static inline bool fl_take_place(size_t *total, size_t *offset, size_t count, size_t each, size_t bytes)
{
    *offset = *total;
    if (!fl_add_product(total, count, each, bytes) || !fl_add_product(total, FL_ALIGNMENT, 1, 1))
        return false;
    *total = fl_round_up(*total);
    return true;
}

/* FL_ALIGNMENT-aligned memory, not initialised; null when there is none.  Large blocks ask for huge pages. */
void *fl_allocate(size_t bytes);
void fl_release(void *memory);

#endif
