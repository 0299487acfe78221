/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Tests of the C core through fastlstm.h, and of trials.h, whose clock must not be one.  Arguments: the instruction set,
 * which must then be the active one, and what to run (and, if wanted, the name of the only test to run):
 *     full      everything
 *     short     everything, in few rounds, for sanitizers
 *     memory    what touches memory, in few rounds, for slow emulators of this machine (Valgrind)
 *     foreign   everything but fork, for emulators of other machines (QEMU cannot fork a process with threads);
 *               few rounds of what uses several threads
 *     emulated  the same in few rounds, for machines whose kernels are in plain C, which an emulator runs slowest
 *     threads   what uses several threads, in few rounds, for race detectors
 *     digest    only print digests of results
 * Prints the name of each test before it runs, so that a crash has a name.  The last line is "N passed, N failed"; the
 * exit code is 0 where none failed.
 */
#include <stdio.h>
#include <string.h>

#include "base/pool.h"
#include "fastlstm.h"
#include "harness/harness.h"
#include "tests.h"

static const char *wanted_isa;

static void instruction_set_is_active(void)
{
    EXPECT(strcmp(fl_isa_active(), wanted_isa) == 0, "active is %s, wanted %s", fl_isa_active(), wanted_isa);
}

typedef struct mode {
    const char *name;
    effort computing, threading;
    bool values, floating_point, threads, interruptions, fork, digest;
} mode;

static const mode modes[] = {
    {"full", EFFORT_FULL, EFFORT_FULL, true, true, true, true, true, true},
    {"short", EFFORT_SHORT, EFFORT_SHORT, true, true, true, true, true, false},
    {"memory", EFFORT_SHORT, EFFORT_SHORT, true, false, false, false, false, false},
    {"foreign", EFFORT_FULL, EFFORT_SHORT, true, true, true, true, false, false},
    {"emulated", EFFORT_SHORT, EFFORT_SHORT, true, true, true, true, false, false},
    {"threads", EFFORT_SHORT, EFFORT_SHORT, false, false, true, false, false, false},
    {"digest", EFFORT_FULL, EFFORT_FULL, false, false, false, false, false, true},
};

static void run_mode(const mode *how)
{
    harness_effort = how->computing;
    if (how->values) {
        test_values();
        test_pieces();
        test_optimisers();
        test_dense_layers();
        test_bits();
        test_training();
        test_reserve();
        test_ragged();
        test_errors();
        test_facts();
        test_trials();
        test_memory();
    }
    if (how->floating_point) {
        test_floating_point();
        test_optimisers_that_truncate();
    }
    harness_effort = how->threading;
    if (how->threads) {
        test_schedules();
        test_training_schedules();
        test_ragged_schedules();
        test_threads();
        test_reserve_threads();
    }
    if (how->interruptions) {
        test_interruptions();
        test_signals();
    }
    if (how->fork)
        test_fork();
    if (how->digest)
        print_digests();
}

int main(int count, char **arguments)
{
    const mode *how = NULL;
    for (size_t n = 0; n < sizeof modes / sizeof *modes; n++)
        if (strcmp(count > 2 ? arguments[2] : "full", modes[n].name) == 0)
            how = &modes[n];
    if (count < 2 || count > 4 || how == NULL) {
        fprintf(stderr,
                "usage: %s generic|avx2|avx512|neon [full|short|memory|foreign|emulated|threads|digest [TEST]]\n",
                arguments[0]);
        return 2;
    }
    wanted_isa = arguments[1];
    harness_only = count > 3 ? arguments[3] : NULL;
    const fl_status status = fl_isa_select(wanted_isa);
    if (status != FL_OK) {
        fprintf(stderr, "%s: %s\n", wanted_isa, fl_status_text(status));
        return 2;
    }
    printf("active %s\n", fl_isa_active());
    fl_pool_release(fl_pool_acquire(2)); /* some C libraries take memory for the handlers of fork, and keep it */
    run_test("instruction_set_is_active", instruction_set_is_active);
    run_mode(how);
    return finish_tests();
}
