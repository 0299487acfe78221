/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/ragged.h"

#include <stdlib.h>

/* Longest first; equal lengths in the order of the batch. */
static int compare_rows(const void *a, const void *b)
{
    const fl_ranked_row *left = a, *right = b;
    if (left->length != right->length)
        return left->length > right->length ? -1 : 1;
    return left->row < right->row ? -1 : 1;
}

void fl_rank_rows(size_t *rows, fl_ranked_row *ranked, size_t B, size_t groups, const int64_t *lengths)
{
    for (size_t b = 0; b < B; b++) {
        ranked[b].length = lengths[b];
        ranked[b].row = b;
    }
    qsort(ranked, B, sizeof *ranked, compare_rows);
    for (size_t group = 0, position = 0; group < groups; group++)
        for (size_t rank = group; rank < B; rank += groups) rows[position++] = ranked[rank].row;
}

static size_t places_of_row(size_t length, size_t segment)
{
    if (segment == 0)
        return length;
    return length != 0 ? (length - 1) / segment : 0;
}

fl_places fl_places_of(const int64_t *lengths, size_t T, size_t B, size_t segment, ptrdiff_t *at)
{
    const fl_places dense = {places_of_row(T, segment) * B, B, NULL};
    size_t count = 0;
    for (size_t b = 0; b < B && lengths != NULL; b++) {
        if (at != NULL)
            at[b] = (ptrdiff_t)count;
        count += places_of_row((size_t)lengths[b], segment);
    }
    const fl_places ragged = {count, 1, at};
    return lengths == NULL || count == dense.count ? dense : ragged;
}

size_t fl_active_rows(const size_t *rows, size_t count, const int64_t *lengths, size_t t)
{
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if ((uint64_t)lengths[rows[middle]] > t)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
