// Liveput, the throughput that is expected to survive (Parcae, NSDI'24, section 4): which machines go is drawn
// uniformly, a shape earns what is left of it; and what a change from one shape to another costs in the mean when some
// of the machines have just gone. Drawn by our seed: the same question always has the same answer.
#ifndef PLAN_LIVEPUT_H
#define PLAN_LIVEPUT_H

#include "plan/fleet/fleet.h"

struct plan_liveput; // remembers the costs that were asked for; one thread at a time

struct plan_liveput *plan_liveput_create(const struct plan_fleet *fleet, uint32_t draws, uint64_t seed);
void plan_liveput_destroy(struct plan_liveput *liveput);
const struct plan_fleet *plan_liveput_fleet(const struct plan_liveput *liveput);

// Shapes of up to options.nodes_max machines, all replicas alike, numbered; 0 is the one in which nothing runs. By
// machines used, then by stages.
uint32_t plan_liveput_shapes(const struct plan_liveput *liveput);
struct plan_fleet_shape plan_liveput_shape(const struct plan_liveput *liveput, uint32_t index);
uint32_t plan_liveput_fitting(const struct plan_liveput *liveput, uint32_t nodes); // the first so many fit

// Mean seconds to go from shape `from`, which stands on the first of `nodes` machines, replica by replica, to shape
// `to` when `lost` of the machines, drawn uniformly, have gone.
double plan_liveput_cost(struct plan_liveput *liveput, uint32_t nodes, uint32_t lost, uint32_t from, uint32_t to);

// Mean samples per second of `shape` on `nodes` machines once `lost` of them have gone, and the replicas that can be
// put together from the rest without moving state go on.
double plan_liveput_rate(const struct plan_liveput *liveput, struct plan_fleet_shape shape, uint32_t nodes,
                         uint32_t lost);

#endif
