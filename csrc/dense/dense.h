/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Products of a dense layer on the kernels of the recurrent ones.  Arguments are checked.
 */
#ifndef FL_DENSE_H
#define FL_DENSE_H
#include "fastlstm.h"

fl_status fl_dense_run_forward(const fl_dense_args *args);
fl_status fl_dense_run_backward(const fl_dense_args *args);

#endif
