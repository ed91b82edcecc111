// Traces changed: thinned, stretched, upscaled, events to counts and back, and as text.
#include "plan/spot/trace.h"

#include "base/mem.h"
#include "base/philox.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// ---- Thinning ----

struct lot {
    struct bg_philox_key key;
    double keep;
};

static bool is_kept(const struct lot *lot, size_t index)
{
    const struct bg_philox_counter drawn =
        bg_philox((struct bg_philox_counter){{(uint32_t)index, (uint32_t)((uint64_t)index >> 32)}}, lot->key);
    return (double)drawn.c[0] < lot->keep * 0x1p32;
}

static void thin_counts(struct plan_trace *trace, const struct lot *lot)
{
    uint32_t most = 0;
    for (size_t t = 0; t < trace->count; t++)
        most = trace->counts[t] > most ? trace->counts[t] : most;
    if (most > PLAN_TRACE_MAX)
        most = PLAN_TRACE_MAX;
    uint32_t *kept = bg_alloc_array((size_t)most + 1, sizeof *kept); // of the first so many instances
    for (uint32_t i = 0; i < most; i++)
        kept[i + 1] = kept[i] + is_kept(lot, i);
    for (size_t t = 0; t < trace->count; t++)
        trace->counts[t] = kept[trace->counts[t] > most ? most : trace->counts[t]];
    bg_free(kept);
}

static void thin_events(struct plan_trace *trace, const struct lot *lot)
{
    struct bg_strlist nodes = {0};
    uint32_t *ids = bg_alloc_array(trace->nodes.count, sizeof *ids);
    for (size_t n = 0; n < trace->nodes.count; n++) {
        ids[n] = UINT32_MAX;
        if (is_kept(lot, n)) {
            ids[n] = (uint32_t)nodes.count;
            bg_strlist_add(&nodes, trace->nodes.items[n]);
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < trace->count; i++) {
        struct plan_trace_event event = trace->events[i];
        event.node = ids[event.node];
        if (event.node != UINT32_MAX)
            trace->events[kept++] = event;
    }
    bg_free(ids);
    bg_strlist_fini(&trace->nodes);
    trace->nodes = nodes;
    trace->count = kept;
}

void plan_trace_thin(struct plan_trace *trace, double keep, uint64_t seed)
{
    const struct lot lot = {{{(uint32_t)seed, (uint32_t)(seed >> 32)}}, keep};
    if (trace->kind == PLAN_TRACE_COUNTS) {
        thin_counts(trace, &lot);
    } else if (trace->kind == PLAN_TRACE_EVENTS) {
        thin_events(trace, &lot);
    } else {
        size_t kept = 0;
        for (size_t i = 0; i < trace->count; i++)
            if (is_kept(&lot, i))
                trace->requests[kept++] = trace->requests[i];
        trace->count = kept;
    }
}

// ---- Time ----

bg_status plan_trace_scale_time(struct plan_trace *trace, double factor, struct bg_error *err)
{
    const double seconds = plan_trace_seconds(trace) * factor;
    if (!(factor > 0) || !(seconds <= 1e9) ||
        (trace->kind == PLAN_TRACE_COUNTS && !(trace->gap_s * factor >= 1e-3 && trace->gap_s * factor <= 1e9)))
        return bg_fail(err, BG_INVALID,
                       "time cannot be scaled by %g: expected a factor above 0 after which the trace "
                       "takes less than 1e9 s and a tick at least 1 ms",
                       factor);
    trace->gap_s *= factor;
    for (size_t i = 0; trace->kind == PLAN_TRACE_EVENTS && i < trace->count; i++)
        trace->events[i].ms = (uint64_t)llround((double)trace->events[i].ms * factor);
    for (size_t i = 1; trace->kind == PLAN_TRACE_REQUESTS && i < trace->count; i++) {
        const int64_t first = trace->requests[0].at_ns;
        trace->requests[i].at_ns = first + llround((double)(trace->requests[i].at_ns - first) * factor);
    }
    return BG_OK;
}

bg_status plan_trace_upscale(struct plan_trace *trace, double factor, struct bg_error *err)
{
    if (trace->kind != PLAN_TRACE_REQUESTS)
        return bg_fail(err, BG_INVALID, "only requests can be upscaled: this trace holds %s",
                       plan_trace_kind_name(trace->kind));
    if (!(factor >= 1) || (double)trace->count * factor > PLAN_TRACE_MAX)
        return bg_fail(err, BG_INVALID,
                       "%zu requests cannot be upscaled by %g: expected a factor of 1 or more and at "
                       "most %d requests in the end",
                       trace->count, factor, PLAN_TRACE_MAX);
    if (!trace->count)
        return BG_OK;
    const struct plan_trace_request *old = trace->requests;
    const size_t last = trace->count - 1, count = (size_t)floor((double)last * factor) + 1;
    struct plan_trace_request *requests = bg_alloc_array(count, sizeof *requests);
    for (size_t k = 0; k < count; k++) {
        const double place = fmin((double)k / factor, (double)last); // among the old arrivals
        const size_t i = (size_t)place;
        const double part = place - (double)i;
        requests[k] = old[k % trace->count];
        requests[k].at_ns = old[i].at_ns;
        if (i < last)
            requests[k].at_ns += llround(part * (double)(old[i + 1].at_ns - old[i].at_ns));
    }
    bg_free(trace->requests);
    trace->requests = requests;
    trace->count = count;
    return BG_OK;
}

// ---- Events and counts ----

bg_status plan_trace_to_counts(struct plan_trace *trace, double gap_s, struct bg_error *err)
{
    if (trace->kind == PLAN_TRACE_COUNTS)
        return BG_OK;
    if (trace->kind != PLAN_TRACE_EVENTS)
        return bg_fail(err, BG_INVALID, "requests are no machines: there is nothing to count at each tick");
    const double ticks = floor(plan_trace_seconds(trace) / gap_s) + 1;
    if (!(gap_s >= 1e-3 && gap_s <= 1e9) || !(ticks <= PLAN_TRACE_MAX))
        return bg_fail(err, BG_INVALID, "ticks of %g s: expected at least 1 ms and at most %d of them", gap_s,
                       PLAN_TRACE_MAX);
    const size_t count = (size_t)ticks;
    uint32_t *counts = bg_alloc_array(count, sizeof *counts), live = 0;
    for (size_t t = 0, i = 0; t < count; t++) {
        for (; i < trace->count && (double)trace->events[i].ms <= (double)t * gap_s * 1000; i++)
            live += trace->events[i].add ? 1 : UINT32_MAX; // modulo 2^32
        counts[t] = live;
    }
    bg_free(trace->events);
    bg_strlist_fini(&trace->nodes);
    trace->events = NULL;
    trace->kind = PLAN_TRACE_COUNTS;
    trace->counts = counts;
    trace->count = count;
    trace->gap_s = gap_s;
    return BG_OK;
}

bg_status plan_trace_to_events(struct plan_trace *trace, struct bg_error *err)
{
    if (trace->kind == PLAN_TRACE_EVENTS)
        return BG_OK;
    if (trace->kind != PLAN_TRACE_COUNTS)
        return bg_fail(err, BG_INVALID, "requests are no machines: they neither come nor go");
    uint64_t count = 0;
    uint32_t most = 0;
    for (size_t t = 0; t < trace->count; t++) {
        const uint32_t before = t ? trace->counts[t - 1] : 0, now = trace->counts[t];
        count += now > before ? now - before : before - now;
        most = now > most ? now : most;
    }
    if (count > PLAN_TRACE_MAX)
        return bg_fail(err, BG_INVALID, "these counts would be %llu events: more than %d", (unsigned long long)count,
                       PLAN_TRACE_MAX);
    struct plan_trace_event *events = bg_alloc_array((size_t)count, sizeof *events);
    size_t made = 0;
    uint32_t live = 0;
    for (size_t t = 0; t < trace->count; t++) {
        const uint64_t ms = (uint64_t)llround((double)t * trace->gap_s * 1000);
        for (; live < trace->counts[t]; live++)
            events[made++] = (struct plan_trace_event){ms, live, true};
        for (; live > trace->counts[t]; live--)
            events[made++] = (struct plan_trace_event){ms, live - 1, false};
    }
    for (uint32_t n = 0; n < most; n++) {
        char name[32];
        snprintf(name, sizeof name, "node%u", n + 1);
        bg_strlist_add(&trace->nodes, name);
    }
    bg_free(trace->counts);
    trace->counts = NULL;
    trace->kind = PLAN_TRACE_EVENTS;
    trace->events = events;
    trace->count = made;
    return BG_OK;
}

// ---- Text ----

// "2023-11-16 18:17:03.9799600": as long as it needs, at least the seven decimals that are usual.
static void add_time(struct bg_str *text, int64_t at_ns)
{
    const int64_t second = 1000000000, day = 86400 * second;
    const int64_t days = at_ns / day + 719468, ns = at_ns % day; // since 0000-03-01; years end with February
    const int64_t cycle = days / 146097, of_cycle = days % 146097;
    const int64_t year = (of_cycle - of_cycle / 1460 + of_cycle / 36524 - of_cycle / 146096) / 365;
    const int64_t of_year = of_cycle - (365 * year + year / 4 - year / 100), month = (5 * of_year + 2) / 153;
    const int64_t date = of_year - (153 * month + 2) / 5 + 1;
    bg_str_addf(text, "%04lld-%02lld-%02lld %02lld:%02lld:%02lld.%07lld", (long long)(400 * cycle + year + (month > 9)),
                (long long)(month > 9 ? month - 9 : month + 3), (long long)date, (long long)(ns / (3600 * second)),
                (long long)(ns / (60 * second) % 60), (long long)(ns / second % 60), (long long)(ns % second / 100));
    if (ns % 100)
        bg_str_addf(text, "%02lld", (long long)(ns % 100));
}

char *plan_trace_format(const struct plan_trace *trace)
{
    struct bg_str text = {0};
    if (trace->kind == PLAN_TRACE_COUNTS) {
        bg_str_addf(&text, "{\"metadata\": {\"gap_seconds\": %.17g}, \"data\": [", trace->gap_s);
        for (size_t t = 0; t < trace->count; t++)
            bg_str_addf(&text, "%s%u", t ? ", " : "", trace->counts[t]);
        bg_str_add(&text, "]}\n");
    }
    for (size_t i = 0; trace->kind == PLAN_TRACE_EVENTS && i < trace->count; i++)
        bg_str_addf(&text, "%llu,%s,%s\n", (unsigned long long)trace->events[i].ms,
                    trace->events[i].add ? "add" : "remove", trace->nodes.items[trace->events[i].node]);
    if (trace->kind == PLAN_TRACE_REQUESTS)
        bg_str_add(&text, "TIMESTAMP,ContextTokens,GeneratedTokens\n");
    for (size_t i = 0; trace->kind == PLAN_TRACE_REQUESTS && i < trace->count; i++) {
        add_time(&text, trace->requests[i].at_ns);
        bg_str_addf(&text, ",%u,%u\n", trace->requests[i].prompt, trace->requests[i].generated);
    }
    return bg_str_take(&text);
}
