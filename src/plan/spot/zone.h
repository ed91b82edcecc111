// Zones: where a gang is rented once a deadline policy has said what. Each has machines of its own that come and go,
// and prices of its own; a gang is in one of them. Whoever moves starts anew, and pays the overhead.
#ifndef PLAN_ZONE_H
#define PLAN_ZONE_H

#include "plan/spot/policy.h"

// The zone for instances of that kind: the one in which they are held, while it has them; else the cheapest that has,
// of equal ones the first. PLAN_NOWHERE: none has, or nothing is to be rented.
uint32_t plan_zone_choose(const struct plan_snapshot *now, enum plan_rent rent);
// Into job.price: where each kind would be rented now; of spot that nowhere is, the lowest.
void plan_zone_set_prices(struct plan_snapshot *now);

// ---- As they were ----

struct plan_zone_trace {
    const char *name;
    const uint32_t *spot; // (ticks)
    double price[PLAN_RENTS];
    const double *spot_price; // (ticks) instead of price[PLAN_RENT_SPOT]; NULL: that, always
};
struct plan_zones {
    const struct plan_zone_trace *list; // (count)
    uint32_t count;
    const uint32_t *spot; // (ticks) plan_zones_together
};
struct plan_zone plan_zone_at(const struct plan_zone_trace *zone, uint32_t tick);
// The most that one of them had, tick by tick.
void plan_zones_together(const struct plan_zone_trace *zones, uint32_t count, uint32_t ticks, uint32_t *spot);

// ---- As they are given ----

#define PLAN_ZONE_NAME_MAX 40
struct plan_zone_spec {
    char name[PLAN_ZONE_NAME_MAX + 1]; // letters, digits, '.', '_' and '-', a letter or digit first
    char *trace;
    char *prices;             // a file of spot prices; NULL: none
    double price[PLAN_RENTS]; // negative: not given
};
// "NAME=TRACE[,SPOT[,ON_DEMAND]]": $ an hour, or for spot the file of a price over time.
BG_MUST_USE bg_status plan_zone_spec_parse(const char *text, struct bg_error *err, struct plan_zone_spec *spec);
void plan_zone_spec_fini(struct plan_zone_spec *spec);

// {"metadata": {"gap_seconds": 3600}, "data": [0.97, ...]}: $ an hour. `name` stands in errors; bg_free *prices.
BG_MUST_USE bg_status plan_zone_prices_parse(const char *name, const void *text, size_t size, struct bg_error *err,
                                             double *gap_s, double **prices, size_t *count);

#endif
