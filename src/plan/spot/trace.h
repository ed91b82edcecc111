// Traces: machines that came and went, requests that came in. Reading and writing of three formats, cleaning, changing,
// and what can be said of one. Pure: text in, text out.
//   counts    {"metadata": {"gap_seconds": 600}, "data": [1, 0, ...]}: spot instances there, or still there, at ticks
//   events    "ms,add|remove,node", a line each
//   requests  "TIMESTAMP,ContextTokens,GeneratedTokens", then "2023-11-16 18:17:03.9799600,4808,10"; columns in any
//             order, others between them
#ifndef PLAN_TRACE_H
#define PLAN_TRACE_H

#include "base/str.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum plan_trace_kind { PLAN_TRACE_COUNTS, PLAN_TRACE_EVENTS, PLAN_TRACE_REQUESTS };
enum { PLAN_TRACE_MAX = 10000000 }; // entries

struct plan_trace_event {
    uint64_t ms;
    uint32_t node; // of plan_trace.nodes
    bool add;
};
struct plan_trace_request {
    int64_t at_ns; // since 1970
    uint32_t prompt, generated;
};

struct plan_trace {
    enum plan_trace_kind kind;
    size_t count;
    double gap_s; // of counts
    uint32_t *counts;
    struct plan_trace_event *events; // by time; equal times in their order
    struct bg_strlist nodes;
    struct plan_trace_request *requests; // by time
    // What was mended. Lines are of the first such entry, from 1; 0 where there was none.
    size_t moved, moved_line;     // entries earlier than one before them, put where they belong
    size_t dropped, dropped_line; // events that add a node that is there or remove one that is not
};

// Any of the three, told apart by how it begins. `name` stands in errors.
BG_MUST_USE bg_status plan_trace_parse(const char *name, const void *text, size_t size, struct bg_error *err,
                                       struct plan_trace *trace);
void plan_trace_fini(struct plan_trace *trace);
char *plan_trace_format(const struct plan_trace *trace); // bg_free it; what is read back is the same
const char *plan_trace_kind_name(enum plan_trace_kind kind);

// ---- Changes, in place ----

// Keeps a request, or a machine with all that happens to it, with probability `keep`; the same ones for a seed.
void plan_trace_thin(struct plan_trace *trace, double keep, uint64_t seed);
// Time from the beginning is multiplied: 0.1 is ten times as fast. BG_INVALID where the times do not fit any more.
BG_MUST_USE bg_status plan_trace_scale_time(struct plan_trace *trace, double factor, struct bg_error *err);
// `factor` times the requests in the same time, as in TraceUpscaler (Sajal et al., EuroSys'24): arrivals and data go
// apart. Where k requests had come there are now factor * k, evenly between two old arrivals, so that patterns stay, of
// the day and of the burst; the data is the old list, from its beginning again when it is used up.
BG_MUST_USE bg_status plan_trace_upscale(struct plan_trace *trace, double factor, struct bg_error *err);
// Events as counts, seen every gap_s seconds; counts as events of node1, node2, ... where the last to come goes first.
BG_MUST_USE bg_status plan_trace_to_counts(struct plan_trace *trace, double gap_s, struct bg_error *err);
BG_MUST_USE bg_status plan_trace_to_events(struct plan_trace *trace, struct bg_error *err);

// ---- What it says ----

struct plan_trace_spread {
    double mean;
    uint32_t p50, p90, p99, max;
};
struct plan_trace_stats {
    double seconds;
    // Machines; "up" is a time with at least `least` of them.
    double live_mean, availability, up_mean_s, down_mean_s;
    uint32_t live_min, live_max, up_runs, down_runs;
    uint32_t nodes, adds, removes; // of counts: by how much they rose and fell
    // Requests
    double rate, cv; // a second; standard deviation of the times between arrivals over their mean
    struct plan_trace_spread prompt, generated;
};
void plan_trace_tell(const struct plan_trace *trace, uint32_t least, struct plan_trace_stats *stats);

// Calls fn for every stretch of time [from_s, to_s) with the same number of machines; not for requests.
typedef void (*plan_trace_live_fn)(void *arg, double from_s, double to_s, uint32_t live);
void plan_trace_each_live(const struct plan_trace *trace, plan_trace_live_fn fn, void *arg);
double plan_trace_seconds(const struct plan_trace *trace);

#endif
