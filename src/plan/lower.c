// From compute ops in order to instruction lists: SEND and RECV, merged backwards, UNSHARD and RESHARD; and the
// lock-step run that tells whether lists drain and how many turns they take.
//
// The lowering is published behaviour (PyTorch's pipelining runtime): the same tables give the same lists, op for op.
#include "plan/plan.h"

#include "base/mem.h"
#include "base/str.h"
#include "plan/plan_int.h"

#include <string.h>

struct lowering {
    struct plan *plan;
    uint32_t *f_at, *b_at; // (stages, items, slices): the worker whose list makes it
    uint8_t *here;         // (stages, items, slices): PLAN_HELD_X, PLAN_HELD_DY once it is at its consumer
    struct plan_list *out; // (workers)
    size_t *head;          // (workers)
};

static bg_status find_makers(struct lowering *l, const struct plan_present *present, struct bg_error *err)
{
    const struct plan *plan = l->plan;
    const uint32_t slices = plan_op_slices(plan);
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t i = 0; i < plan->lists[w].count; i++) {
            const struct plan_op *op = &plan->lists[w].ops[i];
            if (op->kind != PLAN_F && op->kind != PLAN_B)
                continue;
            char text[PLAN_OP_TEXT];
            plan_op_name(plan, op, text);
            if (op->slice >= slices)
                return bg_fail(err, BG_INVALID, "%s is a slice of %u", text, slices);
            uint32_t *at = &(op->kind == PLAN_F ? l->f_at : l->b_at)[plan_slice_cell(plan, op->stage, op)];
            if (*at != PLAN_NOBODY)
                return bg_fail(err, BG_INVALID, "%s is computed twice, by workers %u and %u", text, *at, w);
            *at = w;
        }
    for (size_t c = 0; present && c < plan_slice_cells(plan); c++) {
        const size_t cell = c / slices;
        if (present->activation && l->f_at[c] != PLAN_NOBODY && present->activation[cell] == l->f_at[c])
            l->here[c] |= PLAN_HELD_X;
        if (present->gradient && l->b_at[c] != PLAN_NOBODY && present->gradient[cell] == l->b_at[c])
            l->here[c] |= PLAN_HELD_DY;
    }
    return BG_OK;
}

static bool ready(const struct lowering *l, const struct plan_op *op)
{
    if (op->kind == PLAN_F)
        return op->stage == 0 || (l->here[plan_slice_cell(l->plan, op->stage, op)] & PLAN_HELD_X);
    if (op->kind == PLAN_B)
        return op->stage + 1u == l->plan->stage_count ||
               (l->here[plan_slice_cell(l->plan, op->stage, op)] & PLAN_HELD_DY);
    return true;
}

// What `op`, just emitted on worker w, made goes to its consumer.
static void pass_on(struct lowering *l, uint32_t w, const struct plan_op *op)
{
    bool forward = op->kind == PLAN_F;
    if ((!forward && op->kind != PLAN_B) || (forward ? op->stage + 1u == l->plan->stage_count : op->stage == 0))
        return;
    uint16_t to_stage = (uint16_t)(forward ? op->stage + 1 : op->stage - 1);
    size_t cell = plan_slice_cell(l->plan, to_stage, op);
    uint32_t consumer = (forward ? l->f_at : l->b_at)[cell];
    uint8_t bit = forward ? PLAN_HELD_X : PLAN_HELD_DY, flag = forward ? 0 : PLAN_GRAD;
    if (consumer == PLAN_NOBODY || (l->here[cell] & bit))
        return;
    l->here[cell] |= bit;
    if (consumer == w)
        return;
    plan_list_add(&l->out[w], (struct plan_op){PLAN_SEND, flag, op->stage, op->item, consumer, op->slice});
    plan_list_add(&l->out[consumer], (struct plan_op){PLAN_RECV, flag, to_stage, op->item, w, op->slice});
}

// The head op of every list that did not run to its end.
static bg_status stuck(const struct plan *plan, const size_t *head, struct bg_error *err)
{
    struct bg_str text = {0};
    for (uint32_t w = 0; w < plan->workers; w++) {
        if (head[w] >= plan->lists[w].count)
            continue;
        char op[PLAN_OP_TEXT];
        plan_op_name(plan, &plan->lists[w].ops[head[w]], op);
        bg_str_addf(&text, "%sworker %u at %s", text.size ? ", " : "", w, op);
    }
    bg_status status = bg_fail(err, BG_INVALID, "the schedule does not drain: stuck are %s", bg_str_text(&text));
    bg_str_fini(&text);
    return status;
}

static bg_status go_round(struct lowering *l, struct bg_error *err)
{
    const struct plan *plan = l->plan;
    for (bool left = true, progress = true; left;) {
        if (!progress)
            return stuck(plan, l->head, err);
        left = progress = false;
        for (uint32_t w = 0; w < plan->workers; w++) {
            if (l->head[w] == plan->lists[w].count)
                continue;
            left = true;
            const struct plan_op *op = &plan->lists[w].ops[l->head[w]];
            if (!ready(l, op))
                continue;
            progress = true;
            l->head[w]++;
            if (op->kind == PLAN_EMPTY)
                continue;
            plan_list_add(&l->out[w], *op);
            pass_on(l, w, op);
        }
    }
    return BG_OK;
}

bg_status plan_lower(struct plan *plan, const struct plan_present *present, struct bg_error *err)
{
    struct lowering l = {.plan = plan,
                         .f_at = plan_slice_map_create(plan),
                         .b_at = plan_slice_map_create(plan),
                         .here = bg_alloc_array(plan_slice_cells(plan), 1),
                         .out = bg_alloc_array(plan->workers, sizeof *l.out),
                         .head = bg_alloc_array(plan->workers, sizeof *l.head)};
    bg_status status = find_makers(&l, present, err);
    if (!status)
        status = go_round(&l, err);
    for (uint32_t w = 0; w < plan->workers; w++) { // the lists take the place of the old ones, or go
        bg_free(status ? l.out[w].ops : plan->lists[w].ops);
        if (!status)
            plan->lists[w] = l.out[w];
    }
    bg_free(l.f_at);
    bg_free(l.b_at);
    bg_free(l.here);
    bg_free(l.out);
    bg_free(l.head);
    return status;
}

// (stages, items, slices), from (stages, items)
static uint32_t *map_of(const struct plan *plan, const uint32_t *from)
{
    uint32_t *map = plan_slice_map_create(plan);
    for (size_t c = 0; from && c < plan_slice_cells(plan); c++)
        map[c] = from[c / plan_op_slices(plan)];
    return map;
}

void plan_place_receives(struct plan *plan, const uint32_t *x_from, const uint32_t *dy_from)
{
    uint32_t *x = map_of(plan, x_from), *dy = map_of(plan, dy_from);
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t k = 0; k < plan->lists[w].count; k++) {
            const struct plan_op *op = &plan->lists[w].ops[k];
            if (op->kind == PLAN_RECV)
                (op->flags & PLAN_GRAD ? dy : x)[plan_slice_cell(plan, op->stage, op)] = op->peer;
        }
    for (uint32_t w = 0; w < plan->workers; w++) {
        struct plan_list *list = &plan->lists[w], out = {0};
        for (size_t k = 0; k < list->count; k++) {
            const struct plan_op *op = &list->ops[k];
            if (op->kind == PLAN_RECV)
                continue;
            if (op->kind == PLAN_F || op->kind == PLAN_B) {
                const uint32_t from = (op->kind == PLAN_F ? x : dy)[plan_slice_cell(plan, op->stage, op)];
                const uint8_t flags = op->kind == PLAN_F ? 0 : PLAN_GRAD;
                if (from != PLAN_NOBODY)
                    plan_list_add(&out, (struct plan_op){PLAN_RECV, flags, op->stage, op->item, from, op->slice});
            }
            plan_list_add(&out, *op);
        }
        bg_free(list->ops);
        *list = out;
    }
    bg_free(x);
    bg_free(dy);
}

// ---- The lock-step run ----
struct run {
    const struct plan *plan;
    uint8_t *sent; // (stages, items, slices): 1 = activation, 2 = gradient
    size_t *head;  // (workers)
    bool *ran;     // (workers), in this turn
};

static bool moved_out(const struct run *run, uint32_t to, const struct plan_op *in)
{
    const struct plan_list *from = &run->plan->lists[in->peer];
    for (size_t i = 0; i < run->head[in->peer]; i++)
        if (from->ops[i].kind == PLAN_MOVE && (from->ops[i].flags & PLAN_OUT) && from->ops[i].item == in->item &&
            from->ops[i].peer == to)
            return true;
    return false;
}

// Runs the head op of worker w if what it waits for is there.
static bool advance(struct run *run, uint32_t w)
{
    const struct plan_list *list = &run->plan->lists[w];
    if (run->head[w] == list->count)
        return false;
    const struct plan_op *op = &list->ops[run->head[w]];
    bool grad = op->flags & PLAN_GRAD;
    uint8_t bit = grad ? 2 : 1;
    if (op->kind == PLAN_RECV) {
        size_t cell = plan_slice_cell(run->plan, grad ? op->stage + 1u : op->stage - 1u, op);
        if (!(run->sent[cell] & bit))
            return false;
    } else if (op->kind == PLAN_MOVE && !(op->flags & PLAN_OUT) && !moved_out(run, w, op)) {
        return false;
    } else if (op->kind == PLAN_SEND) {
        run->sent[plan_slice_cell(run->plan, op->stage, op)] |= bit;
    }
    run->head[w]++;
    return true;
}

bg_status plan_simulate_turns(const struct plan *plan, struct bg_error *err, uint64_t *turns)
{
    struct run run = {.plan = plan,
                      .sent = bg_alloc_array(plan_slice_cells(plan), 1),
                      .head = bg_alloc_array(plan->workers, sizeof *run.head),
                      .ran = bg_alloc_array(plan->workers, sizeof *run.ran)};
    bg_status status = BG_OK;
    uint64_t turn = 0;
    for (;; turn++) {
        bool left = false, progress = false;
        for (uint32_t w = 0; w < plan->workers; w++) {
            left |= run.head[w] < plan->lists[w].count;
            run.ran[w] = advance(&run, w);
            progress |= run.ran[w];
        }
        if (!left)
            break;
        if (!progress) {
            status = stuck(plan, run.head, err);
            break;
        }
        for (uint32_t w = 0; w < plan->workers; w++) // what a later worker has just let go runs in this turn still
            if (!run.ran[w])
                advance(&run, w);
    }
    bg_free(run.sent);
    bg_free(run.head);
    bg_free(run.ran);
    if (!status)
        *turns = turn;
    return status;
}

// ---- Passes over one list ----
void plan_merge_bw(struct plan_list *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++) {
        struct plan_op op = list->ops[i], *last = kept ? &list->ops[kept - 1] : NULL;
        if (op.kind == PLAN_EMPTY)
            continue;
        if (op.kind == PLAN_W && last && last->kind == PLAN_B && !(last->flags & PLAN_FUSED) && last->slice == 0 &&
            last->stage == op.stage && last->item == op.item)
            last->flags |= op.flags | PLAN_FUSED;
        else
            list->ops[kept++] = op;
    }
    list->count = kept;
}

void plan_add_unshard(struct plan_list *list, uint32_t ahead)
{
    bool active[PLAN_STAGES_MAX] = {false};
    struct plan_list out = {0};
    for (size_t i = 0; i <= list->count; i++) {
        bool wanted[PLAN_STAGES_MAX] = {false};
        uint16_t next[PLAN_STAGES_MAX]; // the stages in use next, in the order of that use
        uint32_t count = 0;
        if (i < list->count && list->ops[i].kind > PLAN_W) {
            plan_list_add(&out, list->ops[i]);
            continue;
        }
        for (size_t k = i; k < list->count && count < ahead && count < PLAN_STAGES_MAX; k++) {
            uint16_t stage = list->ops[k].stage;
            if (list->ops[k].kind > PLAN_W || wanted[stage])
                continue;
            wanted[stage] = true;
            next[count++] = stage;
        }
        for (uint16_t s = 0; s < PLAN_STAGES_MAX; s++) {
            if (!active[s] || wanted[s])
                continue;
            active[s] = false;
            plan_list_add(&out, (struct plan_op){PLAN_COLL, PLAN_RESHARD, s, 0, 0, 0});
        }
        for (uint32_t k = 0; k < count; k++) {
            if (active[next[k]])
                continue;
            active[next[k]] = true;
            plan_list_add(&out, (struct plan_op){PLAN_COLL, PLAN_UNSHARD, next[k], 0, 0, 0});
        }
        if (i < list->count)
            plan_list_add(&out, list->ops[i]);
    }
    bg_free(list->ops);
    *list = out;
}
