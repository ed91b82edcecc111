// Orders of the compute ops of a whole step, each as published: GPipe (Huang et al., NeurIPS'19), 1F1B with a flush
// (Narayanan et al., "Memory-efficient pipeline-parallel DNN training", ICML'21) and its interleaved form (Narayanan
// et al., SC'21). With B and W apart, W follows its B at once: the gradient for the stage before leaves earlier, and
// the memory stays that of 1F1B. GPipe, whose memory holds every item anyway, has its W after all B.
#include "base/mem.h"
#include "plan/plan_int.h"

#include <stdlib.h>

void plan_add_op(struct plan *plan, const struct plan_work *work, uint32_t stage, uint32_t item, uint8_t bit)
{
    size_t cell = plan_cell(plan, stage, item);
    uint8_t bits = work->bits[cell], flags = 0, kind = PLAN_F;
    bool fused = !work->split && (bits & PLAN_WORK_B) && (bits & PLAN_WORK_W);
    if (!(bits & bit) || (bit == PLAN_WORK_W && fused))
        return;
    if (bit != PLAN_WORK_F)
        kind = bit == PLAN_WORK_B ? PLAN_B : PLAN_W;
    if (bit == PLAN_WORK_B && fused)
        flags |= PLAN_FUSED;
    if (bit != PLAN_WORK_W && work->recompute)
        flags |= PLAN_RECOMPUTE;
    plan_list_add(&plan->lists[work->at[cell]], (struct plan_op){kind, flags, (uint16_t)stage, item, 0, 0});
}

static void add_backward(struct plan *plan, const struct plan_work *work, uint32_t stage, uint32_t item)
{
    plan_add_op(plan, work, stage, item, PLAN_WORK_B);
    plan_add_op(plan, work, stage, item, PLAN_WORK_W);
}

struct ranked {
    uint32_t item, position;
};

static int by_position(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    if (a->position != b->position)
        return a->position < b->position ? -1 : 1;
    return a->item < b->item ? -1 : 1;
}

// An item's rank is by its least position among the items of its worker, over the stages: where one worker feeds
// several, they are fed in turn.
void plan_rank_items(const struct plan *plan, const uint32_t *at, uint32_t *rank)
{
    struct ranked *items = bg_alloc_array(plan->item_count, sizeof *items);
    uint32_t *seen = bg_alloc_array(plan->workers, sizeof *seen);
    for (uint32_t i = 0; i < plan->item_count; i++)
        items[i] = (struct ranked){i, UINT32_MAX};
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        for (uint32_t w = 0; w < plan->workers; w++)
            seen[w] = 0;
        for (uint32_t i = 0; i < plan->item_count; i++) {
            uint32_t w = at[plan_cell(plan, s, i)];
            if (w == PLAN_NOBODY)
                continue;
            uint32_t position = seen[w]++;
            items[i].position = position < items[i].position ? position : items[i].position;
        }
    }
    qsort(items, plan->item_count, sizeof *items, by_position);
    for (uint32_t k = 0; k < plan->item_count; k++)
        rank[items[k].item] = k;
    bg_free(items);
    bg_free(seen);
}

void plan_order_gpipe(struct plan *plan, const struct plan_work *work)
{
    uint32_t *items = bg_alloc_array(plan->item_count, sizeof *items);
    for (uint32_t i = 0; i < plan->item_count; i++)
        items[work->rank[i]] = i;
    for (uint32_t k = 0; k < plan->item_count; k++)
        for (uint32_t s = 0; s < plan->stage_count; s++)
            plan_add_op(plan, work, s, items[k], PLAN_WORK_F);
    for (uint32_t k = 0; k < plan->item_count; k++)
        for (uint32_t s = plan->stage_count; s-- > 0;)
            plan_add_op(plan, work, s, items[k], PLAN_WORK_B);
    for (uint32_t k = 0; k < plan->item_count; k++)
        for (uint32_t s = plan->stage_count; s-- > 0;)
            plan_add_op(plan, work, s, items[k], PLAN_WORK_W);
    bg_free(items);
}

// The run of items that a seat computes.
static void run_of(const struct plan *plan, const struct plan_work *work, const struct plan_seat *seat, uint32_t *first,
                   uint32_t *count)
{
    *first = *count = 0;
    for (uint32_t i = plan->item_count; i-- > 0;)
        if (work->at[plan_cell(plan, seat->stage, i)] == seat->worker) {
            *first = i;
            ++*count;
        }
}

void plan_order_1f1b(struct plan *plan, const struct plan_work *work)
{
    for (uint32_t k = 0; k < plan->seat_count; k++) {
        const struct plan_seat *seat = &plan->seats[k];
        uint32_t first = 0, count = 0, ahead = plan->stage_count - seat->stage - 1;
        run_of(plan, work, seat, &first, &count);
        ahead = ahead < count ? ahead : count;
        for (uint32_t i = 0; i < ahead; i++)
            plan_add_op(plan, work, seat->stage, first + i, PLAN_WORK_F);
        for (uint32_t i = 0; i < count; i++) {
            if (ahead + i < count)
                plan_add_op(plan, work, seat->stage, first + ahead + i, PLAN_WORK_F);
            add_backward(plan, work, seat->stage, first + i);
        }
    }
}

void plan_order_interleaved(struct plan *plan, const struct plan_work *work, uint32_t pipelines, uint32_t chunks)
{
    for (uint32_t k = 0; k < plan->seat_count; k++) {
        const struct plan_seat *seat = &plan->seats[k];
        if (seat->stage >= pipelines)
            continue; // a later chunk of a worker that is done below
        uint32_t first = 0, count = 0, turn = pipelines * chunks;
        run_of(plan, work, seat, &first, &count);
        uint32_t total = count * chunks, ahead = (pipelines - seat->stage - 1) * 2 + (chunks - 1) * pipelines;
        ahead = ahead < total ? ahead : total;
        for (uint32_t n = 0; n < total + ahead; n++) { // n-th forward, and the backward `ahead` behind it
            if (n < total)
                plan_add_op(plan, work, n % turn / pipelines * pipelines + seat->stage,
                            first + n / turn * pipelines + n % pipelines, PLAN_WORK_F);
            if (n < ahead)
                continue;
            uint32_t b = n - ahead, chunk = chunks - 1 - b % turn / pipelines;
            add_backward(plan, work, chunk * pipelines + seat->stage, first + b / turn * pipelines + b % pipelines);
        }
    }
}
