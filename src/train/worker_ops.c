// The interpreter of a lowered list: one op at a time, each as soon as what it needs is here. An op that waits says on
// whom and on what.
#include "train/worker_int.h"

#include <stdio.h>
#include <string.h>

static size_t at(const struct worker *w, const struct plan_op *op)
{
    return (size_t)op->stage * w->plan->item_count + op->item;
}

static const struct plan_item *item_of(const struct worker *w, const struct plan_op *op)
{
    return &w->plan->items[op->item];
}

static bool has_head(const struct worker *w, uint32_t stage)
{
    return stage + 1 == w->plan->stage_count;
}

static bg_status tell_losses(struct worker *w, const struct plan_item *item, struct bg_error *err)
{
    uint8_t payload[16 + 8 * 512];
    bg_status status = BG_OK;
    for (uint32_t first = item->first; first < item->end && !status; first += 512) {
        uint32_t count = item->end - first < 512 ? item->end - first : 512;
        size_t bytes = message_loss_encode(first, count, w->losses + first, payload, sizeof payload);
        struct wire_frame frame = worker_head(w, WIRE_LOSS);
        status = worker_tell(w, &frame, payload, bytes, err);
    }
    return status;
}

static uint32_t slice_of(const struct worker *w, const struct plan_op *op)
{
    return plan_op_slices(w->plan) > 1 ? op->slice : EXECUTOR_WHOLE;
}

static bg_status run_forward(struct worker *w, const struct plan_op *op, struct bg_error *err, bool *ran)
{
    const float *x[PLAN_SLICES_MAX];
    const uint32_t slice = slice_of(w, op), done = slice == EXECUTOR_WHOLE ? w->slices : slice + 1;
    if (op->stage && !worker_inputs(w, op->stage, op->item, slice, x))
        return BG_OK;
    const struct plan_item *item = item_of(w, op);
    bg_status status = executor_forward(w->ex, w->local[op->stage], op->item, slice, op->stage ? x : NULL,
                                        w->losses + item->first, err);
    if (status)
        return status;
    uint16_t *made = &w->made[at(w, op)];
    *made = done > *made ? (uint16_t)done : *made;
    *ran = true;
    if (done < w->slices)
        return BG_OK;
    w->items[at(w, op)] |= PLAN_HELD_STASH | PLAN_HELD_Y;
    if (!has_head(w, op->stage))
        return BG_OK;
    memset(w->loss_known + item->first, 1, item->end - item->first);
    return tell_losses(w, item, err);
}

static void bucket_ready(void *arg, uint32_t bucket)
{
    struct worker *w = arg;
    if (!w->ready_status)
        w->ready_status = worker_post_bucket(w, bucket, WORKER_ALL_CHUNKS, w->ready_err);
}

static bg_status run_backward(struct worker *w, const struct plan_op *op, struct bg_error *err, bool *ran)
{
    bool weight_only = op->kind == PLAN_W;
    const float *x[PLAN_SLICES_MAX], *dy[PLAN_SLICES_MAX];
    const uint32_t slice = weight_only ? EXECUTOR_WHOLE : slice_of(w, op);
    if (!has_head(w, op->stage) && !worker_output_gradients(w, op->stage, op->item, slice, dy))
        return BG_OK;
    if (op->stage)
        worker_inputs(w, op->stage, op->item, EXECUTOR_WHOLE, x);
    struct executor_backward b = {
        .stage = w->local[op->stage],
        .item = op->item,
        .slice = slice,
        .part = weight_only              ? MODEL_BACKWARD_WEIGHT
                : op->flags & PLAN_FUSED ? MODEL_BACKWARD_BOTH
                                         : MODEL_BACKWARD_INPUT,
        .x = op->stage ? x : NULL,
        .dy = has_head(w, op->stage) ? NULL : dy,
        .last = op->flags & PLAN_LAST,
        .ready = bucket_ready,
        .arg = w,
    };
    w->ready_status = BG_OK;
    w->ready_err = err;
    bg_status status = executor_backward(w->ex, &b, err);
    if (status || w->ready_status)
        return status ? status : w->ready_status;
    uint8_t *held = &w->items[at(w, op)];
    if (!weight_only)
        w->made_back[at(w, op)] = (uint16_t)(slice == EXECUTOR_WHOLE ? w->slices : w->slices - slice);
    if (!weight_only && w->made_back[at(w, op)] == w->slices) // W can follow where the executor kept what it needs
        *held =
            (uint8_t)(executor_has_input_gradient(w->ex, b.stage, b.item) ? *held | PLAN_HELD_DX | PLAN_HELD_B
                                                                          : (*held & ~PLAN_HELD_STASH) | PLAN_HELD_DX);
    if (b.part & MODEL_BACKWARD_WEIGHT) {
        *held = (uint8_t)((*held & ~(PLAN_HELD_STASH | PLAN_HELD_B)) | PLAN_HELD_G);
        w->computed += item_of(w, op)->end - item_of(w, op)->first;
        w->leaves += item_of(w, op)->end - item_of(w, op)->first;
    }
    *ran = true;
    return BG_OK;
}

static bg_status run_send(struct worker *w, const struct plan_op *op, struct bg_error *err)
{
    bool gradient = op->flags & PLAN_GRAD;
    const uint32_t local = w->local[op->stage], slice = slice_of(w, op);
    const float *values = gradient ? executor_input_gradient(w->ex, local, op->item, slice)
                                   : executor_output(w->ex, local, op->item, slice);
    struct wire_frame frame = worker_head(w, gradient ? WIRE_GRADIENT : WIRE_ACTIVATION);
    frame.a = gradient ? op->stage - 1u : op->stage + 1u; // named by who needs it
    frame.b = op->item;
    frame.c = slice == EXECUTOR_WHOLE ? 0 : slice + 1;
    return worker_post(w, op->peer, &frame, values, executor_boundary_bytes(w->ex, op->item, slice), err);
}

static bool has_received(const struct worker *w, const struct plan_op *op)
{
    const float *values[PLAN_SLICES_MAX];
    return op->flags & PLAN_GRAD ? worker_output_gradients(w, op->stage, op->item, slice_of(w, op), values)
                                 : worker_inputs(w, op->stage, op->item, slice_of(w, op), values);
}

static bg_status run_collective(struct worker *w, const struct plan_op *op, struct bg_error *err)
{
    const struct plan_stage *stage = &w->plan->stages[op->stage];
    bg_status status = BG_OK;
    for (uint32_t b = 0; b < w->job->model->bucket_count && !status; b++) {
        uint32_t unit = w->job->model->buckets[b].unit;
        if (unit >= stage->unit_first && unit < stage->unit_end && model_bucket_dense(w->job->model, b))
            status = worker_post_bucket(w, b, op->slice, err);
    }
    return !status && stage->unit_first == 0 ? worker_post_bucket(w, EXECUTOR_SPARSE, op->slice, err) : status;
}

static bg_status run_move(struct worker *w, const struct plan_op *op, struct bg_error *err, bool *ran)
{
    if (op->flags & PLAN_OUT) {
        *ran = true;
        return worker_send_state(w, op->item, op->peer, err);
    }
    if (!worker_state_complete(w, op->item))
        return BG_OK;
    w->have[op->item] = 1;
    *ran = true;
    return BG_OK;
}

static uint64_t sum_of_unit(const struct worker *w, uint32_t unit)
{
    uint32_t buckets[2], count = worker_state_buckets(w, unit, buckets);
    uint64_t sum = 0;
    for (uint32_t b = 0; b < count; b++)
        for (uint32_t which = 0; which < 3; which++)
            for (uint32_t piece = 0; piece < executor_pieces(w->ex, buckets[b]); piece++) {
                size_t floats = 0;
                const float *values = executor_state_piece(w->ex, which, buckets[b], piece, &floats);
                sum = (sum << 1 | sum >> 63) ^ wire_check(values, floats * sizeof *values);
            }
    return sum;
}

// Now and then everybody shows that it holds the same state (the shadow is as good as those it follows).
static bg_status prove(struct worker *w, struct bg_error *err)
{
    uint32_t units = w->job->model->unit_count;
    if (w->version == 0 || w->version % w->o.prove_every || w->o.order_free)
        return BG_OK;
    for (uint32_t u = 0; u < units; u++)
        w->proof[u] = w->holds[u] ? sum_of_unit(w, u) : 0;
    size_t bytes = message_proof_encode(units, w->holds, w->proof, w->vote, w->vote_capacity);
    struct wire_frame frame = worker_head(w, WIRE_PROOF);
    return worker_tell(w, &frame, w->vote, bytes, err);
}

static bg_status vote(struct worker *w, struct bg_error *err)
{
    const struct model *model = w->job->model;
    bg_status proved = prove(w, err);
    if (proved)
        return proved;
    executor_squares(w->ex, w->squares);
    for (uint32_t p = 0; p < model->param_count; p++)
        w->vote_held[p] = executor_holds_param(w->ex, p);
    size_t bytes =
        message_vote_encode(model->param_count, w->vote_held, w->squares, w->computed, w->vote, w->vote_capacity);
    struct wire_frame frame = worker_head(w, WIRE_VOTE);
    worker_release_boundaries(w);
    env_point(w->env, "before-vote");
    bg_status status = worker_tell(w, &frame, w->vote, bytes, err);
    env_point(w->env, "after-vote");
    w->voted = true;
    return status;
}

static bg_status run_step(struct worker *w, struct bg_error *err, bool *ran)
{
    bool behind = w->o.order_free && w->committed && w->committed < w->version; // the controller takes one at a time
    if (w->voted || behind || executor_roots_missing(w->ex) > 0)
        return BG_OK;
    *ran = true;
    bg_status status = vote(w, err);
    if (status || !w->o.order_free)
        return status;
    struct message_commit now = {.step = w->version, .clip = 1};
    return worker_commit(w, &now, err);
}

// What it needs is here? Then runs it. STEP stays the current op until COMMIT comes.
static bg_status run(struct worker *w, const struct plan_op *op, struct bg_error *err, bool *ran)
{
    switch ((enum plan_op_kind)op->kind) {
    case PLAN_F:
        return run_forward(w, op, err, ran);
    case PLAN_B:
    case PLAN_W:
        return run_backward(w, op, err, ran);
    case PLAN_SEND:
        *ran = true;
        return run_send(w, op, err);
    case PLAN_RECV:
        *ran = has_received(w, op);
        return BG_OK;
    case PLAN_COLL:
        *ran = true;
        return op->flags & PLAN_REDUCE ? run_collective(w, op, err) : BG_OK;
    case PLAN_MOVE:
        return run_move(w, op, err, ran);
    case PLAN_STEP:
        return run_step(w, err, ran);
    case PLAN_EMPTY:
        *ran = true;
        return BG_OK;
    }
    return bg_fail(err, BG_INTERNAL, "a list with an unknown op");
}

bg_status worker_run_op(struct worker *w, struct bg_error *err, bool *ran)
{
    *ran = false;
    const struct plan_list *list = &w->plan->lists[w->self];
    if (w->op >= list->count)
        return BG_OK;
    const struct plan_op *op = &list->ops[w->op];
    bg_status status = run(w, op, err, ran);
    if (!status && *ran && op->kind != PLAN_STEP)
        w->op++;
    return status;
}

// ---- What an op waits for ----

static void describe_roots(const struct worker *w, char *text, size_t size)
{
    for (uint32_t index = 0; index <= w->job->model->bucket_count; index++) {
        uint32_t bucket = index == w->job->model->bucket_count ? EXECUTOR_SPARSE : index;
        for (uint32_t piece = 0; piece < executor_pieces(w->ex, bucket); piece++) {
            if (!executor_needs(w->job->model, w->holds, bucket) || executor_root_held(w->ex, bucket, piece))
                continue;
            uint32_t owner = worker_bucket_owner(w, bucket, piece);
            const char *what = owner == w->self ? "partial sums of" : "the root of";
            snprintf(text, size, "STEP: waits for %s bucket %u piece %u from member %u (%u roots missing)", what,
                     bucket, piece, owner == w->self || owner >= w->peer_count ? w->member : w->peers[owner].member,
                     executor_roots_missing(w->ex));
            return;
        }
    }
    snprintf(text, size, w->voted ? "STEP: voted, waits for the controller's COMMIT" : "STEP: ready to vote");
}

void worker_describe_op(const struct worker *w, char *text, size_t size)
{
    static const char *const names[] = {"F", "B", "W", "SEND", "RECV", "COLL", "STEP", "MOVE", "-"};
    const struct plan_list *list = &w->plan->lists[w->self];
    if (w->op >= list->count) {
        snprintf(text, size, "the list is done");
        return;
    }
    const struct plan_op *op = &list->ops[w->op];
    char slice[24] = "";
    if (plan_op_slices(w->plan) > 1)
        snprintf(slice, sizeof slice, " slice %u", op->slice);
    if (op->kind == PLAN_STEP)
        describe_roots(w, text, size);
    else if (op->kind == PLAN_MOVE)
        snprintf(text, size, "op %zu of %zu: MOVE: waits for the state of unit %u from member %u", w->op, list->count,
                 op->item, op->peer < w->peer_count ? w->peers[op->peer].member : 0);
    else
        snprintf(text, size, "op %zu of %zu: %s stage %u item %u%s%s", w->op, list->count, names[op->kind], op->stage,
                 op->item, slice,
                 op->kind != PLAN_RECV          ? ""
                 : (op->flags & PLAN_GRAD) != 0 ? ": waits for the gradient"
                                                : ": waits for the activation");
    if (op->kind == PLAN_RECV && op->peer < w->peer_count) {
        size_t used = strlen(text);
        snprintf(text + used, size - used, " from member %u", w->peers[op->peer].member);
    }
}
