// Requests on replicas between two decisions. One line for all: the longest waiting goes to the ready replica with the
// fewest requests, of equal ones the oldest. A replica has a clock of steps: it stands while prompts are computed, and
// goes the slower the more requests it serves; a request is done when the clock has made as many steps as it has
// tokens.
#include "plan/service/service_int.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

static struct service_request request_of(const struct service_queue *q, uint64_t index)
{
    const struct plan_trace *trace = q->job->requests;
    const struct plan_trace_request *from = trace->requests, *last = from + trace->count - 1;
    // The list begins again one mean gap after its end.
    const double span_s = (double)(last->at_ns - from->at_ns) / 1e9 * (1 + 1.0 / (double)trace->count);
    const struct plan_trace_request *r = from + index % trace->count;
    const double at_s = (double)(r->at_ns - from->at_ns) / 1e9 + span_s * (double)(index / trace->count);
    return (struct service_request){at_s / q->job->speed, r->prompt, r->generated};
}

static double step_s(const struct service_queue *q, const struct service_replica *r)
{
    return q->job->model.step_s + q->job->model.extra_s * r->running_count;
}

static void advance(const struct service_queue *q, struct service_replica *r, double to_s)
{
    const double from_s = fmax(r->now_s, r->busy_until_s);
    if (to_s > from_s && r->running_count)
        r->tokens += (to_s - from_s) / step_s(q, r);
    r->now_s = fmax(r->now_s, to_s);
}

// When the first of its requests is done, and which.
static double done_at(const struct service_queue *q, const struct service_replica *r, uint32_t *which)
{
    if (!r->running_count)
        return INFINITY;
    uint32_t first = 0;
    for (uint32_t i = 1; i < r->running_count; i++)
        if (r->running[i].until < r->running[first].until)
            first = i;
    *which = first;
    return fmax(r->now_s, r->busy_until_s) + fmax(0, r->running[first].until - r->tokens) * step_s(q, r);
}

static void finish(struct service_queue *q, struct service_replica *r, uint32_t which, double now_s)
{
    advance(q, r, now_s);
    const struct service_request request = request_of(q, r->running[which].request);
    q->first_token_s[q->served] = r->running[which].first_s;
    q->latency_s[q->served++] = (float)(now_s - request.at_s);
    r->running[which] = r->running[--r->running_count];
}

// ---- The line ----

static void wait_in_line(struct service_queue *q, uint32_t request)
{
    if (q->waiting_count == q->room) {
        const uint32_t room = q->room ? 2 * q->room : 1024;
        uint32_t *waiting = bg_alloc_array(room, sizeof *waiting);
        for (uint32_t i = 0; i < q->waiting_count; i++)
            waiting[i] = q->waiting[(q->first + i) % q->room];
        bg_free(q->waiting);
        q->waiting = waiting;
        q->first = 0;
        q->room = room;
    }
    q->waiting[(q->first + q->waiting_count++) % q->room] = request;
}

static uint32_t take(struct service_queue *q)
{
    if (q->again_count)
        return q->again[--q->again_count];
    const uint32_t request = q->waiting[q->first];
    q->first = (q->first + 1) % q->room;
    q->waiting_count--;
    return request;
}

static struct service_replica *free_replica(struct service_queue *q)
{
    struct service_replica *best = NULL;
    for (uint32_t i = 0; i < q->replica_count; i++) {
        struct service_replica *r = &q->replicas[i];
        if (r->ready && r->running_count < q->job->model.slots && (!best || r->running_count < best->running_count))
            best = r;
    }
    return best;
}

static void dispatch(struct service_queue *q, double now_s)
{
    struct service_replica *r;
    while (q->again_count + q->waiting_count && (r = free_replica(q))) {
        const uint32_t index = take(q);
        const struct service_request request = request_of(q, index);
        if (now_s - request.at_s > q->job->timeout_s) {
            q->failed++;
            continue;
        }
        advance(q, r, now_s);
        r->busy_until_s = fmax(r->busy_until_s, now_s) + request.prompt / q->job->model.prompt_rate;
        const double steps = request.generated ? request.generated : 1, waited_s = r->busy_until_s - request.at_s;
        r->running[r->running_count++] = (struct service_running){index, (float)waited_s, r->tokens + steps};
    }
}

uint64_t service_queue_run(struct service_queue *q, double from_s, double to_s)
{
    uint64_t came = 0;
    dispatch(q, from_s);
    for (;;) {
        struct service_replica *first = NULL;
        uint32_t which = 0;
        double when_s = INFINITY;
        for (uint32_t i = 0; i < q->replica_count; i++) {
            uint32_t w = 0;
            const double at_s = done_at(q, &q->replicas[i], &w);
            if (at_s < when_s) {
                when_s = at_s;
                which = w;
                first = &q->replicas[i];
            }
        }
        const double next_s = q->next < q->all ? request_of(q, q->next).at_s : INFINITY;
        if (fmin(when_s, next_s) >= to_s)
            return came;
        if (when_s <= next_s) {
            finish(q, first, which, when_s);
        } else {
            wait_in_line(q, (uint32_t)q->next++);
            came++;
        }
        dispatch(q, fmin(when_s, next_s));
    }
}

// ---- Replicas ----

void service_queue_init(struct service_queue *q, const struct plan_service_job *job)
{
    *q = (struct service_queue){.job = job};
    while (q->all < UINT32_MAX && request_of(q, q->all).at_s < job->seconds)
        q->all++;
    q->latency_s = bg_alloc_array(q->all, sizeof *q->latency_s);
    q->first_token_s = bg_alloc_array(q->all, sizeof *q->first_token_s);
    q->replicas = bg_alloc_array(PLAN_SERVICE_REPLICAS_MAX, sizeof *q->replicas);
}

uint64_t service_queue_count(const struct service_queue *q, double before_s)
{
    uint64_t count = 0;
    while (count < q->all && request_of(q, count).at_s < before_s)
        count++;
    return count;
}

void service_queue_fini(struct service_queue *q)
{
    for (uint32_t i = 0; i < q->replica_count; i++)
        bg_free(q->replicas[i].running);
    bg_free(q->replicas);
    bg_free(q->waiting);
    bg_free(q->again);
    bg_free(q->latency_s);
    bg_free(q->first_token_s);
}

void service_queue_add(struct service_queue *q, uint32_t zone, double ready_at_s)
{
    struct service_running *running = bg_alloc_array(q->job->model.slots, sizeof *running);
    q->replicas[q->replica_count++] =
        (struct service_replica){.zone = zone, .ready_at_s = ready_at_s, .running = running};
}

void service_queue_ready(struct service_queue *q, uint32_t replica, double now_s)
{
    q->replicas[replica].ready = true;
    q->replicas[replica].now_s = now_s;
}

void service_queue_drop(struct service_queue *q, uint32_t replica)
{
    struct service_replica *r = &q->replicas[replica];
    for (uint32_t i = 0; i < r->running_count; i++) {
        if (q->again_count == q->again_room) {
            q->again_room = q->again_room ? 2 * q->again_room : 64;
            q->again = bg_realloc_array(q->again, q->again_room, sizeof *q->again);
        }
        uint32_t at = q->again_count++; // the one that came first stays at the end
        for (; at > 0 && q->again[at - 1] < r->running[i].request; at--)
            q->again[at] = q->again[at - 1];
        q->again[at] = r->running[i].request;
        q->restarted++;
    }
    bg_free(r->running);
    memmove(r, r + 1, (q->replica_count - replica - 1) * sizeof *r);
    q->replica_count--;
}
