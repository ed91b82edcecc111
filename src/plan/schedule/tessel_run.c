// A found schedule unrolled over a step: the warm-up, the repetend once for each micro-batch beyond those in flight,
// the cool-down; then every block as early as the order of its devices and its inputs let it.
#include "plan/schedule/tessel.h"

#include "base/assert.h"
#include "base/mem.h"
#include "plan/schedule/tessel_int.h"

static void append(struct plan_tessel_run *run, const struct plan_tessel_part *part, uint32_t later)
{
    for (uint32_t i = 0; i < part->count; i++) {
        struct plan_tessel_op op = part->ops[i];
        op.micro += later;
        run->ops[run->count++] = op;
    }
}

// Which op runs a block of a micro-batch.
static uint32_t *index_ops(const struct plan_placement *p, const struct plan_tessel_run *run, uint32_t micro_batches)
{
    uint32_t *of = bg_alloc_array((size_t)p->block_count * micro_batches, sizeof *of);
    for (uint32_t i = 0; i < run->count; i++)
        of[(size_t)run->ops[i].micro * p->block_count + run->ops[i].block] = i;
    return of;
}

static void start_early(const struct plan_placement *p, uint32_t micro_batches, uint32_t comm,
                        struct plan_tessel_run *run)
{
    uint64_t free_at[PLAN_DEVICES_MAX] = {0};
    uint32_t *of = index_ops(p, run, micro_batches);
    for (uint32_t i = 0; i < run->count; i++) {
        struct plan_tessel_op *op = &run->ops[i];
        const struct plan_block *block = &p->blocks[op->block];
        op->start = 0;
        for (uint32_t d = 0; d < p->devices; d++)
            if (block->devices >> d & 1 && free_at[d] > op->start)
                op->start = free_at[d];
        for (uint32_t n = 0; n < block->need_count; n++) {
            const uint32_t need = of[(size_t)op->micro * p->block_count + block->needs[n]];
            const bool local = p->blocks[block->needs[n]].devices & block->devices;
            BG_ASSERT(need < i);
            const uint64_t ready = run->ops[need].end + (local ? 0 : comm);
            op->start = ready > op->start ? ready : op->start;
        }
        op->end = op->start + block->span;
        for (uint32_t d = 0; d < p->devices; d++)
            if (block->devices >> d & 1)
                free_at[d] = op->end;
    }
    bg_free(of);
}

static void measure(const struct plan_placement *p, struct plan_tessel_run *run)
{
    for (uint32_t d = 0; d < p->devices; d++) {
        uint64_t first = UINT64_MAX, last = 0, work = 0;
        int64_t memory = 0;
        for (uint32_t i = 0; i < run->count; i++) {
            const struct plan_tessel_op *op = &run->ops[i];
            const struct plan_block *block = &p->blocks[op->block];
            if (!(block->devices >> d & 1))
                continue;
            first = op->start < first ? op->start : first;
            last = op->end;
            work += block->span;
            memory += block->memory;
            run->peak_memory[d] = memory > run->peak_memory[d] ? memory : run->peak_memory[d];
        }
        run->makespan = last > run->makespan ? last : run->makespan;
        if (last - first > run->max_device_span) {
            run->max_device_span = last - first;
            run->bubble = last - first - work;
        }
    }
}

void tessel_run_early(const struct plan_placement *placement, uint32_t micro_batches, uint32_t comm,
                      struct plan_tessel_run *run)
{
    start_early(placement, micro_batches, comm, run);
    measure(placement, run);
}

bg_status plan_tessel_unroll(const struct plan_placement *placement, const struct plan_tessel *tessel,
                             uint32_t micro_batches, uint32_t comm, struct bg_error *err, struct plan_tessel_run *run)
{
    struct plan_tessel_run made = {0};
    if (micro_batches < tessel->in_flight)
        return bg_fail(err, BG_INVALID,
                       "%u micro-batches, but the schedule has %u in flight: expected at least as many", micro_batches,
                       tessel->in_flight);
    const uint64_t count = (uint64_t)micro_batches * placement->block_count;
    if (count > PLAN_TESSEL_OPS_MAX)
        return bg_fail(err, BG_INVALID, "%u micro-batches of %u blocks: expected at most %d ops", micro_batches,
                       placement->block_count, PLAN_TESSEL_OPS_MAX);
    made.ops = bg_alloc_array(count, sizeof *made.ops);
    const uint32_t later = micro_batches - tessel->in_flight;
    append(&made, &tessel->warmup, 0);
    for (uint32_t i = 0; i <= later; i++)
        append(&made, &tessel->repetend, i);
    append(&made, &tessel->cooldown, later);
    BG_ASSERT(made.count == count);
    tessel_run_early(placement, micro_batches, comm, &made);
    *run = made;
    return BG_OK;
}

void plan_tessel_run_fini(struct plan_tessel_run *run)
{
    bg_free(run->ops);
    *run = (struct plan_tessel_run){0};
}
