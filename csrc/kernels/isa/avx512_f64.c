/* SPDX-License-Identifier: BSD-3-Clause
 *
 * AVX-512 kernels, float64: an empty file unless the build asks for them.
 */
#if defined(FL_HAVE_AVX512)
#if !defined(__AVX512F__) || !defined(__AVX512CD__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || \
    !defined(__AVX512VL__)
#error "compile this file with -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl"
#endif
#define FL_ISA avx512
#define FL_REAL_BITS 64
#include "kernels/simd/simd_avx512.h"

#include "kernels/products/product_real_body.h"

#include "kernels/isa/table_body.h"
#endif
