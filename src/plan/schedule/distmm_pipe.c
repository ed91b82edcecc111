// Batch sync over a job's stages: the last stage runs the forwards of all items of a range before the first of its
// backwards, as a loss of the whole batch asks for; the stages before it follow. Between the two stands a sync of no
// time and no place. The order is that of distmm_order.c for the stages' times, in whole steps.
#include "plan/schedule/schedule_int.h"

#include "base/mem.h"
#include "plan/schedule/distmm_int.h"

#include <math.h>

enum { STEPS = 4096 }; // of the longest op

struct cell { // what a block stands for
    uint32_t kind, stage;
};

static double time_of(const struct plan_pipe *pipe, struct cell cell)
{
    const double time = plan_pipe_cost(pipe, (enum plan_op_kind)cell.kind, cell.stage);
    return cell.kind == PLAN_B && !pipe->split ? time + pipe->weight[cell.stage] : time;
}

// Forwards, the sync, then backwards from the last stage on; each block needs the one before it, W its B.
static uint32_t list_blocks(const struct plan_pipe *pipe, struct distmm_block *blocks, uint32_t *needs,
                            struct cell *cells)
{
    const uint32_t stages = pipe->stages;
    uint32_t count = 0, last = 0;
    for (uint32_t s = 0; s < stages; s++)
        cells[count++] = (struct cell){PLAN_F, s};
    cells[count++] = (struct cell){PLAN_EMPTY, 0};
    for (uint32_t s = stages; s-- > 0;) {
        cells[count++] = (struct cell){PLAN_B, s};
        if (pipe->split)
            cells[count++] = (struct cell){PLAN_W, s};
    }
    for (uint32_t b = 0; b < count; b++) {
        const bool frees = cells[b].kind == (pipe->split ? PLAN_W : PLAN_B);
        needs[b] = last;
        last = cells[b].kind == PLAN_W ? last : b;
        blocks[b] = (struct distmm_block){.memory = cells[b].kind == PLAN_F ? 1
                                                    : frees                 ? -1
                                                                            : 0,
                                          .needs = &needs[b],
                                          .need_count = b > 0,
                                          .sync = cells[b].kind == PLAN_EMPTY,
                                          .at = pipe->at + (size_t)cells[b].stage * pipe->items};
        if (blocks[b].sync)
            blocks[b].at = NULL;
    }
    return count;
}

static void set_spans(const struct plan_pipe *pipe, const struct cell *cells, struct distmm_blocks *all,
                      struct distmm_block *blocks)
{
    double most = 0;
    for (uint32_t b = 0; b < all->block_count; b++)
        most = blocks[b].sync ? most : fmax(most, time_of(pipe, cells[b]));
    const double step = most > 0 ? most / STEPS : 1;
    for (uint32_t b = 0; b < all->block_count; b++)
        blocks[b].span = blocks[b].sync ? 0 : (uint64_t)round(time_of(pipe, cells[b]) / step);
    all->comm = (uint64_t)fmax(0, fmin(round(pipe->comm / step), 1000.0 * STEPS));
}

static bg_status too_much(const struct plan_pipe *pipe, const struct distmm_order *order, uint32_t range,
                          struct bg_error *err)
{
    uint32_t worst = 0;
    for (uint32_t w = 0; w < pipe->workers; w++)
        worst = order->peak[w] > order->peak[worst] ? w : worst;
    return bg_fail(
        err, BG_INVALID,
        "distmm: worker %u holds %lld micro-batches of a stage at once in ranges of %u, the memory is for %g; "
        "give it %lld, or take a shorter range",
        worst, (long long)order->peak[worst], range, pipe->memory, (long long)order->peak[worst]);
}

bg_status plan_order_distmm(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    const size_t most = (size_t)3 * pipe->stages + 1;
    const uint32_t range = pipe->range > 0 && pipe->range < pipe->items ? pipe->range : pipe->items;
    struct distmm_block *blocks = bg_alloc_array(most, sizeof *blocks);
    struct cell *cells = bg_alloc_array(most, sizeof *cells);
    uint32_t *needs = bg_alloc_array(most, sizeof *needs);
    struct distmm_blocks all = {
        .blocks = blocks, .devices = pipe->workers, .micro_batches = pipe->items, .range = range};
    struct distmm_order order = {0};
    const int64_t memory = pipe->memory > 0 ? (int64_t)fmax(1, fmin(floor(pipe->memory), 1e9)) : 0;
    bg_status status = BG_OK;
    all.block_count = list_blocks(pipe, blocks, needs, cells);
    set_spans(pipe, cells, &all, blocks);
    const uint64_t rows = (uint64_t)pipe->workers * ((pipe->items - 1) / range + 1);
    if (distmm_count(&all) > DISTMM_OPS_MAX || rows > DISTMM_OPS_MAX)
        status = bg_fail(err, BG_UNSUPPORTED, "distmm: %llu ops, expected at most %d; take fewer micro-batches",
                         (unsigned long long)distmm_count(&all), DISTMM_OPS_MAX);
    else if (!distmm_order_make(&all, memory, &order))
        status = too_much(pipe, &order, range, err);
    for (uint32_t i = 0; i < order.count && !status; i++) {
        const struct cell cell = cells[order.ops[i].block];
        const uint32_t item = order.ops[i].first;
        const uint8_t flags = cell.kind == PLAN_B && !pipe->split ? PLAN_FUSED : 0;
        if (cell.kind != PLAN_EMPTY)
            plan_list_add(&lists[pipe->at[(size_t)cell.stage * pipe->items + item]],
                          (struct plan_op){(uint8_t)cell.kind, flags, (uint16_t)cell.stage, item, 0, 0});
    }
    distmm_order_fini(&order);
    bg_free(blocks);
    bg_free(cells);
    bg_free(needs);
    return status;
}
