/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A small cost model.  Its constants are rough figures of current server cores (Zen 4 and 5); they only have to find the
 * schedules that may be the best, among which the calls themselves decide (trials.h).  Results do not depend on the choice.
 */
#include "forward/plan.h"

#include "base/machine.h"

#define CELL_NS 8.0  /* activations of one vector of units, throughput */
#define STEP_NS 40.0 /* their latency, once a step */
#define L2_BYTES_PER_NS 160.0
#define L3_BYTES_PER_NS 80.0
#define MEMORY_BYTES_PER_NS 20.0
#define SYNC_NS 120.0  /* hand-over of a step between two threads, and imbalance */
#define WAKE_NS 8000.0 /* waking the pool and waiting for it */
#define WORTH 0.9      /* more threads must promise at least this gain */
/* What threads cost may be that many times what is said above: 120 ns to 2.6 us a hand-over have been measured. */
#define DOUBT_MOST 20.0
#define DOUBT_LEAST 0.5
#define NEAR 1.25 /* a second way to place threads is tried up to this estimate */

#define FEW_ROWS 24 /* rows from which weights that lie far are always fetched ahead */

#define PRE_BYTES ((size_t)256 << 10) /* hoisted pre-activations stay in L2 */
#define CHUNK_BYTES ((size_t)1 << 20) /* output of a layer, passed on to the next */
#define HOIST_MIN_ROWS 48             /* so that a panel of W is reused often even when rows are long */
#define HOIST_MAX_ROWS 512
#define MERGE_INPUTS 16      /* inputs that cost less merged than stored and loaded, for one row */
#define MERGE_INPUTS_ROWS 64 /* and for a tile of four rows and more */
#define MERGE_ROWS 12        /* rows from which a step alone reuses W enough, */
#define MERGE_ROWS_FAR 48    /* and where W comes from the last cache or beyond */

static double bytes_nanoseconds(double bytes)
{
    const double l2 = 0.8 * (double)fl_cache_l2(), l3 = 0.8 * (double)fl_cache_last();
    if (bytes < (double)fl_cache_l1())
        return 0.0;
    return bytes / (bytes < l2 ? L2_BYTES_PER_NS : bytes < l3 ? L3_BYTES_PER_NS : MEMORY_BYTES_PER_NS);
}

double fl_input_nanoseconds(const fl_stack *stack, size_t rows, size_t I)
{
    return (double)rows * (double)stack->layout.gate_row / (double)stack->layout.lanes * (double)I * FL_FMA_NS;
}

double fl_step_nanoseconds(const fl_stack *stack, size_t rows, size_t share)
{
    const double P = stack->sizes.path != FL_PATH_SCAN ? (double)stack->sizes.P : 0.0;
    const double units = (double)stack->layout.gate_row / (double)share;
    const double vectors = units / (double)stack->layout.lanes;
    const double products = (double)rows * vectors * P * FL_FMA_NS;
    const double streamed = bytes_nanoseconds(units * P * (double)stack->real_size);
    return (products > streamed ? products : streamed) + (double)rows * vectors / 4 * CELL_NS + STEP_NS;
}

/* Bytes of a step's weights, of one layer and direction and of all hidden units. */
static size_t step_weight_bytes(const fl_stack *stack)
{
    return stack->layout.gate_row * stack->sizes.P * stack->kernels->weight_size;
}

/* Whether fetching ahead may gain or lose: hardware does it too, from the last cache well enough on some processors. */
static bool may_fetch(const fl_stack *stack, const fl_plan *plan)
{
    return stack->sizes.path == FL_PATH_TILES && plan->group_rows < FEW_ROWS &&
           step_weight_bytes(stack) / plan->hidden_groups > 2 * fl_cache_l2();
}

/* Rows whose pre-activations stay in L2, or the output of a scan. */
static size_t wanted_rows(const fl_stack *stack)
{
    const size_t width = stack->sizes.path == FL_PATH_SCAN ? stack->sizes.H : stack->layout.gate_row;
    const size_t rows = PRE_BYTES / (width * stack->real_size);
    return rows < HOIST_MIN_ROWS ? HOIST_MIN_ROWS : rows > HOIST_MAX_ROWS ? HOIST_MAX_ROWS : rows;
}

static bool merges(const fl_stack *stack, size_t I, size_t rows)
{
    const bool far = I * stack->layout.gate_row * stack->real_size > fl_cache_last() / 8;
    return I <= (rows < 4 ? MERGE_INPUTS : MERGE_INPUTS_ROWS) || rows >= (far ? MERGE_ROWS_FAR : MERGE_ROWS);
}

size_t fl_hoisted_steps(const fl_stack *stack, size_t I, size_t rows, size_t T)
{
    const bool always = stack->sizes.path == FL_PATH_ROWS;
    if (rows == 0 || (merges(stack, I, rows) && !always))
        return 0;
    const size_t wanted = (wanted_rows(stack) + rows - 1) / rows;
    const size_t steps = wanted < T ? wanted : T;
    return steps > 1 || always ? steps : 0; /* of one step alone nothing is gained */
}

size_t fl_hoisted_rows(const fl_stack *stack, size_t I, size_t rows, size_t T, bool ragged)
{
    const bool always = stack->sizes.path == FL_PATH_ROWS;
    if (stack->sizes.path == FL_PATH_SCAN) {
        const size_t wanted = wanted_rows(stack);
        return T == 0 ? 0 : rows <= wanted / T ? rows * T : wanted;
    }
    if ((I <= MERGE_INPUTS && !always) || T == 0)
        return 0;
    if (!ragged) { /* row groups differ by one row */
        const size_t more = fl_hoisted_steps(stack, I, rows, T) * rows;
        const size_t fewer = rows > 1 ? fl_hoisted_steps(stack, I, rows - 1, T) * (rows - 1) : 0;
        return more > fewer ? more : fewer;
    }
    /* Any number of active rows: ceil(wanted / rows) * rows < wanted + rows, and merged from MERGE_ROWS_FAR on. */
    const size_t bound = wanted_rows(stack) + (always && rows > MERGE_ROWS_FAR ? rows : MERGE_ROWS_FAR);
    return rows < bound / T ? rows * T : bound;
}

size_t fl_unit_lines(const fl_stack *stack)
{
    const size_t block_bytes = stack->layout.units * stack->real_size;
    const size_t line_blocks = block_bytes < FL_ALIGNMENT ? FL_ALIGNMENT / block_bytes : 1;
    return (stack->layout.blocks + line_blocks - 1) / line_blocks;
}

/* Steps that pass through the stack together: enough rows for the products, and little memory. */
static size_t chunk_steps(const fl_stack *stack, size_t T, size_t B)
{
    if (stack->shape.num_layers == 1 || stack->shape.num_directions == 2 || B == 0)
        return T;
    size_t steps = CHUNK_BYTES / (B * stack->sizes.P * stack->real_size + 1);
    const size_t least = (HOIST_MIN_ROWS + B - 1) / B;
    steps = steps < least ? least : steps;
    return steps < T ? steps : T;
}

/* `doubt` multiplies what threads cost: waking them, and each hand-over. */
static double plan_nanoseconds(const fl_stack *stack, const fl_plan *plan, size_t T, size_t B, double doubt)
{
    const fl_stack_shape *shape = &stack->shape;
    const size_t rows = (B + plan->row_groups - 1) / plan->row_groups;
    const double vectors = (double)stack->layout.gate_row / (double)stack->layout.lanes / (double)plan->hidden_groups;
    double step = fl_step_nanoseconds(stack, rows, plan->hidden_groups);
    if (plan->hidden_groups > 1)
        step += doubt * SYNC_NS;
    const double deeper = (double)(shape->num_layers - 1) * (double)fl_output_width(stack);
    const double inputs = (double)shape->input_size + deeper;
    const double product = (double)rows * vectors * FL_FMA_NS * inputs;
    double total = (double)T * ((double)shape->num_layers * step + product) *
                   (double)(shape->num_directions / plan->direction_groups);
    if (plan->layer_groups > 1) {
        const double chunks = (double)((T + plan->chunk - 1) / plan->chunk);
        const double stages = (double)plan->layer_groups;
        const double deepest = (double)((shape->num_layers + plan->layer_groups - 1) / plan->layer_groups);
        total = total / (double)shape->num_layers * deepest * (chunks + stages - 1) / chunks;
    }
    return total + (plan->threads > 1 ? doubt * WAKE_NS : 0.0);
}

/* A pipeline wants chunks that are many and yet large enough for the products. */
static size_t pipeline_chunk(size_t chunk, size_t T, size_t B)
{
    const size_t least = (HOIST_MIN_ROWS + B - 1) / B, wanted = (T + 15) / 16;
    const size_t steps = wanted > least ? wanted : least;
    return steps < chunk ? steps : chunk;
}

static fl_plan grid(const fl_stack *stack, size_t T, size_t B, size_t rows, size_t directions, size_t layers,
                    size_t hidden)
{
    fl_plan plan;
    plan.row_groups = rows;
    plan.direction_groups = directions;
    plan.layer_groups = layers;
    plan.hidden_groups = hidden;
    plan.threads = rows * directions * layers * hidden;
    plan.chunk = chunk_steps(stack, T, B);
    if (layers > 1)
        plan.chunk = pipeline_chunk(plan.chunk, T, B);
    plan.group_rows = (B + rows - 1) / rows;
    plan.fetches = plan.group_rows >= FEW_ROWS || step_weight_bytes(stack) > fl_cache_last() / 3;
    plan.is_tried = false;
    return plan;
}

#define SPLITS (FL_PLAN_WAYS - 1) /* ways to place threads; one of them is tried with and without fetching */

/* The plans of least estimated time: best[0] of one thread, best[1] and best[2] of more.  Returns how many there are. */
static size_t rank_plans(const fl_stack *stack, size_t T, size_t B, size_t max_threads, bool rows_only,
                         fl_plan best[SPLITS], double time[SPLITS])
{
    const fl_stack_shape *shape = &stack->shape;
    const bool shares_units = stack->sizes.path == FL_PATH_TILES && shape->cell.proj_size == 0 && !rows_only;
    const size_t most_directions = rows_only ? 1 : shape->num_directions;
    const size_t most_layers = shape->num_directions == 1 && !rows_only ? shape->num_layers : 1;
    size_t count = 1;
    best[0] = grid(stack, T, B, 1, 1, 1, 1);
    if (max_threads <= 1 || T == 0 || B == 0)
        return count;
    time[0] = plan_nanoseconds(stack, &best[0], T, B, 1.0);
    if (time[0] * WORTH < WAKE_NS)
        return count;
    for (size_t directions = 1; directions <= most_directions && directions <= max_threads; directions++) {
        const size_t share = max_threads / directions;
        for (size_t rows = 1; rows <= share && rows <= B; rows++) {
            for (size_t layers = 1; layers <= share / rows && layers <= most_layers; layers++) {
                size_t hidden = layers > 1 || !shares_units ? 1 : share / rows;
                hidden = hidden < fl_unit_lines(stack) ? hidden : fl_unit_lines(stack);
                for (;; hidden = 1) {
                    const fl_plan plan = grid(stack, T, B, rows, directions, layers, hidden);
                    const double estimate = plan_nanoseconds(stack, &plan, T, B, 1.0);
                    if (plan.threads > 1 && (count < 2 || estimate < time[1])) {
                        best[2] = best[1];
                        time[2] = time[1];
                        best[1] = plan;
                        time[1] = estimate;
                        count += count < SPLITS;
                    } else if (plan.threads > 1 && (count < 3 || estimate < time[2])) {
                        best[2] = plan;
                        time[2] = estimate;
                        count = 3;
                    }
                    if (hidden == 1)
                        break;
                }
            }
        }
    }
    return count;
}

fl_plan fl_plan_make(const fl_stack *stack, size_t T, size_t B, size_t max_threads, bool rows_only)
{
    fl_plan best[SPLITS];
    double time[SPLITS] = {0};
    const size_t count = rank_plans(stack, T, B, max_threads, rows_only, best, time);
    return best[count > 1 && time[1] < WORTH * time[0]];
}

size_t fl_plan_candidates(const fl_stack *stack, size_t T, size_t B, size_t max_threads, bool rows_only,
                          fl_plan plans[FL_PLAN_WAYS])
{
    fl_plan best[SPLITS];
    double time[SPLITS] = {0};
    const size_t count = rank_plans(stack, T, B, max_threads, rows_only, best, time);
    size_t ways = 0;
    const bool gains = count > 1 && time[1] < WORTH * time[0];
    const bool may_lose = count > 1 && plan_nanoseconds(stack, &best[1], T, B, DOUBT_MOST) > time[0];
    const bool may_gain = count > 1 && plan_nanoseconds(stack, &best[1], T, B, DOUBT_LEAST) < time[0];
    if (!gains)
        plans[ways++] = best[0];
    if (gains || may_gain)
        plans[ways++] = best[1];
    if (gains && may_lose)
        plans[ways++] = best[0];
    if (count > 2 && (gains || may_gain) && time[2] < NEAR * time[1])
        plans[ways++] = best[2];
    if (may_fetch(stack, &plans[0])) {
        plans[ways] = plans[0];
        plans[ways++].fetches = !plans[0].fetches;
    }
    return ways;
}
