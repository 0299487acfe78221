/* SPDX-License-Identifier: BSD-3-Clause
 *
 * AVX2 kernels, float32: an empty file unless the build asks for them.
 */
#if defined(FL_HAVE_AVX2)
#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with -mavx2 -mfma"
#endif
#define FL_ISA avx2
#define FL_REAL_BITS 32
#include "kernels/simd/simd_avx2.h"

#include "kernels/products/product_real_body.h"

#include "kernels/isa/table_body.h"
#endif
