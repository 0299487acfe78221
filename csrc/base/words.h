/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Some words of a table (fl_table): what belongs to them stands elsewhere, one word behind the other.  Floating-point state is
 * the caller's affair.
 */
#ifndef FL_WORDS_H
#define FL_WORDS_H
#include "fastlstm.h"

/* out += values, of these words. */
void fl_words_add(const fl_table *table, const fl_columns *words, void *out);

#endif
