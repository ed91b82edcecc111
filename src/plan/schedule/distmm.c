// Blocks fall into phases, between which it alternates whether they are of a micro-batch or of a range. A phase is
// ordered as a pipeline without end would be, one micro-batch a period; then all ops start as early as they can.
#include "plan/schedule/distmm.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdlib.h>

enum { OPS_MAX = 1 << 22 };

struct shape { // of the blocks
    const struct plan_placement *p;
    const bool *sync;
    uint32_t phase[PLAN_BLOCKS_MAX];
    uint64_t ready[PLAN_BLOCKS_MAX]; // start where nothing waits
    uint64_t period;                 // the most work of a device
};

struct keyed {
    struct plan_batch_op op;
    uint32_t range, phase;
    uint64_t time;
};

static int by_time(const void *left, const void *right)
{
    const struct keyed *a = left, *b = right;
    if (a->range != b->range)
        return a->range < b->range ? -1 : 1;
    if (a->phase != b->phase)
        return a->phase < b->phase ? -1 : 1;
    if (a->time != b->time)
        return a->time < b->time ? -1 : 1;
    if (a->op.first != b->op.first)
        return a->op.first < b->op.first ? -1 : 1;
    return a->op.block < b->op.block ? -1 : a->op.block > b->op.block;
}

static struct shape shape_of(const struct plan_placement *p, const bool *sync)
{
    struct shape s = {.p = p, .sync = sync};
    for (uint32_t b = 0; b < p->block_count; b++)
        for (uint32_t n = 0; n < p->blocks[b].need_count; n++) {
            const uint32_t need = p->blocks[b].needs[n], phase = s.phase[need] + (sync[need] != sync[b]);
            const uint64_t ready = s.ready[need] + p->blocks[need].span;
            s.phase[b] = phase > s.phase[b] ? phase : s.phase[b];
            s.ready[b] = ready > s.ready[b] ? ready : s.ready[b];
        }
    for (uint32_t d = 0; d < p->devices; d++) {
        uint64_t work = 0;
        for (uint32_t b = 0; b < p->block_count; b++)
            work += p->blocks[b].devices >> d & 1 ? p->blocks[b].span : 0;
        s.period = work > s.period ? work : s.period;
    }
    return s;
}

static struct plan_batch_run order_ops(const struct shape *s, uint32_t micro_batches, uint32_t range)
{
    struct plan_batch_run run = {0};
    struct keyed *keys = bg_alloc_array((size_t)micro_batches * s->p->block_count, sizeof *keys);
    for (uint32_t m = 0; m < micro_batches; m++)
        for (uint32_t b = 0; b < s->p->block_count; b++) {
            const uint32_t left = micro_batches - m;
            if (s->sync[b] && m % range)
                continue;
            keys[run.count++] = (struct keyed){{b, m, s->sync[b] ? m + (range < left ? range : left) : m + 1, 0, 0},
                                               m / range,
                                               s->phase[b],
                                               s->ready[b] + m * s->period};
        }
    qsort(keys, run.count, sizeof *keys, by_time);
    run.ops = bg_alloc_array(run.count, sizeof *run.ops);
    for (uint32_t i = 0; i < run.count; i++)
        run.ops[i] = keys[i].op;
    bg_free(keys);
    return run;
}

static void start_early(const struct shape *s, uint32_t micro_batches, uint32_t comm, struct plan_batch_run *run)
{
    const uint32_t blocks = s->p->block_count;
    uint64_t free_at[PLAN_DEVICES_MAX] = {0};
    int64_t held[PLAN_DEVICES_MAX] = {0};
    uint64_t *done = bg_alloc_array((size_t)micro_batches * blocks, sizeof *done); // 0: not yet
    for (uint32_t i = 0; i < run->count; i++) {
        struct plan_batch_op *op = &run->ops[i];
        const struct plan_block *block = &s->p->blocks[op->block];
        const uint32_t each = op->end - op->first;
        for (uint32_t d = 0; d < s->p->devices; d++)
            if (block->devices >> d & 1) {
                op->start = free_at[d] > op->start ? free_at[d] : op->start;
                held[d] += (int64_t)block->memory * each;
                run->peak_memory[d] = held[d] > run->peak_memory[d] ? held[d] : run->peak_memory[d];
            }
        for (uint32_t n = 0; n < block->need_count; n++)
            for (uint32_t m = op->first; m < op->end; m++) {
                const uint64_t ended = done[(size_t)m * blocks + block->needs[n]];
                const uint64_t at = ended + (s->p->blocks[block->needs[n]].devices & block->devices ? 0 : comm);
                BG_ASSERT(ended > 0);
                op->start = at > op->start ? at : op->start;
            }
        op->stop = op->start + (uint64_t)block->span * each;
        run->makespan = op->stop > run->makespan ? op->stop : run->makespan;
        for (uint32_t m = op->first; m < op->end; m++)
            done[(size_t)m * blocks + op->block] = op->stop;
        for (uint32_t d = 0; d < s->p->devices; d++)
            if (block->devices >> d & 1)
                free_at[d] = op->stop;
    }
    bg_free(done);
}

bg_status plan_distmm(const struct plan_placement *placement, const bool *sync, uint32_t micro_batches, uint32_t range,
                      int64_t memory, uint32_t comm, struct bg_error *err, struct plan_batch_run *run)
{
    bool any = false;
    for (uint32_t b = 0; b < placement->block_count; b++)
        any |= sync[b];
    if (!any)
        return bg_fail(err, BG_INVALID, "no block is a sync: expected one at least, else any schedule will do");
    if (range < 1 || micro_batches < 1 || (uint64_t)micro_batches * placement->block_count > OPS_MAX)
        return bg_fail(err, BG_INVALID, "%u micro-batches in ranges of %u: expected at least 1, at most %d ops",
                       micro_batches, range, OPS_MAX);
    const struct shape s = shape_of(placement, sync);
    struct plan_batch_run made = order_ops(&s, micro_batches, range);
    start_early(&s, micro_batches, comm, &made);
    for (uint32_t d = 0; d < placement->devices && memory > 0; d++)
        if (made.peak_memory[d] > memory) {
            const bg_status status =
                bg_fail(err, BG_INVALID, "device %u holds %lld at once, there is %lld: take ranges shorter than %u", d,
                        (long long)made.peak_memory[d], (long long)memory, range);
            plan_batch_run_fini(&made);
            return status;
        }
    *run = made;
    return BG_OK;
}

void plan_batch_run_fini(struct plan_batch_run *run)
{
    bg_free(run->ops);
    *run = (struct plan_batch_run){0};
}
