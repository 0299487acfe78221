/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The groups of tests.
 */
#ifndef TESTS_H
#define TESTS_H

void test_values(void); /* calls and gradients against the oracle */
void test_pieces(void); /* of a step; dropout, probes */
void test_optimisers_that_truncate(void);
void test_optimisers(void);     /* passes over flat buffers, and words of a table */
void test_dense_layers(void);   /* dense layers */
void test_floating_point(void); /* corner cases that emulators get wrong */
void test_bits(void);           /* of calls: what must be the same */
void test_training(void);       /* of recorded passes and gradients: what must be the same */
void test_reserve(void);        /* recorded passes in memory of the caller */
void test_ragged(void);         /* rows of different lengths: memory, and each row alone */
void test_errors(void);         /* what a caller can get wrong */
void test_facts(void);          /* options, parameters and costs, asked for by name */
void test_trials(void);         /* which plan is taken, by times that the test makes up */
void test_memory(void);         /* out of memory, leaks, allocation */
void test_schedules(void);      /* any number of threads: the same bits */
void test_training_schedules(void);
void test_ragged_schedules(void);
void test_reserve_threads(void);
void test_threads(void);       /* several callers, limits */
void test_interruptions(void); /* the interrupt callback */
void test_signals(void);
void test_fork(void);     /* in children too, where threads can be counted out */
void print_digests(void); /* of results over fixed shapes, to compare instruction sets */

#endif
