// How partial sums travel: in which messages a unit's gradient goes, who folds each, and where in the lists the
// reductions of a stage's chunks stand.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/plan_int.h"

static struct plan_sum sum_of(const struct plan *plan, uint32_t stage)
{
    return plan->sums ? plan->sums[stage] : (struct plan_sum){0};
}

uint32_t plan_sum_chunks(const struct plan *plan, uint32_t stage)
{
    const uint32_t chunks = sum_of(plan, stage).chunks;
    return chunks > 1 ? chunks : 1;
}

uint32_t plan_sum_runs(const struct plan *plan, uint32_t stage, uint32_t pieces)
{
    const uint32_t chunks = sum_of(plan, stage).chunks,
                   least = pieces / PLAN_RUN_PIECES + (pieces % PLAN_RUN_PIECES > 0);
    const uint32_t runs = chunks > least ? chunks : least;
    return chunks > 0 && runs < pieces ? runs : pieces;
}

bool plan_run_in_chunk(const struct plan *plan, uint32_t stage, uint32_t run, uint32_t chunk)
{
    return run == chunk || (run > chunk && chunk + 1 == plan_sum_chunks(plan, stage));
}

void plan_run_pieces(uint32_t pieces, uint32_t runs, uint32_t run, uint32_t *first, uint32_t *end)
{
    *first = (uint32_t)((uint64_t)run * pieces / runs);
    *end = (uint32_t)(((uint64_t)run + 1) * pieces / runs);
}

uint32_t plan_run_of(uint32_t pieces, uint32_t runs, uint32_t piece)
{
    return (uint32_t)((((uint64_t)piece + 1) * runs - 1) / pieces);
}

uint32_t plan_run_owner(const struct plan *plan, uint32_t stage, uint32_t turn, uint32_t run)
{
    const uint32_t owner = sum_of(plan, stage).owner;
    uint32_t first = 0, count = 0;
    while (first < plan->seat_count && plan->seats[first].stage < stage)
        first++;
    while (first + count < plan->seat_count && plan->seats[first + count].stage == stage)
        count++;
    if (count == 0)
        return PLAN_NOBODY;
    return plan->seats[first + (owner ? owner - 1 : (uint32_t)(((uint64_t)turn + run) % count))].worker;
}

void plan_keep_sums(struct plan *plan)
{
    if (!plan->sums)
        plan->sums = bg_alloc_array(plan->stage_count, sizeof *plan->sums);
}

void plan_drop_sums(struct plan *plan)
{
    for (uint32_t s = 0; s < plan->stage_count && plan->sums; s++)
        if (plan->sums[s].chunks || plan->sums[s].owner)
            return;
    bg_free(plan->sums);
    plan->sums = NULL;
}

// ---- In the lists ----
struct placing {
    const struct plan *plan;
    struct plan_list out;
    uint16_t next[PLAN_STAGES_MAX]; // chunk that is due; 0: the stage's first has not come, or the last has
};

static void place_due(struct placing *p)
{
    for (uint32_t s = 0; s < p->plan->stage_count; s++) {
        if (p->next[s] == 0)
            continue;
        plan_list_add(&p->out, (struct plan_op){PLAN_COLL, PLAN_REDUCE, (uint16_t)s, 0, 0, p->next[s]});
        p->next[s]++;
        p->next[s] = p->next[s] < plan_sum_chunks(p->plan, s) ? p->next[s] : 0;
    }
}

static bool some_due(const struct placing *p)
{
    bool due = false;
    for (uint32_t s = 0; s < p->plan->stage_count; s++)
        due |= p->next[s] > 0;
    return due;
}

static bool is_reduction(const struct plan_op *op)
{
    return op->kind == PLAN_COLL && op->flags & PLAN_REDUCE;
}

void plan_place_chunks(struct plan *plan)
{
    for (uint32_t w = 0; w < plan->workers; w++) {
        struct placing p = {.plan = plan};
        const struct plan_list *list = &plan->lists[w];
        bool computed = false; // since the last chunk, with what is sent of it
        for (size_t i = 0; i < list->count; i++) {
            const struct plan_op *op = &list->ops[i];
            if (is_reduction(op) && op->slice > 0)
                continue;
            if (computed && op->kind != PLAN_SEND) {
                place_due(&p);
                computed = false;
            }
            while (op->kind == PLAN_STEP && some_due(&p))
                place_due(&p);
            plan_list_add(&p.out, *op);
            computed |= op->kind <= PLAN_W;
            if (is_reduction(op) && plan_sum_chunks(plan, op->stage) > 1)
                p.next[op->stage] = 1;
        }
        while (some_due(&p))
            place_due(&p);
        bg_free(list->ops);
        plan->lists[w] = p.out;
    }
}
