/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The groups of tests.
 */
#ifndef TESTS_H
#define TESTS_H

void test_values(void);          /* against the oracle */
void test_floating_point(void);  /* corner cases that emulators get wrong */
void test_bits(void);            /* what must be the same bits */
void test_errors(void);          /* what a caller can get wrong */
void test_memory(void);          /* out of memory, leaks, allocation */
void test_training(void);        /* recorded passes and their backward passes */
void test_family(void);          /* cells of all kinds: forward */
void test_family_training(void); /* recorded passes and gradients */
void test_facts(void);           /* options, parameters and costs, asked for by name */
void test_trials(void);          /* which plan is taken, by times that the test makes up */
void test_ragged(void);          /* rows of different lengths: memory, and each row alone */
void test_family_errors(void);   /* wrong options, missing parameters, no memory */
void test_schedules(void);       /* any number of threads: the same bits */
void test_threads(void);         /* several callers, limits */
void test_training_schedules(void);
void test_family_schedules(void);
void test_family_training_schedules(void);
void test_ragged_schedules(void);
void test_interruptions(void); /* the interrupt callback, signals */
void test_training_interruptions(void);
void test_family_interruptions(void);
void test_fork(void);     /* in children too, where threads can be counted out */
void print_digests(void); /* of results over fixed shapes, to compare instruction sets */

#endif
