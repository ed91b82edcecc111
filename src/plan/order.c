// Compute ops of a step that are not in order yet: how one enters a list, and in which order items come.
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
