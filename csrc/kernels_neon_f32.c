/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NEON kernels, float32.
 */
#if !defined(__aarch64__)
#error "this file is for aarch64"
#endif
#define FL_ISA neon
#define FL_REAL_BITS 32
#include "simd_neon.h"

#include "kernels_body.h"
