/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The list of instruction sets, slowest first: X(name, what its code needs, what a cap at this name allows).  A name allows
 * all that may come in holes of its own kernels, and never what came with a later name.
 */
#define FL_ISA_LIST(X)                \
    X(generic, 0, 0)                  \
    X(neon, FL_CAN_NEON, FL_CAN_NEON) \
    X(avx2, FL_CAN_AVX2, FL_CAN_AVX2) \
    X(avx512, FL_CAN_AVX2 | FL_CAN_AVX512, FL_CAN_AVX2 | FL_CAN_AVX512)
