/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Kernels in plain C, float64.
 */
#define FL_ISA generic
#define FL_REAL_BITS 64
#include "kernels/simd/simd_generic.h"

#include "kernels/products/product_real_body.h"

#include "kernels/isa/table_body.h"
