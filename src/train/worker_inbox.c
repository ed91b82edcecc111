// Values that arrive from other workers: boundary tensors of the open step, pieces of state on the move. A value stays
// in the sender's memory and is read there until the step ends. Frames of an older generation or step are refused;
// those of the next step, or of a generation whose plan is still on its way, wait.
#include "train/worker_int.h"

#include "base/mem.h"

#include <string.h>

static size_t at(const struct worker *w, uint32_t stage, uint32_t item)
{
    return (size_t)stage * w->plan->item_count + item;
}

// A slice of a tensor that came, or NULL.
static const float *arrived(const struct worker *w, const struct worker_value *values, uint32_t item, uint32_t slice)
{
    if (w->slots > 1 && values[1 + slice].here)
        return values[1 + slice].event.payload;
    if (values[0].here)
        return (const float *)(const void *)((const uint8_t *)values[0].event.payload +
                                             executor_slice_offset(w->ex, item, slice));
    return NULL;
}

static bool enough(const struct worker *w, uint32_t slice, const float *const *values)
{
    for (uint32_t k = 0; k < w->slices; k++)
        if ((slice == k || slice == EXECUTOR_WHOLE) && !values[k])
            return false;
    return true;
}

bool worker_inputs(const struct worker *w, uint32_t stage, uint32_t item, uint32_t slice,
                   const float *values[PLAN_SLICES_MAX])
{
    const uint32_t below = stage > 0 ? w->local[stage - 1] : UINT32_MAX;
    for (uint32_t k = 0; k < w->slices; k++) {
        values[k] = arrived(w, &w->activations[at(w, stage, item) * w->slots], item, k);
        if (!values[k] && below != UINT32_MAX && w->made[at(w, stage - 1, item)] > k)
            values[k] = executor_output(w->ex, below, item, k);
    }
    return enough(w, slice, values);
}

bool worker_output_gradients(const struct worker *w, uint32_t stage, uint32_t item, uint32_t slice,
                             const float *values[PLAN_SLICES_MAX])
{
    const uint32_t above = stage + 1 < w->plan->stage_count ? w->local[stage + 1] : UINT32_MAX;
    for (uint32_t k = 0; k < w->slices; k++) {
        values[k] = arrived(w, &w->gradients[at(w, stage, item) * w->slots], item, k);
        if (!values[k] && above != UINT32_MAX && w->made_back[at(w, stage + 1, item)] + k >= w->slices)
            values[k] = executor_input_gradient(w->ex, above, item, k);
    }
    return enough(w, slice, values);
}

static void refuse(struct worker *w, struct comm_event *event)
{
    w->frames_refused++;
    w->comm->counts.frames_refused++;
    comm_release(w->comm, event);
}

static bg_status bad_frame(struct worker *w, struct comm_event *event, struct bg_error *err)
{
    char text[160];
    wire_frame_describe(&event->frame, text, sizeof text);
    bg_status status = worker_tell_trouble(w, MESSAGE_BAD_FRAME, event->peer, BG_CORRUPT, err,
                                           "%s: its bytes do not match its check: damaged on the way", text);
    refuse(w, event);
    return status;
}

static bg_status take_boundary(struct worker *w, struct comm_event *event, struct bg_error *err)
{
    const struct wire_frame *f = &event->frame;
    bool gradient = f->kind == WIRE_GRADIENT;
    if (f->a >= w->plan->stage_count || f->b >= w->plan->item_count || w->local[f->a] == UINT32_MAX ||
        f->c >= w->slots || f->bytes != executor_boundary_bytes(w->ex, f->b, f->c ? f->c - 1 : EXECUTOR_WHOLE)) {
        refuse(w, event);
        return BG_OK;
    }
    struct worker_value *values = &(gradient ? w->gradients : w->activations)[at(w, f->a, f->b) * w->slots];
    struct worker_value *value = &values[f->c];
    if (value->here) {
        bool same = value->event.frame.check == f->check;
        w->duplicates++;
        char text[160];
        wire_frame_describe(f, text, sizeof text);
        comm_release(w->comm, event);
        return same ? BG_OK
                    : bg_fail(err, BG_CORRUPT,
                              "%s differs from the same value that is here already: one of the two was computed "
                              "wrongly (silent corruption)",
                              text);
    }
    *value = (struct worker_value){true, *event};
    bool all = true;
    for (uint32_t k = 0; k < w->slices; k++)
        all &= arrived(w, values, f->b, k) != NULL;
    if (all)
        w->items[at(w, f->a, f->b)] |= gradient ? PLAN_HELD_DY : PLAN_HELD_X;
    return BG_OK;
}

void worker_release_values(struct worker *w, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++)
        w->items[i] &= (uint8_t) ~(PLAN_HELD_X | PLAN_HELD_DY);
    for (size_t i = first * w->slots; i < (first + count) * w->slots; i++) {
        if (w->activations[i].here)
            comm_release(w->comm, &w->activations[i].event);
        if (w->gradients[i].here)
            comm_release(w->comm, &w->gradients[i].event);
        w->activations[i].here = w->gradients[i].here = false;
    }
}

void worker_release_boundaries(struct worker *w)
{
    worker_release_values(w, 0, w->plan ? (size_t)w->plan->stage_count * w->plan->item_count : 0);
}

// ---- State on the move ----

uint32_t worker_state_buckets(const struct worker *w, uint32_t unit, uint32_t buckets[2])
{
    const struct model *model = w->job->model;
    uint32_t count = 0;
    buckets[count++] = 1 + unit;
    if (unit == 0 || (model->config.tie && unit == model->unit_count - 1))
        buckets[count++] = 0;
    return count;
}

static uint8_t *state_mark(const struct worker *w, uint32_t which, uint32_t bucket, uint32_t piece)
{
    uint32_t total = w->piece_first[w->job->model->bucket_count];
    return &w->state_here[(size_t)which * total + w->piece_first[bucket] + piece];
}

bool worker_state_complete(const struct worker *w, uint32_t unit)
{
    uint32_t buckets[2], count = worker_state_buckets(w, unit, buckets);
    for (uint32_t b = 0; b < count; b++)
        for (uint32_t which = 0; which < 3; which++)
            for (uint32_t piece = 0; piece < w->piece_first[buckets[b] + 1] - w->piece_first[buckets[b]]; piece++)
                if (!*state_mark(w, which, buckets[b], piece))
                    return false;
    return true;
}

bg_status worker_send_state(struct worker *w, uint32_t unit, uint32_t peer, struct bg_error *err)
{
    uint32_t buckets[2], count = worker_state_buckets(w, unit, buckets);
    bg_status status = BG_OK;
    for (uint32_t b = 0; b < count; b++) {
        for (uint32_t piece = 0; piece < w->piece_first[buckets[b] + 1] - w->piece_first[buckets[b]]; piece++) {
            for (uint32_t which = 0; which < 3 && !status; which++) {
                struct wire_frame frame = worker_head(w, WIRE_STATE);
                frame.a = buckets[b];
                frame.b = piece;
                frame.c = which;
                size_t floats = 0;
                const float *values = executor_state_piece(w->ex, which, buckets[b], piece, &floats);
                status = worker_post(w, peer, &frame, values, floats * sizeof *values, err);
            }
        }
    }
    return status;
}

static bg_status take_state(struct worker *w, struct comm_event *event)
{
    const struct wire_frame *f = &event->frame;
    uint32_t buckets = w->job->model->bucket_count;
    if (f->c > 2 || f->a >= buckets || f->b >= w->piece_first[f->a + 1] - w->piece_first[f->a]) {
        refuse(w, event);
        return BG_OK;
    }
    size_t floats = 0;
    float *to = executor_state_piece(w->ex, f->c, f->a, f->b, &floats);
    uint8_t *mark = state_mark(w, f->c, f->a, f->b);
    if (f->bytes != floats * sizeof *to) {
        refuse(w, event);
        return BG_OK;
    }
    if (!*mark) // the token table may come with two units
        memcpy(to, event->payload, (size_t)f->bytes);
    *mark = 1;
    comm_release(w->comm, event);
    return BG_OK;
}

// ---- Everything ----

static void keep_early(struct worker *w, const struct comm_event *event)
{
    if (w->early_count == w->early_capacity) {
        w->early_capacity = w->early_capacity ? 2 * w->early_capacity : 64;
        w->early = bg_realloc_array(w->early, w->early_capacity, sizeof *w->early);
    }
    w->early[w->early_count++] = *event;
}

bg_status worker_take_value(struct worker *w, struct comm_event *event, struct bg_error *err)
{
    const struct wire_frame *f = &event->frame;
    const bool ours = f->generation == w->generation && f->job == w->job_id;
    if (ours && (!w->running || !w->linked || f->step > w->version)) { // the generation may go back to an older step
        keep_early(w, event);
        return BG_OK;
    }
    if (!ours || f->step < w->version) {
        refuse(w, event);
        return BG_OK;
    }
    if (w->voted) { // a copy of what we had already; its sender may have begun the next step and write there
        w->duplicates++;
        comm_release(w->comm, event);
        return BG_OK;
    }
    if (wire_check(event->payload, (size_t)f->bytes) != f->check)
        return bad_frame(w, event, err);
    env_point(w->env, "after-receive");
    switch (f->kind) {
    case WIRE_ACTIVATION:
    case WIRE_GRADIENT:
        return take_boundary(w, event, err);
    case WIRE_PART:
        return worker_take_part(w, event, err);
    case WIRE_ROOT:
        return worker_take_root(w, event, err);
    case WIRE_STATE:
        return take_state(w, event);
    default:
        refuse(w, event);
        return BG_OK;
    }
}

bg_status worker_take_early(struct worker *w, struct bg_error *err)
{
    size_t count = w->early_count;
    bg_status status = BG_OK;
    w->early_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct comm_event event = w->early[i]; // taking may keep it again, at a place that we have read
        if (status)
            comm_release(w->comm, &event);
        else
            status = worker_take_value(w, &event, err);
    }
    return status;
}
