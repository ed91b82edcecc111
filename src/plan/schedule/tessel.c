// Tessel's search: cuts of the chain of blocks, a repetend for each, its warm-up and cool-down. Cuts are made block by
// block with the bounds that they imply, so that what cannot be a repetend is left early, with all that begins like it.
#include "plan/schedule/tessel.h"

#include "base/assert.h"
#include "base/mem.h"
#include "plan/schedule/tessel_int.h"

#include <stdlib.h>

struct searcher {
    const struct plan_placement *p;
    uint32_t blocks, in_flight, comm;
    int64_t memory;
    uint32_t order[PLAN_BLOCKS_MAX]; // the chain
    uint32_t micro[PLAN_BLOCKS_MAX]; // of the block in the repetend, by block
    struct tessel_task tasks[PLAN_BLOCKS_MAX];
    int64_t least_work, most_work;
    uint64_t question;              // units of work for one order
    uint64_t budget, once;          // left: of the whole search, of the question that is being answered
    bool spent;                     // a question was not answered
    struct tessel_orders cuts;      // bounds of the blocks that have their micro-batch
    int64_t room[PLAN_DEVICES_MAX]; // for the repetend
    // The best so far; a better one has a shorter period.
    int64_t period;
    uint32_t best[PLAN_BLOCKS_MAX], best_in_flight; // 0: none
};

struct placed { // blocks of a part before and after they are in order
    struct plan_tessel_op *ops;
    struct tessel_task *tasks;
    int64_t *start;
    uint32_t count;
};

static int64_t lag(const struct searcher *s, uint32_t from, uint32_t to)
{
    const struct plan_block *a = &s->p->blocks[from], *b = &s->p->blocks[to];
    return (int64_t)a->span + (a->devices & b->devices ? 0 : s->comm);
}

// ---- The chain ----

struct step {
    uint32_t block, device;
    int64_t start;
};

static int by_step(const void *left, const void *right)
{
    const struct step *a = left, *b = right;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    if (a->device != b->device)
        return a->device < b->device ? -1 : 1;
    return a->block < b->block ? -1 : 1;
}

void tessel_chain(const struct plan_placement *p, uint32_t order[PLAN_BLOCKS_MAX])
{
    struct step steps[PLAN_BLOCKS_MAX];
    for (uint32_t b = 0; b < p->block_count; b++) {
        const struct plan_block *block = &p->blocks[b];
        steps[b] = (struct step){.block = b};
        while (!(block->devices >> steps[b].device & 1))
            steps[b].device++;
        for (uint32_t n = 0; n < block->need_count; n++) {
            const int64_t ready = steps[block->needs[n]].start + p->blocks[block->needs[n]].span;
            steps[b].start = ready > steps[b].start ? ready : steps[b].start;
        }
    }
    qsort(steps, p->block_count, sizeof *steps, by_step);
    for (uint32_t b = 0; b < p->block_count; b++)
        order[b] = steps[b].block;
}

// ---- Repetends ----

// Bounds that block b adds, with those of `known` blocks of the chain before it, where repetends start every `period`.
static bool bound_block(const struct searcher *s, struct tessel_orders *o, uint32_t known, uint32_t b, int64_t period)
{
    const struct plan_block *block = &s->p->blocks[b];
    bool fits = true;
    for (uint32_t n = 0; n < block->need_count && fits; n++) {
        const uint32_t need = block->needs[n];
        const int64_t behind = (int64_t)(s->micro[need] - s->micro[b]) * period;
        fits = tessel_orders_bound(o, need, b, lag(s, need, b) - behind);
    }
    for (uint32_t k = 0; k < known && fits; k++) {
        const uint32_t other = s->order[k];
        if (s->p->blocks[other].devices & block->devices)
            fits = tessel_orders_bound(o, b, other, (int64_t)block->span - period) &&
                   tessel_orders_bound(o, other, b, (int64_t)s->p->blocks[other].span - period);
    }
    return fits && (int64_t)block->span <= period;
}

// A question may use a part of what the search has left, so that one that is hard leaves something for the others.
static void charge(struct searcher *s)
{
    const uint64_t used = s->question - s->once;
    s->budget -= s->budget < used ? s->budget : used;
    s->once = s->question;
}

static enum tessel_answer ask(struct searcher *s, struct tessel_orders *o, bool fits, int64_t *start)
{
    const enum tessel_answer answer = fits ? tessel_orders_find(o, start) : TESSEL_NO;
    s->spent |= answer == TESSEL_SPENT;
    charge(s);
    tessel_orders_fini(o);
    return answer;
}

// Starts of a repetend that repeats every `period` and takes at most `steps`.
static enum tessel_answer repetend(struct searcher *s, int64_t period, int64_t steps, int64_t *start)
{
    struct tessel_orders o;
    tessel_orders_init(&o, s->tasks, s->blocks, s->room, &s->once);
    bool fits = tessel_orders_end_by(&o, steps);
    for (uint32_t k = 0; k < s->blocks && fits; k++)
        fits = bound_block(s, &o, k, s->order[k], period);
    return ask(s, &o, fits, start);
}

// Memory that a device has left when the repetend begins; false: the warm-up alone does not fit.
static bool room_of_repetend(struct searcher *s)
{
    for (uint32_t d = 0; d < s->p->devices; d++) {
        s->room[d] = s->memory;
        for (uint32_t b = 0; b < s->blocks && s->memory != TESSEL_NO_LIMIT; b++)
            if (s->p->blocks[b].devices >> d & 1)
                s->room[d] -= (int64_t)s->micro[b] * s->p->blocks[b].memory;
        if (s->room[d] < 0)
            return false;
    }
    return true;
}

// ---- Warm-up and cool-down ----

// The blocks of `count` micro-batches before the first repetend, or after the last one.
static struct placed take_part(const struct searcher *s, bool after)
{
    struct placed part = {0};
    const uint64_t most = (uint64_t)s->blocks * s->in_flight;
    part.ops = bg_alloc_array(most, sizeof *part.ops);
    part.tasks = bg_alloc_array(most, sizeof *part.tasks);
    part.start = bg_alloc_array(most, sizeof *part.start);
    for (uint32_t m = 0; m < s->in_flight; m++)
        for (uint32_t b = 0; b < s->blocks; b++)
            if (after ? m > s->micro[b] : m < s->micro[b]) {
                part.tasks[part.count] = s->tasks[b];
                part.ops[part.count++] = (struct plan_tessel_op){.block = b, .micro = m};
            }
    return part;
}

static void drop_part(struct placed *part)
{
    bg_free(part->ops);
    bg_free(part->tasks);
    bg_free(part->start);
}

// Orders a part in at most `steps`: needs within a micro-batch, and each block micro-batch by micro-batch.
static enum tessel_answer order_part(struct searcher *s, struct placed *part, const int64_t *room, int64_t steps,
                                     int64_t *start)
{
    struct tessel_orders o;
    tessel_orders_init(&o, part->tasks, part->count, room, &s->once);
    bool fits = tessel_orders_end_by(&o, steps);
    for (uint32_t t = 0; t < part->count && fits; t++) {
        const struct plan_block *block = &s->p->blocks[part->ops[t].block];
        for (uint32_t u = 0; u < t && fits; u++) {
            const struct plan_tessel_op *a = &part->ops[u], *b = &part->ops[t];
            if (a->block == b->block && a->micro + 1 == b->micro)
                fits = tessel_orders_bound(&o, u, t, block->span);
            for (uint32_t n = 0; n < block->need_count && fits && a->micro == b->micro; n++)
                if (block->needs[n] == a->block)
                    fits = tessel_orders_bound(&o, u, t, lag(s, a->block, b->block));
        }
    }
    return ask(s, &o, fits, start);
}

static int64_t steps_of(const struct placed *part, const int64_t *start)
{
    int64_t steps = 0;
    for (uint32_t t = 0; t < part->count; t++)
        steps = start[t] + part->tasks[t].span > steps ? start[t] + part->tasks[t].span : steps;
    return steps;
}

static int64_t steps_enough(const struct searcher *s, const struct placed *part)
{
    int64_t steps = 0;
    for (uint32_t t = 0; t < part->count; t++)
        steps += part->tasks[t].span + s->comm;
    return steps;
}

// What a device has left before the part.
static void room_of_part(const struct searcher *s, bool after, int64_t room[PLAN_DEVICES_MAX])
{
    for (uint32_t d = 0; d < s->p->devices; d++) {
        room[d] = s->memory;
        for (uint32_t b = 0; b < s->blocks && after && s->memory != TESSEL_NO_LIMIT; b++)
            if (s->p->blocks[b].devices >> d & 1)
                room[d] -= ((int64_t)s->micro[b] + 1) * s->p->blocks[b].memory;
    }
}

// Whether the part can be run at all within the memory.
static enum tessel_answer part_exists(struct searcher *s, bool after)
{
    int64_t room[PLAN_DEVICES_MAX];
    struct placed part = take_part(s, after);
    room_of_part(s, after, room);
    const enum tessel_answer answer = order_part(s, &part, room, steps_enough(s, &part), part.start);
    drop_part(&part);
    return answer;
}

// ---- Cuts ----

// The shortest period that these starts allow.
static int64_t period_of(const struct searcher *s, const int64_t *start)
{
    int64_t period = 1;
    for (uint32_t b = 0; b < s->blocks; b++) {
        const struct plan_block *block = &s->p->blocks[b];
        const int64_t end = start[b] + block->span;
        for (uint32_t o = 0; o < s->blocks; o++)
            if (s->p->blocks[o].devices & block->devices && end - start[o] > period)
                period = end - start[o];
        for (uint32_t n = 0; n < block->need_count; n++) {
            const uint32_t need = block->needs[n];
            const int64_t behind = (int64_t)s->micro[need] - s->micro[b];
            const int64_t late = start[need] + lag(s, need, b) - start[b];
            if (behind > 0 && (late + behind - 1) / behind > period)
                period = (late + behind - 1) / behind;
        }
    }
    return period;
}

// A whole cut: the shortest period of its repetend, if that is shorter than the best one.
static void consider(struct searcher *s)
{
    int64_t start[PLAN_BLOCKS_MAX], low = s->most_work;
    if (!room_of_repetend(s) || repetend(s, s->period - 1, INT64_MAX / 64, start) != TESSEL_YES)
        return;
    int64_t period = period_of(s, start);
    while (low < period) {
        const int64_t middle = low + (period - low) / 2;
        if (repetend(s, middle, INT64_MAX / 64, start) == TESSEL_YES)
            period = period_of(s, start);
        else
            low = middle + 1;
    }
    if (part_exists(s, false) != TESSEL_YES || part_exists(s, true) != TESSEL_YES)
        return;
    s->period = period;
    s->best_in_flight = s->in_flight;
    for (uint32_t b = 0; b < s->blocks; b++)
        s->best[b] = s->micro[b];
}

// Whether the warm-up may leave enough memory, when the first `known` blocks of the chain have their micro-batch.
static bool may_fit(const struct searcher *s, uint32_t known, uint32_t micro)
{
    int64_t used[PLAN_DEVICES_MAX] = {0};
    if (s->memory == TESSEL_NO_LIMIT)
        return true;
    for (uint32_t k = 0; k < s->blocks; k++) {
        const struct plan_block *block = &s->p->blocks[s->order[k]];
        const int64_t runs = k < known ? s->micro[s->order[k]] : block->memory < 0 ? micro : 0;
        for (uint32_t d = 0; d < s->p->devices; d++)
            if (block->devices >> d & 1)
                used[d] += runs * block->memory;
    }
    for (uint32_t d = 0; d < s->p->devices; d++)
        if (used[d] > s->memory)
            return false;
    return true;
}

static bool is_done(const struct searcher *s)
{
    return s->period <= s->most_work || !s->budget;
}

// Gives block `k` of the chain micro-batch `micro`, and what is behind it the rest.
static void cut(struct searcher *s, uint32_t k, uint32_t micro)
{
    const uint32_t mark = s->cuts.trail_count, b = s->order[k];
    s->micro[b] = micro;
    s->cuts.budget = &s->once;
    const bool fits =
        may_fit(s, k + 1, micro) && bound_block(s, &s->cuts, k, b, s->period - 1) && tessel_orders_settle(&s->cuts);
    charge(s);
    if (fits && k + 1 == s->blocks) {
        consider(s);
    } else if (fits) {
        if (micro > 0)
            cut(s, k + 1, micro - 1);
        if (micro < s->blocks - k - 1 && !is_done(s))
            cut(s, k + 1, micro);
    }
    tessel_orders_undo(&s->cuts, mark);
}

static void search_cuts(struct searcher *s, uint32_t in_flight)
{
    int64_t any[PLAN_DEVICES_MAX];
    for (uint32_t d = 0; d < PLAN_DEVICES_MAX; d++)
        any[d] = TESSEL_NO_LIMIT;
    s->in_flight = in_flight;
    tessel_orders_init(&s->cuts, s->tasks, s->blocks, any, &s->once);
    if (!is_done(s))
        cut(s, 0, in_flight - 1);
    s->spent |= !s->budget;
    tessel_orders_fini(&s->cuts);
}

// ---- The answer ----

static int by_start(const void *left, const void *right)
{
    const struct plan_tessel_op *a = left, *b = right;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    if (a->block != b->block)
        return a->block < b->block ? -1 : 1;
    return a->micro < b->micro ? -1 : a->micro > b->micro;
}

static struct plan_tessel_part finish_part(struct placed *part)
{
    struct plan_tessel_part made = {part->ops, part->count, (uint64_t)steps_of(part, part->start)};
    for (uint32_t t = 0; t < part->count; t++) {
        made.ops[t].start = (uint64_t)part->start[t];
        made.ops[t].end = (uint64_t)(part->start[t] + part->tasks[t].span);
    }
    qsort(made.ops, made.count, sizeof *made.ops, by_start);
    part->ops = NULL;
    drop_part(part);
    return made;
}

// The fewest steps of a part that can be run.
static struct plan_tessel_part solve_part(struct searcher *s, bool after)
{
    int64_t room[PLAN_DEVICES_MAX], work[PLAN_DEVICES_MAX] = {0}, low = 0;
    struct placed part = take_part(s, after);
    int64_t *start = bg_alloc_array((uint64_t)part.count + 1, sizeof *start);
    room_of_part(s, after, room);
    for (uint32_t t = 0; t < part.count; t++)
        for (uint32_t d = 0; d < s->p->devices; d++)
            if (part.tasks[t].devices >> d & 1 && (work[d] += part.tasks[t].span) > low)
                low = work[d];
    BG_ASSERT(order_part(s, &part, room, steps_enough(s, &part), part.start) == TESSEL_YES);
    while (low < steps_of(&part, part.start)) {
        const int64_t middle = low + (steps_of(&part, part.start) - low) / 2;
        if (order_part(s, &part, room, middle, start) == TESSEL_YES)
            for (uint32_t t = 0; t < part.count; t++)
                part.start[t] = start[t];
        else
            low = middle + 1;
    }
    bg_free(start);
    return finish_part(&part);
}

static struct plan_tessel_part solve_repetend(struct searcher *s)
{
    struct placed part = {.count = s->blocks};
    int64_t start[PLAN_BLOCKS_MAX], low = s->most_work;
    part.ops = bg_alloc_array(s->blocks, sizeof *part.ops);
    part.tasks = bg_alloc_array(s->blocks, sizeof *part.tasks);
    part.start = bg_alloc_array(s->blocks, sizeof *part.start);
    for (uint32_t b = 0; b < s->blocks; b++) {
        part.tasks[b] = s->tasks[b];
        part.ops[b] = (struct plan_tessel_op){.block = b, .micro = s->micro[b]};
    }
    BG_ASSERT(room_of_repetend(s));
    BG_ASSERT(repetend(s, s->period, INT64_MAX / 64, part.start) == TESSEL_YES);
    while (low < steps_of(&part, part.start)) {
        const int64_t middle = low + (steps_of(&part, part.start) - low) / 2;
        if (repetend(s, s->period, middle, start) == TESSEL_YES)
            for (uint32_t b = 0; b < s->blocks; b++)
                part.start[b] = start[b];
        else
            low = middle + 1;
    }
    return finish_part(&part);
}

static void measure_work(struct searcher *s, int64_t *whole, int64_t *most_memory)
{
    *whole = *most_memory = 0;
    for (uint32_t b = 0; b < s->blocks; b++) {
        const struct plan_block *block = &s->p->blocks[b];
        s->tasks[b] = (struct tessel_task){block->span, block->memory, block->devices};
        *whole += (int64_t)block->span + s->comm;
    }
    for (uint32_t d = 0; d < s->p->devices; d++) {
        int64_t work = 0, memory = 0;
        for (uint32_t b = 0; b < s->blocks; b++)
            if (s->p->blocks[b].devices >> d & 1) {
                work += s->p->blocks[b].span;
                memory += s->p->blocks[b].memory > 0 ? s->p->blocks[b].memory : 0;
            }
        s->least_work = d == 0 || work < s->least_work ? work : s->least_work;
        s->most_work = work > s->most_work ? work : s->most_work;
        *most_memory = memory > *most_memory ? memory : *most_memory;
    }
}

// Numbers of micro-batches in flight to be tried: *first to the one returned.
static uint32_t flights(const struct searcher *s, const struct plan_tessel_options *options, int64_t most_memory,
                        uint32_t *first)
{
    int64_t last = s->blocks;
    *first = options->in_flight ? options->in_flight : 1;
    if (options->in_flight)
        return options->in_flight;
    if (s->memory != TESSEL_NO_LIMIT && most_memory > 0 && (s->memory + most_memory - 1) / most_memory < last)
        last = (s->memory + most_memory - 1) / most_memory;
    if (options->in_flight_max && options->in_flight_max < last)
        last = options->in_flight_max;
    return (uint32_t)last;
}

bg_status plan_tessel_solve(const struct plan_placement *placement, const struct plan_tessel_options *options,
                            struct bg_error *err, struct plan_tessel *tessel)
{
    struct searcher *s = bg_alloc(sizeof *s);
    struct plan_tessel made = {0};
    bg_status status = BG_OK;
    int64_t whole, most_memory;
    *s = (struct searcher){
        .p = placement,
        .blocks = placement->block_count,
        .comm = options->comm,
        .memory = options->memory > 0 ? options->memory : TESSEL_NO_LIMIT,
        .budget = options->effort ? options->effort : PLAN_TESSEL_EFFORT,
    };
    s->once = s->question = s->budget / 16 + 1;
    tessel_chain(placement, s->order);
    measure_work(s, &whole, &most_memory);
    s->period = whole + 1;
    uint32_t first, last = flights(s, options, most_memory, &first);
    if (first > s->blocks) {
        status = bg_fail(err, BG_INVALID, "%u micro-batches in flight: expected at most %u, the blocks of one", first,
                         s->blocks);
        goto undo_searcher;
    }
    for (uint32_t n = first; n <= last && !is_done(s); n++)
        search_cuts(s, n);
    if (!s->best_in_flight) {
        status = bg_fail(err, BG_INVALID,
                         "no schedule with %u%s micro-batches in flight was found within memory %lld%s; %lld is enough",
                         first, first < last ? " or more" : "", (long long)options->memory,
                         s->spent ? " before the search was cut short" : "", (long long)(most_memory * first));
        goto undo_searcher;
    }
    s->in_flight = s->best_in_flight;
    for (uint32_t b = 0; b < s->blocks; b++)
        s->micro[b] = s->best[b];
    made.proved = !s->spent || s->period <= s->most_work;
    s->spent = false;
    made.repetend = solve_repetend(s);
    made.warmup = solve_part(s, false);
    made.cooldown = solve_part(s, true);
    made.in_flight = s->in_flight;
    made.period = (uint64_t)s->period;
    made.bubbles = (uint64_t)(s->period - s->least_work);
    made.shortest = !s->spent;
    *tessel = made;
undo_searcher:
    bg_free(s);
    return status;
}

void plan_tessel_fini(struct plan_tessel *tessel)
{
    bg_free(tessel->warmup.ops);
    bg_free(tessel->repetend.ops);
    bg_free(tessel->cooldown.ops);
    *tessel = (struct plan_tessel){0};
}
