// Zones with their traces and prices, as a job's budget and `sim deadline` are given them.
#ifndef CLI_ZONES_H
#define CLI_ZONES_H

#include "base/env.h"
#include "plan/spot/trace.h"
#include "plan/spot/zone.h"

struct zones {
    uint32_t count; // 0: none
    struct plan_zone_spec specs[PLAN_ZONES_MAX];
    struct plan_trace traces[PLAN_ZONES_MAX]; // counts, all with the same tick
    double *spot_prices[PLAN_ZONES_MAX];      // (count of the trace); NULL: the spec's
    double gap_s;
    size_t ticks; // of the shortest trace
};
// `key` stands in errors. defaults: of zones that name no price, negative: they must; gap_s: for traces of events.
BG_MUST_USE bg_status zones_read(struct bg_env *env, const char *key, char *const *texts, size_t count,
                                 const double defaults[PLAN_RENTS], double gap_s, struct bg_error *err,
                                 struct zones *zones);
void zones_fini(struct zones *zones);

// A trace that has ended stays as it was at its end, and so does a price.
struct plan_zone zones_at(const struct zones *zones, uint32_t zone, size_t tick);

struct zones_window { // `ticks` of them, in memory of its own
    struct plan_zone_trace list[PLAN_ZONES_MAX];
    struct plan_zones zones;
    uint32_t *spot;
    double *prices;
};
void zones_window_init(const struct zones *zones, size_t first, uint32_t ticks, struct zones_window *window);
void zones_window_fini(struct zones_window *window);

#endif
