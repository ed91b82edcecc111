// The registry of fleet policies. One line a policy; its file fleet_x.c defines plan_fleet_x.
#ifndef PLAN_FLEET_INT_H
#define PLAN_FLEET_INT_H

#include "plan/fleet/fleet.h"

#define PLAN_FLEET_POLICIES(X)                                                                                         \
    X(throughput_optimal)                                                                                              \
    X(parcae)                                                                                                          \
    X(parcae_steady)                                                                                                   \
    X(parcae_ideal)                                                                                                    \
    X(varuna)                                                                                                          \
    X(bamboo)                                                                                                          \
    X(oobleck)

#define DECLARE(name) extern const struct plan_fleet_policy plan_fleet_##name;
PLAN_FLEET_POLICIES(DECLARE)
#undef DECLARE

static inline uint32_t fleet_nodes_now(const struct plan_fleet_snapshot *now)
{
    const uint32_t nodes = now->counts[now->count - 1], most = now->fleet->options.nodes_max;
    return nodes < most ? nodes : most;
}

#endif
