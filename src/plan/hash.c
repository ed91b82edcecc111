// The name of a cut: holdings of two plans can be compared if and only if it is the same.
#include "plan/plan.h"

#include "base/hash.h"

uint64_t plan_cut_hash(const struct plan *plan)
{
    uint64_t hash = ((uint64_t)plan->units << 32) ^ plan->micro_batches;
    hash ^= 0x9e3779b97f4a7c15u * bg_xxh64(plan->stages, plan->stage_count * sizeof *plan->stages);
    hash = (hash << 7 | hash >> 57) ^ bg_xxh64(plan->items, plan->item_count * sizeof *plan->items);
    if (plan->slices > 1)
        hash = (hash << 7 | hash >> 57) ^ plan->slices;
    return hash ? hash : 1;
}
