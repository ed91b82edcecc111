// Oobleck ("Oobleck: Resilient Distributed Training of Large Models Using Pipeline Templates", SOSP'23, section 4): all
// machines always work, in replicas of two neighbouring depths; layers move to whoever lacks them. Here the templates
// are those of n and n + 1 machines, and the number of replicas the one that is fastest.
#include "plan/fleet/fleet_int.h"

static struct plan_fleet_shape decide(const struct plan_fleet_snapshot *now)
{
    const struct plan_fleet *fleet = now->fleet;
    const uint32_t nodes = fleet_nodes_now(now);
    struct plan_fleet_shape best = {0};
    double most = 0;
    for (uint32_t d = 1; d * fleet->stages_min <= nodes; d++) {
        const struct plan_fleet_shape shape = {d, nodes / d, nodes % d};
        const double rate = plan_fleet_rate(fleet, shape);
        if (rate > most) {
            most = rate;
            best = shape;
        }
    }
    return best;
}

const struct plan_fleet_policy plan_fleet_oobleck = {
    "oobleck", "every machine in a replica, of one depth or the next; layers move", PLAN_FLEET_LIVE, false, decide};
