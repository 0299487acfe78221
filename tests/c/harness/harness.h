/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the tests of the C core share: expectations, reproducible random numbers, memory between guard pages, and
 * allocation counters.
 */
#ifndef HARNESS_H
#define HARNESS_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Expectations ----------------------------------------------------------------------------------------- */

typedef enum effort {
    EFFORT_SHORT, /* enough to touch every path: for emulators that are slow */
    EFFORT_FULL
} effort;
extern effort harness_effort;

/* `full` rounds, or few where time is dear. */
static inline size_t rounds(size_t full) { return harness_effort == EFFORT_FULL ? full : full / 24 + 1; }

/* Run this test alone; null: all. */
extern const char *harness_only;
/* Run one test and count it as passed or failed.  It fails too when it leaves memory behind. */
void run_test(const char *name, void (*test)(void));
int finish_tests(void); /* prints the totals as the last line; the exit code */

/* On failure: prints the place and the rest of the arguments (a printf format), and the running test has failed.
 * Only from the main thread.  Returns the condition. */
#define EXPECT(condition, ...) expect((condition), #condition, __FILE__, __LINE__, __VA_ARGS__)
bool expect(bool condition, const char *text, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
#define EXPECT_STATUS(call, wanted) expect_status((int)(call), (int)(wanted), #call, __FILE__, __LINE__)
bool expect_status(int got, int wanted, const char *text, const char *file, int line);

/* ---- Random numbers: the same on every machine; each test starts from the same seed ----------------------- */

void random_seed(uint64_t seed);
uint64_t random_bits(void);
size_t random_size(size_t least, size_t most);
bool random_chance(unsigned one_in);
double random_real(double magnitude); /* uniform in [-magnitude, magnitude), 24 bits */

/* ---- Memory between two pages that must not be touched ---------------------------------------------------- */

#define GUARD_MOST 128
typedef struct guard_block {
    unsigned char *pages, *data;
    size_t page_bytes, bytes;
} guard_block;

/* Blocks that live and die together.  Zero it to begin with. */
typedef struct guard_arena {
    size_t count;
    guard_block blocks[GUARD_MOST];
} guard_arena;

/* A block whose end, or by turns whose start, touches a page without access; the rest of its pages holds a pattern
 * that is checked on release.  All bytes are 0xff, which is a NaN. */
void *guard_new(guard_arena *arena, size_t count, size_t each);
void guard_read_only(const guard_arena *arena);
void guard_release(guard_arena *arena);
/* Nothing was written since guard_new(). */
bool arena_untouched(const guard_arena *outputs);
/* The same blocks with the same bytes. */
bool arenas_equal(const guard_arena *a, const guard_arena *b);

/* ---- Allocation: every malloc and its kin of the program under test is counted (see wrap.c) --------------- */

extern atomic_long allocations_live, allocations_made;
extern atomic_size_t allocation_bytes; /* of aligned memory, all that was ever given */
/* The nth allocation of this thread from now on fails (1: the next one); 0: none. */
void allocation_fail(size_t nth);
/* Threads that may still be started before none can be; SIZE_MAX: any number. */
void thread_starts_left(size_t count);

/* ---- Time ------------------------------------------------------------------------------------------------- */

/* Each reading of the clock is so much later than the one before it; 0: it stands still; negative: the machine's clock,
 * with which each test starts.  Not while the core computes. */
void clock_pace(int64_t nanoseconds);
#define CLOCK_HURRIES 100000000 /* more than anything in the core waits for */
/* Let the machine be without these abilities; 0 gives them back. */
void machine_lacks(unsigned abilities);

#endif
