// The rest of a step after a death: what is missing, who makes it up, and the lists that do it. Work that survivors
// have done or hold in flight stays where it is; what was lost goes to peers of the same stage, so that no weights move
// (Gandhi et al., "ReCycle", SOSP'24). A sliced step goes on in whole items: what is held of some slices only, nobody
// speaks of.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/pass/pass.h"
#include "plan/plan_int.h"

#include <string.h>

struct recovery {
    struct plan *plan;
    const struct plan_holdings *holdings;
    struct bg_error *err;
    uint8_t *bits;              // (stages, items): enum plan_work_bit
    uint32_t *at;               // (stages, items): the worker of its ops
    uint32_t *x_from, *dy_from; // (stages, items): the worker that sends what it holds already
    uint32_t *seat_first;       // (stages + 1)
    uint32_t *load;             // (workers): micro-batches to compute
    struct plan_recovery counted;
};

static bool held(const struct recovery *r, uint32_t worker, uint32_t stage, uint32_t item, uint8_t bit)
{
    const uint8_t *items = r->holdings[worker].items;
    return items && (items[plan_cell(r->plan, stage, item)] & bit);
}

static bool seated(const struct recovery *r, uint32_t worker, uint32_t stage)
{
    for (uint32_t k = r->seat_first[stage]; k < r->seat_first[stage + 1]; k++)
        if (r->plan->seats[k].worker == worker)
            return true;
    return false;
}

static bool has_input(const struct recovery *r, uint32_t worker, uint32_t stage, uint32_t item)
{
    return stage == 0 || held(r, worker, stage, item, PLAN_HELD_X) ||
           (seated(r, worker, stage - 1) && held(r, worker, stage - 1, item, PLAN_HELD_Y));
}

static bool has_gradient(const struct recovery *r, uint32_t worker, uint32_t stage, uint32_t item)
{
    return stage + 1 == r->plan->stage_count || held(r, worker, stage, item, PLAN_HELD_DY) ||
           (seated(r, worker, stage + 1) && held(r, worker, stage + 1, item, PLAN_HELD_DX));
}

static bool has_stash(const struct recovery *r, uint32_t worker, uint32_t stage, uint32_t item)
{
    return held(r, worker, stage, item, PLAN_HELD_STASH) && has_input(r, worker, stage, item);
}

static bool has_backward(const struct recovery *r, uint32_t worker, uint32_t stage, uint32_t item)
{
    return held(r, worker, stage, item, PLAN_HELD_B) && has_stash(r, worker, stage, item) &&
           has_gradient(r, worker, stage, item);
}

// The first worker of the stage that holds it.
static uint32_t holder(const struct recovery *r, uint32_t stage, uint32_t item, uint8_t bit)
{
    for (uint32_t k = r->seat_first[stage]; k < r->seat_first[stage + 1]; k++)
        if (held(r, r->plan->seats[k].worker, stage, item, bit))
            return r->plan->seats[k].worker;
    return PLAN_NOBODY;
}

// How near a worker is to having done an op of the item; 0: it has nothing of it.
static uint32_t nearness(const struct recovery *r, uint32_t worker, uint32_t stage, uint32_t item, uint8_t bit)
{
    if (bit != PLAN_WORK_F && has_backward(r, worker, stage, item))
        return 3;
    if (bit != PLAN_WORK_F && has_stash(r, worker, stage, item))
        return 2;
    return stage > 0 && has_input(r, worker, stage, item);
}

// The nearest worker of the stage; the less loaded of equals. *near: how near it is.
static uint32_t nearest(const struct recovery *r, uint32_t stage, uint32_t item, uint8_t bit, uint32_t *near)
{
    uint32_t best = PLAN_NOBODY;
    *near = 0;
    for (uint32_t k = r->seat_first[stage]; k < r->seat_first[stage + 1]; k++) {
        const uint32_t w = r->plan->seats[k].worker, mine = nearness(r, w, stage, item, bit);
        if (best != PLAN_NOBODY && (mine < *near || (mine == *near && r->load[w] >= r->load[best])))
            continue;
        best = w;
        *near = mine;
    }
    return best;
}

static bool finished(const struct recovery *r, uint32_t stage)
{
    for (uint32_t u = r->plan->stages[stage].unit_first; u < r->plan->stages[stage].unit_end; u++) {
        bool rooted = false;
        for (uint32_t w = 0; w < r->plan->workers && !rooted; w++)
            rooted = r->holdings[w].roots && r->holdings[w].roots[u];
        if (!rooted)
            return false;
    }
    return true;
}

// Gives a leaf to a worker.
static void give(struct recovery *r, uint32_t stage, uint32_t item, uint32_t worker)
{
    const size_t cell = plan_cell(r->plan, stage, item);
    r->at[cell] = r->plan->route[cell] = worker;
    r->bits[cell] |= PLAN_WORK_W;
    r->load[worker] += plan_item_leaves(r->plan, item);
}

// The leaves of a stage that are in nobody's hands: how many each worker takes is found item by item, the least loaded
// first; then they take them in runs, the less loaded first.
static void give_out(struct recovery *r, uint32_t stage, const uint32_t *items, uint32_t count)
{
    const uint32_t first = r->seat_first[stage], seats = r->seat_first[stage + 1] - first;
    const struct plan_seat *seat = r->plan->seats + first;
    uint32_t *quota = bg_alloc_array(seats, sizeof *quota), *order = bg_alloc_array(seats, sizeof *order);
    uint64_t *load = bg_alloc_array(seats, sizeof *load);
    for (uint32_t k = 0; k < seats; k++) { // order: by load, then by index
        uint32_t place = k;
        load[k] = r->load[seat[k].worker];
        for (; place > 0 && (load[order[place - 1]] > load[k] ||
                             (load[order[place - 1]] == load[k] && seat[order[place - 1]].worker > seat[k].worker));
             place--)
            order[place] = order[place - 1];
        order[place] = k;
    }
    for (uint32_t n = 0; n < count; n++) {
        uint32_t least = order[0];
        for (uint32_t k = 1; k < seats; k++)
            least = load[order[k]] < load[least] ? order[k] : least;
        load[least] += plan_item_leaves(r->plan, items[n]);
        quota[least]++;
    }
    for (uint32_t k = 0, n = 0; k < seats; k++)
        for (; quota[order[k]] > 0; quota[order[k]]--, n++) {
            give(r, stage, items[n], seat[order[k]].worker);
            r->counted.leaves += plan_item_leaves(r->plan, items[n]);
        }
    bg_free(quota);
    bg_free(order);
    bg_free(load);
}

static bg_status assign_leaves(struct recovery *r, uint32_t stage)
{
    struct plan *plan = r->plan;
    const bool done = finished(r, stage);
    uint32_t *missing = bg_alloc_array(plan->item_count, sizeof *missing), count = 0;
    for (uint32_t i = 0; i < plan->item_count; i++) {
        uint32_t *route = &plan->route[plan_cell(plan, stage, i)], before = *route, near = 0;
        *route = done ? PLAN_NOBODY : holder(r, stage, i, PLAN_HELD_G);
        if (done || *route != PLAN_NOBODY)
            continue;
        uint32_t w = nearest(r, stage, i, PLAN_WORK_W, &near);
        if (near > 0)
            give(r, stage, i, w);
        else if (before != PLAN_NOBODY && seated(r, before, stage))
            give(r, stage, i, before);
        else
            missing[count++] = i;
    }
    if (count && r->seat_first[stage] == r->seat_first[stage + 1]) {
        bg_free(missing);
        return bg_fail(r->err, BG_INVALID,
                       "recovery: stage %u has no worker, and not every unit of it has its gradient", stage);
    }
    if (count)
        give_out(r, stage, missing, count);
    bg_free(missing);
    return BG_OK;
}

// Makes an op of a cell necessary; where it has no worker yet, finds one for it.
static bg_status demand(struct recovery *r, uint32_t stage, uint32_t item, uint8_t bit)
{
    const size_t cell = plan_cell(r->plan, stage, item);
    uint32_t near = 0;
    if (r->at[cell] == PLAN_NOBODY) {
        r->at[cell] = nearest(r, stage, item, bit, &near);
        if (r->at[cell] == PLAN_NOBODY)
            return bg_fail(r->err, BG_INVALID, "recovery: stage %u has no worker, and its item %u has to run again",
                           stage, item);
        r->load[r->at[cell]] += plan_item_leaves(r->plan, item);
    }
    r->bits[cell] |= bit;
    return BG_OK;
}

// Stages upward: a backward whose gradient lies nowhere needs the backward above it.
static bg_status demand_backward(struct recovery *r, uint32_t stage, uint32_t item)
{
    const size_t cell = plan_cell(r->plan, stage, item);
    uint8_t *bits = &r->bits[cell];
    const uint32_t w = r->at[cell];
    if ((*bits & PLAN_WORK_W) && !has_backward(r, w, stage, item))
        *bits |= PLAN_WORK_B;
    if (!(*bits & PLAN_WORK_B))
        return BG_OK;
    *bits |= PLAN_WORK_HAS_DY;
    if (has_gradient(r, w, stage, item))
        return BG_OK;
    r->dy_from[cell] = holder(r, stage + 1, item, PLAN_HELD_DX);
    if (r->dy_from[cell] != PLAN_NOBODY)
        return BG_OK;
    *bits = (uint8_t)(*bits & ~PLAN_WORK_HAS_DY);
    return demand(r, stage + 1, item, PLAN_WORK_B);
}

// Stages downward: a forward whose input lies nowhere needs the forward below it.
static bg_status demand_forward(struct recovery *r, uint32_t stage, uint32_t item, bool loss_known)
{
    const size_t cell = plan_cell(r->plan, stage, item);
    uint8_t *bits = &r->bits[cell];
    bg_status status = BG_OK;
    if (stage + 1 == r->plan->stage_count && !loss_known)
        status = demand(r, stage, item, PLAN_WORK_F);
    if (status || !*bits)
        return status;
    const uint32_t w = r->at[cell];
    if (has_stash(r, w, stage, item))
        *bits |= PLAN_WORK_HAS_STASH;
    else
        *bits |= PLAN_WORK_F;
    if (!(*bits & PLAN_WORK_F))
        return BG_OK;
    if (!(*bits & PLAN_WORK_W) || (*bits & PLAN_WORK_HAS_STASH))
        r->counted.forwards += plan_item_leaves(r->plan, item);
    *bits |= PLAN_WORK_HAS_X;
    if (has_input(r, w, stage, item))
        return BG_OK;
    r->x_from[cell] = holder(r, stage - 1, item, PLAN_HELD_Y);
    if (r->x_from[cell] != PLAN_NOBODY)
        return BG_OK;
    *bits = (uint8_t)(*bits & ~PLAN_WORK_HAS_X);
    return demand(r, stage - 1, item, PLAN_WORK_F);
}

static bool all_known(const struct plan_item *item, const uint8_t *loss_known)
{
    return !memchr(loss_known + item->first, 0, item->end - item->first);
}

static bg_status find_work(struct recovery *r, const uint8_t *loss_known)
{
    const struct plan *plan = r->plan;
    bg_status status = BG_OK;
    for (uint32_t s = 0; s < plan->stage_count && !status; s++)
        status = assign_leaves(r, s);
    for (uint32_t s = 0; s < plan->stage_count; s++)
        for (uint32_t i = 0; i < plan->item_count && !status; i++)
            status = demand_backward(r, s, i);
    for (uint32_t s = plan->stage_count; s-- > 0;)
        for (uint32_t i = 0; i < plan->item_count && !status; i++)
            status = demand_forward(r, s, i, all_known(&plan->items[i], loss_known));
    return status;
}

// What lies somewhere already: SEND before anything else there.
static void send_again(struct recovery *r)
{
    struct plan *plan = r->plan;
    size_t *sent = bg_alloc_array(plan->workers, sizeof *sent);
    for (size_t cell = 0; cell < plan_cells(plan); cell++) {
        const uint32_t s = (uint32_t)(cell / plan->item_count), i = (uint32_t)(cell % plan->item_count);
        const uint32_t x = r->x_from[cell], dy = r->dy_from[cell];
        if (x != PLAN_NOBODY)
            plan_list_insert(&plan->lists[x], sent[x]++,
                             (struct plan_op){PLAN_SEND, 0, (uint16_t)(s - 1), i, r->at[cell], 0});
        if (dy != PLAN_NOBODY)
            plan_list_insert(&plan->lists[dy], sent[dy]++,
                             (struct plan_op){PLAN_SEND, PLAN_GRAD, (uint16_t)(s + 1), i, r->at[cell], 0});
    }
    bg_free(sent);
}

static bg_status write_lists(struct recovery *r, bool split)
{
    struct plan *plan = r->plan;
    const size_t cells = plan_cells(plan);
    uint32_t *rank = bg_alloc_array(plan->item_count, sizeof *rank);
    uint32_t *activation = plan_map_create(plan), *gradient = plan_map_create(plan);
    const struct plan_work work = {.bits = r->bits, .at = r->at, .rank = rank, .split = split};
    const struct plan_present present = {activation, gradient};
    for (size_t cell = 0; cell < cells; cell++) {
        activation[cell] = r->bits[cell] & PLAN_WORK_HAS_X ? r->at[cell] : PLAN_NOBODY;
        gradient[cell] = r->bits[cell] & PLAN_WORK_HAS_DY ? r->at[cell] : PLAN_NOBODY;
    }
    plan_reset_lists(plan);
    plan_rank_items(plan, r->at, rank);
    plan_order_greedy(plan, &work);
    bg_status status = plan_lower(plan, &present, r->err);
    if (!status) {
        plan_place_receives(plan, r->x_from, r->dy_from);
        send_again(r);
        plan_close_lists(plan);
        plan_pass_wait_free(plan, true);
        status = plan_validate(plan, r->err);
    }
    bg_free(rank);
    bg_free(activation);
    bg_free(gradient);
    return status;
}

bg_status plan_recover(struct plan *plan, const struct plan_holdings *holdings, const uint8_t *loss_known, bool split,
                       struct bg_error *err, struct plan_recovery *recovery)
{
    struct plan made = plan_copy(plan);
    made.rest = true;
    if (!made.route)
        made.route = plan_map_create(&made);
    struct recovery r = {.plan = &made,
                         .holdings = holdings,
                         .err = err,
                         .bits = bg_alloc_array(plan_cells(&made), 1),
                         .at = plan_map_create(&made),
                         .x_from = plan_map_create(&made),
                         .dy_from = plan_map_create(&made),
                         .seat_first = bg_alloc_array(made.stage_count + 1u, sizeof *r.seat_first),
                         .load = bg_alloc_array(made.workers, sizeof *r.load)};
    for (uint32_t k = 0; k < made.seat_count; k++)
        r.seat_first[made.seats[k].stage + 1]++;
    for (uint32_t s = 0; s < made.stage_count; s++)
        r.seat_first[s + 1] += r.seat_first[s];
    bg_status status = find_work(&r, loss_known);
    if (!status)
        status = write_lists(&r, split);
    void *parts[] = {r.bits, r.at, r.x_from, r.dy_from, r.seat_first, r.load};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        bg_free(parts[i]);
    if (status) {
        plan_fini(&made);
        return status;
    }
    plan_fini(plan);
    *plan = made;
    *recovery = r.counted;
    return BG_OK;
}
