/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NEON kernels, float32: an empty file unless the build asks for them.
 */
#if defined(FL_HAVE_NEON)
#if !defined(__aarch64__)
#error "this file is for aarch64"
#endif
#define FL_ISA neon
#define FL_REAL_BITS 32
#include "kernels/simd/simd_neon.h"

#include "kernels/products/product_real_body.h"

#include "kernels/isa/table_body.h"
#endif
