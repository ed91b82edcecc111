// The blocks of a placement in batch-sync order.
#include "plan/schedule/distmm.h"

#include "base/mem.h"
#include "plan/schedule/distmm_int.h"

#include <stdio.h>

static void take_order(const struct distmm_order *order, uint32_t devices, struct plan_batch_run *run)
{
    *run = (struct plan_batch_run){.count = order->count, .makespan = order->makespan, .bound = order->bound};
    run->ops = bg_alloc_array(order->count, sizeof *run->ops);
    for (uint32_t i = 0; i < order->count; i++) {
        const struct distmm_op *op = &order->ops[i];
        run->ops[i] = (struct plan_batch_op){op->block, op->first, op->end, op->start, op->stop};
    }
    for (uint32_t d = 0; d < devices; d++)
        run->peak_memory[d] = order->peak[d];
}

static bool is_enough(const struct distmm_blocks *blocks, int64_t memory)
{
    struct distmm_order order;
    const bool good = distmm_order_make(blocks, memory, &order);
    distmm_order_fini(&order);
    return good;
}

// What there is to do is tried: ranges half as long, and half of that; as much memory as the order took.
static bg_status refuse(const struct distmm_blocks *blocks, int64_t memory, const struct distmm_order *order,
                        struct bg_error *err)
{
    struct distmm_blocks shorter = *blocks;
    uint32_t worst = 0;
    char ranges[64] = "", more[64] = "";
    for (uint32_t d = 1; d < blocks->devices; d++)
        worst = order->peak[d] > order->peak[worst] ? d : worst;
    const int64_t most = order->peak[worst];
    do {
        shorter.range /= 2;
    } while (shorter.range > 0 && !is_enough(&shorter, memory));
    if (shorter.range > 0)
        snprintf(ranges, sizeof ranges, "; ranges of %u fit", shorter.range);
    if (is_enough(blocks, most))
        snprintf(more, sizeof more, "; %lld is enough", (long long)most);
    return bg_fail(err, BG_INVALID, "device %u holds %lld at once in ranges of %u, there is %lld%s%s", worst,
                   (long long)most, blocks->range, (long long)memory, more, ranges);
}

bg_status plan_distmm(const struct plan_placement *placement, const bool *sync, uint32_t micro_batches, uint32_t range,
                      int64_t memory, uint32_t comm, struct bg_error *err, struct plan_batch_run *run)
{
    struct distmm_block blocks[PLAN_BLOCKS_MAX];
    struct distmm_blocks all = {blocks, placement->block_count, placement->devices, micro_batches, range, comm};
    struct distmm_order order;
    bool any = false;
    for (uint32_t b = 0; b < placement->block_count; b++) {
        const struct plan_block *block = &placement->blocks[b];
        blocks[b] = (struct distmm_block){.span = block->span,
                                          .memory = block->memory,
                                          .needs = block->needs,
                                          .need_count = block->need_count,
                                          .sync = sync[b],
                                          .devices = block->devices};
        any |= sync[b];
    }
    if (!any)
        return bg_fail(err, BG_INVALID, "no block is a sync: expected one at least, else any schedule will do");
    all.range = range < micro_batches ? range : micro_batches;
    if (all.range < 1 || distmm_count(&all) > DISTMM_OPS_MAX)
        return bg_fail(err, BG_INVALID, "%u micro-batches in ranges of %u: expected at least 1, at most %d ops",
                       micro_batches, range, DISTMM_OPS_MAX);
    const bool fits = distmm_order_make(&all, memory, &order);
    bg_status status = fits ? BG_OK : refuse(&all, memory, &order, err);
    if (!status)
        take_order(&order, placement->devices, run);
    distmm_order_fini(&order);
    return status;
}

void plan_batch_run_fini(struct plan_batch_run *run)
{
    bg_free(run->ops);
    *run = (struct plan_batch_run){0};
}
