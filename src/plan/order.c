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
    plan_list_add(&plan->lists[work->at[cell]], (struct plan_op){kind, flags, (uint16_t)stage, item, 0, 0});
}

struct ranked {
    uint32_t item, position, length; // within the run of items that stands here, and how long that is
};

static int by_position(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    const uint64_t x = (2ull * a->position + 1) * b->length, y = (2ull * b->position + 1) * a->length;
    if (x != y)
        return x < y ? -1 : 1;
    return a->item < b->item ? -1 : 1;
}

// Whether an item has the workers of the one before it, at all stages.
static bool goes_on(const struct plan *plan, const uint32_t *at, uint32_t item)
{
    for (uint32_t s = 0; s < plan->stage_count; s++)
        if (at[plan_cell(plan, s, item)] != at[plan_cell(plan, s, item - 1)])
            return false;
    return true;
}

// Runs of items that have the same workers advance together, each in proportion to its length: whoever feeds several
// workers feeds each as often as its share asks for, from the first item to the last, and every run is in order.
void plan_rank_items(const struct plan *plan, const uint32_t *at, uint32_t *rank)
{
    struct ranked *items = bg_alloc_array(plan->item_count, sizeof *items);
    for (uint32_t first = 0, end; first < plan->item_count; first = end) {
        for (end = first + 1; end < plan->item_count && goes_on(plan, at, end);)
            end++;
        for (uint32_t i = first; i < end; i++)
            items[i] = (struct ranked){i, i - first, end - first};
    }
    qsort(items, plan->item_count, sizeof *items, by_position);
    for (uint32_t k = 0; k < plan->item_count; k++)
        rank[items[k].item] = k;
    bg_free(items);
}
