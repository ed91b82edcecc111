// When the ops of a pipeline's lists run, and what they hold meanwhile; told from the meaning of F, B and W alone, so
// that it judges every schedule.
#include "plan/schedule/schedule.h"

#include "base/mem.h"
#include "plan/plan_int.h"

#include <string.h>

struct replay {
    const struct plan_pipe *pipe;
    const struct plan_list *lists;
    uint32_t slices;
    double *f_end, *b_end; // (stages, items, slices); -1: not yet
    uint32_t *f_by, *b_by; // of the same
    uint8_t *weights;      // (stages, items): done
    size_t *head;          // (workers)
    double *clock;         // (workers)
    struct plan_schedule_time *out;
};

static size_t cell(const struct replay *r, uint32_t stage, uint32_t item)
{
    return (size_t)stage * r->pipe->items + item;
}

static size_t part(const struct replay *r, uint32_t stage, uint32_t item, uint32_t slice)
{
    return cell(r, stage, item) * r->slices + slice;
}

double plan_op_time(const struct plan_pipe *pipe, const struct plan_op *op)
{
    if (op->kind == PLAN_W)
        return pipe->weight[op->stage];
    double whole = op->kind == PLAN_F ? pipe->forward[op->stage] : pipe->input[op->stage];
    if (op->flags & PLAN_FUSED)
        whole += pipe->weight[op->stage];
    return pipe->slices > 1 ? whole / pipe->slices : whole;
}

static void wait_for(const struct replay *r, uint32_t w, double end, uint32_t by, double *start)
{
    const double there = by == w ? end : end + r->pipe->comm;
    *start = there > *start ? there : *start;
}

// Is all there that the op needs? Then *start is no earlier than that.
static bool ready(const struct replay *r, uint32_t w, const struct plan_op *op, double *start)
{
    const size_t here = part(r, op->stage, op->item, op->slice), next = (size_t)r->pipe->items * r->slices;
    if (op->kind == PLAN_F) {
        if ((op->slice > 0 && r->f_end[here - 1] < 0) || (op->stage > 0 && r->f_end[here - next] < 0))
            return false;
        if (op->stage > 0)
            wait_for(r, w, r->f_end[here - next], r->f_by[here - next], start);
        return true;
    }
    if (op->kind == PLAN_W)
        return r->b_end[part(r, op->stage, op->item, 0)] >= 0;
    if (r->f_end[here] < 0 || (op->slice + 1u < r->slices ? r->b_end[here + 1] < 0
                                                          : r->f_end[part(r, op->stage, op->item, r->slices - 1)] < 0))
        return false;
    if (op->stage + 1u == r->pipe->stages)
        return true;
    if (r->b_end[here + next] < 0)
        return false;
    wait_for(r, w, r->b_end[here + next], r->b_by[here + next], start);
    return true;
}

static bool known(const struct replay *r, const struct plan_op *op)
{
    return op->kind <= PLAN_W && op->stage < r->pipe->stages && op->item < r->pipe->items && op->slice < r->slices &&
           (op->kind == PLAN_W
                ? op->slice == 0 && !r->weights[cell(r, op->stage, op->item)]
                : (op->kind == PLAN_F ? r->f_end : r->b_end)[part(r, op->stage, op->item, op->slice)] < 0);
}

static bg_status fault(const struct replay *r, uint32_t w, const char *what, struct bg_error *err)
{
    char text[PLAN_OP_TEXT];
    plan_op_text(&r->lists[w].ops[r->head[w]], text);
    return bg_fail(err, BG_INVALID, "schedule: worker %u, op %zu (%s): %s", w, r->head[w], text, what);
}

// Runs worker w until it has to wait.
static bg_status advance(struct replay *r, uint32_t w, bool *moved, struct bg_error *err)
{
    const struct plan_list *list = &r->lists[w];
    for (; r->head[w] < list->count; ++r->head[w]) {
        const struct plan_op *op = &list->ops[r->head[w]];
        double start = r->clock[w];
        if (!known(r, op))
            return fault(r, w, "out of range, or there twice", err);
        if (!ready(r, w, op, &start))
            return BG_OK;
        const double end = start + plan_op_time(r->pipe, op);
        const size_t here = part(r, op->stage, op->item, op->slice);
        *moved = true;
        if (r->head[w] == 0)
            r->out->first[w] = start;
        r->out->starts[w][r->head[w]] = start;
        r->out->busy[w] += plan_op_time(r->pipe, op);
        r->out->last[w] = r->clock[w] = end;
        if (op->kind == PLAN_W || (op->flags & PLAN_FUSED))
            r->weights[cell(r, op->stage, op->item)] = 1;
        if (op->kind == PLAN_W)
            continue;
        (op->kind == PLAN_F ? r->f_end : r->b_end)[here] = end;
        (op->kind == PLAN_F ? r->f_by : r->b_by)[here] = w;
    }
    return BG_OK;
}

static bg_status run(struct replay *r, struct bg_error *err)
{
    bg_status status = BG_OK;
    for (bool moved = true; moved && !status;) {
        moved = false;
        for (uint32_t w = 0; w < r->pipe->workers && !status; w++)
            status = advance(r, w, &moved, err);
    }
    for (uint32_t w = 0; w < r->pipe->workers && !status; w++)
        if (r->head[w] < r->lists[w].count)
            status = fault(r, w, "waits for ever", err);
    for (uint32_t s = 0; s < r->pipe->stages && !status; s++)
        for (uint32_t i = 0; i < r->pipe->items && !status; i++)
            if (!r->weights[cell(r, s, i)])
                status = bg_fail(err, BG_INVALID, "schedule: nobody computes %uW%u", s, i);
    return status;
}

static void sum_up(const struct replay *r, struct plan_schedule_time *out)
{
    double begin = -1, end = 0;
    for (uint32_t w = 0; w < r->pipe->workers; w++) {
        if (r->lists[w].count == 0)
            continue;
        const double span = out->last[w] - out->first[w];
        begin = begin < 0 || out->first[w] < begin ? out->first[w] : begin;
        end = out->last[w] > end ? out->last[w] : end;
        if (span > out->span) {
            out->span = span;
            out->longest = w;
        }
        out->peak[w] = plan_list_peak(&r->lists[w], r->slices);
    }
    out->makespan = end - (begin > 0 ? begin : 0);
    out->bubble = out->span - out->busy[out->longest];
}

bg_status plan_schedule_replay(const struct plan_pipe *pipe, const struct plan_list *lists, struct bg_error *err,
                               struct plan_schedule_time *time)
{
    const uint32_t slices = pipe->slices > 1 ? pipe->slices : 1, workers = pipe->workers;
    const size_t cells = (size_t)pipe->stages * pipe->items, parts = cells * slices;
    struct plan_schedule_time out = {.starts = bg_alloc_array(workers, sizeof *out.starts),
                                     .first = bg_alloc_array(workers, sizeof *out.first),
                                     .last = bg_alloc_array(workers, sizeof *out.last),
                                     .busy = bg_alloc_array(workers, sizeof *out.busy),
                                     .peak = bg_alloc_array(workers, sizeof *out.peak),
                                     .workers = workers};
    struct replay r = {.pipe = pipe,
                       .lists = lists,
                       .slices = slices,
                       .f_end = bg_alloc_array(parts, sizeof *r.f_end),
                       .b_end = bg_alloc_array(parts, sizeof *r.b_end),
                       .f_by = bg_alloc_array(parts, sizeof *r.f_by),
                       .b_by = bg_alloc_array(parts, sizeof *r.b_by),
                       .weights = bg_alloc_array(cells, 1),
                       .head = bg_alloc_array(workers, sizeof *r.head),
                       .clock = bg_alloc_array(workers, sizeof *r.clock),
                       .out = &out};
    for (size_t i = 0; i < parts; i++)
        r.f_end[i] = r.b_end[i] = -1;
    for (uint32_t w = 0; w < workers; w++)
        out.starts[w] = bg_alloc_array(lists[w].count, sizeof *out.starts[w]);
    bg_status status = run(&r, err);
    if (status) {
        plan_schedule_time_fini(&out);
    } else {
        sum_up(&r, &out);
        *time = out;
    }
    void *all[] = {r.f_end, r.b_end, r.f_by, r.b_by, r.weights, r.head, r.clock};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        bg_free(all[i]);
    return status;
}

void plan_schedule_time_fini(struct plan_schedule_time *time)
{
    for (uint32_t w = 0; w < time->workers; w++)
        bg_free(time->starts[w]);
    void *parts[] = {time->starts, time->first, time->last, time->busy, time->peak};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        bg_free(parts[i]);
    *time = (struct plan_schedule_time){0};
}

double plan_list_peak(const struct plan_list *list, uint32_t slices)
{
    uint64_t held = 0, most = 0; // in slices
    slices = slices > 1 ? slices : 1;
    for (size_t i = 0; i < list->count; i++) {
        const struct plan_op *op = &list->ops[i];
        if (op->kind == PLAN_F)
            held++;
        else if (op->kind == PLAN_W || (op->kind == PLAN_B && (op->flags & PLAN_FUSED)))
            held -= slices < held ? slices : held;
        most = held > most ? held : most;
    }
    return (double)most / slices;
}
