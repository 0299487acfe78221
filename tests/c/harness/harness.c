/* SPDX-License-Identifier: BSD-3-Clause */
#include "harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "system.h"

#define PATTERN 0xA5
#define MOST_MESSAGES 8 /* of one test */

effort harness_effort = EFFORT_FULL;
const char *harness_only;
static size_t passed, failed, failures_here;

void run_test(const char *name, void (*test)(void))
{
    if (harness_only != NULL && strcmp(harness_only, name) != 0)
        return;
    uint64_t seed = 14695981039346656037U;
    for (const char *letter = name; *letter != '\0'; letter++) seed = (seed ^ (unsigned char)*letter) * 1099511628211U;
    random_seed(seed);
    clock_pace(-1);
    printf("%s ... ", name);
    fflush(stdout);
    failures_here = 0;
    const long live = atomic_load(&allocations_live);
    test();
    EXPECT(atomic_load(&allocations_live) == live, "%ld allocations before, %ld after", live,
           atomic_load(&allocations_live));
    *(failures_here == 0 ? &passed : &failed) += 1;
    printf("%s\n", failures_here == 0 ? "ok" : "\nFAIL");
    fflush(stdout);
}

int finish_tests(void)
{
    printf("%zu passed, %zu failed\n", passed, failed);
    return failed != 0 || passed == 0;
}

bool expect(bool condition, const char *text, const char *file, int line, const char *format, ...)
{
    if (!condition && failures_here++ < MOST_MESSAGES) {
        va_list arguments;
        va_start(arguments, format);
        printf("\n%s:%d: not %s: ", file, line, text);
        vprintf(format, arguments);
        va_end(arguments);
        fflush(stdout);
    }
    return condition;
}

bool expect_status(int got, int wanted, const char *text, const char *file, int line)
{
    return expect(got == wanted, text, file, line, "status %d, expected %d", got, wanted);
}

/* ---- Random numbers ---------------------------------------------------------------------------------------- */

static uint64_t random_state;

void random_seed(uint64_t seed) { random_state = seed; }

/* Knuth's MMIX generator, upper half. */
uint64_t random_bits(void)
{
    random_state = random_state * 6364136223846793005U + 1442695040888963407U;
    return random_state >> 32;
}

size_t random_size(size_t least, size_t most) { return least + random_bits() % (most - least + 1); }

bool random_chance(unsigned one_in) { return random_bits() % one_in == 0; }

double random_real(double magnitude) { return magnitude * ((double)(random_bits() >> 8) - 8388608.0) / 8388608.0; }

/* ---- Guard pages ------------------------------------------------------------------------------------------- */

/* Pages of released blocks, by how many lie between the guards; nothing may touch them until they are used again.  To map
 * new ones for every array took as long as all else that the tests do. */
#define POOLED_PAGES 32
#define POOLED_BLOCKS 64
static struct {
    size_t count;
    unsigned char *pages[POOLED_BLOCKS];
} pool[POOLED_PAGES];

static unsigned char *new_pages(size_t body, size_t page)
{
    unsigned char *pages = pages_new(body + 2 * page);
    if (pages == NULL)
        return NULL;
    pages_forbid(pages, page);
    pages_forbid(pages + page + body, page);
    return pages;
}

static unsigned char *used_pages(size_t body, size_t page)
{
    if (body / page >= POOLED_PAGES || pool[body / page].count == 0)
        return NULL;
    unsigned char *pages = pool[body / page].pages[--pool[body / page].count];
    pages_open(pages + page, body);
    return pages;
}

static void give_back_pages(unsigned char *pages, size_t body, size_t page)
{
    if (body / page >= POOLED_PAGES || pool[body / page].count == POOLED_BLOCKS) {
        pages_free(pages, body + 2 * page);
        return;
    }
    pages_forbid(pages + page, body);
    pool[body / page].pages[pool[body / page].count++] = pages;
}

void *guard_new(guard_arena *arena, size_t count, size_t each)
{
    static bool at_start;
    const size_t page = page_bytes(), bytes = count * each;
    const size_t body = (bytes + page - 1) / page * page;
    guard_block block = {.bytes = bytes, .page_bytes = body + 2 * page};
    if (arena->count < GUARD_MOST)
        block.pages = used_pages(body, page);
    if (arena->count < GUARD_MOST && block.pages == NULL)
        block.pages = new_pages(body, page);
    if (block.pages == NULL) {
        printf("no memory for a test array of %zu bytes\n", bytes);
        exit(2);
    }
    at_start = !at_start;
    block.data = block.pages + page + (at_start ? 0 : body - bytes);
    memset(block.pages + page, PATTERN, body);
    memset(block.data, 0xff, bytes);
    arena->blocks[arena->count++] = block;
    return block.data;
}

void guard_read_only(const guard_arena *arena)
{
    const size_t page = page_bytes();
    for (size_t n = 0; n < arena->count; n++)
        pages_read_only(arena->blocks[n].pages + page, arena->blocks[n].page_bytes - 2 * page);
}

static size_t count_changed(const unsigned char *begin, const unsigned char *end)
{
    size_t changed = 0;
    for (; begin < end; begin++) changed += *begin != PATTERN;
    return changed;
}

void guard_release(guard_arena *arena)
{
    const size_t page = page_bytes();
    for (size_t n = 0; n < arena->count; n++) {
        const guard_block *block = &arena->blocks[n];
        const unsigned char *begin = block->pages + page, *end = block->pages + block->page_bytes - page;
        const size_t changed = count_changed(begin, block->data) + count_changed(block->data + block->bytes, end);
        EXPECT(changed == 0, "%zu bytes beside an array of %zu bytes were written", changed, block->bytes);
        give_back_pages(block->pages, block->page_bytes - 2 * page, page);
    }
    arena->count = 0;
}

bool arenas_equal(const guard_arena *a, const guard_arena *b)
{
    for (size_t n = 0; n < a->count; n++)
        if (a->blocks[n].bytes != b->blocks[n].bytes ||
            memcmp(a->blocks[n].data, b->blocks[n].data, a->blocks[n].bytes) != 0)
            return false;
    return a->count == b->count;
}

bool arena_untouched(const guard_arena *outputs)
{
    for (size_t n = 0; n < outputs->count; n++)
        for (size_t byte = 0; byte < outputs->blocks[n].bytes; byte++)
            if (outputs->blocks[n].data[byte] != 0xff)
                return false;
    return true;
}
