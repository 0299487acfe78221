/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NEON kernels, float64.
 */
#if !defined(__aarch64__)
#error "this file is for aarch64"
#endif
#define FL_ISA neon
#define FL_REAL_BITS 64
#include "simd_neon.h"

#include "kernels_body.h"
