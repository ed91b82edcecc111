// Traces of machines and requests. Any bytes are read or refused; what is accepted says the same again, in order, and
// every change leaves something that can be told of and read back.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/spot/trace.h"
#include "plan/spot/zone.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct plan_trace again(const struct plan_trace *trace)
{
    struct bg_error err = {0};
    struct plan_trace read;
    char *text = plan_trace_format(trace);
    BG_ASSERT(plan_trace_parse("again", text, strlen(text), &err, &read) == BG_OK);
    BG_ASSERT(read.kind == trace->kind && read.count == trace->count && !read.moved && !read.dropped);
    char *twice = plan_trace_format(&read);
    BG_ASSERT(strcmp(text, twice) == 0);
    bg_free(text);
    bg_free(twice);
    return read;
}

static void tell(const struct plan_trace *trace)
{
    struct plan_trace_stats s;
    plan_trace_tell(trace, 1, &s);
    BG_ASSERT(isfinite(s.seconds) && isfinite(s.live_mean) && isfinite(s.cv) && isfinite(s.rate));
    BG_ASSERT(s.availability >= 0 && s.availability <= 1 + 1e-9);
}

// The same bytes as a zone's prices, and as a zone.
static void take_zone(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_zone_spec spec;
    double gap_s, *prices;
    size_t count;
    if (plan_zone_prices_parse("prices", data, size, &err, &gap_s, &prices, &count) == BG_OK) {
        for (size_t i = 0; i < count; i++)
            BG_ASSERT(prices[i] >= 0 && prices[i] <= 1e6);
        bg_free(prices);
    }
    char *text = bg_strndup((const char *)data, size);
    if (plan_zone_spec_parse(text, &err, &spec) == BG_OK) {
        BG_ASSERT(spec.name[0] && spec.trace[0]);
        plan_zone_spec_fini(&spec);
    }
    bg_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_trace trace;
    take_zone(data, size);
    if (plan_trace_parse("trace", data, size, &err, &trace)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    tell(&trace);
    if (trace.count) {
        struct plan_trace copy = again(&trace);
        plan_trace_thin(&copy, 0.5, size);
        tell(&copy);
        plan_trace_fini(&copy);
        copy = again(&trace);
        if (!plan_trace_scale_time(&copy, 0.25, &err))
            tell(&copy);
        if (copy.count < 1000 && !plan_trace_upscale(&copy, 1.5, &err))
            tell(&copy);
        plan_trace_fini(&copy);
        copy = again(&trace);
        uint64_t most = 0;
        for (size_t t = 0; copy.kind == PLAN_TRACE_COUNTS && t < copy.count; t++)
            most = copy.counts[t] > most ? copy.counts[t] : most;
        if (most < 1000 && !plan_trace_to_events(&copy, &err)) {
            tell(&copy);
            if (plan_trace_seconds(&copy) < 1e6 && !plan_trace_to_counts(&copy, 1000, &err))
                tell(&copy);
        }
        plan_trace_fini(&copy);
    }
    plan_trace_fini(&trace);
    return 0;
}
