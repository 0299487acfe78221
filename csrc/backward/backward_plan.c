/* SPDX-License-Identifier: BSD-3-Clause */
#include "backward/backward_plan.h"

#include "forward/plan.h"

/* Rows of a chunk: enough for the products over them, few enough to stay near. */
#define CHUNK_ROWS_MIN 32
#define CHUNK_ROWS_MAX FL_PASS_ROWS
#define CHUNKS 6              /* at least, for threads to overlap, where that leaves enough rows */
#define CHUNKS_FEW 4          /* the same where gradients are many, for few rows in the batch */
#define GRADIENTS_A_ROW 16384 /* of a layer, for a row of a chunk: its products take about as long as reading them */
#define WORTH_NANOSECONDS 60000.0 /* work that gains from a second thread */
#define DOUBT 8.0                 /* it may be so many times less, or more */
#define SPLIT_ROWS 2              /* rows that each thread should have, for threads to divide rows */
#define FEW_ROWS 8                /* up to which the other way to divide is tried as well */

/* Rows that are worth a walk over the gradients of a layer and direction.  Bounded where threads may divide no rows, and
 * overlap chunks. */
static size_t worthwhile_rows(const fl_stack *stack, size_t T, size_t B)
{
    const fl_stack_shape *shape = &stack->shape;
    const size_t P = stack->sizes.P, deeper = shape->num_layers > 1 ? shape->num_directions * P : 0;
    const size_t inputs = deeper > shape->input_size ? deeper : shape->input_size;
    const size_t rows = (inputs + P) * stack->sizes.gates * stack->sizes.H / GRADIENTS_A_ROW;
    const size_t most = B < 2 * SPLIT_ROWS ? T * B / CHUNKS_FEW : CHUNK_ROWS_MAX;
    return rows < most ? rows : most;
}

size_t fl_back_chunk(const fl_stack *stack, size_t T, size_t B)
{
    if (B == 0 || T == 0)
        return 1;
    const size_t worthwhile = worthwhile_rows(stack, T, B);
    size_t rows = T * B / CHUNKS;
    rows = rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : rows;
    const bool is_raised = rows < worthwhile;
    rows = is_raised ? worthwhile : rows;
    rows = rows > CHUNK_ROWS_MAX ? CHUNK_ROWS_MAX : rows;
    size_t chunk = (rows + B / 2) / B;
    chunk = chunk == 0 ? 1 : chunk < T ? chunk : T;
    if (is_raised) { /* no short one at the end */
        const size_t chunks = (T + chunk - 1) / chunk;
        chunk = (T + chunks - 1) / chunks;
    }
    return chunk;
}

/* Estimated nanoseconds of the whole on one thread. */
static double nanoseconds_alone(const fl_stack *stack, size_t T, size_t B)
{
    const fl_stack_shape *shape = &stack->shape;
    const double P = (double)stack->sizes.P, D = (double)shape->num_directions;
    const double deeper = (double)(shape->num_layers - 1) * D * P;
    const double inputs = (double)shape->input_size + deeper + (double)shape->num_layers * P;
    const double rows = (double)(stack->sizes.gates * stack->sizes.H);
    const double vectors = 2.0 * inputs * rows * D / (double)stack->layout.lanes;
    return (double)T * (double)B * vectors * FL_FMA_NS;
}

/* `threads` of them, which divide the rows among them, or all but the first of which do the shared part. */
static back_plan plan_of(const fl_stack *stack, size_t T, size_t B, size_t threads, bool divides_rows)
{
    back_plan plan = {.threads = threads, .chunk = fl_back_chunk(stack, T, B)};
    plan.chunks = (T + plan.chunk - 1) / plan.chunk;
    const size_t passes = (plan.chunk * B + FL_PASS_ROWS - 1) / FL_PASS_ROWS;
    plan.group = passes < FL_GROUP_PASSES ? FL_GROUP_PASSES / passes : 1;
    plan.folds = plan.chunks > plan.group || passes > FL_GROUP_PASSES;
    plan.groups = divides_rows ? threads : 1;
    plan.first_sharing = plan.groups == threads ? 0 : 1;
    return plan;
}

size_t fl_back_plan_candidates(const fl_stack *stack, size_t T, size_t B, size_t max_threads,
                               back_plan plans[FL_PLAN_WAYS])
{
    const double alone = nanoseconds_alone(stack, T, B);
    const bool divides = B >= SPLIT_ROWS * max_threads, gains = alone > WORTH_NANOSECONDS;
    size_t ways = 0;
    if (max_threads <= 1 || !gains)
        plans[ways++] = plan_of(stack, T, B, 1, false);
    if (max_threads <= 1 || alone * DOUBT < WORTH_NANOSECONDS)
        return ways;
    plans[ways++] = plan_of(stack, T, B, max_threads, divides);
    if (gains && alone < DOUBT * WORTH_NANOSECONDS)
        plans[ways++] = plan_of(stack, T, B, 1, false);
    if (B >= max_threads && B < FEW_ROWS * max_threads)
        plans[ways++] = plan_of(stack, T, B, max_threads, !divides);
    return ways;
}

back_plan fl_back_plan_make(const fl_stack *stack, size_t T, size_t B, size_t max_threads)
{
    back_plan plans[FL_PLAN_WAYS];
    fl_back_plan_candidates(stack, T, B, max_threads, plans);
    return plans[0];
}

stage fl_back_stage(const fl_stack *stack, const back_plan *plan, size_t T, size_t index)
{
    const size_t L = stack->shape.num_layers, chunks = plan->chunks;
    stage s;
    size_t n;                               /* the chunk's place in the order of the direction */
    if (stack->shape.num_directions == 1) { /* a chunk passes all layers */
        s.direction = 0;
        s.layer = L - 1 - index % L;
        n = index / L;
    } else {
        n = index % chunks;
        s.direction = index / chunks % 2;
        s.layer = L - 1 - index / chunks / 2;
    }
    const size_t chunk = s.direction == 0 ? chunks - 1 - n : n;
    s.begin = chunk * plan->chunk;
    s.end = T - s.begin < plan->chunk ? T : s.begin + plan->chunk;
    s.number = n;
    s.is_first = n == 0;
    s.is_last = n + 1 == chunks;
    return s;
}
