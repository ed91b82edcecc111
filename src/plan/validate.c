// The one validator. What it lets through, an executor can run without a check: every index is in range, every op finds
// its inputs, every message its other end, and the lists drain.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/plan_int.h"

#include <string.h>

// One boundary tensor, by its consumer (stage, item).
struct passage {
    uint32_t from, to; // as its SEND says
    uint32_t by, at;   // as its RECV says: from whom, and in whose list
};

struct check {
    const struct plan *plan;
    struct bg_error *err;
    uint32_t w;                            // the list that is looked at
    size_t op;                             // and the op in it
    bool *seated;                          // (stages): w sits there
    uint32_t *leaves;                      // (stages): weight gradients of w that are still to come
    uint32_t *reduced;                     // (stages): chunks whose reduction was there
    uint32_t *f_at, *b_at, *w_at;          // (stages, items): whose list computes it
    uint32_t slices;                       // that ops name
    uint32_t *f_done, *b_done;             // (stages, items): slices so far
    struct passage *activation, *gradient; // (stages, items, slices)
};

// ---- The records ----
static bool power_of_two(uint64_t n)
{
    return n && !(n & (n - 1));
}

static bool is_node(struct plan_item item, uint32_t micro_batches)
{
    uint64_t size = item.end - item.first;
    while (item.end == micro_batches && !power_of_two(size)) // cut at M: the smallest node that covers it
        size += size & -size;
    return power_of_two(size) && item.first % size == 0;
}

static bg_status check_records(const struct plan *plan, struct bg_error *err)
{
    uint32_t at = 0;
    if (plan->workers == 0 || plan->workers > PLAN_WORKERS_MAX || plan->stage_count == 0 ||
        plan->stage_count > PLAN_STAGES_MAX || plan->item_count == 0)
        return bg_fail(err, BG_INVALID, "plan of %u workers, %u stages, %u items: expected 1..%d, 1..%d, at least 1",
                       plan->workers, plan->stage_count, plan->item_count, PLAN_WORKERS_MAX, PLAN_STAGES_MAX);
    if (plan->slices > PLAN_SLICES_MAX)
        return bg_fail(err, BG_INVALID, "plan of %u slices: expected at most %d", plan->slices, PLAN_SLICES_MAX);
    for (uint32_t s = 0; s < plan->stage_count; at = plan->stages[s++].unit_end)
        if (plan->stages[s].unit_first != at || plan->stages[s].unit_end <= at)
            return bg_fail(err, BG_INVALID, "plan: stage %u holds units %u..%u: expected them to begin at %u", s,
                           plan->stages[s].unit_first, plan->stages[s].unit_end, at);
    if (at != plan->units)
        return bg_fail(err, BG_INVALID, "plan: the stages end at unit %u of %u", at, plan->units);
    at = 0;
    for (uint32_t i = 0; i < plan->item_count; at = plan->items[i++].end)
        if (plan->items[i].first != at || plan->items[i].end <= at || !is_node(plan->items[i], plan->micro_batches))
            return bg_fail(
                err, BG_INVALID,
                "plan: item %u holds micro-batches %u..%u: expected a node of the tree over %u that begins at %u", i,
                plan->items[i].first, plan->items[i].end, plan->micro_batches, at);
    if (at != plan->micro_batches)
        return bg_fail(err, BG_INVALID, "plan: the items end at micro-batch %u of %u", at, plan->micro_batches);
    for (uint32_t i = 0; i < plan->follow_count; i++) {
        const struct plan_follow *f = &plan->follows[i], *last = i ? f - 1 : NULL;
        bool after =
            !last || last->worker < f->worker || (last->worker == f->worker && last->unit_end <= f->unit_first);
        if (f->worker >= plan->workers || f->unit_first >= f->unit_end || f->unit_end > plan->units || !after)
            return bg_fail(err, BG_INVALID, "plan: follow %u of units %u..%u is out of range or order", f->worker,
                           f->unit_first, f->unit_end);
    }
    return BG_OK;
}

static bg_status check_seats(struct check *c)
{
    const struct plan *plan = c->plan;
    for (uint32_t i = 0; i < plan->seat_count; i++) {
        const struct plan_seat *seat = &plan->seats[i], *last = i ? seat - 1 : NULL;
        bool next = last && last->stage == seat->stage ? seat->replica == last->replica + 1
                                                       : seat->replica == 0 && (!last || last->stage < seat->stage);
        if (seat->worker >= plan->workers || seat->stage >= plan->stage_count || !next)
            return bg_fail(c->err, BG_INVALID,
                           "plan: seat of worker %u at stage %u, replica %u is out of range or order", seat->worker,
                           seat->stage, seat->replica);
    }
    return BG_OK;
}

static bg_status check_sums(const struct check *c)
{
    const struct plan *plan = c->plan;
    for (uint32_t s = 0; plan->sums && s < plan->stage_count; s++) {
        uint32_t replicas = 0;
        for (uint32_t i = 0; i < plan->seat_count; i++)
            replicas += plan->seats[i].stage == s;
        if (plan->sums[s].chunks > PLAN_CHUNKS_MAX)
            return bg_fail(c->err, BG_INVALID, "plan: the sums of stage %u go in %u chunks: expected at most %d", s,
                           plan->sums[s].chunks, PLAN_CHUNKS_MAX);
        if (plan->sums[s].owner > replicas)
            return bg_fail(c->err, BG_INVALID, "plan: replica %u folds the sums of stage %u, which has %u replicas",
                           plan->sums[s].owner - 1, s, replicas);
    }
    return BG_OK;
}

static bg_status set_seated(struct check *c)
{
    const struct plan *plan = c->plan;
    memset(c->seated, 0, plan->stage_count * sizeof *c->seated);
    memset(c->reduced, 0, plan->stage_count * sizeof *c->reduced);
    memset(c->leaves, 0, plan->stage_count * sizeof *c->leaves);
    for (uint32_t i = 0; i < plan->seat_count; i++) {
        if (plan->seats[i].worker != c->w)
            continue;
        if (c->seated[plan->seats[i].stage])
            return bg_fail(c->err, BG_INVALID, "plan: worker %u sits twice at stage %u", c->w, plan->seats[i].stage);
        c->seated[plan->seats[i].stage] = true;
    }
    return BG_OK;
}

// ---- The lists ----
static bg_status fault(const struct check *c, const char *what)
{
    char text[PLAN_OP_TEXT];
    plan_op_name(c->plan, &c->plan->lists[c->w].ops[c->op], text);
    return bg_fail(c->err, BG_INVALID, "plan: worker %u, op %zu (%s): %s", c->w, c->op, text, what);
}

static bg_status check_shape(const struct check *c, const struct plan_op *op)
{
    static const uint8_t flags[] = {[PLAN_F] = PLAN_RECOMPUTE | PLAN_OFFLOAD,
                                    [PLAN_B] = PLAN_FUSED | PLAN_RECOMPUTE | PLAN_OFFLOAD | PLAN_LAST,
                                    [PLAN_W] = PLAN_LAST,
                                    [PLAN_SEND] = PLAN_GRAD,
                                    [PLAN_RECV] = PLAN_GRAD,
                                    [PLAN_COLL] = PLAN_REDUCE | PLAN_UNSHARD | PLAN_RESHARD,
                                    [PLAN_STEP] = 0,
                                    [PLAN_MOVE] = PLAN_OUT};
    const struct plan *plan = c->plan;
    const bool sliced = op->kind == PLAN_F || op->kind == PLAN_B || op->kind == PLAN_SEND || op->kind == PLAN_RECV;
    const bool chunked = op->kind == PLAN_COLL && op->flags == PLAN_REDUCE && op->stage < plan->stage_count;
    if (op->slice >= (sliced ? c->slices : chunked ? plan_sum_chunks(plan, op->stage) : 1))
        return fault(c, chunked ? "no such chunk" : "no such slice");
    if (op->kind == PLAN_B && op->slice > 0 && (op->flags & PLAN_FUSED))
        return fault(c, "the weight gradient comes with slice 0, the last to run");
    if (op->kind <= PLAN_B && op->flags & PLAN_RECOMPUTE && op->flags & PLAN_OFFLOAD)
        return fault(c, "what is computed again does not wait on disk");
    if (op->kind >= PLAN_EMPTY || (op->flags & ~flags[op->kind]) ||
        (op->kind == PLAN_COLL && !power_of_two(op->flags)) || ((op->flags & PLAN_LAST) && !plan_op_adds(op)))
        return fault(c, "not an instruction of a lowered list");
    if (op->kind == PLAN_STEP)
        return c->op + 1 == plan->lists[c->w].count ? BG_OK : fault(c, "STEP must be the last op");
    if (op->kind == PLAN_MOVE)
        return op->item < plan->units && op->peer < plan->workers && op->peer != c->w
                   ? BG_OK
                   : fault(c, "no such unit or peer");
    if (op->stage >= plan->stage_count || (op->kind != PLAN_COLL && op->item >= plan->item_count))
        return fault(c, "no such stage or item");
    if (op->kind == PLAN_SEND || op->kind == PLAN_RECV) {
        bool up = (op->kind == PLAN_SEND) == !(op->flags & PLAN_GRAD); // its other end is at the next stage
        if (op->peer >= plan->workers || op->peer == c->w ||
            (up ? op->stage + 1u == plan->stage_count : op->stage == 0))
            return fault(c, "no such peer, or no stage at its other end");
        return BG_OK;
    }
    return c->seated[op->stage] ? BG_OK : fault(c, "the worker has no seat at this stage");
}

// F, B or W: once, in order, with its inputs before it in this list. In the rest of a step what is missing is held.
// Slices of F ascend; those of B descend behind them.
static bg_status check_forward(const struct check *c, const struct plan_op *op, size_t cell)
{
    const uint32_t w = c->w, made_below = op->stage > 0 ? c->f_at[cell - c->plan->item_count] : PLAN_NOBODY;
    if (c->b_at[cell] == w || c->w_at[cell] == w)
        return fault(c, "forward after its backward");
    if (op->slice != c->f_done[cell])
        return fault(c, "slices of a forward run in ascending order");
    const bool here = c->activation[plan_slice_cell(c->plan, op->stage, op)].at == w ||
                      (made_below == w && c->f_done[cell - c->plan->item_count] > op->slice);
    if (op->stage > 0 && !c->plan->rest && !here)
        return fault(c, "its input activation is not there yet");
    return BG_OK;
}

static bg_status check_input_gradient(const struct check *c, const struct plan_op *op, size_t cell)
{
    const uint32_t w = c->w;
    const bool rest = c->plan->rest, ends = op->stage + 1u == c->plan->stage_count;
    const uint32_t made_above = ends ? PLAN_NOBODY : c->b_at[cell + c->plan->item_count];
    if (c->w_at[cell] == w || (!rest && (c->f_at[cell] != w || c->f_done[cell] != c->slices)))
        return fault(c, "input gradient before its forward or after its weight gradient");
    if (op->slice + c->b_done[cell] + 1u != c->slices)
        return fault(c, "slices of a backward run in descending order");
    const bool here = c->gradient[plan_slice_cell(c->plan, op->stage, op)].at == w ||
                      (made_above == w && c->b_done[cell + c->plan->item_count] + op->slice >= c->slices);
    if (!ends && !rest && !here)
        return fault(c, "the gradient of its output is not there yet");
    return BG_OK;
}

static bg_status check_compute(const struct check *c, const struct plan_op *op)
{
    const uint32_t w = c->w;
    const size_t cell = plan_cell(c->plan, op->stage, op->item);
    const bool rest = c->plan->rest;
    uint32_t *at = op->kind == PLAN_F ? c->f_at : op->kind == PLAN_B ? c->b_at : c->w_at;
    uint32_t *done = op->kind == PLAN_F ? c->f_done : op->kind == PLAN_B ? c->b_done : NULL;
    const bool more = done && at[cell] == w && done[cell] < c->slices; // of a list that has begun it
    if ((at[cell] != PLAN_NOBODY && !more) || (plan_op_adds(op) && c->w_at[cell] != PLAN_NOBODY))
        return fault(c, "computed twice");
    if (plan_op_adds(op) ? c->plan->route[cell] != w : !rest && c->plan->route[cell] != w)
        return fault(c, "the route gives it to another worker");
    bg_status status = BG_OK;
    if (op->kind == PLAN_F)
        status = check_forward(c, op, cell);
    else if (op->kind == PLAN_B)
        status = check_input_gradient(c, op, cell);
    else if (!rest && (c->b_at[cell] != w || c->b_done[cell] != c->slices))
        status = fault(c, "weight gradient before its input gradient");
    if (status)
        return status;
    at[cell] = w;
    if (done)
        done[cell]++;
    if (plan_op_adds(op))
        c->w_at[cell] = w;
    return BG_OK;
}

// Has this worker's list run slice `op->slice` of the item's F, or of its B?
static bool ran(const struct check *c, const struct plan_op *op, bool grad)
{
    const size_t cell = plan_cell(c->plan, op->stage, op->item);
    if ((grad ? c->b_at : c->f_at)[cell] != c->w)
        return false;
    return grad ? c->b_done[cell] + op->slice >= c->slices : c->f_done[cell] > op->slice;
}

static bg_status check_message(const struct check *c, const struct plan_op *op)
{
    const bool grad = op->flags & PLAN_GRAD;
    struct passage *passages = grad ? c->gradient : c->activation;
    if (op->kind == PLAN_SEND) {
        if (!c->plan->rest && !ran(c, op, grad))
            return fault(c, "sent before it is made");
        struct passage *passage = &passages[plan_slice_cell(c->plan, grad ? op->stage - 1u : op->stage + 1u, op)];
        if (passage->from != PLAN_NOBODY)
            return fault(c, "sent twice");
        passage->from = c->w;
        passage->to = op->peer;
        return BG_OK;
    }
    struct passage *passage = &passages[plan_slice_cell(c->plan, op->stage, op)];
    if (passage->at != PLAN_NOBODY)
        return fault(c, "received twice");
    if (ran(c, op, grad))
        return fault(c, "received after its use");
    passage->by = op->peer;
    passage->at = c->w;
    return BG_OK;
}

// No gradient of a stage but the last may carry PLAN_LAST; behind it come the reductions, each chunk once, ascending.
static bg_status check_ends(struct check *c, const struct plan_op *op)
{
    if (plan_op_adds(op)) {
        if (c->reduced[op->stage])
            return fault(c, "weight gradient after the reduction of its stage");
        if (--c->leaves[op->stage] > 0 && (op->flags & PLAN_LAST))
            return fault(c, "only the stage's last weight gradient may be flagged as the last");
    } else if (op->kind == PLAN_COLL && (op->flags & PLAN_REDUCE)) {
        if (c->leaves[op->stage])
            return fault(c, "the reduction must come after all weight gradients of its stage");
        if (c->reduced[op->stage] != op->slice)
            return fault(c, "each chunk must be reduced once, in ascending order");
        c->reduced[op->stage]++;
    }
    return BG_OK;
}

static bg_status check_list(struct check *c)
{
    const struct plan_list *list = &c->plan->lists[c->w];
    bg_status status = set_seated(c);
    for (c->op = 0; c->op < list->count && !status; c->op++) {
        status = check_shape(c, &list->ops[c->op]);
        if (!status && plan_op_adds(&list->ops[c->op]))
            c->leaves[list->ops[c->op].stage]++;
    }
    for (c->op = 0; c->op < list->count && !status; c->op++) {
        const struct plan_op *op = &list->ops[c->op];
        if (op->kind <= PLAN_W)
            status = check_compute(c, op);
        else if (op->kind == PLAN_SEND || op->kind == PLAN_RECV)
            status = check_message(c, op);
        if (!status)
            status = check_ends(c, op);
    }
    for (uint32_t s = 0; s < c->plan->stage_count && !status; s++)
        if (c->seated[s] && c->reduced[s] < plan_sum_chunks(c->plan, s))
            status = bg_fail(c->err, BG_INVALID, "plan: worker %u has %u of %u %uCOLL.reduce though it sits there",
                             c->w, c->reduced[s], plan_sum_chunks(c->plan, s), s);
    return status;
}

// ---- What shows only when all lists are known ----
static bg_status check_passages(const struct check *c, bool grad)
{
    const struct passage *passages = grad ? c->gradient : c->activation;
    for (size_t k = 0; k < plan_slice_cells(c->plan); k++) {
        const size_t cell = k / c->slices;
        const struct passage *p = &passages[k];
        uint32_t user = (grad ? c->b_at : c->f_at)[cell];
        if (p->from == p->by && p->to == p->at && (p->at == PLAN_NOBODY || p->at == user))
            continue;
        const struct plan_op needs = {.kind = grad ? PLAN_B : PLAN_F,
                                      .stage = (uint16_t)(cell / c->plan->item_count),
                                      .item = (uint32_t)(cell % c->plan->item_count),
                                      .slice = (uint16_t)(k % c->slices)};
        char text[PLAN_OP_TEXT];
        plan_op_name(c->plan, &needs, text);
        return bg_fail(c->err, BG_INVALID, "plan: the %s that %s needs is %s", grad ? "gradient" : "activation", text,
                       p->at == PLAN_NOBODY     ? "sent, but nobody receives it"
                       : p->from == PLAN_NOBODY ? "awaited, but nobody sends it"
                       : p->at != user          ? "received by a worker that does not compute it"
                                                : "sent to another worker than the one that awaits it, or by another");
    }
    return BG_OK;
}

static bg_status check_complete(const struct check *c)
{
    const struct plan *plan = c->plan;
    for (size_t cell = 0; cell < plan_cells(plan); cell++) {
        uint32_t route = plan->route[cell], s = (uint32_t)(cell / plan->item_count);
        if (route != PLAN_NOBODY && route >= plan->workers)
            return bg_fail(c->err, BG_INVALID, "plan: stage %u, item %zu is routed to worker %u of %u", s,
                           cell % plan->item_count, route, plan->workers);
        if (!plan->rest && (route == PLAN_NOBODY || c->f_at[cell] != route || c->b_at[cell] != route ||
                            c->w_at[cell] != route || c->f_done[cell] != c->slices || c->b_done[cell] != c->slices))
            return bg_fail(c->err, BG_INVALID, "plan: stage %u, item %zu is not computed to its end", s,
                           cell % plan->item_count);
    }
    return BG_OK;
}

static bg_status check_moves(struct check *c)
{
    for (c->w = 0; c->w < c->plan->workers; c->w++)
        for (c->op = 0; c->op < c->plan->lists[c->w].count; c->op++) {
            const struct plan_op *op = &c->plan->lists[c->w].ops[c->op];
            if (op->kind != PLAN_MOVE)
                continue;
            const struct plan_list *peer = &c->plan->lists[op->peer];
            size_t ends = 0;
            for (size_t k = 0; k < peer->count; k++)
                ends += peer->ops[k].kind == PLAN_MOVE && peer->ops[k].flags == (op->flags ^ PLAN_OUT) &&
                        peer->ops[k].item == op->item && peer->ops[k].peer == c->w;
            if (ends != 1)
                return fault(c, "has no single other end at its peer");
        }
    return BG_OK;
}

static bg_status check_all(struct check *c)
{
    bg_status status = check_seats(c);
    if (!status)
        status = check_sums(c);
    for (c->w = 0; c->w < c->plan->workers && !status; c->w++)
        status = check_list(c);
    if (!status)
        status = check_passages(c, false);
    if (!status)
        status = check_passages(c, true);
    if (!status)
        status = check_complete(c);
    if (!status)
        status = check_moves(c);
    uint64_t turns = 0;
    if (!status && (status = plan_simulate_turns(c->plan, c->err, &turns)))
        bg_fail_prefix(c->err, "plan");
    return status;
}

static bool has_too_few(const struct plan *plan)
{
    size_t ops = 0;
    for (uint32_t w = 0; w < plan->workers; w++)
        ops += plan->lists[w].count;
    return plan_op_slices(plan) > 1 && ops / plan_op_slices(plan) < plan_cells(plan);
}

bg_status plan_validate(const struct plan *plan, struct bg_error *err)
{
    bg_status status = check_records(plan, err);
    if (status)
        return status;
    if (has_too_few(plan)) // before memory is taken for more than the lists can fill
        return bg_fail(err, BG_INVALID, "plan: fewer ops than %zu stages x items need in %u slices", plan_cells(plan),
                       plan->slices);
    const size_t cells = plan_slice_cells(plan);
    struct check c = {.plan = plan,
                      .err = err,
                      .slices = plan_op_slices(plan),
                      .f_done = bg_alloc_array(plan_cells(plan), sizeof *c.f_done),
                      .b_done = bg_alloc_array(plan_cells(plan), sizeof *c.b_done),
                      .seated = bg_alloc_array(plan->stage_count, sizeof *c.seated),
                      .leaves = bg_alloc_array(plan->stage_count, sizeof *c.leaves),
                      .reduced = bg_alloc_array(plan->stage_count, sizeof *c.reduced),
                      .f_at = plan_map_create(plan),
                      .b_at = plan_map_create(plan),
                      .w_at = plan_map_create(plan),
                      .activation = bg_alloc_array(cells, sizeof *c.activation),
                      .gradient = bg_alloc_array(cells, sizeof *c.gradient)};
    memset(c.activation, 0xff, cells * sizeof *c.activation); // PLAN_NOBODY everywhere
    memset(c.gradient, 0xff, cells * sizeof *c.gradient);
    status = check_all(&c);
    void *parts[] = {c.seated, c.leaves, c.reduced, c.f_at,       c.b_at,
                     c.w_at,   c.f_done, c.b_done,  c.activation, c.gradient};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        bg_free(parts[i]);
    return status;
}
