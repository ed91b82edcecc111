// What a trace says: how many machines for how long, how many requests and of what size.
#include "plan/spot/trace.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double plan_trace_seconds(const struct plan_trace *trace)
{
    if (!trace->count)
        return 0;
    if (trace->kind == PLAN_TRACE_COUNTS)
        return trace->gap_s * (double)trace->count;
    if (trace->kind == PLAN_TRACE_EVENTS)
        return (double)trace->events[trace->count - 1].ms / 1000;
    return (double)(trace->requests[trace->count - 1].at_ns - trace->requests[0].at_ns) / 1e9;
}

void plan_trace_each_live(const struct plan_trace *trace, plan_trace_live_fn fn, void *arg)
{
    double from_s = 0;
    uint32_t live = 0;
    if (trace->kind == PLAN_TRACE_COUNTS && trace->count)
        live = trace->counts[0];
    for (size_t i = 0; trace->kind != PLAN_TRACE_REQUESTS && i < trace->count; i++) {
        const bool events = trace->kind == PLAN_TRACE_EVENTS;
        const double at_s = events ? (double)trace->events[i].ms / 1000 : (double)i * trace->gap_s;
        const uint32_t now = !events ? trace->counts[i] : trace->events[i].add ? live + 1 : live - 1;
        if (now != live && at_s > from_s) {
            fn(arg, from_s, at_s, live);
            from_s = at_s;
        }
        live = now;
    }
    const double end_s = plan_trace_seconds(trace);
    if (trace->kind != PLAN_TRACE_REQUESTS && end_s > from_s)
        fn(arg, from_s, end_s, live);
}

struct telling {
    struct plan_trace_stats *stats;
    uint32_t least, before;
    double area, up_s;
};

static void tell_live(void *arg, double from_s, double to_s, uint32_t live)
{
    struct telling *t = arg;
    struct plan_trace_stats *s = t->stats;
    const bool first = s->up_runs + s->down_runs == 0, up = live >= t->least;
    if (first || up != (t->before >= t->least))
        (*(up ? &s->up_runs : &s->down_runs))++;
    s->live_min = first || live < s->live_min ? live : s->live_min;
    s->live_max = live > s->live_max ? live : s->live_max;
    t->before = live;
    t->area += (to_s - from_s) * live;
    t->up_s += up ? to_s - from_s : 0;
}

static void tell_machines(const struct plan_trace *trace, uint32_t least, struct plan_trace_stats *s)
{
    struct telling t = {.stats = s, .least = least};
    plan_trace_each_live(trace, tell_live, &t);
    s->live_mean = s->seconds > 0 ? t.area / s->seconds : 0;
    s->availability = s->seconds > 0 ? t.up_s / s->seconds : 0;
    s->up_mean_s = s->up_runs ? t.up_s / s->up_runs : 0;
    s->down_mean_s = s->down_runs ? (s->seconds - t.up_s) / s->down_runs : 0;
    for (size_t i = 0; i < trace->count; i++) {
        if (trace->kind == PLAN_TRACE_EVENTS) {
            s->adds += trace->events[i].add;
            s->removes += !trace->events[i].add;
        } else {
            const uint32_t before = i ? trace->counts[i - 1] : 0, now = trace->counts[i];
            s->adds += now > before ? now - before : 0;
            s->removes += now < before ? before - now : 0;
        }
    }
    s->nodes = trace->kind == PLAN_TRACE_EVENTS ? (uint32_t)trace->nodes.count : s->live_max;
}

static int by_value(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

// The smallest value that so much of the whole does not exceed.
static uint32_t part_of(const uint32_t *sorted, size_t count, double part)
{
    const size_t rank = (size_t)ceil(part * (double)count);
    return sorted[rank ? rank - 1 : 0];
}

static void spread_of(uint32_t *values, size_t count, struct plan_trace_spread *spread)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    qsort(values, count, sizeof *values, by_value);
    *spread = (struct plan_trace_spread){sum / (double)count, part_of(values, count, 0.5), part_of(values, count, 0.9),
                                         part_of(values, count, 0.99), values[count - 1]};
}

static void tell_requests(const struct plan_trace *trace, struct plan_trace_stats *s)
{
    const size_t gaps = trace->count - 1;
    const double mean = gaps ? s->seconds / (double)gaps : 0;
    double squares = 0;
    for (size_t i = 0; i < gaps; i++) {
        const double gap = (double)(trace->requests[i + 1].at_ns - trace->requests[i].at_ns) / 1e9 - mean;
        squares += gap * gap;
    }
    s->rate = mean > 0 ? 1 / mean : 0;
    s->cv = mean > 0 ? sqrt(squares / (double)gaps) / mean : 0;
    uint32_t *values = bg_alloc_array(trace->count, sizeof *values);
    for (size_t i = 0; i < trace->count; i++)
        values[i] = trace->requests[i].prompt;
    spread_of(values, trace->count, &s->prompt);
    for (size_t i = 0; i < trace->count; i++)
        values[i] = trace->requests[i].generated;
    spread_of(values, trace->count, &s->generated);
    bg_free(values);
}

void plan_trace_tell(const struct plan_trace *trace, uint32_t least, struct plan_trace_stats *stats)
{
    *stats = (struct plan_trace_stats){.seconds = plan_trace_seconds(trace)};
    if (trace->kind != PLAN_TRACE_REQUESTS)
        tell_machines(trace, least, stats);
    else if (trace->count)
        tell_requests(trace, stats);
}
