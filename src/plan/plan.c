// The record itself: its memory, its lists, and what closes a list behind the computing.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/plan_int.h"

#include <string.h>

void plan_fini(struct plan *plan)
{
    bg_free(plan->stages);
    bg_free(plan->items);
    bg_free(plan->seats);
    bg_free(plan->follows);
    bg_free(plan->sums);
    bg_free(plan->route);
    for (uint32_t w = 0; plan->lists && w < plan->workers; w++)
        bg_free(plan->lists[w].ops);
    bg_free(plan->lists);
    *plan = (struct plan){0};
}

uint32_t plan_op_slices(const struct plan *plan)
{
    return plan->rest || plan->slices < 2 ? 1 : plan->slices;
}

uint32_t plan_slices_most(uint32_t length)
{
    const uint32_t runs = length / PLAN_SLICE_ALIGN + (length % PLAN_SLICE_ALIGN != 0);
    return runs < 1 ? 1 : runs < PLAN_SLICES_MAX ? runs : PLAN_SLICES_MAX;
}

void plan_slice_positions(uint32_t length, uint32_t slices, uint32_t slice, uint32_t *first, uint32_t *end)
{
    const uint64_t runs = ((uint64_t)length + PLAN_SLICE_ALIGN - 1) / PLAN_SLICE_ALIGN;
    const uint64_t bounds[] = {runs * slice / slices * PLAN_SLICE_ALIGN,
                               runs * (slice + 1) / slices * PLAN_SLICE_ALIGN};
    *first = (uint32_t)(bounds[0] < length ? bounds[0] : length);
    *end = (uint32_t)(bounds[1] < length ? bounds[1] : length);
}

static void *duplicate(const void *from, size_t count, size_t bytes_each)
{
    if (!from)
        return NULL;
    void *copy = bg_alloc_array(count, bytes_each);
    memcpy(copy, from, count * bytes_each);
    return copy;
}

struct plan plan_copy(const struct plan *plan)
{
    struct plan copy = *plan;
    copy.stages = duplicate(plan->stages, plan->stage_count, sizeof *plan->stages);
    copy.items = duplicate(plan->items, plan->item_count, sizeof *plan->items);
    copy.seats = duplicate(plan->seats, plan->seat_count, sizeof *plan->seats);
    copy.follows = duplicate(plan->follows, plan->follow_count, sizeof *plan->follows);
    copy.sums = duplicate(plan->sums, plan->stage_count, sizeof *plan->sums);
    copy.route = duplicate(plan->route, plan_cells(plan), sizeof *plan->route);
    copy.lists = duplicate(plan->lists, plan->workers, sizeof *plan->lists);
    for (uint32_t w = 0; copy.lists && w < plan->workers; w++) {
        copy.lists[w].ops = duplicate(plan->lists[w].ops, plan->lists[w].count, sizeof *plan->lists[w].ops);
        copy.lists[w].capacity = plan->lists[w].count;
    }
    return copy;
}

void plan_list_insert(struct plan_list *list, size_t at, struct plan_op op)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 8;
        list->ops = bg_realloc_array(list->ops, list->capacity, sizeof *list->ops);
    }
    memmove(list->ops + at + 1, list->ops + at, (list->count - at) * sizeof *list->ops);
    list->ops[at] = op;
    list->count++;
}

void plan_list_add(struct plan_list *list, struct plan_op op)
{
    plan_list_insert(list, list->count, op);
}

static uint32_t *map_create(size_t cells)
{
    uint32_t *map = bg_alloc_array(cells, sizeof *map);
    memset(map, 0xff, cells * sizeof *map); // PLAN_NOBODY everywhere
    return map;
}

uint32_t *plan_map_create(const struct plan *plan)
{
    return map_create(plan_cells(plan));
}

uint32_t *plan_slice_map_create(const struct plan *plan)
{
    return map_create(plan_slice_cells(plan));
}

void plan_reset_lists(struct plan *plan)
{
    for (uint32_t w = 0; plan->lists && w < plan->workers; w++)
        bg_free(plan->lists[w].ops);
    bg_free(plan->lists);
    plan->lists = bg_alloc_array(plan->workers, sizeof *plan->lists);
}

void plan_close_lists(struct plan *plan)
{
    bool *closed = bg_alloc_array(plan->stage_count, sizeof *closed);
    for (uint32_t w = 0; w < plan->workers; w++) {
        struct plan_list *list = &plan->lists[w];
        memset(closed, 0, plan->stage_count * sizeof *closed);
        for (size_t i = 0; i < list->count; i++)
            closed[list->ops[i].stage] |= plan_op_adds(&list->ops[i]);
        plan_add_reduce(list, 0);
        size_t head =
            0; // a stage without work here has its sums ready, and takes part: right behind what is sent again
        while (head < list->count && list->ops[head].kind == PLAN_SEND)
            head++;
        for (uint32_t i = 0; i < plan->seat_count; i++) {
            const struct plan_seat *seat = &plan->seats[i];
            if (seat->worker == w && !closed[seat->stage])
                plan_list_insert(list, head, (struct plan_op){PLAN_COLL, PLAN_REDUCE, (uint16_t)seat->stage, 0, 0, 0});
        }
        plan_list_add(list, (struct plan_op){.kind = PLAN_STEP});
    }
    if (plan->sums)
        plan_place_chunks(plan);
    bg_free(closed);
}

void plan_add_reduce(struct plan_list *list, uint32_t micro_batches)
{
    uint32_t left[PLAN_STAGES_MAX] = {0}; // gradients of the stage until its reduction
    for (size_t i = 0; i < list->count; i++)
        if (plan_op_adds(&list->ops[i]))
            left[list->ops[i].stage]++;
    for (uint32_t s = 0; s < PLAN_STAGES_MAX && micro_batches; s++)
        left[s] = left[s] >= micro_batches ? micro_batches : 0;
    struct plan_list out = {0};
    for (size_t i = 0; i < list->count; i++) {
        const struct plan_op *op = &list->ops[i];
        plan_list_add(&out, *op);
        if (!plan_op_adds(op) || left[op->stage] == 0 || --left[op->stage] > 0)
            continue;
        const uint16_t stage = op->stage;
        if (i + 1 < list->count && op[1].kind == PLAN_SEND && (op[1].flags & PLAN_GRAD) && op[1].stage == stage)
            plan_list_add(&out, list->ops[++i]); // the stage before waits for it
        plan_list_add(&out, (struct plan_op){PLAN_COLL, PLAN_REDUCE, stage, 0, 0, 0});
    }
    bg_free(list->ops);
    *list = out;
}

uint32_t plan_flights(const struct plan *plan, uint32_t worker, uint32_t stage)
{
    const struct plan_list *list = &plan->lists[worker];
    bool *seen = bg_alloc_array(plan->item_count, sizeof *seen);
    uint32_t now = 0, most = 0;
    for (size_t i = 0; i < list->count; i++) { // a backward without its forward: the stash is there from the start
        const struct plan_op *op = &list->ops[i];
        if (op->kind > PLAN_W || op->stage != stage || seen[op->item])
            continue;
        seen[op->item] = true;
        now += op->kind != PLAN_F;
    }
    most = now;
    for (size_t i = 0; i < list->count; i++) {
        const struct plan_op *op = &list->ops[i];
        if (op->kind > PLAN_W || op->stage != stage)
            continue;
        now += op->kind == PLAN_F && op->slice == 0;
        now -= plan_op_adds(op);
        most = now > most ? now : most;
    }
    bg_free(seen);
    return most;
}
