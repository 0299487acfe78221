/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where the rows of an array lie.  Everything that is read or written row by row is a base pointer, const or not, and
 * one of these.
 */
#ifndef FL_ROWS_H
#define FL_ROWS_H
#include <stddef.h>

/* Element 0 of batch row b at step t stands stride_t t + stride_b at[b] elements behind the base; at null: b itself. */
typedef struct fl_rows {
    ptrdiff_t stride_t, stride_b;
    const ptrdiff_t *at;
} fl_rows;

/* Elements from the base to batch row b. */
static inline ptrdiff_t fl_row_offset(const fl_rows *rows, size_t b)
{
    return (rows->at != NULL ? rows->at[b] : (ptrdiff_t)b) * rows->stride_b;
}

/* A base pointer moved by that many elements. */
static inline char *fl_moved(void *base, ptrdiff_t elements, size_t real_size)
{
    return (char *)base + elements * (ptrdiff_t)real_size;
}

static inline const char *fl_moved_const(const void *base, ptrdiff_t elements, size_t real_size)
{
    return (const char *)base + elements * (ptrdiff_t)real_size;
}

/* Batch row b at step t. */
static inline char *fl_row(void *base, const fl_rows *rows, size_t t, size_t b, size_t real_size)
{
    return fl_moved(base, (ptrdiff_t)t * rows->stride_t + fl_row_offset(rows, b), real_size);
}

static inline const char *fl_row_const(const void *base, const fl_rows *rows, size_t t, size_t b, size_t real_size)
{
    return fl_moved_const(base, (ptrdiff_t)t * rows->stride_t + fl_row_offset(rows, b), real_size);
}

#endif
