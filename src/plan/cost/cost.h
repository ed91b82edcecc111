// What units cost at shapes that nobody measured: times at some numbers of rows (tokens) and some widths, and what lies
// between and beyond. Over rows times lie on straight lines between neighbours (fixed costs and a rate) and are
// proportional beyond the last; over widths the time of a unit of work is a power of the width between neighbours, and
// stays what it is beyond the outermost.
#ifndef PLAN_COST_H
#define PLAN_COST_H

#include "plan/cost/profile.h"

#include <stdbool.h>

enum { PLAN_COST_PARTS = 3, PLAN_COST_SAMPLES_MAX = 256 }; // forward, backward for the input, for the weights
struct plan_cost_sample {
    enum plan_unit_kind kind;
    double rows, width;
    double work;                     // of one row, in the same unit for every width of a kind (flops, bytes)
    double seconds[PLAN_COST_PARTS]; // of all rows
};
struct plan_costs {
    struct plan_cost_sample samples[PLAN_COST_SAMPLES_MAX];
    uint32_t count;
};
// False where there is no room, or what is given is no sample (rows, width, work > 0; seconds >= 0; all finite).
bool plan_cost_add(struct plan_costs *costs, const struct plan_cost_sample *sample);
// sample: kind, rows, width, work are given, seconds filled. False where no sample is of this kind.
bool plan_cost_at(const struct plan_costs *costs, struct plan_cost_sample *sample);

#endif
