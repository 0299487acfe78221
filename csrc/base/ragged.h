/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Batch rows of different lengths: sorted, so that at every moment the active ones are the first.
 */
#ifndef FL_RAGGED_H
#define FL_RAGGED_H
#include <stddef.h>
#include <stdint.h>

#include "base/exact.h"

/* A batch row and its length, for sorting. */
typedef struct fl_ranked_row {
    int64_t length;
    size_t row;
} fl_ranked_row;

/* rows (B): those of group 0, longest first, then those of group 1 and so on; long ones are dealt out evenly.  Equal
 * lengths stay in the order of the batch.  `ranked` (B) is scratch. */
void fl_rank_rows(size_t *rows, fl_ranked_row *ranked, size_t B, size_t groups, const int64_t *lengths);

/* Where batch rows have their places in an array that holds one for each step: fl_place(). */
typedef struct fl_places {
    size_t count; /* of all */
    size_t stride_t;
    const ptrdiff_t *at; /* of step 0 by b; null: b itself */
} fl_places;

static inline size_t fl_place(const fl_places *places, size_t t, size_t b)
{
    return t * places->stride_t + (places->at != NULL ? (size_t)places->at[b] : b);
}

/* Places (T, B); or, where rows differ in length, as many as there are steps: those of a row one behind the other.  With a
 * segment, one for each boundary in front of a step segment, 2 segment, ...; 0: of all steps.  `at` (B) is memory for them;
 * null where the count alone matters.  T * B must fit. */
fl_places fl_places_of(const int64_t *lengths, size_t T, size_t B, size_t segment, ptrdiff_t *at);

/* How many of `count` sorted rows are longer than t. */
size_t fl_active_rows(const size_t *rows, size_t count, const int64_t *lengths, size_t t);

/* First member of a group when B are dealt out in order: groups differ by one at most. */
static inline size_t fl_group_begin(size_t B, size_t groups, size_t group)
{
    return B / groups * group + (group < B % groups ? group : B % groups);
}

#endif
