/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Plain C kernels, float32.
 */
#define FL_ISA generic
#define FL_REAL_BITS 32
#include "simd_generic.h"

#include "kernels_body.h"
