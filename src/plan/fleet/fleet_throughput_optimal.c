// Throughput-optimal: always the fastest shape of the machines there are, state moved between them. What Parcae
// compares liveput with (NSDI'24, section 3): it pays for every change, however short the gain.
#include "plan/fleet/fleet_int.h"

static struct plan_fleet_shape decide(const struct plan_fleet_snapshot *now)
{
    return plan_fleet_fastest(now->fleet, fleet_nodes_now(now));
}

const struct plan_fleet_policy plan_fleet_throughput_optimal = {
    "throughput-optimal", "the fastest shape of the machines there are, whatever the change takes", PLAN_FLEET_LIVE,
    false, decide};
