/* SPDX-License-Identifier: BSD-3-Clause */
#include "forward/trials.h"

#include <math.h>
#include <string.h>

#include "model/cell.h"
#include "platform/platform.h"

#define SLOTS 256 /* kinds of calls that are remembered; a power of two */
#define PROBES 8  /* places where a kind may be; the least recently used gives way */
#define ROUNDS 3  /* calls that each plan gets before one is chosen, by their median */

#define WORSE 1.1    /* slower than another plan was, by so much: all are tried again */
#define EVEN 1.02    /* not slower than this times the chosen: worth more than one call */
#define AVERAGED 8.0 /* calls over which the chosen plan's time is averaged */
#define PATIENCE 128 /* calls before another plan gets one; doubled each time that it loses */
#define PATIENCE_MAX 16384

typedef struct trial_slot {
    fl_plan_facts facts; /* its key ends where `ways` begins */
    uint64_t owner, used;
    double samples[FL_PLAN_WAYS][ROUNDS];
    unsigned taken[FL_PLAN_WAYS]; /* samples that are in */
    unsigned given[FL_PLAN_WAYS]; /* calls that were given this plan since the last choice */
    double average;               /* of the chosen, once there is one */
    unsigned calls, patience;     /* since another plan had a call */
    size_t challenger;            /* which is next to have one */
} trial_slot;

static struct {
    atomic_flag busy;
    uint64_t clock;
    trial_slot slots[SLOTS];
} table = {.busy = ATOMIC_FLAG_INIT};

static atomic_bool switched_off;

void fl_set_plan_trials(bool enabled) { atomic_store(&switched_off, !enabled); }

bool fl_get_plan_trials(void) { return !atomic_load_explicit(&switched_off, memory_order_relaxed); }

static bool enter(void) { return !atomic_flag_test_and_set_explicit(&table.busy, memory_order_acquire); }

static void leave(void) { atomic_flag_clear_explicit(&table.busy, memory_order_release); }

fl_plan_facts fl_trial_kind(const fl_stack *stack, fl_pass pass, size_t T, size_t B, size_t max_threads)
{
    fl_plan_facts kind;
    memset(&kind, 0, sizeof kind); /* the key is compared byte by byte */
    kind.pass = pass;
    kind.dtype = stack->shape.dtype;
    kind.cell = stack->shape.cell.kind;
    kind.variant = (int)stack->sizes.variant;
    kind.input_size = stack->shape.input_size;
    kind.hidden_size = stack->shape.hidden_size;
    kind.width = stack->sizes.P;
    kind.num_layers = stack->shape.num_layers;
    kind.num_directions = stack->shape.num_directions;
    kind.steps = 1;
    while (kind.steps <= T / 2) kind.steps *= 2;
    kind.rows = B;
    kind.max_threads = max_threads;
    return kind;
}

/* ---- The table --------------------------------------------------------------------------------------------- */

static const size_t key_bytes = offsetof(fl_plan_facts, ways);

static uint64_t hash_of(const fl_plan_facts *kind)
{
    uint64_t hash = 0x9E3779B97F4A7C15u, word;
    for (size_t at = 0; at + sizeof word <= key_bytes; at += sizeof word) {
        memcpy(&word, (const char *)kind + at, sizeof word);
        hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
    }
    return hash;
}

/* The same kind, of the same plans: a limit of the machine may have changed what they are. */
static bool is_kind(const trial_slot *slot, const fl_plan_facts *kind)
{
    return slot->used != 0 && memcmp(&slot->facts, kind, key_bytes) == 0 && slot->facts.ways == kind->ways;
}

static trial_slot *slot_of(const fl_plan_facts *kind)
{
    const uint64_t hash = hash_of(kind);
    trial_slot *oldest = NULL;
    table.clock++;
    for (size_t probe = 0; probe < PROBES; probe++) {
        trial_slot *slot = &table.slots[(hash + probe) % SLOTS];
        if (is_kind(slot, kind)) {
            slot->used = table.clock;
            return slot;
        }
        if (oldest == NULL || slot->used < oldest->used)
            oldest = slot;
    }
    memset(oldest, 0, sizeof *oldest);
    oldest->facts = *kind;
    oldest->owner = oldest->used = table.clock;
    oldest->patience = PATIENCE;
    return oldest;
}

/* ---- Choosing ---------------------------------------------------------------------------------------------- */

static double median_of(const double x[ROUNDS])
{
    const double low = fmin(x[0], x[1]), high = fmax(x[0], x[1]);
    return fmax(low, fmin(high, x[2]));
}

static void try_again(trial_slot *slot)
{
    slot->facts.is_settled = false;
    memset(slot->taken, 0, sizeof slot->taken);
    memset(slot->given, 0, sizeof slot->given);
}

/* The plan that has had the fewest calls; a call that never reports, since it failed, is not waited for. */
static size_t next_to_try(const trial_slot *slot)
{
    size_t way = 0;
    for (size_t n = 1; n < slot->facts.ways; n++)
        if (slot->given[n] < slot->given[way])
            way = n;
    return way;
}

static void settle(trial_slot *slot)
{
    fl_plan_facts *facts = &slot->facts;
    const size_t before = facts->chosen;
    size_t best = 0;
    for (size_t n = 0; n < facts->ways; n++) {
        facts->way[n].nanoseconds = median_of(slot->samples[n]);
        if (facts->way[n].nanoseconds < facts->way[best].nanoseconds)
            best = n;
    }
    if (facts->way[before].nanoseconds <= EVEN * facts->way[best].nanoseconds && slot->average > 0)
        best = before;
    slot->patience = slot->average > 0 && best == before ? slot->patience : PATIENCE;
    facts->chosen = best;
    facts->is_settled = true;
    slot->average = facts->way[best].nanoseconds;
    slot->calls = 0;
}

static void note(trial_slot *slot, size_t way, double nanoseconds)
{
    fl_plan_facts *facts = &slot->facts;
    if (!facts->is_settled) {
        slot->samples[way][slot->taken[way]++ % ROUNDS] = nanoseconds;
        for (size_t n = 0; n < facts->ways; n++)
            if (slot->taken[n] < ROUNDS)
                return;
        settle(slot);
        return;
    }
    if (way != facts->chosen) { /* a challenger */
        facts->way[way].nanoseconds = fmin(nanoseconds, facts->way[way].nanoseconds * WORSE);
        if (nanoseconds <= EVEN * slot->average)
            try_again(slot);
        else if (slot->patience < PATIENCE_MAX)
            slot->patience *= 2;
        return;
    }
    slot->average += (nanoseconds - slot->average) / AVERAGED;
    facts->way[way].nanoseconds = slot->average;
    for (size_t n = 0; n < facts->ways; n++)
        if (slot->calls > 4 * ROUNDS && slot->average > WORSE * facts->way[n].nanoseconds) {
            try_again(slot);
            return;
        }
}

fl_trial fl_trial_begin(const fl_plan_facts *kind, double steps)
{
    fl_trial trial = {.steps = steps};
    if (kind->ways <= 1 || steps <= 0 || !fl_get_plan_trials() || !enter())
        return trial;
    trial_slot *slot = slot_of(kind);
    if (!slot->facts.is_settled) {
        trial.way = next_to_try(slot);
        slot->given[trial.way]++;
    } else {
        trial.way = slot->facts.chosen;
        if (++slot->calls >= slot->patience) {
            slot->calls = 0;
            slot->challenger = (slot->challenger + 1) % slot->facts.ways;
            slot->challenger += slot->challenger == slot->facts.chosen;
            trial.way = slot->challenger % slot->facts.ways;
        }
    }
    trial.slot = slot;
    trial.owner = slot->owner;
    leave();
    trial.began = fl_clock_nanoseconds();
    return trial;
}

void fl_trial_report(const fl_trial *trial, double nanoseconds)
{
    if (trial->slot == NULL || !enter())
        return;
    if (trial->slot->owner == trial->owner)
        note(trial->slot, trial->way, nanoseconds);
    leave();
}

void fl_trial_end(const fl_trial *trial)
{
    if (trial->slot != NULL)
        fl_trial_report(trial, (double)(fl_clock_nanoseconds() - trial->began) / trial->steps);
}

fl_status fl_plan_get_facts(size_t index, fl_plan_facts *facts)
{
    if (facts == NULL)
        return FL_ERROR_ARGUMENT;
    while (!enter()) {
    }
    fl_status status = FL_ERROR_ARGUMENT;
    for (size_t n = 0; n < SLOTS && status != FL_OK; n++) {
        if (table.slots[n].used == 0 || index-- != 0)
            continue;
        *facts = table.slots[n].facts;
        status = FL_OK;
    }
    leave();
    return status;
}
