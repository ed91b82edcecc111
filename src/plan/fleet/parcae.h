// Parcae's look-ahead (NSDI'24, section 5): the shape for the next interval with which the samples of it and of some
// intervals to come, each with the machines that are forecast for it, are the most: an exact dynamic programme over
// (interval, shape). What a change takes is time not trained; more than an interval of it runs on into the next one.
#ifndef PLAN_PARCAE_H
#define PLAN_PARCAE_H

#include "plan/fleet/liveput.h"

// left: what stands now on `nodes` machines. forecast: (ahead) machines at the intervals after this one. `expected`:
// NULL, or the samples of the best sequence. Of equal choices the first shape.
struct plan_fleet_shape plan_parcae_choose(struct plan_liveput *liveput, const struct plan_fleet_left *left,
                                           uint32_t nodes, const uint32_t *forecast, uint32_t ahead, double *expected);

#endif
