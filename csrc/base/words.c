/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/words.h"

#include "base/exact.h"

/* Where words are columns, rows that are walked side by side: of each word a line of values.  They are more than processors
 * foresee, so words that come AHEAD are asked for. */
#define TOGETHER 16
#define AHEAD 12

/* Elements [begin, end) of all words. */
#define ADD(name, real)                                                                                   \
    static void name(const fl_table *table, const fl_columns *words, size_t begin, size_t end, real *out) \
    {                                                                                                     \
        const size_t from_word = table->by_columns ? 1 : table->width;                                    \
        const size_t from_element = table->by_columns ? table->words : 1;                                 \
        const real *values = words->values;                                                               \
        for (size_t n = 0; n < words->count; n++) {                                                       \
            const size_t later = n + AHEAD < words->count ? n + AHEAD : n;                                \
            real *to = out + (size_t)words->index[n] * from_word,                                         \
                 *next = out + (size_t)words->index[later] * from_word;                                   \
            for (size_t j = begin; j < end; j++) {                                                        \
                if (table->by_columns)                                                                    \
                    __builtin_prefetch(next + j * from_element, 1, 3);                                    \
                to[j * from_element] += values[n * table->width + j];                                     \
            }                                                                                             \
        }                                                                                                 \
    }
ADD(add_f32, float)
ADD(add_f64, double)

void fl_words_add(const fl_table *table, const fl_columns *words, void *out)
{
    const size_t width = table->width, step = table->by_columns ? TOGETHER : width;
    for (size_t begin = 0; begin < width; begin += step) {
        const size_t end = width - begin < step ? width : begin + step;
        if (table->dtype == FL_F32)
            add_f32(table, words, begin, end, out);
        else
            add_f64(table, words, begin, end, out);
    }
}
