/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which kernels are in use.
 */
#ifndef FL_CHOOSE_H
#define FL_CHOOSE_H
#include "kernels/kernels.h"

/* Those of the active instruction set (see fl_isa_select); where it has none for a storage, of the best one below it. */
const fl_kernels *fl_kernels_active(fl_dtype dtype, fl_storage storage);

#endif
